//! Connections that are used again: HTTP/2 ones shared by many requests, HTTP/1.1 ones taken in turn.
//!
//! A pool belongs to one worker and one endpoint or application. What is lent comes back through a `Lease`; one that
//! is dropped instead takes its connection with it, so a half-read answer is never followed by another request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;

use crate::body::Body;

/// A connection while one request uses it.
pub(crate) enum Lease {
    Shared(SharedLease),
    Single(SingleLease),
}

impl Lease {
    /// The exchange ended well.
    pub(crate) fn give_back(self) {
        match self {
            Self::Shared(lease) => drop(lease),
            Self::Single(lease) => lease.give_back(),
        }
    }
}

/// HTTP/2 connections to one place.
pub(crate) struct Shared {
    connections: RefCell<Vec<SharedConnection>>,
    dialing: Cell<bool>,
    dialed: Notify,
    /// Counts failed dials; the reason of the last one is told to all who waited for it.
    failures: Cell<u64>,
    streams_before_next: u32,
    max: usize,
}

struct SharedConnection {
    sender: http2::SendRequest<Body>,
    streams: Rc<Cell<u32>>,
}

pub(crate) struct SharedLease {
    pub(crate) sender: http2::SendRequest<Body>,
    streams: Rc<Cell<u32>>,
    /// No request went over it before this one.
    pub(crate) fresh: bool,
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
    }
}

/// Ends the claim to dial, however the dialing ends.
struct Dialing<'a>(&'a Shared);

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.dialed.notify_waiters();
    }
}

impl Shared {
    pub(crate) fn new(streams_before_next: u32, max: usize) -> Self {
        Self {
            connections: RefCell::default(),
            dialing: Cell::new(false),
            dialed: Notify::new(),
            failures: Cell::new(0),
            streams_before_next,
            max,
        }
    }

    /// The least used connection, or a new one where all are busy. One dials at a time; the others wait for it.
    /// `Err(None)`: the one who was waited for failed.
    pub(crate) async fn acquire<F, E>(&self, dial: impl FnOnce() -> F) -> Result<SharedLease, Option<E>>
    where
        F: Future<Output = Result<http2::SendRequest<Body>, E>>,
    {
        loop {
            if let Some(lease) = self.take() {
                return Ok(lease);
            }
            if !self.dialing.get() {
                break;
            }
            let before = self.failures.get();
            self.dialed.notified().await;
            if self.failures.get() != before && self.connections.borrow().is_empty() {
                return Err(None);
            }
        }
        self.dialing.set(true);
        let claim = Dialing(self);
        let dialed = dial().await;
        let sender = match dialed {
            Ok(sender) => sender,
            Err(error) => {
                self.failures.set(self.failures.get() + 1);
                return Err(Some(error));
            }
        };
        let streams = Rc::new(Cell::new(1));
        self.connections
            .borrow_mut()
            .push(SharedConnection { sender: sender.clone(), streams: streams.clone() });
        drop(claim);
        Ok(SharedLease { sender, streams, fresh: true })
    }

    /// A connection that is up and not yet crowded; a crowded one where no other may be opened or one is under way.
    fn take(&self) -> Option<SharedLease> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|one| !one.sender.is_closed());
        let least = connections.iter().min_by_key(|one| one.streams.get())?;
        let crowded = least.streams.get() >= self.streams_before_next;
        if crowded && connections.len() < self.max && !self.dialing.get() {
            return None;
        }
        least.streams.set(least.streams.get() + 1);
        Some(SharedLease { sender: least.sender.clone(), streams: least.streams.clone(), fresh: false })
    }

    /// Uses none of the present connections again; what is under way on them ends by itself.
    pub(crate) fn retire(&self) {
        self.connections.borrow_mut().clear();
    }
}

/// HTTP/1.1 connections to one application.
#[derive(Clone)]
pub(crate) struct Single(Rc<SingleState>);

struct SingleState {
    idle: RefCell<Vec<Idle>>,
    max: usize,
    timeout: Duration,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

pub(crate) struct SingleLease {
    pub(crate) sender: http1::SendRequest<Body>,
    pool: Single,
    pub(crate) fresh: bool,
}

impl SingleLease {
    fn give_back(self) {
        let state = &self.pool.0;
        let mut idle = state.idle.borrow_mut();
        if idle.len() < state.max && !self.sender.is_closed() {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
        }
    }
}

impl Single {
    pub(crate) fn new(max: usize, timeout: Duration) -> Self {
        Self(Rc::new(SingleState { idle: RefCell::default(), max, timeout }))
    }

    /// The connection that was used last and is free, if there is one.
    pub(crate) fn take(&self, now: Instant) -> Option<SingleLease> {
        let mut idle = self.0.idle.borrow_mut();
        self.drop_stale(&mut idle, now);
        let at = idle.iter().rposition(|one| one.sender.is_ready())?;
        let sender = idle.remove(at).sender;
        Some(SingleLease { sender, pool: self.clone(), fresh: false })
    }

    pub(crate) fn lease(&self, sender: http1::SendRequest<Body>) -> SingleLease {
        SingleLease { sender, pool: self.clone(), fresh: true }
    }

    pub(crate) fn expire(&self, now: Instant) {
        self.drop_stale(&mut self.0.idle.borrow_mut(), now);
    }

    fn drop_stale(&self, idle: &mut Vec<Idle>, now: Instant) {
        let timeout = self.0.timeout;
        idle.retain(|one| !one.sender.is_closed() && now.saturating_duration_since(one.since) < timeout);
    }
}
