//! Starting again: what was acknowledged is there, what does not fit together is refused in words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use purlin_model::command::LEVEL;
use purlin_wire::rpc::Consistency;

use super::{Ledger, runtime, say, start, start_with};
use crate::raft::log::LogStore;
use crate::raft::types::{Entry, LogId, Payload};
use crate::raft::{RaftHandle, RaftOptions, StartError};

const LIMIT: Duration = Duration::from_secs(20);

fn options(dir: &Path, snapshot_every: u64) -> RaftOptions {
    RaftOptions { snapshot_every, ..RaftOptions::new(dir, 1, "one", "127.0.0.1:1") }
}

fn said(raft: &RaftHandle<Ledger>) -> BTreeMap<String, u64> {
    raft.applied().borrow().state.said.as_ref().clone()
}

/// A started server that has caught up with its own log.
async fn recovered(options: RaftOptions) -> RaftHandle<Ledger> {
    let raft = start_with(options).await.unwrap();
    raft.initialize_single().await.unwrap();
    raft.recovered().await.unwrap();
    raft
}

/// The process ends in the middle of writing, again and again: the runtime is dropped with all its tasks.
#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    for round in 0..5 {
        let runtime = runtime();
        let raft = runtime.block_on(recovered(options(dir.path(), 40)));
        let now = said(&raft);
        for (text, revision) in acknowledged.lock().unwrap().iter() {
            assert_eq!(now.get(text), Some(revision), "{text} is gone in round {round}");
        }
        let (told, mut enough) = tokio::sync::watch::channel(0);
        for writer in 0..4 {
            let (raft, acknowledged, told) = (raft.clone(), acknowledged.clone(), told.clone());
            runtime.spawn(async move {
                for n in 0.. {
                    let text = format!("{round}/{writer}/{n}");
                    let outcome = raft.propose(say(&text)).await.unwrap();
                    acknowledged.lock().unwrap().insert(text, outcome.revision.0);
                    told.send_modify(|count| *count += 1);
                }
            });
        }
        runtime.block_on(async { enough.wait_for(|count| *count > 60).await.map(|_| ()) }).unwrap();
        drop(raft);
        drop(runtime);
    }
    assert!(acknowledged.lock().unwrap().len() > 300);
}

#[tokio::test]
async fn reads_do_not_go_backwards_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let raft = recovered(options(dir.path(), 1_000)).await;
    let outcome = raft.propose(say("before")).await.unwrap();
    raft.shutdown().await;

    let raft = start(dir.path()).await.unwrap();
    let barrier = raft.read_barrier(Consistency::Default).await.unwrap();
    assert!(barrier >= outcome.revision);
    assert_eq!(said(&raft).get("before"), Some(&outcome.revision.0));
    assert!(raft.metrics().term > 1, "a restarted leader must have been elected anew");
    raft.shutdown().await;
}

#[tokio::test]
async fn an_entry_of_a_newer_build_stops_the_start_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let raft = recovered(options(dir.path(), 1_000)).await;
    raft.propose(say("old")).await.unwrap();
    raft.shutdown().await;

    let mut log = LogStore::open(&dir.path().join("raft"), 1).unwrap();
    let last = log.get_log_state().await.unwrap().last_log_id.unwrap();
    let mut newer = say("new");
    newer.level = LEVEL + 1;
    let at = LogId::new(last.leader_id, last.index + 1);
    log.blocking_append([Entry { log_id: at, payload: Payload::Normal(newer) }]).await.unwrap();
    let closed = log.gauge().closed();
    drop(log);
    tokio::time::timeout(LIMIT, closed).await.unwrap();

    for _ in 0..2 {
        let error = start(dir.path()).await.err().unwrap().to_string();
        assert!(
            error.contains(&format!("command level is {}", LEVEL + 1)) && error.contains("newer build"),
            "{error}"
        );
        assert!(error.contains(&format!("key {} (log entry)", at.index)), "{error}");
    }
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .collect();
    files.sort();
    files
}

fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// 100 entries with snapshots on the way; the log still reaches back to the first.
async fn with_snapshots(dir: &Path) -> BTreeMap<String, u64> {
    let raft = recovered(options(dir, 20)).await;
    for n in 0..100 {
        raft.propose(say(&format!("text {n}"))).await.unwrap();
    }
    let wait = raft.raft().wait(Some(LIMIT));
    wait.metrics(|metrics| metrics.snapshot.is_some_and(|at| at.index >= 80), "snapshots").await.unwrap();
    let all = said(&raft);
    raft.shutdown().await;
    assert_eq!(snapshots(dir).len(), 2, "the last two are kept");
    all
}

#[tokio::test]
async fn a_start_uses_the_newest_snapshot_and_passes_over_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let all = with_snapshots(dir.path()).await;
    let files = snapshots(dir.path());

    let raft = recovered(options(dir.path(), 1_000)).await;
    assert_eq!(said(&raft), all);
    raft.shutdown().await;

    damage(&files[1]);
    let raft = recovered(options(dir.path(), 1_000)).await;
    assert_eq!(said(&raft), all);
    raft.shutdown().await;
    assert!(files[1].with_extension("corrupt").exists() && !files[1].exists());

    damage(&files[0]);
    let raft = recovered(options(dir.path(), 1_000)).await;
    assert_eq!(said(&raft), all);
    raft.shutdown().await;
}

#[tokio::test]
async fn a_damaged_snapshot_that_the_log_does_not_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let all = with_snapshots(dir.path()).await;
    let raft = recovered(options(dir.path(), 1_000)).await;
    let newest = raft.metrics().snapshot;
    raft.raft().trigger().purge_log(newest).await.unwrap();
    let wait = raft.raft().wait(Some(LIMIT));
    wait.metrics(|metrics| metrics.purged.is_some_and(|at| at.index >= newest), "purged").await.unwrap();
    raft.shutdown().await;
    let raft = recovered(options(dir.path(), 1_000)).await;
    assert_eq!(said(&raft), all);
    raft.shutdown().await;

    let file = snapshots(dir.path()).pop().unwrap();
    damage(&file);
    let error = start(dir.path()).await.err().unwrap();
    assert!(matches!(error, StartError::Gap { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains(&file.display().to_string()) && error.contains("restore a backup"), "{error}");
}

#[tokio::test]
async fn snapshots_without_their_log_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    with_snapshots(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join("raft")).unwrap();
    let error = start(dir.path()).await.err().unwrap();
    assert!(matches!(error, StartError::LogLost { .. }), "{error}");
}

#[tokio::test]
async fn the_data_directory_of_another_server_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    recovered(options(dir.path(), 1_000)).await.shutdown().await;
    let error =
        start_with(RaftOptions::new(dir.path(), 2, "two", "127.0.0.1:2")).await.err().unwrap().to_string();
    assert!(error.contains("belongs to server"), "{error}");
}
