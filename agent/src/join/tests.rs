//! Joining against scripted servers: what is believed, what is said when it fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, Fault, NodeName};
use purlin_wire::link::{Link, LinkError, Peer};
use purlin_wire::memory;
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc::{self, JoinRequest, Joined};
use purlin_wire::testing::TestCa;
use purlin_wire::token::{JoinTokenText, Secret};

use super::{Door, JoinError, Joiner, join};

#[derive(Clone)]
enum Server {
    Nobody,
    Stranger,
    Refuses(Fault),
    /// Busy so many times, then lets in.
    Busy(Arc<Mutex<u32>>),
    LetsIn,
    /// Signs for somebody else.
    Confused,
}

struct Doors {
    ca: Arc<TestCa>,
    servers: BTreeMap<String, Server>,
    asked: Arc<Mutex<Vec<JoinRequest>>>,
}

impl Door for Doors {
    fn open<'a>(
        &'a self,
        server: &'a str,
        fingerprint: [u8; 32],
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        assert_eq!(fingerprint, self.ca.fingerprint());
        let behaviour = self.servers[server].clone();
        let (address, ca, asked) = (server.to_owned(), self.ca.clone(), self.asked.clone());
        Box::pin(async move {
            match behaviour {
                Server::Nobody => Err(LinkError::Unreachable { address, why: "no answer".into() }),
                Server::Stranger => {
                    Err(LinkError::Untrusted { address, why: "its certificate is from another ca".into() })
                }
                behaviour => {
                    let identity = ca.server("server");
                    let member = Peer::Member { identity, certificate: [0; 32], issuer: None };
                    let (near, far) = memory::pair(Peer::Stranger, member);
                    tokio::spawn(serve(far, behaviour, ca, asked));
                    Ok(near)
                }
            }
        })
    }
}

async fn serve(link: Arc<dyn Link>, behaviour: Server, ca: Arc<TestCa>, asked: Arc<Mutex<Vec<JoinRequest>>>) {
    let mut stream = link.accept().await.unwrap();
    let call = rpc::read_call_of_stranger(&mut stream).await.unwrap();
    assert_eq!(call.method, rpc::JOIN);
    let request: JoinRequest = call.decode().unwrap();
    let answer = match behaviour {
        Server::Refuses(fault) => Err(fault),
        Server::Busy(left) if *left.lock().unwrap() > 0 => {
            *left.lock().unwrap() -= 1;
            Err(Fault::unavailable("No cluster leader"))
        }
        Server::Confused => Ok(joined(&ca, &request, "somebody-else")),
        _ => Ok(joined(&ca, &request, request.name.as_str())),
    };
    asked.lock().unwrap().push(request);
    rpc::reply(&mut stream, &answer).await.unwrap();
    link.closed().await;
}

fn joined(ca: &TestCa, request: &JoinRequest, name: &str) -> Joined {
    Joined {
        trust_domain: ca.trust_domain.clone(),
        datacenter: Datacenter::default(),
        chain: ca.sign(&request.csr, &ca.agent(name)),
        roots: vec![ca.root_der()],
        servers: vec!["10.0.0.1:8300".into()],
    }
}

struct Scene {
    dir: tempfile::TempDir,
    doors: Doors,
    token: JoinTokenText,
}

impl Scene {
    fn new(servers: &[Server]) -> Self {
        let ca = Arc::new(TestCa::new("td.mesh.internal"));
        let names: Vec<String> = (1..=servers.len()).map(|n| format!("10.0.0.{n}:8300")).collect();
        let token = JoinTokenText {
            servers: names.clone(),
            ca_fingerprint: ca.fingerprint(),
            trust_domain: ca.trust_domain.clone(),
            role: NodeRole::Agent,
            id: "t1".into(),
            secret: Secret::generate().unwrap(),
        };
        let servers = names.into_iter().zip(servers.iter().cloned()).collect();
        let doors = Doors { ca, servers, asked: Arc::default() };
        Self { dir: tempfile::tempdir().unwrap(), doors, token }
    }

    async fn join(&self) -> Result<purlin_wire::node_store::NodeFile, JoinError> {
        let store = NodeStore::open(self.dir.path()).unwrap();
        join(&store, &self.token.encode().unwrap(), &joiner(), &self.doors).await
    }
}

fn joiner() -> Joiner {
    Joiner {
        name: NodeName::new("host").unwrap(),
        role: NodeRole::Agent,
        datacenter: None,
        address: "10.0.0.9".into(),
        mesh_port: Some(20_000),
        version: "0.1.0".into(),
        join_timeout: Duration::from_secs(30),
    }
}

#[tokio::test(start_paused = true)]
async fn one_server_that_answers_is_enough_and_all_is_kept() {
    let scene = Scene::new(&[Server::Nobody, Server::Stranger, Server::LetsIn]);
    let node = scene.join().await.unwrap();
    assert_eq!(node.servers, ["10.0.0.1:8300"]);
    let store = NodeStore::open(scene.dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), Some(node));
    let credentials = store.load_credentials().unwrap().unwrap();
    assert_eq!(*credentials.identity(), scene.doors.ca.agent("host"));
    let asked = scene.doors.asked.lock().unwrap();
    assert_eq!(asked[0].secret, scene.token.secret.expose());
}

#[tokio::test(start_paused = true)]
async fn a_retry_asks_with_the_same_id_and_key() {
    let scene = Scene::new(&[Server::Busy(Arc::new(Mutex::new(2)))]);
    scene.join().await.unwrap();
    let asked = scene.doors.asked.lock().unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|request| request.id == asked[0].id && request.csr == asked[0].csr));
}

#[tokio::test(start_paused = true)]
async fn each_cause_has_a_line_of_its_own() {
    let error = Scene::new(&[Server::Nobody]).join().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "no server of the join token answered within 30 s: cannot reach 10.0.0.1:8300: no answer"
    );
    let error = Scene::new(&[Server::Stranger]).join().await.unwrap_err();
    assert!(matches!(error, JoinError::OtherCa(_)), "{error}");
    assert!(error.to_string().contains("another ca"), "{error}");
    let expired =
        Fault::forbidden("the join token expired 5 m ago: make another with purlin join-token create");
    let error = Scene::new(&[Server::Refuses(expired)]).join().await.unwrap_err().to_string();
    assert!(error.starts_with("the server does not let this host in: the join token expired"), "{error}");
    let error = Scene::new(&[Server::Confused]).join().await.unwrap_err();
    assert!(matches!(error, JoinError::BadAnswer(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_role_or_a_broken_token_is_refused_before_anything_is_asked() {
    let mut scene = Scene::new(&[Server::LetsIn]);
    scene.token.role = NodeRole::Server;
    let error = scene.join().await.unwrap_err();
    assert!(error.is_usage());
    assert!(error.to_string().contains("--role agent"), "{error}");
    let store = NodeStore::open(scene.dir.path()).unwrap();
    let mut text = scene.token.encode().unwrap();
    text.truncate(text.len() - 5);
    let error = join(&store, &text, &joiner(), &scene.doors).await.unwrap_err();
    assert!(error.is_usage());
    assert!(error.to_string().contains("cut short"), "{error}");
    assert!(scene.doors.asked.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_mesh_is_not_believed() {
    let mut scene = Scene::new(&[Server::LetsIn]);
    scene.token.trust_domain.0 = "other.mesh.internal".into();
    let error = scene.join().await.unwrap_err();
    assert!(matches!(error, JoinError::BadAnswer(_)), "{error}");
    let store = NodeStore::open(scene.dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), None);
}
