//! What an agent must be told to run, already checked: the binary reads files and flags and makes one of these.
//!
//! Nothing here is read from the process's surroundings, so several agents can live in one process.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::check::CheckDefinition;
use purlin_model::node::{Locality, Node, NodeRole, NodeStatus};
use purlin_model::service::ServiceDefinition;
use purlin_model::{Datacenter, NodeId, NodeName, Revision};

use crate::clock::Clock;

/// As Consul's `http_max_conns_per_client`.
const HTTP_CONNECTIONS_PER_CLIENT: usize = 200;

/// The checked configuration of one agent. Immutable while it runs, but for what [`Reload`] carries.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: NodeName,
    pub node_id: NodeId,
    pub datacenter: Datacenter,
    /// `Server` where a server runs on the same host.
    pub role: NodeRole,
    /// Of the software: `0.1.0`.
    pub version: String,
    /// The domain that DNS answers for, lower case, without a dot at the end.
    pub domain: String,
    pub alt_domain: Option<String>,
    /// Where listeners for other hosts are opened.
    pub bind: IpAddr,
    /// The address by which other hosts reach this one.
    pub advertise: IpAddr,
    /// Of the node, beyond its address.
    pub tagged_addresses: BTreeMap<String, String>,
    pub meta: BTreeMap<String, String>,
    pub locality: Option<Locality>,
    pub ports: Ports,
    /// Where this host's proxy takes mesh connections; it need not be the port that others are told.
    pub mesh_listen: Vec<SocketAddr>,
    /// How long the proxy waits for a silent client before it takes it for TCP; absent: as proxy-defaults say.
    pub detection_timeout: Option<Duration>,
    pub http: HttpOptions,
    pub dns: DnsOptions,
    pub checks: CheckOptions,
    /// Where this agent keeps what must survive it; absent: in memory only.
    pub data_dir: Option<PathBuf>,
    /// Services and checks from configuration files.
    pub services: Vec<ServiceDefinition>,
    pub node_checks: Vec<CheckDefinition>,
    /// The wall clock: for certificates and display, never for order.
    pub clock: Clock,
    /// Changes the filter of logs; absent: it cannot be changed.
    pub log_filter: Option<LogFilter>,
}

/// Ports of this host, for listeners and for what others are told.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    /// Of the server on this host, where one runs.
    pub server: Option<u16>,
    /// Where other hosts reach this host's proxy; absent: this host runs none.
    pub mesh: Option<u16>,
}

/// The local HTTP API.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Addresses to listen on. A port of 0 is chosen by the kernel.
    pub listen: Vec<SocketAddr>,
    /// A Unix socket, beside or instead of them.
    pub socket: Option<PathBuf>,
    /// Headers added to every answer.
    pub response_headers: BTreeMap<String, String>,
    /// Connections that one client address may have open; 0: no limit.
    pub max_connections_per_client: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            socket: None,
            response_headers: BTreeMap::new(),
            max_connections_per_client: HTTP_CONNECTIONS_PER_CLIENT,
        }
    }
}

/// How DNS answers.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Addresses to listen on, UDP and TCP. A port of 0 is chosen by the kernel.
    pub listen: Vec<SocketAddr>,
    /// Where other names are asked for; empty: they are refused.
    pub recursors: Vec<SocketAddr>,
    pub recursor_timeout: Duration,
    pub node_ttl: Duration,
    /// By service name; `*` is for all others.
    pub service_ttl: BTreeMap<String, Duration>,
    /// Instances in a warning state are left out, too.
    pub only_passing: bool,
    pub enable_truncate: bool,
    /// At most so many answers over UDP; 0: no limit but the packet's.
    pub udp_answer_limit: usize,
    /// At most so many answers over any transport; 0: no limit.
    pub a_record_limit: usize,
    pub disable_compression: bool,
    pub soa: SoaOptions,
}

#[derive(Debug, Clone, Copy)]
pub struct SoaOptions {
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    pub min_ttl: u32,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            recursors: Vec::new(),
            recursor_timeout: Duration::from_secs(2),
            node_ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            only_passing: false,
            enable_truncate: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            disable_compression: false,
            soa: SoaOptions { refresh: 3600, retry: 600, expire: 86400, min_ttl: 0 },
        }
    }
}

/// What checks may do on this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Scripts from configuration files and from the API.
    pub enable_script_checks: bool,
    /// Scripts from configuration files alone.
    pub enable_local_script_checks: bool,
}

/// Applies a filter of logs, or says what is wrong with it.
pub type SetLogFilter = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// How the filter of logs is changed while the agent runs.
#[derive(Clone)]
pub struct LogFilter(pub Arc<SetLogFilter>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

/// What a reload may change; everything else needs a restart.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    pub services: Vec<ServiceDefinition>,
    pub node_checks: Vec<CheckDefinition>,
}

impl Config {
    /// This host as it announces itself.
    pub fn node(&self) -> Node {
        Node {
            id: Some(self.node_id),
            name: self.node_name.clone(),
            datacenter: self.datacenter.clone(),
            address: self.advertise.to_string(),
            tagged_addresses: self.tagged_addresses.clone(),
            meta: self.meta.clone(),
            locality: self.locality.clone(),
            mesh_port: self.ports.mesh,
            role: self.role,
            status: NodeStatus::Alive,
            version: self.version.clone(),
            create_index: Revision(0),
            modify_index: Revision(0),
        }
    }

    /// A file of this agent's own in its data directory.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.data_dir.as_ref().map(|dir| dir.join(name))
    }
}
