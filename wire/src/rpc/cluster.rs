//! What servers say to each other beside Raft's own calls, which are bytes in a form of their own.

use purlin_model::command::{Actor, Command, RequestId};
use purlin_model::identity::Identity;
use purlin_model::{NodeId, NodeName, Revision};
use serde::{Deserialize, Serialize};

use super::{Consistency, bytes_field};

/// `propose`, to the leader: a command that the calling server has authorized. Answer: `Outcome`.
pub const PROPOSE: &str = "propose";
/// `barrier`, to the leader: how new a read must be. Answer: `Reached`.
pub const BARRIER: &str = "barrier";
/// `admit`, to any server: the caller wants to be one of the cluster, or has moved. Answer: `Admitted`.
pub const ADMIT: &str = "admit";

/// `certify`, to the leader: a certificate for one whom the calling server has authorized, and cannot sign for itself
/// yet. Answer: `Signed`.
pub const CERTIFY: &str = "certify";

/// Body or answer of a call of Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Raw(#[serde(with = "bytes_field")] pub Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub request: RequestId,
    pub actor: Actor,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certify {
    /// PKCS#10, DER. Only its public key is taken.
    #[serde(with = "bytes_field")]
    pub csr: Vec<u8>,
    pub identity: Identity,
    pub life_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    #[serde(default)]
    pub consistency: Consistency,
}

/// What is applied up to here is as new as was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    pub id: NodeId,
    pub name: NodeName,
    /// `host:port` of its QUIC endpoint.
    pub address: String,
    /// The newest command level that it understands.
    pub level: u16,
    /// Whether its log holds nothing: one that voted before may then not be taken for who it was.
    pub empty: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// `host:port` of every server.
    #[serde(default)]
    pub servers: Vec<String>,
}
