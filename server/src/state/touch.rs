//! When each topic last changed. Bounded: topics that changed longest ago are forgotten and answer a common floor,
//! which is never below their true revision, so that a waiting reader may wake once too often but never misses one.

use imbl::OrdMap;
use purlin_model::Revision;
use purlin_model::topic::Topic;
use serde::{Deserialize, Serialize};

use super::KvChange;

/// Topics whose revision is known exactly.
pub(super) const TOPICS: usize = 100_000;

/// What one applied command changed: the keyed records to look at again, in order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) revision: Revision,
    pub(crate) keys: Vec<(Topic, String)>,
    /// Changes of the key-value tree, whose keys have revisions of their own.
    pub(crate) kv: Vec<KvChange>,
    /// The state was replaced: every record of every topic is to be looked at again.
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Touches {
    at: OrdMap<Topic, Revision>,
    floor: Revision,
}

impl Touches {
    /// Every topic changed at that revision.
    pub(super) fn all_at(revision: Revision) -> Self {
        Self { at: OrdMap::new(), floor: revision }
    }

    pub(super) fn revision(&self, topic: &Topic) -> Revision {
        self.at.get(topic).copied().unwrap_or(self.floor)
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// What any topic answers at least.
    pub(super) fn least(&self) -> Revision {
        self.floor.min(Revision(1))
    }

    /// Once anything was written, no topic answers zero: Consul's clients take zero for "never asked".
    pub(super) fn raise_floor(&mut self) {
        self.floor = self.floor.max(Revision(1));
    }

    pub(super) fn record<'a>(&mut self, revision: Revision, topics: impl Iterator<Item = &'a Topic>) {
        for topic in topics {
            match self.at.get_mut(topic) {
                Some(at) => *at = revision,
                None => {
                    self.at.insert(topic.clone(), revision);
                }
            }
        }
        if self.at.len() > TOPICS {
            self.forget_oldest();
        }
    }

    /// Drops an eighth of them, so that the walk over all happens seldom.
    fn forget_oldest(&mut self) {
        let mut revisions: Vec<Revision> = self.at.values().copied().collect();
        revisions.sort_unstable();
        let Some(&limit) = revisions.get(TOPICS / 8) else { return };
        self.at = self.at.iter().filter(|(_, at)| **at > limit).map(|(t, at)| (t.clone(), *at)).collect();
        self.floor = self.floor.max(limit);
    }
}

#[cfg(test)]
mod tests {
    use purlin_model::NodeName;

    use super::*;

    fn topic(n: usize) -> Topic {
        Topic::Node(NodeName::new(format!("n{n}")).unwrap())
    }

    #[test]
    fn forgotten_topics_answer_a_floor_that_is_not_below_what_they_were() {
        let mut touches = Touches::default();
        assert_eq!(touches.revision(&topic(1)), Revision(0));
        touches.raise_floor();
        assert_eq!(touches.revision(&topic(1)), Revision(1));
        for n in 0..=TOPICS {
            touches.record(Revision(10 + n as u64), std::iter::once(&topic(n)));
        }
        assert!(touches.at.len() <= TOPICS);
        for n in [0, 1, TOPICS / 8, TOPICS / 2, TOPICS] {
            assert!(touches.revision(&topic(n)) >= Revision(10 + n as u64), "{n}");
        }
        assert_eq!(touches.revision(&topic(TOPICS)), Revision(10 + TOPICS as u64));
    }
}
