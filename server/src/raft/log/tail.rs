//! What is known of the log without asking the disk: its bounds, the vote, and its newest entries.
//!
//! An entry is readable as soon as it was appended, durable or not; it leaves this cache only when it is durable.
//! The cache is bounded in entries and bytes, beyond what is still on its way to the disk.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::raft::types::{Entry, LogId, Vote};

/// Durable entries kept for followers and for applying.
const ENTRIES_MAX: usize = 8_192;
const BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Tail {
    inner: RwLock<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
    /// The first index that the log holds, if it holds any. A log may begin anywhere.
    first: Option<u64>,
    /// The committed position changed since it was last written.
    committed_dirty: bool,
    /// The newest entries, without a gap.
    entries: VecDeque<Cached>,
    /// Of the durable ones among them.
    bytes: usize,
    /// Changes when entries vanish, so that a reader can tell a hole from a change under its feet.
    epoch: u64,
}

struct Cached {
    entry: Arc<Entry>,
    /// Its stored size; zero until it is durable.
    bytes: usize,
}

/// Where the entries of a range are.
pub(crate) struct Plan {
    pub on_disk: Range<u64>,
    pub cached: Vec<Arc<Entry>>,
    pub epoch: u64,
}

impl Tail {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: RwLock::new(inner) }
    }

    /// Poisoned or not: every change below keeps the parts consistent up to a panic-free assignment.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn set_vote(&self, vote: Vote) {
        self.write().vote = Some(vote);
    }

    pub(crate) fn set_committed(&self, committed: Option<LogId>) {
        let mut inner = self.write();
        inner.committed_dirty |= inner.committed != committed;
        inner.committed = committed;
    }

    /// The committed position, if it should be written.
    pub(crate) fn take_dirty_committed(&self) -> Option<LogId> {
        let mut inner = self.write();
        if !inner.committed_dirty {
            return None;
        }
        inner.committed_dirty = false;
        inner.committed
    }

    pub(crate) fn append(&self, entries: &[Arc<Entry>]) {
        let mut inner = self.write();
        for entry in entries {
            let follows =
                inner.entries.back().is_none_or(|last| last.entry.log_id.index + 1 == entry.log_id.index);
            if !follows {
                inner.entries.clear();
                inner.bytes = 0;
            }
            inner.last = Some(entry.log_id);
            inner.first.get_or_insert(entry.log_id.index);
            inner.entries.push_back(Cached { entry: entry.clone(), bytes: 0 });
        }
    }

    /// The entries that start at `first` are durable and take so many bytes each.
    pub(crate) fn durable(&self, first: u64, sizes: &[usize]) {
        let mut inner = self.write();
        let Some(front) = inner.front() else { return };
        for (at, bytes) in (first..).zip(sizes) {
            let Some(offset) = at.checked_sub(front) else { continue };
            let Some(cached) = usize::try_from(offset).ok().and_then(|o| inner.entries.get_mut(o)) else {
                continue;
            };
            if cached.bytes == 0 {
                cached.bytes = *bytes;
                inner.bytes += bytes;
            }
        }
        inner.evict();
    }

    pub(crate) fn truncate(&self, last: Option<LogId>) {
        let mut inner = self.write();
        if last.map(|last| last.index) >= inner.last.map(|last| last.index) {
            return;
        }
        let keep = last.map_or(0, |last| last.index + 1);
        while inner.entries.back().is_some_and(|cached| cached.entry.log_id.index >= keep) {
            if let Some(gone) = inner.entries.pop_back() {
                inner.bytes -= gone.bytes;
            }
        }
        inner.last = last.max(inner.purged);
        inner.first = inner.first.filter(|first| *first < keep);
        inner.epoch += 1;
    }

    pub(crate) fn purge(&self, upto: LogId) {
        let mut inner = self.write();
        while inner.entries.front().is_some_and(|cached| cached.entry.log_id.index <= upto.index) {
            if let Some(gone) = inner.entries.pop_front() {
                inner.bytes -= gone.bytes;
            }
        }
        inner.purged = inner.purged.max(Some(upto));
        inner.last = inner.last.max(inner.purged);
        let held = inner.last > inner.purged;
        inner.first = inner.first.map(|first| first.max(upto.index + 1)).filter(|_| held);
        inner.epoch += 1;
    }

    /// Splits `range`, cut to what the log holds, into what the disk must be asked for and what is here.
    pub(crate) fn plan(&self, range: Range<u64>) -> Plan {
        let inner = self.read();
        let start = range.start.max(inner.first.unwrap_or(u64::MAX));
        let end = range.end.min(inner.last.map_or(0, |last| last.index + 1)).max(start);
        let front = inner.front().unwrap_or(end).clamp(start, end);
        let skip = inner.front().map_or(0, |first| front.saturating_sub(first));
        let cached = inner
            .entries
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(usize::try_from(end - front).unwrap_or(usize::MAX))
            .map(|cached| cached.entry.clone())
            .collect();
        Plan { on_disk: start..front, cached, epoch: inner.epoch }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.read().epoch
    }
}

impl Inner {
    /// What the disk held at start.
    pub(crate) fn loaded(
        vote: Option<Vote>,
        purged: Option<LogId>,
        first: Option<u64>,
        last: Option<LogId>,
        committed: Option<LogId>,
    ) -> Self {
        Self { vote, purged, first, last, committed, ..Self::default() }
    }

    fn front(&self) -> Option<u64> {
        self.entries.front().map(|cached| cached.entry.log_id.index)
    }

    /// Drops the oldest entries that are durable, down to the bounds.
    fn evict(&mut self) {
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            match self.entries.front() {
                Some(cached) if cached.bytes > 0 => self.bytes -= cached.bytes,
                _ => break,
            }
            self.entries.pop_front();
        }
    }
}
