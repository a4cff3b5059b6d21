//! Who follows which part of the key-value tree: found by the keys that changed, however many others follow.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use purlin_model::kv::{Key, KvTopic};

use crate::state::KvChange;

type Followers = BTreeMap<KvTopic, BTreeSet<u64>>;

#[derive(Debug, Default)]
pub(super) struct Tree {
    keys: BTreeMap<Key, Followers>,
    prefixes: BTreeMap<Key, Followers>,
}

impl Tree {
    fn part(&mut self, topic: &KvTopic) -> &mut BTreeMap<Key, Followers> {
        if topic.span().1 { &mut self.prefixes } else { &mut self.keys }
    }

    pub(super) fn add(&mut self, topic: &KvTopic, id: u64) {
        let key = topic.span().0.clone();
        self.part(topic).entry(key).or_default().entry(topic.clone()).or_default().insert(id);
    }

    pub(super) fn remove(&mut self, topic: &KvTopic, id: u64) {
        let (key, _) = topic.span();
        let part = self.part(topic);
        let Some(topics) = part.get_mut(key) else { return };
        if let Some(ids) = topics.get_mut(topic) {
            ids.remove(&id);
            if ids.is_empty() {
                topics.remove(topic);
            }
        }
        if topics.is_empty() {
            part.remove(key);
        }
    }

    /// Topics that somebody follows.
    pub(super) fn len(&self) -> usize {
        self.keys.values().chain(self.prefixes.values()).map(BTreeMap::len).sum()
    }

    /// Whom a change concerns, and by which topic.
    pub(super) fn concerned(&self, change: &KvChange) -> Vec<(KvTopic, u64)> {
        let mut found = Vec::new();
        let (key, whole) = match change {
            KvChange::Key(key) => (key, false),
            KvChange::Tree(prefix) => (prefix, true),
        };
        if whole {
            take(&mut found, begin_with(&self.keys, key));
            take(&mut found, begin_with(&self.prefixes, key).filter(|(prefix, _)| *prefix != key));
        } else {
            take(&mut found, self.keys.get_key_value(key));
        }
        take(&mut found, self.beginnings_of(key));
        found
    }

    /// The prefixes that a key begins with, the longest first.
    fn beginnings_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a Key, &'a Followers)> {
        let mut rest = Some(key);
        std::iter::from_fn(move || {
            while let Some(candidate) = rest {
                let range: (Bound<&str>, Bound<&str>) = (Bound::Unbounded, Bound::Included(candidate));
                let Some((prefix, followers)) = self.prefixes.range::<str, _>(range).next_back() else {
                    rest = None;
                    break;
                };
                // A longer one that the key begins with would lie between this one and the candidate.
                let common = common_bytes(prefix, key);
                if common == prefix.len() {
                    rest = prefix.char_indices().next_back().and_then(|(last, _)| key.get(..last));
                    return Some((prefix, followers));
                }
                rest = key.get(..common);
            }
            None
        })
    }
}

/// All that begin so.
fn begin_with<'a>(
    part: &'a BTreeMap<Key, Followers>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a Followers)> {
    let range: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
    part.range::<str, _>(range).take_while(move |(key, _)| key.starts_with(prefix))
}

fn take<'a>(found: &mut Vec<(KvTopic, u64)>, parts: impl IntoIterator<Item = (&'a Key, &'a Followers)>) {
    for (topic, ids) in parts.into_iter().flat_map(|(_, followers)| followers) {
        found.extend(ids.iter().map(|id| (topic.clone(), *id)));
    }
}

/// How many bytes both begin with, never within a character.
fn common_bytes(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(prefix: &str) -> KvTopic {
        KvTopic::Tree(prefix.into())
    }

    fn concerned(tree: &Tree, change: KvChange) -> Vec<u64> {
        let mut ids: Vec<u64> = tree.concerned(&change).into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_change_concerns_its_key_and_every_prefix_of_it_and_nobody_else() {
        let mut world = Tree::default();
        let topics = [
            KvTopic::Key("app/a".into()),
            KvTopic::Key("app/ab".into()),
            tree(""),
            tree("app/"),
            tree("app/a"),
            tree("app/b"),
            KvTopic::Keys { prefix: "ap".into(), separator: "/".into() },
            tree("é"),
            KvTopic::Key("other".into()),
        ];
        for (id, topic) in topics.iter().enumerate() {
            world.add(topic, id as u64);
        }
        let key = |text: &str| KvChange::Key(text.into());
        assert_eq!(concerned(&world, key("app/a")), [0, 2, 3, 4, 6]);
        assert_eq!(concerned(&world, key("app/ab")), [1, 2, 3, 4, 6]);
        assert_eq!(concerned(&world, key("app/c")), [2, 3, 6]);
        assert_eq!(concerned(&world, key("a")), [2]);
        assert_eq!(concerned(&world, key("éa")), [2, 7]);
        assert_eq!(concerned(&world, key("èa")), [2]);
        assert_eq!(concerned(&world, key("other")), [2, 8]);
        assert_eq!(concerned(&world, KvChange::Tree("app/".into())), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(concerned(&world, KvChange::Tree("".into())), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(world.len(), topics.len());
        for (id, topic) in topics.iter().enumerate() {
            world.remove(topic, id as u64);
        }
        assert_eq!((world.len(), world.keys.len(), world.prefixes.len()), (0, 0, 0));
    }
}
