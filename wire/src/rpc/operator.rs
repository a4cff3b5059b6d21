//! What operators ask of servers: who belongs to the cluster, how it is, and changes of both. Only the leader knows,
//! so a server that does not lead passes the call on.

use purlin_model::autopilot::AutopilotConfig;
use purlin_model::node::NodeStatus;
use purlin_model::{Millis, NodeId};
use serde::{Deserialize, Serialize};

/// `members`: who belongs to the cluster. Answer: `Members`.
pub const MEMBERS: &str = "members";
/// `operate`: a change of who belongs to it, or who leads it. Answer: `Operated`.
pub const OPERATE: &str = "operate";
/// `usage`: how much the catalog holds. No body; answer: `Usage`.
pub const USAGE: &str = "usage";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskMembers {
    /// Whatever the server that is asked knows by itself.
    #[serde(default)]
    pub stale: bool,
    /// By a server that took this one for the leader.
    #[serde(default)]
    pub forwarded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Where in the log they were changed last.
    pub index: u64,
    pub healthy: bool,
    /// How many voters may fail while the rest goes on.
    pub failure_tolerance: u32,
    pub servers: Vec<ServerState>,
    pub autopilot: AutopilotConfig,
}

/// A server of the cluster. What the leader alone knows is absent in a stale answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Absent for one that the catalog does not know.
    #[serde(default)]
    pub id: Option<NodeId>,
    /// Raft's own number for it.
    pub raft_id: u64,
    pub name: String,
    pub address: String,
    pub leader: bool,
    pub voter: bool,
    pub status: NodeStatus,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub last_contact_us: Option<u64>,
    #[serde(default)]
    pub last_term: Option<u64>,
    #[serde(default)]
    pub last_index: Option<u64>,
    #[serde(default)]
    pub healthy: bool,
    #[serde(default)]
    pub stable_since: Option<Millis>,
}

/// How a server is named by who wants something done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    Id(NodeId),
    /// Raft's own number, for one that the catalog does not know.
    RaftId(u64),
    Address(String),
}

/// Body of `operate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub what: Operate,
    /// By a server that took this one for the leader.
    #[serde(default)]
    pub forwarded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operate {
    /// A server that has joined the mesh, but is no member of the cluster.
    AddPeer {
        id: NodeId,
        address: Option<String>,
    },
    RemovePeer(Peer),
    /// To whom the leader thinks best, if nobody is named.
    TransferLeader(Option<Peer>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operated {
    /// Of the server that it was done to.
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the newest command that is counted.
    pub index: u64,
    pub nodes: u64,
    pub services: u64,
    pub instances: u64,
    /// Instances that are in the mesh with a proxy of ours.
    pub meshed: u64,
    /// Instances that speak for themselves in the mesh.
    pub native: u64,
}
