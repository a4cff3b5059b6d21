//! A whole agent against a scripted server: with it, without it, and started again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ServiceIntentions};
use purlin_model::node::NodeRole;
use purlin_model::service::{Mesh, ServiceDefinition, ServiceEntry, Upstream};
use purlin_model::topic::{Record, Topic};
use purlin_model::view::{Part, PartKey, TargetKey, View};
use purlin_model::{Datacenter, FaultCode, NodeId, NodeName, Revision, ServiceKey, ServiceName};
use tokio::sync::mpsc;

use super::{Agent, AgentHandle, Parts};
use crate::clock::Clock;
use crate::config::{CheckOptions, Config, DnsOptions, HttpOptions, Ports, Reload};
use crate::core::{SyncState, Trigger};
use crate::proxy_port::ProxyPort;
use crate::registry::Origin;
use crate::session::Phase;
use crate::testing::Server;
use crate::view::tests::{instance, node};

const WAIT: Duration = Duration::from_secs(20);

fn config(dir: &Path) -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        node_name: NodeName::new("host").unwrap(),
        node_id: NodeId(uuid::Uuid::from_u128(1)),
        datacenter: Datacenter::default(),
        role: NodeRole::Agent,
        version: "0.1.0".into(),
        domain: "mesh.internal".into(),
        alt_domain: Some("consul".into()),
        bind: "127.0.0.1".parse().unwrap(),
        advertise: "10.0.0.1".parse().unwrap(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        locality: None,
        ports: Ports { server: None, mesh: Some(20_000) },
        mesh_listen: vec!["127.0.0.1:20000".parse().unwrap()],
        detection_timeout: None,
        http: HttpOptions { listen: vec![any], ..HttpOptions::default() },
        dns: DnsOptions { listen: vec![any], ..DnsOptions::default() },
        checks: CheckOptions::default(),
        data_dir: Some(dir.to_owned()),
        services: Vec::new(),
        node_checks: Vec::new(),
        clock: Clock::system(),
        log_filter: None,
    }
}

async fn start(server: &Server, config: Config) -> (AgentHandle, mpsc::Receiver<Trigger>) {
    let (triggers, asked) = mpsc::channel(4);
    let parts = Parts {
        config,
        connector: server.connector.clone(),
        probe: None,
        node: None,
        proxy: ProxyPort::None,
        metrics: Vec::new(),
        logs: None,
        triggers,
    };
    (Agent::start(parts).await.unwrap(), asked)
}

fn web() -> ServiceDefinition {
    let mut web = instance("web", "web", 8080);
    let api = Upstream {
        name: ServiceName::new("api").unwrap(),
        namespace: Default::default(),
        datacenter: None,
        peer: None,
        port_name: None,
        local_bind_address: "127.0.0.1".into(),
        local_bind_port: 9191,
        connect_timeout_ms: None,
    };
    web.mesh = Some(Mesh { upstreams: vec![api], ..Mesh::default() });
    ServiceDefinition { instance: web, checks: Vec::new() }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

/// A mesh that has one `api` elsewhere and nobody's permission.
fn populate(server: &Server) {
    let entry = ServiceEntry {
        node: Arc::new(node("other", "10.0.0.2")),
        instance: Arc::new(instance("api-1", "api", 80)),
        checks: Vec::new(),
    };
    server.set(Topic::Service(key("api")), "other/api-1", Record::Entry(entry));
    let intentions = ConfigEntry {
        name: "*".into(),
        namespace: Default::default(),
        meta: BTreeMap::new(),
        body: ConfigBody::ServiceIntentions(ServiceIntentions::default()),
        create_index: Revision(1),
        modify_index: Revision(1),
    };
    let topic = Topic::Config(ConfigKind::ServiceIntentions, Some("*".into()));
    server.set(topic, "*", Record::Config(intentions));
}

/// Whether the proxy could call `api` on behalf of `web`.
fn is_whole(view: &View) -> bool {
    let target = view.parts.get(&PartKey::Target(TargetKey::local(key("api"))));
    let reachable = matches!(target, Some(Part::Target(target)) if target.endpoints.len() == 1);
    reachable && view.parts.contains_key(&PartKey::Credential(key("web")))
}

async fn whole_view(agent: &AgentHandle) -> Arc<View> {
    let mut views = agent.core().0.view.clone();
    tokio::time::timeout(WAIT, views.wait_for(|view| is_whole(view))).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn started_again_without_servers_it_has_view_answers_and_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("host", Clock::system());
    populate(&server);
    let (first, _asked) = start(&server, config(dir.path())).await;
    first.core().registry().register(web(), Origin::Api).await.unwrap();
    assert_eq!(first.core().sync_now(WAIT).await, SyncState::Synced);
    let before = whole_view(&first).await;
    let asked_for = Topic::Service(key("asked-for"));
    first.core().contents(&asked_for).await.unwrap();
    first.stop().await;

    server.connector.refuse(true);
    server.connector.cut();
    let (second, _asked) = start(&server, config(dir.path())).await;
    assert_eq!(second.core().view().parts, before.parts, "from the first moment on");
    second.core().watch_session().wait_for(|session| session.phase == Phase::Offline).await.unwrap();
    assert!(second.core().contents(&asked_for).await.is_ok());
    assert_eq!(second.core().leaf(&key("web")).await.unwrap().version, 1);
    let never_asked = second.core().contents(&Topic::Service(key("never-asked"))).await.unwrap_err();
    assert_eq!(never_asked.code, FaultCode::Unavailable);
    assert_eq!(second.core().sync_now(WAIT).await, SyncState::Offline);
    assert_eq!(second.core().view().parts, before.parts);

    server.connector.refuse(false);
    assert!(second.core().watch_session().wait_for(|session| session.is_connected()).await.is_ok());
    assert_eq!(second.core().sync_now(WAIT).await, SyncState::Synced);
    second.stop().await;
}

#[tokio::test]
async fn a_reload_brings_services_of_files_and_takes_them_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("host", Clock::system());
    let (agent, mut asked) = start(&server, config(dir.path())).await;
    let core = agent.core().clone();
    let owner = async {
        for services in [vec![web()], Vec::new()] {
            let Some(Trigger::Reload(answer)) = asked.recv().await else { panic!("no reload") };
            let reload = Reload { services, ..Reload::default() };
            answer.send(agent.reload(reload).await.map_err(|fault| fault.text)).unwrap();
        }
    };
    let user = async {
        core.reload().await.unwrap();
        assert!(core.registry().local().services.len() == 1);
        core.reload().await.unwrap();
        assert!(core.registry().local().services.is_empty());
    };
    tokio::join!(owner, user);
    agent.stop().await;
}

#[tokio::test]
async fn its_figures_tell_how_long_it_can_go_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("host", Clock::system());
    populate(&server);
    let (agent, _asked) = start(&server, Config { services: vec![web()], ..config(dir.path()) }).await;
    whole_view(&agent).await;
    let text = agent.core().metrics_text().await;
    let line = text.lines().find(|line| line.starts_with("purlin_agent_static_stability_seconds ")).unwrap();
    let seconds: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((3000.0..=3600.0).contains(&seconds), "{line}");
    assert!(text.contains("purlin_agent_session_connected 1"), "{text}");
    assert!(text.contains("purlin_agent_leaf_expiry_seconds{service=\"web\"}"), "{text}");
    agent.leave().await;
    server.until(|state| state.heard.contains(&purlin_wire::rpc::Up::Leave)).await;
}

#[tokio::test]
async fn a_busy_port_is_an_error_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("host", Clock::system());
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (triggers, _asked) = mpsc::channel(1);
    let http = HttpOptions { listen: vec![address], ..HttpOptions::default() };
    let parts = Parts {
        config: Config { http, ..config(dir.path()) },
        connector: server.connector.clone(),
        probe: None,
        node: None,
        proxy: ProxyPort::None,
        metrics: Vec::new(),
        logs: None,
        triggers,
    };
    let error = Agent::start(parts).await.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(server.state().heard.is_empty());
}
