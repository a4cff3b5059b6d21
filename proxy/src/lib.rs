//! Moves the traffic of one host: every service of it, each with its own identity, in one process.
//!
//! It knows the view that it is handed and nothing of agent or server; the last view stays in force until the next
//! comes. Control lives in one task (`owner`), traffic in worker threads (`worker`) that share nothing they write.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod agent;
mod app;
mod authorize;
mod balance;
mod body;
mod bond;
mod config;
mod dial;
mod http;
mod inbound;
mod listen;
mod live;
mod outbound;
mod owner;
mod pool;
mod relay;
mod reply;
mod report;
mod route;
mod serve;
mod sniff;
mod socket;
mod state;
mod stream;
mod tunnel;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use agent::AgentStream;
pub use config::{Config, Limits, LogLevelHook};
pub use socket::SocketError;

use owner::{Owner, Request};
use report::Metrics;

/// Why a proxy cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("a proxy needs a runtime directory for its socket")]
    NoRuntimeDir,
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("worker thread cannot be started: {source}")]
    Thread { source: std::io::Error },
    #[error("a worker thread ended by a bug; the proxy must be started anew")]
    WorkerDied,
    #[error("signals cannot be received: {0}")]
    Signal(std::io::Error),
}

/// The view that is in force on all workers, and listeners that could not be opened, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub revision: u64,
    pub failed_listeners: Vec<(String, String)>,
}

/// Starts proxies; see [`run`] for one that is a process of its own.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Listens for the agent on `proxy.sock` in the runtime directory. Must be called within a runtime.
    pub fn start(config: Config) -> Result<ProxyHandle, ProxyError> {
        let runtime_dir = config.runtime_dir.as_deref().ok_or(ProxyError::NoRuntimeDir)?;
        let socket = socket::AgentSocket::open(runtime_dir)?;
        start(config, Some(socket))
    }

    /// In the agent's process: the same frames over a stream in memory. Must be called within a runtime.
    pub fn start_with_stream(config: Config, agent: impl AgentStream) -> Result<ProxyHandle, ProxyError> {
        let handle = start(config, None)?;
        handle.attach(agent);
        Ok(handle)
    }
}

fn start(config: Config, socket: Option<socket::AgentSocket>) -> Result<ProxyHandle, ProxyError> {
    let metrics = Arc::new(Metrics::new(config.limits.edges));
    let (applied, is_applied) = watch::channel(Applied::default());
    let (requests, asked) = mpsc::channel(16);
    let (owner, heard) = Owner::start(config, metrics.clone(), applied)?;
    let task = tokio::spawn(owner.run(socket, heard, asked));
    Ok(ProxyHandle { requests, applied: is_applied, metrics, task })
}

/// A running proxy. Dropping it stops the proxy at once.
#[derive(Debug)]
pub struct ProxyHandle {
    requests: mpsc::Sender<Request>,
    applied: watch::Receiver<Applied>,
    metrics: Arc<Metrics>,
    task: JoinHandle<Result<(), ProxyError>>,
}

impl ProxyHandle {
    /// What is in force, to look at or to wait for.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Prometheus text, without an end mark.
    pub fn metrics_text(&self) -> String {
        self.metrics.text()
    }

    /// Another agent takes over, as one does that was started anew.
    pub fn attach(&self, agent: impl AgentStream) {
        // A proxy that has ended needs no agent.
        let _ = self.requests.try_send(Request::Attach(Box::new(agent)));
    }

    /// Takes nothing new, lets what is under way end until the deadline (absent: the configured one), and stops.
    pub async fn drain(self, deadline: Option<Duration>) -> Result<(), ProxyError> {
        let _ = self.requests.send(Request::Drain { deadline }).await;
        self.wait().await
    }

    /// Cuts what is under way.
    pub async fn stop(self) -> Result<(), ProxyError> {
        let _ = self.requests.send(Request::Stop).await;
        self.wait().await
    }

    /// Until it ends by itself: its agent may have told it to drain.
    pub async fn wait(self) -> Result<(), ProxyError> {
        let Self { requests, task, .. } = self;
        let ended = task.await;
        drop(requests);
        // A task that did not end by itself did so by a bug.
        ended.unwrap_or(Err(ProxyError::WorkerDied))
    }
}

/// The whole life of a proxy process: until SIGTERM or SIGINT, after which it drains, or until its agent has it drain.
/// `ready` is called when an agent can connect.
pub async fn run(config: Config, ready: impl FnOnce()) -> Result<(), ProxyError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProxyError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProxyError::Signal)?;
    let handle = Proxy::start(config)?;
    let requests = handle.requests.clone();
    ready();
    let mut ended = std::pin::pin!(handle.wait());
    tokio::select! {
        ended = &mut ended => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // If it ended at this moment there is nobody to drain.
    let _ = requests.send(Request::Drain { deadline: None }).await;
    tokio::select! {
        ended = &mut ended => ended,
        // Asked twice: whoever asks does not want to wait.
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
