//! A disk that others filled: no write is begun that it has no room for, reads go on, and all goes on by itself.

use std::time::Duration;

use openraft::storage::{RaftLogReader, RaftLogStorageExt};
use openraft::vote::RaftLeaderId;
use purlin_model::FaultCode;
use purlin_wire::rpc::Consistency;

use super::kit::{Cluster, IDS};
use super::{say, start};
use crate::raft::log::{Change, LogStore};
use crate::raft::types::{Entry, LeaderId, LogId, Payload};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_in_words_serves_reads_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let raft = start(dir.path()).await.unwrap();
    raft.initialize_single().await.unwrap();
    raft.recovered().await.unwrap();
    raft.propose(say("before")).await.unwrap();
    assert!(!raft.metrics().full && raft.metrics().reserve_bytes > 8 * 1024 * 1024);
    raft.deny_space(true);
    let fault = raft.propose(say("meanwhile")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(
        fault.text.contains("the storage of server one is full") && fault.text.contains("free space"),
        "{fault}"
    );
    assert!(raft.metrics().full);
    raft.read_barrier(Consistency::Consistent).await.unwrap();
    assert_eq!(raft.applied().borrow().state.said.len(), 1);
    raft.deny_space(false);
    raft.propose(say("after")).await.unwrap();
    assert!(!raft.metrics().full);
    raft.shutdown().await;
    let raft = start(dir.path()).await.unwrap();
    raft.recovered().await.unwrap();
    assert_eq!(raft.applied().borrow().state.said.keys().collect::<Vec<_>>(), ["after", "before"]);
    raft.shutdown().await;
}

/// What was admitted before the disk was full waits instead of breaking the engine, and is written in the end.
#[tokio::test(flavor = "multi_thread")]
async fn writes_under_way_wait_for_space() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 1).unwrap();
    let gauge = log.gauge();
    let entry = |index, text: &str| Entry {
        log_id: LogId::new(LeaderId::new(1, 1), index),
        payload: Payload::Normal(say(text)),
    };
    gauge.deny_space(true);
    let big = "x".repeat(100_000);
    let mut writer = log.clone();
    let append = tokio::spawn(async move { writer.blocking_append([entry(1, &big)]).await });
    // Small ones pass: votes and the like.
    assert!(gauge.is_full() && gauge.is_exhausted());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!append.is_finished(), "it was written without room");
    gauge.deny_space(false);
    tokio::time::timeout(LIMIT, append).await.unwrap().unwrap().unwrap();
    assert_eq!(gauge.look(), Some(None));
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 1);
}

#[test]
fn a_leader_hands_over_and_a_follower_waits_until_there_is_space() {
    let cluster = Cluster::new();
    let first = cluster.leader();
    cluster.say("one");
    cluster.handle(first).deny_space(true);
    // Whoever leads next can write.
    cluster.wait(async {
        while cluster.handle(first).leadership().borrow().here {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let revision = cluster.say("two");
    let next = cluster.leader();
    assert_ne!(next, first);
    cluster.handle(first).deny_space(false);
    for id in IDS {
        assert!(cluster.wait_applied(id, revision).contains_key("two"));
    }
    let follower = IDS.into_iter().find(|id| *id != next).unwrap();
    cluster.handle(follower).deny_space(true);
    let revision = cluster.say("three");
    let other = IDS.into_iter().find(|id| *id != cluster.leader() && *id != follower).unwrap();
    assert!(cluster.wait_applied(other, revision).contains_key("three"));
    assert!(
        cluster.handle(follower).applied().borrow().revision < revision,
        "it took what it had no room for"
    );
    cluster.handle(follower).deny_space(false);
    assert!(cluster.wait_applied(follower, revision).contains_key("three"));
}

#[test]
fn a_look_tells_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogStore::open(dir.path(), 1).unwrap();
    let gauge = log.gauge();
    assert_eq!(gauge.look(), Some(None));
    gauge.deny_space_unseen(true);
    assert_eq!((gauge.look(), gauge.look()), (Some(Some(Change::Full)), Some(None)));
    gauge.deny_space_unseen(false);
    assert_eq!((gauge.look(), gauge.look()), (Some(Some(Change::Room)), Some(None)));
    drop(log);
    assert_eq!(gauge.look(), None);
}
