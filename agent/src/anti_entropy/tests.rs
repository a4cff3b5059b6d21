//! Registry and catalog brought in line, against a scripted server.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::InstanceId;
use purlin_model::command::Command;
use purlin_model::node::NodeStatus;
use purlin_model::service::ServiceDefinition;
use purlin_model::topic::{Record, Topic};
use tokio_util::sync::CancellationToken;

use super::{AntiEntropy, SyncDriver};
use crate::clock::Clock;
use crate::config::CheckOptions;
use crate::core::SyncState;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::registry::{Options, Origin, Registry};
use crate::session::Phase;
use crate::testing::Server;
use crate::uplink::{self, Uplink};
use crate::view::tests::{instance, node};

const WAIT: Duration = Duration::from_secs(10);

struct Host {
    server: Server,
    registry: Arc<Registry>,
    mirror: Mirror,
    uplink: Uplink,
    sync: SyncDriver,
    _stop: tokio_util::sync::DropGuard,
}

impl Host {
    fn start() -> Self {
        let clock = Clock::following_tokio(Clock::system().now());
        let server = Server::start("host", clock.clone());
        let own = node("host", "10.0.0.1");
        let checks = CheckOptions::default();
        let options = Options { node: own.name.clone(), file: None, checks, clock: clock.clone() };
        let registry = Arc::new(Registry::open(options).unwrap());
        let uplink = Uplink::new(clock);
        let topic = Topic::Node(own.name.clone());
        let mirror = Mirror::new(uplink.session(), topic.clone());
        mirror.pin(&[topic].into());
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
        let sync = SyncDriver::new(uplink.session());
        let task = AntiEntropy {
            driver: sync.clone(),
            registry: registry.clone(),
            mirror: mirror.clone(),
            uplink: uplink.clone(),
            metrics,
            own,
            stop: stop.clone(),
        };
        tokio::spawn(task.run());
        Self { server, registry, mirror, uplink, sync, _stop: stop.drop_guard() }
    }

    async fn register(&self, id: &str, port: u16) {
        let definition = ServiceDefinition { instance: instance(id, "web", port), checks: Vec::new() };
        self.registry.register(definition, Origin::Api).await.unwrap();
    }

    /// What is visible here of the instance in the catalog.
    fn catalog_port(&self, id: &str) -> Option<u16> {
        let contents = self.mirror.peek(&self.topic())?;
        match contents.records.get(&format!("instance/{id}"))? {
            Record::Instance(instance) => Some(instance.port),
            other => panic!("{other:?}"),
        }
    }

    fn topic(&self) -> Topic {
        Topic::Node(node("host", "10.0.0.1").name)
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_in_the_catalog_and_visible_here_when_the_call_returns() {
    let host = Host::start();
    host.register("web", 80).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), Some(80));
    host.register("web", 81).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), Some(81));
    host.registry.deregister(&InstanceId::new("web").unwrap()).await.unwrap();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_counts_only_when_it_is_visible_here() {
    let host = Host::start();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    host.server.state().hold_progress = true;
    host.register("web", 80).await;
    assert_eq!(host.sync.now(Duration::from_millis(1900)).await, SyncState::Pending);
    host.server.state().hold_progress = false;
    host.server.say_progress();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
}

#[tokio::test(start_paused = true)]
async fn a_host_says_who_it_is_and_says_it_again_when_it_was_taken_for_dead() {
    let host = Host::start();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    let announcements = |state: &crate::testing::State| {
        state.writes.iter().filter(|write| matches!(write.command, Command::AnnounceNode(_))).count()
    };
    assert_eq!(announcements(&host.server.state()), 1);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(announcements(&host.server.state()), 1, "once is enough");
    let mut dead = node("host", "10.0.0.1");
    dead.status = NodeStatus::Failed;
    host.server.set(host.topic(), "node", Record::Node(dead));
    host.server.until(|state| announcements(state) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_took_out_of_the_catalog_comes_back() {
    let host = Host::start();
    host.register("web", 80).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    tokio::time::sleep(Duration::from_secs(30)).await;
    host.server.remove(host.topic(), "instance/web");
    host.server.until(|state| state.writes.len() == 3).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), Some(80));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_whoever_asks_until_it_is_lifted() {
    let host = Host::start();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    host.server.state().refuse_registering = Some("not here".into());
    host.register("web", 80).await;
    let refused = SyncState::Refused("not here".into());
    assert_eq!(host.sync.now(WAIT).await, refused);
    assert_eq!(host.sync.now(WAIT).await, refused, "though the same is not written again so soon");
    host.server.state().refuse_registering = None;
    host.server.until(|state| state.writes.len() >= 3).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), Some(80));
}

#[tokio::test(start_paused = true)]
async fn offline_registrations_wait_and_are_made_up_for() {
    let host = Host::start();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    host.server.connector.refuse(true);
    host.server.connector.cut();
    host.uplink.session().wait_for(|session| session.phase == Phase::Offline).await.unwrap();
    host.register("web", 80).await;
    assert_eq!(host.sync.now(WAIT).await, SyncState::Offline);
    host.server.connector.refuse(false);
    host.uplink.session().wait_for(|session| session.is_connected()).await.unwrap();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    assert_eq!(host.catalog_port("web"), Some(80));
}

/// Time only passes here while nothing runs: a task that spins would let none of it pass.
#[tokio::test(start_paused = true)]
async fn a_long_time_without_a_server_is_spent_at_rest() {
    let host = Host::start();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
    host.server.connector.refuse(true);
    host.server.connector.cut();
    host.uplink.session().wait_for(|session| session.phase == Phase::Offline).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    host.server.connector.refuse(false);
    host.uplink.session().wait_for(|session| session.is_connected()).await.unwrap();
    assert_eq!(host.sync.now(WAIT).await, SyncState::Synced);
}
