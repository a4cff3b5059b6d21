//! The body of every message that passes, streamed frame by frame and never collected.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::http::clean_trailers;
use crate::live::LiveGuard;
use crate::pool::Lease;
use crate::report::{Edge, RequestRecord};
use crate::route::InFlight;
use crate::state::Place;

/// Of a request's body, what may be sent again to another endpoint.
const REMEMBERED_BYTES: usize = 64 * 1024;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{0}")]
    Transport(#[from] hyper::Error),
    #[error("cut by a new policy: {0}")]
    Cut(String),
    #[error("the request timeout passed")]
    Timeout,
    #[error("the request goes on elsewhere")]
    Withdrawn,
}

/// One type for all, so that the HTTP machinery is built once.
pub(crate) enum Body {
    Empty,
    /// Written here.
    Text(Bytes),
    Incoming(Incoming),
    Lent(Lent),
    Watched(Box<Watched>),
}

impl Body {
    pub(crate) fn text(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => {
                let text = std::mem::take(text);
                *self = Self::Empty;
                Poll::Ready(if text.is_empty() { None } else { Some(Ok(Frame::data(text))) })
            }
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Lent(lent) => lent.poll_frame(cx),
            Self::Watched(watched) => watched.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Lent(lent) => lent.shared.borrow().is_end_stream(),
            Self::Watched(watched) => watched.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Incoming(body) => body.size_hint(),
            Self::Lent(lent) => lent.shared.borrow().size_hint(),
            Self::Watched(watched) => watched.body.size_hint(),
        }
    }
}

/// A request's body, lent to one attempt after another.
///
/// The first bytes of it are remembered, so that an attempt that reached no application can be followed by another.
/// A loan ends when the next begins: what is left of an old attempt cannot take frames from the new one.
#[derive(Clone)]
pub(crate) struct Lent {
    shared: Rc<RefCell<Shared>>,
    loan: u32,
}

struct Shared {
    body: Body,
    edge: Rc<Edge>,
    /// The loan that counts.
    loan: u32,
    taken: Vec<Bytes>,
    taken_bytes: usize,
    /// How many of the taken frames the present loan has had.
    at: usize,
    /// Everything that was taken is remembered.
    whole: bool,
    /// What is wrong with what the client sent.
    broken: Option<String>,
}

impl Lent {
    /// `edge` counts the bytes.
    pub(crate) fn new(body: Body, edge: Rc<Edge>) -> Self {
        let shared = Shared {
            body,
            edge,
            loan: 0,
            taken: Vec::new(),
            taken_bytes: 0,
            at: 0,
            whole: true,
            broken: None,
        };
        Self { shared: Rc::new(RefCell::new(shared)), loan: 0 }
    }

    /// For the next attempt, from the first byte on.
    pub(crate) fn lend(&self) -> Self {
        let mut shared = self.shared.borrow_mut();
        debug_assert!(shared.whole, "a body that is partly gone must not be lent again");
        shared.loan += 1;
        shared.at = 0;
        Self { shared: self.shared.clone(), loan: shared.loan }
    }

    /// Whether another attempt could send all of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.borrow().whole
    }

    /// What was wrong with the body that the client sent, where that ended it: a line for the client.
    pub(crate) fn broken(&self) -> Option<String> {
        let shared = self.shared.borrow();
        shared.broken.as_ref().map(|why| format!("the body of the request cannot be read: {why}\n"))
    }

    /// The present loan is the last one: nothing more needs to be remembered.
    pub(crate) fn settle(&self) {
        let mut shared = self.shared.borrow_mut();
        shared.whole = false;
        if shared.at >= shared.taken.len() {
            shared.forget();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let shared = &mut *self.shared.borrow_mut();
        if shared.loan != self.loan {
            return Poll::Ready(Some(Err(BodyError::Withdrawn)));
        }
        if let Some(data) = shared.taken.get(shared.at) {
            shared.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let mut frame = ready!(Pin::new(&mut shared.body).poll_frame(cx));
        if let Some(result) = &mut frame {
            if let Some(trailers) = result.as_mut().ok().and_then(Frame::trailers_mut) {
                clean_trailers(trailers);
            }
            if let Err(BodyError::Transport(error)) = result {
                let source = std::error::Error::source(error);
                shared.broken = Some(source.map_or_else(|| error.to_string(), ToString::to_string));
            }
            shared.note(result.as_ref().ok().and_then(Frame::data_ref));
        }
        Poll::Ready(frame)
    }
}

impl Shared {
    fn note(&mut self, data: Option<&Bytes>) {
        if let Some(data) = data {
            self.edge.sent(data.len());
            self.taken_bytes += data.len();
        }
        match data {
            Some(data) if self.whole && self.taken_bytes <= REMEMBERED_BYTES => {
                self.taken.push(data.clone());
                self.at += 1;
            }
            // Too much, or trailers: the body can be sent only once.
            _ => {
                self.whole = false;
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        self.taken = Vec::new();
        self.at = 0;
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.taken.len() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let again: usize = self.taken.iter().skip(self.at).map(Bytes::len).sum();
        let again = again as u64;
        // The upper bound first: a lower bound must never be above it.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint.set_lower(hint.lower().saturating_add(again));
        hint
    }
}

/// A response's body with all that lasts as long as the exchange: its record, its place, what may cut it.
pub(crate) struct Watched {
    body: Body,
    ended: bool,
    edge: Rc<Edge>,
    guard: Option<LiveGuard>,
    deadline: Option<Pin<Box<Sleep>>>,
    lease: Option<Lease>,
    _holds: Holds,
}

/// What acts by being dropped: the request's record, its place among an instance's connections, and among an
/// endpoint's requests.
pub(crate) type Holds = (RequestRecord, Option<Place>, Option<InFlight>);

pub(crate) struct Watch {
    pub(crate) edge: Rc<Edge>,
    pub(crate) guard: Option<LiveGuard>,
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    /// The connection it comes from; given back when the body has ended.
    pub(crate) lease: Option<Lease>,
    /// Dropped when the exchange is over.
    pub(crate) holds: Holds,
}

impl Watched {
    pub(crate) fn wrap(body: Body, watch: Watch) -> Body {
        let Watch { edge, guard, deadline, mut lease, holds } = watch;
        let ended = body.is_end_stream();
        if ended {
            // Nothing more comes: a server may never poll it.
            if let Some(lease) = lease.take() {
                lease.give_back();
            }
        }
        Body::Watched(Box::new(Self { body, ended, edge, guard, deadline, lease, _holds: holds }))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(guard) = &self.guard
            && let Poll::Ready(denial) = guard.poll_cut(cx)
        {
            return self.fail(BodyError::Cut(denial.reason()));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return self.fail(BodyError::Timeout);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    self.edge.received(data.len());
                }
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(error),
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Drops the connection with the rest of the body still in it.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ended = true;
        self.body = Body::Empty;
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }
}

#[cfg(test)]
mod tests;
