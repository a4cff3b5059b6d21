//! One server alone: write, read, refuse, stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use purlin_model::command::{Done, LEVEL};
use purlin_model::{FaultCode, Revision, limit};
use purlin_wire::rpc::Consistency;
use tokio::sync::watch;

use super::{Ledger, say, start};
use crate::raft::network::Alone;
use crate::raft::{Applied, Hook, RaftHandle, RaftOptions};

#[tokio::test]
async fn a_command_is_applied_and_visible_when_its_outcome_returns() {
    let dir = tempfile::tempdir().unwrap();
    let raft = start(dir.path()).await.unwrap();
    raft.initialize_single().await.unwrap();
    raft.initialize_single().await.unwrap();

    let outcome = raft.propose(say("hello")).await.unwrap();
    assert_eq!(outcome.result, Ok(Done::Yes));
    let applied = raft.applied().borrow().clone();
    assert_eq!(applied.state.said.get("hello"), Some(&outcome.revision.0));
    assert!(applied.revision >= outcome.revision);

    for consistency in [Consistency::Default, Consistency::Consistent, Consistency::Stale] {
        let barrier = raft.read_barrier(consistency).await.unwrap();
        assert!(barrier >= outcome.revision, "{consistency:?} gave {barrier}");
    }
    let leader = raft.leader().unwrap();
    assert_eq!((leader.name.as_str(), leader.address.as_str()), ("one", "127.0.0.1:1"));
    assert!(raft.leadership().borrow().here);
    let metrics = raft.metrics();
    assert!(metrics.leading && metrics.voters == 1 && metrics.proposals == 1, "{metrics:?}");
    assert!(metrics.syncs >= 2 && metrics.log_bytes > 0, "{metrics:?}");
    raft.shutdown().await;
}

#[tokio::test]
async fn what_is_too_large_or_too_new_is_refused_before_it_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let raft = start(dir.path()).await.unwrap();
    raft.initialize_single().await.unwrap();
    let first = raft.propose(say("fits")).await.unwrap();

    let frame = crate::raft::codec::size(&say("")).unwrap();
    // Above 64 KiB a text has a length of five bytes instead of one.
    let most = limit::COMMAND_BYTES - frame - 4;
    let second = raft.propose(say(&"x".repeat(most))).await.unwrap();
    assert_eq!(second.revision, Revision(first.revision.0 + 1));
    let fault = raft.propose(say(&"x".repeat(most + 1))).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::TooLarge, "{fault}");

    let mut newer = say("newer");
    newer.level = LEVEL + 1;
    let fault = raft.propose(newer).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Invalid, "{fault}");
    let third = raft.propose(say("after")).await.unwrap();
    assert_eq!(third.revision, Revision(second.revision.0 + 1));
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_write_and_a_read_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let raft = start(dir.path()).await.unwrap();
    let fault = raft.propose(say("nobody leads")).await.unwrap_err();
    assert_eq!((fault.code, fault.text.as_str()), (FaultCode::Unavailable, "No cluster leader"));
    let fault = raft.read_barrier(Consistency::Default).await.unwrap_err();
    assert_eq!((fault.code, fault.text.as_str()), (FaultCode::Unavailable, "No cluster leader"));
    assert_eq!(raft.read_barrier(Consistency::Stale).await, Ok(Revision(0)));
    assert_eq!(raft.leader(), None);
}

#[derive(Default)]
struct Seen(Mutex<Vec<(usize, Vec<String>)>>);

impl Hook<Ledger> for Seen {
    fn applied(&self, state: &Arc<Ledger>, touched: Vec<String>) {
        self.0.lock().unwrap().push((state.said.len(), touched));
    }
    fn replaced(&self, _state: &Arc<Ledger>, _revision: Revision) {
        panic!("nothing was replaced");
    }
}

#[tokio::test]
async fn the_hook_sees_each_change_once_with_a_state_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Seen::default());
    let options = RaftOptions::new(dir.path(), 1, "one", "127.0.0.1:1");
    let raft = RaftHandle::start(options, Ledger::default(), Arc::new(Alone), seen.clone()).await.unwrap();
    raft.initialize_single().await.unwrap();
    for n in 0..20 {
        raft.propose(say(&format!("text {n}"))).await.unwrap();
    }
    let seen = seen.0.lock().unwrap().clone();
    let all: Vec<String> = seen.iter().flat_map(|(_, touched)| touched.clone()).collect();
    assert_eq!(all, (0..20).map(|n| format!("text {n}")).collect::<Vec<_>>());
    let mut sum = 0;
    for (size, touched) in seen {
        sum += touched.len();
        assert_eq!(size, sum);
    }
    raft.shutdown().await;
}

/// What those who wait for a revision could see while the hook was told of it.
#[derive(Default)]
struct Early {
    published: OnceLock<watch::Receiver<Arc<Applied<Ledger>>>>,
    told: AtomicUsize,
    late: AtomicUsize,
}

impl Hook<Ledger> for Early {
    fn applied(&self, state: &Arc<Ledger>, _touched: Vec<String>) {
        let Some(published) = self.published.get() else { return };
        self.told.fetch_add(1, Ordering::SeqCst);
        if published.borrow().state.said.len() >= state.said.len() {
            self.late.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn replaced(&self, _state: &Arc<Ledger>, _revision: Revision) {
        panic!("nothing was replaced");
    }
}

/// A read waits for a revision and then reads from what the hook keeps: were the hook told after, it could read old data.
#[tokio::test]
async fn nobody_can_wait_for_a_revision_that_the_hook_does_not_have_yet() {
    let dir = tempfile::tempdir().unwrap();
    let early = Arc::new(Early::default());
    let options = RaftOptions::new(dir.path(), 1, "one", "127.0.0.1:1");
    let raft = RaftHandle::start(options, Ledger::default(), Arc::new(Alone), early.clone()).await.unwrap();
    early.published.set(raft.applied()).unwrap();
    raft.initialize_single().await.unwrap();
    for n in 0..5 {
        raft.propose(say(&format!("text {n}"))).await.unwrap();
    }
    assert_eq!((early.told.load(Ordering::SeqCst), early.late.load(Ordering::SeqCst)), (5, 0));
    raft.shutdown().await;
}

#[tokio::test]
async fn a_command_that_breaks_the_machine_stops_the_server_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let raft = start(dir.path()).await.unwrap();
    raft.initialize_single().await.unwrap();
    raft.propose(say("good")).await.unwrap();
    let fault = raft.propose(say("panic")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable, "{fault}");
    let reason = raft.dead().await;
    assert!(reason.contains("cannot apply log entry") && reason.contains("revoke-join-token"), "{reason}");
    let fault = raft.propose(say("later")).await.unwrap_err();
    assert!(fault.text.contains("raft stopped on this server"), "{fault}");
}
