//! What comes from the mesh: handshake, destination, policy, application, in that order.
//!
//! Who calls is told by the client's certificate and by nothing else; where it goes, by the name that it asked for.

mod http;
mod slot;
mod tcp;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ::http::HeaderValue;
use purlin_model::ServiceKey;
use purlin_model::identity::Identity;
use purlin_wire::tls;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use crate::app::App;
use crate::authorize::{Call, Denial, authorize};
use crate::dial::{self, tls_reason, tune};
use crate::report::{ConnectionRecord, Direction, Edge, Framing, Refusal};
use crate::serve;
use crate::state::Destination;
use crate::stream::Stream;
use crate::tunnel::{ALPN_H1, ALPN_H2, ALPN_TCP, ALPN_UPGRADE};
use crate::worker::Worker;

pub(crate) use http::handle;
pub(crate) use slot::Slots;
pub(crate) use tcp::{Accepted, Refused, accept};

/// One connection from the mesh, or from an application of this host to another one: who calls whom.
pub(crate) struct Arrival {
    pub(crate) worker: Rc<Worker>,
    pub(crate) source: ServiceKey,
    /// What the application is told of the caller's certificate.
    pub(crate) certificate: Option<HeaderValue>,
    pub(crate) server_name: String,
    pub(crate) edge: Rc<Edge>,
    /// The application that the last request went to.
    app: RefCell<Option<(Arc<Destination>, Rc<App>)>>,
}

/// What an application may know of who calls.
pub(crate) struct Caller {
    pub(crate) identity: String,
    /// Of its certificate.
    pub(crate) hash: Option<String>,
    /// The identity that it reached.
    pub(crate) reached: String,
}

impl Caller {
    /// In Envoy's form.
    fn header(&self) -> Option<HeaderValue> {
        let hash = self.hash.as_ref().map(|hash| format!("Hash={hash};")).unwrap_or_default();
        HeaderValue::from_str(&format!("By={};{hash}URI={}", self.reached, self.identity)).ok()
    }
}

impl Arrival {
    pub(crate) fn new(
        worker: Rc<Worker>,
        source: &ServiceKey,
        destination: &ServiceKey,
        server_name: String,
        caller: &Caller,
    ) -> Self {
        let edge = worker.report.edge(source, destination, Direction::Inbound);
        let (source, certificate) = (source.clone(), caller.header());
        Self { worker, source, certificate, server_name, edge, app: RefCell::default() }
    }

    /// Where it goes now; none where no such instance is here any more.
    fn destination(&self) -> Option<Arc<Destination>> {
        self.worker.state().destination(&self.server_name).cloned()
    }

    fn verdict(&self, call: Call<'_>) -> Result<(), Denial> {
        let state = self.worker.state();
        let guard = state.guards.get(&self.edge.destination);
        authorize(guard.map(AsRef::as_ref), &self.source, &self.edge.destination, call)
    }

    fn app(&self, destination: &Arc<Destination>) -> Rc<App> {
        let mut cached = self.app.borrow_mut();
        if let Some((_, app)) = cached.as_ref().filter(|(known, _)| Arc::ptr_eq(known, destination)) {
            return app.clone();
        }
        let app = self.worker.apps.of(&self.worker, destination);
        *cached = Some((destination.clone(), app.clone()));
        app
    }

    /// Resolves when no instance is behind the name any more.
    async fn gone(&self) {
        loop {
            let changed = self.worker.locals_changed.notified();
            if self.destination().is_none() {
                return;
            }
            changed.await;
        }
    }

    fn absent(&self) -> String {
        format!("no instance of {} is here under the name that was asked for", self.edge.destination)
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, from: SocketAddr) {
    tune(&tcp);
    let slot = worker.handshakes.take(worker.limits.handshakes_per_worker);
    let shaken = tokio::select! {
        shaken = timeout(worker.limits.handshake_timeout, handshake(&worker, tcp)) => {
            shaken.unwrap_or_else(|_| Err((Refusal::Handshake, "the handshake took too long".to_owned())))
        }
        () = slot.lost() => {
            Err((Refusal::TooMany, "too many handshakes are under way, and this one was the slowest".to_owned()))
        }
    };
    drop(slot);
    match shaken {
        Ok((arrival, io, alpn)) => {
            let record = arrival.edge.connection();
            dispatch(Rc::new(arrival), io, &alpn, record).await;
        }
        Err((refusal, why)) => worker.report.refused(refusal, Some(from), &why),
    }
}

type Shaken = (Arrival, Stream, Vec<u8>);

async fn handshake(worker: &Rc<Worker>, tcp: TcpStream) -> Result<Shaken, (Refusal, String)> {
    let broken = |error: std::io::Error| (Refusal::Handshake, tls_reason(&error));
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(broken)?;
    let unknown = |why: String| (Refusal::UnknownName, why);
    let hello = start.client_hello();
    let server_name = hello.server_name().ok_or_else(|| unknown("it names no instance".into()))?.to_owned();
    let state = worker.state();
    let name = state.names.get(&server_name).filter(|name| !name.destinations.is_empty());
    let name = name.ok_or_else(|| unknown(format!("no instance here is named {server_name}")))?;
    let own = state.identities.get(&name.service);
    let own = own.ok_or_else(|| unknown(format!("{} has no certificate yet", name.service)))?;
    let io = start.into_stream(own.server.clone()).await.map_err(broken)?;
    let refused = |why: String| (Refusal::Handshake, why);
    let session = io.get_ref().1;
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| refused("it shows no certificate".into()))?;
    let peer = source_of(leaf, &state).map_err(refused)?;
    let source = peer.service_key().ok_or_else(|| refused(format!("{peer} is not a service")))?;
    let shown = session.peer_certificates().unwrap_or_default();
    let bond = worker.bonds.tie(shown, &state.revoked).map_err(refused)?;
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    let alpn = alpn.ok_or_else(|| refused("it speaks none of the mesh's protocols".into()))?;
    let hash = Some(tls::hex(&tls::fingerprint(leaf)));
    let caller = Caller { identity: peer.to_string(), hash, reached: own.uri.clone() };
    let arrival = Arrival::new(worker.clone(), &source, &name.service, server_name, &caller);
    Ok((arrival, Stream::from_peer(io, bond), alpn))
}

/// A resumed session skipped the verifier, so what it checked is looked at again.
fn source_of(leaf: &[u8], state: &crate::state::State) -> Result<Identity, String> {
    dial::is_valid_now(leaf)?;
    let peer = tls::spiffe_identity(leaf).map_err(|error| error.to_string())?;
    let ours = state.settings.as_ref().is_some_and(|settings| settings.trust_domain == peer.trust_domain);
    if ours { Ok(peer) } else { Err(format!("{peer} is of another mesh")) }
}

async fn dispatch(arrival: Rc<Arrival>, io: Stream, alpn: &[u8], _record: ConnectionRecord) {
    let worker = arrival.worker.clone();
    match alpn {
        ALPN_TCP => tcp::serve(arrival, io).await,
        ALPN_H1 => http2(arrival, io, Some(Framing::Http1)).await,
        ALPN_H2 => http2(arrival, io, None).await,
        ALPN_UPGRADE => http1(arrival, io).await,
        other => {
            let why = format!("unknown protocol {}", String::from_utf8_lossy(other));
            worker.report.refused(Refusal::Handshake, None, &why);
        }
    }
}

/// `origin`: how all requests were framed at the client; absent: as HTTP/2.
async fn http2(arrival: Rc<Arrival>, io: Stream, origin: Option<Framing>) {
    let worker = arrival.worker.clone();
    let here = arrival.clone();
    let handler = move |request| handle_incoming(here.clone(), request, origin);
    serve::http2(&worker, io, true, arrival.gone(), handler).await;
}

async fn http1(arrival: Rc<Arrival>, io: Stream) {
    let worker = arrival.worker.clone();
    let here = arrival.clone();
    let handler = move |request| handle_incoming(here.clone(), request, Some(Framing::Http1));
    serve::http1(&worker, io, worker.limits.header_read_timeout, arrival.gone(), handler).await;
}

async fn handle_incoming(
    arrival: Rc<Arrival>,
    request: ::http::Request<hyper::body::Incoming>,
    origin: Option<Framing>,
) -> ::http::Response<crate::body::Body> {
    let framing = origin.unwrap_or_else(|| crate::http::http2_framing(request.headers()));
    // Boxed, because one connection holds many of these and most of them only for a moment.
    Box::pin(handle(arrival, request.map(crate::body::Body::Incoming), framing)).await
}
