//! Stands on the wire between two proxies, passes every byte on, and tells what a stranger on the network would see.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Of each direction of a connection, this many bytes are kept.
const KEPT_BYTES: usize = 256 * 1024;
/// Connections that are remembered; the oldest goes first.
const KEPT_CONNECTIONS: usize = 32;

const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const EXT_KEY_SHARE: u16 = 51;
const EXT_SUPPORTED_VERSIONS: u16 = 43;

/// What passed on one connection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// From the calling proxy, and from the called one.
    pub(crate) sent: Vec<u8>,
    pub(crate) received: Vec<u8>,
}

/// Everything the relay has seen, shared with the tour.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tap(Arc<Mutex<Vec<Arc<Mutex<Seen>>>>>);

impl Tap {
    fn open(&self) -> Arc<Mutex<Seen>> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == KEPT_CONNECTIONS {
            all.remove(0);
        }
        all.push(Arc::clone(&seen));
        seen
    }

    pub(crate) fn connections(&self) -> Vec<Seen> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

/// Listens on `from` and passes connections on to `to` until dropped.
pub(crate) async fn start(
    from: SocketAddr,
    to: SocketAddr,
    tap: Tap,
) -> std::io::Result<tokio_util::task::AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(from).await?;
    let accept = async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(pass(near, to, tap.open()));
        }
    };
    Ok(tokio_util::task::AbortOnDropHandle::new(tokio::spawn(accept)))
}

async fn pass(near: TcpStream, to: SocketAddr, seen: Arc<Mutex<Seen>>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = copy(near_read, far_write, |bytes| keep(&seen, bytes, |seen| &mut seen.sent));
    let back = copy(far_read, near_write, |bytes| keep(&seen, bytes, |seen| &mut seen.received));
    tokio::join!(there, back);
}

fn keep(seen: &Mutex<Seen>, bytes: &[u8], side: fn(&mut Seen) -> &mut Vec<u8>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = side(&mut seen);
    let room = KEPT_BYTES.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, look: impl Fn(&[u8])) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// What the handshake gave away: the version and the group that both ends agreed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) version: String,
    pub(crate) key_exchange: String,
}

impl Seen {
    /// Whether each direction is a sequence of TLS records and nothing else.
    pub(crate) fn is_tls(&self) -> bool {
        !self.sent.is_empty() && records(&self.sent).is_some() && records(&self.received).is_some()
    }

    pub(crate) fn contains(&self, needle: &[u8]) -> bool {
        [&self.sent, &self.received]
            .iter()
            .any(|side| side.windows(needle.len()).any(|window| window == needle))
    }

    /// Read from the one message of TLS 1.3 that is not encrypted in this direction, the ServerHello.
    pub(crate) fn negotiated(&self) -> Option<Negotiated> {
        let (kind, hello) = *records(&self.received)?.first()?;
        if kind != HANDSHAKE || *hello.first()? != SERVER_HELLO {
            return None;
        }
        // Type and length, legacy version, random, session id, cipher suite, compression; then extensions.
        let session = usize::from(*hello.get(4 + 2 + 32)?);
        let mut rest = hello.get(4 + 2 + 32 + 1 + session + 2 + 1 + 2..)?;
        let mut found = Negotiated { version: "unknown".into(), key_exchange: "unknown".into() };
        while rest.len() >= 4 {
            let (kind, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
            let body = rest.get(4..4 + length)?;
            match kind {
                EXT_SUPPORTED_VERSIONS => found.version = version_name(u16_at(body, 0)?),
                EXT_KEY_SHARE => found.key_exchange = group_name(u16_at(body, 0)?),
                _ => {}
            }
            rest = rest.get(4 + length..)?;
        }
        Some(found)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn version_name(code: u16) -> String {
    match code {
        0x0304 => "TLS 1.3".into(),
        0x0303 => "TLS 1.2".into(),
        other => format!("{other:#06x}"),
    }
}

fn group_name(code: u16) -> String {
    match code {
        0x11ec => "X25519MLKEM768".into(),
        0x001d => "X25519".into(),
        0x0017 => "secp256r1".into(),
        0x0018 => "secp384r1".into(),
        other => format!("{other:#06x}"),
    }
}

/// Types and bodies of all TLS records, the last perhaps cut short; none if something is not a record.
fn records(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while bytes.len() >= 5 {
        let (kind, major, length) = (bytes[0], bytes[1], usize::from(u16_at(bytes, 3)?));
        if !(20..=23).contains(&kind) || major != 3 || length > 16 * 1024 + 256 {
            return None;
        }
        let end = bytes.len().min(5 + length);
        found.push((kind, &bytes[5..end]));
        bytes = &bytes[end..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_not_taken_for_tls() {
        let seen = Seen { sent: b"GET / HTTP/1.1\r\n\r\n".to_vec(), received: Vec::new() };
        assert!(!seen.is_tls());
        assert!(seen.contains(b"HTTP/1.1"));
        assert_eq!(seen.negotiated(), None);
    }

    #[test]
    fn records_are_told_apart() {
        let bytes = [22, 3, 3, 0, 2, 9, 9, 23, 3, 3, 0, 1, 7];
        assert_eq!(records(&bytes), Some(vec![(22, &[9u8, 9][..]), (23, &[7u8][..])]));
    }
}
