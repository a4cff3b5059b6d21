//! Puts one agent together, starts its tasks in an order in which each finds what it needs, and ends them.
//!
//! Listeners are bound first, so that a busy port is known before anything else happens. A task that ends before it
//! is told to has failed, and the owner of the process hears of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_model::Fault;
use purlin_model::topic::Topic;
use purlin_model::view::View;
use purlin_wire::file::{self, FileError};
use purlin_wire::link::Connector;
use purlin_wire::node_store::NodeStore;
use purlin_wire::tls::Credentials;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::anti_entropy::{AntiEntropy, SyncDriver};
use crate::api::{self, ApiHandle, ApiListeners, LogTap};
use crate::check;
use crate::config::{Config, Reload};
use crate::core::{Core, Inner, Trigger};
use crate::dns;
use crate::join::QuicDoor;
use crate::metrics::{Metrics, Source};
use crate::mirror::{Mirror, disk};
use crate::proxy_port::{self, ProxyHandle, ProxyPort};
use crate::registry::{self, Registry};
use crate::uplink::{self, ProbePort, Prober, Renewal, Uplink, renew_node_certificate, tell_connector};
use crate::view::driver::Driver;
use crate::workload::{self, Workloads};

#[cfg(test)]
mod tests;

/// Files of an agent in its data directory.
const REGISTRY: &str = "registry";
const MIRROR: &str = "mirror";
const LEAVES: &str = "leaves";
/// For the goodbye to reach a server.
const GOODBYE: Duration = Duration::from_secs(4);
/// For the proxy to finish what is under way when it is to end.
const DRAIN: Duration = Duration::from_secs(5);
/// For tasks to end when they are told to.
const STOP: Duration = Duration::from_secs(5);

/// Everything that an agent is started with.
pub struct Parts {
    pub config: Config,
    pub connector: Arc<dyn Connector>,
    /// This host's own certificate, which the agent renews; absent where somebody else does.
    pub node: Option<NodeCredentials>,
    /// To probe other hosts, and be probed; absent: neither.
    pub probe: Option<ProbePort>,
    pub proxy: ProxyPort,
    /// Figures of other parts of this process, added to the agent's own.
    pub metrics: Vec<Source>,
    /// Feeds `agent/monitor`.
    pub logs: Option<LogTap>,
    /// Hears of reloads and leaving that were asked for over the API.
    pub triggers: mpsc::Sender<Trigger>,
}

/// The certificate of this host, where it is kept and who uses it.
pub struct NodeCredentials {
    pub store: Arc<NodeStore>,
    pub credentials: Arc<watch::Sender<Arc<Credentials>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] FileError),
    /// What is wrong with what it was told to do.
    #[error(transparent)]
    Config(#[from] Fault),
}

/// A running agent. Dropping it ends its tasks, but for those that finish saving.
pub struct AgentHandle {
    core: Core,
    api: ApiHandle,
    dns: dns::Handle,
    checks: check::Handle,
    own_proxy: bool,
    tasks: Tasks,
    leave: CancellationToken,
}

/// Starts an agent.
pub struct Agent;

impl Agent {
    pub async fn start(parts: Parts) -> Result<AgentHandle, StartError> {
        if let Some(dir) = &parts.config.data_dir {
            file::private_directory(dir)?;
        }
        let mut listeners = ApiListeners::bind(&parts.config.http).await?;
        listeners.logs = parts.logs.clone();
        let registry = Arc::new(open_registry(&parts.config).await?);
        let own_proxy = matches!(&parts.proxy, ProxyPort::Socket { spawn: Some(_), .. });
        let mut tasks = Tasks::new();
        let leave = CancellationToken::new();
        let core = assemble(parts, registry, &mut tasks, &leave);
        let dns = dns::serve(core.clone(), core.config().dns.clone()).await?;
        let api = api::serve(core.clone(), listeners).await?;
        // From here on nothing can fail, so no proxy is left behind by an agent that does not start.
        tasks.begin();
        let checks = start_checks(&core);
        info!(node = %core.config().node_name, http = ?api.addresses(), dns = ?dns.addresses(), "agent is up");
        Ok(AgentHandle { core, api, dns, checks, own_proxy, tasks, leave })
    }
}

async fn open_registry(config: &Config) -> Result<Registry, Fault> {
    let registry = Registry::open(registry::Options {
        node: config.node_name.clone(),
        file: config.file(REGISTRY),
        checks: config.checks,
        clock: config.clock.clone(),
    })?;
    registry.set_files(config.services.clone(), config.node_checks.clone()).await?;
    Ok(registry)
}

fn start_checks(core: &Core) -> check::Handle {
    let options = check::Options { core: Some(core.clone()), ..check::Options::default() };
    check::Runner::start(Registry::clone(core.registry()), options)
}

/// Makes the parts, has them take up what is on disk, and gets their tasks ready.
fn assemble(parts: Parts, registry: Arc<Registry>, tasks: &mut Tasks, leave: &CancellationToken) -> Core {
    let Parts { config, connector, node, probe, proxy, metrics, triggers, .. } = parts;
    let prober = probe.map(|port| Prober::open(port, &config.node_name)).unwrap_or_default();
    let stop = tasks.stop.clone();
    let metrics = Metrics::new(metrics);
    let uplink = Uplink::new(config.clock.clone());
    let mirror = Mirror::new(uplink.session(), Topic::Node(config.node_name.clone()));
    if let Some(path) = config.file(MIRROR) {
        disk::restore(&mirror, &path);
        tasks.add("mirror on disk", disk::keep(mirror.clone(), path, stop.clone()));
    }
    tasks.add("mirror", disk::sweep(mirror.clone(), stop.clone()));
    let sync = SyncDriver::new(uplink.session());
    let workloads = Workloads::new(registry.clone());
    let keeper = workload::Keeper {
        workloads: workloads.clone(),
        uplink: uplink.clone(),
        mirror: mirror.clone(),
        sync: sync.clone(),
        metrics: metrics.clone(),
        clock: config.clock.clone(),
        file: config.file(LEAVES),
        stop: stop.clone(),
    };
    keeper.restore();
    let view = start_view(&config, &registry, &mirror, &workloads, tasks);
    let proxy = start_proxy(proxy, view.subscribe(), &metrics, &config.version, tasks);
    tasks.add("certificates of services", keeper.run());
    start_uplink(&uplink, &connector, &mirror, &metrics, prober, &config.version, tasks, leave);
    let anti_entropy = AntiEntropy {
        driver: sync.clone(),
        registry: registry.clone(),
        mirror: mirror.clone(),
        uplink: uplink.clone(),
        metrics: metrics.clone(),
        own: config.node(),
        stop: stop.clone(),
    };
    tasks.add("registration", anti_entropy.run());
    if let Some(node) = node {
        let NodeCredentials { store, credentials } = node;
        let (uplink, mirror, metrics, clock) =
            (uplink.clone(), mirror.clone(), metrics.clone(), config.clock.clone());
        let door = Arc::new(QuicDoor);
        let renewal = Renewal { uplink, mirror, credentials, store, clock, metrics, door, stop };
        tasks.add("certificate of this host", renew_node_certificate(renewal));
    }
    let view = view.subscribe();
    Core(Arc::new(Inner {
        config,
        registry,
        mirror,
        uplink,
        sync,
        workloads,
        view,
        proxy,
        metrics,
        triggers,
    }))
}

/// The first view is built before anybody asks for it, from what is on disk.
fn start_view(
    config: &Config,
    registry: &Arc<Registry>,
    mirror: &Mirror,
    workloads: &Workloads,
    tasks: &mut Tasks,
) -> watch::Sender<Arc<View>> {
    let view = watch::Sender::new(Arc::default());
    let driver = Driver {
        registry: registry.clone(),
        mirror: mirror.clone(),
        workloads: workloads.clone(),
        own: config.node(),
        inbound: config.mesh_listen.clone(),
        detection_timeout: config.detection_timeout,
        own_addresses: own_addresses(config),
        view: view.clone(),
        stop: tasks.stop.clone(),
    };
    driver.pin();
    driver.rebuild(&mut BTreeSet::new());
    tasks.add("view", driver.run());
    view
}

fn own_addresses(config: &Config) -> Vec<IpAddr> {
    vec![config.advertise, config.bind]
}

fn start_proxy(
    port: ProxyPort,
    view: watch::Receiver<Arc<View>>,
    metrics: &Metrics,
    version: &str,
    tasks: &mut Tasks,
) -> ProxyHandle {
    let stop = tasks.stop.clone();
    let (handle, keeper) = proxy_port::Keeper::new(port, view, metrics.clone(), version.to_owned(), stop);
    tasks.add_ending("proxy", keeper.run());
    handle
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the agent, named once")]
fn start_uplink(
    uplink: &Uplink,
    connector: &Arc<dyn Connector>,
    mirror: &Mirror,
    metrics: &Metrics,
    prober: Prober,
    version: &str,
    tasks: &mut Tasks,
    leave: &CancellationToken,
) {
    let keeper = uplink::Keeper {
        uplink: uplink.clone(),
        connector: connector.clone(),
        mirror: mirror.clone(),
        metrics: metrics.clone(),
        prober,
        version: version.to_owned(),
        stop: tasks.stop.clone(),
        leave: leave.clone(),
    };
    tasks.add_ending("session", keeper.run());
    tasks.add("servers", tell_connector(mirror.clone(), connector.clone(), tasks.stop.clone()));
}

impl AgentHandle {
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Where the HTTP API listens, with the ports that the kernel chose.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        self.api.addresses()
    }

    /// Where DNS answers, UDP and TCP alike.
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        self.dns.addresses()
    }

    pub fn http_socket(&self) -> Option<&PathBuf> {
        self.api.socket()
    }

    /// Puts what configuration files say now in place of what they said. Refused whole if any of it is wrong.
    pub async fn reload(&self, reload: Reload) -> Result<(), Fault> {
        self.core.registry().set_files(reload.services, reload.node_checks).await?;
        info!("services and checks of the configuration files are in force");
        Ok(())
    }

    /// Resolves with the name of a task that ended though nobody told it to: this agent can no longer be relied on.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.tasks.failed.subscribe();
        loop {
            if let Some(name) = *failed.borrow_and_update() {
                return name;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Says goodbye to the mesh, ends a proxy that this agent started, and stops.
    pub async fn leave(self) {
        let mut session = self.core.watch_session();
        let was_connected = session.borrow().is_connected();
        self.leave.cancel();
        let gone = session.wait_for(|session| !session.is_connected());
        if timeout(GOODBYE, gone).await.is_err() || !was_connected {
            warn!("no server heard the goodbye of this host: remove it with purlin node remove");
        }
        self.stop_with_proxy().await;
    }

    /// Stops, and ends a proxy that this agent started.
    pub async fn stop_with_proxy(self) {
        if self.own_proxy {
            self.core.0.proxy.drain(DRAIN).await;
        }
        self.stop().await;
    }

    /// Stops; the proxy goes on without an agent until the next one takes it up.
    pub async fn stop(self) {
        self.api.close().await;
        drop(self.dns);
        self.checks.stop().await;
        self.tasks.end().await;
    }
}

/// The tasks of one agent: added while it is put together, begun all at once.
struct Tasks {
    added: Vec<BoxFuture<'static, ()>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<watch::Sender<Option<&'static str>>>,
}

impl Tasks {
    fn new() -> Self {
        let failed = Arc::new(watch::Sender::new(None));
        Self { added: Vec::new(), tracker: TaskTracker::new(), stop: CancellationToken::new(), failed }
    }

    fn begin(&mut self) {
        for task in self.added.drain(..) {
            self.tracker.spawn(task);
        }
    }

    /// A task that only ends when it is told to.
    fn add(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let watcher = self.watcher(name);
        self.added.push(Box::pin(async move {
            task.await;
            drop(watcher);
        }));
    }

    /// A task that may also end when its work is done.
    fn add_ending(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let watcher = self.watcher(name);
        self.added.push(Box::pin(async move {
            task.await;
            watcher.done();
        }));
    }

    fn watcher(&self, name: &'static str) -> Watcher {
        Watcher { name, stop: self.stop.clone(), failed: self.failed.clone(), is_done: false }
    }

    async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        if timeout(STOP, self.tracker.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Tells of a task that ended too soon, by a panic too.
struct Watcher {
    name: &'static str,
    stop: CancellationToken,
    failed: Arc<watch::Sender<Option<&'static str>>>,
    is_done: bool,
}

impl Watcher {
    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if !self.is_done && !self.stop.is_cancelled() {
            self.failed.send_replace(Some(self.name));
        }
    }
}
