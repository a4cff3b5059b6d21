//! Which history of a mesh a revision belongs to, and the steps by which a snapshot begins another one.
//!
//! Revisions only grow within one history. Whoever keeps records compares histories before it resumes at a revision:
//! after a restore, or after a lost majority was given up, the same revision may stand for something else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Blob;

/// Drawn by whoever begins a history; absent in a mesh that never had another than its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HistoryId(pub uuid::Uuid);

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One step of replacing the state by a snapshot. The log carries it in pieces, and all of it counts at its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Of the whole attempt: steps of another one are refused.
    pub id: uuid::Uuid,
    pub step: RestoreStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreStep {
    /// So many bytes with that CRC32 will follow. Forgets an attempt that was not finished.
    Begin { bytes: u64, crc32: u32 },
    /// The bytes from `offset` on.
    Piece { offset: u64, bytes: Blob },
    /// All is there: it becomes the state, in a history of its own.
    Commit { history: HistoryId },
    /// Forgets what came so far.
    Abort,
}
