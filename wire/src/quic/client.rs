//! The client's side: finds a server that answers, checks that it is one, and waits to be welcomed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use purlin_model::NodeName;
use purlin_model::identity::{Subject, TrustDomain};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectError, Connection, Endpoint, EndpointConfig, TokioRuntime};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::QuicLink;
use super::server::member;
use super::{CLOSED, CONNECT_TIMEOUT, WELCOME, error, socket, transport};
use crate::link::{Connector, Dial, Link, LinkError, Peer};
use crate::tls::{self, ALPN_JOIN, ALPN_MEMBER, Credentials, IdentityCheck, TlsError};

/// Servers that are remembered.
pub(super) const SERVERS_MAX: usize = 64;
/// Addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 8;
/// A server that has not answered by then is no longer waited for alone.
const STAGGER: Duration = Duration::from_millis(300);
/// Never looked up or verified: who the server is, its SPIFFE id tells.
const SERVER_NAME: &str = "server.purlin.internal";

type OnLearn = Box<dyn Fn(&[String]) + Send + Sync>;

/// Makes links to any of the servers it knows: the last good one first, the next beside it when that one is slow.
pub struct QuicConnector {
    dialer: QuicDialer,
    /// The last good one first, once there was one.
    servers: Mutex<Vec<String>>,
    was_good: AtomicBool,
    on_learn: OnLearn,
}

impl fmt::Debug for QuicConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicConnector").field("servers", &*self.servers()).finish_non_exhaustive()
    }
}

impl QuicConnector {
    /// `bind`: the address to send from. `servers`: `host:port` each. `on_learn` is told when the servers change.
    pub fn new(
        bind: IpAddr,
        credentials: watch::Receiver<Arc<Credentials>>,
        servers: Vec<String>,
        on_learn: impl Fn(&[String]) + Send + Sync + 'static,
    ) -> Self {
        Self {
            dialer: QuicDialer::new(bind, credentials),
            servers: Mutex::new(tidy(servers)),
            was_good: AtomicBool::new(false),
            on_learn: Box::new(on_learn),
        }
    }

    /// What is known of where servers are, the last good one first.
    pub fn known_servers(&self) -> Vec<String> {
        self.servers().clone()
    }

    fn servers(&self) -> MutexGuard<'_, Vec<String>> {
        // The list is whole after each statement under this lock, so a panic elsewhere does not spoil it.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As when their driver gave up on an error of the system.
    #[cfg(test)]
    pub(super) fn break_sockets(&self) {
        for slot in [&self.dialer.endpoints.v4, &self.dialer.endpoints.v6] {
            if let Some(endpoint) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
                endpoint.close(CLOSED, b"");
            }
        }
    }

    /// All of them, the first alone for a moment, then one more after the other.
    async fn connect_to_any(&self, servers: Vec<String>) -> Result<(String, Arc<dyn Link>), LinkError> {
        let mut waiting = servers.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            if let Some(server) = waiting.next() {
                attempts.push(self.connect_to(server));
            }
            let next_one = async {
                if waiting.len() == 0 { std::future::pending().await } else { sleep(STAGGER).await }
            };
            tokio::select! {
                biased;
                made = attempts.next() => match made {
                    Some((server, Ok(link))) => return Ok((server, link)),
                    Some((_, Err(error))) => failures.push(error),
                    None => return Err(sum_up(failures)),
                },
                () = next_one => {}
            }
        }
    }

    async fn connect_to(&self, server: String) -> (String, Result<Arc<dyn Link>, LinkError>) {
        let made = self.dialer.link(&server, tls::server_of(self.dialer.domain())).await;
        (server, made)
    }

    fn remember_good(&self, server: String) {
        self.was_good.store(true, Ordering::Relaxed);
        let mut servers = self.servers();
        if let Some(index) = servers.iter().position(|known| *known == server) {
            servers[..=index].rotate_right(1);
        }
    }
}

impl Connector for QuicConnector {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async {
            let servers = order(self.known_servers(), self.was_good.load(Ordering::Relaxed));
            let (server, link) = self.connect_to_any(servers).await?;
            self.remember_good(server);
            Ok(link)
        })
    }

    fn elsewhere<'a>(&'a self, not: &'a str) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            let others = self.known_servers().into_iter().filter(|server| server != not).collect();
            self.connect_to_any(order(others, false)).await.map(|(_, link)| link)
        })
    }

    fn learn(&self, learned: Vec<String>) {
        let learned = tidy(learned);
        if learned.is_empty() {
            return;
        }
        let mut servers = self.servers();
        let same = learned.len() == servers.len() && learned.iter().all(|server| servers.contains(server));
        if same {
            return;
        }
        let last_good = servers.first().cloned();
        let mut next = learned;
        if let Some(index) = next.iter().position(|server| Some(server) == last_good.as_ref()) {
            next[..=index].rotate_right(1);
        }
        servers.clone_from(&next);
        drop(servers);
        (self.on_learn)(&next);
    }
}

/// Makes links under one credential, from sockets of its own.
#[derive(Debug)]
pub struct QuicDialer {
    endpoints: Endpoints,
    credentials: watch::Receiver<Arc<Credentials>>,
}

impl QuicDialer {
    /// `bind`: the address to send from.
    pub fn new(bind: IpAddr, credentials: watch::Receiver<Arc<Credentials>>) -> Self {
        Self { endpoints: Endpoints::new(bind), credentials }
    }

    fn domain(&self) -> TrustDomain {
        self.credentials.borrow().identity().trust_domain.clone()
    }

    /// A link to whoever answers at `address`, if `check` takes who it is.
    async fn link(&self, address: &str, check: IdentityCheck) -> Result<Arc<dyn Link>, LinkError> {
        let untrusted = |why: String| LinkError::Untrusted { address: address.into(), why };
        let credentials = self.credentials.borrow().clone();
        let (verifier, verdict) = tls::recorded(tls::server_verifier(credentials.anchors(), check));
        let config = tls::client_config(&credentials, verifier, &[ALPN_MEMBER]).and_then(quic_config);
        let config = config.map_err(|error| untrusted(error.to_string()))?;
        let connection = self.endpoints.connect(address, &config, &verdict, CONNECT_TIMEOUT).await?;
        let peer = member(&connection).ok_or_else(|| untrusted("it shows no identity".into()))?;
        Ok(Arc::new(QuicLink::new(connection, peer, address.into())))
    }
}

impl Dial for QuicDialer {
    fn dial<'a>(
        &'a self,
        server: &'a NodeName,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        let (wanted, of_mesh) = (server.clone(), tls::server_of(self.domain()));
        let check: IdentityCheck = Arc::new(move |found| match &found.subject {
            Subject::Server { node, .. } if *node != wanted => Err(format!("it is {found}, not {wanted}")),
            _ => of_mesh(found),
        });
        Box::pin(self.link(address, check))
    }
}

/// Each once, not too many, none empty.
fn tidy(servers: Vec<String>) -> Vec<String> {
    let mut tidied: Vec<String> = Vec::new();
    for server in servers {
        let server = server.trim();
        if !server.is_empty() && !tidied.iter().any(|known| known == server) && tidied.len() < SERVERS_MAX {
            tidied.push(server.to_owned());
        }
    }
    tidied
}

/// One that was good first, the others in any order, so that not all agents fall upon the same one.
fn order(mut servers: Vec<String>, first_was_good: bool) -> Vec<String> {
    if let Some(others) = servers.get_mut(usize::from(first_was_good)..) {
        fastrand::shuffle(others);
    }
    servers
}

/// One failure speaks for itself; of many, distrust tells more than silence.
fn sum_up(mut failures: Vec<LinkError>) -> LinkError {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    if failures.is_empty() {
        let why = "no server is known; join again or set one in the configuration".into();
        return LinkError::Unreachable { address: "any server".into(), why };
    }
    let address = format!("any of {} servers", failures.len());
    let distrust = failures.iter().any(|failure| matches!(failure, LinkError::Untrusted { .. }));
    let why = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if distrust { LinkError::Untrusted { address, why } } else { LinkError::Unreachable { address, why } }
}

/// Connects to a server whose CA one knows by its fingerprint only, without a certificate: to join.
///
/// Names apart what can go wrong: nobody answers, another CA, refused.
pub async fn join_link(
    address: &str,
    ca_fingerprint: [u8; 32],
    deadline: Duration,
) -> Result<Arc<dyn Link>, LinkError> {
    let (verifier, verdict) = tls::recorded(tls::pinned_ca_verifier(ca_fingerprint));
    let config = tls::anonymous_client_config(verifier, &[ALPN_JOIN]).and_then(quic_config);
    let config = config.map_err(|e| LinkError::Untrusted { address: address.into(), why: e.to_string() })?;
    let endpoints = Endpoints::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let connection = endpoints.connect(address, &config, &verdict, deadline).await?;
    let peer = member(&connection).unwrap_or(Peer::Stranger);
    Ok(Arc::new(QuicLink::new(connection, peer, address.into())))
}

fn quic_config(config: rustls::ClientConfig) -> Result<ClientConfig, TlsError> {
    let config = QuicClientConfig::try_from(config).map_err(|e| TlsError::Setup(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(config));
    config.transport_config(transport(1));
    Ok(config)
}

/// The sockets to send from, one for each family, made when first used.
#[derive(Debug)]
struct Endpoints {
    bind: IpAddr,
    v4: Mutex<Option<Endpoint>>,
    v6: Mutex<Option<Endpoint>>,
}

impl Endpoints {
    fn new(bind: IpAddr) -> Self {
        Self { bind, v4: Mutex::new(None), v6: Mutex::new(None) }
    }

    async fn connect(
        &self,
        server: &str,
        config: &ClientConfig,
        verdict: &OnceLock<String>,
        deadline: Duration,
    ) -> Result<Connection, LinkError> {
        match timeout(deadline, self.connect_by_name(server, config, verdict)).await {
            Ok(made) => made,
            Err(_) => {
                let why = format!("{} (waited {} ms)", error::NO_ANSWER, deadline.as_millis());
                Err(LinkError::Unreachable { address: server.into(), why })
            }
        }
    }

    async fn connect_by_name(
        &self,
        server: &str,
        config: &ClientConfig,
        verdict: &OnceLock<String>,
    ) -> Result<Connection, LinkError> {
        let unreachable = |why: String| LinkError::Unreachable { address: server.into(), why };
        let addresses = lookup_host(server)
            .await
            .map_err(|e| unreachable(format!("its name has no address ({e}); expected host:port")))?;
        let mut attempts: FuturesUnordered<_> = addresses
            .take(ADDRESSES_MAX)
            .enumerate()
            .map(|(index, address)| async move {
                sleep(STAGGER * u32::try_from(index).unwrap_or(0)).await;
                self.connect_to(server, address, config, verdict).await
            })
            .collect();
        let mut failure = unreachable("its name has no address".into());
        while let Some(made) = attempts.next().await {
            match made {
                Ok(connection) => return Ok(connection),
                Err(error @ LinkError::Untrusted { .. }) => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect_to(
        &self,
        server: &str,
        address: SocketAddr,
        config: &ClientConfig,
        verdict: &OnceLock<String>,
    ) -> Result<Connection, LinkError> {
        let unreachable = |why: String| LinkError::Unreachable { address: server.into(), why };
        let endpoint = self.endpoint(address).map_err(|e| unreachable(e.to_string()))?;
        let connecting = endpoint.connect_with(config.clone(), address, SERVER_NAME).map_err(|e| {
            if e == ConnectError::EndpointStopping {
                // Its socket failed: the next try gets another one.
                self.slot(address).take();
            }
            unreachable(e.to_string())
        })?;
        let failed = |e: &quinn::ConnectionError| error::not_connected(server, e, verdict.get());
        let connection = connecting.await.map_err(|e| failed(&e))?;
        let welcome = async {
            let mut stream = connection.accept_uni().await.map_err(|e| failed(&e))?;
            let mut byte = [0];
            match stream.read_exact(&mut byte).await {
                Ok(()) if byte == [WELCOME] => Ok(()),
                Ok(()) => Err(unreachable("it speaks another version of the protocol".into())),
                Err(_) => Err(failed(&connection.closed().await)),
            }
        };
        if let Err(error) = welcome.await {
            connection.close(CLOSED, b"not welcomed");
            return Err(error);
        }
        Ok(connection)
    }

    fn slot(&self, to: SocketAddr) -> MutexGuard<'_, Option<Endpoint>> {
        let slot = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self, to: SocketAddr) -> std::io::Result<Endpoint> {
        let mut slot = self.slot(to);
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let from = match (self.bind, to.is_ipv4()) {
            (own, v4) if own.is_ipv4() == v4 => own,
            (_, true) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (_, false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = socket::bind(SocketAddr::new(from, 0))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        Ok(slot.insert(endpoint).clone())
    }
}
