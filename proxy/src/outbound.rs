//! What an application of this host sends into the mesh: detect, route, pick, connect, relay, in that order.
//!
//! On whose behalf is told by the listener that it came in on, never by what it says.

mod http;
mod tcp;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::view::Listener;
use tokio::net::TcpStream;

use crate::dial::tune;
use crate::inbound::{Arrival, Caller};
use crate::report::{Direction, Refusal};
use crate::route::{Backend, Route};
use crate::serve::{self, Spoken};
use crate::stream::Stream;
use crate::worker::Worker;

/// Where nobody said how long to wait for a silent client.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection of a local application to an upstream.
pub(crate) struct Departure {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    route: RefCell<Rc<Route>>,
    /// The last hand-over to an instance of this host.
    hand_over: RefCell<Option<(Rc<Backend>, Rc<Arrival>)>>,
}

impl Departure {
    fn new(worker: Rc<Worker>, listener: Arc<Listener>) -> Self {
        let route = worker.routes.find(&worker, &listener.source, &listener.target);
        Self { worker, listener, route: RefCell::new(route), hand_over: RefCell::default() }
    }

    /// Where to go now.
    fn route(&self) -> Rc<Route> {
        let mut route = self.route.borrow_mut();
        if !route.is_current(&self.worker) {
            *route = self.worker.routes.find(&self.worker, &self.listener.source, &self.listener.target);
            *self.hand_over.borrow_mut() = None;
        }
        route.clone()
    }

    /// For an instance of this host: the inbound side's stages, without network and TLS between.
    fn hand_over(&self, backend: &Rc<Backend>) -> Rc<Arrival> {
        let mut cached = self.hand_over.borrow_mut();
        if let Some((_, arrival)) = cached.as_ref().filter(|(known, _)| Rc::ptr_eq(known, backend)) {
            return arrival.clone();
        }
        let state = self.worker.state();
        let (source, destination) = (&self.listener.source, &self.listener.target.service);
        let caller = Caller {
            reached: state.identity_of(destination).unwrap_or_default(),
            identity: state.identity_of(source).unwrap_or_default(),
            hash: state.identities.get(source).map(|own| own.hash.clone()),
        };
        let name = backend.endpoint.server_name.clone();
        let arrival = Rc::new(Arrival::new(self.worker.clone(), source, destination, name, &caller));
        *cached = Some((backend.clone(), arrival.clone()));
        arrival
    }

    /// Resolves when the listener is no more. Requests under way are ended well then, and no further ones taken.
    async fn gone(&self) {
        loop {
            let changed = self.worker.listeners_changed.notified();
            if !self.worker.state().listeners.contains_key(&self.listener.bind) {
                return;
            }
            changed.await;
        }
    }

    fn patience(&self) -> Duration {
        let state = self.worker.state();
        state
            .settings
            .as_ref()
            .map_or(PATIENCE, |settings| Duration::from_millis(settings.detection_timeout_ms))
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, from: SocketAddr, listener: Arc<Listener>) {
    tune(&tcp);
    let departure = Rc::new(Departure::new(worker.clone(), listener));
    let declared = departure.route().target.as_ref().and_then(|target| target.protocol);
    let mut client = Stream::from(tcp);
    let spoken = match serve::detect(&worker, &mut client, declared, departure.patience()).await {
        Ok(spoken) => spoken,
        Err(error) => return worker.report.refused(Refusal::Detection, Some(from), &error),
    };
    debug_assert_eq!(departure.route().edge.direction, Direction::Outbound);
    let _record = departure.route().edge.connection();
    match spoken {
        Spoken::Tcp => tcp::serve(departure, client).await,
        Spoken::Http1 => http::serve1(departure, client).await,
        Spoken::Http2 => http::serve2(departure, client).await,
    }
}
