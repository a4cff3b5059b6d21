//! What a server must be told, and why one does not start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use purlin_model::identity::TrustDomain;
use purlin_model::intention::Action;
use purlin_model::{Datacenter, Fault, Millis, NodeName};
use purlin_wire::node_store::{NodeStore, StoreError};
use purlin_wire::quic::BindError;
use purlin_wire::tls::TlsError;

use crate::ca::CaError;
use crate::rpc::Clock;

/// The configuration of a server, all defaults filled in.
#[derive(Clone)]
pub struct Config {
    /// The data directory, locked by this process.
    pub store: Arc<NodeStore>,
    pub node: NodeName,
    pub datacenter: Datacenter,
    /// What the trust domain of a new mesh ends with.
    pub domain: String,
    /// Where other hosts reach this server; port 0 is chosen by the system.
    pub bind: Vec<SocketAddr>,
    /// The IP address or host name that others are told.
    pub advertise: String,
    /// Where the proxy of this host takes mesh connections.
    pub mesh_port: Option<u16>,
    /// For the whole mesh, as is the next; absent: as the mesh has it.
    pub default_intention: Option<Action>,
    pub leaf_ttl: Option<Duration>,
    /// The newest command level that this server tells it understands: `LEVEL`, but where an older build is played.
    pub level: u16,
    /// After which a host that failed or left is no longer in the catalog.
    pub reconnect_timeout: Duration,
    /// Of the software.
    pub version: String,
    pub clock: Clock,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("node", &self.node).field("bind", &self.bind).finish_non_exhaustive()
    }
}

/// The wall clock of the system.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Why a server does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "data_dir {0} is empty: start the first server of a mesh with --bootstrap, or let this host join one with \
         --join TOKEN"
    )]
    Empty(PathBuf),
    #[error(
        "data_dir {0} belongs to an agent of mesh {1}: start it with `purlin agent`, or use another data_dir"
    )]
    NotAServer(PathBuf, TrustDomain),
    #[error(
        "data_dir {dir} belongs to node {was}, not {is}: set node_name to {was}, or use another data_dir"
    )]
    OtherName { dir: PathBuf, was: NodeName, is: NodeName },
    #[error("this mesh is datacenter {was}, not {is}: set datacenter to {was}, or use another data_dir")]
    OtherDatacenter { was: Datacenter, is: Datacenter },
    #[error("data_dir {dir} is of mesh {expected}, but its log holds {found}: restore the whole directory")]
    OtherMesh { dir: PathBuf, expected: String, found: String },
    #[error("domain {0:?} cannot be part of a trust domain: it must be a DNS name")]
    BadDomain(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the certificate authority cannot start: {0}")]
    Authority(String),
    #[error(transparent)]
    Raft(#[from] crate::raft::StartError),
    #[error("raft stopped while the server started: {0}")]
    RaftEnded(String),
    #[error("the server's own certificate cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(
        "this server was let in, but did not get what the others have within {0} s: look at their logs and at 8300/udp \
         between servers, then start it again"
    )]
    NotCaughtUp(u64),
    #[error("the server cannot take up its work")]
    Work(#[from] Fault),
}

impl From<CaError> for StartError {
    fn from(error: CaError) -> Self {
        Self::Authority(error.to_string())
    }
}
