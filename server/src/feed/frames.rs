//! Deltas as frames, encoded once and shared by all who are due the same one. What a topic holds at a revision never
//! changes, so topic, revision and keys say all there is to know. Bounded in bytes; emptied when full.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use purlin_model::Revision;
use purlin_model::topic::{Delta, Topic};
use purlin_wire::frame::FrameError;
use purlin_wire::rpc::delta_frames;

use super::Marks;
use crate::state::State;

const BYTES: usize = 32 * 1024 * 1024;
const ENTRIES: usize = 4_096;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    topic: Topic,
    revision: Revision,
    /// None: all of them.
    keys: Option<BTreeSet<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Cache {
    frames: HashMap<Key, Arc<Vec<Bytes>>>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Frames {
    cache: Mutex<Cache>,
}

impl Frames {
    /// The frames that bring a follower of `topic` up to `state`.
    pub(crate) fn of(
        &self,
        state: &State,
        topic: &Topic,
        marks: Marks,
    ) -> Result<Arc<Vec<Bytes>>, FrameError> {
        let keys = match marks {
            Marks::All => None,
            Marks::Keys(keys) => Some(keys),
        };
        let key = Key { topic: topic.clone(), revision: state.revision(topic), keys };
        if let Some(frames) = self.lock().frames.get(&key) {
            return Ok(frames.clone());
        }
        let frames = Arc::new(delta_frames(&delta(state, &key))?);
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if bytes <= BYTES {
            let mut cache = self.lock();
            if cache.bytes + bytes > BYTES || cache.frames.len() >= ENTRIES {
                *cache = Cache::default();
            }
            if cache.frames.insert(key, frames.clone()).is_none() {
                cache.bytes += bytes;
            }
        }
        Ok(frames)
    }

    /// The whole topic, if it was encoded already.
    pub(crate) fn ready(&self, state: &State, topic: &Topic) -> Option<Arc<Vec<Bytes>>> {
        let key = Key { topic: topic.clone(), revision: state.revision(topic), keys: None };
        self.lock().frames.get(&key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

fn delta(state: &State, key: &Key) -> Delta {
    let mut delta = Delta {
        topic: key.topic.clone(),
        revision: key.revision,
        reset: key.keys.is_none(),
        set: Vec::new(),
        removed: Vec::new(),
    };
    let Some(keys) = &key.keys else {
        delta.set = state.read(&key.topic).records.into_iter().collect();
        return delta;
    };
    for key in keys {
        match state.record(&delta.topic, key) {
            Some(record) => delta.set.push((key.to_string(), record)),
            None => delta.removed.push(key.to_string()),
        }
    }
    delta
}
