//! What openraft is told about our types.
//!
//! Log positions and votes carry the node that led, so that two leaders of one term are told apart.

use openraft::entry::EntryPayload;
use openraft::vote::leader_id_adv;
use purlin_model::NodeId;
use purlin_model::command::{Envelope, Outcome};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The types of our cluster.
    pub(crate) TypeConfig:
        D = Envelope,
        R = Reply,
        NodeId = u64,
        Node = ServerNode,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// A server as the members of the cluster know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerNode {
    /// The name of its host in the catalog.
    pub name: String,
    /// `host:port` of its QUIC endpoint.
    pub address: String,
}

/// What applying an entry answers: commands have an outcome, openraft's own entries have none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Nothing,
    Outcome(Outcome),
}

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Envelope, u64, ServerNode>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, ServerNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, ServerNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, ServerNode>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, ServerNode, bytes::Bytes>;

/// The number by which Raft knows a host: half of the random bits of its id, never reused because the id is not.
pub fn raft_id(id: NodeId) -> u64 {
    let (high, low) = id.0.as_u64_pair();
    high ^ low.rotate_left(32)
}

/// How openraft's metrics are watched.
pub(crate) type MetricsWatch =
    openraft_rt_tokio::TokioWatchReceiver<openraft::metrics::RaftMetrics<TypeConfig>>;
