//! The other end of the network: what peers ask of this server, as bytes in and bytes out.
//!
//! Bad input is refused in words and changes nothing. An entry that this build cannot take in means that the cluster
//! speaks a newer form than this server: it must stop before it applies anything, so the caller is told.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::codec::{self, CodecError, Position, SnapshotHead};
use super::log::{LogGauge, free_in};
use super::machine::{Machine, Store};
use super::message::{Answer, Append, Appended, Candidacy, Piece, Received, Transfer, Transferred, Voted};
use super::network::CallKind;
use super::types::{LogId, Snapshot, SnapshotMeta, TypeConfig, Vote};

/// No snapshot that a peer announces may be larger.
const SNAPSHOT_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Stays free when a snapshot is taken in.
const SNAPSHOT_SPARE_BYTES: u64 = 4 * 1024 * 1024;

/// How long a leader may rely on what a server promised: the longest election timeout.
pub(crate) const LEASE: Duration = Duration::from_millis(450);

type Raft<M> = openraft::Raft<TypeConfig, Store<M>>;

/// What comes in from the leader.
pub(crate) struct Incoming {
    /// A snapshot. One at a time: there is one leader.
    part: Mutex<Option<Part>>,
    /// When a leader was heard that this server follows; before that, when it started.
    heard: std::sync::Mutex<Instant>,
    began: Instant,
    /// The newest command level that this server takes in.
    level: u16,
    log: LogGauge,
    snapshots: PathBuf,
}

impl Incoming {
    pub(crate) fn new(level: u16, log: LogGauge, snapshots: PathBuf) -> Self {
        let began = Instant::now();
        Self { part: Mutex::default(), heard: std::sync::Mutex::new(began), began, level, log, snapshots }
    }

    /// A leader may answer reads from its lease as long as this server had promised before it stopped, which it does
    /// not remember: for so long after its start it helps nobody else to lead.
    fn may_vote(&self) -> Result<(), Refusal> {
        if self.began.elapsed() >= LEASE {
            return Ok(());
        }
        Err(Refusal::Refused("this server has just started, and may have promised to follow another".into()))
    }

    pub(crate) fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Entries that the disk has no room for are refused; the leader sends them again.
    fn refuse_when_exhausted(&self) -> Result<(), Refusal> {
        if self.log.is_exhausted() {
            return Err(Refusal::Refused("the storage of this server is full".into()));
        }
        Ok(())
    }

    /// Nor is a snapshot begun that would not fit beside what is here.
    fn has_room_for(&self, bytes: u64) -> Result<(), Refusal> {
        match free_in(&self.snapshots) {
            Ok(free) if free < bytes.saturating_add(SNAPSHOT_SPARE_BYTES) => {
                let text =
                    format!("a snapshot of {bytes} bytes does not fit on the disk, where {free} are free");
                Err(Refusal::Refused(text))
            }
            _ => Ok(()),
        }
    }
}

struct Part {
    vote: Vote,
    head: SnapshotHead,
    total: u64,
    bytes: BytesMut,
}

/// Why a call was not carried out.
pub(crate) enum Refusal {
    /// The caller is told; nothing else happens.
    Refused(String),
    /// This server cannot go on.
    Incompatible(String),
}

impl Refusal {
    fn of(error: &dyn std::fmt::Display) -> Self {
        Self::Refused(error.to_string())
    }
}

/// What follows the number of whom a call is for, or the answer to one that is for another.
pub(crate) fn meant_for(own: u64, body: &[u8]) -> Result<&[u8], Bytes> {
    match body.split_first_chunk::<8>() {
        Some((target, rest)) if u64::from_be_bytes(*target) == own => Ok(rest),
        Some((target, _)) => {
            let target = u64::from_be_bytes(*target);
            Err(refused(&format!("this is server {own:016x}, not {target:016x}: that one is gone from here")))
        }
        None => Err(refused("the call names nobody")),
    }
}

/// Answers one call. The second value, if any, says why this server must stop.
pub(crate) async fn serve<M: Machine>(
    raft: &Raft<M>,
    incoming: &Incoming,
    kind: CallKind,
    body: &[u8],
) -> (Bytes, Option<String>) {
    let answered = match kind {
        CallKind::Append => append(raft, incoming, body).await,
        CallKind::Vote => vote(raft, incoming, body).await,
        CallKind::PreVote => pre_vote(raft, incoming, body).await,
        CallKind::Snapshot => snapshot(raft, incoming, body).await,
        CallKind::TransferLeader => transfer(raft, body).await,
    };
    match answered {
        Ok(bytes) => (bytes, None),
        Err(Refusal::Refused(why)) => (refused(&why), None),
        Err(Refusal::Incompatible(why)) => (refused(&why), Some(why)),
    }
}

fn refused(why: &str) -> Bytes {
    codec::write(&Answer::<()>::Refused(why.to_owned())).map(Bytes::from).unwrap_or_default()
}

fn asked<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    codec::read(body).map_err(|error| Refusal::Refused(format!("the call cannot be read: {error}")))
}

fn answer<T: Serialize>(value: T) -> Result<Bytes, Refusal> {
    codec::write(&Answer::Ok(value)).map(Bytes::from).map_err(|error| Refusal::of(&error))
}

async fn append<M: Machine>(raft: &Raft<M>, incoming: &Incoming, body: &[u8]) -> Result<Bytes, Refusal> {
    let ask: Append = asked(body)?;
    if !ask.entries.is_empty() {
        incoming.refuse_when_exhausted()?;
    }
    let mut entries = Vec::with_capacity(ask.entries.len());
    for bytes in &ask.entries {
        entries.push(codec::read_entry_up_to(incoming.level, bytes).map_err(|error| match error {
            CodecError::Empty | CodecError::Write(_) => Refusal::of(&error),
            error => {
                Refusal::Incompatible(format!("the leader sent a log entry that is not understood: {error}"))
            }
        })?);
    }
    let ask = AppendEntriesRequest {
        vote: ask.vote.into(),
        prev_log_id: ask.previous.map(LogId::from),
        leader_commit: ask.committed.map(LogId::from),
        entries,
    };
    let appended = raft.append_entries(ask).await.map_err(|error| Refusal::of(&error))?;
    if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
        incoming.hear();
    }
    answer(match appended {
        AppendEntriesResponse::Success => Appended::Success,
        AppendEntriesResponse::PartialSuccess(upto) => Appended::Partial(upto.map(Position::from)),
        AppendEntriesResponse::Conflict => Appended::Conflict,
        AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote.into()),
    })
}

fn candidacy(body: &[u8]) -> Result<VoteRequest<TypeConfig>, Refusal> {
    let ask: Candidacy = asked(body)?;
    let mut request = VoteRequest::new(ask.vote.into(), ask.last.map(LogId::from));
    request.leadership_transfer = ask.transfer;
    Ok(request)
}

fn voted(response: VoteResponse<TypeConfig>) -> Result<Bytes, Refusal> {
    answer(Voted {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last: response.last_log_id.map(Position::from),
    })
}

async fn vote<M: Machine>(raft: &Raft<M>, incoming: &Incoming, body: &[u8]) -> Result<Bytes, Refusal> {
    incoming.may_vote()?;
    voted(raft.vote(candidacy(body)?).await.map_err(|error| Refusal::of(&error))?)
}

async fn pre_vote<M: Machine>(raft: &Raft<M>, incoming: &Incoming, body: &[u8]) -> Result<Bytes, Refusal> {
    incoming.may_vote()?;
    voted(raft.pre_vote(candidacy(body)?).await.map_err(|error| Refusal::of(&error))?)
}

async fn snapshot<M: Machine>(raft: &Raft<M>, incoming: &Incoming, body: &[u8]) -> Result<Bytes, Refusal> {
    let piece: Piece = asked(body)?;
    if piece.offset == 0 {
        incoming.has_room_for(piece.total)?;
    }
    let mut slot = incoming.part.lock().await;
    let received = match receive(&mut slot, piece)? {
        Ok(next) => return answer(Received::Next(next)),
        Err(whole) => whole,
    };
    let meta = SnapshotMeta::try_from(received.head).map_err(|error| Refusal::of(&error))?;
    let snapshot = Snapshot { meta, snapshot: received.bytes.freeze() };
    let installed = raft.install_full_snapshot(received.vote, snapshot).await;
    answer(Received::Installed(installed.map_err(|error| Refusal::of(&error))?.vote.into()))
}

/// Takes in a piece: what to send next, or the whole.
fn receive(slot: &mut Option<Part>, piece: Piece) -> Result<Result<u64, Part>, Refusal> {
    if piece.total > SNAPSHOT_BYTES {
        let text = format!("a snapshot of {} bytes is over the limit of {SNAPSHOT_BYTES}", piece.total);
        return Err(Refusal::Refused(text));
    }
    let vote = Vote::from(piece.vote);
    if piece.offset == 0 {
        *slot = Some(Part { vote, head: piece.head.clone(), total: piece.total, bytes: BytesMut::new() });
    }
    let Some(part) = slot.as_mut() else { return Ok(Ok(0)) };
    let here = part.bytes.len() as u64;
    if part.vote != vote || part.head != piece.head || part.total != piece.total || here != piece.offset {
        *slot = None;
        return Ok(Ok(0));
    }
    let there = here + piece.bytes.len() as u64;
    if there > part.total || (piece.bytes.is_empty() && there < part.total) {
        *slot = None;
        return Err(Refusal::Refused("a piece of the snapshot does not fit its announced size".into()));
    }
    part.bytes.extend_from_slice(&piece.bytes);
    if there < part.total {
        return Ok(Ok(there));
    }
    match slot.take() {
        Some(whole) => Ok(Err(whole)),
        None => Ok(Ok(0)),
    }
}

async fn transfer<M: Machine>(raft: &Raft<M>, body: &[u8]) -> Result<Bytes, Refusal> {
    let ask: Transfer = asked(body)?;
    let ask = TransferLeaderRequest::new(ask.from.into(), ask.to, ask.last.map(LogId::from));
    let done = raft.handle_transfer_leader(ask).await.map_err(|error| Refusal::of(&error))?;
    answer(match done {
        Ok(()) => Transferred::Accepted,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Transferred::VoteChanged(actual.into()),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            Transferred::LogBehind(actual.map(Position::from))
        }
    })
}
