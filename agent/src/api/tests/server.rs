//! A server for tests: keeps what is written in plain tables, answers questions, and feeds sessions. No Raft, no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use purlin_model::check::{Check, NODE_ALIVE, Status};
use purlin_model::command::{Command, DeregisterWhat, Done, JoinTokenInfo, Outcome, Register};
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ServiceIntentions};
use purlin_model::event::UserEvent;
use purlin_model::intention::Action;
use purlin_model::node::{Node, NodeStatus};
use purlin_model::query::PreparedQuery;
use purlin_model::service::{Instance, ServiceEntry};
use purlin_model::topic::{
    Contents, Delta, MeshInfo, Record, RootCertificate, ServerInfo, ServiceSummary, Topic,
};
use purlin_model::{
    CheckId, Datacenter, Fault, InstanceId, Millis, Namespace, NodeName, Revision, ServiceKey,
};
use purlin_wire::link::{Link, Stream};
use purlin_wire::rpc::{
    ASK, Ask, Asked, Down, Item, OpenSession, Opened, SESSION, SIGN_LEAF, SignLeaf, Signed, Up, WRITE, Write,
    accept_session, delta_frames, read_call, reply, reply_asked,
};
use purlin_wire::testing::TestCa;
use tokio::sync::{mpsc, watch};

#[derive(Default)]
struct Tables {
    revision: u64,
    nodes: BTreeMap<NodeName, Node>,
    instances: BTreeMap<(NodeName, InstanceId), Instance>,
    checks: BTreeMap<(NodeName, CheckId), Check>,
    configs: BTreeMap<(ConfigKind, String), ConfigEntry>,
    tokens: BTreeMap<String, JoinTokenInfo>,
    events: Vec<UserEvent>,
    queries: BTreeMap<uuid::Uuid, PreparedQuery>,
    /// What was last said of a topic.
    said: BTreeMap<Topic, Contents>,
    commands: Vec<Command>,
}

pub(super) struct TestServer {
    tables: Mutex<Tables>,
    changed: watch::Sender<u64>,
    pub(super) ca: TestCa,
}

impl TestServer {
    pub(super) fn new() -> Arc<Self> {
        let ca = TestCa::new("11111111-2222-3333-4444-555555555555.mesh.internal");
        Arc::new(Self { tables: Mutex::default(), changed: watch::Sender::new(0), ca })
    }

    /// Answers every link that comes.
    pub(super) async fn run(self: Arc<Self>, mut links: mpsc::Receiver<Arc<dyn Link>>) {
        while let Some(link) = links.recv().await {
            let server = self.clone();
            tokio::spawn(async move {
                while let Ok(stream) = link.accept().await {
                    let server = server.clone();
                    tokio::spawn(async move { server.answer(stream).await });
                }
            });
        }
    }

    /// Everything that was written, oldest first.
    pub(super) fn commands(&self) -> Vec<Command> {
        self.tables().commands.clone()
    }

    pub(super) fn write(&self, command: Command) -> Outcome {
        let mut tables = self.tables();
        tables.revision += 1;
        let revision = Revision(tables.revision);
        tables.commands.push(command.clone());
        let result = tables.apply(command, revision);
        drop(tables);
        self.changed.send_modify(|count| *count += 1);
        Outcome { revision, result }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    fn read(&self, topic: &Topic) -> Contents {
        let mesh = self.mesh();
        let mut tables = self.tables();
        let records = tables.records(topic, &mesh);
        let revision = Revision(tables.revision.max(1));
        let said = tables.said.entry(topic.clone()).or_default();
        if said.revision == Revision(0) || said.records != records {
            *said = Contents { revision, records };
        }
        said.clone()
    }

    fn mesh(&self) -> MeshInfo {
        let der = self.ca.root_der();
        let pem = super::super::connect::pem("CERTIFICATE", &der);
        let root = RootCertificate {
            id: "aa:bb".into(),
            name: "root".into(),
            pem,
            serial: "07".into(),
            not_before: Millis(1_000),
            not_after: Millis(4_000_000_000_000),
            active: true,
            create_index: Revision(1),
            modify_index: Revision(1),
        };
        MeshInfo {
            trust_domain: self.ca.trust_domain.clone(),
            datacenter: Datacenter::default(),
            roots: vec![root],
            default_intention: Action::Deny,
            leaf_ttl_ms: 3_600_000,
            distrust: Default::default(),
            ca: None,
        }
    }

    async fn answer(&self, mut stream: Stream) {
        let call = read_call(&mut stream).await.unwrap();
        match call.method.as_str() {
            WRITE => {
                let write: Write = call.decode().unwrap();
                let outcome = self.write(write.command);
                let _ = reply(&mut stream, &Ok(outcome)).await;
            }
            ASK => {
                let asked = self.ask(call.decode().unwrap()).await;
                let _ = reply_asked(&mut stream, Ok(asked)).await;
            }
            SIGN_LEAF => {
                let sign: SignLeaf = call.decode().unwrap();
                let chain = self.ca.sign(&sign.csr, &self.ca.service(sign.service.name.as_str()));
                let _ = reply(&mut stream, &Ok(Signed { chain })).await;
            }
            SESSION => {
                let _open: OpenSession = call.decode().unwrap();
                self.session(stream).await;
            }
            _ => {
                let _ = reply::<()>(&mut stream, &Err(call.unknown())).await;
            }
        }
    }

    async fn ask(&self, ask: Ask) -> Asked {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                let contents = self.read(&ask.topic);
                if contents.revision > ask.after {
                    return contents;
                }
                changed.changed().await.unwrap();
            }
        };
        let contents = match tokio::time::timeout(Duration::from_millis(ask.wait_ms), wait).await {
            Ok(contents) => contents,
            Err(_) => self.read(&ask.topic),
        };
        let records =
            contents.records.iter().map(|(key, record)| Item::new(key.clone(), record).unwrap()).collect();
        Asked { revision: contents.revision, records, known_leader: true, last_contact_ms: 0, more: false }
    }

    async fn session(&self, stream: Stream) {
        let Ok((mut sender, mut receiver)) =
            accept_session(stream, Opened { beat_ms: 1_000, history: None }).await
        else {
            return;
        };
        let mut changed = self.changed.subscribe();
        let mut followed: BTreeMap<Topic, Option<Revision>> = BTreeMap::new();
        loop {
            tokio::select! {
                up = receiver.next() => match up {
                    Ok(Some(Up::Follow(topics))) => followed.extend(topics.into_iter().map(|(topic, _)| (topic, None))),
                    Ok(Some(Up::Unfollow(topics))) => followed.retain(|topic, _| !topics.contains(topic)),
                    Ok(Some(Up::Applied(_))) => {}
                    Ok(Some(Up::Beat)) => {
                        if sender.send(&Down::Beat).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
                _ = changed.changed() => {}
            }
            let as_of = Revision(self.tables().revision);
            for (topic, sent) in &mut followed {
                let contents = self.read(topic);
                if *sent == Some(contents.revision) {
                    continue;
                }
                *sent = Some(contents.revision);
                let delta = Delta {
                    topic: topic.clone(),
                    revision: contents.revision,
                    reset: true,
                    set: contents.records.into_iter().collect(),
                    removed: Vec::new(),
                };
                for frame in delta_frames(&delta).unwrap() {
                    if sender.send_encoded(&frame).await.is_err() {
                        return;
                    }
                }
            }
            if sender.send(&Down::Progress(as_of)).await.is_err() {
                return;
            }
        }
    }
}

impl Tables {
    fn apply(&mut self, command: Command, at: Revision) -> Result<Done, Fault> {
        match command {
            Command::AnnounceNode(node) => {
                self.put_node(node, at);
            }
            Command::Register(register) => self.register(register, at),
            Command::Deregister(what) => match what.what {
                DeregisterWhat::Node => self.remove_node(&what.node),
                DeregisterWhat::Instance(id) => {
                    self.checks.retain(|(node, _), check| {
                        *node != what.node || check.service_id.as_ref() != Some(&id)
                    });
                    self.instances.remove(&(what.node, id));
                }
                DeregisterWhat::Check(id) => {
                    self.checks.remove(&(what.node, id));
                }
            },
            Command::SetNodeStatus { node, status } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.status = status;
                    node.modify_index = at;
                }
            }
            Command::RemoveNode { node } => self.remove_node(&node),
            Command::PutConfig { entry, cas } => return Ok(self.put_config(entry, cas, at)),
            Command::DeleteConfig { kind, name, .. } => {
                let existed = self.configs.remove(&(kind, name)).is_some();
                return Ok(Done::Deleted { existed });
            }
            Command::PutIntention { destination, source, .. } => {
                let name = destination.to_string();
                let mut sources: Vec<_> = self.sources(&name);
                sources.retain(|one| one.source != source.source);
                sources.push(source);
                self.put_sources(name, sources, at);
            }
            Command::DeleteIntention { source, destination } => {
                let name = destination.to_string();
                let mut sources = self.sources(&name);
                sources.retain(|one| one.source != source);
                self.put_sources(name, sources, at);
            }
            Command::CreateJoinToken(token) => {
                let info = JoinTokenInfo {
                    id: token.id.clone(),
                    role: token.role,
                    created: token.created,
                    expires: token.expires,
                    uses: token.uses,
                    uses_left: token.uses,
                };
                self.tokens.insert(token.id, info);
            }
            Command::RevokeJoinToken { id } => {
                if self.tokens.remove(&id).is_none() {
                    return Err(Fault::not_found(format!("no join token {id}")));
                }
            }
            Command::FireEvent(event) => {
                let ltime = self.events.len() as u64 + 1;
                self.events.push(UserEvent { ltime, ..event });
            }
            Command::PutQuery { query, create } => {
                if create == self.queries.contains_key(&query.id) {
                    return Err(Fault::not_found("no such query"));
                }
                self.queries.insert(query.id, query);
            }
            Command::DeleteQuery { id } => {
                let existed = self.queries.remove(&id).is_some();
                return Ok(Done::Deleted { existed });
            }
            other => return Err(Fault::invalid(format!("{} is not for this server", other.name()))),
        }
        Ok(Done::Yes)
    }

    fn put_node(&mut self, node: Node, at: Revision) {
        let create_index = self.nodes.get(&node.name).map_or(at, |known| known.create_index);
        let alive = Check {
            node: node.name.clone(),
            id: CheckId::new(NODE_ALIVE).unwrap(),
            name: "Host is alive".into(),
            status: Status::Passing,
            notes: String::new(),
            output: String::new(),
            service_id: None,
            service_name: None,
            service_tags: Vec::new(),
            kind: String::new(),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            create_index,
            modify_index: create_index,
        };
        if node.id.is_some() {
            self.checks.insert((node.name.clone(), alive.id.clone()), alive);
        }
        self.nodes.insert(node.name.clone(), Node { create_index, modify_index: at, ..node });
    }

    fn register(&mut self, register: Register, at: Revision) {
        let name = register.node.name.clone();
        if !register.skip_node_update || !self.nodes.contains_key(&name) {
            self.put_node(register.node, at);
        }
        if let Some(instance) = register.instance {
            if register.replace_checks {
                let own = &instance.id;
                self.checks
                    .retain(|(node, _), check| *node != name || check.service_id.as_ref() != Some(own));
            }
            let key = (name.clone(), instance.id.clone());
            self.instances.insert(key, Instance { create_index: at, modify_index: at, ..instance });
        }
        for check in register.checks {
            let key = (name.clone(), check.id.clone());
            self.checks.insert(key, Check { create_index: at, modify_index: at, ..check });
        }
    }

    fn remove_node(&mut self, name: &NodeName) {
        self.nodes.remove(name);
        self.instances.retain(|(node, _), _| node != name);
        self.checks.retain(|(node, _), _| node != name);
    }

    fn put_config(&mut self, entry: ConfigEntry, cas: Option<Revision>, at: Revision) -> Done {
        let key = (entry.kind(), entry.name.clone());
        let known = self.configs.get(&key).map_or(Revision(0), |known| known.modify_index);
        if cas.is_some_and(|cas| cas != known) {
            return Done::CasFailed;
        }
        self.configs.insert(key, ConfigEntry { create_index: at, modify_index: at, ..entry });
        Done::Yes
    }

    fn sources(&self, name: &str) -> Vec<purlin_model::intention::SourceIntention> {
        match self.configs.get(&(ConfigKind::ServiceIntentions, name.to_owned())).map(|entry| &entry.body) {
            Some(ConfigBody::ServiceIntentions(intentions)) => intentions.sources.clone(),
            _ => Vec::new(),
        }
    }

    fn put_sources(
        &mut self,
        name: String,
        sources: Vec<purlin_model::intention::SourceIntention>,
        at: Revision,
    ) {
        if sources.is_empty() {
            self.configs.remove(&(ConfigKind::ServiceIntentions, name));
            return;
        }
        let entry = ConfigEntry {
            name,
            namespace: Namespace::default(),
            meta: BTreeMap::new(),
            body: ConfigBody::ServiceIntentions(ServiceIntentions { sources }),
            create_index: at,
            modify_index: at,
        };
        self.put_config(entry, None, at);
    }

    fn records(&self, topic: &Topic, mesh: &MeshInfo) -> BTreeMap<String, Record> {
        match topic {
            Topic::Nodes => {
                self.nodes.values().map(|node| (node.name.to_string(), Record::Node(node.clone()))).collect()
            }
            Topic::Node(name) => self.node_records(name),
            Topic::Services => self.summaries(),
            Topic::Service(key) => self.entries(key),
            Topic::Checks(status) => self
                .checks
                .values()
                .filter(|check| status.is_none_or(|status| check.status == status))
                .map(|check| (format!("{}/{}", check.node, check.id), Record::Check(check.clone())))
                .collect(),
            Topic::Config(kind, name) => self
                .configs
                .iter()
                .filter(|((own, key), _)| own == kind && name.as_ref().is_none_or(|name| name == key))
                .map(|((_, key), entry)| (key.clone(), Record::Config(entry.clone())))
                .collect(),
            Topic::Mesh => BTreeMap::from([("mesh".into(), Record::Mesh(mesh.clone()))]),
            Topic::Servers => {
                let server = ServerInfo {
                    node: NodeName::new("server-1").unwrap(),
                    address: "10.0.0.1:8300".into(),
                    leader: true,
                    voter: true,
                    id: None,
                    level: 0,
                    sealing: Vec::new(),
                };
                BTreeMap::from([("server-1".into(), Record::Server(server))])
            }
            Topic::Events => {
                self.events.iter().map(|event| (event.key(), Record::Event(event.clone()))).collect()
            }
            Topic::Queries(wanted) => self
                .queries
                .iter()
                .filter(|(id, _)| wanted.is_none_or(|wanted| wanted == **id))
                .map(|(id, query)| (id.to_string(), Record::Query(query.clone())))
                .collect(),
            Topic::JoinTokens => {
                self.tokens.iter().map(|(id, token)| (id.clone(), Record::JoinToken(token.clone()))).collect()
            }
            Topic::At(_) | Topic::Kv(_) | Topic::Sessions(_) | Topic::Session(_) | Topic::Txn(_) => {
                BTreeMap::new()
            }
        }
    }

    fn node_records(&self, name: &NodeName) -> BTreeMap<String, Record> {
        let mut records = BTreeMap::new();
        if let Some(node) = self.nodes.get(name) {
            records.insert("node".into(), Record::Node(node.clone()));
        }
        for ((_, id), instance) in self.instances.iter().filter(|((node, _), _)| node == name) {
            records.insert(format!("instance/{id}"), Record::Instance(instance.clone()));
        }
        for ((_, id), check) in self.checks.iter().filter(|((node, _), _)| node == name) {
            records.insert(format!("check/{id}"), Record::Check(check.clone()));
        }
        records
    }

    fn summaries(&self) -> BTreeMap<String, Record> {
        let mut summaries: BTreeMap<String, (ServiceSummary, BTreeSet<String>)> = BTreeMap::new();
        for instance in self.instances.values() {
            let empty = ServiceSummary {
                name: instance.name.clone(),
                namespace: Namespace::default(),
                tags: Vec::new(),
                instances: 0,
                in_mesh: false,
            };
            let entry = summaries.entry(instance.name.to_string()).or_insert((empty, BTreeSet::new()));
            entry.0.instances += 1;
            entry.0.in_mesh |= instance.mesh.is_some();
            entry.1.extend(instance.tags.iter().cloned());
        }
        let record = |(summary, tags): (ServiceSummary, BTreeSet<String>)| {
            Record::ServiceSummary(ServiceSummary { tags: tags.into_iter().collect(), ..summary })
        };
        summaries.into_iter().map(|(name, summary)| (name, record(summary))).collect()
    }

    fn entries(&self, key: &ServiceKey) -> BTreeMap<String, Record> {
        let mut records = BTreeMap::new();
        for ((name, id), instance) in self.instances.iter().filter(|(_, instance)| instance.key() == *key) {
            let Some(node) = self.nodes.get(name).filter(|node| node.status == NodeStatus::Alive) else {
                continue;
            };
            let counts = |check: &&Check| {
                check.node == *name && check.service_id.as_ref().is_none_or(|service| service == id)
            };
            let checks = self.checks.values().filter(counts).cloned().map(Arc::new).collect();
            let entry =
                ServiceEntry { node: Arc::new(node.clone()), instance: Arc::new(instance.clone()), checks };
            records.insert(format!("{name}/{id}"), Record::Entry(entry));
        }
        records
    }
}
