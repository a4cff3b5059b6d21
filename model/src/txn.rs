//! Transactions: operations that are carried out together or not at all, and what came of each.

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::kv::{Key, KvEntry, KvWrite};
use crate::node::Node;
use crate::service::Instance;
use crate::{CheckId, InstanceId, NodeName, Revision, SessionId};

/// Operations in their order; at most `limit::TXN_OPS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub ops: Vec<TxnOp>,
}

impl Txn {
    /// The reads of one that changes nothing.
    pub fn reads(&self) -> Option<Vec<TxnRead>> {
        let read = |op: &TxnOp| match op {
            TxnOp::Read(read) => Some(read.clone()),
            _ => None,
        };
        self.ops.iter().map(read).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a transaction has few of them")]
pub enum TxnOp {
    Read(TxnRead),
    Kv(KvWrite),
    Node { name: NodeName, change: Change<Node> },
    Service { node: NodeName, id: InstanceId, change: Change<Instance> },
    Check { node: NodeName, id: CheckId, change: Change<Check> },
    EndSession(SessionId),
}

/// What is done to something of the catalog; with a revision, only if it was last changed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change<T> {
    Set(T),
    /// Zero: only if it is not there.
    Cas(T, Revision),
    Delete,
    DeleteCas(Revision),
}

/// An operation that changes nothing, but may fail the transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TxnRead {
    Get(Key),
    GetOrEmpty(Key),
    GetTree(Key),
    CheckIndex(Key, Revision),
    /// Without a session: that nobody holds the key.
    CheckSession(Key, Option<SessionId>),
    CheckNotExists(Key),
    Node(NodeName),
    Service(NodeName, InstanceId),
    Check(NodeName, CheckId),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnDone {
    pub results: Vec<TxnResult>,
    /// If there are any, nothing was changed.
    pub errors: Vec<TxnError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large ones are the common ones")]
pub enum TxnResult {
    /// With its value only where that was asked for.
    Kv(KvEntry),
    Node(Node),
    Service(Instance),
    Check(Check),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnError {
    /// Which operation, counted from zero.
    pub op: usize,
    pub what: String,
}
