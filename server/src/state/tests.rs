//! The laws of the state, one file a subject, and the kit they share: a log that is applied as it is written.

mod authority;
mod autopilot;
mod catalog;
mod config;
mod event;
mod golden;
mod kv;
mod member;
mod query;
mod replay;
mod restore;
mod session;
mod txn;

use std::collections::BTreeMap;
use std::time::Duration;

use purlin_model::check::{Check, Status};
use purlin_model::command::{
    Actor, Command, CreateMesh, Done, Envelope, Outcome, Register, RequestId, SealedKey,
};
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ServiceDefaults};
use purlin_model::identity::TrustDomain;
use purlin_model::intention::Action;
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::service::{Instance, Mesh, Protocol, ServiceKind, Weights};
use purlin_model::topic::{Contents, Record, RootCertificate, Topic};
use purlin_model::{
    CheckId, Datacenter, FaultCode, InstanceId, Millis, Namespace, NodeId, NodeName, Revision, ServiceKey,
    ServiceName,
};

use super::{State, Touched};

/// When every test happens, unless it says otherwise.
const NOW: Millis = Millis(1_700_000_000_000);

/// A state and the log position it is at; each command is the next entry.
struct Log {
    state: State,
    next: u64,
    at: Millis,
}

impl Log {
    fn new() -> Self {
        Self { state: State::new(), next: 10, at: NOW }
    }

    fn with_mesh() -> Self {
        let mut log = Self::new();
        log.yes(Command::CreateMesh(mesh()));
        log
    }

    fn envelope(&self, command: Command) -> Envelope {
        let request = RequestId(uuid::Uuid::from_u128(u128::from(self.next)));
        Envelope { level: 1, request, actor: Actor::default(), at: self.at, command }
    }

    fn apply(&mut self, command: Command) -> (Outcome, Touched) {
        let envelope = self.envelope(command);
        let revision = Revision(self.next);
        self.next += 1;
        self.state.apply(revision, &envelope)
    }

    fn yes(&mut self, command: Command) -> Touched {
        let (outcome, touched) = self.apply(command);
        assert_eq!(outcome.result, Ok(Done::Yes));
        touched
    }

    /// The refusal's code and text; the state must not have changed by it.
    fn refused(&mut self, command: Command) -> (FaultCode, String) {
        let before = tables(&self.state);
        let (outcome, touched) = self.apply(command);
        assert_eq!(tables(&self.state), before, "a refused command changed something");
        assert!(touched.keys.is_empty());
        let fault = outcome.result.expect_err("this must be refused");
        (fault.code, fault.text)
    }

    fn read(&self, topic: &Topic) -> Contents {
        self.state.read(topic)
    }

    fn keys(&self, topic: &Topic) -> Vec<String> {
        self.read(topic).records.into_keys().collect()
    }

    fn status(&self, service: &str, key: &str) -> Status {
        match self.state.record(&Topic::Service(service_key(service)), key) {
            Some(Record::Entry(entry)) => entry.status(),
            other => panic!("no entry {key} of {service}: {other:?}"),
        }
    }
}

/// Everything but the revision and the requests, which a refusal does change.
fn tables(state: &State) -> Vec<u8> {
    State { applied: Revision(0), requests: Default::default(), touches: Default::default(), ..state.clone() }
        .encode()
}

fn node_name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node_id(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

fn service_key(text: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(text).unwrap())
}

fn node(name: &str) -> Node {
    Node {
        id: None,
        name: node_name(name),
        datacenter: Datacenter::default(),
        address: "10.0.0.1".into(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        locality: None,
        mesh_port: None,
        role: NodeRole::External,
        status: NodeStatus::Alive,
        version: String::new(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn member(name: &str, id: u128) -> Node {
    Node { id: Some(node_id(id)), role: NodeRole::Agent, mesh_port: Some(20000), ..node(name) }
}

fn instance(id: &str, name: &str) -> Instance {
    Instance {
        id: InstanceId::new(id).unwrap(),
        name: ServiceName::new(name).unwrap(),
        namespace: Namespace::default(),
        kind: ServiceKind::Typical,
        tags: vec!["v1".into()],
        meta: BTreeMap::new(),
        address: String::new(),
        port: 8080,
        ports: Vec::new(),
        socket_path: String::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        native: false,
        mesh: None,
        locality: None,
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn meshed(id: &str, name: &str) -> Instance {
    Instance { mesh: Some(Mesh::default()), ..instance(id, name) }
}

fn check(node: &str, id: &str, service: Option<&str>, status: Status) -> Check {
    Check {
        node: node_name(node),
        id: CheckId::new(id).unwrap(),
        name: id.into(),
        status,
        notes: String::new(),
        output: "ok".into(),
        service_id: service.map(|id| InstanceId::new(id).unwrap()),
        service_name: None,
        service_tags: Vec::new(),
        kind: "ttl".into(),
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn register(node: Node, instance: Option<Instance>, checks: Vec<Check>) -> Command {
    Command::Register(Register { node, skip_node_update: false, instance, checks, replace_checks: false })
}

/// Defaults of the service `web` as an operator writes them.
fn web_defaults() -> ConfigEntry {
    ConfigEntry {
        name: "web".into(),
        namespace: Namespace::default(),
        meta: BTreeMap::from([("owner".into(), "team".into())]),
        body: ConfigBody::ServiceDefaults(ServiceDefaults {
            protocol: Some(Protocol::Http),
            ..Default::default()
        }),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn mesh() -> CreateMesh {
    CreateMesh {
        trust_domain: TrustDomain("11111111-2222-3333-4444-555555555555.mesh.internal".into()),
        datacenter: Datacenter::default(),
        root: RootCertificate {
            id: "aa:bb".into(),
            name: "root".into(),
            pem: "PEM".into(),
            serial: "1".into(),
            not_before: Millis(1),
            not_after: Millis(2),
            active: true,
            create_index: Revision(0),
            modify_index: Revision(0),
        },
        sealed_root_key: vec![SealedKey {
            root: String::new(),
            node: node_name("s1"),
            recipient: vec![1],
            encapsulated: vec![2],
            ciphertext: vec![3],
        }],
        default_intention: Action::Deny,
        leaf_ttl_ms: 259_200_000,
    }
}
