//! Listeners and connections: who may connect, how many, and for how long without a word.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use purlin_model::Fault;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Api;
use super::answer::Body;
use super::dispatch::Dispatch;
use super::request::Peer;

/// Connections in all.
const CONNECTIONS: usize = 4_096;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
const HEADER_BYTES: usize = 64 * 1024;
const HEADERS: usize = 128;
const STREAMS: u32 = 128;

const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 92\r\n\
    Connection: close\r\n\r\nYour IP is issuing too many concurrent connections, please rate limit \
    your calls to this API";

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Front(Arc<Shared>);

struct Shared {
    dispatch: Dispatch,
    closing: CancellationToken,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// Connections of one address at a time; 0: no limit. Consul's `http_max_conns_per_client`.
    per_client: usize,
}

impl Front {
    pub(super) fn new(api: Arc<Api>, closing: CancellationToken, tasks: TaskTracker) -> Self {
        let per_client = api.core.config().http.max_connections_per_client;
        Self(Arc::new(Shared {
            per_client,
            dispatch: Dispatch::new(api),
            closing,
            tasks,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            clients: Mutex::default(),
        }))
    }

    pub(super) async fn accept_tcp(self, listener: TcpListener) {
        while let Some((stream, address)) = self.next(|| listener.accept()).await {
            let Some(place) = Place::take(&self, address.ip().to_canonical()) else {
                self.0.tasks.spawn(turn_away(stream));
                continue;
            };
            // Small answers must not wait for the next one.
            let _ = stream.set_nodelay(true);
            let front = self.clone();
            self.spawn(async move {
                front.serve(stream, Peer::Tcp(address)).await;
                drop(place);
            });
        }
    }

    pub(super) async fn accept_unix(self, listener: UnixListener) {
        while let Some((stream, _)) = self.next(|| listener.accept()).await {
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let front = self.clone();
            self.spawn(async move { front.serve(stream, Peer::Unix { uid }).await });
        }
    }

    /// The next connection, once there is room for one. None: the API closes.
    async fn next<T, F>(&self, accept: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = std::io::Result<T>>,
    {
        let accepted = async {
            loop {
                if let Ok(room) = self.0.places.acquire().await {
                    drop(room);
                }
                match accept().await {
                    Ok(accepted) => return accepted,
                    Err(error) => {
                        // Out of file descriptors, most likely: they come back as connections end.
                        warn!(%error, "cannot accept a connection to the HTTP API");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = self.0.closing.cancelled() => None,
            accepted = accepted => Some(accepted),
        }
    }

    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let places = self.0.places.clone();
        self.0.tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            connection.await;
        });
    }

    async fn serve<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let (front, busy) = (self.clone(), activity.clone());
        let service = service_fn(move |request| {
            let (front, busy) = (front.clone(), busy.clone());
            async move {
                let busy = busy.enter();
                let answer = front.0.dispatch.answer(request, peer).await;
                // A stream goes on for as long as its client reads, and what is whole is soon written.
                let is_stream = answer.body().size_hint().exact().is_none();
                Ok::<_, Infallible>(answer.map(|body| if is_stream { busy.until_end(body) } else { body }))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES as u32)
            .keep_alive_interval(IDLE);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return report(ended),
            () = activity.idle(IDLE) => {}
            () = self.0.closing.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(super::CLOSING, connection).await {
            report(ended);
        }
    }
}

fn report(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        debug!(error = %error, "a connection to the HTTP API ended early");
    }
}

async fn turn_away(mut stream: TcpStream) {
    let told = stream.write_all(TOO_MANY);
    // A client that does not read must not hold the connection it was refused.
    let _ = tokio::time::timeout(super::CLOSING, told).await;
}

/// One connection of a client, for as long as it is kept.
struct Place {
    front: Front,
    client: IpAddr,
}

impl Place {
    fn take(front: &Front, client: IpAddr) -> Option<Self> {
        let mut clients = front.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        if front.0.per_client > 0 && *count >= front.0.per_client {
            return None;
        }
        *count += 1;
        Some(Self { front: front.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.front.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Whether a connection has requests under way, and how many it had.
#[derive(Default)]
struct Activity {
    under_way: AtomicUsize,
    begun: AtomicU64,
}

impl Activity {
    fn enter(self: &Arc<Self>) -> Busy {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Resolves when nothing was asked for at least `span`.
    async fn idle(&self, span: Duration) {
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep(span).await;
            let quiet =
                self.under_way.load(Ordering::Relaxed) == 0 && self.begun.load(Ordering::Relaxed) == before;
            if quiet {
                return;
            }
        }
    }
}

/// A request under way, until dropped.
struct Busy(Arc<Activity>);

impl Busy {
    /// Under way as long as the body.
    fn until_end(self, body: Body) -> Body {
        body.map_frame(move |frame| {
            let Self(_activity) = &self;
            frame
        })
        .boxed_unsync()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a Unix socket for its owner alone. A file that an earlier run left behind is replaced, one in use is not.
pub(super) fn bind_unix(path: &Path) -> Result<UnixListener, Fault> {
    let refuse =
        |why: String| Fault::invalid(format!("cannot listen on {} for the HTTP API: {why}", path.display()));
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(refuse("a file that is no socket is there: remove it or choose another path".into()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(refuse("another process answers there: stop it or choose another path".into()));
        }
        std::fs::remove_file(path).map_err(|error| refuse(error.to_string()))?;
    }
    let listener = UnixListener::bind(path).map_err(|error| refuse(error.to_string()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| refuse(error.to_string()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_not_idle_while_somebody_reads_it() {
        let activity = Arc::new(Activity::default());
        let nothing = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
        let body = activity.enter().until_end(StreamBody::new(nothing).boxed_unsync());
        assert!(timeout(IDLE * 10, activity.idle(IDLE)).await.is_err());
        drop(body);
        assert!(timeout(IDLE * 3, activity.idle(IDLE)).await.is_ok());
    }
}
