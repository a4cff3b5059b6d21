//! The view: all that one host's proxy may know, in parts that travel and are swapped in one by one.
//!
//! An agent builds it from its own registry and the topics it follows; a proxy takes it and asks nobody. It is valid
//! until the next one, so a host goes on without agent and servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::intention::Policy;
use crate::node::Locality;
use crate::service::Protocol;
use crate::{Datacenter, InstanceId, Millis, NodeName, ServiceKey};

/// The whole of it, by the key of each part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Counted by the agent; rises with each change.
    pub revision: u64,
    pub parts: BTreeMap<PartKey, Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PartKey {
    Settings,
    Credential(ServiceKey),
    Local(InstanceId),
    Listener(SocketAddr),
    Target(TargetKey),
    Policy(ServiceKey),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Settings(Settings),
    Credential(Credential),
    Local(LocalInstance),
    Listener(Listener),
    Target(Target),
    Policy(Policy),
}

/// A destination as a listener names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetKey {
    pub service: ServiceKey,
    /// Absent: this datacenter.
    #[serde(default)]
    pub datacenter: Option<Datacenter>,
    #[serde(default)]
    pub peer: Option<String>,
    /// Absent: the default port.
    #[serde(default)]
    pub port_name: Option<String>,
}

impl TargetKey {
    pub fn local(service: ServiceKey) -> Self {
        Self { service, datacenter: None, peer: None, port_name: None }
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = &self.port_name {
            write!(f, "{port}.")?;
        }
        self.service.fmt(f)?;
        if let Some(dc) = &self.datacenter {
            write!(f, ".{dc}")?;
        }
        Ok(())
    }
}

/// What holds for the whole proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub node: NodeName,
    pub datacenter: Datacenter,
    pub trust_domain: TrustDomain,
    /// Where mesh connections from other hosts are taken.
    pub inbound: Vec<SocketAddr>,
    /// Roots to trust, as DER.
    pub roots: Vec<Vec<u8>>,
    /// Certificates that are not trusted though a root vouches for them, by SHA-256 as hex.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked: BTreeSet<String>,
    /// How long a silent client is waited for before it gets TCP.
    pub detection_timeout_ms: u64,
    /// Of this host, for what prefers near endpoints.
    #[serde(default)]
    pub locality: Option<Locality>,
}

/// The certificate and key of one local service. Debug never shows the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub service: ServiceKey,
    /// SPIFFE URI.
    pub identity: String,
    /// Leaf first, then intermediates; DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
    pub not_before: Millis,
    pub not_after: Millis,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// An instance on this host, reachable through the inbound port by its server names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalInstance {
    pub id: InstanceId,
    pub service: ServiceKey,
    pub ports: Vec<LocalPort>,
    /// Only a healthy instance is chosen where a name stands for any of the service.
    pub healthy: bool,
    /// As declared for the service; absent: told from the first bytes.
    pub protocol: Option<Protocol>,
    pub connect_timeout_ms: u64,
    /// Absent: none.
    pub request_timeout_ms: Option<u64>,
    /// Absent: no limit of its own.
    pub max_connections: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPort {
    /// Of this instance and port alone.
    pub server_name: String,
    /// Of any healthy instance of this service and port on this host (Consul's form).
    pub service_server_name: String,
    /// Absent: the default port.
    pub name: Option<String>,
    pub protocol: Option<Protocol>,
    pub dial: Dial,
}

/// Where an application listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dial {
    Tcp(SocketAddr),
    Unix(String),
}

/// A local port on which an application finds an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub bind: SocketAddr,
    /// Path of the network namespace to listen in; absent: the host's.
    #[serde(default)]
    pub network_namespace: Option<String>,
    /// On whose behalf: the identity that connections taken here get.
    pub source: ServiceKey,
    pub source_instance: InstanceId,
    pub target: TargetKey,
    pub connect_timeout_ms: u64,
}

/// A destination and the instances that may be called now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub key: TargetKey,
    /// As declared for the service; absent: told from the first bytes.
    pub protocol: Option<Protocol>,
    /// The identity that must answer.
    pub identity: String,
    pub endpoints: Vec<Endpoint>,
    /// Why there are none, where that is known.
    pub absence: Option<Absence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absence {
    /// No such service in the catalog.
    Unknown,
    /// Registered, but not in the mesh: it needs a `connect` block.
    NotInMesh,
    /// Every instance is critical.
    Unhealthy,
    /// The servers have not told us yet.
    Pending,
}

/// An instance that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub node: NodeName,
    pub instance: InstanceId,
    /// The inbound port of its host.
    pub address: SocketAddr,
    /// The SNI that stands for this instance and port.
    pub server_name: String,
    pub weight: u16,
    #[serde(default)]
    pub locality: Option<Locality>,
    /// Lives on this host: reached in process, without network.
    pub local: bool,
}

impl View {
    pub fn settings(&self) -> Option<&Settings> {
        match self.parts.get(&PartKey::Settings) {
            Some(Part::Settings(settings)) => Some(settings),
            _ => None,
        }
    }

    /// What to send to one who has `old`: parts to set, keys to remove.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> (Vec<(&'a PartKey, &'a Part)>, Vec<&'a PartKey>) {
        let set = self.parts.iter().filter(|(key, part)| old.parts.get(key) != Some(part)).collect();
        let removed = old.parts.keys().filter(|key| !self.parts.contains_key(key)).collect();
        (set, removed)
    }
}
