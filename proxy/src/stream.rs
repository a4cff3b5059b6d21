//! One type for every byte stream of the data plane, with bytes that were read ahead put back in front.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

use crate::bond::Bond;

/// A connection, whatever carries it. One type keeps the HTTP machinery from being built four times.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Read already, to be read again first.
    ahead: Bytes,
    carrier: Carrier,
    /// Of one that leads to another host.
    bond: Option<Arc<Bond>>,
}

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    Unix(UnixStream),
    ToPeer(Box<client::TlsStream<TcpStream>>),
    FromPeer(Box<server::TlsStream<TcpStream>>),
}

impl From<TcpStream> for Stream {
    fn from(io: TcpStream) -> Self {
        Self { ahead: Bytes::new(), carrier: Carrier::Tcp(io), bond: None }
    }
}

impl From<UnixStream> for Stream {
    fn from(io: UnixStream) -> Self {
        Self { ahead: Bytes::new(), carrier: Carrier::Unix(io), bond: None }
    }
}

impl Stream {
    pub(crate) fn to_peer(io: client::TlsStream<TcpStream>, bond: Arc<Bond>) -> Self {
        Self { ahead: Bytes::new(), carrier: Carrier::ToPeer(Box::new(io)), bond: Some(bond) }
    }

    pub(crate) fn from_peer(io: server::TlsStream<TcpStream>, bond: Arc<Bond>) -> Self {
        Self { ahead: Bytes::new(), carrier: Carrier::FromPeer(Box::new(io)), bond: Some(bond) }
    }

    fn check(&self) -> io::Result<()> {
        self.bond.as_ref().map_or(Ok(()), |bond| bond.check())
    }

    /// Puts bytes in front of what is still to be read.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty(), "bytes are put back once");
        self.ahead = bytes;
    }

    /// Makes the coming close a reset, so that the other end cannot take a cut for a proper end. Best effort: where
    /// it fails, or on a Unix socket, the end is seen as a plain close.
    pub(crate) fn reset_on_close(&self) {
        let tcp = match &self.carrier {
            Carrier::Tcp(io) => io,
            Carrier::ToPeer(io) => io.get_ref().0,
            Carrier::FromPeer(io) => io.get_ref().0,
            Carrier::Unix(_) => return,
        };
        let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
    }

    fn carrier(&mut self) -> Pin<&mut (dyn Duplex + '_)> {
        let carrier: &mut dyn Duplex = match &mut self.carrier {
            Carrier::Tcp(io) => io,
            Carrier::Unix(io) => io,
            Carrier::ToPeer(io) => io.as_mut(),
            Carrier::FromPeer(io) => io.as_mut(),
        };
        Pin::new(carrier)
    }
}

/// Both directions, for one dynamic call instead of a match in each method.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            self.check()?;
            let read = self.carrier().poll_read(cx, buf);
            return match &self.bond {
                Some(bond) => bond.guard(cx, read),
                None => read,
            };
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        self.carrier().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        self.carrier().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier().poll_shutdown(cx)
    }
}
