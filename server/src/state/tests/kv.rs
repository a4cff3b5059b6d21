//! The key-value tree: what each change does, which index it moves, and what it leaves alone.

use purlin_model::kv::{KvEntry, KvPut, KvTopic, KvWrite};
use purlin_model::{SessionId, limit};

use super::super::kv::{GRAVES, Kv};
use super::*;

fn put(key: &str, value: &str) -> KvPut {
    KvPut { key: key.into(), value: value.as_bytes().into(), flags: 0 }
}

fn set(key: &str, value: &str) -> KvWrite {
    KvWrite::Set(put(key, value))
}

fn topic(key: &str) -> Topic {
    Topic::Kv(KvTopic::Key(key.into()))
}

fn tree(prefix: &str) -> Topic {
    Topic::Kv(KvTopic::Tree(prefix.into()))
}

fn keys(prefix: &str, separator: &str) -> Topic {
    Topic::Kv(KvTopic::Keys { prefix: prefix.into(), separator: separator.into() })
}

impl Log {
    fn kv(&mut self, write: KvWrite) -> Result<Done, (FaultCode, String)> {
        let (outcome, touched) = self.apply(Command::Kv(write));
        assert!(touched.keys.is_empty(), "the tree has no place in the ring of changes");
        outcome.result.map_err(|fault| (fault.code, fault.text))
    }

    fn entry(&self, key: &str) -> KvEntry {
        match self.state.record(&topic(key), key) {
            Some(Record::Kv(entry)) => entry,
            other => panic!("{key}: {other:?}"),
        }
    }

    fn index(&self, topic: &Topic) -> u64 {
        self.state.revision(topic).0
    }
}

#[test]
fn a_value_keeps_its_first_index_and_the_same_again_changes_nothing() {
    let mut log = Log::new();
    assert_eq!(log.kv(set("a", "1")), Ok(Done::Yes));
    let first = log.entry("a");
    assert_eq!(
        (first.create_index, first.modify_index, &*first.value),
        (Revision(10), Revision(10), &b"1"[..])
    );
    let (_, touched) = log.apply(Command::Kv(set("a", "1")));
    assert_eq!((log.entry("a"), touched.kv), (first, vec![]));
    log.kv(KvWrite::Set(KvPut { flags: 7, ..put("a", "2") })).unwrap();
    let entry = log.entry("a");
    assert_eq!((entry.create_index, entry.modify_index, entry.flags), (Revision(10), Revision(12), 7));
}

#[test]
fn a_compare_and_set_needs_the_index_and_zero_means_that_there_is_none() {
    let mut log = Log::new();
    assert_eq!(log.kv(KvWrite::Cas(put("a", "1"), Revision(3))), Ok(Done::CasFailed));
    assert_eq!(log.kv(KvWrite::Cas(put("a", "1"), Revision(0))), Ok(Done::Yes));
    assert_eq!(log.kv(KvWrite::Cas(put("a", "2"), Revision(0))), Ok(Done::CasFailed));
    let index = log.entry("a").modify_index;
    assert_eq!(log.kv(KvWrite::Cas(put("a", "2"), index)), Ok(Done::Yes));
    assert_eq!(log.kv(KvWrite::Cas(put("a", "3"), index)), Ok(Done::CasFailed));
    assert_eq!(&*log.entry("a").value, b"2");
    assert_eq!(log.kv(KvWrite::DeleteCas("a".into(), index)), Ok(Done::CasFailed));
    let index = log.entry("a").modify_index;
    assert_eq!(log.kv(KvWrite::DeleteCas("a".into(), index)), Ok(Done::Deleted { existed: true }));
    assert_eq!(log.kv(KvWrite::DeleteCas("a".into(), index)), Ok(Done::Deleted { existed: false }));
}

#[test]
fn each_key_and_each_prefix_has_an_index_of_its_own_that_deletes_move() {
    let mut log = Log::new();
    for key in ["app/a", "app/b", "other"] {
        log.kv(set(key, "x")).unwrap();
    }
    assert_eq!(
        [topic("app/a"), topic("app/b"), tree("app/"), tree("o")].map(|t| log.index(&t)),
        [10, 11, 11, 12]
    );
    log.kv(KvWrite::Delete("app/b".into())).unwrap();
    assert_eq!([topic("app/b"), tree("app/"), tree("app/b"), tree("")].map(|t| log.index(&t)), [13; 4]);
    assert_eq!(
        [topic("app/a"), tree("app/a"), topic("other"), tree("o")].map(|t| log.index(&t)),
        [10, 10, 12, 12]
    );
    // Nothing there, and nothing ever was.
    assert_eq!([topic("none"), tree("none/")].map(|t| log.index(&t)), [1, 1]);
    assert_eq!(log.kv(KvWrite::Delete("none".into())), Ok(Done::Deleted { existed: false }));
    assert_eq!(log.index(&topic("none")), 1);
    log.kv(set("app/b", "again")).unwrap();
    assert_eq!(log.index(&topic("app/b")), 15);
    log.kv(KvWrite::DeleteTree("app/".into())).unwrap();
    assert_eq!([topic("app/a"), topic("app/b"), keys("app/", "/")].map(|t| log.index(&t)), [16; 3]);
    assert_eq!(log.keys(&tree("")), ["other"]);
}

#[test]
fn keys_are_folded_at_the_separator_behind_the_prefix() {
    let mut log = Log::new();
    for key in ["a", "a/b", "a/b/c", "a/b/d", "a/e", "b"] {
        log.kv(set(key, "x")).unwrap();
    }
    assert_eq!(log.keys(&keys("", "/")), ["a", "a/", "b"]);
    assert_eq!(log.keys(&keys("a/", "/")), ["a/b", "a/b/", "a/e"]);
    assert_eq!(log.keys(&keys("a/", "")), ["a/b", "a/b/c", "a/b/d", "a/e"]);
    assert_eq!(log.keys(&tree("a/b")), ["a/b", "a/b/c", "a/b/d"]);
    let folded = keys("", "/");
    for key in log.keys(&folded) {
        assert_eq!(log.state.record(&folded, &key), Some(Record::KvKey), "{key}");
    }
    assert_eq!(log.state.record(&folded, "a/b"), None);
}

#[test]
fn forgotten_graves_leave_a_floor_that_no_index_falls_below() {
    let key = |n: usize| format!("k/{n:06}");
    let mut kv = Kv::default();
    for n in 0..=GRAVES {
        kv.write(Revision(1), &set(&key(n), "")).unwrap();
    }
    kv.write(Revision(2), &set("k/stays", "")).unwrap();
    for n in 0..=GRAVES {
        kv.write(Revision(10 + n as u64), &KvWrite::Delete(key(n).into())).unwrap();
    }
    assert_eq!(kv.graves(), GRAVES);
    let index = |topic: KvTopic| kv.revision(&topic).0;
    for n in [0, 1, GRAVES / 2, GRAVES] {
        assert!(index(KvTopic::Key(key(n).into())) >= 10 + n as u64, "{n}");
        assert!(index(KvTopic::Tree(key(n).into())) >= 10 + n as u64, "{n}");
    }
    assert_eq!(index(KvTopic::Key("k/stays".into())), 2);
    assert_eq!(index(KvTopic::Tree("k/".into())), 10 + GRAVES as u64);
    let again = Kv::load(kv.store());
    assert_eq!(again.revision(&KvTopic::Key(key(0).into())), Revision(10));
    assert_eq!(again.revision(&KvTopic::Tree("".into())), kv.revision(&KvTopic::Tree("".into())));
    // A tree of more keys than there are graves.
    for n in 0..=GRAVES {
        kv.write(Revision(300_000), &set(&key(n), "")).unwrap();
    }
    kv.write(Revision(300_001), &KvWrite::DeleteTree("k/0".into())).unwrap();
    assert_eq!(kv.revision(&KvTopic::Key(key(7).into())), Revision(300_001));
    assert_eq!(kv.revision(&KvTopic::Tree("k/".into())), Revision(300_001));
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let mut log = Log::new();
    let value = vec![b'x'; limit::KV_VALUE_BYTES];
    let put = |value: &[u8]| KvWrite::Set(KvPut { key: "a".into(), value: value.into(), flags: 0 });
    log.kv(put(&value)).unwrap();
    assert_eq!(log.state.sizes().kv_bytes, limit::KV_VALUE_BYTES + 1);
    let (code, text) = log.refused(Command::Kv(put(&[&value[..], b"x"].concat())));
    assert_eq!(code, FaultCode::TooLarge);
    assert!(text.contains("too large"), "{text}");
    log.refused(Command::Kv(set("/a", "")));
    log.refused(Command::Kv(set("", "")));
    log.kv(KvWrite::Delete("a".into())).unwrap();
    assert_eq!(log.state.sizes().kv_bytes, 0);
}

#[test]
fn the_tree_has_a_size() {
    let mut kv = Kv::default();
    let value = "x".repeat(limit::KV_VALUE_BYTES - 8);
    let most = limit::KV_BYTES / limit::KV_VALUE_BYTES;
    for n in 0..most {
        kv.write(Revision(1), &set(&format!("{n:08}"), &value)).unwrap();
    }
    assert_eq!(kv.bytes(), limit::KV_BYTES);
    let fault = kv.write(Revision(2), &set("more", "")).unwrap_err();
    assert!(fault.text.contains("full"), "{fault}");
    kv.write(Revision(3), &set("00000000", "small")).unwrap();
    kv.write(Revision(4), &set("more", "fits now")).unwrap();
}

#[test]
fn nobody_locks_with_a_session_that_is_not_there() {
    let mut log = Log::new();
    let lock = KvWrite::Lock(put("a", ""), SessionId::new("none"));
    assert_eq!(log.refused(Command::Kv(lock)).1, "invalid session \"none\"");
    assert_eq!(log.kv(KvWrite::Unlock(put("a", ""), SessionId::new("none"))), Ok(Done::CasFailed));
}

#[test]
fn a_snapshot_has_the_whole_tree_and_none_of_it_where_there_is_none() {
    let mut log = Log::new();
    let empty = log.state.encode();
    assert!(!empty.windows(2).any(|bytes| bytes == b"kv"), "a mesh without keys is stored as ever");
    log.kv(set("a/b", "1")).unwrap();
    log.kv(set("a/c", "2")).unwrap();
    log.kv(KvWrite::Delete("a/b".into())).unwrap();
    let again = State::decode(&log.state.encode()).unwrap();
    assert_eq!(again.encode(), log.state.encode());
    for topic in [topic("a/b"), topic("a/c"), tree("a/"), tree("")] {
        assert_eq!(again.read(&topic), log.read(&topic), "{topic}");
    }
    assert_eq!(again.sizes(), log.state.sizes());
}
