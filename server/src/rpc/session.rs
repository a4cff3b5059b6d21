//! `session`: the long stream by which a host shows that it lives, says what it follows, and hears changes.
//!
//! Two halves that never wait for each other: one reads what the agent says, one tells it what changed. A reader that
//! hears nothing, or a writer whose words nobody takes, ends the session; the agent then opens another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use purlin_model::node::NodeStatus;
use purlin_model::topic::Topic;
use purlin_model::{Fault, NodeName, Revision};
use purlin_wire::frame::{self, FrameError};
use purlin_wire::link::Stream;
use purlin_wire::rpc::{
    self, Call, Down, OpenSession, Opened, SESSION, ServerReceiver, ServerSender, Up, accept_session,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Conversation;
use super::authorize::{Access, Resource, authorize};
use crate::feed::{Marks, Subscription};
use crate::liveness::{BEAT, FAILED};

/// A session that says nothing for so long is over; the link's own timeout is mostly faster.
const SILENCE: Duration = FAILED.saturating_mul(4);
/// For the agent to take one frame. A whole topic may take longer on a thin line.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// For the verdict on a host that says goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

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

impl Conversation {
    pub(super) async fn session(&self, mut stream: Stream, call: &Call) -> Result<(), FrameError> {
        let node = match self.may_open(call) {
            Ok(node) => node,
            Err(fault) => {
                self.count(SESSION, Some(&fault));
                return rpc::reply::<Opened>(&mut stream, &Err(fault)).await;
            }
        };
        self.count(SESSION, None);
        let beat_ms = u64::try_from(BEAT.as_millis()).unwrap_or(u64::MAX);
        let (mut sender, mut receiver) = accept_session(stream, Opened { beat_ms }).await?;
        let service = &self.service;
        let subscription = service.hub.subscribe(Some(node.clone()));
        let _counted = service.metrics.session();
        self.heard(&node);
        tracing::info!(%node, remote = self.link.remote(), "session opened");
        let settled = AtomicBool::new(false);
        let end = tokio::select! {
            end = Box::pin(self.listen(&node, &mut receiver, &subscription, &settled)) => end,
            end = Box::pin(self.tell(&mut sender, &subscription, &settled)) => end,
        };
        // Our own host lives as long as we do.
        if matches!(end, End::Left) && node != service.node {
            self.see_off(&node).await;
        }
        tracing::info!(%node, remote = self.link.remote(), reason = %end, "session ended");
        // Whoever hung up does not hear that we end too.
        let _ = timeout(BEAT, sender.finish()).await;
        Ok(())
    }

    fn may_open(&self, call: &Call) -> Result<NodeName, Fault> {
        let _open: OpenSession = Self::decode(call)?;
        authorize(&self.service.hub.state(), &self.caller, &Resource::Shared, Access::Read)?;
        self.caller.node().cloned().ok_or_else(|| Fault::forbidden("only a host has a session"))
    }

    /// A sign of life. One that was thought dead is looked at before the next tick.
    fn heard(&self, node: &NodeName) {
        self.service.liveness().beat(node, Instant::now());
        let alive = |status| status == NodeStatus::Alive;
        if !self.service.hub.state().node(node).is_some_and(|node| alive(node.status)) {
            self.service.look.notify_one();
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
                    self.service.liveness().goodbye(node);
                    self.service.look.notify_one();
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

    /// Until it is settled what the agent follows, it is not told how far we are: it may hold topics that are behind.
    async fn tell(
        &self,
        sender: &mut ServerSender,
        subscription: &Subscription,
        settled: &AtomicBool,
    ) -> End {
        let beat = match frame::encode(&Down::Beat) {
            Ok(beat) => beat,
            Err(error) => return error.into(),
        };
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Revision(0);
        loop {
            let told_beat = tokio::select! {
                () = subscription.rung() => None,
                _ = beats.tick() => Some(&beat),
            };
            // Asked first: what was followed before is then among what is due.
            let settled = settled.load(Ordering::Relaxed);
            match Box::pin(self.flush(sender, subscription, told_beat)).await {
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

    /// Tells all that is due; how far that goes.
    async fn flush(
        &self,
        sender: &mut ServerSender,
        subscription: &Subscription,
        beat: Option<&Bytes>,
    ) -> Result<Revision, End> {
        if let Some(beat) = beat {
            send_encoded(sender, beat).await?;
        }
        let taken = subscription.take();
        let revision = taken.state.applied();
        for (topic, marks) in taken.dirty.into_topics() {
            for frame in self.frames(&taken.state, topic, marks).await?.iter() {
                send_encoded(sender, frame).await?;
            }
        }
        Ok(revision)
    }

    /// A whole topic may be large, so it is put together where it does not hold up others.
    async fn frames(
        &self,
        state: &std::sync::Arc<crate::state::State>,
        topic: Topic,
        marks: Marks,
    ) -> Result<std::sync::Arc<Vec<Bytes>>, End> {
        let hub = self.service.hub.clone();
        if marks != Marks::All {
            return Ok(hub.frames().of(state, &topic, marks)?);
        }
        let state = state.clone();
        let read = tokio::task::spawn_blocking(move || hub.frames().of(&state, &topic, marks)).await;
        Ok(read.map_err(|_| Fault::internal("reading a topic failed inside the server"))??)
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

async fn send_encoded(sender: &mut ServerSender, frame: &Bytes) -> Result<(), End> {
    match timeout(TAKEN_WITHIN, sender.send_encoded(frame)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::Stuck),
    }
}

async fn send(sender: &mut ServerSender, message: &Down) -> Result<(), End> {
    send_encoded(sender, &frame::encode(message)?).await
}
