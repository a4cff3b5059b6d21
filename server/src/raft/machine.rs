//! The state machine: applies the log to the state in memory and publishes what came of it.
//!
//! The state is rebuilt at every start from the newest snapshot and the log behind it. It is published whole after
//! each batch, before anybody is told the outcome of a command in it, so that who wrote can read what was written.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, RaftSnapshotBuilder, RaftStateMachine};
use purlin_model::Revision;
use purlin_model::command::{Envelope, Outcome};
use tokio::sync::watch;

use super::codec;
use super::snapshot::{SnapshotError, SnapshotStore};
use super::types::{Entry, LogId, Payload, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries applied before the state is published.
const BATCH: usize = 256;

/// What the log drives: a pure function of its entries, cheap to clone.
pub trait Machine: Clone + Send + Sync + 'static {
    /// What a command changed, for those who follow changes.
    type Touched: Send + 'static;

    fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, Self::Touched);
    /// What the position of an entry is called by whoever reads the state; of those that it holds.
    fn revision(&self, index: Revision) -> Revision {
        index
    }

    fn encode(&self) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Result<Self, String>;

    /// As `encode`, without holding all of it in memory. An error is the writer's.
    fn encode_into(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.encode())
    }

    /// As `decode`, without holding all of it in memory.
    fn decode_from(input: &mut dyn Read) -> Result<Self, String> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Self::decode(&bytes)
    }
}

/// The newest state, and how far in the log it is.
#[derive(Debug, Clone)]
pub struct Applied<M> {
    pub state: Arc<M>,
    /// Of the last entry applied, whether it was a command or one of Raft's own.
    pub revision: Revision,
    pub(crate) last: Option<LogId>,
}

/// Who follows the changes. Called from the apply path: it must neither block nor fail.
pub trait Hook<M: Machine>: Send + Sync + 'static {
    /// Commands were applied; `state` holds them all.
    fn applied(&self, state: &Arc<M>, touched: Vec<M::Touched>);
    /// The state was replaced by a snapshot: anything may have changed.
    fn replaced(&self, state: &Arc<M>, revision: Revision);
}

/// For those who follow the watch only.
impl<M: Machine> Hook<M> for () {
    fn applied(&self, _state: &Arc<M>, _touched: Vec<M::Touched>) {}
    fn replaced(&self, _state: &Arc<M>, _revision: Revision) {}
}

pub(crate) struct Store<M: Machine> {
    state: Arc<M>,
    last: Option<LogId>,
    membership: StoredMembership,
    publish: watch::Sender<Arc<Applied<M>>>,
    hook: Arc<dyn Hook<M>>,
    snapshots: SnapshotStore,
}

/// What the newest usable snapshot gave at start.
pub(crate) struct Loaded<M> {
    pub state: M,
    pub last: Option<LogId>,
    membership: StoredMembership,
    /// Snapshots that had to be passed over.
    pub damaged: Vec<SnapshotError>,
}

impl<M: Machine> Loaded<M> {
    /// Blocks on the disk. Without a snapshot the state is `empty`.
    pub(crate) fn load(snapshots: &SnapshotStore, empty: M) -> Result<Self, SnapshotError> {
        let (newest, damaged) = snapshots.newest()?;
        let Some(Snapshot { meta, snapshot }) = newest else {
            return Ok(Self { state: empty, last: None, membership: StoredMembership::default(), damaged });
        };
        let state = M::decode(&snapshot).map_err(|why| snapshots.not_understood(&meta, why))?;
        Ok(Self { state, last: meta.last_log_id, membership: meta.last_membership, damaged })
    }
}

/// A state that is brought up to its log without Raft.
pub(crate) struct Replayed<M> {
    loaded: Loaded<M>,
}

impl<M: Machine> From<Loaded<M>> for Replayed<M> {
    fn from(loaded: Loaded<M>) -> Self {
        Self { loaded }
    }
}

impl<M: Machine> Replayed<M> {
    pub(crate) fn last(&self) -> Option<LogId> {
        self.loaded.last
    }

    pub(crate) fn membership(&self) -> &StoredMembership {
        &self.loaded.membership
    }

    pub(crate) fn into_state(self) -> M {
        self.loaded.state
    }

    pub(crate) fn apply(&mut self, entry: Entry) -> io::Result<()> {
        match &entry.payload {
            Payload::Blank => {}
            Payload::Membership(membership) => {
                self.loaded.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            Payload::Normal(envelope) => {
                apply_one(&mut self.loaded.state, entry.log_id, envelope)?;
            }
        }
        self.loaded.last = Some(entry.log_id);
        Ok(())
    }
}

impl<M: Machine> Store<M> {
    pub(crate) fn new(loaded: Loaded<M>, snapshots: SnapshotStore, hook: Arc<dyn Hook<M>>) -> Self {
        let (state, last) = (Arc::new(loaded.state), loaded.last);
        let publish = watch::Sender::new(Arc::new(applied(&state, last)));
        Self { state, last, membership: loaded.membership, publish, hook, snapshots }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Applied<M>>> {
        self.publish.subscribe()
    }

    fn publish(&self) {
        self.publish.send_replace(Arc::new(applied(&self.state, self.last)));
    }

    /// Applies a batch to a copy, then puts the copy in place: readers see all of it or nothing.
    fn apply_batch(&mut self, batch: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>) -> io::Result<()> {
        let mut state = M::clone(&self.state);
        let mut touched = Vec::new();
        let mut replies = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            let reply = match &entry.payload {
                Payload::Blank => Reply::Nothing,
                Payload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Reply::Nothing
                }
                Payload::Normal(envelope) => {
                    let (outcome, what) = apply_one(&mut state, entry.log_id, envelope)?;
                    touched.push(what);
                    Reply::Outcome(outcome)
                }
            };
            self.last = Some(entry.log_id);
            replies.extend(responder.map(|responder| (responder, reply)));
        }
        self.state = Arc::new(state);
        // Whoever waits for a revision reads what the hook passed on, so that comes first.
        if !touched.is_empty() {
            self.hook.applied(&self.state, touched);
        }
        self.publish();
        for (responder, reply) in replies {
            responder.send(reply);
        }
        Ok(())
    }

    fn install(&mut self, meta: &SnapshotMeta, state: M) {
        self.state = Arc::new(state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.hook.replaced(&self.state, revision(self.last));
        self.publish();
    }
}

fn applied<M: Machine>(state: &Arc<M>, last: Option<LogId>) -> Applied<M> {
    Applied { state: state.clone(), revision: state.revision(revision(last)), last }
}

fn revision(last: Option<LogId>) -> Revision {
    Revision(last.map_or(0, |id| id.index))
}

/// Does what blocks on the disk where it holds up nobody else.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // What is done on another thread comes back at no moment that a seed could tell.
    #[cfg(test)]
    if super::tests::sim::is_here() {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A command that cannot be applied stops the server: going on without it would part it from the others.
fn apply_one<M: Machine>(state: &mut M, at: LogId, envelope: &Envelope) -> io::Result<(Outcome, M::Touched)> {
    let refuse = |why: String| {
        let text = format!("cannot apply log entry {} ({}): {why}", at.index, envelope.command.name());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    codec::understood(envelope).map_err(|error| refuse(error.to_string()))?;
    catch_unwind(AssertUnwindSafe(|| state.apply(Revision(at.index), envelope)))
        .map_err(|_| refuse("applying it failed inside this build, which is a defect: report it".into()))
}

impl<M: Machine> RaftStateMachine<TypeConfig> for Store<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<(Entry, Option<ApplyResponder<TypeConfig>>), io::Error>>
            + Unpin
            + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<_>>()?)?;
        }
        Ok(())
    }

    /// None is begun that the disk has no room for. Raft asks again when there is more to keep.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<M>> {
        if !force && let Err(why) = self.snapshots.may_build() {
            tracing::warn!(why, "no snapshot is made yet, so the log keeps growing");
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            state: self.state.clone(),
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let (snapshots, kept) = (self.snapshots.clone(), meta.clone());
        let install = on_disk(move || {
            // Understood first: what cannot be read must not replace what can.
            let state = M::decode(&snapshot).map_err(|why| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("cannot take in the leader's snapshot: {why}"),
                )
            })?;
            snapshots.save(&kept, |out| out.write_all(&snapshot))?;
            Ok(state)
        });
        let state = install.await?;
        self.install(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        let (snapshot, mut damaged) = on_disk(move || Ok(snapshots.newest()?)).await?;
        // An older one may not reach the log any more: only a start can tell, so this run ends here.
        match damaged.pop() {
            Some(error) => Err(error.into()),
            None => Ok(snapshot),
        }
    }
}

/// A view of the state that later entries do not change.
pub(crate) struct Builder<M> {
    state: Arc<M>,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Builder<M> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (state, meta, snapshots) = (self.state.clone(), self.meta.clone(), self.snapshots.clone());
        on_disk(move || {
            if let Err(error) = snapshots.save(&meta, |out| state.encode_into(out)) {
                // The log still has everything. A snapshot of nothing is older than any, so Raft ignores it.
                tracing::error!(%error, "a snapshot cannot be written, so the log keeps growing");
                snapshots.failed();
                return Ok(Snapshot { meta: SnapshotMeta::default(), snapshot: Bytes::new() });
            }
            // Raft wants to know what it reaches to; who needs the bytes reads the file.
            Ok(Snapshot { meta, snapshot: Bytes::new() })
        })
        .await
    }
}
