//! The in-memory twin of `quic`: links inside one process, with faults that a test can switch on.
//!
//! A server's own agent, `dev` and `demo` use it; simulations cut and slow it. Encodes and decodes as QUIC does, so
//! what works here does not work by sharing memory.

mod pipe;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::link::{Connector, Link, LinkError, Peer, Stream};

/// Streams that were opened and not yet accepted; who opens more waits.
const PENDING_STREAMS: usize = 64;
/// Bytes on their way in one direction of one stream.
const PIPE_BYTES: usize = 256 * 1024;
/// Links that were made and not yet accepted.
const PENDING_LINKS: usize = 64;
/// Servers that a connector remembers.
const SERVERS_MAX: usize = 64;

/// The two ends of a link. `a` is who the first end is, and so whom the second one sees.
pub fn pair(a: Peer, b: Peer) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (first, second, _) = pair_with_faults(a, b);
    (first, second)
}

/// As [`pair`], with the handle by which a test breaks it.
pub fn pair_with_faults(a: Peer, b: Peer) -> (Arc<dyn Link>, Arc<dyn Link>, Faults) {
    let cable = Arc::new(Cable::default());
    let (to_b, from_a) = mpsc::channel(PENDING_STREAMS);
    let (to_a, from_b) = mpsc::channel(PENDING_STREAMS);
    let (end_a, end_b) = (End::new(&cable), End::new(&cable));
    let link = |peer, out, incoming, near: &Arc<End>, far: &Arc<End>| {
        Arc::new(MemoryLink {
            peer,
            out,
            incoming: tokio::sync::Mutex::new(incoming),
            near: near.clone(),
            far: Arc::downgrade(far),
        })
    };
    let first = link(b, to_b, from_b, &end_a, &end_b);
    let second = link(a, to_a, from_a, &end_b, &end_a);
    (first, second, Faults { cable })
}

/// What both ends and all their streams share.
#[derive(Debug, Default)]
struct Cable {
    cut: CancellationToken,
    reason: OnceLock<String>,
    delay_us: AtomicU64,
}

impl Cable {
    fn close(&self, reason: &str) {
        // The first reason is the true one.
        let _ = self.reason.set(reason.to_owned());
        self.cut.cancel();
    }

    fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_default()
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed))
    }
}

/// One end of a cable, held by its link and by the streams it has open; when all are dropped, the link is closed.
#[derive(Debug)]
struct End {
    cable: Arc<Cable>,
}

impl End {
    fn new(cable: &Arc<Cable>) -> Arc<Self> {
        Arc::new(Self { cable: cable.clone() })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.cable.close("the other end was dropped");
    }
}

/// Breaks a link, for tests.
#[derive(Debug, Clone)]
pub struct Faults {
    cable: Arc<Cable>,
}

impl Faults {
    /// As if the connection broke: both ends and all streams fail, what was on its way is lost.
    pub fn cut(&self) {
        self.cable.close("the link was cut");
    }

    /// What is written from now on arrives so much later. An hour is as good as silence.
    pub fn delay(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.cable.delay_us.store(us, Ordering::Relaxed);
    }
}

struct MemoryLink {
    /// Who is at the other end.
    peer: Peer,
    out: mpsc::Sender<Stream>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
    near: Arc<End>,
    far: Weak<End>,
}

impl fmt::Debug for MemoryLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLink").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl MemoryLink {
    fn gone(&self) -> LinkError {
        LinkError::Closed(self.near.cable.reason())
    }

    async fn open_stream(&self) -> Result<Stream, LinkError> {
        let cable = &self.near.cable;
        let room = tokio::select! {
            biased;
            () = cable.cut.cancelled() => return Err(self.gone()),
            room = self.out.reserve() => room.map_err(|_| LinkError::Closed("the other end is gone".into()))?,
        };
        let far = self.far.upgrade().ok_or_else(|| self.gone())?;
        let (near_write, far_read) = pipe::pipe(&self.near, &far, PIPE_BYTES);
        let (far_write, near_read) = pipe::pipe(&far, &self.near, PIPE_BYTES);
        room.send(Stream { read: Box::new(far_read), write: Box::new(far_write) });
        Ok(Stream { read: Box::new(near_read), write: Box::new(near_write) })
    }
}

impl Link for MemoryLink {
    fn open(&self) -> BoxFuture<'_, Result<Stream, LinkError>> {
        Box::pin(self.open_stream())
    }

    fn accept(&self) -> BoxFuture<'_, Result<Stream, LinkError>> {
        Box::pin(async {
            let next = async { self.incoming.lock().await.recv().await };
            tokio::select! {
                biased;
                () = self.near.cable.cut.cancelled() => Err(self.gone()),
                stream = next => stream.ok_or_else(|| LinkError::Closed("the other end is gone".into())),
            }
        })
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn remote(&self) -> String {
        match &self.peer {
            Peer::Member { identity, .. } => format!("memory of {identity}"),
            Peer::Stranger => "memory of a stranger".into(),
        }
    }

    fn close(&self, reason: &str) {
        self.near.cable.close(reason);
    }

    fn closed(&self) -> BoxFuture<'_, String> {
        Box::pin(async {
            self.near.cable.cut.cancelled().await;
            self.near.cable.reason()
        })
    }
}

/// Makes links to whoever holds the receiver that came with it.
pub struct MemoryConnector {
    me: Peer,
    server: Peer,
    accepted: mpsc::Sender<Arc<dyn Link>>,
    refuses: AtomicBool,
    delay_us: AtomicU64,
    links: Mutex<Vec<Weak<Cable>>>,
    servers: Mutex<Vec<String>>,
}

impl fmt::Debug for MemoryConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConnector").field("server", &self.server).finish_non_exhaustive()
    }
}

impl MemoryConnector {
    /// `me` is whom the server sees; `server` whom the client sees. Links come out of the receiver as they are made.
    pub fn new(me: Peer, server: Peer) -> (Arc<Self>, mpsc::Receiver<Arc<dyn Link>>) {
        let (accepted, links) = mpsc::channel(PENDING_LINKS);
        let connector = Self {
            me,
            server,
            accepted,
            refuses: AtomicBool::new(false),
            delay_us: AtomicU64::new(0),
            links: Mutex::new(Vec::new()),
            servers: Mutex::new(Vec::new()),
        };
        (Arc::new(connector), links)
    }

    /// Whether the server cannot be reached from now on; links that are there stay.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Cuts all links.
    pub fn cut(&self) {
        for faults in self.live() {
            faults.cut();
        }
    }

    /// Slows all links, those that will be made too.
    pub fn delay(&self, by: Duration) {
        self.delay_us.store(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        for faults in self.live() {
            faults.delay(by);
        }
    }

    /// What [`Connector::learn`] was last told.
    pub fn servers(&self) -> Vec<String> {
        lock(&self.servers).clone()
    }

    fn live(&self) -> Vec<Faults> {
        lock(&self.links).iter().filter_map(Weak::upgrade).map(|cable| Faults { cable }).collect()
    }

    fn unreachable(&self, why: &str) -> LinkError {
        LinkError::Unreachable { address: "memory".into(), why: why.into() }
    }

    async fn make(&self) -> Result<Arc<dyn Link>, LinkError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(self.unreachable("it refuses connections"));
        }
        let room = self.accepted.reserve().await.map_err(|_| self.unreachable("nobody listens"))?;
        let (near, far, faults) = pair_with_faults(self.me.clone(), self.server.clone());
        faults.delay(Duration::from_micros(self.delay_us.load(Ordering::Relaxed)));
        let mut links = lock(&self.links);
        links.retain(|cable| cable.strong_count() > 0);
        links.push(Arc::downgrade(&faults.cable));
        drop(links);
        room.send(far);
        Ok(near)
    }
}

impl Connector for MemoryConnector {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(self.make())
    }

    fn learn(&self, servers: Vec<String>) {
        *lock(&self.servers) = servers.into_iter().take(SERVERS_MAX).collect();
    }
}

/// A value is whole after each statement under these locks, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
