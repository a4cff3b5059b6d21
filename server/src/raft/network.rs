//! How this server reaches the others for Raft: openraft's calls as bytes over a transport of somebody else's.
//!
//! A call has a deadline, and an answer that does not come in time or does not make sense makes the peer unreachable,
//! which openraft answers by waiting longer. After any failure the transport is told to forget the connection, so
//! that a peer that started again is not starved by a dead one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{self, Position, SnapshotHead};
use super::message::{Answer, Append, Appended, Candidacy, Piece, Received, Transfer, Transferred, Voted};
use super::types::{LogId, ServerNode, Snapshot, TypeConfig, Vote};

/// Entries in one message, unless a single one is larger.
const APPEND_BYTES: usize = 1024 * 1024;
/// For a peer to have entries on its disk; what openraft allows for a heartbeat is too little for that.
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// A snapshot travels in pieces of this size.
const PIECE_BYTES: usize = 1024 * 1024;
/// One piece, or the answer to the last one, which installs the snapshot.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked of a peer; a transport passes it on to [`RaftHandle::serve`](super::RaftHandle::serve) there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum CallKind {
    Append,
    Vote,
    PreVote,
    Snapshot,
    TransferLeader,
}

/// Carries calls between servers.
pub trait Transport: Send + Sync + 'static {
    /// Carries `body` to `target` and brings back the answer. Dropping the future cancels the call.
    fn call(&self, target: &ServerNode, kind: CallKind, body: Bytes)
    -> BoxFuture<'static, io::Result<Bytes>>;

    /// The last call failed: a connection that is kept to `target` should not be used again.
    fn forget(&self, target: &ServerNode);
}

/// The transport of a server that has no peers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        target: &ServerNode,
        _kind: CallKind,
        _body: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let text = format!(
            "server {} at {} cannot be reached: this server has no peers",
            target.name, target.address
        );
        Box::pin(async { Err(io::Error::new(io::ErrorKind::NotConnected, text)) })
    }

    fn forget(&self, _target: &ServerNode) {}
}

/// Where the members are now. What openraft replicates with is made once for each of them, and outlives a change of
/// its address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book(Arc<RwLock<BTreeMap<u64, ServerNode>>>);

impl Book {
    pub(crate) fn write(&self, members: BTreeMap<u64, ServerNode>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members;
    }

    fn read(&self, id: u64) -> Option<ServerNode> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

/// A call begins with the number of whom it is for: a server with an empty disk may have the name and the address of
/// one that is gone, and must not be taken for it.
pub(crate) fn addressed<T: Serialize>(target: u64, ask: &T) -> Result<Bytes, codec::CodecError> {
    let mut body = target.to_be_bytes().to_vec();
    body.extend(codec::write(ask)?);
    Ok(body.into())
}

pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) book: Book,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &ServerNode) -> Peer {
        Peer { transport: self.transport.clone(), target, node: node.clone(), book: self.book.clone() }
    }
}

/// The way to one peer.
pub(crate) struct Peer {
    transport: Arc<dyn Transport>,
    target: u64,
    /// As it was known last.
    node: ServerNode,
    book: Book,
}

impl Peer {
    async fn call<A, R>(
        &mut self,
        kind: CallKind,
        ask: &A,
        limit: Duration,
    ) -> Result<R, RPCError<TypeConfig>>
    where
        A: Serialize + Sync,
        R: DeserializeOwned,
    {
        if let Some(node) = self.book.read(self.target) {
            self.node = node;
        }
        let body = addressed(self.target, ask).map_err(|error| self.unreachable(kind, &error))?;
        let answered = tokio::time::timeout(limit, self.transport.call(&self.node, kind, body)).await;
        let bytes = match answered {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                self.transport.forget(&self.node);
                return Err(self.unreachable(kind, &error));
            }
            Err(_) => {
                self.transport.forget(&self.node);
                let text = format!("{kind:?} to server {}: no answer within {limit:?}", self.node.name);
                return Err(RPCError::Network(NetworkError::from_string(text)));
            }
        };
        match codec::read(&bytes) {
            Ok(Answer::Ok(answer)) => Ok(answer),
            Ok(Answer::Refused(why)) => Err(self.unreachable(kind, &why)),
            Err(error) => Err(self.unreachable(kind, &error)),
        }
    }

    fn unreachable(&self, kind: CallKind, why: &dyn std::fmt::Display) -> RPCError<TypeConfig> {
        let text = format!("{kind:?} to server {} at {}: {why}", self.node.name, self.node.address);
        RPCError::Unreachable(Unreachable::from_string(text))
    }

    async fn candidacy(
        &mut self,
        kind: CallKind,
        ask: VoteRequest<TypeConfig>,
        limit: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ask = Candidacy {
            vote: ask.vote.into(),
            last: ask.last_log_id.map(Position::from),
            transfer: ask.leadership_transfer,
        };
        let voted: Voted = self.call(kind, &ask, limit).await?;
        Ok(VoteResponse::new(Vote::from(voted.vote), voted.last.map(LogId::from), voted.granted))
    }

    async fn send_snapshot(&mut self, vote: Vote, snapshot: Snapshot) -> Result<Vote, RPCError<TypeConfig>> {
        let (head, state) = (SnapshotHead::from(&snapshot.meta), snapshot.snapshot);
        let mut offset = 0;
        loop {
            let end = state.len().min(offset + PIECE_BYTES);
            let piece = Piece {
                vote: vote.into(),
                head: head.clone(),
                offset: offset as u64,
                total: state.len() as u64,
                bytes: state.slice(offset..end),
            };
            match self.call(CallKind::Snapshot, &piece, PIECE_TIMEOUT).await? {
                Received::Installed(vote) => return Ok(vote.into()),
                // A peer that asks for anything but what follows lost the beginning: the whole starts anew.
                Received::Next(next) if next == end as u64 && end < state.len() => offset = end,
                Received::Next(_) => {
                    return Err(self.unreachable(CallKind::Snapshot, &"the peer lost what it had received"));
                }
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        ask: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut entries = Vec::with_capacity(ask.entries.len());
        let (mut bytes, mut sent) = (0, ask.prev_log_id);
        for entry in &ask.entries {
            let stored = codec::write_entry(entry).map_err(|e| self.unreachable(CallKind::Append, &e))?;
            bytes += stored.len();
            if bytes > APPEND_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(Bytes::from(stored));
            sent = Some(entry.log_id);
        }
        let whole = entries.len() == ask.entries.len();
        let limit = if entries.is_empty() { option.hard_ttl() } else { APPEND_WITHIN };
        let ask = Append {
            vote: ask.vote.into(),
            previous: ask.prev_log_id.map(Position::from),
            committed: ask.leader_commit.map(Position::from),
            entries,
        };
        Ok(match self.call(CallKind::Append, &ask, limit).await? {
            Appended::Success if whole => AppendEntriesResponse::Success,
            Appended::Success => AppendEntriesResponse::PartialSuccess(sent),
            Appended::Partial(upto) => AppendEntriesResponse::PartialSuccess(upto.map(LogId::from)),
            Appended::Conflict => AppendEntriesResponse::Conflict,
            Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
    }

    async fn vote(
        &mut self,
        ask: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.candidacy(CallKind::Vote, ask, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        ask: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.candidacy(CallKind::PreVote, ask, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        ask: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let expected = *ask.from_leader();
        let last = ask.last_log_id().copied();
        let ask = Transfer { from: expected.into(), to: *ask.to_node_id(), last: last.map(Position::from) };
        Ok(match self.call(CallKind::TransferLeader, &ask, option.soft_ttl()).await? {
            Transferred::Accepted => Ok(()),
            Transferred::VoteChanged(vote) => {
                Err(TransferLeaderError::VoteChanged { expected, actual: vote.into() })
            }
            Transferred::LogBehind(actual) => {
                Err(TransferLeaderError::LogNotFlushed { expected: last, actual: actual.map(LogId::from) })
            }
        })
    }
}
