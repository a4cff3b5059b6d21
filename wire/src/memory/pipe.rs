//! One direction of a stream: a bounded queue of bytes, each due at an instant, that fails when its cable is cut.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{End, lock};

/// A pipe from one end of a cable to the other.
pub(super) fn pipe(from: &Arc<End>, to: &Arc<End>, capacity: usize) -> (PipeWrite, PipeRead) {
    let queue = Arc::new(Queue { state: Mutex::new(State::default()), capacity });
    let cut = |end: &Arc<End>| Box::pin(end.cable.cut.clone().cancelled_owned());
    let write = PipeWrite { queue: queue.clone(), cut: cut(from), end: from.clone() };
    let read = PipeRead { queue, cut: cut(to), due: None, _end: to.clone() };
    (write, read)
}

struct Queue {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// No more will be written.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        wake(&mut state.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the link is closed")
}

pub(super) struct PipeWrite {
    queue: Arc<Queue>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Arc<End>,
}

impl AsyncWrite for PipeWrite {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut_off()));
        }
        let mut state = self.queue.state();
        if state.abandoned || state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A chunk of nothing would read as the end of the stream.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = self.queue.capacity - state.bytes;
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = &buf[..buf.len().min(room)];
        state.bytes += taken.len();
        let due = Instant::now() + self.end.cable.delay();
        state.chunks.push_back((due, Bytes::copy_from_slice(taken)));
        wake(&mut state.reader);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWrite {
    fn drop(&mut self) {
        self.queue.end();
    }
}

pub(super) struct PipeRead {
    queue: Arc<Queue>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs while the next bytes are not due yet.
    due: Option<Pin<Box<Sleep>>>,
    _end: Arc<End>,
}

impl AsyncRead for PipeRead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(cut_off()));
            }
            if let Some(due) = &mut this.due {
                ready!(due.as_mut().poll(cx));
                this.due = None;
            }
            let mut state = this.queue.state();
            let Some((due, chunk)) = state.chunks.front_mut() else {
                if state.ended {
                    return Poll::Ready(Ok(()));
                }
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            if *due > Instant::now() {
                this.due = Some(Box::pin(sleep_until(*due)));
                continue;
            }
            let count = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..count]);
            chunk.advance(count);
            if chunk.is_empty() {
                state.chunks.pop_front();
            }
            state.bytes -= count;
            wake(&mut state.writer);
            return Poll::Ready(Ok(()));
        }
    }
}

impl Drop for PipeRead {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.abandoned = true;
        state.chunks.clear();
        wake(&mut state.writer);
    }
}
