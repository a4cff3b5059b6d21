//! Certificates of services against a scripted server, on a clock that the test moves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::service::ServiceDefinition;
use purlin_model::topic::Topic;
use purlin_model::{FaultCode, NodeName, ServiceKey, ServiceName};
use purlin_wire::tls;
use tokio_util::sync::CancellationToken;

use super::{Keeper, Workloads};
use crate::anti_entropy::SyncDriver;
use crate::clock::Clock;
use crate::config::CheckOptions;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::registry::{Options, Origin, Registry};
use crate::session::Phase;
use crate::testing::Server;
use crate::uplink::{self, Uplink};
use crate::view::tests::instance;

struct Host {
    server: Server,
    registry: Arc<Registry>,
    uplink: Uplink,
    workloads: Workloads,
    clock: Clock,
    stop: CancellationToken,
}

impl Host {
    async fn start(server: Option<Server>, file: Option<PathBuf>, services: &[&str]) -> Self {
        let clock = Clock::following_tokio(Clock::system().now());
        let server = server.unwrap_or_else(|| Server::start("host", clock.clone()));
        let node = NodeName::new("host").unwrap();
        let options =
            Options { node: node.clone(), file: None, checks: CheckOptions::default(), clock: clock.clone() };
        let registry = Arc::new(Registry::open(options).unwrap());
        for id in services {
            register(&registry, id).await;
        }
        let uplink = Uplink::new(clock.clone());
        let mirror = Mirror::new(uplink.session(), Topic::Node(node));
        mirror.pin(&[Topic::Mesh].into());
        let stop = CancellationToken::new();
        let metrics = Metrics::new(Vec::new());
        let session = uplink::Keeper {
            uplink: uplink.clone(),
            connector: server.connector.clone(),
            mirror: mirror.clone(),
            metrics: metrics.clone(),
            prober: uplink::Prober::default(),
            version: "0.1.0".into(),
            stop: stop.clone(),
            leave: CancellationToken::new(),
        };
        tokio::spawn(session.run());
        let workloads = Workloads::new(registry.clone());
        let keeper = Keeper {
            workloads: workloads.clone(),
            uplink: uplink.clone(),
            mirror,
            sync: SyncDriver::new(uplink.session()),
            metrics,
            clock: clock.clone(),
            file,
            stop: stop.clone(),
        };
        keeper.restore();
        tokio::spawn(keeper.run());
        Self { server, registry, uplink, workloads, clock, stop }
    }
}

async fn register(registry: &Registry, id: &str) {
    let definition = ServiceDefinition { instance: instance(id, id, 80), checks: Vec::new() };
    registry.register(definition, Origin::Api).await.unwrap();
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

#[tokio::test(start_paused = true)]
async fn leaves_of_ten_seconds_are_renewed_smoothly() {
    let host = Host::start(None, None, &[]).await;
    host.server.state().leaf_ttl = Duration::from_secs(10);
    register(&host.registry, "web").await;
    let mut leaf = host.workloads.leaf(&key("web")).await.unwrap();
    let mut keys = vec![leaf.credential.key.clone()];
    for _ in 0..10 {
        let next =
            host.workloads.leaf_past(&key("web"), leaf.version, Duration::from_secs(60)).await.unwrap();
        let left = leaf.credential.not_after.since(host.clock.now());
        assert!(left >= Duration::from_secs(2), "renewed with {left:?} left");
        assert!(left <= Duration::from_secs(5), "renewed with {left:?} left");
        assert_eq!(next.version, leaf.version + 1);
        let identity = tls::spiffe_identity(&next.credential.chain[0]).unwrap();
        assert_eq!(identity.to_string(), next.credential.identity);
        assert_eq!(identity.service_key(), Some(key("web")));
        keys.push(next.credential.key.clone());
        leaf = next;
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 11, "each has a key of its own");
}

#[tokio::test(start_paused = true)]
async fn a_refused_service_is_tried_again_until_it_is_let_in() {
    let host = Host::start(None, None, &[]).await;
    host.server.state().refuse_signing = true;
    register(&host.registry, "web").await;
    let fault = host.workloads.leaf(&key("web")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.text.contains("not registered"), "{fault}");
    host.server.state().refuse_signing = false;
    host.workloads.leaf_past(&key("web"), 0, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_old_leaf_stays_in_use_while_no_server_can_be_reached() {
    let host = Host::start(None, None, &[]).await;
    host.server.state().leaf_ttl = Duration::from_secs(60);
    register(&host.registry, "web").await;
    let leaf = host.workloads.leaf(&key("web")).await.unwrap();
    host.server.connector.refuse(true);
    host.server.connector.cut();
    host.uplink.session().wait_for(|session| session.phase == Phase::Offline).await.unwrap();
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(host.workloads.leaf(&key("web")).await.unwrap().version, leaf.version);
    assert!(host.workloads.stability(host.clock.now()).unwrap() <= Duration::from_secs(5));
    host.server.connector.refuse(false);
    host.workloads.leaf_past(&key("web"), leaf.version, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_goes_takes_its_credential_along() {
    let host = Host::start(None, None, &[]).await;
    register(&host.registry, "web").await;
    host.workloads.leaf(&key("web")).await.unwrap();
    let mut changes = host.workloads.changes();
    changes.borrow_and_update();
    host.registry.deregister(&purlin_model::InstanceId::new("web").unwrap()).await.unwrap();
    changes.changed().await.unwrap();
    assert!(host.workloads.credentials().is_empty());
    assert_eq!(host.workloads.leaf(&key("web")).await.unwrap_err().code, FaultCode::NotFound);
}

#[tokio::test]
async fn a_restarted_agent_goes_on_with_its_leaves_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leaves");
    let first = Host::start(None, Some(file.clone()), &["web"]).await;
    let leaf = first.workloads.leaf(&key("web")).await.unwrap();
    while !file.exists() {
        tokio::task::yield_now().await;
    }
    first.stop.cancel();
    first.server.connector.refuse(true);
    first.server.connector.cut();
    let second = Host::start(Some(first.server.clone()), Some(file.clone()), &["web"]).await;
    let again = second.workloads.leaf(&key("web")).await.unwrap();
    assert_eq!((again.version, &again.credential.key), (leaf.version, &leaf.credential.key));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}
