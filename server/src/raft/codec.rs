//! The stored form of log entries and of Raft's own facts: one version byte, then named MessagePack.
//!
//! These are types of our own, so that a new openraft does not change what lies on disk. Reading is exact: an unknown
//! version, kind, field or command level is an error, never a guess.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::vote::RaftLeaderId;
use purlin_model::command::{Envelope, LEVEL};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LeaderId, LogId, Membership, Payload, ServerNode, StoredMembership, Vote};

/// The newest stored form that this build writes and reads.
pub(crate) const FORMAT: u8 = 1;

/// Why stored bytes cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("it is empty")]
    Empty,
    #[error("its format is {found}, this build knows up to {FORMAT}: start the newer build that wrote it")]
    Format { found: u8 },
    #[error(
        "its command level is {found}, this build knows up to {LEVEL}: start the newer build that wrote it"
    )]
    Level { found: u16 },
    #[error(
        "this build does not understand it ({0}): start the newer build that wrote it, or restore a backup"
    )]
    Content(String),
    #[error("it cannot be written: {0}")]
    Write(String),
}

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![FORMAT];
    rmp_serde::encode::write_named(&mut bytes, value).map_err(|e| CodecError::Write(e.to_string()))?;
    Ok(bytes)
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    rmp_serde::from_slice(body(bytes)?).map_err(|e| CodecError::Content(e.to_string()))
}

fn body(bytes: &[u8]) -> Result<&[u8], CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT, body)) => Ok(body),
        Some((&found, _)) => Err(CodecError::Format { found }),
    }
}

/// A position in the log, with the leader that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(at: Position) -> Self {
        LogId::new(LeaderId::new(at.term, at.node), at.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ballot {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        Vote { leader_id: LeaderId::new(ballot.term, ballot.node), committed: ballot.committed }
    }
}

/// Who votes and who only listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Members {
    pub configs: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, ServerNode>,
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

impl TryFrom<Members> for Membership {
    type Error = CodecError;
    fn try_from(members: Members) -> Result<Self, CodecError> {
        if members.configs.is_empty() && members.nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(members.configs, members.nodes).map_err(|e| CodecError::Content(e.to_string()))
    }
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotHead {
    pub last: Option<Position>,
    pub members_at: Option<Position>,
    pub members: Members,
}

impl SnapshotHead {
    /// Of a state that leaves its cluster: who its members were is of no use elsewhere.
    pub(crate) fn of(last: Option<LogId>) -> Self {
        let members = Members { configs: Vec::new(), nodes: BTreeMap::new() };
        Self { last: last.map(Position::from), members_at: None, members }
    }
}

impl From<&super::types::SnapshotMeta> for SnapshotHead {
    fn from(meta: &super::types::SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Position::from),
            members_at: meta.last_membership.log_id().map(Position::from),
            members: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<SnapshotHead> for super::types::SnapshotMeta {
    type Error = CodecError;
    fn try_from(head: SnapshotHead) -> Result<Self, CodecError> {
        let members = Membership::try_from(head.members)?;
        Ok(Self {
            last_log_id: head.last.map(LogId::from),
            last_membership: StoredMembership::new(head.members_at.map(LogId::from), members),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    at: Position,
    body: Body,
}

#[derive(Deserialize)]
enum Body {
    Blank,
    Command(Box<Envelope>),
    Membership(Members),
}

/// The same as `StoredEntry`, borrowed, so that writing clones no command.
#[derive(Serialize)]
struct StoredEntryRef<'a> {
    at: Position,
    body: BodyRef<'a>,
}

#[derive(Serialize)]
enum BodyRef<'a> {
    Blank,
    Command(&'a Envelope),
    Membership(Members),
}

pub(crate) fn write_entry(entry: &Entry) -> Result<Vec<u8>, CodecError> {
    let body = match &entry.payload {
        Payload::Blank => BodyRef::Blank,
        Payload::Normal(envelope) => BodyRef::Command(envelope),
        Payload::Membership(membership) => BodyRef::Membership(membership.into()),
    };
    write(&StoredEntryRef { at: entry.log_id.into(), body })
}

pub(crate) fn read_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    let stored: StoredEntry = match rmp_serde::from_slice(body(bytes)?) {
        Ok(stored) => stored,
        Err(error) => return Err(explain(bytes, &error)),
    };
    let payload = match stored.body {
        Body::Blank => Payload::Blank,
        Body::Command(envelope) => {
            understood(&envelope)?;
            Payload::Normal(*envelope)
        }
        Body::Membership(members) => Payload::Membership(members.try_into()?),
    };
    Ok(Entry { log_id: stored.at.into(), payload })
}

/// As [`read_entry`], for a server that plays an older build.
pub(crate) fn read_entry_up_to(level: u16, bytes: &[u8]) -> Result<Entry, CodecError> {
    let entry = read_entry(bytes)?;
    match &entry.payload {
        Payload::Normal(envelope) if envelope.level > level => {
            Err(CodecError::Level { found: envelope.level })
        }
        _ => Ok(entry),
    }
}

/// Whether this build may apply the command.
pub(crate) fn understood(envelope: &Envelope) -> Result<(), CodecError> {
    if envelope.level > LEVEL {
        return Err(CodecError::Level { found: envelope.level });
    }
    Ok(())
}

/// The bytes that a command takes, without writing them anywhere.
pub(crate) fn size(envelope: &Envelope) -> Result<usize, CodecError> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    rmp_serde::encode::write_named(&mut count, envelope).map_err(|e| CodecError::Write(e.to_string()))?;
    Ok(count.0)
}

/// A command of a newer level may have any shape: the level is then the better explanation than the shape.
fn explain(bytes: &[u8], error: &rmp_serde::decode::Error) -> CodecError {
    #[derive(Deserialize)]
    struct Probe {
        body: ProbeBody,
    }
    #[derive(Deserialize)]
    enum ProbeBody {
        Command(ProbeEnvelope),
    }
    #[derive(Deserialize)]
    struct ProbeEnvelope {
        level: u16,
    }
    let level = body(bytes).ok().and_then(|body| rmp_serde::from_slice::<Probe>(body).ok());
    match level {
        Some(Probe { body: ProbeBody::Command(envelope) }) if envelope.level > LEVEL => {
            CodecError::Level { found: envelope.level }
        }
        _ => CodecError::Content(error.to_string()),
    }
}
