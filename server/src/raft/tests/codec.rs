//! The stored form: what was written is read, yesterday's bytes still load, and what is newer is named.

use std::collections::{BTreeMap, BTreeSet};

use purlin_model::command::LEVEL;

use openraft::vote::RaftLeaderId;

use super::say;
use crate::raft::codec::{CodecError, FORMAT, read_entry, size, write, write_entry};
use crate::raft::types::{Entry, LeaderId, LogId, Membership, Payload, ServerNode};

fn at(index: u64) -> LogId {
    LogId::new(LeaderId::new(3, 0x0123_4567_89ab_cdef), index)
}

fn membership() -> Payload {
    let node = |name: &str| ServerNode { name: name.into(), address: format!("{name}:8300") };
    let nodes = BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c"))]);
    Payload::Membership(Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2])], nodes).unwrap())
}

#[test]
fn entries_of_every_kind_come_back() {
    for payload in [Payload::Blank, Payload::Normal(say("text")), membership()] {
        let entry = Entry { log_id: at(7), payload };
        assert_eq!(read_entry(&write_entry(&entry).unwrap()).unwrap(), entry);
    }
}

/// Written by the first build. Never change these bytes: they lie on disks.
#[test]
fn the_first_builds_entries_still_load() {
    let golden = include_bytes!("golden/entries-1.bin");
    let entries = [Payload::Blank, membership(), Payload::Normal(fixed())];
    let bytes: Vec<u8> = entries
        .iter()
        .zip(1..)
        .flat_map(|(payload, index)| {
            let bytes = write_entry(&Entry { log_id: at(index), payload: payload.clone() }).unwrap();
            [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat()
        })
        .collect();
    assert_eq!(hex(golden), hex(&bytes), "entries are written in another form: raise FORMAT");
    let mut rest = golden.as_slice();
    for (payload, index) in entries.into_iter().zip(1..) {
        let (length, tail) = rest.split_first_chunk::<4>().unwrap();
        let (entry, tail) = tail.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        assert_eq!(read_entry(entry).unwrap(), Entry { log_id: at(index), payload });
        rest = tail;
    }
    assert!(rest.is_empty());
}

fn fixed() -> purlin_model::command::Envelope {
    let mut envelope = say("a token");
    envelope.request.0 = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    envelope
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_newer_format_level_or_kind_is_named_and_refused() {
    let entry = |envelope| Entry { log_id: at(1), payload: Payload::Normal(envelope) };
    let mut bytes = write_entry(&entry(say("x"))).unwrap();
    bytes[0] = FORMAT + 1;
    assert_eq!(read_entry(&bytes), Err(CodecError::Format { found: FORMAT + 1 }));
    assert_eq!(read_entry(&[]), Err(CodecError::Empty));

    let mut newer = say("x");
    newer.level = LEVEL + 1;
    let bytes = write_entry(&entry(newer)).unwrap();
    assert_eq!(read_entry(&bytes), Err(CodecError::Level { found: LEVEL + 1 }));

    // A command that this build has never heard of, of a newer level and of none.
    let unknown = |level: u16| {
        write(&serde_json::json!({
            "at": {"term": 1, "node": 1, "index": 1},
            "body": {"Command": {"level": level, "command": {"Rollback": {"to": 4}}}},
        }))
        .unwrap()
    };
    assert_eq!(read_entry(&unknown(LEVEL + 1)), Err(CodecError::Level { found: LEVEL + 1 }));
    let refused = read_entry(&unknown(LEVEL)).unwrap_err();
    assert!(refused.to_string().contains("does not understand"), "{refused}");
    let body = serde_json::json!({"at": {"term": 1, "node": 1, "index": 1}, "body": {"Merge": 1}});
    let refused = read_entry(&write(&body).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("Merge"), "{refused}");
    let extra = serde_json::json!({"at": {"term": 1, "node": 1, "index": 1, "shard": 2}, "body": "Blank"});
    let refused = read_entry(&write(&extra).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("shard"), "{refused}");
}

#[test]
fn the_counted_size_is_the_written_size() {
    for text in ["", "x", &"y".repeat(70_000)] {
        let envelope = say(text);
        assert_eq!(size(&envelope).unwrap(), write(&envelope).unwrap().len() - 1);
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_break_the_reader(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let _ = read_entry(&bytes);
        let _ = read_entry(&[&[FORMAT], bytes.as_slice()].concat());
    }
}
