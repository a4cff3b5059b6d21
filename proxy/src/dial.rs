//! New connections: to the proxy of another host with mutual TLS, and to an application on this one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use purlin_model::ServiceKey;
use purlin_model::view::Dial;
use purlin_wire::tls;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::body::Body;
use crate::config::Limits;
use crate::route::{Backend, Route};
use crate::stream::Stream;
use crate::worker::{LocalExecutor, Worker};

/// A lost host is noticed on a pooled connection within the sum of these.
const PING_INTERVAL: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 windows: one stream, and all streams of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Why there is no connection. Nothing of a request was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0} has no certificate yet")]
    NoCertificate(ServiceKey),
    #[error("tls of {service} cannot be set up: {why}")]
    Setup { service: ServiceKey, why: String },
    #[error("{place}: {why}")]
    Connect { place: String, why: String },
    #[error("{place}: no connection within {} ms", .within.as_millis())]
    Timeout { place: String, within: Duration },
    #[error("{place}: tls: {why}")]
    Tls { place: String, why: String },
    #[error("another attempt to reach it just failed")]
    Shared,
}

/// A tunnel to the host of an endpoint, whose service proved to be the one we want.
pub(crate) async fn peer(
    worker: &Worker,
    route: &Route,
    backend: &Backend,
    alpn: &[u8],
    within: Duration,
) -> Result<Stream, DialError> {
    let connector = route.connector(worker)?;
    let place = || backend.endpoint.address.to_string();
    let name = ServerName::try_from(backend.endpoint.server_name.clone())
        .map_err(|error| DialError::Tls { place: place(), why: error.to_string() })?;
    let work = async {
        let tcp = connect_tcp(backend.endpoint.address).await?;
        let connector = connector.with_alpn(vec![alpn.to_vec()]);
        connector
            .connect(name, tcp)
            .await
            .map_err(|error| DialError::Tls { place: place(), why: tls_reason(&error) })
    };
    let io = match timeout(within, work).await {
        Ok(done) => done?,
        Err(_) => return Err(DialError::Timeout { place: place(), within }),
    };
    let session = io.get_ref().1;
    if session.alpn_protocol() != Some(alpn) {
        return Err(DialError::Tls { place: place(), why: "it does not speak the mesh's protocols".into() });
    }
    // A resumed session skipped the verifier: what it remembers may have expired since.
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let revoked = worker.state().revoked.clone();
    let bond = leaf
        .ok_or_else(|| "no certificate".to_owned())
        .and_then(|leaf| is_valid_now(leaf))
        .and_then(|()| worker.bonds.tie(session.peer_certificates().unwrap_or_default(), &revoked))
        .map_err(|why| DialError::Tls { place: place(), why })?;
    Ok(Stream::to_peer(io, bond))
}

/// Expiry alone; for sessions that were verified when they began.
pub(crate) fn is_valid_now(certificate: &[u8]) -> Result<(), String> {
    let validity = tls::validity(certificate).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    if u128::from(validity.not_after.0) < now {
        return Err("its certificate has expired".into());
    }
    Ok(())
}

/// The reason in the words of an operator.
pub(crate) fn tls_reason(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => tls::explain(error),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it closed the connection, as a host does that does not have the instance (any more)".into()
        }
        None => error.to_string(),
    }
}

async fn connect_tcp(address: SocketAddr) -> Result<TcpStream, DialError> {
    let connect = TcpStream::connect(address).await;
    let io =
        connect.map_err(|error| DialError::Connect { place: address.to_string(), why: error.to_string() })?;
    tune(&io);
    Ok(io)
}

/// No delay for small writes, and probes that find out about a lost host. Both are improvements only: a socket that
/// refuses them still works.
pub(crate) fn tune(io: &TcpStream) {
    let _ = io.set_nodelay(true);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket2::SockRef::from(io).set_tcp_keepalive(&probes);
}

/// A plain connection to an application of this host.
pub(crate) async fn application(dial: &Dial, within: Duration) -> Result<Stream, DialError> {
    let place = || match dial {
        Dial::Tcp(address) => address.to_string(),
        Dial::Unix(path) => path.clone(),
    };
    let work = async {
        match dial {
            Dial::Tcp(address) => connect_tcp(*address).await.map(Stream::from),
            Dial::Unix(path) => UnixStream::connect(path)
                .await
                .map(Stream::from)
                .map_err(|error| DialError::Connect { place: place(), why: error.to_string() }),
        }
    };
    match timeout(within, work).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout { place: place(), within }),
    }
}

/// Speaks HTTP/2 on a new connection. `pings`: the far end is another host, which may be lost without a word.
pub(crate) async fn speak_http2(
    worker: &Rc<Worker>,
    io: Stream,
    pings: bool,
    place: &str,
) -> Result<http2::SendRequest<Body>, DialError> {
    let limits = &worker.limits;
    let mut builder = http2::Builder::new(LocalExecutor(worker.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(header_list(limits))
        .max_concurrent_reset_streams(1024)
        .max_pending_accept_reset_streams(1024);
    if pings {
        builder
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
    }
    let handshake = builder.handshake(TokioIo::new(io)).await;
    let (sender, connection) =
        handshake.map_err(|error| DialError::Connect { place: place.to_owned(), why: error.to_string() })?;
    let reporter = worker.clone();
    worker.spawn("an HTTP/2 connection", async move {
        if let Err(error) = connection.await {
            reporter.report.connection_failed(&error);
        }
    });
    Ok(sender)
}

/// Speaks HTTP/1.1 on a new connection, ready to change the protocol.
pub(crate) async fn speak_http1(
    worker: &Rc<Worker>,
    io: Stream,
    place: &str,
) -> Result<http1::SendRequest<Body>, DialError> {
    let mut builder = http1::Builder::new();
    builder.max_headers(worker.limits.headers).max_header_size(worker.limits.header_bytes);
    let handshake = builder.handshake(TokioIo::new(io)).await;
    let (sender, connection) =
        handshake.map_err(|error| DialError::Connect { place: place.to_owned(), why: error.to_string() })?;
    let reporter = worker.clone();
    worker.spawn("an HTTP/1.1 connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            reporter.report.connection_failed(&error);
        }
    });
    Ok(sender)
}

pub(crate) fn header_list(limits: &Limits) -> u32 {
    u32::try_from(limits.header_bytes).unwrap_or(u32::MAX)
}
