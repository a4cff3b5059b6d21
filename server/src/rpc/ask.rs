//! `ask`: a topic once, at the consistency that was asked for, now or when it is newer than what the caller has.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::kv::KvTopic;
use purlin_model::topic::Topic;
use purlin_model::{Fault, FaultCode, Revision};
use purlin_wire::frame::FrameError;
use purlin_wire::link::Stream;
use purlin_wire::rpc::{self, Ask, Asked, Call, Consistency, Item};
use tokio::time::{Instant, timeout_at};

use super::Conversation;
use super::authorize::{Access, Resource, authorize};
use crate::state::State;

/// Consul's longest wait, and a sixteenth more that its agents add.
const WAIT_MAX: Duration = Duration::from_secs(640);

/// In a mesh with more nodes, reading a topic may take long; and so may reading a part of a larger tree.
const LARGE_NODES: usize = 500;
const LARGE_TREE: usize = 1_000;

fn may_be_long(state: &State, topic: &Topic) -> bool {
    let sizes = state.sizes();
    match topic {
        Topic::Kv(KvTopic::Key(_)) => false,
        Topic::Kv(_) | Topic::Txn(_) => sizes.kv_keys > LARGE_TREE,
        _ => sizes.nodes > LARGE_NODES,
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn items(state: &State, topic: &Topic) -> Result<(Revision, Vec<Item>), Fault> {
    let contents = state.read(topic);
    let items = contents.records.iter().map(|(key, record)| Item::new(key.as_str(), record));
    let items = items
        .collect::<Result<_, _>>()
        .map_err(|why| Fault::internal(format!("topic {topic} cannot be sent: {why}")))?;
    Ok((contents.revision, items))
}

impl Conversation {
    pub(super) async fn answer_ask(&self, stream: &mut Stream, call: &Call) -> Result<(), FrameError> {
        let asked = tokio::select! {
            asked = Box::pin(self.ask(call)) => asked,
            () = rpc::cancelled(&mut stream.read) => return Ok(()),
        };
        self.count(rpc::ASK, asked.as_ref().err());
        rpc::reply_asked(stream, asked).await
    }

    async fn ask(&self, call: &Call) -> Result<Asked, Fault> {
        let ask: Ask = Self::decode(call)?;
        let service = &self.service;
        authorize(&service.hub.state(), &self.caller, &Resource::Shared, Access::Read)?;
        service.read_barrier(ask.consistency).await?;
        let state = self.newer(&ask).await?;
        let (revision, records) = if may_be_long(&state, &ask.topic) {
            // It is put together where it does not hold up others.
            let topic = ask.topic.clone();
            let read = tokio::task::spawn_blocking(move || items(&state, &topic)).await;
            read.map_err(|_| Fault::internal("reading a topic failed inside the server"))??
        } else {
            items(&state, &ask.topic)?
        };
        Ok(Asked {
            revision,
            records,
            known_leader: service.raft.leader().is_some(),
            // What was proved to be fresh has no age.
            last_contact_ms: match ask.consistency {
                Consistency::Stale => millis(service.raft.last_contact()),
                Consistency::Default | Consistency::Consistent => 0,
            },
            more: false,
        })
    }

    /// The state, once the topic is newer than what the caller has, or the wait is over.
    async fn newer(&self, ask: &Ask) -> Result<Arc<State>, Fault> {
        let hub = &self.service.hub;
        let state = hub.state();
        let wait = Duration::from_millis(ask.wait_ms).min(WAIT_MAX);
        if ask.after == Revision(0) || wait.is_zero() || state.revision(&ask.topic) > ask.after {
            return Ok(state);
        }
        let _place = self.waits.try_acquire().map_err(|_| {
            Fault::new(
                FaultCode::Busy,
                "too many blocking queries of this host wait at the server: try again later",
            )
        })?;
        let (deadline, began) = (Instant::now() + wait, state.history());
        let subscription = hub.subscribe(None);
        subscription.follow(ask.topic.clone(), Revision(0))?;
        loop {
            let state = subscription.take().state;
            // A restore answers everybody, whatever the revisions in it.
            if state.revision(&ask.topic) > ask.after || state.history() != began {
                return Ok(state);
            }
            if timeout_at(deadline, subscription.rung()).await.is_err() {
                return Ok(hub.state());
            }
        }
    }
}
