//! The whole server on a directory of its own: started, used over links, stopped, started again.

mod hosts;
mod join;
mod operator;
mod serving;
mod sessions;
mod snapshot;
mod upkeep;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::{Command, Done, Outcome, Register, RequestId};
use purlin_model::intention::Action;
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::service::{Instance, Mesh};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{
    Datacenter, Fault, FaultCode, InstanceId, Namespace, NodeId, NodeName, Revision, ServiceKey, ServiceName,
};
use purlin_wire::link::{Connector, Link};
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc::{self, Ask, Assembler, Consistency, Down, OpenSession, Session, Up, Write};

use crate::{Config, Server, ServerHandle, system_clock};

const DEADLINE: Duration = Duration::from_secs(20);

fn config(dir: &Path) -> Config {
    Config {
        store: Arc::new(NodeStore::open(dir).unwrap()),
        node: node_name("s1"),
        datacenter: Datacenter::default(),
        domain: "mesh.internal".into(),
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        advertise: "127.0.0.1".into(),
        mesh_port: None,
        default_intention: Some(Action::Deny),
        leaf_ttl: Some(Duration::from_secs(3600)),
        level: purlin_model::command::LEVEL,
        reconnect_timeout: Duration::from_secs(3600),
        version: "0.1.0".into(),
        clock: system_clock(),
    }
}

async fn start(dir: &Path) -> ServerHandle {
    Server::start(config(dir), true).await.unwrap()
}

async fn refused(config: Config, bootstrap: bool) -> String {
    match Server::start(config, bootstrap).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("this must not start"),
    }
}

fn node_name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn service_key(text: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(text).unwrap())
}

fn node(name: &str, id: u128, role: NodeRole) -> Node {
    Node {
        id: (role != NodeRole::External).then(|| NodeId(uuid::Uuid::from_u128(id))),
        name: node_name(name),
        datacenter: Datacenter::default(),
        address: "10.0.0.1".into(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        locality: None,
        mesh_port: None,
        role,
        status: NodeStatus::Alive,
        version: String::new(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn meshed(id: &str, name: &str) -> Instance {
    Instance {
        id: InstanceId::new(id).unwrap(),
        name: ServiceName::new(name).unwrap(),
        namespace: Namespace::default(),
        kind: Default::default(),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        address: String::new(),
        port: 80,
        ports: Vec::new(),
        socket_path: String::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Default::default(),
        enable_tag_override: false,
        native: false,
        mesh: Some(Mesh::default()),
        locality: None,
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn register(node: Node, instance: Option<Instance>) -> Command {
    Command::Register(Register {
        node,
        skip_node_update: true,
        instance,
        checks: Vec::new(),
        replace_checks: false,
    })
}

async fn connect(connector: Arc<dyn Connector>) -> Arc<dyn Link> {
    connector.connect().await.unwrap()
}

async fn write(link: &dyn Link, command: Command) -> Result<Outcome, Fault> {
    let request = RequestId(uuid::Uuid::new_v4());
    rpc::call::<_, Outcome>(link, rpc::WRITE, &Write { request, uid: None, command }, DEADLINE).await
}

async fn write_ok(link: &dyn Link, command: Command) -> Revision {
    let outcome = write(link, command).await.unwrap();
    assert_eq!(outcome.result, Ok(Done::Yes));
    outcome.revision
}

async fn read(link: &dyn Link, topic: Topic) -> Contents {
    let ask = Ask { topic, consistency: Consistency::Default, after: Revision(0), wait_ms: 0 };
    rpc::ask(link, &ask, DEADLINE).await.unwrap().contents
}

/// What a session brought, put together as an agent does.
struct Follower {
    session: Session,
    assembler: Assembler,
    topics: BTreeMap<Topic, Contents>,
    /// Resets seen, to tell a snapshot from a change.
    resets: usize,
    progress: Revision,
    history: Option<purlin_model::HistoryId>,
}

impl Follower {
    async fn open(link: &dyn Link) -> Self {
        let session = rpc::open_session(link, &OpenSession::default(), DEADLINE).await.unwrap();
        Self {
            session,
            assembler: Assembler::default(),
            topics: BTreeMap::new(),
            resets: 0,
            progress: Revision(0),
            history: None,
        }
    }

    /// As an agent does it: what it follows, and then the first beat.
    async fn follow(&mut self, topic: Topic, have: Revision) {
        self.session.sender.send(&Up::Follow(vec![(topic, have)])).await.unwrap();
        self.session.sender.send(&Up::Beat).await.unwrap();
    }

    /// Reads until the condition holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let reading = async {
            while !condition(self) {
                match self.session.receiver.next().await.unwrap().unwrap() {
                    Down::Beat | Down::Pace(_) | Down::Move => {}
                    Down::Progress(revision) => self.progress = revision,
                    Down::History(history) => self.history = Some(history),
                    Down::Delta(piece) => {
                        if let Some(delta) = self.assembler.push(piece).unwrap() {
                            self.resets += usize::from(delta.reset);
                            self.topics.entry(delta.topic.clone()).or_default().absorb(delta);
                        }
                    }
                }
            }
        };
        assert!(tokio::time::timeout(DEADLINE, reading).await.is_ok(), "{what} did not come");
    }

    fn has(&self, topic: &Topic, key: &str) -> bool {
        self.topics.get(topic).is_some_and(|contents| contents.records.contains_key(key))
    }
}
