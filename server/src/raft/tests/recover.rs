//! One survivor of a lost majority becomes a cluster of its own.

use super::kit::{Cluster, IDS, name};
use super::{Ledger, runtime, say, start_with};
use crate::raft::{RaftOptions, survey};

#[test]
fn a_survivor_goes_on_alone_with_all_that_its_disk_has() {
    let mut cluster = Cluster::new();
    cluster.say("one");
    let revision = cluster.say("two");
    cluster.wait_applied(1, revision);
    IDS.into_iter().for_each(|id| cluster.kill(id));
    let options = || RaftOptions::new(cluster.dir(1), 1, name(1), name(1));
    let runtime = runtime();
    runtime.block_on(async {
        let survivor = survey(options(), Ledger::default()).unwrap();
        assert!(!survivor.found.alone && survivor.found.last >= revision.0, "{:?}", survivor.found);
        assert_eq!(survivor.found.members.len(), 3);
        let state = survivor.state.clone();
        survivor.take_over(state).await.unwrap();
        // Once more, as after a crash in between: it is the same.
        let again = survey(options(), Ledger::default()).unwrap();
        assert!(again.found.alone);
        let state = again.state.clone();
        again.take_over(state).await.unwrap();

        let raft = start_with(options()).await.unwrap();
        raft.recovered().await.unwrap();
        raft.propose(say("three")).await.unwrap();
        let said = raft.applied().borrow().state.said.clone();
        assert_eq!(said.keys().collect::<Vec<_>>(), ["one", "three", "two"]);
        raft.shutdown().await;
        let raft = start_with(options()).await.unwrap();
        raft.recovered().await.unwrap();
        assert_eq!(raft.applied().borrow().state.said.len(), 3);
        assert_eq!(raft.metrics().voters, 1);
        raft.shutdown().await;
    });
}

#[test]
fn an_empty_directory_is_no_survivor() {
    let dir = tempfile::tempdir().unwrap();
    let error = survey(RaftOptions::new(dir.path(), 1, "one", ""), Ledger::default()).err().unwrap();
    assert!(error.to_string().contains("nothing of a server"), "{error}");
}
