//! Agreement: one log of commands, on the disks of a majority before anybody is told that it happened.
//!
//! Only this folder names openraft, and only `log.rs` names sled. Everything else sees a [`RaftHandle`], which takes
//! commands, and a watch of [`Applied`], which is the newest state. Nothing changes that state but the log.
//!
//! Invariants: an outcome is returned only after its entry was flushed and synced; a vote is on disk before it is
//! given; an entry or a snapshot that this build does not understand stops the server and is never skipped; a stored
//! value whose checksum is wrong is named and never served.

mod codec;
mod handle;
mod log;
mod machine;
mod message;
mod network;
mod recover;
mod serve;
mod snapshot;
mod types;

#[cfg(test)]
mod tests;

pub(crate) use handle::is_full;
pub use handle::{Leader, Leadership, MEMBERS_MAX, Member, Metrics, RaftHandle, RaftOptions, StartError};
pub use machine::{Applied, Hook, Machine};
pub use network::{Alone, CallKind, Transport};
pub use recover::Found;
pub(crate) use recover::{Survivor, survey};
pub(crate) use snapshot::{Export, SnapshotError, Verified};
pub use types::{ServerNode, raft_id};
