//! Health checks: what they are, what they last said, and what that makes of an instance.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CheckId, InstanceId, NodeName, Revision, ServiceName};

/// The id of the check that stands for a host's session with the servers, as Consul names it.
pub const NODE_ALIVE: &str = "serfHealth";

/// Ordered from best to worst, so that the health of many checks is their maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Passing,
    Warning,
    #[default]
    Critical,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" => Some(Self::Passing),
            "warning" | "warn" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

/// The worst of `checks`; an instance without checks is passing.
pub fn aggregate<'a>(checks: impl IntoIterator<Item = &'a Check>) -> Status {
    checks.into_iter().map(|c| c.status).max().unwrap_or(Status::Passing)
}

/// One check as the catalog knows it. `service_id` is absent for a check of the whole node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub node: NodeName,
    pub id: CheckId,
    pub name: String,
    pub status: Status,
    #[serde(default)]
    pub notes: String,
    #[serde(default)]
    pub output: String,
    #[serde(default)]
    pub service_id: Option<InstanceId>,
    #[serde(default)]
    pub service_name: Option<ServiceName>,
    #[serde(default)]
    pub service_tags: Vec<String>,
    /// `http`, `tcp`, `grpc`, `script`, `ttl`, `alias`, `h2ping`, `os_service`, or empty.
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub interval: Duration,
    #[serde(default)]
    pub timeout: Duration,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

impl Check {
    /// Same but for the revisions, which only the state machine writes.
    pub fn same_content(&self, other: &Self) -> bool {
        let at =
            |check: &Self| Self { create_index: Revision(0), modify_index: Revision(0), ..check.clone() };
        at(self) == at(other)
    }
}

/// What an agent runs to find a status. Lives on the host that registered it and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    pub id: CheckId,
    pub name: String,
    #[serde(default)]
    pub notes: String,
    #[serde(default)]
    pub service_id: Option<InstanceId>,
    pub probe: Probe,
    /// Between two runs; unused by TTL and alias checks. At least 1 s.
    pub interval: Duration,
    /// Of one run.
    pub timeout: Duration,
    /// What the check says before its first run.
    pub initial: Status,
    /// Consecutive results needed before the status changes (Consul's semantics; 0 and 1 are the same).
    #[serde(default)]
    pub success_before_passing: u32,
    #[serde(default)]
    pub failures_before_warning: u32,
    #[serde(default)]
    pub failures_before_critical: u32,
    /// A service critical for so long is deregistered; absent: never. At least 1 min.
    #[serde(default)]
    pub deregister_critical_service_after: Option<Duration>,
    pub output_max_size: usize,
}

/// How a status is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    Http {
        url: String,
        method: String,
        headers: BTreeMap<String, Vec<String>>,
        body: String,
        disable_redirects: bool,
        tls: ProbeTls,
    },
    /// `address` is `host:port`; with `tls` a handshake must succeed as well.
    Tcp {
        address: String,
        tls: Option<ProbeTls>,
    },
    Udp {
        address: String,
    },
    /// `target` is `host:port` or `host:port/service`.
    Grpc {
        target: String,
        tls: Option<ProbeTls>,
    },
    H2Ping {
        address: String,
        tls: Option<ProbeTls>,
    },
    Script {
        args: Vec<String>,
    },
    /// The application reports; silence for `ttl` is critical.
    Ttl {
        ttl: Duration,
    },
    /// Mirrors a service, or a node when `service` is absent. `node` absent: this one.
    Alias {
        node: Option<NodeName>,
        service: Option<InstanceId>,
    },
    /// A systemd unit.
    OsService {
        unit: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTls {
    pub server_name: String,
    pub skip_verify: bool,
}

impl Probe {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Udp { .. } => "udp",
            Self::Grpc { .. } => "grpc",
            Self::H2Ping { .. } => "h2ping",
            Self::Script { .. } => "script",
            Self::Ttl { .. } => "ttl",
            Self::Alias { .. } => "alias",
            Self::OsService { .. } => "os_service",
        }
    }
}
