//! The one vocabulary of reading: a topic is a named set of keyed records.
//!
//! An agent follows topics (a snapshot, then changes), or asks for one once; both give the same records. A topic has
//! a revision of its own, so that a write to one service wakes nobody who waits for another.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Status};
use crate::command::JoinTokenInfo;
use crate::config_entry::{ConfigEntry, ConfigKind};
use crate::identity::TrustDomain;
use crate::intention::Action;
use crate::kv::{KvEntry, KvTopic};
use crate::node::Node;
use crate::service::{Instance, ServiceEntry};
use crate::{Datacenter, Namespace, NodeId, NodeName, Revision, ServiceKey, ServiceName};

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
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("nodes"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Services => f.write_str("services"),
            Self::Service(key) => write!(f, "service/{key}"),
            Self::Checks(None) => f.write_str("checks"),
            Self::Checks(Some(status)) => write!(f, "checks/{}", status.as_str()),
            Self::Config(kind, None) => write!(f, "config/{kind}"),
            Self::Config(kind, Some(name)) => write!(f, "config/{kind}/{name}"),
            Self::Mesh => f.write_str("mesh"),
            Self::Servers => f.write_str("servers"),
            Self::JoinTokens => f.write_str("join-tokens"),
            Self::Kv(topic) => topic.fmt(f),
        }
    }
}

/// One keyed fact of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large ones are the common ones")]
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
