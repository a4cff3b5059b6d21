//! A scripted server for tests: a few topics and a log of what it was asked, behind in-memory links.
//!
//! It knows just enough of the rules to talk to an agent: sessions with resume, writes of registrations, and leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use purlin_model::command::{Command, DeregisterWhat, Done, Outcome, RequestId};
use purlin_model::identity::Identity;
use purlin_model::intention::Action;
use purlin_model::topic::{Contents, Delta, MeshInfo, Record, RootCertificate, Topic};
use purlin_model::{Datacenter, Fault, Millis, Revision};
use purlin_wire::link::{Link, Peer, Stream};
use purlin_wire::memory::MemoryConnector;
use purlin_wire::rpc::{self, Call, Down, Opened, Up, pieces};
use purlin_wire::testing::TestCa;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;

/// Cheap to clone; all clones are the same server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) ca: Arc<TestCa>,
    pub(crate) connector: Arc<MemoryConnector>,
    /// Of the host that it serves.
    host: Identity,
    clock: Clock,
    changes: watch::Sender<u64>,
}

pub(crate) struct State {
    revision: u64,
    topics: BTreeMap<Topic, Contents>,
    sessions: Vec<mpsc::UnboundedSender<Down>>,
    outcomes: BTreeMap<RequestId, Outcome>,
    /// Every `Up` but beats.
    pub(crate) heard: Vec<Up>,
    /// Every write, repeats too.
    pub(crate) writes: Vec<rpc::Write>,
    pub(crate) signed: usize,
    pub(crate) leaf_ttl: Duration,
    /// Cuts the link after carrying out the next write, before its answer.
    pub(crate) lose_next_answer: bool,
    /// Keeps sessions in the dark about progress.
    pub(crate) hold_progress: bool,
    pub(crate) refuse_signing: bool,
    /// Refuses registrations, with that reason.
    pub(crate) refuse_registering: Option<String>,
    /// Sends the next session away for so long.
    pub(crate) busy: Option<Duration>,
}

impl Server {
    /// A server of a new mesh for a host of that name.
    pub(crate) fn start(node: &str, clock: Clock) -> Self {
        let ca = Arc::new(TestCa::new("td.mesh.internal"));
        let host = ca.agent(node);
        let me = Peer::Member { identity: host.clone(), certificate: [1; 32], issuer: None };
        let server = Peer::Member { identity: ca.server("server"), certificate: [2; 32], issuer: None };
        let (connector, mut links) = MemoryConnector::new(me, server);
        let state = State {
            revision: 0,
            topics: BTreeMap::new(),
            sessions: Vec::new(),
            outcomes: BTreeMap::new(),
            heard: Vec::new(),
            writes: Vec::new(),
            signed: 0,
            leaf_ttl: Duration::from_secs(3600),
            lose_next_answer: false,
            hold_progress: false,
            refuse_signing: false,
            refuse_registering: None,
            busy: None,
        };
        let changes = watch::Sender::new(0);
        let server = Self { state: Arc::new(Mutex::new(state)), ca, connector, host, clock, changes };
        server.set(Topic::Mesh, "mesh", Record::Mesh(server.mesh()));
        let acceptor = server.clone();
        tokio::spawn(async move {
            while let Some(link) = links.recv().await {
                tokio::spawn(acceptor.clone().attend(link));
            }
        });
        server
    }

    pub(crate) fn mesh(&self) -> MeshInfo {
        let root = RootCertificate {
            id: "root".into(),
            name: "root".into(),
            pem: pem(&self.ca.root_der()),
            serial: "1".into(),
            not_before: Millis(0),
            not_after: Millis(u64::MAX),
            active: true,
            create_index: Revision(1),
            modify_index: Revision(1),
        };
        MeshInfo {
            trust_domain: self.ca.trust_domain.clone(),
            datacenter: Datacenter::default(),
            roots: vec![root],
            default_intention: Action::Deny,
            leaf_ttl_ms: 0,
            distrust: Default::default(),
            ca: None,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until the server's log says so.
    pub(crate) async fn until(&self, mut is: impl FnMut(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        while !is(&self.state()) {
            changes.changed().await.unwrap();
        }
    }

    /// Sets one record and tells all sessions.
    pub(crate) fn set(&self, topic: Topic, key: &str, record: Record) -> Revision {
        self.change(topic, |contents| {
            contents.records.insert(key.into(), record.clone());
            (vec![(key.to_owned(), record)], Vec::new())
        })
    }

    pub(crate) fn remove(&self, topic: Topic, key: &str) -> Revision {
        self.change(topic, |contents| {
            contents.records.remove(key);
            (Vec::new(), vec![key.to_owned()])
        })
    }

    fn change(
        &self,
        topic: Topic,
        change: impl FnOnce(&mut Contents) -> (Vec<(String, Record)>, Vec<String>),
    ) -> Revision {
        let mut state = self.state();
        state.revision += 1;
        let revision = Revision(state.revision);
        let contents = state.topics.entry(topic.clone()).or_default();
        contents.revision = revision;
        let (set, removed) = change(contents);
        state.tell(&Delta { topic, revision, reset: false, set, removed });
        if !state.hold_progress {
            state.say(Down::Progress(revision));
        }
        drop(state);
        self.noted();
        revision
    }

    /// Lets sessions know how far the server is.
    pub(crate) fn say_progress(&self) {
        let mut state = self.state();
        let revision = Revision(state.revision);
        state.say(Down::Progress(revision));
    }

    fn noted(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    async fn attend(self, link: Arc<dyn Link>) {
        while let Ok(stream) = link.accept().await {
            tokio::spawn(self.clone().answer(link.clone(), stream));
        }
    }

    async fn answer(self, link: Arc<dyn Link>, mut stream: Stream) {
        let Ok(call) = rpc::read_call(&mut stream).await else { return };
        match call.method.as_str() {
            rpc::SESSION => self.session(stream).await,
            rpc::WRITE => {
                let outcome = self.write(call.decode().unwrap());
                let lost = std::mem::take(&mut self.state().lose_next_answer);
                self.noted();
                if lost {
                    link.close("the answer is lost");
                    return;
                }
                rpc::reply(&mut stream, &Ok(outcome)).await.ok();
            }
            rpc::ASK => {
                let asked = self.ask(&call);
                rpc::reply_asked(&mut stream, Ok(asked)).await.ok();
            }
            rpc::SIGN_LEAF => {
                let signed = self.sign(&call);
                self.noted();
                rpc::reply(&mut stream, &signed).await.ok();
            }
            rpc::RENEW_NODE => {
                let renew: rpc::RenewNode = call.decode().unwrap();
                let ttl = self.state().leaf_ttl;
                let chain = self.sign_for(&renew.csr, &self.host, ttl);
                rpc::reply(&mut stream, &Ok(rpc::Signed { chain })).await.ok();
            }
            _ => {
                rpc::reply::<()>(&mut stream, &Err(call.unknown())).await.ok();
            }
        }
    }

    fn ask(&self, call: &Call) -> rpc::Asked {
        let ask: rpc::Ask = call.decode().unwrap();
        let contents = self.state().topics.get(&ask.topic).cloned().unwrap_or_default();
        let records =
            contents.records.iter().map(|(key, record)| rpc::Item::new(key.clone(), record).unwrap());
        rpc::Asked {
            revision: contents.revision,
            records: records.collect(),
            known_leader: true,
            last_contact_ms: 0,
            more: false,
        }
    }

    fn sign(&self, call: &Call) -> Result<rpc::Signed, Fault> {
        let ask: rpc::SignLeaf = call.decode()?;
        let mut state = self.state();
        if state.refuse_signing {
            return Err(Fault::forbidden("not registered"));
        }
        state.signed += 1;
        let domain = self.ca.trust_domain.clone();
        let identity = Identity::service(domain, Datacenter::default(), &ask.service);
        Ok(rpc::Signed { chain: self.sign_for(&ask.csr, &identity, state.leaf_ttl) })
    }

    pub(crate) fn sign_for(&self, csr: &[u8], identity: &Identity, ttl: Duration) -> Vec<Vec<u8>> {
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now().0);
        self.ca.sign_within(csr, &[&identity.to_string()], back(now), now + ttl)
    }

    fn write(&self, write: rpc::Write) -> Outcome {
        let mut state = self.state();
        state.writes.push(write.clone());
        if let Some(known) = state.outcomes.get(&write.request) {
            return known.clone();
        }
        if let (Some(why), Command::Register(_)) = (&state.refuse_registering, &write.command) {
            return Outcome { revision: Revision(state.revision), result: Err(Fault::invalid(why.clone())) };
        }
        drop(state);
        let revision = match &write.command {
            Command::AnnounceNode(node) => {
                self.set(Topic::Node(node.name.clone()), "node", Record::Node(node.clone()))
            }
            Command::Register(register) => {
                let topic = Topic::Node(register.node.name.clone());
                let mut revision = Revision(0);
                if let Some(instance) = &register.instance {
                    let key = format!("instance/{}", instance.id);
                    revision = self.set(topic.clone(), &key, Record::Instance(instance.clone()));
                }
                for check in &register.checks {
                    let key = format!("check/{}", check.id);
                    revision = self.set(topic.clone(), &key, Record::Check(check.clone()));
                }
                revision
            }
            Command::Deregister(gone) => {
                let key = match &gone.what {
                    DeregisterWhat::Node => "node".to_owned(),
                    DeregisterWhat::Instance(id) => format!("instance/{id}"),
                    DeregisterWhat::Check(id) => format!("check/{id}"),
                };
                self.remove(Topic::Node(gone.node.clone()), &key)
            }
            other => panic!("the scripted server has no {}", other.name()),
        };
        let outcome = Outcome { revision, result: Ok(Done::Yes) };
        self.state().outcomes.insert(write.request, outcome.clone());
        outcome
    }

    async fn session(self, mut stream: Stream) {
        let busy = self.state().busy.take();
        if let Some(retry) = busy {
            self.noted();
            rpc::reply::<Opened>(&mut stream, &Err(Fault::busy("too many at once", retry))).await.ok();
            return;
        }
        let Ok((mut sender, mut receiver)) =
            rpc::accept_session(stream, Opened { beat_ms: 1000, history: None }).await
        else {
            return;
        };
        let (say, mut said) = mpsc::unbounded_channel();
        self.state().sessions.push(say.clone());
        let speak = async {
            let mut beats = tokio::time::interval(Duration::from_secs(1));
            loop {
                let down = tokio::select! {
                    Some(down) = said.recv() => down,
                    _ = beats.tick() => Down::Beat,
                };
                if sender.send(&down).await.is_err() {
                    return;
                }
            }
        };
        let listen = async {
            while let Ok(Some(up)) = receiver.next().await {
                self.hear(up, &say);
            }
        };
        tokio::select! {
            () = speak => {}
            () = listen => {}
        }
    }

    fn hear(&self, up: Up, say: &mpsc::UnboundedSender<Down>) {
        if up == Up::Beat {
            return;
        }
        let mut state = self.state();
        if let Up::Follow(topics) = &up {
            for (topic, have) in topics {
                let delta = state.since(topic, *have);
                tell(say, &delta);
            }
            if !state.hold_progress {
                say.send(Down::Progress(Revision(state.revision))).ok();
            }
        }
        state.heard.push(up);
        drop(state);
        self.noted();
    }
}

impl State {
    /// What brings a follower up to date: nothing but a nod when it is, else all.
    fn since(&mut self, topic: &Topic, have: Revision) -> Delta {
        let contents = self.topics.entry(topic.clone()).or_default();
        let known = have > Revision(0) && have == contents.revision;
        let set = if known { Vec::new() } else { contents.records.clone().into_iter().collect() };
        Delta { topic: topic.clone(), revision: contents.revision, reset: !known, set, removed: Vec::new() }
    }

    fn tell(&mut self, delta: &Delta) {
        self.sessions.retain(|say| tell(say, delta));
    }

    pub(crate) fn say(&mut self, down: Down) {
        self.sessions.retain(|say| say.send(down.clone()).is_ok());
    }

    /// Topics that were asked for in any session, with the revision to resume from.
    pub(crate) fn followed(&self) -> Vec<(Topic, Revision)> {
        let follows = self.heard.iter().filter_map(|up| match up {
            Up::Follow(topics) => Some(topics.clone()),
            _ => None,
        });
        follows.flatten().collect()
    }

    pub(crate) fn requests(&self) -> BTreeSet<RequestId> {
        self.writes.iter().map(|write| write.request).collect()
    }
}

fn tell(say: &mpsc::UnboundedSender<Down>, delta: &Delta) -> bool {
    pieces(delta).unwrap().into_iter().all(|piece| say.send(Down::Delta(piece)).is_ok())
}

fn back(now: SystemTime) -> SystemTime {
    now - Duration::from_secs(60)
}

pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
