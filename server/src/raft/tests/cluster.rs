//! Three servers in one process, each with a disk and a runtime of its own, on links that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use purlin_model::command::LEVEL;
use purlin_model::{FaultCode, Revision};
use purlin_wire::rpc::Consistency;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Ledger, runtime, say};
use crate::raft::codec::{self, Ballot, Position};
use crate::raft::message::{Answer, Append};
use crate::raft::types::{Entry, LogId, Payload};
use crate::raft::{CallKind, Hook, RaftHandle, RaftOptions, ServerNode, Transport};

const LIMIT: Duration = Duration::from_secs(30);
const IDS: [u64; 3] = [1, 2, 3];

type Handle = RaftHandle<Ledger>;

/// All links. A server that is absent, and one that is cut off, cannot be reached.
#[derive(Default)]
struct Net {
    servers: Mutex<BTreeMap<String, Handle>>,
    cut: Mutex<BTreeSet<String>>,
    calls: watch::Sender<BTreeMap<(String, u8), u64>>,
}

struct Link {
    net: Arc<Net>,
    from: String,
}

impl Transport for Link {
    fn call(
        &self,
        target: &ServerNode,
        kind: CallKind,
        body: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), target.address.clone());
        Box::pin(async move {
            net.calls.send_modify(|calls| *calls.entry((from.clone(), kind as u8)).or_default() += 1);
            let open = {
                let cut = net.cut.lock().unwrap();
                !cut.contains(&from) && !cut.contains(&to)
            };
            let server = net.servers.lock().unwrap().get(&to).cloned().filter(|_| open);
            let server = server.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(server.serve(kind, &body).await)
        })
    }

    fn forget(&self, _target: &ServerNode) {}
}

/// Remembers what the state was last replaced by.
#[derive(Default)]
struct Replaced(watch::Sender<Revision>);

impl Hook<Ledger> for Replaced {
    fn applied(&self, _state: &Arc<Ledger>, _touched: Vec<String>) {}
    fn replaced(&self, _state: &Arc<Ledger>, revision: Revision) {
        self.0.send_replace(revision);
    }
}

struct Cluster {
    net: Arc<Net>,
    dirs: BTreeMap<u64, TempDir>,
    runtimes: BTreeMap<u64, Runtime>,
    hooks: BTreeMap<u64, Arc<Replaced>>,
    control: Runtime,
}

fn name(id: u64) -> String {
    format!("server-{id}")
}

impl Cluster {
    fn new() -> Self {
        let dirs = IDS.into_iter().map(|id| (id, tempfile::tempdir().unwrap())).collect();
        let (runtimes, hooks) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { net: Arc::default(), dirs, runtimes, hooks, control: runtime() };
        for id in IDS {
            cluster.start(id);
        }
        let node = |id| ServerNode { name: name(id), address: name(id) };
        let members = IDS.into_iter().map(|id| (id, node(id))).collect();
        cluster.control.block_on(cluster.handle(1).initialize(members)).unwrap();
        cluster
    }

    fn start(&mut self, id: u64) {
        let link = Arc::new(Link { net: self.net.clone(), from: name(id) });
        let options = RaftOptions::new(self.dir(id), id, name(id), name(id));
        let hook = Arc::new(Replaced::default());
        let runtime = runtime();
        let started = runtime.block_on(Handle::start(options, Ledger::default(), link, hook.clone()));
        self.net.servers.lock().unwrap().insert(name(id), started.unwrap());
        self.runtimes.insert(id, runtime);
        self.hooks.insert(id, hook);
    }

    /// Ends a server as a power cut of its process would.
    fn kill(&mut self, id: u64) {
        self.net.servers.lock().unwrap().remove(&name(id));
        self.runtimes.remove(&id);
    }

    fn dir(&self, id: u64) -> &Path {
        self.dirs[&id].path()
    }

    fn handle(&self, id: u64) -> Handle {
        self.net.servers.lock().unwrap()[&name(id)].clone()
    }

    fn handles(&self) -> Vec<Handle> {
        self.net.servers.lock().unwrap().values().cloned().collect()
    }

    /// Waits until every running server names the same running leader.
    fn leader(&self) -> u64 {
        let handles = self.handles();
        let running: Vec<u64> = handles.iter().map(Handle::id).collect();
        let agreed = async {
            loop {
                let leaders: BTreeSet<_> =
                    handles.iter().map(|h| h.leader().map(|leader| leader.id)).collect();
                match leaders.first() {
                    Some(Some(id)) if leaders.len() == 1 && running.contains(id) => return *id,
                    _ => {}
                }
                let mut watches: Vec<_> = handles.iter().map(Handle::leadership).collect();
                // Looked at again after the watches were set, so that no change is missed.
                let now: BTreeSet<_> = handles.iter().map(|h| h.leader().map(|leader| leader.id)).collect();
                if now == leaders {
                    let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
                    let _ = futures_util::future::select_all(changes).await;
                }
            }
        };
        self.control
            .block_on(async { tokio::time::timeout(LIMIT, agreed).await })
            .expect("no leader was agreed on")
    }

    /// Says it where the leader is, whoever that becomes meanwhile.
    fn say(&self, text: &str) -> Revision {
        let envelope = say(text);
        for _ in 0..20 {
            let leader = self.handle(self.leader());
            match self.control.block_on(leader.propose(envelope.clone())) {
                Ok(outcome) => return outcome.revision,
                Err(fault) => assert_eq!(fault.code, FaultCode::Unavailable, "{fault}"),
            }
        }
        panic!("{text} could not be said");
    }

    /// Waits until a server has applied up to `revision`.
    fn wait_applied(&self, id: u64, revision: Revision) -> BTreeMap<String, u64> {
        let mut applied = self.handle(id).applied();
        let waited = async {
            let reached = applied.wait_for(|applied| applied.revision >= revision).await;
            reached.unwrap().state.said.as_ref().clone()
        };
        let waited = self.control.block_on(async { tokio::time::timeout(LIMIT, waited).await });
        waited.unwrap_or_else(|_| panic!("server {id} did not reach {revision}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in IDS {
            self.kill(id);
        }
    }
}

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
    cluster.control.block_on(cluster.handle(old).transfer_leader(to)).unwrap();
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
    let body = codec::write(&append).unwrap();
    let answer = cluster.control.block_on(server.serve(CallKind::Append, &body));
    assert!(matches!(codec::read(&answer), Ok(Answer::<()>::Refused(why)) if why.contains("newer build")));
    let dead = cluster.control.block_on(async { tokio::time::timeout(LIMIT, server.dead()).await }).unwrap();
    assert!(dead.contains("command level") && dead.contains("newer build"), "{dead}");
    assert!(!server.applied().borrow().state.said.contains_key("new"));
    assert!(server.metrics().term < 1_000, "the leader of the newer entry was accepted");
}
