//! `session`: the long stream by which a host shows that it lives, says what it follows, and hears changes.
//!
//! Two halves that never wait for each other: one reads what the agent says, one tells it what changed. A reader that
//! hears nothing, or a writer whose words nobody takes, ends the session; the agent then opens another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use purlin_model::node::NodeStatus;
use purlin_model::topic::Topic;
use purlin_model::{Fault, HistoryId, NodeName, Revision};
use purlin_wire::frame::{self, FrameError};
use purlin_wire::link::Stream;
use purlin_wire::rpc::{
    self, Call, Down, OpenSession, Opened, SESSION, ServerReceiver, ServerSender, Up, accept_session,
};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use super::authorize::{Access, Resource, authorize};
use super::doors::OpenDoor;
use super::{Conversation, Service};
use crate::feed::{Marks, Subscription};
use crate::liveness::BEAT;
use crate::state::State;

/// A session that says nothing for so long is over; the link's own timeout is mostly faster.
const SILENCE: Duration = Duration::from_secs(60);
/// For the agent to take one frame. A whole topic may take longer on a thin line.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// For the verdict on a host that says goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// So many beats a topic is waited for that the agent has in a newer form than this server.
const BEHIND_BEATS: u32 = 5;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the host left")]
    Left,
    #[error("the stream ended")]
    Finished,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("nothing was heard for {} s", SILENCE.as_secs())]
    Silence,
    #[error("nothing was taken for {} s", TAKEN_WITHIN.as_secs())]
    Stuck,
}

/// A session as liveness sees it: it begins with this, and its end is told when this is dropped.
struct Place<'a> {
    service: &'a Service,
    node: &'a NodeName,
    door: OpenDoor<'a>,
}

impl<'a> Place<'a> {
    fn take(conversation: &'a Conversation, node: &'a NodeName, probe: Option<String>) -> Self {
        let service = &conversation.service;
        let door = service.doors.open(node, conversation.link.clone());
        service.sessions().opened(node, probe, Instant::now());
        service.tell_news();
        Self { service, node, door }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.service.sessions().closed(self.node, Instant::now());
        self.service.tell_news();
    }
}

impl Conversation {
    pub(super) async fn session(&self, mut stream: Stream, call: &Call) -> Result<(), FrameError> {
        let (node, open) = match Box::pin(self.may_open(call)).await {
            Ok(may) => may,
            Err(fault) => {
                self.count(SESSION, Some(&fault));
                return rpc::reply::<Opened>(&mut stream, &Err(fault)).await;
            }
        };
        self.count(SESSION, None);
        let service = &self.service;
        let pace = service.sessions().pace();
        let history = service.hub.state().history();
        let opened = Opened { beat_ms: millis(pace), history };
        let (mut sender, mut receiver) = accept_session(stream, opened).await?;
        let subscription = service.hub.subscribe(Some(node.clone()));
        let _counted = service.metrics.session();
        let place = Place::take(self, &node, open.probe);
        service.sessions().paced(&node, pace, Instant::now());
        tracing::info!(%node, remote = self.link.remote(), "session opened");
        let settled = AtomicBool::new(false);
        let moves = place.door.moves.clone();
        let teller =
            Teller { conversation: self, node: &node, subscription: &subscription, moves, settled: &settled };
        let end = tokio::select! {
            end = Box::pin(self.listen(&node, &mut receiver, &subscription, &settled)) => end,
            end = Box::pin(teller.tell(&mut sender, pace, history)) => end,
        };
        if matches!(end, End::Left) {
            self.see_off(&node).await;
        }
        tracing::info!(%node, remote = self.link.remote(), reason = %end, "session ended");
        drop(place);
        // Whoever hung up does not hear that we end too.
        let _ = timeout(BEAT, sender.finish()).await;
        Ok(())
    }

    /// Who opens a session; waits for its turn.
    async fn may_open(&self, call: &Call) -> Result<(NodeName, OpenSession), Fault> {
        let open: OpenSession = Self::decode(call)?;
        let service = &self.service;
        authorize(&service.hub.state(), &self.caller, &Resource::Shared, Access::Read)?;
        let node =
            self.caller.node().cloned().ok_or_else(|| Fault::forbidden("only a host has a session"))?;
        if open.moves {
            self.is_better_off()?;
        }
        if node != service.node {
            let wait = service.admission.session(Instant::now())?;
            if !wait.is_zero() {
                sleep(wait).await;
            }
        }
        Ok((node, open))
    }

    /// Whether a host that has a session elsewhere should have it here.
    fn is_better_off(&self) -> Result<(), Fault> {
        if self.service.touch.is_lost() {
            return Err(Fault::unavailable("this server has no contact with a leader"));
        }
        let (open, share) = (self.service.sessions().open() as u64, self.service.touch.fair_share());
        if share > 0 && open >= share {
            return Err(Fault::unavailable(format!("this server has its share of sessions, {open}")));
        }
        Ok(())
    }

    /// A sign of life.
    fn heard(&self, node: &NodeName) {
        let mut sessions = self.service.sessions();
        sessions.beat(node, Instant::now());
        let news = sessions.has_news();
        drop(sessions);
        if news {
            self.service.tell_news();
        }
    }

    async fn listen(
        &self,
        node: &NodeName,
        receiver: &mut ServerReceiver,
        subscription: &Subscription,
        settled: &AtomicBool,
    ) -> End {
        loop {
            let up = match timeout(SILENCE, receiver.next()).await {
                Err(_) => return End::Silence,
                Ok(Err(error)) => return error.into(),
                Ok(Ok(None)) => return End::Finished,
                Ok(Ok(Some(up))) => up,
            };
            if let Err(fault) = self.still_welcome() {
                self.link.close(&fault.text);
                return fault.into();
            }
            match up {
                Up::Leave => {
                    self.service.sessions().goodbye(node);
                    self.service.tell_news();
                    return End::Left;
                }
                Up::Beat => {
                    if !settled.swap(true, Ordering::Relaxed) {
                        subscription.ring();
                    }
                }
                Up::Follow(topics) => {
                    if let Err(fault) = self.follow(subscription, topics) {
                        tracing::warn!(%node, %fault, "session ended: it cannot follow");
                        return fault.into();
                    }
                }
                Up::Unfollow(topics) => topics.iter().for_each(|topic| subscription.unfollow(topic)),
                Up::Applied(marks) => subscription.applied(&marks, Instant::now()),
            }
            self.heard(node);
        }
    }

    fn follow(&self, subscription: &Subscription, topics: Vec<(Topic, Revision)>) -> Result<(), Fault> {
        authorize(&self.service.hub.state(), &self.caller, &Resource::Shared, Access::Read)?;
        for (topic, have) in topics {
            subscription.follow(topic, have)?;
        }
        Ok(())
    }

    /// Waits until the catalog says that the host left, so that the host may rely on it when the stream ends.
    async fn see_off(&self, node: &NodeName) {
        let subscription = self.service.hub.subscribe(None);
        if subscription.follow(Topic::Node(node.clone()), Revision(0)).is_err() {
            return;
        }
        let left = async {
            loop {
                let state = subscription.take().state;
                if state.node(node).is_none_or(|node| node.status == NodeStatus::Left) {
                    return;
                }
                subscription.rung().await;
            }
        };
        if timeout(GOODBYE, left).await.is_err() {
            tracing::warn!(%node, "the host left, but the catalog could not be told in time");
        }
    }
}

/// The half of a session that tells the agent.
struct Teller<'a> {
    conversation: &'a Conversation,
    node: &'a NodeName,
    subscription: &'a Subscription,
    moves: Arc<Notify>,
    settled: &'a AtomicBool,
}

/// Beats, and how often.
struct Beats {
    frame: Bytes,
    pace: Duration,
    ticks: Interval,
}

impl Beats {
    fn new(pace: Duration) -> Result<Self, FrameError> {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { frame: frame::encode(&Down::Beat)?, pace, ticks })
    }
}

impl Teller<'_> {
    /// Until it is settled what the agent follows, it is not told how far we are: it may hold topics that are behind.
    async fn tell(&self, sender: &mut ServerSender, pace: Duration, mut history: Option<HistoryId>) -> End {
        let mut beats = match Beats::new(pace) {
            Ok(beats) => beats,
            Err(error) => return error.into(),
        };
        let mut told = Revision(0);
        let mut count = 0_u32;
        loop {
            let is_beat = tokio::select! {
                () = self.subscription.rung() => false,
                _ = beats.ticks.tick() => true,
                () = self.moves.notified() => {
                    if let Err(end) = send(sender, &Down::Move).await {
                        return end;
                    }
                    continue;
                }
            };
            if is_beat {
                count = count.wrapping_add(1);
                if count.is_multiple_of(BEHIND_BEATS) {
                    self.subscription.wait_no_more();
                }
                if let Err(end) = self.beat(sender, &mut beats).await {
                    return end;
                }
            }
            // Asked first: what was followed before is then among what is due.
            let settled = self.settled.load(Ordering::Relaxed);
            match Box::pin(self.flush(sender, &mut beats, &mut history)).await {
                Ok(revision) if settled && revision > told => {
                    if let Err(end) = send(sender, &Down::Progress(revision)).await {
                        return end;
                    }
                    told = revision;
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Shows that this server lives, and how often the host shall show it, if that changed.
    async fn beat(&self, sender: &mut ServerSender, beats: &mut Beats) -> Result<(), End> {
        let pace = self.conversation.service.sessions().pace();
        if pace != beats.pace {
            send(sender, &Down::Pace(millis(pace))).await?;
            *beats = Beats::new(pace)?;
            beats.ticks.tick().await;
            self.conversation.service.sessions().paced(self.node, pace, Instant::now());
        }
        send_encoded(sender, &beats.frame).await
    }

    /// Tells all that is due; how far that goes.
    async fn flush(
        &self,
        sender: &mut ServerSender,
        beats: &mut Beats,
        history: &mut Option<HistoryId>,
    ) -> Result<Revision, End> {
        let taken = self.subscription.take();
        let revision = taken.state.applied();
        if let Some(now) = taken.state.history().filter(|now| *history != Some(*now)) {
            send(sender, &Down::History(now)).await?;
            *history = Some(now);
        }
        for (topic, marks) in taken.dirty.into_topics() {
            for frame in self.frames(sender, beats, &taken.state, topic, marks).await?.iter() {
                send_encoded(sender, frame).await?;
            }
        }
        Ok(revision)
    }

    /// A whole topic may be large, so it is put together where it does not hold up others, and only a few at once; who
    /// waits for one goes on to hear that this server lives.
    async fn frames(
        &self,
        sender: &mut ServerSender,
        beats: &mut Beats,
        state: &Arc<State>,
        topic: Topic,
        marks: Marks,
    ) -> Result<Arc<Vec<Bytes>>, End> {
        let service = &self.conversation.service;
        if marks != Marks::All {
            return Ok(service.hub.frames().of(state, &topic, marks)?);
        }
        if let Some(ready) = service.hub.frames().ready(state, &topic) {
            return Ok(ready);
        }
        let read = async {
            let _turn = service.admission.whole_topics.acquire().await;
            let (hub, state) = (service.hub.clone(), state.clone());
            tokio::task::spawn_blocking(move || hub.frames().of(&state, &topic, marks)).await
        };
        tokio::pin!(read);
        loop {
            tokio::select! {
                biased;
                read = &mut read => {
                    return Ok(read.map_err(|_| Fault::internal("reading a topic failed inside the server"))??);
                }
                _ = beats.ticks.tick() => send_encoded(sender, &beats.frame).await?,
            }
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

async fn send_encoded(sender: &mut ServerSender, frame: &Bytes) -> Result<(), End> {
    match timeout(TAKEN_WITHIN, sender.send_encoded(frame)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::Stuck),
    }
}

async fn send(sender: &mut ServerSender, message: &Down) -> Result<(), End> {
    send_encoded(sender, &frame::encode(message)?).await
}
