//! openraft's log storage on the durable engine.
//!
//! Keys: `e` + index + part for entries, which are cut into parts that the engine keeps in its main file; plain names
//! for the vote and the bounds. The log has no hole: it is `(purged, last]`, whatever else still lies on the disk.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{mpsc, watch};

use super::mark::Mark;
use super::reserve::Reserve;
use super::tail::{Inner, Tail};
use super::writer::{Change, Done, Job, QUEUE, Writer};
use super::{Batch, Change as SpaceChange, DurableSled, VALUE_BYTES};
use crate::raft::codec::{self, Ballot, Position};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

pub(super) const VOTE: &[u8] = b"vote";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";
const OWNER: &[u8] = b"owner";
const ENTRY: u8 = b'e';
/// The number of parts precedes the first of them.
const PART_BYTES: usize = VALUE_BYTES - 2;
/// Larger than any command; what is above never came from us.
const ENTRY_BYTES: usize = 1024 * 1024;
/// Entries read at a time when applying, and bytes sent at a time when replicating.
const READ_ENTRIES: u64 = 256;
const READ_BYTES: usize = 1024 * 1024;

pub(super) fn key(index: u64, part: u16) -> [u8; 11] {
    let mut key = [ENTRY; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The index of an entry's key.
pub(super) fn index_of(key: &[u8]) -> Option<u64> {
    match key {
        [ENTRY, rest @ ..] if rest.len() == 10 => {
            rest.first_chunk::<8>().map(|index| u64::from_be_bytes(*index))
        }
        _ => None,
    }
}

/// The keys of a range of entries.
pub(super) fn range(indices: Range<u64>) -> ([u8; 11], [u8; 11]) {
    (key(indices.start, 0), key(indices.end, 0))
}

pub(super) fn put_entry(batch: &mut Batch, index: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > ENTRY_BYTES {
        let text = format!("log entry {index} has {} bytes, more than {ENTRY_BYTES}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let parts = u16::try_from(bytes.chunks(PART_BYTES).len()).map_err(io::Error::other)?;
    for (part, bytes) in (0..parts).zip(bytes.chunks(PART_BYTES)) {
        if part == 0 {
            batch.put(&key(index, part), &[&parts.to_le_bytes(), bytes].concat());
        } else {
            batch.put(&key(index, part), bytes);
        }
    }
    Ok(())
}

pub(super) fn writer_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the raft log's writer stopped: start the server again")
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogOpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "the raft log in {dir} belongs to server {found:016x}, not to {own:016x}: use the data directory of this host"
    )]
    Owner { dir: String, found: u64, own: u64 },
}

/// A handle on the log; clones share it. The thread ends and the files are free when the last one is dropped.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<DurableSled>,
    tail: Arc<Tail>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Dropped last: who waits for it knows that the files are closed.
    closed: watch::Sender<()>,
    written: Arc<Written>,
}

/// What was appended since start.
#[derive(Default)]
pub(super) struct Written {
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("raft log writer panicked");
        }
    }
}

impl LogStore {
    /// Opens or creates the log of server `own` in `dir`. Blocks on the disk.
    pub(crate) fn open(dir: &Path, own: u64) -> Result<Self, LogOpenError> {
        Self::over(DurableSled::open(dir)?, own)
    }

    pub(crate) fn over(db: DurableSled, own: u64) -> Result<Self, LogOpenError> {
        claim(&db, own)?;
        let facts = load(&db)?;
        let purged = facts.purged.map(|purged| purged.index);
        let term = facts.vote.map_or(0, |vote| Ballot::from(vote).term);
        let mark = Mark::open(db.dir(), facts.last.map(|last| last.index), term)?;
        let (db, tail) = (Arc::new(db), Arc::new(Tail::new(facts)));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let written = Arc::new(Written::default());
        let writer = Writer::new(db.clone(), tail.clone(), queue, purged, mark, written.clone());
        let thread = std::thread::Builder::new().name("raft-log".into()).spawn(move || writer.run())?;
        let (thread, closed) = (Mutex::new(Some(thread)), watch::Sender::new(()));
        Ok(Self { shared: Arc::new(Shared { db, tail, jobs: Some(jobs), thread, closed, written }) })
    }

    pub(crate) fn gauge(&self) -> LogGauge {
        LogGauge { shared: Arc::downgrade(&self.shared), closed: self.shared.closed.subscribe() }
    }

    /// Every entry from `first` on, some at a time. Blocks on the disk.
    pub(crate) fn read_all(&self, first: u64) -> impl Iterator<Item = io::Result<Entry>> + use<> {
        let end = self.bounds().1.map_or(0, |last| last + 1);
        let db = self.shared.db.clone();
        let slices = (first..end).step_by(READ_ENTRIES as usize).map(move |from| {
            let range = from..end.min(from + READ_ENTRIES);
            let found = read_entries(&db, range.clone())?;
            if (found.len() as u64) < range.end - range.start {
                return Err(hole(&db, range, &found));
            }
            Ok(found)
        });
        slices.flat_map(|slice: io::Result<Vec<Entry>>| match slice {
            Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Up to here a majority was known to have the log.
    pub(crate) fn committed(&self) -> Option<u64> {
        self.shared.tail.read().committed.map(|id| id.index)
    }

    pub(crate) fn has_vote(&self) -> bool {
        self.shared.tail.read().vote.is_some()
    }

    /// The last purged and the last index.
    pub(crate) fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let tail = self.shared.tail.read();
        (tail.purged.map(|id| id.index), tail.last.map(|id| id.index))
    }

    async fn queue(&self, change: Change, done: Done) -> io::Result<()> {
        let jobs = self.shared.jobs.as_ref().ok_or_else(writer_gone)?;
        jobs.send(Job { change, done }).await.map_err(|_| writer_gone())
    }

    async fn queue_and_wait(&self, change: Change) -> io::Result<()> {
        let (done, told) = Done::caller();
        self.queue(change, done).await?;
        told.await.map_err(|_| writer_gone())?
    }

    /// The entries of `range` that the log holds, from memory where they are still there.
    async fn entries(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        loop {
            let plan = self.shared.tail.plan(range.clone());
            let wanted = plan.on_disk.end - plan.on_disk.start;
            let mut found = Vec::new();
            if wanted > 0 {
                let (shared, on_disk) = (self.shared.clone(), plan.on_disk.clone());
                let read = tokio::task::spawn_blocking(move || read_entries(&shared.db, on_disk));
                found = read.await.map_err(io::Error::other)??;
            }
            if found.len() as u64 == wanted {
                found.extend(plan.cached.iter().map(|entry| Entry::clone(entry)));
                return Ok(found);
            }
            // Entries that were purged or truncated meanwhile are no hole.
            if self.shared.tail.epoch() == plan.epoch {
                return Err(hole(&self.shared.db, plan.on_disk, &found));
            }
        }
    }
}

/// Looks at the log without keeping it open.
#[derive(Clone)]
pub(crate) struct LogGauge {
    shared: Weak<Shared>,
    closed: watch::Receiver<()>,
}

impl LogGauge {
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.shared.upgrade().map_or(0, |shared| shared.db.disk_bytes())
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.shared.upgrade().map_or(0, |shared| shared.db.syncs())
    }

    /// Entries and bytes that were appended since start.
    pub(crate) fn appended(&self) -> (u64, u64) {
        self.shared.upgrade().map_or((0, 0), |shared| {
            let written = &shared.written;
            (written.entries.load(Ordering::Relaxed), written.bytes.load(Ordering::Relaxed))
        })
    }

    fn reserve<T>(&self, gone: T, ask: impl FnOnce(&Reserve) -> T) -> T {
        self.shared.upgrade().map_or(gone, |shared| ask(shared.db.reserve()))
    }

    /// Looks at the disk: what changed since the last look. `None`: the log is closed.
    pub(crate) fn look(&self) -> Option<Option<SpaceChange>> {
        self.reserve(None, |reserve| Some(reserve.look()))
    }

    /// Writes of clients are to be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.reserve(false, Reserve::is_full)
    }

    /// Entries of the leader are to be refused.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.reserve(false, Reserve::is_exhausted)
    }

    /// Bytes that the log can count on, and those that are free for anybody.
    pub(crate) fn room(&self) -> u64 {
        self.reserve(0, Reserve::room)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.reserve(0, Reserve::free)
    }

    /// As if others had filled the disk, or freed it.
    #[cfg(test)]
    pub(crate) fn deny_space(&self, deny: bool) {
        self.deny_space_unseen(deny);
        self.look();
    }

    #[cfg(test)]
    pub(crate) fn deny_space_unseen(&self, deny: bool) {
        self.reserve((), |reserve| reserve.deny(deny));
    }

    /// Resolves when the log's files are closed.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let mut closed = self.closed.clone();
        async move { while closed.changed().await.is_ok() {} }
    }
}

/// A data directory is one server's: another id on the same log would break the promises that were made under it.
fn claim(db: &DurableSled, own: u64) -> Result<(), LogOpenError> {
    match db.get(OWNER)? {
        Some(bytes) => {
            let found: u64 = codec::read(&bytes).map_err(io::Error::from)?;
            let dir = db.file_path().display().to_string();
            if found == own { Ok(()) } else { Err(LogOpenError::Owner { dir, found, own }) }
        }
        None => {
            let mut batch = Batch::default();
            batch.put(OWNER, &codec::write(&own).map_err(io::Error::from)?);
            Ok(db.commit(batch)?)
        }
    }
}

fn load(db: &DurableSled) -> io::Result<Inner> {
    let position = |key: &[u8]| -> io::Result<Option<LogId>> {
        let bytes = db.get(key)?;
        let read = |bytes: Vec<u8>| codec::read::<Position>(&bytes).map_err(|e| unreadable(db, key, &e));
        Ok(bytes.map(read).transpose()?.map(LogId::from))
    };
    let purged = position(PURGED)?;
    let committed = position(COMMITTED)?;
    let vote = match db.get(VOTE)? {
        Some(bytes) => Some(codec::read::<Ballot>(&bytes).map_err(|e| unreadable(db, VOTE, &e))?.into()),
        None => None,
    };
    let (low, high) = range(purged.map_or(0, |purged| purged.index + 1)..u64::MAX);
    let first = db.keys(&low, &high, 1)?.first().and_then(|key| index_of(key));
    let last = match db.last_key(&low, &high)?.and_then(|key| index_of(&key)) {
        Some(index) => read_entries(db, index..index + 1)?.pop().map(|entry| entry.log_id),
        None => None,
    };
    Ok(Inner::loaded(vote, purged, first, last.max(purged), committed))
}

/// Whole entries of `range` in order, until one is missing.
fn read_entries(db: &DurableSled, range: Range<u64>) -> io::Result<Vec<Entry>> {
    let (low, high) = self::range(range.clone());
    let mut found: Vec<(u64, Vec<Vec<u8>>)> = Vec::new();
    db.scan(&low, &high, |key, value| {
        match (index_of(key), found.last_mut()) {
            (Some(index), Some((last, parts))) if *last == index => parts.push(value),
            (Some(index), _) => found.push((index, vec![value])),
            (None, _) => {}
        }
        true
    })?;
    let mut entries = Vec::with_capacity(found.len());
    for ((index, parts), expected) in found.into_iter().zip(range) {
        if index != expected {
            break;
        }
        let bytes = join(parts).ok_or_else(|| hole(db, index..index + 1, &[]))?;
        let entry = codec::read_entry(&bytes).map_err(|e| unreadable(db, &key(index, 0), &e))?;
        if entry.log_id.index != index {
            return Err(hole(db, index..index + 1, &[]));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The parts of an entry as one, if none is missing.
fn join(parts: Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let (count, first) = parts.first()?.split_first_chunk::<2>()?;
    if usize::from(u16::from_le_bytes(*count)) != parts.len() {
        return None;
    }
    let mut bytes = first.to_vec();
    parts.iter().skip(1).for_each(|part| bytes.extend_from_slice(part));
    Some(bytes)
}

fn unreadable(db: &DurableSled, key: &[u8], error: &codec::CodecError) -> io::Error {
    let text = format!("cannot take in key {} of {}: {error}", super::name_of(key), db.file_path().display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn hole(db: &DurableSled, range: Range<u64>, found: &[Entry]) -> io::Error {
    let missing = range.start + found.len() as u64;
    let text = format!(
        "log entry {missing} is missing in {}: stop this server, remove its data directory and let it join again, \
         or restore a backup",
        db.file_path().display()
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn to_range(bounds: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match bounds.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match bounds.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(to_range(&range)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail.read().vote)
    }

    /// In slices, so that a long replay does not lie in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + openraft::OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend,
    {
        let whole = to_range(&range);
        let slices = stream::unfold((self.clone(), whole), |(log, rest)| async move {
            if rest.is_empty() {
                return None;
            }
            let end = rest.end.min(rest.start.saturating_add(READ_ENTRIES));
            let read = log.entries(rest.start..end).await;
            // A short answer is the end of the log, an error the end of the stream.
            let complete = read.as_ref().is_ok_and(|found| found.len() as u64 == end - rest.start);
            let rest = if complete { end..rest.end } else { rest.end..rest.end };
            let items: Vec<io::Result<Entry>> = match read {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((stream::iter(items), (log, rest)))
        });
        Box::pin(futures_util::StreamExt::flatten(slices))
    }

    /// As many as fit into one message, at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.entries(start..end).await?;
        let mut bytes = 0;
        let mut fits = 0;
        for entry in &entries {
            bytes += codec::write_entry(entry)?.len();
            if fits > 0 && bytes > READ_BYTES {
                break;
            }
            fits += 1;
        }
        entries.truncate(fits);
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.shared.tail.read();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.queue_and_wait(Change::Vote(*vote)).await?;
        self.shared.tail.set_vote(*vote);
        Ok(())
    }

    /// Remembered at once, written with the next change: losing the newest one only means to apply a little again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.tail.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
        self.shared.tail.append(&entries);
        self.queue(Change::Append(entries), Done::raft(callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail.truncate(last);
        self.queue_and_wait(Change::Truncate(last.map_or(0, |last| last.index + 1))).await
    }

    /// The bound moves at once; the entries are deleted a few at a time, behind the writes that come meanwhile.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.shared.tail.purge(upto);
        self.queue(Change::Purge(upto), Done::nobody()).await
    }
}

#[cfg(test)]
impl LogGauge {
    /// Of a log that is another than ours.
    pub(crate) fn none() -> Self {
        Self { shared: Weak::new(), closed: watch::channel(()).1 }
    }
}
