//! The watch hub: who follows which topic, and what of it they must look at again.
//!
//! Nobody is sent a queue of events. A follower has a bounded set of dirty keys, and reads the newest state when it
//! gets to it: a slow one skips what was in between. State and marks change together under one lock, so that a
//! follower that took its marks and the state beside them has, for what it follows, everything up to that revision.

mod frames;
mod marks;
mod propagation;
mod ring;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use purlin_model::kv::KvTopic;
use purlin_model::topic::Topic;
use purlin_model::{Fault, FaultCode, NodeName, Revision, limit};
use tokio::sync::Notify;

use crate::raft;
use crate::state::{KvChange, State, Touched};

pub(crate) use marks::{Dirty, Marks};

/// Shared by all who follow and by the one who applies.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    frames: frames::Frames,
}

#[derive(Debug, Default)]
struct Inner {
    state: Arc<State>,
    ring: ring::Ring,
    followers: HashMap<u64, Follower>,
    topics: HashMap<Topic, BTreeSet<u64>>,
    tree: tree::Tree,
    /// Topics that a follower has as of a revision that is not applied here yet: they begin with it.
    ahead: BTreeMap<Revision, BTreeSet<(u64, Topic)>>,
    propagation: propagation::Propagation,
    next: u64,
}

#[derive(Debug)]
struct Follower {
    node: Option<NodeName>,
    topics: BTreeSet<Topic>,
    dirty: Dirty,
    bell: Arc<Notify>,
}

/// Figures for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HubMetrics {
    pub(crate) followers: usize,
    pub(crate) topics: usize,
    pub(crate) ring_keys: usize,
    pub(crate) frame_bytes: usize,
}

/// What a follower has to tell, and the state that it tells it from.
pub(crate) struct Taken {
    pub(crate) state: Arc<State>,
    pub(crate) dirty: Dirty,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every statement under the lock leaves it whole, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state that was there before the first change that this hub was told of.
    pub(crate) fn begin(&self, state: Arc<State>) {
        let mut inner = self.lock();
        if inner.state.applied() < state.applied() {
            inner.ring.clear(state.applied());
            inner.state = state;
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.lock().state.clone()
    }

    /// Starts to follow nothing yet. `node`: whose session it is.
    pub(crate) fn subscribe(self: &Arc<Self>, node: Option<NodeName>) -> Subscription {
        let bell = Arc::new(Notify::new());
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let follower =
            Follower { node, topics: BTreeSet::new(), dirty: Dirty::default(), bell: bell.clone() };
        inner.followers.insert(id, follower);
        Subscription { hub: self.clone(), id, bell }
    }

    /// Wakes the sessions of a node, so that they tell how far they are: its agent waits to see its own write.
    pub(crate) fn nudge(&self, node: &NodeName) {
        for follower in self.lock().followers.values() {
            if follower.node.as_ref() == Some(node) {
                follower.bell.notify_one();
            }
        }
    }

    pub(crate) fn metrics(&self) -> HubMetrics {
        let inner = self.lock();
        HubMetrics {
            followers: inner.followers.len(),
            topics: inner.topics.len() + inner.tree.len(),
            ring_keys: inner.ring.keys(),
            frame_bytes: self.frames.bytes(),
        }
    }

    /// From applying a change to the last session that follows it.
    pub(crate) fn propagation(&self) -> Histogram {
        self.lock().propagation.histogram()
    }

    pub(crate) fn frames(&self) -> &frames::Frames {
        &self.frames
    }
}

impl Inner {
    fn mark(&mut self, touched: &[Touched]) {
        let now = Instant::now();
        for change in touched {
            let mut measured = self.propagation.is_free(now).then(HashSet::new);
            for (topic, key) in &change.keys {
                let Some(ids) = self.topics.get(topic) else { continue };
                let key: Arc<str> = key.as_str().into();
                for id in ids {
                    if let Some(follower) = self.followers.get_mut(id) {
                        follower.dirty.mark(topic, key.clone());
                        follower.bell.notify_one();
                        if let Some(measured) = measured.as_mut().filter(|_| follower.node.is_some()) {
                            measured.insert(*id);
                        }
                    }
                }
            }
            for change in &change.kv {
                self.mark_tree(change);
            }
            if let Some(measured) = measured {
                self.propagation.begin(change.revision, measured, now);
            }
        }
    }

    fn mark_tree(&mut self, change: &KvChange) {
        for (topic, id) in self.tree.concerned(change) {
            let Some(follower) = self.followers.get_mut(&id) else { continue };
            match (change, &topic) {
                (KvChange::Key(key), KvTopic::Key(_) | KvTopic::Tree(_)) => {
                    follower.dirty.mark(&Topic::Kv(topic), key.clone());
                }
                // Which of the listed keys that changes would have to be found first.
                _ => follower.dirty.mark_all(&Topic::Kv(topic)),
            }
            follower.bell.notify_one();
        }
    }

    fn follow(&mut self, id: u64, topic: &Topic) {
        match topic {
            Topic::Kv(topic) => self.tree.add(topic, id),
            topic => {
                self.topics.entry(topic.clone()).or_default().insert(id);
            }
        }
    }

    /// The keys that changed since; none: all must be looked at.
    fn missed(&self, topic: &Topic, have: Revision) -> Option<BTreeSet<Arc<str>>> {
        // Changes of the tree are not kept for those who come back.
        if have == Revision(0) || matches!(topic, Topic::Kv(_)) {
            return None;
        }
        match self.state.revision(topic) {
            now if have > now => None,
            now if have == now => Some(BTreeSet::new()),
            _ => self.ring.since(topic, have),
        }
    }

    /// Begins to tell a follower of a topic, from what it has.
    fn enter(&mut self, id: u64, topic: Topic, have: Revision) {
        self.follow(id, &topic);
        let missed = self.missed(&topic, have);
        let Some(follower) = self.followers.get_mut(&id) else { return };
        match missed {
            Some(keys) => follower.dirty.mark_resumed(&topic, keys),
            None => follower.dirty.mark_all(&topic),
        }
        follower.bell.notify_one();
    }

    /// This server has come as far as some of its followers were.
    fn catch_up(&mut self) {
        let applied = self.state.applied();
        while let Some(first) = self.ahead.first_entry().filter(|first| *first.key() <= applied) {
            let (have, waiting) = first.remove_entry();
            for (id, topic) in waiting {
                self.enter(id, topic, have);
            }
        }
    }

    fn forget_ahead(&mut self, id: u64, topic: Option<&Topic>) -> Vec<Topic> {
        let mut forgotten = Vec::new();
        self.ahead.retain(|_, waiting| {
            waiting.retain(|(of, what)| {
                let goes = *of == id && topic.is_none_or(|topic| topic == what);
                if goes {
                    forgotten.push(what.clone());
                }
                !goes
            });
            !waiting.is_empty()
        });
        forgotten
    }

    /// Everything is due to everybody, and nothing of before is known any more.
    fn replace(&mut self, revision: Revision) {
        self.ring.clear(revision);
        self.catch_up();
        for follower in self.followers.values_mut() {
            for topic in &follower.topics {
                follower.dirty.mark_all(topic);
            }
            follower.bell.notify_one();
        }
    }

    fn unfollow(&mut self, id: u64, topic: &Topic) {
        if let Topic::Kv(topic) = topic {
            return self.tree.remove(topic, id);
        }
        if let Some(ids) = self.topics.get_mut(topic) {
            ids.remove(&id);
            if ids.is_empty() {
                self.topics.remove(topic);
            }
        }
    }
}

impl raft::Hook<State> for Hub {
    fn applied(&self, state: &Arc<State>, touched: Vec<Touched>) {
        let mut inner = self.lock();
        inner.state = state.clone();
        if touched.iter().any(|change| change.all) {
            // What came behind it in the same batch is in the state that everybody reads anew.
            return inner.replace(state.applied());
        }
        inner.mark(&touched);
        for change in touched {
            inner.ring.push(change);
        }
        inner.catch_up();
    }

    fn replaced(&self, state: &Arc<State>, revision: Revision) {
        let mut inner = self.lock();
        inner.state = state.clone();
        inner.replace(revision.max(state.applied()));
    }
}

/// One follower's place in the hub; dropping it leaves the hub.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    bell: Arc<Notify>,
}

impl Subscription {
    /// Follows a topic. With a revision from which all changes are still known, only those are due; else all of it.
    pub(crate) fn follow(&self, topic: Topic, have: Revision) -> Result<(), Fault> {
        let mut inner = self.hub.lock();
        let Some(follower) = inner.followers.get_mut(&self.id) else {
            return Err(Fault::internal("a session that is gone cannot follow a topic"));
        };
        if !follower.topics.contains(&topic) && follower.topics.len() >= limit::TOPICS_PER_SESSION {
            return Err(Fault::new(
                FaultCode::TooLarge,
                format!("a session may follow {} topics at most", limit::TOPICS_PER_SESSION),
            ));
        }
        follower.topics.insert(topic.clone());
        if have > inner.state.applied() {
            // Told from here, it would go back in time.
            inner.ahead.entry(have).or_default().insert((self.id, topic));
        } else {
            inner.enter(self.id, topic, have);
        }
        Ok(())
    }

    pub(crate) fn unfollow(&self, topic: &Topic) {
        let mut inner = self.hub.lock();
        inner.unfollow(self.id, topic);
        if !inner.ahead.is_empty() {
            inner.forget_ahead(self.id, Some(topic));
        }
        if let Some(follower) = inner.followers.get_mut(&self.id) {
            follower.topics.remove(topic);
            follower.dirty.forget(topic);
        }
    }

    /// The follower was brought so far, each so many milliseconds before now.
    pub(crate) fn applied(&self, marks: &[(Revision, u64)], now: Instant) {
        self.hub.lock().propagation.taken(self.id, marks, now);
    }

    /// What is ahead of this server does not come: the follower gets it as it is here, as after a mesh was restored.
    pub(crate) fn wait_no_more(&self) {
        let mut inner = self.hub.lock();
        if inner.ahead.is_empty() {
            return;
        }
        for topic in inner.forget_ahead(self.id, None) {
            inner.enter(self.id, topic, Revision(0));
        }
    }

    /// Wakes whoever waits for this subscription.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Resolves when there is something to take. Cancel safe; may resolve once for nothing.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// What is due, and the state to read it from.
    pub(crate) fn take(&self) -> Taken {
        let mut inner = self.hub.lock();
        let state = inner.state.clone();
        let dirty =
            inner.followers.get_mut(&self.id).map(|f| std::mem::take(&mut f.dirty)).unwrap_or_default();
        Taken { state, dirty }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.propagation.gone(self.id);
        if !inner.ahead.is_empty() {
            inner.forget_ahead(self.id, None);
        }
        if let Some(follower) = inner.followers.remove(&self.id) {
            for topic in &follower.topics {
                inner.unfollow(self.id, topic);
            }
        }
    }
}
