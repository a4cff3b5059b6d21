//! The handle of this server's Raft: start it, propose, read behind a barrier, know the leader, stop.
//!
//! A proposal or a barrier waits a bounded time for a leader, then says so. What is on its way is bounded in bytes.

mod leadership;
mod members;
mod space;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use purlin_model::command::{Envelope, LEVEL, Outcome};
use purlin_model::{Fault, FaultCode, Revision, limit};
use purlin_wire::rpc::Consistency;
use tokio::sync::{Mutex, Semaphore, watch};

use super::codec::{self, SnapshotHead};
use super::log::LogGauge;
use super::machine::{Applied, Machine, Store};
use super::network::CallKind;
use super::serve::{self, Incoming};
use super::snapshot::Export;
use super::types::{Reply, ServerNode, TypeConfig};

pub use leadership::{Leader, Leadership};
pub use members::{MEMBERS_MAX, Member};
pub(crate) use space::is_full;
pub(crate) use start::open;
pub use start::{RaftOptions, StartError};

/// How long a write or a read waits for a leader and a majority.
const LEADER_WAIT: Duration = Duration::from_secs(7);
/// What proposals on their way may take in memory, in permits of a KiB each.
const IN_FLIGHT_KIB: usize = 64 * 1024;
/// When no other leader comes, who waits asks again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long `shutdown` waits for the files to be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

pub(crate) type Raft<M> = openraft::Raft<TypeConfig, Store<M>>;

/// This server's part in the cluster. Clones share it.
pub struct RaftHandle<M: Machine> {
    inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for RaftHandle<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<M: Machine> {
    raft: Raft<M>,
    own: u64,
    node: ServerNode,
    applied: watch::Receiver<Arc<Applied<M>>>,
    leadership: watch::Receiver<Leadership>,
    /// Why this server cannot go on; nobody but the process can mend that.
    dead: watch::Sender<Option<String>>,
    stopping: Arc<AtomicBool>,
    log: LogGauge,
    incoming: Incoming,
    in_flight: Semaphore,
    /// Held while the members of the cluster change.
    changing: Mutex<()>,
    proposals: AtomicU64,
    /// Where snapshots lie, and what is on its way to become one.
    snapshots: PathBuf,
}

/// Figures for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    pub term: u64,
    pub leading: bool,
    pub voters: usize,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Of the log on disk.
    pub log_bytes: u64,
    /// Since start: how often the log was synced, and what was proposed here.
    pub syncs: u64,
    pub proposals: u64,
    /// What proposals on their way take now.
    pub in_flight_bytes: u64,
    /// The disk is full: no writes are taken.
    pub full: bool,
    /// What the log can count on, what is free beside it, and what snapshots take.
    pub reserve_bytes: u64,
    pub free_bytes: u64,
    pub snapshot_bytes: u64,
}

impl<M: Machine> RaftHandle<M> {
    /// Makes this server the only member of a new cluster. Does nothing if it is in one already.
    pub async fn initialize_single(&self) -> Result<(), Fault> {
        let members = BTreeMap::from([(self.inner.own, self.inner.node.clone())]);
        self.initialize(members).await
    }

    pub(crate) async fn initialize(&self, members: BTreeMap<u64, ServerNode>) -> Result<(), Fault> {
        let stopped =
            |error: &dyn std::fmt::Display| Fault::unavailable(format!("raft does not run here: {error}"));
        if self.inner.raft.is_initialized().await.map_err(|error| stopped(&error))? {
            return Ok(());
        }
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(error) => Fault::internal(format!("cannot start a cluster: {error}")),
            RaftError::Fatal(error) => stopped(&error),
        })
    }

    /// Puts a command into the log. When this returns, it is on the disks of a majority and applied here.
    ///
    /// May be dropped, but the command may then still be carried out; so it may after `Unavailable`. Repeat it under
    /// the same request id.
    pub async fn propose(&self, envelope: Envelope) -> Result<Outcome, Fault> {
        if envelope.level > LEVEL {
            let text = format!(
                "command level {} is above {LEVEL}, the newest that this server knows",
                envelope.level
            );
            return Err(Fault::invalid(text));
        }
        let bytes = codec::size(&envelope).map_err(|error| Fault::internal(error.to_string()))?;
        if bytes > limit::COMMAND_BYTES {
            let name = envelope.command.name();
            let text = format!("{name} of {bytes} bytes is over the limit of {} bytes", limit::COMMAND_BYTES);
            return Err(Fault::new(FaultCode::TooLarge, text));
        }
        self.refuse_when_full()?;
        self.inner.proposals.fetch_add(1, Ordering::Relaxed);
        let proposed = Box::pin(self.propose_until_led(envelope, bytes));
        tokio::time::timeout(LEADER_WAIT, proposed).await.unwrap_or_else(|_| Err(no_leader()))
    }

    async fn propose_until_led(&self, envelope: Envelope, bytes: usize) -> Result<Outcome, Fault> {
        let permits = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let _permit = self.inner.in_flight.acquire_many(permits).await.map_err(|_| no_leader())?;
        loop {
            let mut led = self.leadership();
            match self.inner.raft.client_write(envelope.clone()).await {
                Ok(done) => {
                    return match done.data {
                        Reply::Outcome(outcome) => Ok(outcome),
                        Reply::Nothing => Err(Fault::internal("the command was applied without an outcome")),
                    };
                }
                Err(RaftError::APIError(
                    ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
                )) => self.led_elsewhere(&to)?,
                Err(RaftError::APIError(error)) => return Err(Fault::internal(error.to_string())),
                Err(RaftError::Fatal(error)) => return Err(self.stopped(&error)),
            }
            self.next_leader(&mut led).await?;
        }
    }

    /// Returns when a read of the published state is as new as was asked for: how new it then is at least.
    pub async fn read_barrier(&self, consistency: Consistency) -> Result<Revision, Fault> {
        let policy = match consistency {
            Consistency::Stale => return Ok(self.inner.applied.borrow().revision),
            Consistency::Default => ReadPolicy::LeaseRead,
            Consistency::Consistent => ReadPolicy::ReadIndex,
        };
        let ready = Box::pin(self.read_until_led(policy));
        tokio::time::timeout(LEADER_WAIT, ready).await.unwrap_or_else(|_| Err(no_leader()))
    }

    async fn read_until_led(&self, mut policy: ReadPolicy) -> Result<Revision, Fault> {
        loop {
            let mut led = self.leadership();
            match self.inner.raft.ensure_linearizable(policy.clone()).await {
                // It is applied here by now, so the state knows what it is called.
                Ok(at) => {
                    return Ok(self.inner.applied.borrow().state.revision(Revision(at.index())));
                }
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                    self.led_elsewhere(&to)?
                }
                // A lease that ran out is no reason to refuse: the others are asked instead.
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                    if policy == ReadPolicy::LeaseRead {
                        policy = ReadPolicy::ReadIndex;
                        continue;
                    }
                }
                Err(RaftError::Fatal(error)) => return Err(self.stopped(&error)),
            }
            self.next_leader(&mut led).await?;
        }
    }

    /// Somebody else leads: the caller must go there. Nobody does: it may wait.
    fn led_elsewhere(&self, to: &ForwardToLeader<TypeConfig>) -> Result<(), Fault> {
        match (to.leader_id, &to.leader_node) {
            (Some(id), Some(node)) if id != self.inner.own => Err(elsewhere(&node.name, &node.address)),
            _ => Ok(()),
        }
    }

    /// Until another leads, or for a moment: a leader whose lease ran out gets it back without a change.
    async fn next_leader(&self, led: &mut watch::Receiver<Leadership>) -> Result<(), Fault> {
        match tokio::time::timeout(ASK_AGAIN, led.changed()).await {
            Ok(Err(_)) => Err(self.stopped(&"it ended")),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn stopped(&self, error: &dyn std::fmt::Display) -> Fault {
        let reason = self.inner.dead.borrow().clone().unwrap_or_else(|| error.to_string());
        Fault::unavailable(format!("raft stopped on this server: {reason}"))
    }

    /// The newest state; the receiver also tells when there is a newer one.
    pub fn applied(&self) -> watch::Receiver<Arc<Applied<M>>> {
        self.inner.applied.clone()
    }

    /// The newest state, as what a snapshot of it says of itself.
    pub(crate) fn export(&self) -> Export<M> {
        let applied = self.inner.applied.borrow().clone();
        Export { state: applied.state.clone(), head: SnapshotHead::of(applied.last) }
    }

    /// Where snapshots lie; a file that ends in `.tmp` there does not outlive a start.
    pub(crate) fn snapshot_dir(&self) -> &Path {
        &self.inner.snapshots
    }

    /// Who leads, as far as this server knows.
    pub fn leader(&self) -> Option<Leader> {
        self.inner.leadership.borrow().leader.clone()
    }

    /// Follows who leads. What is known now counts as seen.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        let mut leadership = self.inner.leadership.clone();
        leadership.mark_unchanged();
        leadership
    }

    /// Whether this server leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().here
    }

    /// How long ago this server heard of the leader; nothing where it leads itself.
    pub fn last_contact(&self) -> Duration {
        if self.is_leader() { Duration::ZERO } else { self.inner.incoming.silence() }
    }

    /// Resolves when the published state is at least that new.
    pub async fn reached(&self, revision: Revision) -> Result<(), Fault> {
        let mut applied = self.inner.applied.clone();
        let reached = applied.wait_for(|applied| applied.revision >= revision).await;
        reached.map(|_| ()).map_err(|_| self.stopped(&"it ended"))
    }

    /// Whether its log has never held anything: a server that has not been let in yet.
    pub async fn is_empty(&self) -> Result<bool, Fault> {
        self.inner.raft.is_initialized().await.map(|is| !is).map_err(|error| self.stopped(&error))
    }

    /// Whether it is the one voter of its cluster.
    pub async fn is_alone(&self) -> Result<bool, Fault> {
        let own = self.inner.own;
        let alone = self.inner.raft.with_raft_state(move |state| {
            let voters = state.membership_state.effective().voter_ids();
            voters.eq([own])
        });
        alone.await.map_err(|error| self.stopped(&error))
    }

    /// Whether this server has a vote, as far as it knows.
    pub fn is_voter(&self) -> bool {
        self.inner.raft.voter_ids().any(|id| id == self.inner.own)
    }

    /// This server's number in the cluster.
    pub fn id(&self) -> u64 {
        self.inner.own
    }

    /// Resolves once the state is at least as new as it was before this server stopped last, which takes a leader.
    pub async fn recovered(&self) -> Result<(), Fault> {
        let waited = self.inner.raft.wait_for_recovery(Some(LEADER_WAIT)).await;
        waited.map(|_| ()).map_err(|_| no_leader())
    }

    /// Answers a call of a peer; for the transport's receiving end, which must have checked that it is a server.
    pub async fn serve(&self, kind: CallKind, body: &[u8]) -> Bytes {
        let inner = &self.inner;
        let body = match serve::meant_for(inner.own, body) {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let (answer, incompatible) = serve::serve(&inner.raft, &inner.incoming, kind, body).await;
        if let Some(why) = incompatible {
            leadership::die(&inner.dead, why);
            if let Err(error) = inner.raft.shutdown().await {
                tracing::warn!(%error, "raft did not stop in order");
            }
        }
        answer
    }

    pub fn metrics(&self) -> Metrics {
        let raft = self.inner.raft.metrics();
        let raft = raft.borrow_watched();
        let index = |id: &Option<super::types::LogId>| id.map_or(0, |id| id.index);
        let free = self.inner.in_flight.available_permits();
        Metrics {
            term: raft.current_term,
            leading: raft.current_leader == Some(self.inner.own),
            voters: raft.membership_config.voter_ids().count(),
            last_log: raft.last_log_index.unwrap_or(0),
            committed: index(&raft.local_committed),
            applied: index(&raft.last_applied),
            snapshot: index(&raft.snapshot),
            purged: index(&raft.purged),
            log_bytes: self.inner.log.disk_bytes(),
            syncs: self.inner.log.syncs(),
            proposals: self.inner.proposals.load(Ordering::Relaxed),
            in_flight_bytes: (IN_FLIGHT_KIB.saturating_sub(free) as u64) * 1024,
            full: self.inner.log.is_full(),
            reserve_bytes: self.inner.log.room(),
            free_bytes: self.inner.log.free_bytes(),
            snapshot_bytes: bytes_in(&self.inner.snapshots),
        }
    }

    /// Resolves, with the reason, when this server's Raft ended without having been told to. The process must end
    /// then, and start again from its disk. Stays pending for ever after `shutdown`.
    pub async fn dead(&self) -> String {
        let mut dead = self.inner.dead.subscribe();
        let reason = dead.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops. What was acknowledged stays; when this returns the files are closed.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        let closed = self.inner.log.closed();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        if tokio::time::timeout(CLOSE_WAIT, closed).await.is_err() {
            tracing::warn!("raft log was still open {CLOSE_WAIT:?} after the stop");
        }
    }

    /// As if others had filled the disk.
    #[cfg(test)]
    pub(crate) fn deny_space(&self, deny: bool) {
        self.inner.log.deny_space(deny);
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft<M> {
        &self.inner.raft
    }
}

fn elsewhere(name: &str, address: &str) -> Fault {
    Fault::unavailable(format!("this server does not lead the cluster, ask {name} at {address}"))
}

/// Of the files of a directory.
fn bytes_in(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
}

fn no_leader() -> Fault {
    Fault::unavailable("No cluster leader")
}
