use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::server::STRANGERS_MAX;
use super::{MEMBER_STREAMS, QuicConnector, QuicServer, join_link};
use crate::link::{Connector, Link, LinkError, Peer};
use crate::testing::TestCa;
use crate::tls::Credentials;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a port of the system's choice, and its credentials to be swapped.
struct Running {
    server: Arc<QuicServer>,
    address: String,
    credentials: watch::Sender<Arc<Credentials>>,
}

fn serve(ca: &TestCa, own: Credentials) -> Running {
    let (credentials, seen) = watch::channel(Arc::new(own));
    let any_port = SocketAddr::new(LOCALHOST, 0);
    let server = QuicServer::bind(&[any_port], seen, ca.trust_domain.clone()).unwrap();
    let address = server.local_addrs()[0].to_string();
    Running { server: Arc::new(server), address, credentials }
}

fn connector(own: Credentials, servers: &[&str]) -> QuicConnector {
    let (_, seen) = watch::channel(Arc::new(own));
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    QuicConnector::new(LOCALHOST, seen, servers, |_| {})
}

async fn connect(own: Credentials, address: &str) -> Result<Arc<dyn Link>, LinkError> {
    connector(own, &[address]).connect().await
}

/// Both ends of a connection of an agent to a server.
async fn meet(running: &Running, agent: Credentials) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (near, far) = tokio::join!(connect(agent, &running.address), running.server.accept());
    (near.unwrap(), far.unwrap())
}

async fn echo(near: &dyn Link, far: &dyn Link) -> Vec<u8> {
    let ask = async {
        let mut stream = near.open().await.unwrap();
        stream.write.write_all(b"hello").await.unwrap();
        stream.write.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let reply = async {
        let mut stream = far.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.read.read_to_end(&mut heard).await.unwrap();
        stream.write.write_all(&heard).await.unwrap();
        stream.write.shutdown().await.unwrap();
    };
    tokio::join!(ask, reply).0
}

fn untrusted(result: Result<Arc<dyn Link>, LinkError>, words: &str) {
    match result {
        Err(LinkError::Untrusted { why, .. }) if why.contains(words) => {}
        other => panic!("expected distrust with {words:?}, got {other:?}"),
    }
}

#[tokio::test]
async fn members_talk_and_know_each_other() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let agent = ca.issue(&ca.agent("host-1"));
    let own = agent.fingerprint();
    let (near, far) = meet(&running, agent).await;
    let Peer::Member { identity, certificate, .. } = far.peer() else { panic!("a stranger came") };
    assert_eq!((identity, certificate), (&ca.agent("host-1"), &own));
    assert!(matches!(near.peer(), Peer::Member { identity, .. } if *identity == ca.server("s")));
    assert_eq!(near.remote(), running.address);
    assert_eq!(echo(&*near, &*far).await, b"hello");
    assert_eq!(echo(&*far, &*near).await, b"hello");
}

#[tokio::test]
async fn a_socket_that_failed_is_made_anew() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let connector = connector(ca.issue(&ca.agent("a")), &[&running.address]);
    connector.connect().await.unwrap();
    connector.break_sockets();
    assert!(connector.connect().await.is_err());
    connector.connect().await.unwrap();
}

#[tokio::test]
async fn a_dropped_stream_cancels_what_goes_on_at_the_other_end() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let (near, far) = meet(&running, ca.issue(&ca.agent("a"))).await;
    let mut asked = near.open().await.unwrap();
    asked.write.write_all(b"?").await.unwrap();
    let mut answering = far.accept().await.unwrap();
    answering.read.read_exact(&mut [0; 1]).await.unwrap();
    drop(asked);
    crate::rpc::cancelled(&mut answering.read).await;
    while answering.write.write_all(&[0; 1024]).await.is_ok() {}
}

#[tokio::test]
async fn strangers_and_others_are_refused() {
    let (ca, other) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let address = running.address.as_str();
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();

    // Knows our root, but has its own certificate from elsewhere.
    let (key, csr) = crate::tls::new_key_and_csr().unwrap();
    let chain = other.sign(&csr, &other.agent("a"));
    let forged = Credentials::from_der(chain, &key, vec![ca.root_der()]).unwrap();
    untrusted(connect(forged, address).await, "another ca");
    untrusted(connect(other.issue(&other.agent("a")), address).await, "another ca");

    let uri = ca.agent("a").to_string();
    let expired = ca.issue_within(&[&uri], now - 2 * hour, now - hour).unwrap();
    untrusted(connect(expired, address).await, "expired");
    untrusted(connect(ca.issue(&ca.service("web")), address).await, "does not accept our identity");
    assert!(running.server.accept().now_or_never().is_none(), "one was taken");
}

#[tokio::test]
async fn a_server_must_be_one_of_ours() {
    let ca = TestCa::new("a.mesh.internal");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let agent = serve(&ca, ca.issue(&ca.agent("not-a-server")));
    untrusted(connect(ca.issue(&ca.agent("a")), &agent.address).await, "not a server of a.mesh.internal");
    let uri = ca.server("s").to_string();
    let expired = serve(&ca, ca.issue_within(&[&uri], now - 2 * hour, now - hour).unwrap());
    untrusted(connect(ca.issue(&ca.agent("a")), &expired.address).await, "expired");
}

#[tokio::test]
async fn one_who_joins_is_a_stranger_and_must_know_the_ca() {
    let (ca, other) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let join = join_link(&running.address, ca.fingerprint(), PATIENCE);
    let (near, far) = tokio::join!(join, running.server.accept());
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(*far.peer(), Peer::Stranger);
    assert!(matches!(near.peer(), Peer::Member { identity, .. } if *identity == ca.server("s")));
    assert_eq!(echo(&*near, &*far).await, b"hello");
    untrusted(join_link(&running.address, other.fingerprint(), PATIENCE).await, "another ca");
}

#[tokio::test]
async fn those_who_join_are_few_and_their_places_come_free() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let mut guests = Vec::new();
    for _ in 0..STRANGERS_MAX {
        let join = join_link(&running.address, ca.fingerprint(), PATIENCE);
        let (near, far) = tokio::join!(join, running.server.accept());
        guests.push((near.unwrap(), far.unwrap()));
    }
    untrusted(join_link(&running.address, ca.fingerprint(), PATIENCE).await, "too many hosts join");
    // Members are not held up by them.
    meet(&running, ca.issue(&ca.agent("a"))).await;
    let (near, far) = guests.remove(0);
    drop(far);
    assert_eq!(near.closed().await, "the other end closed it");
    join_link(&running.address, ca.fingerprint(), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn open_streams_are_bounded() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let (near, far) = meet(&running, ca.issue(&ca.agent("a"))).await;
    let mut open = Vec::new();
    for _ in 0..MEMBER_STREAMS {
        open.push(near.open().await.unwrap());
    }
    let mut one_more = near.open();
    assert!((&mut one_more).now_or_never().is_none());
    open.clear();
    let take_and_drop = async {
        loop {
            far.accept().await.unwrap();
        }
    };
    tokio::select! {
        opened = one_more => drop(opened.unwrap()),
        () = take_and_drop => {}
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_not_untrusted() {
    let ca = TestCa::new("a.mesh.internal");
    // Bound, but nobody reads: as silent as a host that drops packets.
    let silent = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = join_link(&address, ca.fingerprint(), Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(&error, LinkError::Unreachable { why, .. } if why.contains("no answer")), "{error}");
    let error = join_link("no-such-host.invalid:1", ca.fingerprint(), PATIENCE).await.unwrap_err();
    assert!(matches!(&error, LinkError::Unreachable { why, .. } if why.contains("no address")), "{error}");
    let error = connector(ca.issue(&ca.agent("a")), &[]).connect().await.unwrap_err();
    assert!(
        matches!(&error, LinkError::Unreachable { why, .. } if why.contains("no server is known")),
        "{error}"
    );
}

#[tokio::test]
async fn new_credentials_hold_for_new_connections_and_old_ones_stay() {
    let (old, new) = (TestCa::new("a.mesh.internal"), TestCa::new("a.mesh.internal"));
    let running = serve(&old, old.issue(&old.server("s")));
    let (near, far) = meet(&running, old.issue(&old.agent("a"))).await;
    running.credentials.send(Arc::new(new.issue(&new.server("s")))).unwrap();
    let (newer, newer_far) = loop {
        // The swap is another task's work; an attempt before it is refused.
        match connect(new.issue(&new.agent("b")), &running.address).await {
            Ok(link) => break (link, running.server.accept().await.unwrap()),
            Err(LinkError::Untrusted { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(echo(&*near, &*far).await, b"hello");
    assert_eq!(echo(&*newer, &*newer_far).await, b"hello");
    untrusted(connect(old.issue(&old.agent("a")), &running.address).await, "another ca");
}

#[tokio::test]
async fn closing_tells_the_other_end_why() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let (near, _far) = meet(&running, ca.issue(&ca.agent("a"))).await;
    running.server.close("upgrade").await;
    assert_eq!(near.closed().await, "the other end closed it: upgrade");
    assert!(matches!(near.open().await, Err(LinkError::Closed(_))));
    assert!(running.server.accept().await.is_none());
}

#[tokio::test]
async fn a_silent_server_does_not_hold_up_the_next_and_the_good_one_comes_first() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let silent = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let connector = connector(ca.issue(&ca.agent("a")), &[&silent, &running.address]);
    let link = connector.connect().await.unwrap();
    assert_eq!(link.remote(), running.address);
    assert_eq!(connector.known_servers(), [running.address.clone(), silent]);
}

#[tokio::test]
async fn what_is_learned_is_told_once_and_replaces_what_was_known() {
    let ca = TestCa::new("a.mesh.internal");
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let (_, seen) = watch::channel(Arc::new(ca.issue(&ca.agent("a"))));
    let known = vec!["b:1".into(), "b:1".into(), " ".into()];
    let connector = QuicConnector::new(LOCALHOST, seen, known, move |servers| {
        telling.lock().unwrap().push(servers.to_vec())
    });
    assert_eq!(connector.known_servers(), ["b:1"]);
    connector.learn(vec!["a:1".into(), "b:1".into()]);
    connector.learn(vec!["b:1".into(), "a:1".into()]);
    connector.learn(vec![]);
    assert_eq!(connector.known_servers(), ["b:1", "a:1"]);
    assert_eq!(*told.lock().unwrap(), [["b:1", "a:1"]]);
    connector.learn((0..1000).map(|i| format!("h{i}:1")).collect());
    assert_eq!(connector.known_servers().len(), super::client::SERVERS_MAX);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let (_, seen) = watch::channel(Arc::new(ca.issue(&ca.server("s"))));
    let taken: SocketAddr = running.address.parse().unwrap();
    let error = QuicServer::bind(&[taken], seen, ca.trust_domain.clone()).unwrap_err().to_string();
    assert!(error.contains(&running.address), "{error}");
}

#[tokio::test]
async fn a_link_that_both_ends_dropped_is_gone() {
    let ca = TestCa::new("a.mesh.internal");
    let running = serve(&ca, ca.issue(&ca.server("s")));
    let (near, far) = meet(&running, ca.issue(&ca.agent("a"))).await;
    near.close("bye");
    assert_eq!(far.closed().await, "the other end closed it: bye");
}
