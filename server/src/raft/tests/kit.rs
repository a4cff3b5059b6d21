//! Servers in one process, each with a disk and a runtime of its own, on links that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use purlin_model::{Fault, FaultCode, Revision};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Ledger, runtime, say};
use crate::raft::{CallKind, Hook, Member, RaftHandle, RaftOptions, ServerNode, Transport};

pub(super) const LIMIT: Duration = Duration::from_secs(30);
pub(super) const IDS: [u64; 3] = [1, 2, 3];

pub(super) type Handle = RaftHandle<Ledger>;

/// All links. A server that is absent, one that is cut off, and one of another name cannot be reached.
#[derive(Default)]
pub(super) struct Net {
    /// By address: the name of who listens there.
    servers: Mutex<BTreeMap<String, (String, Handle)>>,
    pub(super) cut: Mutex<BTreeSet<String>>,
    pub(super) calls: watch::Sender<BTreeMap<(String, u8), u64>>,
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
        let (net, from, to, name) =
            (self.net.clone(), self.from.clone(), target.address.clone(), target.name.clone());
        Box::pin(async move {
            net.calls.send_modify(|calls| *calls.entry((from.clone(), kind as u8)).or_default() += 1);
            let open = {
                let cut = net.cut.lock().unwrap();
                !cut.contains(&from) && !cut.contains(&to)
            };
            let server = net.servers.lock().unwrap().get(&to).cloned();
            let server = server.filter(|(is, _)| open && *is == name).map(|(_, server)| server);
            let server = server.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(server.serve(kind, &body).await)
        })
    }

    fn forget(&self, _target: &ServerNode) {}
}

/// Remembers what the state was last replaced by.
#[derive(Default)]
pub(super) struct Replaced(pub(super) watch::Sender<Revision>);

impl Hook<Ledger> for Replaced {
    fn applied(&self, _state: &Arc<Ledger>, _touched: Vec<String>) {}
    fn replaced(&self, _state: &Arc<Ledger>, revision: Revision) {
        self.0.send_replace(revision);
    }
}

pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    dirs: BTreeMap<u64, TempDir>,
    runtimes: BTreeMap<u64, Runtime>,
    pub(super) hooks: BTreeMap<u64, Arc<Replaced>>,
    pub(super) control: Runtime,
}

pub(super) fn name(id: u64) -> String {
    format!("server-{id}")
}

pub(super) fn node(id: u64) -> ServerNode {
    ServerNode { name: name(id), address: name(id) }
}

impl Cluster {
    /// Three voters.
    pub(super) fn new() -> Self {
        let (dirs, runtimes, hooks) = Default::default();
        let mut cluster = Self { net: Arc::default(), dirs, runtimes, hooks, control: runtime() };
        for id in IDS {
            cluster.start(id);
        }
        let members = IDS.into_iter().map(|id| (id, node(id))).collect();
        cluster.wait(cluster.handle(1).initialize(members)).unwrap();
        cluster
    }

    pub(super) fn dir(&self, id: u64) -> &std::path::Path {
        self.dirs[&id].path()
    }

    pub(super) fn start(&mut self, id: u64) {
        self.start_as(id, node(id));
    }

    /// On what lies on its disk, or on an empty one; it is a member once somebody adds it.
    pub(super) fn start_as(&mut self, id: u64, node: ServerNode) {
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap()).path().to_owned();
        let link = Arc::new(Link { net: self.net.clone(), from: node.address.clone() });
        let options = RaftOptions::new(dir, id, node.name.clone(), node.address.clone());
        let hook = Arc::new(Replaced::default());
        let runtime = runtime();
        let started = runtime.block_on(Handle::start(options, Ledger::default(), link, hook.clone()));
        self.net.servers.lock().unwrap().insert(node.address, (node.name, started.unwrap()));
        self.runtimes.insert(id, runtime);
        self.hooks.insert(id, hook);
    }

    /// Ends a server as a power cut of its process would.
    pub(super) fn kill(&mut self, id: u64) {
        self.net.servers.lock().unwrap().retain(|_, (_, server)| server.id() != id);
        self.runtimes.remove(&id);
    }

    pub(super) fn handle(&self, id: u64) -> Handle {
        self.handles().into_iter().find(|server| server.id() == id).unwrap()
    }

    fn handles(&self) -> Vec<Handle> {
        self.net.servers.lock().unwrap().values().map(|(_, server)| server.clone()).collect()
    }

    pub(super) fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        let waited = self.control.block_on(async { tokio::time::timeout(LIMIT, what).await });
        waited.expect("it did not come to pass")
    }

    /// Does something where the leader is, whoever that becomes meanwhile, until it is done.
    pub(super) fn lead<T, F>(&self, what: impl Fn(Handle) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        for _ in 0..20 {
            match self.wait(what(self.handle(self.leader()))) {
                Err(fault) if fault.may_retry() => {}
                done => return done,
            }
        }
        panic!("no leader did it");
    }

    /// Waits until the leader's view of a member is so; that view is not pushed, so it is looked at again.
    pub(super) fn until_member(&self, id: u64, so: impl Fn(&Member) -> bool) -> Member {
        let seen = async {
            loop {
                let leading = self.handles().into_iter().find(|server| server.leadership().borrow().here);
                let members = leading.map(|leader| leader.members()).unwrap_or_default();
                if let Some(member) = members.into_iter().find(|member| member.id == id && so(member)) {
                    return member;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        self.wait(seen)
    }

    /// Waits until a server leads and every voter that runs says so.
    pub(super) fn leader(&self) -> u64 {
        let agreed = async {
            loop {
                let handles = self.handles();
                for server in handles.iter().filter(|server| server.leadership().borrow().here) {
                    let voters: BTreeSet<u64> =
                        server.members().iter().filter(|m| m.voter).map(|m| m.id).collect();
                    let mut others = handles.iter().filter(|other| voters.contains(&other.id()));
                    if others.all(|other| other.leader().is_some_and(|leader| leader.id == server.id())) {
                        return server.id();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        self.wait(agreed)
    }

    /// Says it where the leader is, whoever that becomes meanwhile.
    pub(super) fn say(&self, text: &str) -> Revision {
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
    pub(super) fn wait_applied(&self, id: u64, revision: Revision) -> BTreeMap<String, u64> {
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
        let ids: Vec<u64> = self.runtimes.keys().copied().collect();
        for id in ids {
            self.kill(id);
        }
    }
}
