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

/// A clock that a test sets forward.
fn settable() -> (crate::Clock, Arc<std::sync::atomic::AtomicU64>) {
    let by = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (system, ahead) = (system_clock(), by.clone());
    let clock = move || system().plus(Duration::from_secs(ahead.load(std::sync::atomic::Ordering::SeqCst)));
    (Arc::new(clock), by)
}

async fn until_state(server: &ServerHandle, what: &str, is: impl Fn(&crate::state::State) -> bool) {
    let mut applied = server.service.raft.applied();
    let reached = applied.wait_for(|applied| is(&applied.state));
    assert!(tokio::time::timeout(DEADLINE, reached).await.is_ok(), "{what} did not come");
}

/// This server's host as the catalog has it.
fn host(server: &ServerHandle) -> Node {
    server.service.hub.state().node(&node_name("s1")).unwrap().clone()
}

fn active_root(server: &ServerHandle) -> String {
    mesh_of(server).active_root().unwrap().id.clone()
}

#[tokio::test]
async fn where_nobody_can_open_the_root_key_the_mesh_starts_a_new_root_and_trusts_both() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.stop().await;
    std::fs::remove_file(dir.path().join("ca/sealing")).unwrap();
    std::fs::remove_file(dir.path().join("ca/intermediate")).unwrap();
    let (clock, ahead) = settable();
    let server = Server::start(Config { clock, ..config(dir.path()) }, false).await.unwrap();
    let old = active_root(&server);
    assert!(!server.service.issuer.can_sign());
    until_state(&server, "a new root", |state| state.coming_root().is_some()).await;
    assert_eq!((active_root(&server), mesh_of(&server).roots.len()), (old.clone(), 2), "trusted first");
    assert!(!server.service.issuer.can_sign(), "and it signs later");

    ahead.store(16, std::sync::atomic::Ordering::SeqCst);
    until_state(&server, "the new root in force", |state| {
        state.mesh_info().and_then(MeshInfo::active_root).is_some_and(|root| root.id != old)
    })
    .await;
    let link = connect(server.connector()).await;
    write_ok(&*link, register(host(&server), Some(meshed("web-1", "web")))).await;
    let mesh = mesh_of(&server);
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let ask = rpc::SignLeaf { service: service_key("web"), csr };
    // The keeper takes up the new root as soon as it hears of it.
    let signed = loop {
        match rpc::call::<_, rpc::Signed>(&*link, rpc::SIGN_LEAF, &ask, DEADLINE).await {
            Err(fault) if fault.may_retry() => tokio::task::yield_now().await,
            signed => break signed.unwrap(),
        }
    };
    assert!(tls::is_below(&signed.chain, &mesh.active_root().unwrap().pem));
    assert_eq!(mesh.roots.len(), 2, "what the old root signed is still trusted");
    server.stop().await;
    let server = start(dir.path()).await;
    assert!(server.service.issuer.can_sign(), "its key is sealed to this server now");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_lost_all_its_keys_starts_under_a_new_root_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let old = active_root(&server);
    server.stop().await;
    for file in ["ca/sealing", "ca/intermediate", "node.pem"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let server = start(dir.path()).await;
    assert_ne!(active_root(&server), old);
    let credentials = server.credentials().borrow().clone();
    assert!(tls::is_below(credentials.chain(), &mesh_of(&server).active_root().unwrap().pem));
    server.stop().await;
}

#[tokio::test]
async fn a_servers_own_certificates_are_written_down_like_those_of_any_host() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let own = server.credentials().borrow().fingerprint();
    until_state(&server, "its certificate", |state| state.knows_certificate(&node_name("s1"), &own)).await;
    server.stop().await;
}

/// The root's private key is in the log and in snapshots as ciphertext only.
#[tokio::test]
async fn no_bytes_of_a_root_key_are_on_the_disk_in_the_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (state, ca) = (server.service.hub.state(), server.service.ca.clone());
    let sealed = state.sealed_root_key(ca.sealing().public()).unwrap();
    let key = ca.open_root_key(&mesh_of(&server), sealed).unwrap();
    let snapshot = state.encode();
    server.stop().await;
    // In PKCS#8 of P-256 the secret number has 32 bytes from here on.
    let secret = &key[36..68];
    let shows = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    assert!(shows(&key) && !shows(&snapshot));
    let mut places = vec![dir.path().to_owned()];
    let mut files = 0;
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert!(!shows(&std::fs::read(&place).unwrap()), "{place:?}");
            files += 1;
        }
    }
    assert!(files > 4, "{files}");
}
