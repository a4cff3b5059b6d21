//! The wiring diagram: what a server host, an agent host and a proxy are made of, and what ends them.
//!
//! Everything here ends in order: on SIGTERM the proxy goes on alone, on SIGINT it ends with its agent, a part that
//! can no longer be relied on ends the process, so that whoever supervises it starts it again from disk.

pub(crate) mod host;
pub(crate) mod member;
pub(crate) mod proxy;
mod supervise;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use purlin_agent::agent::{Agent, AgentHandle, NodeCredentials, Parts};
use purlin_agent::core::Trigger;
use purlin_agent::proxy_port::{ProxyPort, Spawn};
use purlin_model::node::NodeRole;
use purlin_server::{Server, ServerHandle};
use purlin_wire::node_store::{NodeFile, NodeStore};
use purlin_wire::quic::QuicConnector;
use purlin_wire::token::JoinTokenText;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Log, ProxyMode, Sources, Warning};
use crate::logging::Logs;

pub use proxy::{ProxyOptions, proxy};

/// Questions to the owner of the process that wait.
const TRIGGERS: usize = 16;
/// Of the token that a new mesh prints.
const FIRST_TOKEN_TTL: std::time::Duration = std::time::Duration::from_secs(3600);
const FIRST_TOKEN_USES: u32 = 10;

/// What `purlin server`, `purlin agent` and `purlin dev` are started with.
#[derive(Clone)]
pub struct RunOptions {
    pub config: Config,
    pub warnings: Vec<Warning>,
    pub bootstrap: bool,
    pub join: Option<JoinTokenText>,
    /// To read the configuration again.
    pub sources: Sources,
}

/// What a host is being started with, its logs open.
struct Starting {
    options: RunOptions,
    logs: Logs,
}

/// Wrong arguments, which end the process with 2, not 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// All that runs on a host.
pub(crate) struct Running {
    pub(crate) agent: AgentHandle,
    pub(crate) server: Option<ServerHandle>,
    pub(crate) triggers: mpsc::Receiver<Trigger>,
}

/// Runs a server, and the agent of its host, until told to end.
pub fn server(options: RunOptions) -> anyhow::Result<ExitCode> {
    drive(&options.config.log.clone(), |logs| Starting::new(options, logs).server())
}

/// Runs the agent of a host without a server, until told to end.
pub fn agent(options: RunOptions) -> anyhow::Result<ExitCode> {
    drive(&options.config.log.clone(), |logs| Starting::new(options, logs).agent())
}

/// Runs a whole mesh of one host in this process. Without a data directory it forgets everything at its end.
pub fn dev(options: RunOptions) -> anyhow::Result<ExitCode> {
    drive(&options.config.log.clone(), |logs| Starting::new(options, logs).dev())
}

/// Opens the logs and a runtime, and runs one future to its end.
fn drive<F: Future<Output = anyhow::Result<()>>>(
    log: &Log,
    start: impl FnOnce(Logs) -> F,
) -> anyhow::Result<ExitCode> {
    let logs =
        Logs::start(&log.filter, log.json).map_err(|why| anyhow::anyhow!("cannot start logging: {why}"))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start a runtime")?;
    let done = runtime.block_on(async { Box::pin(start(logs)).await });
    // A probe or a look-up that hangs on a thread of its own must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done.map(|()| ExitCode::SUCCESS)
}

impl Starting {
    fn new(options: RunOptions, logs: Logs) -> Self {
        for warning in &options.warnings {
            tracing::warn!("{warning}");
        }
        Self { options, logs }
    }

    fn config(&self) -> &Config {
        &self.options.config
    }

    async fn server(self) -> anyhow::Result<()> {
        let store = self.open_store()?;
        let token = self.options.join.as_ref();
        match store.load()? {
            Some(file) => {
                member::check(&file, self.config(), NodeRole::Server, store.directory())?;
                member::notice(&file, token, self.options.bootstrap)?;
                member::keep_servers(&store, file, token)?;
            }
            None if self.options.bootstrap => {}
            None => {
                member::join(&self.options, &store, NodeRole::Server).await?;
            }
        }
        let config = member::server_config(self.config(), store.clone());
        let server = Server::start(config, self.options.bootstrap).await?;
        let node = store.load()?.context("the server started and left no node.json")?;
        let running = self.start_beside(server, &node, self.proxy_port()?).await?;
        if let Some(server) = running.server.as_ref().filter(|server| !server.already_bootstrapped()) {
            member::tell_how_to_join(server, &node, FIRST_TOKEN_TTL, FIRST_TOKEN_USES).await?;
        }
        supervise::run(running, &self.options).await
    }

    async fn agent(self) -> anyhow::Result<()> {
        let store = self.open_store()?;
        let node = match store.load()? {
            Some(file) => {
                member::check(&file, self.config(), NodeRole::Agent, store.directory())?;
                let token = self.options.join.as_ref();
                if member::is_sent_away(&store, &file, token).await? {
                    member::join(&self.options, &store, NodeRole::Agent).await?
                } else {
                    member::notice(&file, token, false)?;
                    member::look_also_at(file, token)
                }
            }
            None => member::join(&self.options, &store, NodeRole::Agent).await?,
        };
        let missing = || {
            format!(
                "{} has no certificate of this node: remove it and join again",
                store.directory().display()
            )
        };
        let credentials = store.load_credentials()?.with_context(missing)?;
        let credentials = Arc::new(watch::Sender::new(Arc::new(credentials)));
        let connector = connector(self.config(), &store, &node, &credentials);
        let (sender, triggers) = mpsc::channel(TRIGGERS);
        let parts = Parts {
            config: host::agent_config(self.config(), &node, Some(&self.logs)),
            probe: Some(host::probe_port(self.config(), credentials.subscribe())),
            connector: Arc::new(connector),
            node: Some(NodeCredentials { store, credentials }),
            proxy: self.proxy_port()?,
            metrics: Vec::new(),
            logs: Some(self.logs.tap()),
            triggers: sender,
        };
        let agent = Agent::start(parts).await?;
        supervise::run(Running { agent, server: None, triggers }, &self.options).await
    }

    async fn dev(mut self) -> anyhow::Result<()> {
        let forgotten =
            tempfile::Builder::new().prefix("purlin-dev").tempdir().context("a directory for dev mode")?;
        let is_kept = self.config().data_dir.is_some();
        self.options.config.data_dir.get_or_insert_with(|| forgotten.path().to_owned());
        let store = self.open_store()?;
        if let Some(file) = store.load()? {
            member::check(&file, self.config(), NodeRole::Server, store.directory())?;
        }
        let server = Server::start(member::server_config(self.config(), store.clone()), true).await?;
        let node = store.load()?.context("the server started and left no node.json")?;
        let proxy = proxy::InProcess::start(self.config().proxy.workers, Some(&self.logs))?;
        let running = self.start_beside(server, &node, ProxyPort::Memory(proxy.dialer())).await?;
        member::tell_dev(&running, self.config(), is_kept);
        let ended = supervise::run(running, &self.options).await;
        proxy.stop().await;
        ended
    }

    /// The agent of a server's host, joined to it without a network.
    async fn start_beside(
        &self,
        server: ServerHandle,
        node: &NodeFile,
        proxy: ProxyPort,
    ) -> anyhow::Result<Running> {
        let (sender, triggers) = mpsc::channel(TRIGGERS);
        let parts = Parts {
            config: host::agent_config(self.config(), node, Some(&self.logs)),
            probe: Some(host::probe_port(self.config(), server.credentials())),
            connector: server.connector(),
            node: None,
            proxy,
            metrics: vec![host::metrics_source(&server)],
            logs: Some(self.logs.tap()),
            triggers: sender,
        };
        match Agent::start(parts).await {
            Ok(agent) => Ok(Running { agent, server: Some(server), triggers }),
            Err(error) => {
                server.stop().await;
                Err(error.into())
            }
        }
    }

    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        let missing = || Usage("data_dir is not set: use --data-dir or the key data_dir".into());
        Ok(self.config().data_dir.clone().ok_or_else(missing)?)
    }

    fn open_store(&self) -> anyhow::Result<Arc<NodeStore>> {
        Ok(Arc::new(NodeStore::open(&self.data_dir()?)?.with_id(self.config().node_id)))
    }

    /// How the agent of this host reaches its proxy.
    fn proxy_port(&self) -> anyhow::Result<ProxyPort> {
        let runtime_dir = match &self.config().runtime_dir {
            Some(dir) => dir.clone(),
            None => self.data_dir()?.join("run"),
        };
        let spawn = match self.config().proxy.mode {
            ProxyMode::External => None,
            ProxyMode::Spawn => {
                let exe = std::env::current_exe()
                    .context("cannot tell where this program is, to start the proxy")?;
                let workers = self.config().proxy.workers.map(|workers| format!("--workers={workers}"));
                let log = &self.config().log;
                let json = log.json.then(|| "--log-json".to_owned());
                let level = format!("--log-level={}", log.filter);
                Some(Spawn { exe, args: workers.into_iter().chain(json).chain([level]).collect() })
            }
        };
        Ok(ProxyPort::Socket { runtime_dir, spawn })
    }
}

/// Finds servers by what the node file says, and keeps there what a server tells of others.
fn connector(
    config: &Config,
    store: &Arc<NodeStore>,
    node: &NodeFile,
    credentials: &Arc<watch::Sender<Arc<purlin_wire::tls::Credentials>>>,
) -> QuicConnector {
    let (store, file) = (store.clone(), node.clone());
    let remember = move |servers: &[String]| {
        let file = NodeFile { servers: servers.to_vec(), ..file.clone() };
        if let Err(error) = store.save(&file) {
            tracing::warn!("cannot remember where servers are: {error}");
        }
    };
    QuicConnector::new(config.bind_addr, credentials.subscribe(), node.servers.clone(), remember)
}
