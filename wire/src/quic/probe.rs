//! Probes between hosts: whether the agent of a host lives, found out by another host when no server hears it.
//!
//! Who is asked needs no question: once the handshake has proved that a member of this mesh is there, it says on a
//! stream of its own which run of which host it is, and takes nothing. A host asks from the same socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::NodeName;
use purlin_model::identity::{Subject, TrustDomain};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{BindError, CLOSED, error, socket};
use crate::frame;
use crate::link::LinkError;
use crate::tls::{self, Credentials, IdentityCheck, Presence, TlsError};

const ALPN_PROBE: &[u8] = b"purlin-probe/1";
/// Hosts that probe this one at once; beyond half of it an address must first prove that it can hear us.
const PROBES_MAX: usize = 32;
const INCOMING_MAX: usize = 64;
/// For one probe, on the side that answers.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
const IDLE_TIMEOUT_MS: u32 = 3_000;
/// Of the answer.
const ANSWER_BYTES: usize = 1024;
/// Never looked up or verified: who the host is, its SPIFFE id tells.
const SERVER_NAME: &str = "probe.purlin.internal";

/// Who answers. Fields of later versions are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    pub node: NodeName,
    /// Of this run of its agent.
    pub boot: uuid::Uuid,
}

/// Probes other hosts, and answers their probes where it listens.
#[derive(Debug)]
pub struct ProbeEndpoint {
    endpoint: Endpoint,
    credentials: watch::Receiver<Arc<Credentials>>,
    /// Held for their drop: they end with this.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl ProbeEndpoint {
    /// Answers on `listen` as the host that the credentials are of.
    pub fn listen(
        listen: SocketAddr,
        mut credentials: watch::Receiver<Arc<Credentials>>,
        alive: &Alive,
    ) -> Result<Self, BindError> {
        let config = server_config(&credentials.borrow_and_update())?;
        let endpoint = open(listen, Some(config)).map_err(|source| BindError::Socket {
            address: listen,
            source,
            key: "ports.probe",
        })?;
        let answer = frame::encode_within(alive, ANSWER_BYTES)
            .map_err(|why| BindError::Tls(TlsError::Setup(why.to_string())))?;
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(attend(endpoint.clone(), answer))),
            AbortOnDropHandle::new(tokio::spawn(swap_config(endpoint.clone(), credentials.clone()))),
        ];
        Ok(Self { endpoint, credentials, _tasks: tasks })
    }

    /// Asks from a port of the system's choice, and answers nobody.
    pub fn only_ask(bind: IpAddr, credentials: watch::Receiver<Arc<Credentials>>) -> std::io::Result<Self> {
        let endpoint = open(SocketAddr::new(bind, 0), None)?;
        Ok(Self { endpoint, credentials, _tasks: Vec::new() })
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// Whether the agent of that host answers at `address` (`host:port`); it must prove that it is that host.
    pub async fn probe(&self, node: &NodeName, address: &str, within: Duration) -> Result<Alive, LinkError> {
        let unreachable = |why: String| LinkError::Unreachable { address: address.into(), why };
        match timeout(within, self.ask(node, address)).await {
            Ok(asked) => asked,
            Err(_) => Err(unreachable(format!("no answer within {} ms", within.as_millis()))),
        }
    }

    async fn ask(&self, node: &NodeName, address: &str) -> Result<Alive, LinkError> {
        let unreachable = |why: String| LinkError::Unreachable { address: address.into(), why };
        let credentials = self.credentials.borrow().clone();
        let check = host_of(credentials.identity().trust_domain.clone(), node.clone());
        let (verifier, verdict) = tls::recorded(tls::server_verifier(credentials.root_store(), check));
        let config = client_config(&credentials, verifier)
            .map_err(|why| LinkError::Untrusted { address: address.into(), why: why.to_string() })?;
        let mut found = lookup_host(address).await.map_err(|why| unreachable(why.to_string()))?;
        let to = found.next().ok_or_else(|| unreachable("its name has no address".into()))?;
        let connecting = self
            .endpoint
            .connect_with(config, to, SERVER_NAME)
            .map_err(|why| unreachable(why.to_string()))?;
        let failed = |why: &quinn::ConnectionError| error::not_connected(address, why, verdict.get());
        let connection = connecting.await.map_err(|why| failed(&why))?;
        let mut stream = connection.accept_uni().await.map_err(|why| failed(&why))?;
        let alive = frame::read::<Alive>(&mut stream, ANSWER_BYTES).await;
        connection.close(CLOSED, b"");
        match alive {
            Ok(Some(alive)) if alive.node == *node => Ok(alive),
            Ok(_) => Err(unreachable("its answer is of another host".into())),
            Err(why) => Err(unreachable(why.to_string())),
        }
    }
}

/// The agent or the server of that host.
fn host_of(domain: TrustDomain, node: NodeName) -> IdentityCheck {
    Arc::new(move |found| {
        let name = match &found.subject {
            Subject::Agent { node, .. } | Subject::Server { node, .. } => Some(node),
            Subject::Service { .. } => None,
        };
        if found.trust_domain == domain && name == Some(&node) {
            return Ok(());
        }
        Err(format!("it is {found}, not host {node} of {domain}"))
    })
}

fn open(address: SocketAddr, config: Option<ServerConfig>) -> std::io::Result<Endpoint> {
    let socket = socket::bind(address)?;
    Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(TokioRuntime))
}

/// `uni`: streams that the other end may open.
fn transport(uni: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(uni))
        .receive_window(VarInt::from_u32(16 * 1024))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let check = tls::member_of(credentials.identity().trust_domain.clone());
    let verifier = tls::client_verifier(credentials.root_store(), Presence::Required, check)?;
    let config = tls::server_config(credentials, verifier, &[ALPN_PROBE])?;
    let config = QuicServerConfig::try_from(config).map_err(|e| TlsError::Setup(e.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(config));
    config.transport_config(transport(0)).max_incoming(INCOMING_MAX);
    Ok(config)
}

fn client_config(
    credentials: &Credentials,
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let config = tls::client_config(credentials, verifier, &[ALPN_PROBE])?;
    let config = QuicClientConfig::try_from(config).map_err(|e| TlsError::Setup(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(config));
    config.transport_config(transport(1));
    Ok(config)
}

async fn swap_config(endpoint: Endpoint, mut credentials: watch::Receiver<Arc<Credentials>>) {
    while credentials.changed().await.is_ok() {
        let config = server_config(&credentials.borrow_and_update());
        match config {
            Ok(config) => endpoint.set_server_config(Some(config)),
            Err(error) => {
                tracing::error!(%error, "new credentials cannot be used for probes, the old stay in force")
            }
        }
    }
}

async fn attend(endpoint: Endpoint, answer: bytes::Bytes) {
    let room = Arc::new(Semaphore::new(PROBES_MAX));
    let probes = TaskTracker::new();
    while let Some(incoming) = endpoint.accept().await {
        let busy = room.available_permits() < PROBES_MAX / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // It comes again with a proof of its address, or it was not there.
            let _ = incoming.retry();
            continue;
        }
        let Ok(place) = room.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let answer = answer.clone();
        probes.spawn(async move {
            let answered = timeout(ANSWERED_WITHIN, reply(incoming, &answer)).await;
            if let Ok(Err(why)) = answered {
                tracing::debug!(why, "a probe was not answered");
            }
            drop(place);
        });
    }
}

async fn reply(incoming: Incoming, answer: &[u8]) -> Result<(), String> {
    let remote = incoming.remote_address();
    let connecting = incoming.accept().map_err(|why| error::not_accepted(&why))?;
    let connection = connecting.await.map_err(|why| {
        let why = error::not_accepted(&why);
        tracing::warn!(%remote, why, "probe refused");
        why
    })?;
    let mut stream = connection.open_uni().await.map_err(|why| why.to_string())?;
    stream.write_all(answer).await.map_err(|why| why.to_string())?;
    stream.finish().map_err(|why| why.to_string())?;
    connection.closed().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::testing::TestCa;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn held(credentials: Credentials) -> watch::Receiver<Arc<Credentials>> {
        watch::channel(Arc::new(credentials)).1
    }

    fn answering(ca: &TestCa, node: &str) -> (ProbeEndpoint, String, Alive) {
        let alive = Alive { node: name(node), boot: uuid::Uuid::new_v4() };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = ProbeEndpoint::listen(any, held(ca.issue(&ca.agent(node))), &alive).unwrap();
        let address = endpoint.local_addr().unwrap().to_string();
        (endpoint, address, alive)
    }

    fn asking(credentials: Credentials) -> ProbeEndpoint {
        ProbeEndpoint::only_ask(Ipv4Addr::LOCALHOST.into(), held(credentials)).unwrap()
    }

    #[tokio::test]
    async fn a_member_hears_who_lives_there() {
        let ca = TestCa::new("td.mesh.internal");
        let (one, address, alive) = answering(&ca, "a");
        let (other, ..) = answering(&ca, "b");
        assert_eq!(other.probe(&name("a"), &address, PATIENCE).await.unwrap(), alive);
        let server = asking(ca.issue(&ca.server("s")));
        assert_eq!(server.probe(&name("a"), &address, PATIENCE).await.unwrap(), alive);
        drop(one);
    }

    #[tokio::test]
    async fn another_host_at_that_address_is_not_taken_for_it() {
        let ca = TestCa::new("td.mesh.internal");
        let (_one, address, _) = answering(&ca, "a");
        let asker = asking(ca.issue(&ca.agent("b")));
        let error = asker.probe(&name("c"), &address, PATIENCE).await.unwrap_err();
        assert!(
            matches!(error, LinkError::Untrusted { .. }) && error.to_string().contains("not host c"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn who_is_of_another_mesh_or_a_service_gets_no_answer() {
        let ca = TestCa::new("td.mesh.internal");
        let (_one, address, _) = answering(&ca, "a");
        let stranger = TestCa::new("td.mesh.internal");
        let (_fake, fake, _) = answering(&stranger, "a");
        let member = asking(ca.issue(&ca.agent("b")));
        assert!(member.probe(&name("a"), &fake, PATIENCE).await.is_err(), "another authority");
        let asker = asking(stranger.issue(&stranger.agent("b")));
        assert!(asker.probe(&name("a"), &address, PATIENCE).await.is_err());
        let service = asking(ca.issue(&ca.service("web")));
        assert!(service.probe(&name("a"), &address, PATIENCE).await.is_err(), "a service is no host");
    }

    #[tokio::test]
    async fn nobody_there_is_known_when_the_time_is_over() {
        let ca = TestCa::new("td.mesh.internal");
        let asker = asking(ca.issue(&ca.agent("b")));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = asker.probe(&name("a"), &address, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 50 ms"), "{error}");
    }
}
