//! Config entries: what operators say about services, under Consul's kinds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::intention::{Party, SourceIntention};
use crate::service::Protocol;
use crate::{Namespace, Revision};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigKind {
    ServiceDefaults,
    ProxyDefaults,
    ServiceIntentions,
}

impl ConfigKind {
    pub const ALL: [Self; 3] = [Self::ServiceDefaults, Self::ProxyDefaults, Self::ServiceIntentions];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceDefaults => "service-defaults",
            Self::ProxyDefaults => "proxy-defaults",
            Self::ServiceIntentions => "service-intentions",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry; `name` is a service, `global` for proxy-defaults, or `*` for intentions of every destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    pub name: String,
    #[serde(default)]
    pub namespace: Namespace,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    pub body: ConfigBody,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

impl ConfigEntry {
    pub fn kind(&self) -> ConfigKind {
        match self.body {
            ConfigBody::ServiceDefaults(_) => ConfigKind::ServiceDefaults,
            ConfigBody::ProxyDefaults(_) => ConfigKind::ProxyDefaults,
            ConfigBody::ServiceIntentions(_) => ConfigKind::ServiceIntentions,
        }
    }

    /// Same but for the revisions, which only the state machine writes.
    pub fn same_content(&self, other: &Self) -> bool {
        let at = |one: &Self| Self { create_index: Revision(0), modify_index: Revision(0), ..one.clone() };
        at(self) == at(other)
    }

    /// The destination of a service-intentions entry.
    pub fn destination(&self) -> Option<Party> {
        match self.body {
            ConfigBody::ServiceIntentions(_) => Party::parse(&self.name).ok(),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigBody {
    ServiceDefaults(ServiceDefaults),
    ProxyDefaults(ProxyDefaults),
    ServiceIntentions(ServiceIntentions),
}

/// Absent protocol: not declared, so it is told from the first bytes and L7 permissions are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefaults {
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// To the application on its host; absent: 5 s.
    #[serde(default)]
    pub local_connect_timeout_ms: Option<u64>,
    /// Of one request at the application; absent: none.
    #[serde(default)]
    pub local_request_timeout_ms: Option<u64>,
    /// Connections that one instance takes; absent or 0: no limit but the proxy's own.
    #[serde(default)]
    pub max_inbound_connections: Option<u32>,
}

/// Mesh-wide defaults of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyDefaults {
    /// Consul's `Config.protocol`: of every service that declares none itself.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Purlin's `Config.protocol_detection_timeout_ms`: how long a silent client is waited for; absent: 100 ms.
    #[serde(default)]
    pub detection_timeout_ms: Option<u64>,
}

/// All intentions of one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceIntentions {
    #[serde(default)]
    pub sources: Vec<SourceIntention>,
}
