//! TCP and UDP probes, and the connections that other probes speak over.

use std::io;
use std::time::Duration;

use purlin_model::check::{ProbeTls, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Verdict, tls};

/// How long a UDP probe listens for a refusal, which comes within a round trip or never.
const UDP_WAIT: Duration = Duration::from_secs(2);

pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Opens a connection to `host:port`, with a TLS handshake where one is asked for.
pub(super) async fn connect(
    address: &str,
    secure: Option<&ProbeTls>,
    configs: &tls::Configs,
    alpn: tls::Alpn,
) -> Result<Box<dyn Bytes>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("dial tcp {address}: {}", plain(&error)))?;
    // Small writes must not wait for each other; a probe without it is only slower.
    let _ = stream.set_nodelay(true);
    match secure {
        None => Ok(Box::new(stream)),
        Some(secure) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let stream = configs.connect(stream, host, secure, alpn).await?;
            Ok(Box::new(stream))
        }
    }
}

pub(super) async fn tcp(address: &str, secure: Option<&ProbeTls>, configs: &tls::Configs) -> Verdict {
    match connect(address, secure, configs, tls::Alpn::None).await {
        Ok(_) => Verdict::new(Status::Passing, format!("TCP connect {address}: Success")),
        Err(why) => Verdict::critical(why),
    }
}

/// Silence is a pass: only a refusal can be told from a service that has nothing to say.
pub(super) async fn udp(address: &str, span: Duration) -> Verdict {
    let refused = |error: io::Error| Verdict::critical(format!("UDP connect {address}: {}", plain(&error)));
    let socket = match dial_udp(address).await {
        Ok(socket) => socket,
        Err(error) => return refused(error),
    };
    if let Err(error) = socket.send(&[]).await {
        return refused(error);
    }
    // Listening ends before the probe's own time does.
    let wait = UDP_WAIT.min(span.mul_f64(0.8));
    match timeout(wait, socket.recv(&mut [0; 1])).await {
        Ok(Err(error)) => refused(error),
        Ok(Ok(_)) | Err(_) => Verdict::new(Status::Passing, format!("UDP connect {address}: Success")),
    }
}

async fn dial_udp(address: &str) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for target in tokio::net::lookup_host(address).await? {
        let any: std::net::SocketAddr =
            if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(target).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The reason without the number of the operating system.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}
