//! Joining over QUIC, as another host does it.

use purlin_wire::quic::{QuicConnector, join_link};
use purlin_wire::rpc::{JoinRequest, Joined, RenewByKey, RenewNode, Signed};
use purlin_wire::tls::{self, Credentials};
use purlin_wire::token::JoinTokenText;
use tokio::sync::watch;

use super::*;

async fn token(server: &ServerHandle, role: NodeRole, uses: u32) -> JoinTokenText {
    let text = server.create_join_token(role, Duration::from_secs(60), uses).await.unwrap();
    JoinTokenText::decode(&text).unwrap()
}

fn request(token: &JoinTokenText, name: &str, id: u128, csr: Vec<u8>) -> JoinRequest {
    JoinRequest {
        token: token.id.clone(),
        secret: token.secret.expose().to_owned(),
        csr,
        id: NodeId(uuid::Uuid::from_u128(id)),
        name: node_name(name),
        role: NodeRole::Agent,
        datacenter: None,
        address: String::new(),
        mesh_port: Some(20000),
        version: "0.1.0".into(),
    }
}

async fn join(token: &JoinTokenText, request: &JoinRequest) -> Result<Joined, Fault> {
    let link = join_link(&token.servers[0], token.ca_fingerprint, DEADLINE).await.unwrap();
    rpc::call::<_, Joined>(&*link, rpc::JOIN, request, DEADLINE).await
}

/// What a host that has joined just now shows, and its key.
async fn newcomer(server: &ServerHandle, name: &str) -> (Arc<Credentials>, Vec<u8>) {
    let token = token(server, NodeRole::Agent, 1).await;
    let (key, csr) = tls::new_key_and_csr().unwrap();
    let joined = join(&token, &request(&token, name, 77, csr)).await.unwrap();
    (Arc::new(Credentials::from_der(joined.chain, &key, joined.roots).unwrap()), key)
}

async fn link_with(server: &ServerHandle, credentials: Arc<Credentials>) -> Arc<dyn Link> {
    let (_sender, credentials) = watch::channel(credentials);
    let servers = vec![server.quic_addrs()[0].to_string()];
    let connector = QuicConnector::new([127, 0, 0, 1].into(), credentials, servers, |_| {});
    connector.connect().await.unwrap()
}

/// A link of a host that has joined just now.
pub(super) async fn joined(server: &ServerHandle, name: &str) -> Arc<dyn Link> {
    let (credentials, _) = newcomer(server, name).await;
    link_with(server, credentials).await
}

#[tokio::test]
async fn a_host_joins_over_quic_and_speaks_for_itself_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = joined(&server, "h1").await;
    let contents = read(&*link, Topic::Node(node_name("h1"))).await;
    let Record::Node(host) = &contents.records["node"] else { panic!("no node") };
    assert_eq!(
        (host.address.as_str(), host.role, host.mesh_port),
        ("127.0.0.1", NodeRole::Agent, Some(20000))
    );
    assert!(contents.records.contains_key("check/serfHealth"));
    write_ok(&*link, register(node("h1", 77, NodeRole::Agent), Some(meshed("web-1", "web")))).await;
    let fault = write(&*link, register(node("s1", 0, NodeRole::External), Some(meshed("x", "x")))).await;
    assert_eq!(fault.unwrap_err().code, FaultCode::Forbidden);
    server.stop().await;
}

#[tokio::test]
async fn what_a_join_token_does_not_allow_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let agents = token(&server, NodeRole::Agent, 2).await;
    let servers = token(&server, NodeRole::Server, 2).await;
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let good = request(&agents, "h1", 1, csr.clone());
    let log_before = server.service.raft.metrics().last_log;
    let cases = [
        (JoinRequest { secret: "wrong".into(), ..good.clone() }, "not known here"),
        (
            JoinRequest { token: servers.id.clone(), secret: servers.secret.expose().into(), ..good.clone() },
            "for role server",
        ),
        (JoinRequest { role: NodeRole::Server, ..good.clone() }, "for role agent"),
        (JoinRequest { datacenter: Some(Datacenter::new("dc9").unwrap()), ..good.clone() }, "not dc9"),
        (JoinRequest { name: node_name("s1"), ..good.clone() }, "held by a live node"),
        (JoinRequest { csr: vec![1, 2, 3], ..good.clone() }, "signing request"),
    ];
    for (request, why) in cases {
        let fault = join(&agents, &request).await.unwrap_err();
        assert!(fault.text.contains(why) && !fault.text.contains('\n'), "{fault}");
    }
    assert_eq!(server.service.raft.metrics().last_log, log_before, "a refusal takes no place in the log");

    // A retry with the same key costs no use.
    for _ in 0..3 {
        join(&agents, &good).await.unwrap();
    }
    let (_, other) = tls::new_key_and_csr().unwrap();
    join(&agents, &request(&agents, "h2", 2, other)).await.unwrap();
    let (_, third) = tls::new_key_and_csr().unwrap();
    let fault = join(&agents, &request(&agents, "h3", 3, third)).await.unwrap_err();
    assert!(fault.text.contains("used up (2 uses)"), "{fault}");
    server.stop().await;
}

#[tokio::test]
async fn the_certificate_of_a_host_that_was_replaced_opens_no_door() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let old = joined(&server, "h1").await;
    let local = connect(server.connector()).await;
    write_ok(&*local, register(node("h1", 77, NodeRole::External), Some(meshed("web-1", "web")))).await;
    server
        .service
        .propose_own(Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed })
        .await
        .unwrap();
    let token = token(&server, NodeRole::Agent, 1).await;
    let (_, csr) = tls::new_key_and_csr().unwrap();
    join(&token, &request(&token, "h1", 78, csr)).await.unwrap();
    let ask = Ask { topic: Topic::Mesh, consistency: Consistency::Stale, after: Revision(0), wait_ms: 0 };
    assert!(rpc::ask(&*old, &ask, DEADLINE).await.is_err());
    let reason = tokio::time::timeout(DEADLINE, old.closed()).await.expect("the link stays open");
    assert!(reason.contains("revoked"), "{reason}");
    server.stop().await;
}

#[tokio::test]
async fn no_certificate_of_a_host_that_was_removed_opens_a_door_however_many_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (first, key) = newcomer(&server, "h1").await;
    let link = link_with(&server, first.clone()).await;
    for _ in 0..12 {
        let renew = RenewNode { csr: tls::csr_for_key(&key).unwrap() };
        rpc::call::<_, Signed>(&*link, rpc::RENEW_NODE, &renew, DEADLINE).await.unwrap();
    }
    // The first is still good as long as the host is there.
    let again = link_with(&server, first.clone()).await;
    read(&*again, Topic::Mesh).await;
    for command in [
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed },
        Command::RemoveNode { node: node_name("h1") },
    ] {
        server.service.propose_own(command).await.unwrap().result.unwrap();
    }
    let back = link_with(&server, first).await;
    let reason = tokio::time::timeout(DEADLINE, back.closed()).await.expect("the link stays open");
    assert!(reason.contains("join again"), "{reason}");
    let host = register(node("h1", 77, NodeRole::Agent), Some(meshed("web-1", "web")));
    assert!(write(&*link, host).await.is_err());
    assert!(server.service.hub.state().node(&node_name("h1")).is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_host_whose_certificate_expired_is_let_in_by_its_key_unless_it_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (credentials, key) = newcomer(&server, "h1").await;
    let root = tls::fingerprint(&credentials.roots()[0]);
    let by_key = async |name: &str, key: &[u8]| {
        let link = join_link(&server.quic_addrs()[0].to_string(), root, DEADLINE).await.unwrap();
        let ask = RenewByKey { node: node_name(name), csr: tls::csr_for_key(key).unwrap() };
        rpc::call::<_, Signed>(&*link, rpc::RENEW_BY_KEY, &ask, DEADLINE).await
    };
    let roots = || credentials.roots().iter().map(|root| root.to_vec()).collect();
    let refused = |answer: Result<Signed, Fault>| {
        let fault = answer.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden);
        assert!(fault.text.contains("purlin agent --join TOKEN"), "{fault}");
    };
    // The catalog has forgotten it meanwhile.
    for command in [
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed },
        Command::ReapNode { node: node_name("h1") },
    ] {
        server.service.propose_own(command).await.unwrap().result.unwrap();
    }
    let signed = by_key("h1", &key).await.unwrap();
    let renewed = Arc::new(Credentials::from_der(signed.chain, &key, roots()).unwrap());
    assert_eq!(renewed.identity(), credentials.identity());
    let link = link_with(&server, renewed).await;
    read(&*link, Topic::Mesh).await;
    let renew = RenewNode { csr: tls::csr_for_key(&key).unwrap() };
    rpc::call::<_, Signed>(&*link, rpc::RENEW_NODE, &renew, DEADLINE).await.unwrap();

    let (other, _) = tls::new_key_and_csr().unwrap();
    refused(by_key("h1", &other).await);
    refused(by_key("s1", &key).await);
    server.service.propose_own(Command::RemoveNode { node: node_name("h1") }).await.unwrap();
    refused(by_key("h1", &key).await);
    server.stop().await;
}

#[tokio::test]
async fn hosts_that_are_gone_leave_the_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { reconnect_timeout: Duration::from_millis(100), ..config(dir.path()) };
    let server = Server::start(config, true).await.unwrap();
    let link = joined(&server, "h1").await;
    write_ok(&*link, register(node("h1", 77, NodeRole::Agent), Some(meshed("web-1", "web")))).await;
    let local = connect(server.connector()).await;
    let ask = |topic| Ask { topic, consistency: Consistency::Default, after: Revision(0), wait_ms: 0 };
    server
        .service
        .propose_own(Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Left })
        .await
        .unwrap();
    let gone = async {
        for topic in [Topic::Service(service_key("web")), Topic::Node(node_name("h1"))] {
            while !rpc::ask(&*local, &ask(topic.clone()), DEADLINE).await.unwrap().contents.records.is_empty()
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the host stays in the catalog");
    assert!(server.service.hub.state().node(&node_name("s1")).is_some(), "this server stays");
    server.stop().await;
}
