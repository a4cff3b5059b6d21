//! HTTP servers over one connection, which end in order when the worker drains or their reason is gone.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use purlin_model::service::Protocol;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::body::Body;
use crate::dial::header_list;
use crate::sniff::{PREFACE, Sniffed, sniff};
use crate::stream::Stream;
use crate::worker::{LocalExecutor, Worker};

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Tcp,
    Http1,
    Http2,
}

/// Tells what a client speaks: declared, or from its first bytes, which stay in the stream. One that stays silent for
/// `patience` gets TCP at once.
pub(crate) async fn detect(
    worker: &Worker,
    client: &mut Stream,
    declared: Option<Protocol>,
    patience: Duration,
) -> std::io::Result<Spoken> {
    let (patience, otherwise) = match declared {
        Some(Protocol::Tcp | Protocol::Udp) => return Ok(Spoken::Tcp),
        // Only the version is left to tell; an HTTP server answers what is neither.
        Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc) => {
            (worker.limits.header_read_timeout, Spoken::Http1)
        }
        None => (patience, Spoken::Tcp),
    };
    let mut ahead = bytes::BytesMut::new();
    let limit = worker.limits.sniff_bytes.max(PREFACE.len());
    // One that says a byte now and then is not silent, but it is as slow as a head may be.
    let all_until = Instant::now() + worker.limits.header_read_timeout.max(patience);
    let spoken = loop {
        let silent_at = (Instant::now() + patience).min(all_until);
        let room = limit - ahead.len();
        ahead.reserve(room);
        let mut space = bytes::BufMut::limit(&mut ahead, room);
        let read = timeout_at(silent_at, client.read_buf(&mut space)).await;
        let came = match read {
            Ok(count) => count?,
            Err(_) => break otherwise,
        };
        match sniff(&ahead, ahead.len() >= limit) {
            Sniffed::Http1 => break Spoken::Http1,
            Sniffed::Http2 => break Spoken::Http2,
            Sniffed::Tcp => break otherwise,
            // A client that ends before it said anything may still want to hear.
            Sniffed::Undecided if came == 0 => break otherwise,
            Sniffed::Undecided => {}
        }
    };
    client.put_back(ahead.freeze());
    Ok(spoken)
}

/// Serves requests until the client leaves, the worker drains, or `gone` resolves. `idle`: how long to wait for the
/// whole head of the next request.
pub(crate) async fn http1<H, F>(
    worker: &Rc<Worker>,
    client: Stream,
    idle: Duration,
    gone: impl Future<Output = ()>,
    handler: H,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(idle)
        .max_headers(worker.limits.headers)
        .max_header_size(worker.limits.header_bytes);
    let connection = pin!(builder.serve_connection(TokioIo::new(client), service).with_upgrades());
    drive(worker, connection, gone, |connection| connection.graceful_shutdown()).await;
}

/// As [`http1`]. `trusted`: the client is a proxy, which resets many streams when many of its clients leave at once.
pub(crate) async fn http2<H, F>(
    worker: &Rc<Worker>,
    client: Stream,
    trusted: bool,
    gone: impl Future<Output = ()>,
    handler: H,
) where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let limits = &worker.limits;
    let mut builder = http2::Builder::new(LocalExecutor(worker.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(header_list(limits))
        .auto_date_header(!trusted);
    if trusted {
        builder.max_pending_accept_reset_streams(1024).max_local_error_reset_streams(None);
    }
    let connection = pin!(builder.serve_connection(TokioIo::new(client), service));
    drive(worker, connection, gone, |connection| connection.graceful_shutdown()).await;
}

async fn drive<C, E>(
    worker: &Worker,
    mut connection: Pin<&mut C>,
    gone: impl Future<Output = ()>,
    end_in_order: impl FnOnce(Pin<&mut C>),
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let gone = pin!(gone);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = worker.drain.raised() => None,
        () = gone => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            end_in_order(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        worker.report.connection_failed(&error);
    }
}
