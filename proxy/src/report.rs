//! What happened, said once: the only place of the data plane that logs and counts.
//!
//! Each worker counts for itself in cells that only it writes; a scrape adds them up from another thread and never
//! stalls a worker. A lock is taken when a pair of services is seen for the first time, and for what is rare.

mod metrics;
mod quota;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use purlin_model::ServiceKey;

use crate::authorize::Denial;
use metrics::{Count, EdgeCounters, EdgeLabel};
pub(crate) use metrics::{Metrics, Refusal};
use quota::Quota;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a request was framed where it entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Http1,
    Http2,
    Grpc,
}

impl Framing {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// One pair of services as one side of one worker sees it: its names and its counters.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) source: ServiceKey,
    pub(crate) destination: ServiceKey,
    pub(crate) direction: Direction,
    counters: Arc<EdgeCounters>,
}

impl Edge {
    /// Bytes of the source that went towards the destination.
    pub(crate) fn sent(&self, count: usize) {
        self.counters.count(Count::BytesSent, count as u64);
    }

    pub(crate) fn received(&self, count: usize) {
        self.counters.count(Count::BytesReceived, count as u64);
    }

    pub(crate) fn retried(&self) {
        self.counters.count(Count::Retries, 1);
    }

    /// Counts a connection as long as the answer lives.
    pub(crate) fn connection(self: &Rc<Self>) -> ConnectionRecord {
        self.counters.count(Count::ConnectionsOpened, 1);
        ConnectionRecord { edge: self.clone() }
    }

    /// Counts a request when the answer is dropped.
    pub(crate) fn request(self: &Rc<Self>, framing: Framing) -> RequestRecord {
        RequestRecord { edge: self.clone(), framing, started: Instant::now(), status: None }
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionRecord {
    edge: Rc<Edge>,
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        self.edge.counters.count(Count::ConnectionsClosed, 1);
    }
}

#[derive(Debug)]
pub(crate) struct RequestRecord {
    edge: Rc<Edge>,
    framing: Framing,
    started: Instant,
    status: Option<StatusCode>,
}

impl RequestRecord {
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.edge.counters.request(self.framing, self.status, self.started.elapsed());
    }
}

/// A worker's voice.
#[derive(Debug)]
pub(crate) struct Reporter {
    edges: RefCell<HashMap<(ServiceKey, ServiceKey, Direction), Rc<Edge>>>,
    limit: usize,
    metrics: Arc<Metrics>,
    /// Of lines about what others do, which they could do at any rate.
    quota: Quota,
}

impl Reporter {
    pub(crate) fn new(metrics: Arc<Metrics>, limit: usize) -> Self {
        Self { edges: RefCell::default(), limit, metrics, quota: Quota::default() }
    }

    pub(crate) fn edge(
        &self,
        source: &ServiceKey,
        destination: &ServiceKey,
        direction: Direction,
    ) -> Rc<Edge> {
        let key = (source.clone(), destination.clone(), direction);
        let mut edges = self.edges.borrow_mut();
        if let Some(edge) = edges.get(&key) {
            return edge.clone();
        }
        if edges.len() >= self.limit {
            edges.retain(|_, edge| Rc::strong_count(edge) > 1);
        }
        let label = EdgeLabel::new(source, destination, direction);
        let counters = self.metrics.counters(label);
        let edge =
            Rc::new(Edge { source: source.clone(), destination: destination.clone(), direction, counters });
        if edges.len() < self.limit {
            edges.insert(key, edge.clone());
        }
        edge
    }

    /// Whether to write a line about what somebody else did.
    fn may_write(&self) -> bool {
        let left_out = self.quota.take(Instant::now());
        if let Some(left_out @ 1..) = left_out {
            tracing::warn!(left_out, "lines like the next ones were left out, their metrics count them");
        }
        left_out.is_some()
    }

    pub(crate) fn denied(&self, edge: &Edge, denial: &Denial) {
        let (source, destination) = (&edge.source, &edge.destination);
        self.denied_by(edge, &denial.rule);
        if !self.may_write() {
            return;
        }
        tracing::warn!(
            %source,
            %destination,
            direction = edge.direction.as_str(),
            rule = %denial.reason(),
            allow_with = %denial.remedy(),
            "access denied"
        );
    }

    /// As the far proxy told it.
    pub(crate) fn denied_by_peer(&self, edge: &Edge, rule: &str) {
        self.denied_by(edge, rule);
        if !self.may_write() {
            return;
        }
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::warn!(%source, %destination, direction = edge.direction.as_str(), rule, "access denied");
    }

    fn denied_by(&self, edge: &Edge, rule: &str) {
        self.metrics.denied(EdgeLabel::new(&edge.source, &edge.destination, edge.direction), rule);
    }

    /// What was allowed when it began was ended by a new policy.
    pub(crate) fn cut(&self, edge: &Edge, denial: &Denial) {
        self.denied_by(edge, &denial.rule);
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::warn!(%source, %destination, rule = %denial.reason(), "cut by a new policy");
    }

    pub(crate) fn unroutable(&self, edge: &Edge, reason: &'static str, text: &str) {
        self.metrics.unroutable(EdgeLabel::new(&edge.source, &edge.destination, edge.direction), reason);
        if !self.may_write() {
            return;
        }
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::warn!(%source, %destination, reason, "no endpoint: {text}");
    }

    pub(crate) fn connect_failed(&self, edge: &Edge, address: &dyn Display, why: &dyn Display) {
        edge.counters.count(Count::ConnectFailures, 1);
        if !self.may_write() {
            return;
        }
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::warn!(%source, %destination, direction = edge.direction.as_str(), "cannot reach {address}: {why}");
    }

    pub(crate) fn request_failed(&self, edge: &Edge, why: &dyn Display) {
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::debug!(%source, %destination, direction = edge.direction.as_str(), "request failed: {why}");
    }

    pub(crate) fn relay_failed(&self, edge: &Edge, why: &dyn Display) {
        let (source, destination) = (&edge.source, &edge.destination);
        tracing::debug!(%source, %destination, direction = edge.direction.as_str(), "connection broke off: {why}");
    }

    /// A connection that never became a flow.
    pub(crate) fn refused(&self, refusal: Refusal, from: Option<SocketAddr>, why: &dyn Display) {
        self.metrics.refused(refusal);
        let from = from.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        match refusal {
            Refusal::Handshake | Refusal::UnknownName if self.may_write() => {
                tracing::warn!(from, reason = refusal.as_str(), "connection refused: {why}");
            }
            _ => {
                tracing::debug!(from, reason = refusal.as_str(), "connection refused: {why}");
            }
        }
    }

    pub(crate) fn connection_failed(&self, why: &dyn Display) {
        tracing::debug!("connection ended: {why}");
    }

    pub(crate) fn accept_failed(&self, address: SocketAddr, why: &dyn Display) {
        tracing::warn!("cannot accept on {address}, trying again: {why}");
    }

    pub(crate) fn panicked(&self, what: &'static str) {
        self.metrics.panicked();
        tracing::error!("a bug ended {what}; others go on");
    }
}

#[cfg(test)]
mod tests;
