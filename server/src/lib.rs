//! The truth of a mesh: Raft, the replicated state, the certificate authority, and the service that agents call.
//!
//! [`Server::start`] gives a [`ServerHandle`]; everything else is reached over links, on the same host too.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod autopilot;
pub mod backup;
mod ca;
mod config;
mod expiry;
mod feed;
mod govern;
mod hosts;
mod issue;
mod keeper;
mod liveness;
mod machine;
mod metrics;
mod peers;
pub mod raft;
mod reap;
pub mod recover;
mod rpc;
mod start;
mod state;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::{Command, JoinToken};
use purlin_model::node::NodeRole;
use purlin_model::{Fault, Millis};
use purlin_wire::link::Connector;
use purlin_wire::memory::MemoryConnector;
use purlin_wire::quic::QuicServer;
use purlin_wire::tls::{Credentials, fingerprint};
use purlin_wire::token::{JoinTokenText, Secret};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Config, StartError, system_clock};
pub use rpc::Clock;

/// How long calls that are under way may take to end at a stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A server of the mesh.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens what lies in the data directory and serves it. With `bootstrap` an empty one becomes a new mesh; one
    /// that holds a mesh already is served as it is (see [`ServerHandle::already_bootstrapped`]).
    pub async fn start(config: Config, bootstrap: bool) -> Result<ServerHandle, StartError> {
        Box::pin(start::start(config, bootstrap)).await
    }
}

/// A running server. Dropping it ends its tasks without ceremony; [`ServerHandle::stop`] does so in order.
pub struct ServerHandle {
    service: Arc<rpc::Service>,
    quic: Arc<QuicServer>,
    connector: Arc<MemoryConnector>,
    credentials: watch::Receiver<Arc<Credentials>>,
    already_bootstrapped: bool,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Which part ended by itself.
    failed: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("node", &self.service.node).finish_non_exhaustive()
    }
}

impl ServerHandle {
    /// Runs beside all else until it is done or the server stops.
    fn spawn_once(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// For the agent of this host: links to this server without a network.
    pub fn connector(&self) -> Arc<dyn Connector> {
        self.connector.clone()
    }

    /// This host's certificate, which the server renews; the agent of this host uses the same.
    pub fn credentials(&self) -> watch::Receiver<Arc<Credentials>> {
        self.credentials.clone()
    }

    /// Whether there was a mesh in the data directory before this start.
    pub fn already_bootstrapped(&self) -> bool {
        self.already_bootstrapped
    }

    /// Where it listens for other hosts.
    pub fn quic_addrs(&self) -> Vec<SocketAddr> {
        self.quic.local_addrs()
    }

    /// A new join token, as text to hand to somebody. Only its secret's SHA-256 stays here.
    pub async fn create_join_token(&self, role: NodeRole, ttl: Duration, uses: u32) -> Result<String, Fault> {
        let internal =
            |why: &dyn std::fmt::Display| Fault::internal(format!("cannot make a join token: {why}"));
        let secret = Secret::generate().map_err(|why| internal(&why))?;
        let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let created = self.service.now();
        let token = JoinToken {
            id: id.clone(),
            secret_sha256: secret.sha256(),
            role,
            expires: created.plus(ttl),
            uses,
            created,
        };
        self.service.propose_own(Command::CreateJoinToken(token)).await?.result?;
        let state = self.service.hub.state();
        let mesh = state.mesh_info().ok_or_else(|| internal(&"there is no mesh"))?;
        let roots = rpc::roots(mesh)?;
        let root = roots.first().ok_or_else(|| internal(&"the mesh has no root certificate"))?;
        let text = JoinTokenText {
            servers: state.server_addresses(),
            ca_fingerprint: fingerprint(root),
            trust_domain: mesh.trust_domain.clone(),
            role,
            id,
            secret,
        };
        text.encode().map_err(|why| internal(&why))
    }

    /// Prometheus' text form, without the mark of its end.
    pub fn metrics_text(&self) -> String {
        metrics::text(&self.service, &self.quic)
    }

    /// The same, for whoever answers scrapes while the handle is elsewhere.
    pub fn metrics_reader(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let (service, quic) = (self.service.clone(), self.quic.clone());
        move || metrics::text(&service, &quic)
    }

    /// The server's wall clock.
    pub fn now(&self) -> Millis {
        self.service.now()
    }

    /// Resolves, with the reason, when this server cannot go on: the process must end.
    pub async fn dead(&self) -> String {
        let mut failed = self.failed.subscribe();
        let part = async {
            match failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
                Some(why) => why,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = self.service.raft.dead() => why,
            why = part => why,
        }
    }

    /// Leaves the cluster, where there are others: before a stop from which nobody shall wait for this server.
    pub async fn leave(&self) {
        Box::pin(self.service.leave_cluster()).await;
    }

    /// Stops in order: links are told, calls end, files are closed. What was acknowledged stays.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.quic.close("the server stops").await;
        if tokio::time::timeout(STOP_WAIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some calls did not end within {STOP_WAIT:?} of the stop");
        }
        self.service.raft.shutdown().await;
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
