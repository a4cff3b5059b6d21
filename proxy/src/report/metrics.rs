//! The numbers of all workers.

mod render;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use purlin_model::{Millis, ServiceKey};

use super::{Direction, Framing};

/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Response classes; the last one is for requests that got no answer.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
const OTHER: &str = "other";

/// Adds to a cell that this thread alone writes: no locked instruction is needed.
fn bump(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn read(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EdgeLabel {
    source: String,
    destination: String,
    direction: Direction,
}

impl EdgeLabel {
    pub(super) fn new(source: &ServiceKey, destination: &ServiceKey, direction: Direction) -> Self {
        Self { source: source.to_string(), destination: destination.to_string(), direction }
    }

    fn other(direction: Direction) -> Self {
        Self { source: OTHER.into(), destination: OTHER.into(), direction }
    }

    fn labels(&self) -> [(&'static str, &str); 3] {
        [("source", &self.source), ("destination", &self.destination), ("direction", self.direction.as_str())]
    }
}

/// Of one pair and one worker. Each cell has one writer.
#[derive(Debug, Default)]
pub(super) struct EdgeCounters {
    requests: [[AtomicU64; CLASSES.len()]; Framing::ALL.len()],
    durations: [Durations; CLASSES.len()],
    counts: [AtomicU64; Count::LEN],
}

/// What is counted for a pair besides requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    ConnectionsOpened,
    ConnectionsClosed,
    BytesSent,
    BytesReceived,
    ConnectFailures,
    Retries,
}

impl Count {
    const LEN: usize = Self::Retries as usize + 1;
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl EdgeCounters {
    pub(super) fn request(&self, framing: Framing, status: Option<StatusCode>, took: Duration) {
        let class = status.map_or(CLASSES.len() - 1, |status| {
            usize::from(status.as_u16() / 100).saturating_sub(1).min(CLASSES.len() - 2)
        });
        bump(&self.requests[framing as usize][class], 1);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        bump(&self.durations[class].buckets[bucket], 1);
        bump(&self.durations[class].sum_micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn count(&self, what: Count, count: u64) {
        bump(&self.counts[what as usize], count);
    }

    fn read(&self, what: Count) -> u64 {
        read(&self.counts[what as usize])
    }

    fn add(&self, other: &Self) {
        let add = |own: &AtomicU64, others: &AtomicU64| bump(own, read(others));
        for (own, others) in self.requests.iter().flatten().zip(other.requests.iter().flatten()) {
            add(own, others);
        }
        for (own, others) in self.durations.iter().zip(&other.durations) {
            add(&own.sum_micros, &others.sum_micros);
            own.buckets.iter().zip(&others.buckets).for_each(|(own, others)| add(own, others));
        }
        self.counts.iter().zip(&other.counts).for_each(|(own, others)| add(own, others));
    }
}

/// Why a connection was turned away before it was known whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Handshake,
    UnknownName,
    TooMany,
    Detection,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Handshake, Self::UnknownName, Self::TooMany, Self::Detection];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::UnknownName => "unknown-name",
            Self::TooMany => "too-many",
            Self::Detection => "detection",
        }
    }
}

/// The numbers of a whole proxy.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    edges: Mutex<BTreeMap<EdgeLabel, Vec<Arc<EdgeCounters>>>>,
    denied: Mutex<BTreeMap<(EdgeLabel, String), u64>>,
    unroutable: Mutex<BTreeMap<(EdgeLabel, &'static str), u64>>,
    certificates: Mutex<BTreeMap<String, Millis>>,
    refused: [AtomicU64; Refusal::ALL.len()],
    panics: AtomicU64,
    view_revision: AtomicU64,
    failed_listeners: AtomicU64,
    limit: usize,
}

/// Numbers stay true whoever panicked while holding them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Cells of its own for the worker that asks.
    pub(super) fn counters(&self, label: EdgeLabel) -> Arc<EdgeCounters> {
        let counters = Arc::<EdgeCounters>::default();
        let mut edges = lock(&self.edges);
        let full = edges.len() >= self.limit && !edges.contains_key(&label);
        let label = if full { EdgeLabel::other(label.direction) } else { label };
        let group = edges.entry(label).or_default();
        // A worker that lost its edge gets it anew; what nobody writes any more is folded into one.
        if group.len() > 64 {
            fold(group);
        }
        group.push(counters.clone());
        counters
    }

    pub(super) fn denied(&self, label: EdgeLabel, rule: &str) {
        let mut denied = lock(&self.denied);
        // A far proxy may have named the rule: it must not break out of its label.
        let rule = rule.replace(['"', '\\', '\n'], "'");
        let key = (label, rule);
        let full = denied.len() >= self.limit && !denied.contains_key(&key);
        let key = if full { (EdgeLabel::other(key.0.direction), OTHER.to_owned()) } else { key };
        *denied.entry(key).or_default() += 1;
    }

    pub(super) fn unroutable(&self, label: EdgeLabel, reason: &'static str) {
        let mut unroutable = lock(&self.unroutable);
        let key = (label, reason);
        let full = unroutable.len() >= self.limit && !unroutable.contains_key(&key);
        let key = if full { (EdgeLabel::other(key.0.direction), reason) } else { key };
        *unroutable.entry(key).or_default() += 1;
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn view(
        &self,
        revision: u64,
        failed_listeners: usize,
        certificates: BTreeMap<String, Millis>,
    ) {
        self.view_revision.store(revision, Ordering::Relaxed);
        self.failed_listeners.store(failed_listeners as u64, Ordering::Relaxed);
        *lock(&self.certificates) = certificates;
    }

    /// Prometheus text, without an end mark, so that an agent can put its own numbers beside it.
    pub(crate) fn text(self: &Arc<Self>) -> String {
        render::text(self.clone())
    }
}

/// Adds up what nobody writes any more, so that a group does not grow without end.
fn fold(group: &mut Vec<Arc<EdgeCounters>>) {
    let (in_use, left): (Vec<_>, Vec<_>) =
        group.drain(..).partition(|counters| Arc::strong_count(counters) > 1);
    *group = in_use;
    group.push(Arc::new(total(&left)));
}

fn total(group: &[Arc<EdgeCounters>]) -> EdgeCounters {
    let sum = EdgeCounters::default();
    group.iter().for_each(|counters| sum.add(counters));
    sum
}
