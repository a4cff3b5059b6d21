//! The local copy of what the servers know, topic by topic: followed for good, or for as long as somebody asks.
//!
//! A topic is known once its snapshot is here or came from disk, and stays known while no server can be reached.
//! The session tells the mirror what arrives; readers share immutable contents and never wait for a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use purlin_model::topic::{Contents, Delta, Topic};
use purlin_model::{Fault, FaultCode, HistoryId, Revision, limit};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::session::{Phase, SessionState};

pub mod disk;
#[cfg(test)]
mod tests;

/// How long the first question for a topic waits for its snapshot.
pub const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long a topic that nobody asks for is kept warm.
pub const WARM: Duration = Duration::from_secs(600);
/// Topics that are kept because somebody asked; the least recently used goes first.
pub const WARM_TOPICS: usize = 2_000;

/// Cheap to clone; all clones are the same mirror.
#[derive(Debug, Clone)]
pub struct Mirror(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The session's writer has something to send.
    orders: Notify,
    /// Counts changes of what is followed for good.
    changes: watch::Sender<u64>,
    /// Counts all changes.
    saves: watch::Sender<u64>,
    progress: watch::Sender<Revision>,
    session: watch::Receiver<SessionState>,
    /// Taken anew in each session, so that what it says is as of now.
    afresh: Topic,
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<Topic, Slot>,
    /// What the server was told to send in this session.
    following: BTreeSet<Topic>,
    /// Topics that came or went since the server was told.
    dirty: BTreeSet<Topic>,
    /// Which history the revisions here are of.
    history: Option<HistoryId>,
}

#[derive(Debug)]
struct Slot {
    contents: watch::Sender<Option<Arc<Contents>>>,
    pinned: bool,
    used: Instant,
    /// The server has sent it in this session.
    fresh: bool,
}

/// What the session's writer must tell the server; what is to be left comes before what is to be followed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub unfollow: Vec<Topic>,
    pub follow: Vec<(Topic, Revision)>,
}

impl Mirror {
    /// `afresh` is the topic that is never resumed.
    pub fn new(session: watch::Receiver<SessionState>, afresh: Topic) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            orders: Notify::new(),
            changes: watch::Sender::new(0),
            saves: watch::Sender::new(0),
            progress: watch::Sender::new(Revision(0)),
            session,
            afresh,
        }))
    }

    /// Takes in what an earlier run left on disk.
    pub fn restore(&self, history: Option<HistoryId>, topics: Vec<(Topic, Contents)>) {
        let mut state = self.lock();
        state.history = history;
        let now = Instant::now();
        for (topic, contents) in topics.into_iter().take(limit::TOPICS_PER_SESSION) {
            state.dirty.insert(topic.clone());
            let slot = state.slots.entry(topic).or_insert_with(|| Slot::new(false, now));
            slot.contents.send_replace(Some(Arc::new(contents)));
        }
        drop(state);
        self.0.orders.notify_one();
        self.changed(true);
    }

    /// From now on exactly these are followed for good. Others stay warm for their time.
    pub fn pin(&self, wanted: &BTreeSet<Topic>) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut news = false;
        for (topic, slot) in &mut state.slots {
            if slot.pinned && !wanted.contains(topic) {
                slot.pinned = false;
                slot.used = now;
            }
        }
        for topic in wanted {
            match state.slots.get_mut(topic) {
                Some(slot) => slot.pinned = true,
                None => {
                    state.slots.insert(topic.clone(), Slot::new(true, now));
                    state.dirty.insert(topic.clone());
                    news = true;
                }
            }
        }
        state.keep_within_session();
        drop(state);
        if news {
            self.0.orders.notify_one();
            self.changed(true);
        }
    }

    /// What is here now.
    pub fn peek(&self, topic: &Topic) -> Option<Arc<Contents>> {
        let mut state = self.lock();
        let slot = state.slots.get_mut(topic)?;
        slot.used = Instant::now();
        slot.contents.borrow().clone()
    }

    /// Whether the server has sent the topic in this session.
    pub fn is_fresh(&self, topic: &Topic) -> bool {
        self.lock().slots.get(topic).is_some_and(|slot| slot.fresh)
    }

    /// The topic's contents. It is followed from now on; the first question waits for the snapshot.
    pub async fn contents(&self, topic: &Topic) -> Result<Arc<Contents>, Fault> {
        let mut receiver = self.follow(topic)?;
        if let Some(contents) = receiver.borrow_and_update().clone() {
            return Ok(contents);
        }
        let mut session = self.0.session.clone();
        let offline = async { session.wait_for(|session| session.phase == Phase::Offline).await.is_ok() };
        tokio::select! {
            biased;
            known = receiver.wait_for(Option::is_some) => known.ok().and_then(|known| known.clone()).ok_or_else(|| unknown(topic)),
            _ = offline => Err(unknown(topic)),
            () = tokio::time::sleep(FIRST_ANSWER) => Err(unknown(topic)),
        }
    }

    /// The topic's contents once they are newer than `after`, or as they are when `wait` is over.
    pub async fn wait_past(
        &self,
        topic: &Topic,
        after: Revision,
        wait: Duration,
    ) -> Result<Arc<Contents>, Fault> {
        let deadline = Instant::now() + wait;
        let mut receiver = self.follow(topic)?;
        let first = self.contents(topic).await?;
        if first.revision > after {
            return Ok(first);
        }
        let newer = receiver.wait_for(|known| known.as_ref().is_some_and(|known| known.revision > after));
        if let Ok(Ok(newer)) = tokio::time::timeout_at(deadline, newer).await
            && let Some(contents) = newer.clone()
        {
            return Ok(contents);
        }
        self.peek(topic).ok_or_else(|| unknown(topic))
    }

    /// Waits until what was committed at `revision` is visible here; false when it is not within `wait`.
    pub async fn visible(&self, revision: Revision, wait: Duration) -> bool {
        let mut progress = self.0.progress.subscribe();
        let mut session = self.0.session.clone();
        tokio::select! {
            biased;
            here = progress.wait_for(|here| *here >= revision) => here.is_ok(),
            _ = session.wait_for(|session| !session.is_connected()) => false,
            () = tokio::time::sleep(wait) => false,
        }
    }

    /// Every followed topic is as of this revision or later.
    pub fn progress(&self) -> Revision {
        *self.0.progress.borrow()
    }

    /// Changes with every change of what is followed for good.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Changes with every change of any topic.
    pub fn all_changes(&self) -> watch::Receiver<u64> {
        self.0.saves.subscribe()
    }

    /// Topics here, and how many of them are followed for good.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.slots.len(), state.slots.values().filter(|slot| slot.pinned).count())
    }

    /// Everything that is known, what is followed for good first, then by last use.
    pub fn known(&self) -> Vec<(Topic, Arc<Contents>)> {
        let state = self.lock();
        let mut known: Vec<_> = state
            .slots
            .iter()
            .filter_map(|(topic, slot)| {
                Some((slot.pinned, slot.used, topic.clone(), slot.contents.borrow().clone()?))
            })
            .collect();
        known.sort_by_key(|(pinned, used, ..)| std::cmp::Reverse((*pinned, *used)));
        known.into_iter().map(|(_, _, topic, contents)| (topic, contents)).collect()
    }

    /// Drops what nobody asked for in a while. Not while no server can be reached: what is here is then all there is.
    pub fn forget_cold(&self) {
        if !self.0.session.borrow().is_connected() {
            return;
        }
        let mut state = self.lock();
        let now = Instant::now();
        let cold: Vec<Topic> = state
            .slots
            .iter()
            .filter(|(_, slot)| slot.is_idle() && now.duration_since(slot.used) >= WARM)
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in &cold {
            state.remove(topic);
        }
        drop(state);
        if !cold.is_empty() {
            self.0.orders.notify_one();
        }
    }

    /// A new session begins, of that history: everything wanted, with the revision to resume from. What is of another
    /// history serves on until the server sent it anew.
    pub fn begin_session(&self, history: Option<HistoryId>) -> Vec<(Topic, Revision)> {
        let mut state = self.lock();
        if state.history != history {
            state.history = history;
            state.disown();
            self.0.progress.send_replace(Revision(0));
        }
        state.dirty.clear();
        state.following = state.slots.keys().cloned().collect();
        let mut follow = Vec::with_capacity(state.slots.len());
        for (topic, slot) in &mut state.slots {
            slot.fresh = false;
            let here = slot.contents.borrow().as_ref().map_or(Revision(0), |contents| contents.revision);
            let resume = if *topic == self.0.afresh { Revision(0) } else { here };
            follow.push((topic.clone(), resume));
        }
        follow
    }

    /// What to tell the server next. Cancel safe: orders not returned are not lost.
    pub async fn next_orders(&self) -> Orders {
        loop {
            let notified = self.0.orders.notified();
            let orders = self.lock().take_orders();
            if orders != Orders::default() {
                return orders;
            }
            notified.await;
        }
    }

    /// Takes in a change that the server sent.
    pub fn absorb(&self, delta: Delta) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&delta.topic) else {
            return;
        };
        let known = slot.contents.borrow().is_some();
        if !known && !delta.reset {
            return;
        }
        slot.fresh = true;
        let pinned = slot.pinned;
        slot.contents.send_modify(|contents| {
            let contents = contents.get_or_insert_default();
            Arc::make_mut(contents).absorb(delta);
        });
        drop(state);
        self.changed(pinned);
    }

    /// The server says how far everything followed has come.
    pub fn set_progress(&self, revision: Revision) {
        self.0.progress.send_replace(revision);
    }

    /// From here on the server speaks of another history; it sends everything anew by itself.
    pub fn set_history(&self, history: HistoryId) {
        let mut state = self.lock();
        state.history = Some(history);
        state.disown();
        self.0.progress.send_replace(Revision(0));
    }

    /// Which history the revisions here are of.
    pub fn history(&self) -> Option<HistoryId> {
        self.lock().history
    }

    fn follow(&self, topic: &Topic) -> Result<watch::Receiver<Option<Arc<Contents>>>, Fault> {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(slot) = state.slots.get_mut(topic) {
            slot.used = now;
            return Ok(slot.contents.subscribe());
        }
        let is_connected = self.0.session.borrow().is_connected();
        if !state.make_room(is_connected) {
            let text = format!("{WARM_TOPICS} topics are being waited for on this agent: try again later");
            return Err(if is_connected { Fault::new(FaultCode::Busy, text) } else { unknown(topic) });
        }
        let slot = Slot::new(false, now);
        let receiver = slot.contents.subscribe();
        state.slots.insert(topic.clone(), slot);
        state.dirty.insert(topic.clone());
        drop(state);
        self.0.orders.notify_one();
        Ok(receiver)
    }

    fn changed(&self, pinned: bool) {
        self.0.saves.send_modify(|count| *count = count.wrapping_add(1));
        if pinned {
            self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes room for one more topic that somebody asked for; false if there is none. What is known is not given up
    /// for what cannot become known now.
    fn make_room(&mut self, is_connected: bool) -> bool {
        // More than one too many there are only after a start, when what was followed for good no longer is.
        while self.slots.values().filter(|slot| !slot.pinned).count() >= WARM_TOPICS {
            let idle = self.slots.iter().filter(|(_, slot)| slot.is_idle());
            let idle = idle.filter(|(_, slot)| is_connected || slot.is_empty());
            let victim =
                idle.min_by_key(|(_, slot)| (!slot.is_empty(), slot.used)).map(|(topic, _)| topic.clone());
            let Some(victim) = victim else { return false };
            self.remove(&victim);
        }
        true
    }

    /// A server ends a session that would follow more than it may. So many there are only when much of what was followed
    /// for good no longer is.
    fn keep_within_session(&mut self) {
        let excess = self.slots.len().saturating_sub(limit::TOPICS_PER_SESSION);
        if excess == 0 {
            return;
        }
        let idle = self.slots.iter().filter(|(_, slot)| slot.is_idle());
        let mut idle: Vec<_> =
            idle.map(|(topic, slot)| (!slot.is_empty(), slot.used, topic.clone())).collect();
        idle.sort();
        for (_, _, topic) in idle.iter().take(excess) {
            self.remove(topic);
        }
    }

    /// What is here is of another history: it serves until it came anew, but nothing is resumed from it.
    fn disown(&mut self) {
        for slot in self.slots.values() {
            slot.contents.send_modify(|contents| {
                if let Some(contents) = contents {
                    Arc::make_mut(contents).revision = Revision(0);
                }
            });
        }
    }

    fn remove(&mut self, topic: &Topic) {
        self.slots.remove(topic);
        self.dirty.insert(topic.clone());
    }

    fn take_orders(&mut self) -> Orders {
        let mut orders = Orders::default();
        for topic in std::mem::take(&mut self.dirty) {
            let followed = self.following.contains(&topic);
            let wanted = self.slots.get(&topic);
            // One that is both went and came back: it has nothing here, so it must be sent anew.
            if followed {
                self.following.remove(&topic);
                orders.unfollow.push(topic.clone());
            }
            if let Some(slot) = wanted {
                let here = slot.contents.borrow().as_ref().map_or(Revision(0), |contents| contents.revision);
                self.following.insert(topic.clone());
                orders.follow.push((topic, here));
            }
        }
        orders
    }
}

impl Slot {
    fn new(pinned: bool, used: Instant) -> Self {
        Self { contents: watch::Sender::new(None), pinned, used, fresh: false }
    }

    /// Nobody needs it: neither for good, nor waiting for it right now.
    fn is_idle(&self) -> bool {
        !self.pinned && self.contents.receiver_count() == 0
    }

    /// It holds nothing, as names that do not exist: the first to go.
    fn is_empty(&self) -> bool {
        self.contents.borrow().as_ref().is_none_or(|contents| contents.records.is_empty())
    }
}

fn unknown(topic: &Topic) -> Fault {
    Fault::unavailable(format!(
        "no server can be reached and {topic} is not known on this host: try again when a server is back"
    ))
}
