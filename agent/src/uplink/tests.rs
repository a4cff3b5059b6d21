//! The session and calls against a scripted server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_model::command::{Command, RequestId};
use purlin_model::topic::{Record, ServerInfo, Topic};
use purlin_model::{FaultCode, NodeName, Revision};
use purlin_wire::link::{Connector, Link, LinkError};
use purlin_wire::memory::MemoryConnector;
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc::{self, Down, Up};
use purlin_wire::testing::TestCa;
use purlin_wire::tls::{self, Credentials};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Keeper, LEADER_WAIT, MOST_PAUSE, Prober, Renewal, Uplink, renew_node_certificate, tell_connector,
};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::session::Phase;
use crate::testing::Server;
use crate::view::tests::node;

const MINUTE: Duration = Duration::from_secs(60);

struct Host {
    server: Server,
    uplink: Uplink,
    mirror: Mirror,
    stop: CancellationToken,
    leave: CancellationToken,
}

fn own() -> Topic {
    Topic::Node(NodeName::new("host").unwrap())
}

impl Host {
    fn start() -> Self {
        let host = Self::without_session();
        tokio::spawn(host.keeper().run());
        host
    }

    fn without_session() -> Self {
        let clock = Clock::following_tokio(Clock::system().now());
        let server = Server::start("host", clock.clone());
        let uplink = Uplink::new(clock);
        let mirror = Mirror::new(uplink.session(), own());
        Self { server, uplink, mirror, stop: CancellationToken::new(), leave: CancellationToken::new() }
    }

    /// With a second server that can be reached.
    fn between_two() -> (Self, Server) {
        let host = Self::without_session();
        let second = Server::start("host", host.uplink.0.clock.clone());
        let connector = Arc::new(Two(host.server.connector.clone(), second.connector.clone()));
        tokio::spawn(Keeper { connector, ..host.keeper() }.run());
        host.mirror.pin(&BTreeSet::from([Topic::Servers]));
        (host, second)
    }

    fn keeper(&self) -> Keeper {
        Keeper {
            uplink: self.uplink.clone(),
            connector: self.server.connector.clone(),
            mirror: self.mirror.clone(),
            metrics: Metrics::new(Vec::new()),
            prober: Prober::default(),
            version: "0.1.0".into(),
            stop: self.stop.clone(),
            leave: self.leave.clone(),
        }
    }

    async fn phase(&self, phase: Phase) {
        self.uplink.session().wait_for(|session| session.phase == phase).await.unwrap();
    }

    fn announce(&self) -> rpc::Write {
        let request = RequestId(uuid::Uuid::new_v4());
        rpc::Write { request, uid: None, command: Command::AnnounceNode(node("host", "10.0.0.1")) }
    }
}

/// The first server, and another one.
#[derive(Debug)]
struct Two(Arc<MemoryConnector>, Arc<MemoryConnector>);

impl Connector for Two {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, LinkError>> {
        self.0.connect()
    }

    fn elsewhere<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        self.1.connect()
    }

    fn learn(&self, _: Vec<String>) {}
}

fn record(address: &str) -> Record {
    let node = NodeName::new("server").unwrap();
    Record::Server(ServerInfo {
        node,
        address: address.into(),
        leader: true,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_as_soon_as_it_is_open_is_tried_for_less_and_less_often() {
    let host = Host::start();
    let start = Instant::now();
    for _ in 0..10 {
        host.phase(Phase::Connected).await;
        host.server.connector.cut();
        host.phase(Phase::Offline).await;
    }
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    host.phase(Phase::Connected).await;
    tokio::time::sleep(MINUTE).await;
    let steady = Instant::now();
    host.server.connector.cut();
    host.phase(Phase::Offline).await;
    host.phase(Phase::Connected).await;
    assert!(steady.elapsed() < Duration::from_secs(1), "one that held is tried for at once");
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_away_comes_with_the_next_session() {
    let host = Host::start();
    host.server.set(Topic::Servers, "a", record("10.0.0.1:8300"));
    host.mirror.pin(&BTreeSet::from([Topic::Servers, Topic::Mesh]));
    let before = host.mirror.contents(&Topic::Servers).await.unwrap();
    let mesh = host.mirror.contents(&Topic::Mesh).await.unwrap();
    host.server.connector.refuse(true);
    host.server.connector.cut();
    host.phase(Phase::Offline).await;
    host.server.state().heard.clear();
    host.server.set(Topic::Servers, "b", record("10.0.0.2:8300"));
    assert_eq!(host.mirror.contents(&Topic::Servers).await.unwrap(), before, "offline it stays as it was");
    host.server.connector.refuse(false);
    let after =
        host.mirror.wait_past(&Topic::Servers, before.revision, Duration::from_secs(60)).await.unwrap();
    assert_eq!(after.records.len(), 2);
    let followed = host.server.state().followed();
    assert!(followed.contains(&(Topic::Servers, before.revision)), "{followed:?}");
    assert!(followed.contains(&(Topic::Mesh, mesh.revision)), "{followed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_carried_out_once() {
    let host = Host::start();
    host.phase(Phase::Connected).await;
    host.server.state().lose_next_answer = true;
    let outcome = host.uplink.write(host.announce()).await.unwrap();
    let state = host.server.state();
    assert_eq!((state.writes.len(), state.requests().len()), (2, 1));
    assert_eq!(outcome.revision, Revision(2), "the mesh was the first change, this write the second");
}

#[tokio::test(start_paused = true)]
async fn without_a_server_a_call_gives_up_after_seven_seconds_in_consuls_words() {
    let host = Host::start();
    host.server.connector.refuse(true);
    host.server.connector.cut();
    let start = Instant::now();
    let fault = host.uplink.write(host.announce()).await.unwrap_err();
    assert_eq!((fault.code, fault.text.as_str()), (FaultCode::Unavailable, "No cluster leader"));
    assert_eq!(start.elapsed(), LEADER_WAIT);
}

#[tokio::test(start_paused = true)]
async fn tries_never_stop_and_never_rest_longer_than_five_seconds() {
    let host = Host::start();
    host.server.connector.refuse(true);
    host.server.connector.cut();
    host.phase(Phase::Offline).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    host.server.connector.refuse(false);
    let start = Instant::now();
    host.phase(Phase::Connected).await;
    assert!(start.elapsed() <= MOST_PAUSE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_five_seconds() {
    let host = Host::start();
    host.phase(Phase::Connected).await;
    host.server.connector.delay(Duration::from_secs(3600));
    let start = Instant::now();
    host.phase(Phase::Offline).await;
    assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
    let reason = host.uplink.session().borrow().reason.clone().unwrap();
    assert!(reason.contains("no sign of life for 5 s"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_sent_away_goes_on_at_another_server_without_a_break() {
    let (host, second) = Host::between_two();
    host.server.until(|state| !state.followed().is_empty()).await;
    host.server.state().say(Down::Move);
    second.until(|state| !state.followed().is_empty()).await;
    let revision = second.set(Topic::Servers, "a", record("10.0.0.1:8300"));
    host.mirror.visible(revision, MINUTE).await;
    assert!(host.mirror.peek(&Topic::Servers).is_some_and(|known| known.records.len() == 1));
    let session = host.uplink.session().borrow().clone();
    assert_eq!((session.phase, session.sessions), (Phase::Connected, 1), "it was never offline");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_no_other_server_takes_stays_where_it_is() {
    let (host, second) = Host::between_two();
    host.server.until(|state| !state.followed().is_empty()).await;
    second.state().busy = Some(MINUTE);
    host.server.state().say(Down::Move);
    second.until(|state| state.busy.is_none()).await;
    let revision = host.server.set(Topic::Servers, "a", record("10.0.0.1:8300"));
    assert!(host.mirror.visible(revision, MINUTE).await);
    assert!(second.state().followed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_left_for_another_before_it_is_given_up() {
    let (host, second) = Host::between_two();
    host.phase(Phase::Connected).await;
    let start = Instant::now();
    host.server.connector.delay(Duration::from_secs(3600));
    second.until(|state| !state.followed().is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(host.uplink.session().borrow().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_left_alone_for_as_long_as_it_says() {
    let host = Host::without_session();
    host.server.state().busy = Some(MINUTE / 6);
    let start = Instant::now();
    tokio::spawn(host.keeper().run());
    host.phase(Phase::Connected).await;
    assert!(start.elapsed() >= MINUTE / 6, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn leaving_says_goodbye() {
    let host = Host::start();
    host.phase(Phase::Connected).await;
    host.leave.cancel();
    host.server.until(|state| state.heard.contains(&Up::Leave)).await;
}

#[tokio::test(start_paused = true)]
async fn the_connector_learns_where_servers_are() {
    let host = Host::start();
    host.mirror.pin(&BTreeSet::from([Topic::Servers]));
    tokio::spawn(tell_connector(host.mirror.clone(), host.server.connector.clone(), host.stop.clone()));
    let revision = host.server.set(Topic::Servers, "a", record("10.0.0.1:8300"));
    assert!(host.mirror.contents(&Topic::Servers).await.is_ok());
    host.mirror.visible(revision, Duration::from_secs(5)).await;
    while host.server.connector.servers().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.server.connector.servers(), ["10.0.0.1:8300"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_is_asked_for_what_is_not_followed() {
    let host = Host::start();
    host.server.set(Topic::Servers, "a", record("10.0.0.1:8300"));
    let ask = rpc::Ask {
        topic: Topic::Servers,
        consistency: rpc::Consistency::Consistent,
        after: Revision(0),
        wait_ms: 0,
    };
    let (contents, meta) = host.uplink.ask(ask).await.unwrap();
    assert_eq!(contents.records.len(), 1);
    assert!(meta.known_leader);
    assert!(host.mirror.peek(&Topic::Servers).is_none());
}

/// A host that joined long ago, with its certificate on disk.
struct Member {
    _dir: tempfile::TempDir,
    credentials: Arc<watch::Sender<Arc<Credentials>>>,
    store: Arc<NodeStore>,
}

impl Member {
    fn renewing(host: &Host, ca: &TestCa) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(NodeStore::open(dir.path()).unwrap());
        let (key, csr) = tls::new_key_and_csr().unwrap();
        let chain = host.server.sign_for(&csr, &ca.agent("host"), MINUTE * 60);
        store.save_credential(&key, &chain).unwrap();
        store.save_roots(&[ca.root_der()]).unwrap();
        let credentials = Arc::new(store.load_credentials().unwrap().unwrap());
        let credentials = Arc::new(watch::Sender::new(credentials));
        let renewal = Renewal {
            uplink: host.uplink.clone(),
            mirror: host.mirror.clone(),
            credentials: credentials.clone(),
            store: store.clone(),
            clock: host.uplink.0.clock.clone(),
            metrics: Metrics::new(Vec::new()),
            door: Arc::new(crate::join::QuicDoor),
            stop: host.stop.clone(),
        };
        tokio::spawn(renew_node_certificate(renewal));
        Self { _dir: dir, credentials, store }
    }
}

#[tokio::test(start_paused = true)]
async fn the_hosts_certificate_is_renewed_from_a_third_of_its_life() {
    let host = Host::start();
    let member = Member::renewing(&host, &host.server.ca);
    let mut renewed = member.credentials.subscribe();
    let before = renewed.borrow_and_update().clone();
    tokio::time::sleep(MINUTE * 18).await;
    assert!(!renewed.has_changed().unwrap(), "not before a third");
    tokio::time::sleep(MINUTE * 10).await;
    let after = renewed.borrow_and_update().clone();
    assert_eq!(after.identity(), before.identity());
    assert!(after.not_after() >= before.not_after().plus(MINUTE * 18));
    let kept = member.store.load_credentials().unwrap().unwrap();
    assert_eq!(kept.fingerprint(), after.fingerprint(), "it is on disk, too");
}

#[tokio::test(start_paused = true)]
async fn new_roots_of_the_mesh_are_trusted_and_kept() {
    let host = Host::start();
    host.mirror.pin(&BTreeSet::from([Topic::Mesh]));
    let member = Member::renewing(&host, &host.server.ca);
    let mut credentials = member.credentials.subscribe();
    host.mirror.contents(&Topic::Mesh).await.unwrap();
    assert!(!credentials.has_changed().unwrap());
    let next = TestCa::new("td.mesh.internal");
    let mut mesh = host.server.mesh();
    let mut root = mesh.roots[0].clone();
    root.pem = crate::testing::pem(&next.root_der());
    mesh.roots.push(root);
    host.server.set(Topic::Mesh, "mesh", Record::Mesh(mesh));
    credentials.changed().await.unwrap();
    assert_eq!(credentials.borrow().roots().len(), 2);
    assert_eq!(member.store.load_credentials().unwrap().unwrap().roots().len(), 2);
}
