//! What servers have applied is one log: the same command at the same place, and the same state after it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Mutex;

use purlin_model::Revision;
use purlin_model::command::{Envelope, RequestId};

use crate::raft::tests::sim::world::World;
use crate::state::State;

/// After every so many entries whole states are compared.
const COMPARED: u64 = 16;

#[derive(Default)]
pub(in crate::raft::tests::sim) struct Prefix {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    log: BTreeMap<Revision, Envelope>,
    states: BTreeMap<Revision, u64>,
    broken: Option<String>,
}

fn sum(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&state.encode());
    hasher.finish()
}

impl Prefix {
    pub(super) fn applied(&self, revision: Revision, envelope: &Envelope, state: &State) {
        let mut inner = self.inner.lock().unwrap();
        let inner = &mut *inner;
        let known = inner.log.entry(revision).or_insert_with(|| envelope.clone());
        if *known != *envelope {
            let why = format!("two servers applied different commands at {revision}: {known} and {envelope}");
            inner.broken.get_or_insert(why);
        }
        if revision.0.is_multiple_of(COMPARED) {
            let sum = sum(state);
            if *inner.states.entry(revision).or_insert(sum) != sum {
                inner.broken.get_or_insert(format!("two servers differ in their state at {revision}"));
            }
        }
    }

    pub(super) fn request(&self, revision: Revision) -> Option<RequestId> {
        self.inner.lock().unwrap().log.get(&revision).map(|envelope| envelope.request)
    }

    pub(super) fn len(&self) -> usize {
        self.inner.lock().unwrap().log.len()
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.inner.lock().unwrap().broken.clone()
    }
}

/// At the end all states are equal.
pub(super) fn check(world: &World) -> Result<(), String> {
    if let Some(why) = super::prefix().broken() {
        return Err(why);
    }
    let states = world.lives().into_iter().map(|life| {
        let applied = life.raft.applied().borrow().clone();
        (life.raft.id(), applied.revision, sum(&applied.state.0))
    });
    let states: Vec<_> = states.collect();
    let equal = states.windows(2).all(|two| (two[0].1, two[0].2) == (two[1].1, two[1].2));
    if equal { Ok(()) } else { Err(format!("servers differ in the end: {states:?}")) }
}
