//! The log on the disk: group commit, parts, purge, truncation, damage.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;

use super::say;
use crate::raft::log::{DurableSled, LogOpenError, LogStore};
use crate::raft::types::{Entry, LeaderId, LogId, Payload, TypeConfig, Vote};

const LIMIT: Duration = Duration::from_secs(20);

fn at(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1), index)
}

fn entry(index: u64, text: &str) -> Entry {
    Entry { log_id: at(index), payload: Payload::Normal(say(text)) }
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(index, &format!("text {index}"))).collect()
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, 1).unwrap()
}

async fn close(log: LogStore) {
    let closed = log.gauge().closed();
    drop(log);
    tokio::time::timeout(LIMIT, closed).await.unwrap();
}

async fn indices(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

/// Appends that were queued while the disk was busy share its next sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_share_few_syncs_and_each_is_told() {
    const APPENDS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    close(open(dir.path())).await;
    let db = DurableSled::open(dir.path()).unwrap();
    let disk_is_busy = db.hold_next_write();
    let mut log = LogStore::over(db, 1).unwrap();
    let mut told = Vec::new();
    for index in 0..APPENDS {
        let (tell, hear) = TypeConfig::oneshot();
        log.append([entry(index, "x")], IOFlushed::<TypeConfig>::signal(tell)).await.unwrap();
        // Readable at once, durable or not.
        assert_eq!(log.try_get_log_entries(index..=index).await.unwrap().len(), 1);
        told.push(hear);
    }
    assert_eq!(log.gauge().syncs(), 0);
    assert!(told[0].try_recv().is_err(), "an append was told durable before its sync");
    drop(disk_is_busy);
    for hear in told {
        tokio::time::timeout(LIMIT, hear).await.unwrap().unwrap().unwrap();
    }
    let syncs = log.gauge().syncs();
    assert!((1..=3).contains(&syncs), "{APPENDS} appends took {syncs} syncs");
    close(log).await;
    assert_eq!(indices(&mut open(dir.path())).await.len() as u64, APPENDS);
}

#[tokio::test]
async fn entries_up_to_the_limit_come_back_from_disk_and_stay_in_the_synced_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let mut wrote = Vec::new();
    for index in 0..40 {
        let size = [0, 100, 4_000, 4_096, 9_000, 120_000, 480 * 1024][usize::try_from(index % 7).unwrap()];
        wrote.push(entry(index, &"z".repeat(size)));
    }
    for entry in &wrote {
        log.blocking_append([entry.clone()]).await.unwrap();
    }
    close(log).await;

    let mut log = open(dir.path());
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), wrote);
    assert_eq!(log.try_get_log_entries(3..=5).await.unwrap(), wrote[3..=5]);
    // One message takes what fits, but never nothing.
    let some = log.limited_get_log_entries(5, 40).await.unwrap();
    assert!((1..10).contains(&some.len()), "{}", some.len());
    log.purge(at(20)).await.unwrap();
    log.blocking_append([entry(40, "last")]).await.unwrap();
    close(log).await;
    let blobs: Vec<_> = std::fs::read_dir(dir.path().join("blobs")).unwrap().collect();
    assert!(blobs.is_empty(), "the engine put values where no sync reaches them: {blobs:?}");
    assert_eq!(indices(&mut open(dir.path())).await, (21..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_entry_over_the_limit_is_refused_and_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let error = log.blocking_append([entry(0, &"x".repeat(1024 * 1024))]).await.unwrap_err();
    assert!(error.to_string().contains("log entry 0 has"), "{error}");
    let error = log.save_vote(&Vote::new(1, 1)).await.unwrap_err();
    assert!(error.to_string().contains("log entry 0 has"), "{error}");
}

#[tokio::test]
async fn vote_committed_and_bounds_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let (low, high) = (Vote::new(4, 9), Vote::new_committed(5, 7));
    log.save_vote(&low).await.unwrap();
    log.save_vote(&high).await.unwrap();
    log.blocking_append(entries(0..30)).await.unwrap();
    log.save_committed(Some(at(17))).await.unwrap();
    log.purge(at(11)).await.unwrap();
    log.truncate_after(Some(at(24))).await.unwrap();
    log.blocking_append([entry(25, "other")]).await.unwrap();
    assert_eq!(indices(&mut log).await, (12..=25).collect::<Vec<_>>());
    close(log).await;

    let mut log = open(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(high));
    assert_eq!(log.read_committed().await.unwrap(), Some(at(17)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(at(11)), Some(at(25))));
    let held = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(held.len(), 14);
    assert!(matches!(&held[13].payload, Payload::Normal(said) if said.command == say("other").command));
    log.truncate_after(None).await.unwrap();
    close(log).await;
    let mut log = open(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(at(11)), Some(at(11))));
    assert!(indices(&mut log).await.is_empty());
}

/// Many slices of deletions, behind writes that go on.
#[tokio::test]
async fn a_long_purge_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for start in (0..5_000).step_by(500) {
        log.blocking_append(entries(start..start + 500)).await.unwrap();
    }
    log.purge(at(4_899)).await.unwrap();
    for index in 5_000..5_020 {
        log.blocking_append([entry(index, "x")]).await.unwrap();
    }
    assert_eq!(indices(&mut log).await, (4_900..5_020).collect::<Vec<_>>());
    close(log).await;
    // A second run finishes what the first one left.
    close(open(dir.path())).await;
    let mut log = open(dir.path());
    assert_eq!(indices(&mut log).await, (4_900..5_020).collect::<Vec<_>>());
    close(log).await;
    let db = DurableSled::open(dir.path()).unwrap();
    assert!(db.keys(b"e", b"f", usize::MAX).unwrap().len() <= 120 + 4_900 - 512, "nothing was deleted");
}

/// The cache is bounded: old entries come from the disk, in the same order and form.
#[tokio::test]
async fn entries_that_left_the_cache_are_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for start in (0..10_000).step_by(1_000) {
        log.blocking_append(entries(start..start + 1_000)).await.unwrap();
    }
    assert_eq!(indices(&mut log).await, (0..10_000).collect::<Vec<_>>());
    let streamed = log.entries_stream(500..9_500).await;
    let streamed: Vec<Entry> = futures_util::TryStreamExt::try_collect(streamed).await.unwrap();
    assert!(streamed.iter().map(|entry| entry.log_id.index).eq(500..9_500));
}

#[tokio::test]
async fn a_damaged_value_is_named_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.blocking_append(entries(0..10)).await.unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    close(log).await;

    let db = DurableSled::open(dir.path()).unwrap();
    db.damage(&[b"e".as_slice(), &4_u64.to_be_bytes(), &0_u16.to_be_bytes()].concat());
    drop(db);
    let mut log = open(dir.path());
    assert_eq!(log.try_get_log_entries(5..).await.unwrap().len(), 5);
    let error = log.try_get_log_entries(..).await.unwrap_err().to_string();
    let file = dir.path().join("db").display().to_string();
    assert!(error.contains("checksum of key 4 (log entry)") && error.contains(&file), "{error}");
    close(log).await;

    let db = DurableSled::open(dir.path()).unwrap();
    db.damage(b"vote");
    drop(db);
    let error = LogStore::open(dir.path(), 1).err().unwrap().to_string();
    assert!(error.contains("checksum of key vote") && error.contains(&file), "{error}");
}

#[tokio::test]
async fn a_missing_entry_is_named_and_nothing_behind_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.blocking_append(entries(0..10)).await.unwrap();
    close(log).await;
    let db = DurableSled::open(dir.path()).unwrap();
    let mut batch = crate::raft::log::Batch::default();
    batch.remove(&[b"e".as_slice(), &6_u64.to_be_bytes(), &0_u16.to_be_bytes()].concat());
    db.commit(batch).unwrap();
    drop(db);
    let mut log = open(dir.path());
    let error = log.try_get_log_entries(2..).await.unwrap_err().to_string();
    assert!(error.contains("log entry 6 is missing"), "{error}");
}

#[tokio::test]
async fn another_servers_log_and_a_log_in_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = LogStore::open(dir.path(), 1).err().unwrap().to_string();
    assert!(error.contains("lock") && error.contains(&dir.path().display().to_string()), "{error}");
    close(log).await;
    let error = LogStore::open(dir.path(), 2).err().unwrap();
    assert!(matches!(error, LogOpenError::Owner { found: 1, own: 2, .. }), "{error}");
    close(open(dir.path())).await;
}

/// On a real file system: what is reserved outlives others who take all the rest.
#[tokio::test]
async fn a_full_disk_is_seen_before_it_is_met_and_votes_go_on() {
    let Some(disk) = super::power_cut::Disk::new(40) else { return };
    let mut log = open(&disk.path().join("raft"));
    let gauge = log.gauge();
    let filler = Arc::new("f".repeat(400 * 1024));
    let mut last = 0;
    for index in 0..200 {
        log.blocking_append([entry(index, &filler)]).await.unwrap();
        last = index;
        gauge.look();
        if gauge.is_full() {
            break;
        }
    }
    assert!(gauge.is_full() && !gauge.is_exhausted(), "{} bytes of room after {last} entries", gauge.room());
    let others = disk.path().join("others");
    let mut file = std::fs::File::create(&others).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 64 * 1024]).is_ok() {}
    log.save_vote(&Vote::new(7, 1)).await.unwrap();
    log.blocking_append([entry(last + 1, "small")]).await.unwrap();
    close(log).await;
    drop(file);
    std::fs::remove_file(&others).unwrap();
    let mut log = open(&disk.path().join("raft"));
    assert_eq!(indices(&mut log).await.len() as u64, last + 2);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 1)));
}

/// The engine would drop what it cannot read with all that follows, as if nobody had been told of it.
#[tokio::test]
async fn a_log_that_lost_its_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for index in 0..60 {
        log.blocking_append([entry(index, "x")]).await.unwrap();
    }
    close(log).await;
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("db")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let why = LogStore::open(dir.path(), 1).err().unwrap().to_string();
    assert!(why.contains("is damaged") && why.contains("up to entry 59"), "{why}");
}

#[tokio::test]
async fn a_log_that_was_cut_by_raft_is_not_taken_for_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.blocking_append(entries(0..60)).await.unwrap();
    close(log).await;
    let mut log = open(dir.path());
    log.truncate_after(Some(at(9))).await.unwrap();
    close(log).await;
    let mut log = open(dir.path());
    assert_eq!(indices(&mut log).await.len(), 10);
    log.truncate_after(None).await.unwrap();
    close(log).await;
    assert_eq!(indices(&mut open(dir.path())).await.len(), 0);
}
