//! The newest changes, so that a follower that comes back is told what it missed instead of everything.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use purlin_model::Revision;
use purlin_model::topic::Topic;

use crate::state::Touched;

/// Keys that are kept; the oldest changes go first.
const KEYS: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Ring {
    changes: VecDeque<Touched>,
    keys: usize,
    /// Every change after this one is here. None: no change was seen yet, so nothing is known.
    complete_after: Option<Revision>,
}

impl Ring {
    pub(super) fn push(&mut self, change: Touched) {
        let before = Revision(change.revision.0.saturating_sub(1));
        self.complete_after.get_or_insert(before);
        if change.keys.is_empty() {
            return;
        }
        self.keys += change.keys.len();
        self.changes.push_back(change);
        while self.keys > KEYS {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.keys -= oldest.keys.len();
            self.complete_after = Some(oldest.revision);
        }
    }

    /// Forgets everything: what comes next follows that revision.
    pub(super) fn clear(&mut self, revision: Revision) {
        *self = Self { complete_after: Some(revision), ..Self::default() };
    }

    /// The keys of a topic that changed after `have`; `None`: that is too long ago to know.
    pub(super) fn since(&self, topic: &Topic, have: Revision) -> Option<BTreeSet<Arc<str>>> {
        if self.complete_after.is_none_or(|complete| have < complete) {
            return None;
        }
        let newer = self.changes.partition_point(|change| change.revision <= have);
        let changes = self.changes.range(newer..).flat_map(|change| &change.keys);
        Some(changes.filter(|(of, _)| of == topic).map(|(_, key)| key.as_str().into()).collect())
    }

    pub(super) fn keys(&self) -> usize {
        self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, keys: &[&str]) -> Touched {
        let keys = keys.iter().map(|key| (Topic::Nodes, (*key).to_owned())).collect();
        Touched { revision: Revision(revision), keys, ..Touched::default() }
    }

    fn since(ring: &Ring, have: u64) -> Option<Vec<String>> {
        let keys = ring.since(&Topic::Nodes, Revision(have))?;
        Some(keys.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn it_knows_what_came_after_but_not_what_came_before_it() {
        let mut ring = Ring::default();
        assert_eq!(since(&ring, 5), None);
        ring.push(change(7, &["a"]));
        ring.push(change(8, &[]));
        ring.push(change(9, &["b", "a"]));
        assert_eq!(since(&ring, 5), None);
        assert_eq!(since(&ring, 6), Some(vec!["a".into(), "b".into()]));
        assert_eq!(since(&ring, 7), Some(vec!["a".into(), "b".into()]));
        assert_eq!(since(&ring, 9), Some(vec![]));
        assert_eq!(ring.since(&Topic::Services, Revision(6)), Some(BTreeSet::new()));
        ring.clear(Revision(20));
        assert_eq!(since(&ring, 19), None);
        assert_eq!(since(&ring, 20), Some(vec![]));
    }

    #[test]
    fn the_oldest_changes_are_forgotten() {
        let mut ring = Ring::default();
        for n in 1..=KEYS as u64 + 10 {
            ring.push(change(n, &["k"]));
        }
        assert_eq!(ring.keys(), KEYS);
        assert_eq!(since(&ring, 9), None);
        assert_eq!(since(&ring, 10), Some(vec!["k".into()]));
    }
}
