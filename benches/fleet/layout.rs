//! Which instance runs where, and who calls whom: as many services as hosts, their instances on different hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purlin_agent::registry::{LocalService, LocalState, Origin};
use purlin_agent::view::wanted_topics;
use purlin_model::check::{Check, Status};
use purlin_model::service::{Instance, Mesh, Upstream};
use purlin_model::topic::Topic;
use purlin_model::txn::{Change, Txn, TxnOp};
use purlin_model::{CheckId, InstanceId, NodeName, ServiceKey, ServiceName};

/// Services that each host calls, beside the one that all call.
const UPSTREAMS: usize = 3;
/// So that what runs together on one host is another set on each.
const STRIDE: usize = 7_919;
/// The metadata by which a change is known.
const CHANGE: &str = "change";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) hosts: usize,
    pub(crate) instances: usize,
}

/// All hosts follow this one; its instance on the first host is what changes.
pub(crate) fn shared() -> anyhow::Result<ServiceKey> {
    Ok(ServiceKey::new(service(0)?))
}

fn service(index: usize) -> anyhow::Result<ServiceName> {
    Ok(ServiceName::new(format!("service-{index}"))?)
}

/// The number of the change that an instance is in.
pub(crate) fn change_of(instance: &Instance) -> Option<usize> {
    instance.meta.get(CHANGE)?.parse().ok()
}

impl Layout {
    pub(crate) fn node(host: usize) -> anyhow::Result<NodeName> {
        Ok(NodeName::new(format!("host-{host}"))?)
    }

    /// The instances of a host, each of another service.
    pub(crate) fn instances(self, host: usize) -> anyhow::Result<Vec<Instance>> {
        let rounds = (host..self.instances).step_by(self.hosts).enumerate();
        rounds.map(|(round, _)| self.instance(host, round)).collect()
    }

    fn instance(self, host: usize, round: usize) -> anyhow::Result<Instance> {
        let name = service((host + round * STRIDE) % self.hosts)?;
        // One of the host's applications calls others.
        let upstreams = if round == 0 { self.upstreams(host)? } else { Vec::new() };
        Ok(Instance {
            id: InstanceId::new(format!("{name}-{host}"))?,
            name,
            namespace: Default::default(),
            kind: Default::default(),
            tags: vec!["v1".into(), "production".into()],
            meta: BTreeMap::from([("version".into(), "1.4.2".into()), (CHANGE.into(), "0".into())]),
            address: String::new(),
            port: u16::try_from(8_000 + round).unwrap_or(8_000),
            ports: Vec::new(),
            socket_path: String::new(),
            tagged_addresses: BTreeMap::new(),
            weights: Default::default(),
            enable_tag_override: false,
            native: false,
            mesh: Some(Mesh { upstreams, ..Mesh::default() }),
            locality: None,
            create_index: Default::default(),
            modify_index: Default::default(),
        })
    }

    fn upstreams(self, host: usize) -> anyhow::Result<Vec<Upstream>> {
        let others = (1..=UPSTREAMS).map(|n| (host + n * (STRIDE + 1)) % self.hosts);
        let called: BTreeSet<usize> = std::iter::once(0).chain(others).collect();
        let upstream = |(port, name): (usize, usize)| {
            Ok(Upstream {
                name: service(name)?,
                namespace: Default::default(),
                datacenter: None,
                peer: None,
                port_name: None,
                local_bind_address: "127.0.0.1".into(),
                local_bind_port: u16::try_from(9_191 + port).unwrap_or(9_191),
                connect_timeout_ms: None,
            })
        };
        called.into_iter().enumerate().map(upstream).collect()
    }

    /// What the agent of a host follows that runs these.
    pub(crate) fn topics(node: &NodeName, instances: &[Instance]) -> BTreeSet<Topic> {
        let local = |instance: &Instance| {
            let service = LocalService { instance: Arc::new(instance.clone()), origin: Origin::Api };
            (instance.id.clone(), Arc::new(service))
        };
        let services = instances.iter().map(local).collect();
        wanted_topics(node, &LocalState { services, ..LocalState::default() }).0
    }
}

/// Registers all of them, each with a check, at once.
pub(crate) fn registration(node: &NodeName, instances: Vec<Instance>) -> anyhow::Result<Txn> {
    let mut ops = Vec::new();
    for instance in instances {
        let check = check(node, &instance)?;
        let (node, id) = (node.clone(), instance.id.clone());
        ops.push(TxnOp::Service { node: node.clone(), id, change: Change::Set(instance) });
        ops.push(TxnOp::Check { node, id: check.id.clone(), change: Change::Set(check) });
    }
    Ok(Txn { ops })
}

fn check(node: &NodeName, instance: &Instance) -> anyhow::Result<Check> {
    Ok(Check {
        node: node.clone(),
        id: CheckId::new(format!("service:{}", instance.id))?,
        name: "answers".into(),
        status: Status::Passing,
        notes: String::new(),
        output: "HTTP GET http://127.0.0.1/health: 200 OK".into(),
        service_id: Some(instance.id.clone()),
        service_name: Some(instance.name.clone()),
        service_tags: instance.tags.clone(),
        kind: "http".into(),
        interval: std::time::Duration::from_secs(10),
        timeout: std::time::Duration::from_secs(1),
        create_index: Default::default(),
        modify_index: Default::default(),
    })
}

/// The same instance, changed for the so many-th time.
pub(crate) fn changed(mut instance: Instance, number: usize) -> Instance {
    instance.meta.insert(CHANGE.into(), number.to_string());
    instance
}
