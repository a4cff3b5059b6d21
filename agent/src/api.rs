//! The HTTP API of this host: Consul's paths, parameters and JSON, and Purlin's own things in the same style.
//!
//! A connection is accepted, counted and bounded here; what a path answers stands in `api/`, one file a subject.
//! Every read of what the agent follows is answered without a server.

mod agent;
mod agent_check;
mod agent_health;
mod agent_host;
mod agent_service;
mod answer;
mod authorize;
mod ca_config;
mod catalog;
mod catalog_write;
mod config;
mod connect;
mod dispatch;
mod event;
mod health;
mod intentions;
mod join_token;
mod kv;
mod linger;
mod listen;
mod lookup;
mod members;
mod metrics;
mod operator;
mod query;
mod read;
mod request;
mod router;
mod routes;
mod session;
mod shape;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod txn;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::Fault;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::HttpOptions;
use crate::core::Core;

/// How long open requests may go on when the API closes.
const CLOSING: Duration = Duration::from_secs(1);

/// Where the API listens, opened already, so that a busy port is known before anything starts.
#[derive(Debug, Default)]
pub struct ApiListeners {
    pub tcp: Vec<TcpListener>,
    /// With the path of its file, which is removed at the end.
    pub unix: Option<(UnixListener, PathBuf)>,
    /// Feeds `agent/monitor`; absent: the logs cannot be followed over the API.
    pub logs: Option<LogTap>,
}

/// Gives log lines from now on, at that level and above; a reader that is too slow misses some.
#[derive(Clone)]
pub struct LogTap(pub Arc<dyn Fn(&LogRequest) -> LogLines + Send + Sync>);

/// The lines, or why there are none for this follower.
pub type LogLines = Result<mpsc::Receiver<String>, String>;

/// What a follower of logs asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub json: bool,
}

impl fmt::Debug for LogTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogTap")
    }
}

impl ApiListeners {
    /// Opens what `options` names. The Unix socket is for its owner alone, as it may hand out keys.
    pub async fn bind(options: &HttpOptions) -> Result<Self, Fault> {
        let mut tcp = Vec::with_capacity(options.listen.len());
        for address in &options.listen {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                Fault::invalid(format!(
                    "cannot listen on {address} for the HTTP API: {error}: choose another port"
                ))
            })?;
            tcp.push(listener);
        }
        let unix = match &options.socket {
            None => None,
            Some(path) => Some((listen::bind_unix(path)?, path.clone())),
        };
        Ok(Self { tcp, unix, logs: None })
    }
}

/// What every handler may use.
struct Api {
    core: Core,
    logs: Option<LogTap>,
    deliveries: event::Deliveries,
}

/// A running API. Dropping it stops it at once; `close` lets open requests finish.
#[derive(Debug)]
pub struct ApiHandle {
    addresses: Vec<SocketAddr>,
    socket: Option<PathBuf>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl ApiHandle {
    /// Where it listens on TCP, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn socket(&self) -> Option<&PathBuf> {
        self.socket.as_ref()
    }

    /// Takes no more connections, and gives open requests a moment.
    pub async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        // Connections cut themselves off at the same time; this only waits for them.
        let _ = tokio::time::timeout(CLOSING * 2, self.tasks.wait()).await;
    }
}

impl Drop for ApiHandle {
    fn drop(&mut self) {
        self.closing.cancel();
        if let Some(path) = &self.socket {
            // A socket file that stays behind is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Answers on every listener until the handle is closed or dropped.
pub async fn serve(core: Core, listeners: ApiListeners) -> Result<ApiHandle, Fault> {
    let mut addresses = Vec::with_capacity(listeners.tcp.len());
    for listener in &listeners.tcp {
        let address =
            listener.local_addr().map_err(|error| Fault::internal(format!("HTTP listener: {error}")))?;
        addresses.push(address);
    }
    let closing = CancellationToken::new();
    let tasks = TaskTracker::new();
    let api = Arc::new(Api { core, logs: listeners.logs, deliveries: event::Deliveries::default() });
    let front = listen::Front::new(api, closing.clone(), tasks.clone());
    let mut socket = None;
    if let Some((listener, path)) = listeners.unix {
        socket = Some(path);
        tasks.spawn(front.clone().accept_unix(listener));
    }
    for listener in listeners.tcp {
        tasks.spawn(front.clone().accept_tcp(listener));
    }
    Ok(ApiHandle { addresses, socket, closing, tasks })
}
