//! What the two proxies of a connection say to each other before the bytes of the applications flow.
//!
//! The ALPN tells what is inside. On `purlin/tcp` the inbound side sends one status frame first: a byte that says how
//! it decided, two of length, and the reason. Nothing of the application is forwarded before it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Raw bytes after a status frame.
pub(crate) const ALPN_TCP: &[u8] = b"purlin/tcp";
/// Requests that were HTTP/1.1 at the client, carried as HTTP/2.
pub(crate) const ALPN_H1: &[u8] = b"purlin/h1";
/// Requests that were HTTP/2 at the client.
pub(crate) const ALPN_H2: &[u8] = b"purlin/h2";
/// One HTTP/1.1 request that may change the protocol, such as to WebSocket.
pub(crate) const ALPN_UPGRADE: &[u8] = b"http/1.1";

const REASON_BYTES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Accepted,
    /// By policy; the reason names the rule.
    Denied(String),
    /// This instance cannot take it, another one may.
    Retry(String),
}

impl Status {
    fn encode(&self) -> Vec<u8> {
        let (kind, reason) = match self {
            Self::Accepted => (0, ""),
            Self::Denied(reason) => (1, reason.as_str()),
            Self::Retry(reason) => (2, reason.as_str()),
        };
        let mut end = reason.len().min(REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let length = u16::try_from(end).unwrap_or(u16::MAX);
        let mut frame = vec![kind];
        frame.extend(length.to_be_bytes());
        frame.extend(&reason.as_bytes()[..end]);
        frame
    }
}

pub(crate) async fn send_status(io: &mut (impl AsyncWrite + Unpin), status: &Status) -> std::io::Result<()> {
    io.write_all(&status.encode()).await?;
    io.flush().await
}

/// Reads exactly one frame, so that what follows it stays in the stream.
pub(crate) async fn receive_status(io: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Status> {
    let mut head = [0; 3];
    io.read_exact(&mut head).await?;
    let [kind, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REASON_BYTES {
        return Err(invalid("the reason of a tunnel's status is too long"));
    }
    let mut reason = vec![0; length];
    io.read_exact(&mut reason).await?;
    let reason = String::from_utf8_lossy(&reason).replace(char::is_control, " ");
    match kind {
        0 => Ok(Status::Accepted),
        1 => Ok(Status::Denied(reason)),
        2 => Ok(Status::Retry(reason)),
        _ => Err(invalid("the status of a tunnel is of an unknown kind")),
    }
}

fn invalid(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> std::io::Result<Status> {
        receive_status(&mut { bytes }).await
    }

    #[tokio::test]
    async fn statuses_read_back_as_written() {
        for status in [Status::Accepted, Status::Denied("web -> api".into()), Status::Retry(String::new())] {
            assert_eq!(read(&status.encode()).await.unwrap(), status);
        }
    }

    #[tokio::test]
    async fn a_long_reason_is_cut_between_characters() {
        let status = Status::Denied("ä".repeat(REASON_BYTES));
        assert_eq!(read(&status.encode()).await.unwrap(), Status::Denied("ä".repeat(REASON_BYTES / 2)));
    }

    #[tokio::test]
    async fn broken_frames_are_refused() {
        assert!(read(&[]).await.is_err());
        assert!(read(&[0, 0]).await.is_err());
        assert!(read(&[9, 0, 0]).await.is_err());
        assert!(read(&[1, 0, 2, b'a']).await.is_err());
        assert!(read(&[1, 0xff, 0xff]).await.is_err());
    }
}
