//! Agents: each follows some topics at one server after another, resuming from what it has.
//!
//! The server's half is the product's hub and its frames; what an agent holds is the product's `Contents`.

use std::collections::BTreeMap;
use std::sync::Arc;

use purlin_model::Revision;
use purlin_model::config_entry::ConfigKind;
use purlin_model::kv::KvTopic;
use purlin_model::topic::{Contents, Topic};
use purlin_wire::frame;
use purlin_wire::rpc::{Assembler, Down};

use super::Bug;
use super::client::{KEYS, SERVICES};
use super::server::Life;
use super::world::World;

/// What an agent knows.
pub(super) type View = BTreeMap<Topic, Contents>;

/// Until it is calm and the newest state has been seen.
pub(super) async fn live(world: Arc<World>, id: u32) -> View {
    let kind = ConfigKind::ServiceDefaults;
    let mut topics = vec![Topic::Config(kind, None), Topic::Nodes, Topic::Mesh];
    topics.extend(SERVICES.iter().take(id as usize).map(|name| Topic::Config(kind, Some((*name).into()))));
    topics.extend(KEYS.iter().skip(id as usize).map(|key| Topic::Kv(KvTopic::Key((*key).into()))));
    topics.push(Topic::Kv(KvTopic::Tree("kv/g".into())));
    let mut view: View = topics.into_iter().map(|topic| (topic, Contents::default())).collect();
    loop {
        tokio::time::sleep(world.span(1..400)).await;
        let Some(life) = world.pick(&world.lives()) else { continue };
        world.tell(format_args!("agent {id} follows server {}", life.raft.id()));
        let ends = tokio::time::Instant::now() + world.span(50..2_500);
        if session(&world, id, &life, &mut view, ends).await {
            return view;
        }
    }
}

/// One session; true if the agent has seen all that there will be.
async fn session(
    world: &Arc<World>,
    id: u32,
    life: &Arc<Life>,
    view: &mut View,
    ends: tokio::time::Instant,
) -> bool {
    let subscription = life.hub.subscribe(None);
    let blind = world.bug == Some(Bug::ResumeBlindly);
    for (topic, contents) in view.iter() {
        let have = if blind && contents.revision > Revision(0) {
            life.hub.state().revision(topic)
        } else {
            contents.revision
        };
        if let Err(fault) = subscription.follow(topic.clone(), have) {
            world.broke(format!("agent {id} may not follow {topic}: {fault}"));
        }
    }
    let mut assembler = Assembler::default();
    loop {
        if !world.is_calm() && tokio::time::Instant::now() >= ends {
            return false;
        }
        // What is due comes first, so that a session that ends in the calm has told all.
        let rung = tokio::select! {
            biased;
            () = life.over.cancelled() => return false,
            () = subscription.rung() => true,
            () = tokio::time::sleep_until(ends) => false,
        };
        if !rung {
            return world.is_calm() && is_last(world, life);
        }
        let taken = subscription.take();
        for (topic, marks) in taken.dirty.into_topics() {
            let frames = match life.hub.frames().of(&taken.state, &topic, marks) {
                Ok(frames) => frames,
                Err(error) => {
                    return {
                        world.broke(error.to_string());
                        false
                    };
                }
            };
            for bytes in frames.iter() {
                // A frame that is on its way when the session ends is lost.
                tokio::time::sleep(world.span(1..20)).await;
                if life.over.is_cancelled() {
                    return false;
                }
                let Ok(Down::Delta(piece)) = frame::decode_body(&bytes[frame::HEADER_BYTES..]) else {
                    continue;
                };
                if let Ok(Some(delta)) = assembler.push(piece) {
                    world.tell(format_args!("agent {id} hears {topic} {}", delta.revision));
                    view.entry(delta.topic.clone()).or_default().absorb(delta);
                }
            }
        }
    }
}

/// Whether nothing more will change: everybody has applied everything.
fn is_last(world: &World, life: &Life) -> bool {
    let here = life.raft.applied().borrow().revision;
    let mut lives = world.lives().into_iter();
    world.book.is_settled() && lives.all(|life| life.raft.applied().borrow().revision == here)
}
