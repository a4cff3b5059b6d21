//! What servers say to each other for Raft: one version byte, then named MessagePack.
//!
//! Entries travel in their stored form, so that a follower checks them exactly as it checks its own disk. Answers are
//! either what was asked for or a refusal in words.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{Ballot, Position, SnapshotHead};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    pub vote: Ballot,
    pub previous: Option<Position>,
    pub committed: Option<Position>,
    pub entries: Vec<Bytes>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Appended {
    Success,
    Partial(Option<Position>),
    Conflict,
    HigherVote(Ballot),
}

/// A request for a vote, or for the promise of one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Candidacy {
    pub vote: Ballot,
    pub last: Option<Position>,
    #[serde(default)]
    pub transfer: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Voted {
    pub vote: Ballot,
    pub granted: bool,
    pub last: Option<Position>,
}

/// A piece of a snapshot. The last piece answers when the whole is installed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub vote: Ballot,
    pub head: SnapshotHead,
    pub offset: u64,
    pub total: u64,
    pub bytes: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Received {
    /// Send the piece that begins here.
    Next(u64),
    Installed(Ballot),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub from: Ballot,
    pub to: u64,
    pub last: Option<Position>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Transferred {
    Accepted,
    VoteChanged(Ballot),
    LogBehind(Option<Position>),
}

/// Every answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer<T> {
    Ok(T),
    Refused(String),
}
