//! Who has which change: each host says when its view of the shared service has come so far.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use purlin_agent::metrics::Metrics;
use purlin_agent::mirror::Mirror;
use purlin_model::Revision;
use purlin_model::topic::{Contents, Record, Topic};
use tokio::sync::Notify;

use super::layout::{change_of, shared};

/// For all to have a change.
const LONGEST: Duration = Duration::from_secs(180);
/// A question to the mirror; it is asked again.
const ASK: Duration = Duration::from_secs(3600);

pub(crate) struct Watch {
    hosts: usize,
    /// Of all hosts together.
    pub(crate) metrics: Metrics,
    /// The change that is counted.
    number: AtomicUsize,
    have: AtomicUsize,
    last: Mutex<Option<Instant>>,
    all: Notify,
}

impl Watch {
    pub(crate) fn new(hosts: usize) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            metrics: Metrics::new(Vec::new()),
            number: AtomicUsize::new(0),
            have: AtomicUsize::new(0),
            last: Mutex::default(),
            all: Notify::new(),
        })
    }

    /// Begins to count the next change.
    pub(crate) fn next(&self) -> usize {
        self.have.store(0, Ordering::SeqCst);
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// When the last host had it.
    pub(crate) async fn all_have(&self, number: usize) -> anyhow::Result<Instant> {
        let all = tokio::time::timeout(LONGEST, self.all.notified()).await;
        let have = self.have.load(Ordering::SeqCst);
        all.with_context(|| format!("change {number}: {have} of {} hosts have it", self.hosts))?;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).context("nobody has it")
    }

    /// Follows what one host sees.
    pub(crate) async fn follow(self: Arc<Self>, mirror: Mirror) {
        let Ok(service) = shared() else { return };
        let topic = Topic::Service(service);
        let (mut after, mut seen) = (Revision(0), 0);
        loop {
            let Ok(contents) = mirror.wait_past(&topic, after, ASK).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            after = contents.revision;
            let change = newest(&contents);
            if change > seen {
                seen = change;
                self.count(change);
            }
        }
    }

    fn count(&self, change: usize) {
        if change == self.number.load(Ordering::SeqCst)
            && self.have.fetch_add(1, Ordering::SeqCst) + 1 == self.hosts
        {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.all.notify_one();
        }
    }
}

fn newest(contents: &Contents) -> usize {
    let change = |record: &Record| match record {
        Record::Entry(entry) => change_of(&entry.instance),
        _ => None,
    };
    contents.records.values().filter_map(change).max().unwrap_or(0)
}
