//! What several servers do together: agree, survive each other, catch up, and refuse nonsense.

use std::collections::BTreeMap;

use purlin_model::command::LEVEL;
use purlin_model::{FaultCode, Revision};
use purlin_wire::rpc::Consistency;

use super::kit::{Cluster, IDS, LIMIT, name};
use super::say;
use crate::raft::CallKind;
use crate::raft::codec::{self, Ballot, Position};
use crate::raft::message::{Answer, Append};
use crate::raft::network;
use crate::raft::types::{Entry, LogId, Payload};

#[test]
fn three_servers_agree_survive_their_leader_and_take_it_back() {
    let mut cluster = Cluster::new();
    let mut all = BTreeMap::new();
    let say_all = |cluster: &Cluster, all: &mut BTreeMap<String, u64>, what: &str| {
        for n in 0..20 {
            let text = format!("{what} {n}");
            let revision = cluster.say(&text);
            all.insert(text, revision.0);
        }
        Revision(*all.values().max().unwrap())
    };
    let last = say_all(&cluster, &mut all, "first");
    for id in IDS {
        assert_eq!(cluster.wait_applied(id, last), all, "server {id}");
    }

    let old = cluster.leader();
    let follower = IDS.into_iter().find(|id| *id != old).unwrap();
    let fault = cluster.control.block_on(cluster.handle(follower).propose(say("here?"))).unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.text.contains(&format!("ask {} at {}", name(old), name(old))), "{fault}");
    let barrier =
        cluster.control.block_on(cluster.handle(old).read_barrier(Consistency::Consistent)).unwrap();
    assert!(barrier >= last);

    cluster.kill(old);
    let last = say_all(&cluster, &mut all, "second");
    assert_ne!(cluster.leader(), old);
    cluster.start(old);
    assert_eq!(cluster.wait_applied(old, last), all, "the old leader");
    let last = say_all(&cluster, &mut all, "third");
    for id in IDS {
        assert_eq!(cluster.wait_applied(id, last), all, "server {id}");
    }
}

#[test]
fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::new();
    let before = cluster.say("before");
    let old = cluster.leader();
    let to = IDS.into_iter().find(|id| *id != old).unwrap();
    cluster.wait_applied(to, before);
    let mut leadership = cluster.handle(to).leadership();
    assert_eq!(cluster.wait(cluster.handle(old).transfer(Some(to))).unwrap().id, to);
    let waited = async { tokio::time::timeout(LIMIT, leadership.wait_for(|now| now.here)).await.map(|_| ()) };
    cluster.control.block_on(waited).expect("leadership was not handed over");
    cluster.say("after");
}

/// With pre-vote a server that was cut off comes back without a term that unseats the leader.
#[test]
fn a_server_that_was_cut_off_does_not_disturb_the_others() {
    let cluster = Cluster::new();
    cluster.say("before");
    let leader = cluster.leader();
    let lonely = IDS.into_iter().find(|id| *id != leader).unwrap();
    cluster.net.cut.lock().unwrap().insert(name(lonely));
    let term = cluster.handle(lonely).metrics().term;
    let mut calls = cluster.net.calls.subscribe();
    let count = |calls: &BTreeMap<(String, u8), u64>, kind: CallKind| {
        calls.get(&(name(lonely), kind as u8)).copied().unwrap_or(0)
    };
    let votes = count(&calls.borrow(), CallKind::Vote);
    let asked = |calls: &BTreeMap<(String, u8), u64>| count(calls, CallKind::PreVote) >= 6;
    let waited = async { tokio::time::timeout(LIMIT, calls.wait_for(asked)).await.map(|_| ()) };
    cluster.control.block_on(waited).expect("it never asked to be elected");
    let during = cluster.say("while it was away");
    assert_eq!(count(&calls.borrow(), CallKind::Vote), votes, "it stood for election without a promise");
    assert_eq!(cluster.handle(lonely).metrics().term, term);
    cluster.net.cut.lock().unwrap().clear();
    assert!(cluster.wait_applied(lonely, during).contains_key("while it was away"));
}

/// A follower whose entries are gone from the leader's log gets the state as a whole, in several pieces.
#[test]
fn a_follower_that_is_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::new();
    cluster.say("small");
    let leader = cluster.leader();
    let behind = IDS.into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(behind);
    let mut last = Revision(0);
    for n in 0..6 {
        last = cluster.say(&format!("{n}{}", "x".repeat(400_000)));
    }
    let handle = cluster.handle(cluster.leader());
    let compacted = async {
        let raft = handle.raft();
        raft.trigger().snapshot().await.unwrap();
        let wait = raft.wait(Some(LIMIT));
        wait.metrics(|m| m.snapshot.is_some_and(|at| at.index >= last.0), "snapshot").await.unwrap();
        raft.trigger().purge_log(last.0).await.unwrap();
        wait.metrics(|m| m.purged.is_some_and(|at| at.index >= last.0), "purged").await.unwrap();
    };
    cluster.control.block_on(compacted);
    cluster.start(behind);
    let state = cluster.wait_applied(behind, last);
    assert_eq!(state, cluster.wait_applied(handle.id(), last));
    assert_eq!(state.len(), 7);
    let mut replaced = cluster.hooks[&behind].0.subscribe();
    let told = async { tokio::time::timeout(LIMIT, replaced.wait_for(|at| *at >= last)).await.map(|_| ()) };
    cluster.control.block_on(told).expect("the hook was not told");

    // It is on its disk: it starts from there.
    cluster.kill(behind);
    cluster.start(behind);
    assert_eq!(cluster.handle(behind).applied().borrow().state.said.len(), 7);
}

#[test]
fn nonsense_from_a_peer_is_refused_and_changes_nothing() {
    let cluster = Cluster::new();
    let last = cluster.say("sense");
    let server = cluster.handle(cluster.leader());
    let before = server.metrics();
    for kind in
        [CallKind::Append, CallKind::Vote, CallKind::PreVote, CallKind::Snapshot, CallKind::TransferLeader]
    {
        for body in [&b""[..], b"\x01", b"\x02\x80", b"\x01\x80", b"\x01\xc1\xff", &[1; 300]] {
            let answer = cluster.control.block_on(server.serve(kind, body));
            let refused = matches!(codec::read(&answer), Ok(Answer::<()>::Refused(_)));
            assert!(refused, "{kind:?} {body:?} was answered {answer:?}");
        }
    }
    assert_eq!(server.metrics().term, before.term);
    assert!(cluster.say("more sense") > last);
}

#[test]
fn an_entry_from_a_newer_leader_stops_this_server_before_it_is_stored() {
    let cluster = Cluster::new();
    cluster.say("old");
    let leader = cluster.leader();
    let id = IDS.into_iter().find(|id| *id != leader).unwrap();
    let server = cluster.handle(id);
    let next = server.metrics().last_log + 1;
    let mut newer = say("new");
    newer.level = LEVEL + 1;
    let at = Position { term: 1_000, node: leader, index: next };
    let entry = Entry { log_id: LogId::from(at), payload: Payload::Normal(newer) };
    let append = Append {
        vote: Ballot { term: 1_000, node: leader, committed: true },
        previous: None,
        committed: Some(at),
        entries: vec![codec::write_entry(&entry).unwrap().into()],
    };
    let body = network::addressed(id, &append).unwrap();
    let answer = cluster.control.block_on(server.serve(CallKind::Append, &body));
    assert!(matches!(codec::read(&answer), Ok(Answer::<()>::Refused(why)) if why.contains("newer build")));
    let dead = cluster.control.block_on(async { tokio::time::timeout(LIMIT, server.dead()).await }).unwrap();
    assert!(dead.contains("command level") && dead.contains("newer build"), "{dead}");
    assert!(!server.applied().borrow().state.said.contains_key("new"));
    assert!(server.metrics().term < 1_000, "the leader of the newer entry was accepted");
}
