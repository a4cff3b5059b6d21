//! The one vocabulary of reading: a topic is a named set of keyed records.
//!
//! An agent follows topics (a snapshot, then changes), or asks for one once; both give the same records. A topic has
//! a revision of its own, so that a write to one service wakes nobody who waits for another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Status};
use crate::command::JoinTokenInfo;
use crate::config_entry::{ConfigEntry, ConfigKind};
use crate::event::UserEvent;
use crate::identity::TrustDomain;
use crate::intention::Action;
use crate::kv::{KvEntry, KvTopic};
use crate::node::Node;
use crate::query::PreparedQuery;
use crate::service::{Instance, ServiceEntry};
use crate::session::Session;
use crate::txn::{TxnError, TxnRead, TxnResult};
use crate::{Datacenter, Namespace, NodeId, NodeName, Revision, ServiceKey, ServiceName, SessionId};

/// What can be followed or asked for. The records of each are named behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// Every host: `Record::Node`, keyed by name.
    Nodes,
    /// One host with what runs there: `Record::Node` (key `node`), `Record::Instance` (`instance/<id>`),
    /// `Record::Check` (`check/<id>`).
    Node(NodeName),
    /// Every service by name: `Record::ServiceSummary`.
    Services,
    /// The instances of one service: `Record::Entry`, keyed `<node>/<instance id>`.
    Service(ServiceKey),
    /// Whose address that is, of all instances that have one of their own: `Record::Instance` of the first of them,
    /// keyed `<node>/<instance id>`. It is asked for and cannot be followed.
    At(IpAddr),
    /// Every check: `Record::Check`, keyed `<node>/<check id>`; with a status, those in it.
    Checks(Option<Status>),
    /// Config entries of a kind, or the one of that name: `Record::Config`, keyed by name.
    Config(ConfigKind, Option<String>),
    /// `Record::Mesh` (key `mesh`): what every member must know.
    Mesh,
    /// Servers and where they listen: `Record::Server`, keyed by node name.
    Servers,
    /// Join tokens without their secrets: `Record::JoinToken`, keyed by id.
    JoinTokens,
    /// A part of the key-value tree: `Record::Kv`, keyed by key; of a list of keys `Record::KvKey`.
    Kv(KvTopic),
    /// The newest user events: `Record::Event`, keyed so that the order of keys is that of firing.
    Events,
    /// Prepared queries, or the one of that id: `Record::Query`, keyed by id.
    Queries(Option<uuid::Uuid>),
    /// Sessions, of all hosts or of one: `Record::Session`, keyed by id.
    Sessions(Option<NodeName>),
    /// One session: `Record::Session`, keyed by its id.
    Session(SessionId),
    /// Reads that are to be answered together: `Record::TxnResult` and `Record::TxnError`, in their order.
    Txn(Vec<TxnRead>),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("nodes"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Services => f.write_str("services"),
            Self::Service(key) => write!(f, "service/{key}"),
            Self::At(address) => write!(f, "at/{address}"),
            Self::Checks(None) => f.write_str("checks"),
            Self::Checks(Some(status)) => write!(f, "checks/{}", status.as_str()),
            Self::Config(kind, None) => write!(f, "config/{kind}"),
            Self::Config(kind, Some(name)) => write!(f, "config/{kind}/{name}"),
            Self::Mesh => f.write_str("mesh"),
            Self::Servers => f.write_str("servers"),
            Self::JoinTokens => f.write_str("join-tokens"),
            Self::Kv(topic) => topic.fmt(f),
            Self::Events => f.write_str("events"),
            Self::Queries(None) => f.write_str("queries"),
            Self::Queries(Some(id)) => write!(f, "queries/{id}"),
            Self::Sessions(None) => f.write_str("sessions"),
            Self::Sessions(Some(node)) => write!(f, "sessions/{node}"),
            Self::Session(id) => write!(f, "session/{id}"),
            Self::Txn(reads) => write!(f, "txn/{}", reads.len()),
        }
    }
}

/// One keyed fact of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Node(Node),
    Instance(Instance),
    Check(Check),
    Entry(ServiceEntry),
    ServiceSummary(ServiceSummary),
    Config(ConfigEntry),
    Mesh(MeshInfo),
    Server(ServerInfo),
    JoinToken(JoinTokenInfo),
    Kv(KvEntry),
    /// There is such a key, or (ending with the separator) there are keys that go on behind it.
    KvKey,
    Event(UserEvent),
    Query(PreparedQuery),
    Session(Session),
    TxnResult(TxnResult),
    TxnError(TxnError),
}

/// A service in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSummary {
    pub name: ServiceName,
    #[serde(default)]
    pub namespace: Namespace,
    /// Of all its instances, ordered, each once.
    pub tags: Vec<String>,
    pub instances: u32,
    /// Whether any instance is in the mesh, so that `<name>-sidecar-proxy` is listed too.
    #[serde(default)]
    pub in_mesh: bool,
}

/// What every member must know of its mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshInfo {
    pub trust_domain: TrustDomain,
    pub datacenter: Datacenter,
    /// Roots to trust, the active one first.
    pub roots: Vec<RootCertificate>,
    pub default_intention: Action,
    /// Of new leaf certificates.
    pub leaf_ttl_ms: u64,
    #[serde(default, skip_serializing_if = "Distrust::is_empty")]
    pub distrust: Distrust,
    /// What an operator set; absent: the defaults, and `leaf_ttl_ms` as the configuration has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaConfig>,
}

/// Certificates of servers that are gone, by SHA-256 as hex, though the roots still vouch for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrust {
    /// Soon to be revoked: whoever has a certificate under one of these gets another now.
    #[serde(default)]
    pub retiring: BTreeSet<String>,
    /// A chain with one of these in it is refused.
    #[serde(default)]
    pub revoked: BTreeSet<String>,
    /// Over how long all hosts together spread their requests for others, so that servers can keep up.
    #[serde(default)]
    pub spread_ms: u64,
}

impl Distrust {
    pub fn is_empty(&self) -> bool {
        self.retiring.is_empty() && self.revoked.is_empty()
    }

    /// Whether a certificate with that fingerprint should no longer be in use.
    pub fn names(&self, sha256: &str) -> bool {
        self.retiring.contains(sha256) || self.revoked.contains(sha256)
    }
}

/// Consul's figures of its built-in certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaConfig {
    pub leaf_ttl_ms: u64,
    pub intermediate_ttl_ms: u64,
    /// Kept and shown because Consul does; it acts upon nothing there either.
    pub rotation_period_ms: u64,
}

impl CaConfig {
    pub const INTERMEDIATE_TTL_MS: u64 = 8_760 * 3_600_000;
    pub const ROTATION_PERIOD_MS: u64 = 2_160 * 3_600_000;
}

impl MeshInfo {
    /// The figures that are in force.
    pub fn ca_config(&self) -> CaConfig {
        self.ca.clone().unwrap_or(CaConfig {
            leaf_ttl_ms: self.leaf_ttl_ms,
            intermediate_ttl_ms: CaConfig::INTERMEDIATE_TTL_MS,
            rotation_period_ms: CaConfig::ROTATION_PERIOD_MS,
        })
    }

    pub fn active_root(&self) -> Option<&RootCertificate> {
        self.roots.iter().find(|root| root.active)
    }
}

/// A root of the mesh's CA. The private key is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCertificate {
    /// SHA-1 of the certificate as hex with colons, as Consul's root ids.
    pub id: String,
    pub name: String,
    pub pem: String,
    pub serial: String,
    pub not_before: crate::Millis,
    pub not_after: crate::Millis,
    pub active: bool,
    pub create_index: Revision,
    pub modify_index: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    pub node: NodeName,
    /// `host:port` of its QUIC endpoint.
    pub address: String,
    pub leader: bool,
    pub voter: bool,
    /// Of its host; absent in what the first release wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// The newest command level that it understands; zero in what the first release wrote, which means the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u16,
    /// The public half of its sealing key (HPKE, X25519), to which the root key is encrypted for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealing: Vec<u8>,
}

fn is_zero(level: &u16) -> bool {
    *level == 0
}

/// The records of a topic at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Of the topic: when one of its records last changed.
    pub revision: Revision,
    pub records: BTreeMap<String, Record>,
}

/// A change of one topic, or (with `reset`) all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    pub topic: Topic,
    pub revision: Revision,
    pub reset: bool,
    pub set: Vec<(String, Record)>,
    pub removed: Vec<String>,
}

impl Contents {
    /// Takes in a change; one that is older than what is here is ignored.
    pub fn absorb(&mut self, delta: Delta) {
        if delta.reset {
            self.records.clear();
        } else if delta.revision < self.revision {
            return;
        }
        self.revision = delta.revision;
        for key in &delta.removed {
            self.records.remove(key);
        }
        self.records.extend(delta.set);
    }
}
