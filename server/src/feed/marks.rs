//! What one follower must look at again: keys by topic, or a whole topic where they are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purlin_model::topic::Topic;

/// Keys that are told apart in one topic, and in all of a follower's topics together.
const KEYS_PER_TOPIC: usize = 4_096;
const KEYS: usize = 32_768;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Marks {
    /// Those keys; none: only to say that the follower is up to date.
    Keys(BTreeSet<Arc<str>>),
    /// All of it.
    All,
}

#[derive(Debug, Default)]
pub(crate) struct Dirty {
    topics: BTreeMap<Topic, Marks>,
    keys: usize,
}

impl Dirty {
    pub(super) fn mark(&mut self, topic: &Topic, key: Arc<str>) {
        let full = self.keys >= KEYS;
        let marks = match self.topics.get_mut(topic) {
            Some(marks) => marks,
            None => self.topics.entry(topic.clone()).or_insert_with(|| Marks::Keys(BTreeSet::new())),
        };
        let Marks::Keys(keys) = marks else { return };
        if keys.insert(key) {
            self.keys += 1;
            if full || keys.len() > KEYS_PER_TOPIC {
                self.keys -= keys.len();
                *marks = Marks::All;
            }
        }
    }

    pub(super) fn mark_all(&mut self, topic: &Topic) {
        self.forget(topic);
        self.topics.insert(topic.clone(), Marks::All);
    }

    /// The follower has all but those keys. A whole topic that is due already stays due.
    pub(super) fn mark_resumed(&mut self, topic: &Topic, keys: BTreeSet<Arc<str>>) {
        self.topics.entry(topic.clone()).or_insert_with(|| Marks::Keys(BTreeSet::new()));
        for key in keys {
            self.mark(topic, key);
        }
    }

    pub(super) fn forget(&mut self, topic: &Topic) {
        if let Some(Marks::Keys(keys)) = self.topics.remove(topic) {
            self.keys -= keys.len();
        }
    }

    pub(crate) fn into_topics(self) -> BTreeMap<Topic, Marks> {
        self.topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(dirty: &Dirty) -> usize {
        let keys = |marks: &Marks| match marks {
            Marks::Keys(keys) => keys.len(),
            Marks::All => 0,
        };
        dirty.topics.values().map(keys).sum()
    }

    #[test]
    fn too_many_keys_become_the_whole_topic_and_memory_stays_bounded() {
        let mut dirty = Dirty::default();
        for n in 0..KEYS_PER_TOPIC {
            dirty.mark(&Topic::Nodes, n.to_string().into());
        }
        assert_eq!(count(&dirty), KEYS_PER_TOPIC);
        dirty.mark(&Topic::Nodes, "0".into());
        assert_eq!(count(&dirty), KEYS_PER_TOPIC);
        dirty.mark(&Topic::Nodes, "one more".into());
        assert_eq!(dirty.topics[&Topic::Nodes], Marks::All);
        for topic in 0..100 {
            let name = purlin_model::NodeName::new(format!("n{topic}")).unwrap();
            for n in 0..1_000 {
                dirty.mark(&Topic::Node(name.clone()), n.to_string().into());
            }
        }
        assert!(count(&dirty) <= KEYS, "{}", count(&dirty));
        assert_eq!(count(&dirty), dirty.keys);
        let topics: Vec<Topic> = dirty.topics.keys().cloned().collect();
        for topic in topics {
            dirty.forget(&topic);
        }
        assert_eq!(dirty.keys, 0);
    }
}
