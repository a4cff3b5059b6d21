//! Reading: a topic's records as they are now. `read` and `record` give the same records, so that a change can be
//! told by its keys alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::SealedKey;
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::session::Session;
use purlin_model::topic::{Contents, MeshInfo, Record, ServiceSummary, Topic};
use purlin_model::{CheckId, InstanceId, NodeName, ServiceKey, SessionId, limit};
use purlin_wire::rpc::Usage;

use super::State;
use super::catalog::{check_key, entry_key};
use super::mesh::KEY;

/// Tags that the list of services shows of one service: a summary must fit into a frame.
const SUMMARY_TAGS: usize = 2_048;
const _: () = assert!(SUMMARY_TAGS * limit::TAG_BYTES * 2 < limit::FRAME_BYTES);

impl State {
    /// All records of a topic, and when one last changed. Unknown things have no records.
    pub(crate) fn read(&self, topic: &Topic) -> Contents {
        let records = match topic {
            Topic::Nodes => self.read_nodes(),
            Topic::Node(name) => self.read_node(name),
            Topic::Services => self.read_services(),
            Topic::Service(key) => self.read_service(key),
            Topic::At(address) => self.read_at(address).into_iter().collect(),
            Topic::Checks(_) => self.read_checks(topic),
            Topic::Config(_, Some(name)) => self.one(topic, name),
            Topic::Config(kind, None) => self
                .entries
                .of_kind(*kind)
                .map(|(key, entry)| (key.clone(), Record::Config((**entry).clone())))
                .collect(),
            Topic::Mesh => self.one(topic, KEY),
            Topic::Servers => {
                let server =
                    |(name, info): (&NodeName, &_)| (name.to_string(), Record::Server(Clone::clone(info)));
                self.mesh.servers.iter().map(server).collect()
            }
            Topic::Events => {
                self.events.iter().map(|event| (event.key(), Record::Event(event.clone()))).collect()
            }
            Topic::Queries(Some(id)) => self.one(topic, &id.to_string()),
            Topic::Queries(None) => {
                let queries = self.queries.iter();
                queries.map(|query| (query.id.to_string(), Record::Query((**query).clone()))).collect()
            }
            Topic::JoinTokens => {
                self.tokens.iter().map(|(id, token)| (id.clone(), Record::JoinToken(token.info()))).collect()
            }
            Topic::Kv(topic) => self.kv.read(topic).collect(),
            Topic::Sessions(None) => self.sessions.iter().map(session_record).collect(),
            Topic::Sessions(Some(node)) => self.sessions.of_node(node).map(session_record).collect(),
            Topic::Session(id) => self.sessions.get(id).into_iter().map(session_record).collect(),
            Topic::Txn(reads) => self.read_txn(reads).into_iter().collect(),
        };
        Contents { revision: self.revision(topic), records }
    }

    fn one(&self, topic: &Topic, key: &str) -> BTreeMap<String, Record> {
        self.record(topic, key).map(|record| (key.to_owned(), record)).into_iter().collect()
    }

    fn read_nodes(&self) -> BTreeMap<String, Record> {
        self.catalog
            .hosts
            .iter()
            .map(|(name, host)| (name.to_string(), Record::Node((*host.node).clone())))
            .collect()
    }

    fn read_node(&self, name: &NodeName) -> BTreeMap<String, Record> {
        let Some(host) = self.catalog.host(name) else { return BTreeMap::new() };
        let node = ("node".to_owned(), Record::Node((*host.node).clone()));
        let instances = host
            .instances
            .iter()
            .map(|(id, one)| (format!("instance/{id}"), Record::Instance((**one).clone())));
        let checks =
            host.checks.iter().map(|(id, one)| (format!("check/{id}"), Record::Check((**one).clone())));
        std::iter::once(node).chain(instances).chain(checks).collect()
    }

    fn read_services(&self) -> BTreeMap<String, Record> {
        let summary = |key: &ServiceKey| Some((key.to_string(), Record::ServiceSummary(self.summary(key)?)));
        self.catalog.services.keys().filter_map(summary).collect()
    }

    fn summary(&self, key: &ServiceKey) -> Option<ServiceSummary> {
        let members = self.catalog.services.get(key)?;
        Some(ServiceSummary {
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            tags: members.tags.keys().take(SUMMARY_TAGS).cloned().collect(),
            instances: u32::try_from(members.instances.len()).unwrap_or(u32::MAX),
            in_mesh: members.meshed > 0,
        })
    }

    fn read_service(&self, key: &ServiceKey) -> BTreeMap<String, Record> {
        let Some(members) = self.catalog.services.get(key) else { return BTreeMap::new() };
        let entry = |(node, id): &(NodeName, InstanceId)| {
            let entry = self.catalog.host(node)?.entry(id)?;
            Some((entry_key(node, id), Record::Entry(entry)))
        };
        members.instances.iter().filter_map(entry).collect()
    }

    fn read_at(&self, address: &IpAddr) -> Option<(String, Record)> {
        let (node, id) = self.catalog.at.get(address)?.get_min()?;
        let instance = self.catalog.host(node)?.instances.get(id)?;
        Some((entry_key(node, id), Record::Instance((**instance).clone())))
    }

    fn read_checks(&self, topic: &Topic) -> BTreeMap<String, Record> {
        let Topic::Checks(wanted) = topic else { return BTreeMap::new() };
        let hosts = self.catalog.hosts.iter();
        hosts
            .flat_map(|(name, host)| host.checks.values().map(move |check| (name, check)))
            .filter(|(_, check)| wanted.is_none_or(|status| check.status == status))
            .map(|(name, check)| (check_key(name, &check.id), Record::Check((**check).clone())))
            .collect()
    }

    /// One record of a topic; none: it is gone, or never was.
    pub(crate) fn record(&self, topic: &Topic, key: &str) -> Option<Record> {
        match topic {
            Topic::Nodes => {
                let host = self.catalog.host(&NodeName::new(key).ok()?)?;
                Some(Record::Node((*host.node).clone()))
            }
            Topic::Node(name) => self.record_of_node(name, key),
            Topic::Services => self.summary(&parse_service(key)?).map(Record::ServiceSummary),
            Topic::Service(service) => {
                let (node, id) = key.split_once('/')?;
                let entry =
                    self.catalog.host(&NodeName::new(node).ok()?)?.entry(&InstanceId::new(id).ok()?)?;
                (entry.instance.key() == *service).then_some(Record::Entry(entry))
            }
            Topic::At(address) => {
                self.read_at(address).filter(|(own, _)| own == key).map(|(_, record)| record)
            }
            Topic::Checks(wanted) => {
                let (node, id) = key.split_once('/')?;
                let host = self.catalog.host(&NodeName::new(node).ok()?)?;
                let check = host.checks.get(&CheckId::new(id).ok()?)?;
                let wanted = wanted.is_none_or(|status| check.status == status);
                wanted.then(|| Record::Check((**check).clone()))
            }
            Topic::Config(kind, name) => {
                let asked = name.as_deref().is_none_or(|name| name == key);
                let entry = self.entries.get(*kind, key).filter(|_| asked)?;
                Some(Record::Config((**entry).clone()))
            }
            Topic::Mesh => self.mesh_info().filter(|_| key == KEY).cloned().map(Record::Mesh),
            Topic::Servers => self.mesh.servers.get(&NodeName::new(key).ok()?).cloned().map(Record::Server),
            Topic::Events => self.events.get(key).cloned().map(Record::Event),
            Topic::Queries(wanted) => {
                let id = uuid::Uuid::try_parse(key).ok()?;
                let asked = wanted.is_none_or(|wanted| wanted == id);
                let query = self.queries.get(id).filter(|_| asked)?;
                Some(Record::Query((**query).clone()))
            }
            Topic::JoinTokens => self.tokens.get(key).map(|token| Record::JoinToken(token.info())),
            Topic::Kv(topic) => self.kv.record(topic, key),
            Topic::Sessions(_) | Topic::Session(_) => {
                let session = self.sessions.get(&SessionId::new(key))?;
                let asked = match topic {
                    Topic::Sessions(Some(node)) => session.node == *node,
                    Topic::Session(id) => session.id == *id,
                    _ => true,
                };
                asked.then(|| Record::Session((**session).clone()))
            }
            Topic::Txn(reads) => {
                self.read_txn(reads).into_iter().find(|(own, _)| own == key).map(|(_, record)| record)
            }
        }
    }

    fn record_of_node(&self, name: &NodeName, key: &str) -> Option<Record> {
        let host = self.catalog.host(name)?;
        if key == "node" {
            return Some(Record::Node((*host.node).clone()));
        }
        match key.split_once('/')? {
            ("instance", id) => {
                host.instances.get(&InstanceId::new(id).ok()?).map(|one| Record::Instance((**one).clone()))
            }
            ("check", id) => {
                host.checks.get(&CheckId::new(id).ok()?).map(|one| Record::Check((**one).clone()))
            }
            _ => None,
        }
    }

    pub(crate) fn mesh_info(&self) -> Option<&MeshInfo> {
        self.mesh.mesh.as_ref().map(|mesh| &mesh.info)
    }

    /// The root key as ciphertext for the server with that sealing key.
    pub(crate) fn sealed_root_key(&self, recipient: &[u8]) -> Option<&SealedKey> {
        self.mesh.mesh.as_ref()?.sealed_root_key.iter().find(|key| key.recipient == recipient)
    }

    pub(crate) fn node(&self, name: &NodeName) -> Option<&Node> {
        self.catalog.host(name).map(|host| &*host.node)
    }

    /// Every host of the mesh, which external nodes are not.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&NodeName, NodeStatus)> {
        let hosts = self.catalog.hosts.iter().filter(|(_, host)| host.node.role != NodeRole::External);
        hosts.map(|(name, host)| (name, host.node.status))
    }

    pub(crate) fn is_server(&self, name: &NodeName) -> bool {
        self.mesh.servers.contains_key(name)
    }

    /// Where that server listens.
    pub(crate) fn server_address(&self, node: &NodeName) -> Option<String> {
        self.mesh.servers.get(node).map(|server| server.address.clone())
    }

    /// Hosts that left and still have something in the catalog beside themselves.
    pub(crate) fn left_with_something(&self) -> impl Iterator<Item = &NodeName> {
        let left = self.catalog.hosts.iter().filter(|(_, host)| {
            let is_member = host.node.role != NodeRole::External;
            is_member && host.node.status == NodeStatus::Left
        });
        left.filter(|(_, host)| !host.instances.is_empty() || !host.checks.is_empty()).map(|(name, _)| name)
    }

    /// Agents that failed or left.
    pub(crate) fn gone_agents(&self) -> impl Iterator<Item = &NodeName> {
        let gone =
            self.catalog.hosts.iter().filter(|(_, host)| {
                host.node.role == NodeRole::Agent && host.node.status != NodeStatus::Alive
            });
        gone.map(|(name, _)| name)
    }

    /// Every session that must be renewed, and how often.
    pub(crate) fn renewed_sessions(&self) -> impl Iterator<Item = (&SessionId, Duration)> {
        self.sessions.iter().filter_map(|session| Some((&session.id, session.ttl()?)))
    }

    pub(crate) fn session(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(id)
    }

    /// Addresses of all servers, the leader's first.
    pub(crate) fn server_addresses(&self) -> Vec<String> {
        let mut servers: Vec<_> = self.mesh.servers.values().collect();
        servers.sort_by_key(|server| !server.leader);
        servers.into_iter().map(|server| server.address.clone()).collect()
    }

    /// Whether a node has an instance of a service that is in the mesh, so that it may have its certificate.
    pub(crate) fn runs_meshed(&self, node: &NodeName, key: &ServiceKey) -> bool {
        let Some(host) = self.catalog.host(node) else { return false };
        let Some(members) = self.catalog.services.get(key) else { return false };
        let Some((first, _)) = host.instances.get_min() else { return false };
        members
            .instances
            .range((node.clone(), first.clone())..)
            .take_while(|(of, _)| of == node)
            .filter_map(|(_, id)| host.instances.get(id))
            .any(|instance| instance.mesh.is_some() || instance.native)
    }
}

fn session_record(session: &Arc<Session>) -> (String, Record) {
    (session.id.to_string(), Record::Session((**session).clone()))
}

/// A service as its `Display` writes it.
fn parse_service(text: &str) -> Option<ServiceKey> {
    match text.split_once('/') {
        Some((namespace, name)) => Some(ServiceKey {
            namespace: purlin_model::Namespace::new(namespace).ok()?,
            name: purlin_model::ServiceName::new(name).ok()?,
        }),
        None => Some(ServiceKey::new(purlin_model::ServiceName::new(text).ok()?)),
    }
}

/// How much the tables hold, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) nodes: usize,
    pub(crate) services: usize,
    pub(crate) queries: usize,
    pub(crate) requests: usize,
    pub(crate) topics: usize,
    pub(crate) kv_keys: usize,
    pub(crate) kv_bytes: usize,
    pub(crate) kv_graves: usize,
    pub(crate) sessions: usize,
    pub(crate) lock_delays: usize,
}

impl State {
    /// As Consul counts what is used. Goes over all instances.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage {
            index: self.applied.0,
            nodes: self.catalog.hosts.len() as u64,
            services: self.catalog.services.len() as u64,
            ..Usage::default()
        };
        for instance in self.catalog.hosts.values().flat_map(|host| host.instances.values()) {
            usage.instances += 1;
            usage.meshed += u64::from(instance.mesh.is_some());
            usage.native += u64::from(instance.native);
        }
        usage
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            nodes: self.catalog.hosts.len(),
            services: self.catalog.services.len(),
            queries: self.queries.len(),
            requests: self.requests.len(),
            topics: self.touches.len(),
            kv_keys: self.kv.len(),
            kv_bytes: self.kv.bytes(),
            kv_graves: self.kv.graves(),
            sessions: self.sessions.len(),
            lock_delays: self.sessions.delays(),
        }
    }
}
