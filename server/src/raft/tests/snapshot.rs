//! Snapshot files: whole or refused, whatever happened to their bytes.

use std::collections::{BTreeMap, BTreeSet};

use openraft::vote::RaftLeaderId;

use crate::raft::snapshot::{SnapshotError, SnapshotStore};
use crate::raft::types::{LeaderId, LogId, Membership, ServerNode, SnapshotMeta, StoredMembership};

fn meta(index: u64) -> SnapshotMeta {
    let at = |index| LogId::new(LeaderId::new(2, 77), index);
    let node = ServerNode { name: "one".into(), address: "127.0.0.1:1".into() };
    let members = Membership::new(vec![BTreeSet::from([77])], BTreeMap::from([(77, node)])).unwrap();
    SnapshotMeta {
        last_log_id: Some(at(index)),
        last_membership: StoredMembership::new(Some(at(1)), members),
    }
}

#[test]
fn the_last_two_are_kept_and_the_newest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    assert!(store.newest().unwrap().0.is_none());
    for index in [5, 90, 1_000] {
        let state = format!("state at {index}");
        store.save(&meta(index), |out| out.write_all(state.as_bytes())).unwrap();
    }
    let (newest, damaged) = store.newest().unwrap();
    let newest = newest.unwrap();
    assert_eq!((newest.meta, &newest.snapshot[..]), (meta(1_000), &b"state at 1000"[..]));
    assert!(damaged.is_empty());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn what_a_crash_left_is_cleaned_up_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("00000000000000000009-00000000000000000001-0000000000000001.snap.tmp");
    std::fs::write(&half, b"PURLSNAP").unwrap();
    let store = SnapshotStore::open(dir.path()).unwrap();
    assert!(!half.exists());
    assert!(store.newest().unwrap().0.is_none());
}

/// The image of a small snapshot, and the path it must lie at.
fn image(dir: &std::path::Path) -> (SnapshotStore, std::path::PathBuf, Vec<u8>) {
    let store = SnapshotStore::open(dir).unwrap();
    store.save(&meta(3), |out| out.write_all(b"state")).unwrap();
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    (store, file, bytes)
}

#[test]
fn every_cut_and_every_flipped_byte_is_noticed_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file, bytes) = image(dir.path());
    let damaged = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let (snapshot, damaged) = store.newest().unwrap();
        assert!(snapshot.is_none());
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].to_string().contains(&file.display().to_string()), "{}", damaged[0]);
    };
    for length in 0..bytes.len() {
        damaged(&bytes[..length]);
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        damaged(&bytes);
    }
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(&store.newest().unwrap().0.unwrap().snapshot[..], b"state");
}

#[test]
fn a_newer_version_is_not_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file, mut bytes) = image(dir.path());
    bytes[8] = 2;
    let end = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    std::fs::write(&file, &bytes).unwrap();
    let error = store.newest().err().unwrap();
    assert!(matches!(error, SnapshotError::Version { found: 2, .. }), "{error}");
    assert!(file.exists(), "it was set aside");
}

/// Written by the first build. Never change these bytes: they lie on disks.
#[test]
fn the_first_builds_snapshot_still_loads() {
    let dir = tempfile::tempdir().unwrap();
    let (_, file, bytes) = image(dir.path());
    let golden = include_bytes!("golden/snapshot-1.bin");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(golden), hex(&bytes), "snapshots are written in another form: raise VERSION");
    std::fs::write(&file, golden).unwrap();
    let (snapshot, _) = SnapshotStore::open(dir.path()).unwrap().newest().unwrap();
    let snapshot = snapshot.unwrap();
    assert_eq!((snapshot.meta, &snapshot.snapshot[..]), (meta(3), &b"state"[..]));
}
