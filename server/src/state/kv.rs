//! The key-value tree. A change is judged first and then done in place, so that it costs no copy of anything.
//!
//! Every key has a revision of its own, also when it is gone: a reader who waits for it must hear that. The graves of
//! deleted keys are bounded; of those that are forgotten a common floor is left, which is never below what they were.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use purlin_model::command::Done;
use purlin_model::kv::{Key, KvEntry, KvPut, KvTopic, KvWrite};
use purlin_model::session::Behavior;
use purlin_model::topic::Record;
use purlin_model::{Fault, FaultCode, Revision, SessionId, limit};
use serde::{Deserialize, Serialize};

/// Deleted keys whose revision is known exactly.
pub(super) const GRAVES: usize = 100_000;

/// What of the tree changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvChange {
    Key(Key),
    /// Every key that was there below this prefix is gone.
    Tree(Key),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Kv {
    entries: OrdMap<Key, Arc<KvEntry>>,
    /// The keys that each session holds.
    held: OrdMap<SessionId, OrdSet<Key>>,
    graves: Graves,
    /// Of keys and values.
    bytes: usize,
    /// When anything changed last.
    changed: Revision,
}

/// When keys were deleted that are not there now.
#[derive(Debug, Clone, Default)]
struct Graves {
    at: OrdMap<Key, Revision>,
    order: OrdSet<(Revision, Key)>,
    floor: Revision,
}

impl Graves {
    fn of(&self, key: &Key) -> Revision {
        self.at.get(key).copied().unwrap_or(self.floor)
    }

    fn newest_below(&self, prefix: &str) -> Revision {
        below(&self.at, prefix).map(|(_, at)| *at).max().unwrap_or_default().max(self.floor)
    }

    fn dig(&mut self, key: Key, revision: Revision) {
        self.fill(&key);
        self.order.insert((revision, key.clone()));
        self.at.insert(key, revision);
        while self.at.len() > GRAVES {
            let Some((oldest, key)) = self.order.remove_min() else { return };
            self.at.remove(&key);
            self.floor = self.floor.max(oldest);
        }
    }

    /// The key is back.
    fn fill(&mut self, key: &Key) {
        if let Some(at) = self.at.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }
}

/// All of a map whose keys begin so.
fn below<'a, V: Clone>(map: &'a OrdMap<Key, V>, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a V)> {
    let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
    map.range::<_, str>(from).take_while(move |(key, _)| key.starts_with(prefix))
}

fn weight(key: &Key, value: &[u8]) -> usize {
    key.len() + value.len()
}

impl Kv {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn graves(&self) -> usize {
        self.graves.at.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<KvEntry>> {
        self.entries.get(key)
    }

    pub(super) fn tree<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<KvEntry>> {
        below(&self.entries, prefix).map(|(_, entry)| entry)
    }

    /// When one of those keys changed last.
    pub(super) fn revision(&self, topic: &KvTopic) -> Revision {
        match topic.span() {
            (key, false) => self.entries.get(key).map_or_else(|| self.graves.of(key), |e| e.modify_index),
            (prefix, true) if prefix.is_empty() => self.changed,
            (prefix, true) => {
                let newest = self.tree(prefix).map(|entry| entry.modify_index).max().unwrap_or_default();
                newest.max(self.graves.newest_below(prefix))
            }
        }
    }

    /// The records of a topic, in order.
    pub(super) fn read<'a>(&'a self, topic: &'a KvTopic) -> Box<dyn Iterator<Item = (String, Record)> + 'a> {
        let whole = |entry: &Arc<KvEntry>| (entry.key.to_string(), Record::Kv((**entry).clone()));
        match topic {
            KvTopic::Key(key) => Box::new(self.entries.get(key).into_iter().map(whole)),
            KvTopic::Tree(prefix) => Box::new(self.tree(prefix).map(whole)),
            KvTopic::Keys { prefix, separator } => {
                let fold = |entry: &'a Arc<KvEntry>| (folded(&entry.key, prefix, separator), Record::KvKey);
                Box::new(self.tree(prefix).map(fold))
            }
        }
    }

    pub(super) fn record(&self, topic: &KvTopic, key: &str) -> Option<Record> {
        let entry = match topic {
            KvTopic::Keys { prefix, separator } => {
                let mut keys = self.tree(key).map(|entry| folded(&entry.key, prefix, separator));
                return keys.any(|folded| folded == key).then_some(Record::KvKey);
            }
            KvTopic::Key(own) => self.get(key).filter(|_| **own == *key),
            KvTopic::Tree(prefix) => self.get(key).filter(|_| key.starts_with(&**prefix)),
        };
        entry.map(|entry| Record::Kv((**entry).clone()))
    }

    /// Makes one change. A refusal, or a condition that is not met, changes nothing. Whether the session of a lock
    /// exists is for the caller to know.
    pub(super) fn write(
        &mut self,
        revision: Revision,
        write: &KvWrite,
    ) -> Result<(Done, Option<KvChange>), Fault> {
        write.check()?;
        let old = self.entries.get(write.key()).cloned();
        let modified = old.as_ref().map_or(Revision(0), |old| old.modify_index);
        match write {
            KvWrite::Cas(_, index) if *index != modified => Ok((Done::CasFailed, None)),
            KvWrite::Set(put) | KvWrite::Cas(put, _) => {
                let (session, lock_index) =
                    old.as_deref().map_or((None, 0), |old| (old.session.clone(), old.lock_index));
                self.put(revision, put, session, lock_index)
            }
            KvWrite::Lock(put, session) => {
                let lock_index = match old.as_deref() {
                    Some(old) if old.session.as_ref() == Some(session) => old.lock_index,
                    Some(old) if old.session.is_some() => return Ok((Done::CasFailed, None)),
                    Some(old) => old.lock_index.saturating_add(1),
                    None => 1,
                };
                self.put(revision, put, Some(session.clone()), lock_index)
            }
            KvWrite::Unlock(put, session) => match old.as_deref() {
                Some(old) if old.session.as_ref() == Some(session) => {
                    self.put(revision, put, None, old.lock_index)
                }
                _ => Ok((Done::CasFailed, None)),
            },
            KvWrite::DeleteCas(_, index) if old.is_some() && *index != modified => {
                Ok((Done::CasFailed, None))
            }
            KvWrite::Delete(key) | KvWrite::DeleteCas(key, _) => {
                let existed = self.delete(revision, key);
                Ok((Done::Deleted { existed }, existed.then(|| KvChange::Key(key.clone()))))
            }
            KvWrite::DeleteTree(prefix) => {
                let existed = self.delete_tree(revision, prefix);
                Ok((Done::Deleted { existed }, existed.then(|| KvChange::Tree(prefix.clone()))))
            }
        }
    }

    /// Puts a value; the same again changes nothing.
    fn put(
        &mut self,
        revision: Revision,
        put: &KvPut,
        session: Option<SessionId>,
        lock_index: u64,
    ) -> Result<(Done, Option<KvChange>), Fault> {
        let old = self.entries.get(&put.key);
        if let Some(old) = old
            && (old.flags, old.lock_index) == (put.flags, lock_index)
            && old.session == session
            && old.value == put.value
        {
            return Ok((Done::Yes, None));
        }
        let freed = old.map_or(0, |old| weight(&old.key, &old.value));
        let bytes = self.bytes.saturating_sub(freed) + weight(&put.key, &put.value);
        self.has_room(old.is_none(), bytes)?;
        let entry = KvEntry {
            key: old.map_or_else(|| put.key.clone(), |old| old.key.clone()),
            value: put.value.clone(),
            flags: put.flags,
            lock_index,
            create_index: old.map_or(revision, |old| old.create_index),
            modify_index: revision,
            session,
        };
        self.bytes = bytes;
        let change = KvChange::Key(entry.key.clone());
        self.insert(entry);
        Ok((Done::Yes, Some(change)))
    }

    fn has_room(&self, new: bool, bytes: usize) -> Result<(), Fault> {
        let full = |what: String| {
            Err(Fault::new(
                FaultCode::TooLarge,
                format!("the key-value tree is full, it may have {what}: delete keys"),
            ))
        };
        if new && self.entries.len() >= limit::KV_KEYS {
            return full(format!("{} keys", limit::KV_KEYS));
        }
        if bytes > limit::KV_BYTES && bytes > self.bytes {
            return full(format!("{} bytes of keys and values", limit::KV_BYTES));
        }
        Ok(())
    }

    /// Puts an entry as it is, and keeps the indices true. Its bytes are counted by the caller.
    fn insert(&mut self, entry: KvEntry) {
        self.changed = self.changed.max(entry.modify_index);
        let (key, session) = (entry.key.clone(), entry.session.clone());
        match self.entries.get_mut(&key) {
            Some(place) => {
                let old = std::mem::replace(place, Arc::new(entry));
                if old.session != session {
                    self.let_go(&old);
                }
            }
            None => {
                self.graves.fill(&key);
                self.entries.insert(key.clone(), Arc::new(entry));
            }
        }
        if let Some(session) = session {
            self.held.entry(session).or_default().insert(key);
        }
    }

    fn let_go(&mut self, entry: &KvEntry) {
        let Some(session) = &entry.session else { return };
        if let Some(keys) = self.held.get_mut(session) {
            keys.remove(&entry.key);
            if keys.is_empty() {
                self.held.remove(session);
            }
        }
    }

    fn take_out(&mut self, key: &Key) -> Option<Arc<KvEntry>> {
        let old = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(weight(&old.key, &old.value));
        self.let_go(&old);
        Some(old)
    }

    /// Lets go of all that a session holds: the keys that it held.
    pub(super) fn end_session(&mut self, revision: Revision, id: &SessionId, behavior: Behavior) -> Vec<Key> {
        let keys: Vec<Key> = self.held.get(id).into_iter().flatten().cloned().collect();
        for key in &keys {
            if behavior == Behavior::Delete {
                self.delete(revision, key);
            } else if let Some(entry) = self.entries.get(key).cloned() {
                self.insert(KvEntry { session: None, modify_index: revision, ..(*entry).clone() });
            }
        }
        keys
    }

    fn delete(&mut self, revision: Revision, key: &Key) -> bool {
        let Some(old) = self.take_out(key) else { return false };
        self.graves.dig(old.key.clone(), revision);
        self.changed = revision;
        true
    }

    fn delete_tree(&mut self, revision: Revision, prefix: &Key) -> bool {
        let keys: Vec<Key> = self.tree(prefix).map(|entry| entry.key.clone()).collect();
        if keys.len() <= GRAVES {
            return keys.iter().fold(false, |any, key| self.delete(revision, key) | any);
        }
        // More than are kept apart: the floor is enough for all of them, and for all before.
        for key in &keys {
            self.take_out(key);
        }
        self.graves = Graves { floor: revision, ..Graves::default() };
        self.changed = revision;
        true
    }
}

/// The key, up to the first separator behind the prefix.
fn folded(key: &str, prefix: &str, separator: &str) -> String {
    let rest = key.get(prefix.len()..).unwrap_or_default();
    let end = match rest.find(separator).filter(|_| !separator.is_empty()) {
        Some(at) => prefix.len() + at + separator.len(),
        None => key.len(),
    };
    key.get(..end).unwrap_or(key).to_owned()
}

/// As it lies in a snapshot.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKv {
    entries: Vec<Arc<KvEntry>>,
    graves: Vec<(Key, Revision)>,
    floor: Revision,
    changed: Revision,
}

impl StoredKv {
    pub(super) fn is_empty(&self) -> bool {
        self.changed == Revision(0)
    }
}

impl Kv {
    pub(super) fn store(&self) -> StoredKv {
        StoredKv {
            entries: self.entries.values().cloned().collect(),
            graves: self.graves.at.iter().map(|(key, at)| (key.clone(), *at)).collect(),
            floor: self.graves.floor,
            changed: self.changed,
        }
    }

    pub(super) fn load(stored: StoredKv) -> Self {
        let mut kv = Self { changed: stored.changed, ..Self::default() };
        for entry in stored.entries {
            kv.bytes += weight(&entry.key, &entry.value);
            if let Some(session) = &entry.session {
                kv.held.entry(session.clone()).or_default().insert(entry.key.clone());
            }
            kv.entries.insert(entry.key.clone(), entry);
        }
        kv.graves.order = stored.graves.iter().map(|(key, at)| (*at, key.clone())).collect();
        kv.graves.at = stored.graves.into_iter().collect();
        kv.graves.floor = stored.floor;
        kv
    }
}
