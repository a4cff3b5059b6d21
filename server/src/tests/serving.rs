//! Founding, writing, asking, signing, and coming back from the disk.

use purlin_model::command::{Deregister, DeregisterWhat};
use purlin_model::identity::Identity;
use purlin_wire::link::Peer;
use purlin_wire::memory::MemoryConnector;
use purlin_wire::rpc::{RenewNode, SignLeaf, Signed};
use purlin_wire::tls;

use super::*;

async fn sign(link: &dyn Link, service: &str) -> Result<Signed, Fault> {
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let ask = SignLeaf { service: service_key(service), csr };
    rpc::call::<_, Signed>(link, rpc::SIGN_LEAF, &ask, DEADLINE).await
}

fn own(name: &str) -> Node {
    node(name, 0, NodeRole::External)
}

#[tokio::test]
async fn a_founded_mesh_serves_and_is_all_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    assert!(!server.already_bootstrapped());
    let link = connect(server.connector()).await;
    let Some(Record::Mesh(mesh)) = read(&*link, Topic::Mesh).await.records.remove("mesh") else {
        panic!("no mesh")
    };
    assert!(mesh.trust_domain.0.ends_with(".mesh.internal"));
    assert_eq!(mesh.leaf_ttl_ms, 3_600_000);
    let address = server.quic_addrs()[0].to_string();
    let servers = read(&*link, Topic::Servers).await;
    assert!(matches!(&servers.records["s1"], Record::Server(s) if s.leader && s.address == address));

    write_ok(&*link, register(own("s1"), Some(meshed("web-1", "web")))).await;
    let chain = sign(&*link, "web").await.unwrap().chain;
    let identity = Identity::service(mesh.trust_domain.clone(), Datacenter::default(), &service_key("web"));
    assert_eq!(tls::spiffe_identity(&chain[0]).unwrap(), identity);
    let fault = sign(&*link, "api").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    assert!(fault.text.contains("no instance of it in the mesh"), "{fault}");

    let before = read(&*link, Topic::Service(service_key("web"))).await;
    let (fingerprint, signer) = (server.credentials().borrow().fingerprint(), chain[1].clone());
    server.stop().await;

    let mut config = config(dir.path());
    config.leaf_ttl = Some(Duration::from_secs(60));
    let server = Server::start(config, true).await.unwrap();
    assert!(server.already_bootstrapped());
    let link = connect(server.connector()).await;
    assert_eq!(read(&*link, Topic::Service(service_key("web"))).await, before);
    assert_eq!(server.credentials().borrow().fingerprint(), fingerprint);
    assert_eq!(sign(&*link, "web").await.unwrap().chain[1], signer);
    let Some(Record::Mesh(again)) = read(&*link, Topic::Mesh).await.records.remove("mesh") else {
        panic!("no mesh")
    };
    assert_eq!((again.trust_domain, again.roots, again.leaf_ttl_ms), (mesh.trust_domain, mesh.roots, 60_000));
    server.stop().await;
}

#[tokio::test]
async fn a_directory_that_does_not_fit_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = refused(config(dir.path()), false).await;
    assert!(text.contains("--bootstrap") && text.contains("--join"), "{text}");
    let bad = Config { domain: "a b".into(), ..config(dir.path()) };
    assert!(refused(bad, true).await.contains("DNS name"));
    start(dir.path()).await.stop().await;
    let other = Config { node: node_name("s2"), ..config(dir.path()) };
    assert!(refused(other, true).await.contains("belongs to node s1, not s2"));
    let other = Config { datacenter: Datacenter::new("dc2").unwrap(), ..config(dir.path()) };
    assert!(refused(other, false).await.contains("is datacenter dc1, not dc2"));
    let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = Config { bind: vec![busy.local_addr().unwrap()], ..config(dir.path()) };
    assert!(refused(taken, false).await.contains("cannot listen"));
    let server = Server::start(config(dir.path()), false).await.unwrap();
    assert!(server.already_bootstrapped());
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_request_acts_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let request = RequestId(uuid::Uuid::new_v4());
    let put = Write { request, uid: Some(7), command: register(own("s1"), Some(meshed("web-1", "web"))) };
    let call = || rpc::call::<_, Outcome>(&*link, rpc::WRITE, &put, DEADLINE);
    let first = call().await.unwrap();
    let gone = Deregister {
        node: node_name("s1"),
        what: DeregisterWhat::Instance(InstanceId::new("web-1").unwrap()),
    };
    write(&*link, Command::Deregister(gone)).await.unwrap();
    assert_eq!(call().await.unwrap(), first);
    assert!(read(&*link, Topic::Services).await.records.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_blocking_query_wakes_for_its_topic_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let at = write_ok(&*link, register(own("s1"), Some(meshed("web-1", "web")))).await;
    let ask = |service: &str, after, wait_ms| Ask {
        topic: Topic::Service(service_key(service)),
        consistency: Consistency::Consistent,
        after,
        wait_ms,
    };
    // Older than what is there: at once.
    let answer = rpc::ask(&*link, &ask("web", Revision(at.0 - 1), 60_000), DEADLINE).await.unwrap();
    assert!(answer.known_leader);
    assert_eq!(answer.contents.revision, at);
    let question = ask("web", at, 60_000);
    let waiting = rpc::ask(&*link, &question, DEADLINE);
    let writes = async {
        write_ok(&*link, register(own("s1"), Some(meshed("api-1", "api")))).await;
        write_ok(&*link, register(own("s1"), Some(meshed("web-2", "web")))).await
    };
    let (answer, at) = tokio::join!(waiting, writes);
    let contents = answer.unwrap().contents;
    assert_eq!((contents.revision, contents.records.len()), (at, 2));
    // Nothing happens: the same again when the time is over.
    let answer = rpc::ask(&*link, &ask("web", at, 50), DEADLINE).await.unwrap();
    assert_eq!(answer.contents, contents);
    server.stop().await;
}

/// A link as an agent of that name has it, with a certificate that the mesh knows of.
async fn agent_link(server: &ServerHandle, name: &str, id: u128) -> Arc<dyn Link> {
    let (sha256, not_after) = (vec![9; 32], server.now().plus(DEADLINE));
    for command in [
        Command::AnnounceNode(node(name, id, NodeRole::Agent)),
        Command::RecordCertificate { node: node_name(name), sha256, not_after },
    ] {
        server.service.propose_own(command).await.unwrap().result.unwrap();
    }
    let credentials = server.credentials().borrow().clone();
    let mut identity = credentials.identity().clone();
    let datacenter = Datacenter::default();
    identity.subject = purlin_model::identity::Subject::Agent { datacenter, node: node_name(name) };
    link_as(server, Peer::Member { identity, certificate: [9; 32], issuer: None }).await
}

pub(super) async fn link_as(server: &ServerHandle, peer: Peer) -> Arc<dyn Link> {
    let (connector, mut links) = MemoryConnector::new(peer.clone(), peer);
    let (near, far) = tokio::join!(connector.connect(), links.recv());
    tokio::spawn(rpc_serve(server, far.unwrap()));
    near.unwrap()
}

fn rpc_serve(server: &ServerHandle, link: Arc<dyn Link>) -> impl Future<Output = ()> + use<> {
    crate::rpc::serve(server.service.clone(), link, crate::rpc::Whence::Network)
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_host_and_for_external_nodes_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = agent_link(&server, "h1", 1).await;
    let h1 = node("h1", 1, NodeRole::Agent);
    write_ok(&*link, Command::AnnounceNode(h1.clone())).await;
    write_ok(&*link, register(h1, Some(meshed("web-1", "web")))).await;
    write_ok(&*link, register(node("printer", 0, NodeRole::External), None)).await;
    let gone = |node: &str, id: &str| {
        let what = DeregisterWhat::Instance(InstanceId::new(id).unwrap());
        Command::Deregister(Deregister { node: node_name(node), what })
    };
    let local = connect(server.connector()).await;
    write_ok(&*local, register(own("s1"), Some(meshed("db", "db")))).await;
    for forbidden in [
        register(own("s1"), Some(meshed("evil", "db"))),
        register(node("s1", 1, NodeRole::Server), None),
        register(node("h1", 1, NodeRole::Server), None),
        gone("s1", "db"),
        Command::AnnounceNode(node("h2", 2, NodeRole::Agent)),
        Command::SetNodeStatus { node: node_name("s1"), status: NodeStatus::Left },
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed },
        Command::UpdateMesh { default_intention: Action::Allow, leaf_ttl_ms: 60_000 },
    ] {
        let name = forbidden.name();
        let fault = write(&*link, forbidden).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden, "{name}: {fault}");
    }
    assert!(sign(&*link, "web").await.is_ok());
    assert_eq!(sign(&*link, "db").await.unwrap_err().code, FaultCode::Forbidden);
    write(&*local, gone("h1", "web-1")).await.unwrap();
    assert_eq!(sign(&*link, "web").await.unwrap_err().code, FaultCode::Forbidden);

    let (_, csr) = tls::new_key_and_csr().unwrap();
    let renew = RenewNode { csr };
    let chain = rpc::call::<_, Signed>(&*link, rpc::RENEW_NODE, &renew, DEADLINE).await.unwrap().chain;
    assert!(tls::spiffe_identity(&chain[0]).unwrap().to_string().ends_with("/agent/client/dc/dc1/id/h1"));
    server.stop().await;
}

#[tokio::test]
async fn strangers_services_and_other_meshes_get_no_further_than_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let stranger = link_as(&server, Peer::Stranger).await;
    let fault = write(&*stranger, register(own("x"), None)).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let ask = Ask { topic: Topic::Mesh, consistency: Consistency::Stale, after: Revision(0), wait_ms: 0 };
    assert_eq!(rpc::ask(&*stranger, &ask, DEADLINE).await.unwrap_err().code, FaultCode::Forbidden);
    let opened = rpc::open_session(&*stranger, &OpenSession::default(), DEADLINE).await;
    assert_eq!(opened.unwrap_err().code, FaultCode::Forbidden);
    let unknown = rpc::call::<_, ()>(&*stranger, "nonsense", &(), DEADLINE).await;
    assert_eq!(unknown.unwrap_err().code, FaultCode::NotFound);

    let identity = server.credentials().borrow().identity().clone();
    let domain = identity.trust_domain.clone();
    let service = Identity::service(domain, Datacenter::default(), &service_key("web"));
    let foreign = Identity {
        trust_domain: purlin_model::identity::TrustDomain("other.mesh.internal".into()),
        ..identity
    };
    for identity in [service, foreign] {
        let link = link_as(&server, Peer::Member { identity, certificate: [0; 32], issuer: None }).await;
        assert!(tokio::time::timeout(DEADLINE, link.closed()).await.is_ok(), "the link stays open");
    }
    server.stop().await;
}

/// A server that came and was removed: the fingerprint of its authority.
async fn removed_server(server: &ServerHandle) -> [u8; 32] {
    use rustls_pki_types::pem::PemObject;
    let (now, domain) = (server.now(), server.credentials().borrow().identity().trust_domain.clone());
    let root = crate::ca::NewRoot::create(&domain, now).unwrap();
    let (name, year) = (node_name("s2"), Duration::from_secs(365 * 24 * 3600));
    let pem = &root.certificate.pem;
    let made = crate::ca::Intermediate::create(pem, &root.key, &domain, &name, now, year).unwrap();
    let certificate_pem = made.pem();
    let der = rustls_pki_types::CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    for command in [
        Command::AnnounceNode(node("s2", 2, NodeRole::Server)),
        Command::PutIntermediate { node: name.clone(), certificate_pem: certificate_pem.clone() },
        Command::SetNodeStatus { node: name.clone(), status: NodeStatus::Failed },
        Command::RemoveNode { node: name },
    ] {
        server.service.propose_own(command).await.unwrap().result.unwrap();
    }
    tls::fingerprint(&der)
}

#[tokio::test]
async fn who_is_no_server_speaks_to_none_as_one_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let agent = agent_link(&server, "h1", 1).await;
    let methods = ["raft-vote", "raft-append", "raft-snapshot", rpc::PROPOSE, rpc::CERTIFY, rpc::ADMIT];
    for method in methods {
        let fault = rpc::call::<_, ()>(&*agent, method, &(), DEADLINE).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden, "{method}: {fault}");
    }
    // Certificates of a server that nobody wrote down, as one makes them that was removed with its authority.
    let gone = removed_server(&server).await;
    let identity = server.credentials().borrow().identity().clone();
    for issuer in [None, Some(gone)] {
        let posing = Peer::Member { identity: identity.clone(), certificate: [8; 32], issuer };
        let link = link_as(&server, posing).await;
        assert!(tokio::time::timeout(DEADLINE, link.closed()).await.is_ok(), "the link stays open");
    }
    // Bytes that are no call, and more of them than a call may have.
    for bytes in [&[0, 0, 0, 3, 1, 9, 9, 9][..], &[255, 255, 255, 255, 1, 0, 0, 0][..]] {
        let mut stream = agent.open().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream.write, bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream.read, &mut answer).await;
        assert!(answer.is_empty());
    }
    let text = server.metrics_text();
    let wanted = [("role", methods.len()), ("certificate", 2), ("malformed", 1), ("oversized", 1)];
    for (reason, count) in wanted {
        let line = format!("purlin_server_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn metrics_show_the_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    write_ok(&*link, register(own("s1"), Some(meshed("web-1", "web")))).await;
    assert!(sign(&*link, "nobody").await.is_err());
    let text = server.metrics_text();
    for line in [
        "purlin_server_rpc_calls_total{method=\"write\",result=\"ok\"} 1",
        "purlin_server_rpc_calls_total{method=\"sign-leaf\",result=\"forbidden\"} 1",
        "purlin_server_raft_leading 1",
        "purlin_server_state_services 1",
        "purlin_server_sessions 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    server.stop().await;
}
