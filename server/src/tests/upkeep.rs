//! What a server keeps going and keeps right: its parts, its certificates, times that others told.

use purlin_model::command::JoinToken;
use purlin_model::topic::MeshInfo;
use purlin_wire::tls;

use super::*;
use crate::ca::CaStore;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that is ahead of the system's.
fn ahead(by: Duration) -> crate::Clock {
    let system = system_clock();
    Arc::new(move || system().plus(by))
}

fn mesh_of(server: &ServerHandle) -> MeshInfo {
    server.service.hub.state().mesh_info().unwrap().clone()
}

#[tokio::test]
async fn a_part_that_ends_by_itself_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    // As when the socket fails: nobody can come in any more, though all else goes on.
    server.quic.close("a fault").await;
    let why = tokio::time::timeout(DEADLINE, server.dead()).await.expect("nobody notices");
    assert!(why.contains("takes connections"), "{why}");
    server.stop().await;
}

#[tokio::test]
async fn the_life_of_a_join_token_is_measured_by_the_servers_clock() {
    let dir = tempfile::tempdir().unwrap();
    let offset = Duration::from_secs(300);
    let config = Config { clock: ahead(offset), ..config(dir.path()) };
    let server = Server::start(config, true).await.unwrap();
    let link = connect(server.connector()).await;
    let behind = system_clock()();
    let token = JoinToken {
        id: "t1".into(),
        secret_sha256: vec![7; 32],
        role: NodeRole::Agent,
        expires: behind.plus(Duration::from_secs(60)),
        uses: 1,
        created: behind,
    };
    write_ok(&*link, Command::CreateJoinToken(token)).await;
    let tokens = read(&*link, Topic::JoinTokens).await;
    let Record::JoinToken(info) = &tokens.records["t1"] else { panic!("no token") };
    assert_eq!(info.expires.since(info.created), Duration::from_secs(60));
    assert!(info.created >= behind.plus(offset));
    server.stop().await;
}

#[tokio::test]
async fn an_intermediate_that_the_mesh_was_not_told_of_is_told_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (mesh, state) = (mesh_of(&server), server.service.hub.state());
    let first = server.service.issuer.intermediate().unwrap().pem();
    assert!(state.knows_intermediate(&node_name("s1"), &first));
    let now = server.now();
    server.stop().await;
    // Made and kept, and then the power went.
    let ca = CaStore::open(dir.path()).unwrap();
    let sealed = state.sealed_root_key(ca.sealing().public()).unwrap();
    let made = ca.renew_intermediate(&mesh, sealed, &node_name("s1"), now).unwrap();
    let server = start(dir.path()).await;
    assert_eq!(server.service.issuer.intermediate().unwrap().pem(), made.pem());
    assert!(server.service.hub.state().knows_intermediate(&node_name("s1"), &made.pem()));
    server.stop().await;
}

#[tokio::test]
async fn what_was_signed_under_a_clock_that_ran_ahead_is_signed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    server.stop().await;
    std::fs::remove_file(dir.path().join("ca/intermediate")).unwrap();
    std::fs::remove_file(dir.path().join("node.pem")).unwrap();
    let wrong = Config { clock: ahead(2 * DAY), ..config(dir.path()) };
    let server = Server::start(wrong, false).await.unwrap();
    assert!(server.credentials().borrow().not_before() > system_clock()());
    server.stop().await;
    let server = Server::start(config(dir.path()), false).await.unwrap();
    let now = server.now();
    for certificate in server.credentials().borrow().chain() {
        assert!(tls::validity(certificate).unwrap().not_before < now);
    }
    server.stop().await;
}
