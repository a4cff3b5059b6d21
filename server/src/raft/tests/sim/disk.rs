//! A log on a disk that forgets: what was written is readable at once, and survives a crash only once it was synced.
//!
//! Changes become durable in the order in which they were written. A crash keeps those that were synced, and as many
//! of the others as the seed says, because a disk may have written what it was not yet asked to keep.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Notify, oneshot};

use super::Bug;
use super::world::World;
use crate::raft::codec::{self, Ballot, Position};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// What a log holds.
#[derive(Debug, Clone, Default)]
struct Image {
    vote: Option<Ballot>,
    purged: Option<Position>,
    committed: Option<Position>,
    entries: BTreeMap<u64, Bytes>,
}

#[derive(Debug, Clone)]
enum Change {
    Append(Vec<(u64, Bytes)>),
    Vote(Ballot),
    Truncate(u64),
    Purge(Position),
}

enum Done {
    Nobody,
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<()>),
}

impl Image {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Truncate(from) => self.entries.retain(|index, _| index < from),
            Change::Purge(upto) => {
                self.purged = Some(*upto);
                self.entries.retain(|index, _| *index > upto.index);
            }
        }
    }
}

#[derive(Default)]
struct Inner {
    durable: Image,
    /// As the running server sees it.
    now: Image,
    pending: VecDeque<(Change, Done)>,
    /// Counts the lives of its server: an earlier one cannot write any more.
    life: u64,
}

/// The disk of one server, which outlives it.
pub(super) struct Disk {
    server: u64,
    world: Arc<World>,
    inner: Mutex<Inner>,
}

impl Disk {
    pub(super) fn new(world: &Arc<World>, server: u64) -> Arc<Self> {
        Arc::new(Self { server, world: world.clone(), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The power goes off.
    pub(super) fn crash(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        let pending = std::mem::take(&mut inner.pending);
        let kept = usize::try_from(self.world.below(pending.len() as u64 + 1)).unwrap();
        self.world.tell(format_args!("disk {} lost {} changes", self.server, pending.len() - kept));
        pending.iter().take(kept).for_each(|(change, _)| inner.durable.change(change));
        drop(inner);
        for (_, done) in pending {
            if let Done::Raft(callback) = done {
                callback.io_completed(Err(crashed()));
            }
        }
    }

    /// The log as a starting server finds it.
    pub(super) fn open(self: &Arc<Self>) -> MemoryLog {
        let mut inner = self.lock();
        inner.now = inner.durable.clone();
        // It is a hint: what is not there is not committed as far as this server knows.
        let last = inner.now.entries.keys().next_back().copied();
        inner.now.committed = inner.now.committed.filter(|at| Some(at.index) <= last);
        let log = MemoryLog { disk: self.clone(), life: inner.life, written: Arc::default() };
        tokio::spawn(log.clone().sync());
        log
    }
}

/// The log of one life of a server.
#[derive(Clone)]
pub(super) struct MemoryLog {
    disk: Arc<Disk>,
    life: u64,
    /// There is something to sync.
    written: Arc<Notify>,
}

impl MemoryLog {
    fn lock(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.life == self.life { Ok(inner) } else { Err(crashed()) }
    }

    /// Syncs what was written, again and again: all that waits when a sync begins is durable when it ends.
    async fn sync(self) {
        loop {
            self.written.notified().await;
            loop {
                let Ok(waiting) = self.lock().map(|inner| inner.pending.len()) else { return };
                if waiting == 0 {
                    break;
                }
                tokio::time::sleep(sync_time(&self.disk.world)).await;
                let Ok(mut inner) = self.lock() else { return };
                let mut told = Vec::with_capacity(waiting);
                for (change, done) in inner.pending.drain(..waiting).collect::<Vec<_>>() {
                    inner.durable.change(&change);
                    told.push(done);
                }
                inner.durable.committed = inner.now.committed;
                drop(inner);
                self.disk.world.tell(format_args!("disk {} synced {waiting}", self.disk.server));
                for done in told {
                    match done {
                        Done::Raft(callback) => callback.io_completed(Ok(())),
                        Done::Caller(tell) => drop(tell.send(())),
                        Done::Nobody => {}
                    }
                }
            }
        }
    }

    fn write(&self, change: Change, done: Done) -> io::Result<()> {
        let mut inner = self.lock()?;
        inner.now.change(&change);
        inner.pending.push_back((change, done));
        drop(inner);
        self.written.notify_one();
        Ok(())
    }

    async fn write_and_wait(&self, change: Change) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.write(change, Done::Caller(tell))?;
        told.await.map_err(|_| crashed())
    }

    fn has(&self, bug: Bug) -> bool {
        self.disk.world.bug == Some(bug)
    }

    pub(super) fn purged(&self) -> Option<u64> {
        self.lock().ok()?.now.purged.map(|purged| purged.index)
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let bounds: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        let inner = self.lock()?;
        inner.now.entries.range(bounds).map(|(_, bytes)| Ok(codec::read_entry(bytes)?)).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock()?.now.vote.map(Vote::from))
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let inner = self.lock()?;
        let purged = inner.now.purged.map(LogId::from);
        let last =
            inner.now.entries.values().next_back().map(|bytes| codec::read_entry(bytes)).transpose()?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.map(|entry| entry.log_id).max(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let change = Change::Vote((*vote).into());
        if self.has(Bug::ForgottenVote) {
            self.lock()?.now.change(&change);
            return Ok(());
        }
        self.write_and_wait(change).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.lock()?.now.committed = committed.map(Position::from);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock()?.now.committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| -> io::Result<(u64, Bytes)> {
            Ok((entry.log_id.index, codec::write_entry(&entry)?.into()))
        });
        let change = Change::Append(entries.collect::<io::Result<_>>()?);
        if self.has(Bug::AckBeforeSync) {
            self.write(change, Done::Nobody)?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.write(change, Done::Raft(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.write_and_wait(Change::Truncate(last.map_or(0, |last| last.index + 1))).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.write(Change::Purge(upto.into()), Done::Nobody)
    }
}

fn crashed() -> io::Error {
    io::Error::other("this server has crashed")
}

/// How long a sync takes on a disk that is now and then busy.
fn sync_time(world: &World) -> Duration {
    let busy = world.net.busy_ms();
    let usual = match world.below(100) {
        0 => world.span(50..450),
        1..10 => world.span(5..25),
        _ => world.span(1..4),
    };
    usual + world.span(busy / 2..busy + 1)
}
