//! What must hold in every run, one invariant a file, and the book of what they go by.

mod acknowledged;
mod leaders;
mod linearizable;
mod prefix;
mod views;

use std::sync::{Arc, OnceLock};

use purlin_model::Revision;
use purlin_model::command::{Envelope, RequestId};

use super::agent::View;
use super::server::Life;
use super::world::World;
use crate::raft::CallKind;
use crate::state::State;

pub(super) use leaders::Speaker;

#[derive(Default)]
pub(super) struct Book {
    acknowledged: acknowledged::Acknowledged,
    leaders: leaders::Leaders,
    settled: OnceLock<()>,
}

/// What is applied has no way to the world but this: there is one world in a process.
static PREFIX: OnceLock<prefix::Prefix> = OnceLock::new();

fn prefix() -> &'static prefix::Prefix {
    PREFIX.get_or_init(prefix::Prefix::default)
}

/// Some server applied an entry, and this is its state then.
pub(super) fn applied(revision: Revision, envelope: &Envelope, state: &State) {
    prefix().applied(revision, envelope, state);
}

/// A server heard a call of another.
pub(super) fn heard(world: &World, from: Speaker, kind: CallKind, body: &[u8]) {
    if let Err(why) = world.book.leaders.heard(from, kind, body) {
        world.broke(format!("leaders: {why}"));
    }
    if let Some(why) = prefix().broken() {
        world.broke(format!("prefix: {why}"));
    }
}

/// Follows what a server thinks of who leads.
pub(super) fn watch_leader(world: &Arc<World>, life: &Arc<Life>) {
    let (world, life) = (world.clone(), life.clone());
    let mut leadership = life.raft.leadership();
    tokio::spawn(async move {
        loop {
            let now = leadership.borrow_and_update().clone();
            world.tell(format_args!(
                "server {} in term {}, leader {:?}",
                life.raft.id(),
                now.term,
                now.leader
            ));
            tokio::select! {
                biased;
                () = life.over.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    });
}

impl Book {
    pub(super) fn acknowledged(&self, request: RequestId, revision: Revision) {
        self.acknowledged.note(request, revision);
    }

    /// Whether clients have ended and servers agree.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.get().is_some()
    }

    pub(super) fn settle(&self) {
        let _ = self.settled.set(());
    }

    pub(super) fn entries(&self) -> usize {
        prefix().len()
    }

    /// At the end, when everybody agrees.
    pub(super) fn check(&self, world: &World, views: &[View]) -> Result<(), String> {
        let named = |name: &'static str| move |why: String| format!("{name}: {why}");
        prefix::check(world).map_err(named("prefix"))?;
        self.acknowledged.check(prefix()).map_err(named("acknowledged"))?;
        linearizable::check(&world.history).map_err(named("linearizable"))?;
        views::check(world, views).map_err(named("views"))
    }
}
