//! The mesh of the demo: three hosts in one process, with a relay on the wire before each host of `api`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use purlin_agent::agent::{Agent, AgentHandle, NodeCredentials, Parts};
use purlin_agent::core::Trigger;
use purlin_agent::join::{self, Joiner, QuicDoor};
use purlin_agent::proxy_port::ProxyPort;
use purlin_model::node::NodeRole;
use purlin_server::{Server, ServerHandle};
use purlin_wire::node_store::{NodeFile, NodeStore};
use purlin_wire::quic::QuicConnector;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::apps::{App, Role};
use super::ports::Ports;
use super::relay::{self, Tap};
use super::tour::Stage;
use crate::config::{Config, Mode, Overrides, Sources};
use crate::logging::Logs;
use crate::run::host::{VERSION, agent_config, metrics_source};
use crate::run::proxy::InProcess;

const TOKEN_TTL: Duration = Duration::from_secs(600);
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// One host, and what must live as long as it.
struct Host {
    agent: AgentHandle,
    proxy: InProcess,
    _triggers: mpsc::Receiver<Trigger>,
}

/// Everything that the demo started.
pub(super) struct Mesh {
    pub(super) stage: Stage,
    server: ServerHandle,
    hosts: Vec<Host>,
    ports: Ports,
    v1: SocketAddr,
    upstream: SocketAddr,
    /// `web` and `api` version 2.
    _apps: Vec<App>,
    _relays: Vec<AbortOnDropHandle<()>>,
    _dir: tempfile::TempDir,
}

/// Addresses of one host.
struct Place {
    name: &'static str,
    /// Where others find it, and where its proxy really listens: the relay stands between.
    ip: IpAddr,
    behind: IpAddr,
    http: SocketAddr,
    dns: SocketAddr,
    mesh: SocketAddr,
}

impl Place {
    fn choose(ports: &mut Ports, name: &'static str, last: u8, behind: u8) -> anyhow::Result<Self> {
        let ip = IpAddr::from([127, 0, 0, last]);
        let http = ports.choose(&format!("the API of {name}"), ip, 8500)?;
        let dns = ports.choose(&format!("DNS of {name}"), ip, 8600)?;
        let mesh = ports.choose(&format!("the mesh port of {name}"), ip, 20000)?;
        Ok(Self { name, ip, behind: IpAddr::from([127, 0, 0, behind]), http, dns, mesh })
    }

    /// Its configuration, in the form that an operator would write.
    fn config(&self, data: &Path, services: Value, server_port: u16) -> anyhow::Result<Config> {
        let mut all = Overrides::default();
        all.set("node_name", Some(self.name));
        all.set("data_dir", Some(data.join(self.name).to_string_lossy().into_owned()));
        all.set("bind_addr", Some(self.behind.to_string()));
        all.set("advertise_addr", Some(self.ip.to_string()));
        all.set("client_addr", Some(self.ip.to_string()));
        for (key, port) in [("http", self.http), ("dns", self.dns), ("mesh", self.mesh)] {
            all.set(&format!("ports.{key}"), Some(port.port()));
        }
        all.set("ports.server", Some(server_port));
        all.set("services", Some(services));
        let (config, _) = Sources { paths: Vec::new(), overrides: all, mode: Mode::Agent }.load()?;
        Ok(config)
    }
}

impl Mesh {
    pub(super) async fn start(logs: &Logs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("purlin-demo").tempdir()?;
        let mut ports = Ports::default();
        let places = [
            Place::choose(&mut ports, "demo-1", 1, 1)?,
            Place::choose(&mut ports, "demo-2", 2, 12)?,
            Place::choose(&mut ports, "demo-3", 3, 13)?,
        ];
        let quic = ports.choose("the server", places[0].ip, 8300)?;
        let upstream = ports.choose("the upstream api of web", places[0].ip, 9191)?;
        let web = App::start(ports.choose("web", places[0].ip, 7001)?, Role::Web { upstream }).await?;
        let v1 = App::start(ports.choose("api v1", places[1].ip, 7002)?, Role::Api { version: "v1" }).await?;
        let v2 = App::start(ports.choose("api v2", places[2].ip, 7003)?, Role::Api { version: "v2" }).await?;

        let tap = Tap::default();
        let mut relays = Vec::new();
        for place in &places[1..] {
            let behind = SocketAddr::new(place.behind, place.mesh.port());
            relays.push(relay::start(place.mesh, behind, tap.clone()).await?);
        }

        let config = places[0].config(dir.path(), json!([web_service(&web, upstream)]), quic.port())?;
        let (server, first) = first_host(&config, logs).await?;
        let mut hosts = vec![first];
        for (place, app, version) in [(&places[1], &v1, "v1"), (&places[2], &v2, "v2")] {
            let config = place.config(dir.path(), json!([api_service(app, version)]), quic.port())?;
            let token = server.create_join_token(NodeRole::Agent, TOKEN_TTL, 1).await?;
            hosts.push(further_host(&config, &token, logs).await?);
        }
        let stage = Stage {
            binary: std::env::current_exe()
                .context("cannot tell where this program is, to run its commands")?,
            domain: config.domain.clone(),
            api: places[0].http,
            dns: places[0].dns,
            api_of_v1: places[1].http,
            web: web.address,
            tap,
            v1: None,
        };
        let v1_address = v1.address;
        let stage = Stage { v1: Some(v1), ..stage };
        let apps = vec![web, v2];
        Ok(Self {
            stage,
            server,
            hosts,
            ports,
            v1: v1_address,
            upstream,
            _apps: apps,
            _relays: relays,
            _dir: dir,
        })
    }

    pub(super) fn replaced_ports(&self) -> &[String] {
        self.ports.replaced()
    }

    /// Starts again what the tour killed.
    pub(super) async fn revive(&mut self) -> anyhow::Result<()> {
        self.stage.v1 = Some(App::start(self.v1, Role::Api { version: "v1" }).await?);
        Ok(())
    }

    pub(super) fn addresses(&self) -> String {
        let Stage { api, dns, web, domain, .. } = &self.stage;
        format!(
            "\nThe mesh goes on until Ctrl-C (api v1 was started again). To try:\n   \
             curl http://{web}/                      web, which asks api\n   \
             curl http://{}/                      api, as web finds it\n   \
             dig @{} -p {} api.service.{domain}\n   \
             curl http://{api}/v1/catalog/services\n   \
             purlin members --http-addr={api}\n   \
             purlin intention delete web api --http-addr={api}",
            self.upstream,
            dns.ip(),
            dns.port()
        )
    }

    pub(super) async fn stop(self) {
        for host in self.hosts {
            host.agent.stop().await;
            host.proxy.stop().await;
        }
        self.server.stop().await;
    }
}

fn web_service(app: &App, upstream: SocketAddr) -> Value {
    json!({
        "name": "web", "port": app.address.port(),
        "upstreams": [{
            "name": "api", "local_bind_address": upstream.ip().to_string(), "local_bind_port": upstream.port()
        }],
    })
}

fn api_service(app: &App, version: &str) -> Value {
    json!({
        "id": format!("api-{version}"), "name": "api", "port": app.address.port(),
        "tags": [version], "meta": { "version": version },
        "connect": { "sidecar_service": { "proxy": { "local_service_address": app.address.ip().to_string() } } },
        "check": { "http": format!("http://{}/health", app.address), "interval": "1s", "timeout": "1s" },
    })
}

/// The server, with the agent of its host.
async fn first_host(config: &Config, logs: &Logs) -> anyhow::Result<(ServerHandle, Host)> {
    let store = open(config)?;
    let server = Server::start(crate::run::member::server_config(config, store.clone()), true).await?;
    let node = store.load()?.context("the server started and left no node.json")?;
    let (connector, metrics) = (server.connector(), vec![metrics_source(&server)]);
    let host = Host::start(config, &node, connector, None, metrics, logs).await?;
    Ok((server, host))
}

async fn further_host(config: &Config, token: &str, logs: &Logs) -> anyhow::Result<Host> {
    let store = open(config)?;
    let joiner = Joiner {
        name: config.node_name.clone(),
        role: NodeRole::Agent,
        datacenter: Some(config.datacenter.clone()),
        address: config.advertise_addr.to_string(),
        mesh_port: Some(config.listen.mesh.port()),
        version: VERSION.into(),
        join_timeout: JOIN_TIMEOUT,
    };
    let node = join::join(&store, token, &joiner, &QuicDoor).await?;
    let credentials = store.load_credentials()?.context("the host joined and has no certificate")?;
    let credentials = Arc::new(watch::Sender::new(Arc::new(credentials)));
    let connector =
        QuicConnector::new(config.bind_addr, credentials.subscribe(), node.servers.clone(), |_| {});
    let own = NodeCredentials { store, credentials };
    Host::start(config, &node, Arc::new(connector), Some(own), Vec::new(), logs).await
}

fn open(config: &Config) -> anyhow::Result<Arc<NodeStore>> {
    let dir = config.data_dir.as_deref().context("a host of the demo has no data_dir")?;
    Ok(Arc::new(NodeStore::open(dir)?))
}

impl Host {
    async fn start(
        config: &Config,
        node: &NodeFile,
        connector: Arc<dyn purlin_wire::link::Connector>,
        own: Option<NodeCredentials>,
        metrics: Vec<purlin_agent::metrics::Source>,
        logs: &Logs,
    ) -> anyhow::Result<Self> {
        let proxy = InProcess::start(Some(1), Some(logs))?;
        let (sender, triggers) = mpsc::channel(1);
        let parts = Parts {
            config: agent_config(config, node, Some(logs)),
            connector,
            // Its hosts are reached elsewhere than where they listen.
            probe: None,
            node: own,
            proxy: ProxyPort::Memory(proxy.dialer()),
            metrics,
            logs: None,
            triggers: sender,
        };
        Ok(Self { agent: Agent::start(parts).await?, proxy, _triggers: triggers })
    }
}
