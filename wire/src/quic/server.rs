//! The server's side: takes connections, finds out who comes, hands over links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use purlin_model::identity::TrustDomain;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::link::QuicLink;
use super::{CLOSED, REFUSED, STRANGER_STREAMS, WELCOME, error, socket, transport};
use crate::link::{Link, Peer};
use crate::tls::{self, ALPN_JOIN, ALPN_MEMBER, ControlCertificate, Credentials, Presence, TlsError};

/// Handshakes under way; beyond half of it an address must first prove that it can hear us.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one endpoint.
const CONNECTIONS_MAX: usize = 20_000;
/// Links that were made and not yet accepted.
const PENDING_LINKS: usize = 64;
/// Those who join: how many at once, and for how long.
pub(super) const STRANGERS_MAX: usize = 64;
const STRANGER_LIFE: Duration = Duration::from_secs(60);
/// Packets that wait for a handshake to begin.
const INCOMING_MAX: usize = 1024;
/// For the last packets to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// With the key of the configuration that sets the port.
    #[error("cannot listen on udp {address}: {source}; free the port or set another one ({key})")]
    Socket { address: SocketAddr, source: std::io::Error, key: &'static str },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Takes connections of members and of those who join. Dropping it takes no more; links that were handed over live on.
#[derive(Debug)]
pub struct QuicServer {
    endpoints: Vec<Endpoint>,
    links: Mutex<mpsc::Receiver<Arc<dyn Link>>>,
    refused: Arc<AtomicU64>,
    /// Held for their drop: they end with this.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl QuicServer {
    /// Listens on each address. Credentials that change hold for new connections; those that are there stay.
    pub fn bind(
        addresses: &[SocketAddr],
        mut credentials: watch::Receiver<Arc<Credentials>>,
        domain: TrustDomain,
    ) -> Result<Self, BindError> {
        let config = server_config(&credentials.borrow_and_update(), &domain)?;
        let (accepted, links) = mpsc::channel(PENDING_LINKS);
        let door = Door {
            accepted,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            refused: Arc::default(),
        };
        let refused = door.refused.clone();
        let mut endpoints = Vec::new();
        let mut tasks = Vec::new();
        for address in addresses {
            let endpoint = listen(*address, config.clone()).map_err(|source| BindError::Socket {
                address: *address,
                source,
                key: "ports.server",
            })?;
            tasks.push(AbortOnDropHandle::new(tokio::spawn(attend(endpoint.clone(), door.clone()))));
            endpoints.push(endpoint);
        }
        let swap = swap_config(endpoints.clone(), credentials, domain);
        tasks.push(AbortOnDropHandle::new(tokio::spawn(swap)));
        Ok(Self { endpoints, links: Mutex::new(links), refused, _tasks: tasks })
    }

    /// The next link; `None` once closed. Cancel safe.
    pub async fn accept(&self) -> Option<Arc<dyn Link>> {
        self.links.lock().await.recv().await
    }

    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.local_addr().ok()).collect()
    }

    /// Handshakes that were refused since the start: of strangers, of other meshes, without a certificate.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections that are there, for metrics.
    pub fn connections(&self) -> usize {
        self.endpoints.iter().map(Endpoint::open_connections).sum()
    }

    /// Tells every client why, and waits shortly until they were told.
    pub async fn close(&self, reason: &str) {
        for endpoint in &self.endpoints {
            endpoint.close(CLOSED, reason.as_bytes());
        }
        for endpoint in &self.endpoints {
            // A client that does not confirm learns it from its idle timeout.
            let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        }
    }
}

fn listen(address: SocketAddr, config: ServerConfig) -> std::io::Result<Endpoint> {
    let socket = socket::bind(address)?;
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
}

fn server_config(credentials: &Credentials, domain: &TrustDomain) -> Result<ServerConfig, TlsError> {
    let check = tls::member_of(domain.clone());
    let verifier = tls::client_verifier(credentials.root_store(), Presence::Optional, check)?;
    let certificates = Arc::new(ControlCertificate::new(credentials));
    let config = tls::server_config_with(certificates, verifier, &[ALPN_MEMBER, ALPN_JOIN])?;
    let config = QuicServerConfig::try_from(config).map_err(|e| TlsError::Setup(e.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(config));
    config.transport_config(transport(0)).max_incoming(INCOMING_MAX);
    Ok(config)
}

async fn swap_config(
    endpoints: Vec<Endpoint>,
    mut credentials: watch::Receiver<Arc<Credentials>>,
    domain: TrustDomain,
) {
    while credentials.changed().await.is_ok() {
        let config = server_config(&credentials.borrow_and_update(), &domain);
        match config {
            Ok(config) => {
                for endpoint in &endpoints {
                    endpoint.set_server_config(Some(config.clone()));
                }
            }
            Err(error) => tracing::error!(%error, "new credentials cannot be used, the old stay in force"),
        }
    }
}

/// What the handshakes of all endpoints share.
#[derive(Debug, Clone)]
struct Door {
    accepted: mpsc::Sender<Arc<dyn Link>>,
    handshakes: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
}

/// Takes what comes in on one endpoint. Its handshakes end with it.
async fn attend(endpoint: Endpoint, door: Door) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => door.admit(&endpoint, incoming, &mut handshakes),
                None => return,
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}

impl Door {
    fn admit(&self, endpoint: &Endpoint, incoming: Incoming, handshakes: &mut JoinSet<()>) {
        let remote = incoming.remote_address();
        let busy = self.handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%remote, %error, "cannot ask for a proof of address");
            }
            return;
        }
        let permit = match self.handshakes.clone().try_acquire_owned() {
            Ok(permit) if endpoint.open_connections() < CONNECTIONS_MAX => permit,
            _ => {
                tracing::warn!(%remote, "connection refused: too many at once");
                incoming.refuse();
                return;
            }
        };
        let door = self.clone();
        handshakes.spawn(async move {
            let met = timeout(HANDSHAKE_TIMEOUT, meet(incoming)).await;
            let (connection, peer) = match met {
                Ok(Ok(met)) => met,
                Ok(Err(why)) => {
                    door.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%remote, why, "connection refused");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%remote, "handshake was not completed in time");
                    return;
                }
            };
            door.hand_over(connection, peer).await;
            drop(permit);
        });
    }

    async fn hand_over(&self, connection: Connection, peer: Peer) {
        let remote = connection.remote_address().to_string();
        let visit = match peer {
            Peer::Member { .. } => None,
            Peer::Stranger => match self.host_stranger(&connection) {
                Some(visit) => Some(visit),
                None => return,
            },
        };
        let welcomed = timeout(HANDSHAKE_TIMEOUT, welcome(&connection)).await;
        if let Err(error) = welcomed.unwrap_or_else(|_| Err("it takes no welcome".into())) {
            tracing::debug!(remote, error, "connection ended before it was welcomed");
            return;
        }
        let link = Arc::new(QuicLink::new(connection, peer, remote).visiting(visit));
        if let Err(unwanted) = self.accepted.send(link).await {
            unwanted.0.close("the server stops");
        }
    }

    /// One who joins gets few streams and little time.
    fn host_stranger(&self, connection: &Connection) -> Option<Visit> {
        let Ok(permit) = self.strangers.clone().try_acquire_owned() else {
            connection.close(REFUSED, b"too many hosts join at once; try again");
            return None;
        };
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(STRANGER_STREAMS));
        let guest = connection.clone();
        let show_out = async move {
            if timeout(STRANGER_LIFE, guest.closed()).await.is_err() {
                guest.close(REFUSED, b"joining took too long");
            }
        };
        let clock = AbortOnDropHandle::new(tokio::spawn(show_out));
        Some(Visit { _permit: permit, _clock: clock })
    }
}

/// The place that one who joins takes up, given back with its link.
#[derive(Debug)]
pub(super) struct Visit {
    _permit: OwnedSemaphorePermit,
    _clock: AbortOnDropHandle<()>,
}

/// Completes the handshake and finds out who it is.
async fn meet(incoming: Incoming) -> Result<(Connection, Peer), String> {
    let connecting = incoming.accept().map_err(|e| error::not_accepted(&e))?;
    let connection = connecting.await.map_err(|e| error::not_accepted(&e))?;
    let peer = identify(&connection).inspect_err(|why| connection.close(REFUSED, why.as_bytes()))?;
    Ok((connection, peer))
}

fn identify(connection: &Connection) -> Result<Peer, String> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = data.and_then(|data| data.protocol);
    if protocol.as_deref() == Some(ALPN_JOIN) {
        return Ok(Peer::Stranger);
    }
    member(connection).ok_or_else(|| "a member must show a certificate; join first".into())
}

/// Who is at the other end by its certificate, which the handshake has verified.
pub(super) fn member(connection: &Connection) -> Option<Peer> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let leaf = chain.first()?;
    let identity = tls::spiffe_identity(leaf).ok()?;
    let signed_it = |other: &&CertificateDer<'_>| tls::is_signed_by(leaf, other);
    let issuer = chain.iter().skip(1).find(signed_it).map(|issuer| tls::fingerprint(issuer));
    Some(Peer::Member { identity, certificate: tls::fingerprint(leaf), issuer })
}

async fn welcome(connection: &Connection) -> Result<(), String> {
    let mut stream = connection.open_uni().await.map_err(|e| e.to_string())?;
    stream.write_all(&[WELCOME]).await.map_err(|e| e.to_string())?;
    stream.finish().map_err(|e| e.to_string())
}
