//! The one thread that writes the log: many queued changes, one sync, then all who waited are told.
//!
//! Changes reach the disk in the order in which they were queued. After a failed write nothing more is written and
//! everybody gets the same error: what a failed sync left behind is not known, so the server must start anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::mark::Mark;
use super::store::{self, COMMITTED, PURGED, VOTE, Written};
use super::tail::Tail;
use super::{Batch, DurableSled};
use crate::raft::codec::{self, Ballot, Position};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// Changes that may wait for the thread.
pub(super) const QUEUE: usize = 256;
/// One group: what shares a sync.
const GROUP_JOBS: usize = 256;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Between two looks whether there is space again.
const SPACE_RETRY: Duration = Duration::from_millis(200);
/// Keys that are deleted with one group, so that purging never holds up a write for long.
const PURGE_KEYS: usize = 512;

pub(super) struct Job {
    pub change: Change,
    pub done: Done,
}

pub(super) enum Change {
    Append(Vec<Arc<Entry>>),
    Vote(Vote),
    /// Everything from this index on goes away.
    Truncate(u64),
    Purge(LogId),
}

/// Whom to tell. Dropped without a word it says that the writer is gone, so that nobody waits for ever.
pub(super) struct Done(Option<Waiter>);

enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Done {
    pub(super) fn nobody() -> Self {
        Self(None)
    }

    pub(super) fn raft(callback: IOFlushed<TypeConfig>) -> Self {
        Self(Some(Waiter::Raft(callback)))
    }

    pub(super) fn caller() -> (Self, oneshot::Receiver<io::Result<()>>) {
        let (tell, told) = oneshot::channel();
        (Self(Some(Waiter::Caller(tell))), told)
    }

    fn tell(mut self, result: io::Result<()>) {
        self.send(result);
    }

    fn send(&mut self, result: io::Result<()>) {
        match self.0.take() {
            Some(Waiter::Raft(callback)) => callback.io_completed(result),
            Some(Waiter::Caller(tell)) => drop(tell.send(result)),
            None => {}
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.send(Err(store::writer_gone()));
    }
}

pub(super) struct Writer {
    db: Arc<DurableSled>,
    tail: Arc<Tail>,
    jobs: mpsc::Receiver<Job>,
    /// Entries up to here may still lie on the disk although the log starts behind them.
    purging: Option<u64>,
    mark: Mark,
    written: Arc<Written>,
    failed: Option<(io::ErrorKind, String)>,
}

/// The part of a group that is not yet on the disk.
#[derive(Default)]
struct Group {
    batch: Batch,
    bytes: usize,
    done: Vec<Done>,
    /// First index and stored sizes of runs of entries.
    appended: Vec<(u64, Vec<usize>)>,
    /// Of the newest vote.
    term: Option<u64>,
}

impl Writer {
    pub(super) fn new(
        db: Arc<DurableSled>,
        tail: Arc<Tail>,
        jobs: mpsc::Receiver<Job>,
        purging: Option<u64>,
        mark: Mark,
        written: Arc<Written>,
    ) -> Self {
        Self { db, tail, jobs, purging, mark, written, failed: None }
    }

    /// Until the last sender is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            let mut group = Group::default();
            let mut jobs = 0;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                self.take(&mut group, job);
                jobs += 1;
                if jobs < GROUP_JOBS && group.bytes < GROUP_BYTES {
                    next = self.jobs.try_recv().ok();
                }
            }
            self.add_lazy(&mut group);
            self.finish(group);
        }
        let mut rest = Group::default();
        self.add_committed(&mut rest);
        self.finish(rest);
        if self.may_mark() {
            self.mark.write_or_warn();
        }
    }

    fn may_mark(&self) -> bool {
        self.failed.is_none() && self.db.is_durable()
    }

    /// Waits for work, and deletes purged entries as long as there is none.
    fn next(&mut self) -> Option<Job> {
        while self.purging.is_some() && self.failed.is_none() && !self.db.reserve().is_full() {
            match self.jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    let mut group = Group::default();
                    self.add_lazy(&mut group);
                    self.finish(group);
                }
            }
        }
        if self.may_mark() {
            let idle = self.jobs.is_empty();
            self.mark.write_if_due(idle);
        }
        self.jobs.blocking_recv()
    }

    fn take(&mut self, group: &mut Group, job: Job) {
        if let Some((kind, text)) = &self.failed {
            return job.done.tell(Err(io::Error::new(*kind, text.clone())));
        }
        let added = match &job.change {
            Change::Append(entries) => add_entries(group, entries),
            Change::Vote(vote) => add_vote(group, *vote),
            Change::Truncate(from) => self.truncate(group, *from),
            Change::Purge(upto) => self.purge(group, *upto),
        };
        match added {
            Ok(()) => group.done.push(job.done),
            Err(error) => {
                self.fail(&error);
                job.done.tell(Err(error));
            }
        }
    }

    /// The entries to delete must be on the disk to be found: what came before goes first.
    fn truncate(&mut self, group: &mut Group, from: u64) -> io::Result<()> {
        self.finish(std::mem::take(group));
        self.mark.lower(from)?;
        loop {
            // From the end backward, so that a power cut in between leaves no hole.
            let keys = self.last_keys(from)?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for key in &keys {
                batch.remove(key);
            }
            self.db.commit(batch)?;
        }
    }

    /// Up to a slice of keys at the end of the log, whole entries, none below `from`.
    fn last_keys(&self, from: u64) -> io::Result<Vec<Vec<u8>>> {
        let (low, high) = store::range(from..u64::MAX);
        let Some(last) = self.db.last_key(&low, &high)? else { return Ok(Vec::new()) };
        let last = store::index_of(&last).unwrap_or(from);
        let first = from.max(last.saturating_sub(63));
        let (low, high) = store::range(first..u64::MAX);
        self.db.keys(&low, &high, usize::MAX)
    }

    fn purge(&mut self, group: &mut Group, upto: LogId) -> io::Result<()> {
        let bytes = codec::write(&Position::from(upto))?;
        group.batch.put(PURGED, &bytes);
        self.purging = self.purging.max(Some(upto.index));
        Ok(())
    }

    /// What may ride along with a write but is not worth a sync of its own.
    fn add_lazy(&mut self, group: &mut Group) {
        self.add_committed(group);
        // On a full disk it must not happen that the engine gives back what it then cannot have any more.
        let Some(upto) = self.purging.filter(|_| !self.db.reserve().is_full()) else { return };
        let (low, high) = store::range(0..upto + 1);
        match self.db.keys(&low, &high, PURGE_KEYS) {
            Ok(keys) => {
                if keys.len() < PURGE_KEYS {
                    self.purging = None;
                }
                for key in keys {
                    group.batch.remove(&key);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn add_committed(&mut self, group: &mut Group) {
        let Some(committed) = self.tail.take_dirty_committed() else { return };
        match codec::write(&Position::from(committed)) {
            Ok(bytes) => group.batch.put(COMMITTED, &bytes),
            Err(error) => self.fail(&error.into()),
        }
    }

    fn finish(&mut self, group: Group) {
        let result = match &self.failed {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => self.await_space(group.bytes).and_then(|()| self.db.commit(group.batch)),
        };
        match result {
            Ok(()) => {
                for (first, sizes) in &group.appended {
                    self.tail.durable(*first, sizes);
                    self.mark.reached(first + sizes.len().saturating_sub(1) as u64);
                    self.written.entries.fetch_add(sizes.len() as u64, Ordering::Relaxed);
                    self.written.bytes.fetch_add(sizes.iter().sum::<usize>() as u64, Ordering::Relaxed);
                }
                if let Some(term) = group.term {
                    self.mark.voted(term);
                }
                for done in group.done {
                    done.tell(Ok(()));
                }
            }
            Err(error) => {
                self.fail(&error);
                for done in group.done {
                    done.tell(Err(io::Error::new(error.kind(), error.to_string())));
                }
            }
        }
    }

    /// A write that the disk has no room for is not begun: who waits for it waits until there is.
    fn await_space(&self, bytes: usize) -> io::Result<()> {
        let mut said = false;
        while !self.db.reserve().admits(bytes as u64) {
            if self.jobs.is_closed() {
                let text = "the server stops with writes that the full disk had no room for: nobody was told of them";
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            if !std::mem::replace(&mut said, true) {
                tracing::error!(bytes, "storage is full: writes to the raft log wait for space");
            }
            std::thread::sleep(SPACE_RETRY);
        }
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::error!(%error, "raft log cannot be written, nothing more will be");
            self.failed = Some((error.kind(), error.to_string()));
        }
    }
}

fn add_vote(group: &mut Group, vote: Vote) -> io::Result<()> {
    let ballot = Ballot::from(vote);
    group.batch.put(VOTE, &codec::write(&ballot)?);
    group.term = Some(ballot.term);
    Ok(())
}

fn add_entries(group: &mut Group, entries: &[Arc<Entry>]) -> io::Result<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    let mut sizes = Vec::with_capacity(entries.len());
    for entry in entries {
        let bytes = codec::write_entry(entry)?;
        store::put_entry(&mut group.batch, entry.log_id.index, &bytes)?;
        group.bytes += bytes.len();
        sizes.push(bytes.len());
    }
    group.appended.push((first.log_id.index, sizes));
    Ok(())
}
