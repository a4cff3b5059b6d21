//! Probes: this host answers those of other hosts, and probes one where a server asks it to.
//!
//! A host that no server hears is not failed as long as any other reaches its agent. Where the port cannot be had, all
//! else goes on: the host is then judged by its session alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::{Fault, NodeName};
use purlin_wire::link::Stream;
use purlin_wire::quic::{Alive, ProbeEndpoint};
use purlin_wire::rpc::{self, Call, Probe, Probed};
use purlin_wire::tls::Credentials;
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// A probe that is asked for takes no longer, whatever the asker says.
const LONGEST: Duration = Duration::from_secs(5);

/// Where this host probes and is probed from.
pub struct ProbePort {
    /// Absent: it answers no probes.
    pub listen: Option<SocketAddr>,
    /// To probe others from, where it does not listen.
    pub bind: IpAddr,
    /// By which others reach it.
    pub advertise: IpAddr,
    pub credentials: watch::Receiver<Arc<Credentials>>,
}

/// Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Prober {
    endpoint: Option<Arc<ProbeEndpoint>>,
    /// `host:port`, where it answers.
    address: Option<String>,
}

impl Prober {
    /// Opens the port. What fails is told in the log: there are then no probes, and nothing else is missing.
    pub(crate) fn open(port: ProbePort, node: &NodeName) -> Self {
        let ProbePort { listen, bind, advertise, credentials } = port;
        if let Some(listen) = listen {
            let alive = Alive { node: node.clone(), boot: uuid::Uuid::new_v4() };
            match ProbeEndpoint::listen(listen, credentials.clone(), &alive) {
                Ok(endpoint) => {
                    let address =
                        endpoint.local_addr().map(|at| SocketAddr::new(advertise, at.port()).to_string());
                    info!(address, "probes of other hosts are answered");
                    return Self { endpoint: Some(Arc::new(endpoint)), address };
                }
                Err(error) => warn!(
                    "{error}: other hosts cannot tell the servers that this one lives when they do not hear it"
                ),
            }
        }
        let endpoint = ProbeEndpoint::only_ask(bind, credentials)
            .inspect_err(|error| warn!("this host cannot probe others: {error}"));
        Self { endpoint: endpoint.ok().map(Arc::new), address: None }
    }

    /// Where this host answers probes.
    pub(crate) fn address(&self) -> Option<String> {
        self.address.clone()
    }

    async fn probe(&self, call: &Call) -> Result<Probed, Fault> {
        let Probe { node, address, within_ms } = call.decode()?;
        let endpoint =
            self.endpoint.as_ref().ok_or_else(|| Fault::unavailable("this host cannot probe others"))?;
        let within = Duration::from_millis(within_ms).min(LONGEST);
        let alive = endpoint.probe(&node, &address, within).await?;
        debug!(%node, address, "probed a host for a server, and it answered");
        Ok(Probed { boot: alive.boot })
    }

    /// Answers a call of the server.
    pub(super) async fn answer(self, mut stream: Stream) {
        let Ok(call) = rpc::read_call(&mut stream).await else { return };
        let answer = match call.method.as_str() {
            rpc::PROBE => self.probe(&call).await,
            _ => {
                debug!(method = %call.method, "the server made a call that this build does not know");
                Err(call.unknown())
            }
        };
        // A server that hung up does not wait for it.
        let _ = rpc::reply(&mut stream, &answer).await;
    }
}
