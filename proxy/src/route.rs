//! Where connections of one source to one target may go now, and what this worker knows of each place.
//!
//! A route is looked up anew when the state changes; what is known of an endpoint, its pool included, stays as long
//! as the endpoint does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use purlin_model::ServiceKey;
use purlin_model::identity::Identity;
use purlin_model::view::{Absence, Endpoint, Target, TargetKey};
use tokio_rustls::TlsConnector;

use crate::balance::{self, Candidate, Field, Stats};
use crate::dial::DialError;
use crate::pool::Shared;
use crate::report::{Direction, Edge};
use crate::state::{LocalIdentity, State};
use crate::worker::Worker;

#[derive(Default)]
pub(crate) struct Routes {
    known: RefCell<HashMap<(ServiceKey, TargetKey), Rc<Route>>>,
}

pub(crate) struct Route {
    epoch: u64,
    source: ServiceKey,
    /// Absent: the view does not have it.
    pub(crate) target: Option<Arc<Target>>,
    /// As the target's endpoints, in their order.
    pub(crate) backends: Vec<Rc<Backend>>,
    uniform: bool,
    pub(crate) edge: Rc<Edge>,
    tls: Rc<RefCell<Option<Tls>>>,
}

/// The TLS of one certificate of the source towards one identity.
struct Tls {
    own: Arc<LocalIdentity>,
    peer: String,
    connector: TlsConnector,
}

/// One endpoint as this worker knows it.
pub(crate) struct Backend {
    pub(crate) endpoint: Endpoint,
    pub(crate) stats: Stats,
    /// For requests that came as HTTP/1.1, and for those that came as HTTP/2.
    pub(crate) http1: Shared,
    pub(crate) http2: Shared,
}

/// A request or connection counts for its endpoint as long as this lives.
pub(crate) struct InFlight(Rc<Backend>);

impl InFlight {
    pub(crate) fn new(backend: &Rc<Backend>) -> Self {
        backend.stats.begin();
        Self(backend.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.stats.end();
    }
}

impl Routes {
    pub(crate) fn find(&self, worker: &Worker, source: &ServiceKey, target: &TargetKey) -> Rc<Route> {
        let key = (source.clone(), target.clone());
        let old = self.known.borrow().get(&key).cloned();
        if let Some(route) = old.as_ref().filter(|route| route.is_current(worker)) {
            return route.clone();
        }
        let route = Rc::new(Route::new(worker, source, target, old.as_deref()));
        self.known.borrow_mut().insert(key, route.clone());
        route
    }

    /// Drops what no listener leads to any more.
    pub(crate) fn forget_gone(&self, state: &State) {
        let in_use: std::collections::HashSet<_> =
            state.listeners.values().map(|one| (&one.source, &one.target)).collect();
        self.known.borrow_mut().retain(|(source, target), _| in_use.contains(&(source, target)));
    }
}

impl Route {
    fn new(worker: &Worker, source: &ServiceKey, key: &TargetKey, old: Option<&Self>) -> Self {
        let state = worker.state();
        let target = state.targets.get(key).cloned();
        let endpoints = target.as_ref().map_or(&[][..], |target| &target.endpoints[..]);
        let known: HashMap<_, _> =
            old.iter().flat_map(|old| &old.backends).map(|one| (one.place(), one)).collect();
        let backends: Vec<_> = endpoints
            .iter()
            .map(|endpoint| match known.get(&place(endpoint)) {
                Some(backend) if backend.endpoint == *endpoint => (*backend).clone(),
                _ => Rc::new(Backend::new(worker, endpoint.clone())),
            })
            .collect();
        let weight = endpoints.first().map_or(0, |endpoint| endpoint.weight);
        let tls = old.map(|old| old.tls.clone()).unwrap_or_default();
        let route = Self {
            epoch: worker.epoch(),
            source: source.clone(),
            uniform: endpoints.iter().all(|endpoint| endpoint.weight == weight),
            edge: worker.report.edge(source, &key.service, Direction::Outbound),
            target,
            backends,
            tls,
        };
        route.retire_if_renewed(&state);
        route
    }

    pub(crate) fn is_current(&self, worker: &Worker) -> bool {
        self.epoch == worker.epoch()
    }

    pub(crate) fn absence(&self) -> Absence {
        match &self.target {
            Some(target) => target.absence.unwrap_or(Absence::Unhealthy),
            None => Absence::Pending,
        }
    }

    /// The next endpoint to try; `tried` are indices.
    pub(crate) fn pick(&self, worker: &Worker, tried: &[usize]) -> Option<usize> {
        let candidate = |index: usize| {
            let backend = &self.backends[index];
            Candidate {
                weight: backend.endpoint.weight,
                stats: &backend.stats,
                tried: tried.contains(&index),
            }
        };
        let field = Field { len: self.backends.len(), uniform: self.uniform, candidate };
        balance::pick(&field, Instant::now(), &mut worker.dice.borrow_mut())
    }

    /// Connections with the old certificate are used for nothing new, and end when they idle.
    fn retire_if_renewed(&self, state: &State) {
        let tls = self.tls.borrow();
        let Some(tls) = tls.as_ref() else { return };
        if !self.is_same(tls, state) {
            self.backends.iter().for_each(|backend| {
                backend.http1.retire();
                backend.http2.retire();
            });
        }
    }

    fn is_same(&self, tls: &Tls, state: &State) -> bool {
        let own = state.identities.get(&self.source);
        own.is_some_and(|own| Arc::ptr_eq(own, &tls.own))
            && self.target.as_ref().is_some_and(|target| target.identity == tls.peer)
    }

    /// For a new connection: with the certificate of now.
    pub(crate) fn connector(&self, worker: &Worker) -> Result<TlsConnector, DialError> {
        let state = worker.state();
        let mut cached = self.tls.borrow_mut();
        if let Some(tls) = cached.as_ref().filter(|tls| self.is_same(tls, &state)) {
            return Ok(tls.connector.clone());
        }
        let own = state.identities.get(&self.source);
        let (Some(own), Some(anchors), Some(target)) = (own, &state.anchors, &self.target) else {
            return Err(DialError::NoCertificate(self.source.clone()));
        };
        let refuse = |why: String| DialError::Setup { service: self.source.clone(), why };
        let peer = Identity::parse(&target.identity).map_err(|error| refuse(error.to_string()))?;
        let config = own.client(anchors, peer).map_err(|error| refuse(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        *cached = Some(Tls { own: own.clone(), peer: target.identity.clone(), connector: connector.clone() });
        Ok(connector)
    }
}

impl Backend {
    fn new(worker: &Worker, endpoint: Endpoint) -> Self {
        let limits = &worker.limits;
        let pool = || Shared::new(limits.streams_before_next, limits.tunnels_per_endpoint);
        Self { endpoint, stats: Stats::default(), http1: pool(), http2: pool() }
    }

    fn place(&self) -> (std::net::SocketAddr, &str) {
        place(&self.endpoint)
    }

    pub(crate) fn failed(&self, worker: &Worker) {
        self.stats.fail(Instant::now(), worker.limits.failed_rest, worker.limits.failed_rest_max);
    }

    pub(crate) fn succeeded(&self, latency: Duration) {
        self.stats.observe(latency, Instant::now());
    }
}

fn place(endpoint: &Endpoint) -> (std::net::SocketAddr, &str) {
    (endpoint.address, &endpoint.server_name)
}

/// How long all attempts of one connection or request may take together, and how many there may be.
pub(crate) struct Budget {
    deadline: Instant,
    attempts: usize,
    endpoints: usize,
}

impl Budget {
    pub(crate) fn new(worker: &Worker, route: &Route, connect_timeout_ms: u64) -> Self {
        Self {
            deadline: Instant::now() + Duration::from_millis(connect_timeout_ms),
            attempts: worker.limits.attempts.max(1),
            endpoints: route.backends.len(),
        }
    }

    /// The share of the next attempt: what is left, divided among those that may still come after `tried` endpoints
    /// failed. None: no more.
    pub(crate) fn next(&mut self, tried: usize) -> Option<Duration> {
        let to_come = self.attempts.min(self.endpoints.saturating_sub(tried));
        let left = self.deadline.saturating_duration_since(Instant::now());
        let share =
            left.checked_div(u32::try_from(to_come).unwrap_or(u32::MAX)).filter(|share| !share.is_zero())?;
        self.attempts -= 1;
        Some(share)
    }
}
