//! Instances of services, as the catalog knows them, and the entry that discovery hands out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::check::{Check, CheckDefinition, Status, aggregate};
use crate::node::{Locality, Node};
use crate::{Datacenter, InstanceId, Namespace, Revision, ServiceKey, ServiceName};

/// The protocol that an application speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Http,
    Http2,
    Grpc,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "http" => Some(Self::Http),
            "http2" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// Whether requests can be told apart, which L7 policy and routing need.
    pub fn is_http_like(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// Consul's `Kind`; an application is `Typical`, which the API shows as the empty text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    #[default]
    Typical,
    ConnectProxy,
    MeshGateway,
    TerminatingGateway,
    IngressGateway,
    ApiGateway,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub protocol: Option<Protocol>,
    #[serde(default)]
    pub default: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    pub passing: u16,
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaggedAddress {
    pub address: String,
    pub port: u16,
}

/// A service that an instance calls, and the local address on which it finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub name: ServiceName,
    #[serde(default)]
    pub namespace: Namespace,
    /// Absent: this datacenter.
    #[serde(default)]
    pub datacenter: Option<Datacenter>,
    /// A mesh we peer with; absent: this one.
    #[serde(default)]
    pub peer: Option<String>,
    /// A named port of the destination; absent: its default port.
    #[serde(default)]
    pub port_name: Option<String>,
    /// `127.0.0.1` where nobody said.
    pub local_bind_address: String,
    pub local_bind_port: u16,
    /// To establish a connection to the destination's host; absent: 5 s.
    #[serde(default)]
    pub connect_timeout_ms: Option<u64>,
}

impl Upstream {
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Who the local processes of an instance are, for the kernel; all absent: told by explicit listeners alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    #[serde(default)]
    pub unit: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub pod: Option<String>,
    /// Path of the network namespace of the processes; absent: the host's.
    #[serde(default)]
    pub network_namespace: Option<String>,
}

/// Present on an instance that is in the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// Where the proxy reaches the application; absent: the instance's address if loopback or of this host, else
    /// `127.0.0.1`.
    #[serde(default)]
    pub local_address: Option<String>,
    /// Absent: the instance's port.
    #[serde(default)]
    pub local_port: Option<u16>,
    #[serde(default)]
    pub local_socket_path: Option<String>,
    #[serde(default)]
    pub selector: Selector,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub name: ServiceName,
    #[serde(default)]
    pub namespace: Namespace,
    #[serde(default)]
    pub kind: ServiceKind,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Empty: the node's.
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub ports: Vec<NamedPort>,
    #[serde(default)]
    pub socket_path: String,
    #[serde(default)]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    #[serde(default)]
    pub weights: Weights,
    #[serde(default)]
    pub enable_tag_override: bool,
    /// `connect { native = true }`: the application does the mesh's TLS itself.
    #[serde(default)]
    pub native: bool,
    #[serde(default)]
    pub mesh: Option<Mesh>,
    #[serde(default)]
    pub locality: Option<Locality>,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

impl Instance {
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Those that are not the node's; names are not among them.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let tagged = self.tagged_addresses.values().map(|tagged| tagged.address.as_str());
        let addresses: BTreeSet<IpAddr> =
            tagged.chain([self.address.as_str()]).filter_map(|text| text.parse().ok()).collect();
        addresses.into_iter()
    }

    /// Same but for the revisions, which only the state machine writes.
    pub fn same_content(&self, other: &Self) -> bool {
        let at = |one: &Self| Self { create_index: Revision(0), modify_index: Revision(0), ..one.clone() };
        at(self) == at(other)
    }
}

/// A service as its host registers it: the instance and the checks that its agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    pub instance: Instance,
    #[serde(default)]
    pub checks: Vec<CheckDefinition>,
}

/// One instance with its host and every check that counts for it: what discovery answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    pub node: Arc<Node>,
    pub instance: Arc<Instance>,
    /// Of the node and of the instance, ordered by id.
    pub checks: Vec<Arc<Check>>,
}

impl ServiceEntry {
    pub fn status(&self) -> Status {
        aggregate(self.checks.iter().map(AsRef::as_ref))
    }

    /// The address a client dials: the instance's own, else its node's.
    pub fn address(&self) -> &str {
        match self.instance.address.as_str() {
            "" => &self.node.address,
            own => own,
        }
    }
}
