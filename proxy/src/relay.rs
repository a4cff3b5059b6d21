//! Bytes both ways between two connections, each direction closed on its own and not a byte lost or added.
//!
//! All relays of a worker share one buffer: an idle connection holds none. A direction that ends in an error ends
//! both, and the caller resets what is left, because a cut must not look like a proper end.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::report::Edge;

const SCRATCH_BYTES: usize = 64 * 1024;

/// The buffer that a worker's relays share; borrowed for the length of one poll.
#[derive(Clone)]
pub(crate) struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())))
    }
}

/// Moves bytes until both directions have ended. `near` is the side of the caller, `far` that of the called one.
pub(crate) async fn relay<A, B>(near: &mut A, far: &mut B, scratch: &Scratch, edge: &Edge) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Direction::default();
    let mut back = Direction::default();
    std::future::poll_fn(|cx| {
        let there_done = there.poll(cx, near, far, scratch, |count| edge.sent(count))?;
        let back_done = back.poll(cx, far, near, scratch, |count| edge.received(count))?;
        if there_done.is_ready() && back_done.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// The same for two HTTP connections that both ends agreed to use for something else.
pub(crate) async fn relay_upgraded(
    near: OnUpgrade,
    far: OnUpgrade,
    scratch: &Scratch,
    edge: &Edge,
) -> io::Result<()> {
    let (near, far) = tokio::try_join!(near, far).map_err(io::Error::other)?;
    relay(&mut TokioIo::new(near), &mut TokioIo::new(far), scratch, edge).await
}

/// One way. `kept` holds what was read and could not be written yet; it is empty while the connection idles.
#[derive(Default)]
struct Direction {
    kept: Vec<u8>,
    written: usize,
    unflushed: bool,
    ending: bool,
    ended: bool,
}

impl Direction {
    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        scratch: &Scratch,
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        while !self.ended {
            ready!(self.write_kept(cx, to, &count))?;
            if self.ending {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.ended = true;
                break;
            }
            let mut buffer = scratch.0.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    drop(buffer);
                    return self.flush(cx, to);
                }
            }
            let filled = read.filled();
            if filled.is_empty() {
                self.ending = true;
                continue;
            }
            self.write_fresh(cx, to, filled, &count)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what it can and keeps the rest.
    fn write_fresh<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
        mut bytes: &[u8],
        count: &impl Fn(usize),
    ) -> io::Result<()> {
        self.unflushed = true;
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    count(written);
                    bytes = &bytes[written..];
                }
                Poll::Pending => {
                    self.kept = bytes.to_vec();
                    self.written = 0;
                    break;
                }
            }
        }
        Ok(())
    }

    fn write_kept<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
        count: &impl Fn(usize),
    ) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    count(written);
                    self.written += written;
                }
            }
        }
        self.kept = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Nothing more can be read at once: what was written must not wait in a buffer of TLS.
    fn flush<B: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut B) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
