//! Requests that ask for another protocol, such as WebSocket: on a tunnel of their own, which becomes that protocol.

use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::super::Departure;
use super::attempt::{lost, unreachable};
use super::{Answer, refuse};
use crate::body::{Body, Lent};
use crate::dial::{self, DialError};
use crate::http::{DENIED, RETRY, clean_request, to_http1};
use crate::inbound;
use crate::relay::relay_upgraded;
use crate::reply;
use crate::report::Framing;
use crate::route::{Backend, Budget, InFlight, Route};
use crate::tunnel::ALPN_UPGRADE;

pub(super) async fn forward(
    departure: &Departure,
    route: &Rc<Route>,
    request: Request<Incoming>,
    framing: Framing,
) -> Answer {
    let mut request = request.map(Body::Incoming);
    let client = hyper::upgrade::on(&mut request);
    if let Err(error) = to_http1(&mut request, departure.listener.target.service.name.as_str()) {
        return refuse(&error, framing);
    }
    clean_request(request.headers_mut(), true);
    let (head, body) = request.into_parts();
    let body = Lent::new(body, route.edge.clone());
    let mut budget = Budget::new(&departure.worker, route, departure.listener.connect_timeout_ms);
    let (mut tried, mut last) = (Vec::new(), None);
    while let Some(index) = route.pick(&departure.worker, &tried) {
        let Some(within) = budget.next(tried.len()) else { break };
        tried.push(index);
        let backend = &route.backends[index];
        let request = Request::from_parts(head.clone(), Body::Lent(body.lend()));
        let answer = attempt(departure, route, backend, request, &client, framing, within).await;
        if !answer.response.headers().contains_key(RETRY) || !body.is_whole() {
            return answer;
        }
        backend.failed(&departure.worker);
        last = Some(answer);
    }
    last.unwrap_or_else(|| Answer::own(unreachable(route, "no time was left to try", framing)))
}

/// An answer that is marked for it means: try elsewhere.
async fn attempt(
    departure: &Departure,
    route: &Rc<Route>,
    backend: &Rc<Backend>,
    mut request: Request<Body>,
    client: &OnUpgrade,
    framing: Framing,
    within: Duration,
) -> Answer {
    let in_flight = Some(InFlight::new(backend));
    if backend.endpoint.local {
        // The inbound side joins both ends by itself, given the client's.
        request.extensions_mut().insert(client.clone());
        let response = inbound::handle(departure.hand_over(backend), request, framing).await;
        note_denial(departure, route, response.headers());
        return Answer { response, lease: None, in_flight };
    }
    match connect(departure, route, backend, within).await {
        Ok(sender) => {
            Answer { in_flight, ..exchange(departure, route, sender, request, client, framing).await }
        }
        Err(error) => {
            departure.worker.report.connect_failed(&route.edge, &backend.endpoint.instance, &error);
            let why = format!(
                "no instance of {} could be reached, the last one because: {error}",
                route.edge.destination
            );
            Answer::own(reply::retry_elsewhere(framing, &why))
        }
    }
}

fn note_denial(departure: &Departure, route: &Route, headers: &http::HeaderMap) {
    if let Some(rule) = headers.get(DENIED) {
        departure.worker.report.denied_by_peer(&route.edge, &String::from_utf8_lossy(rule.as_bytes()));
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Body>;

async fn connect(
    departure: &Departure,
    route: &Route,
    backend: &Backend,
    within: Duration,
) -> Result<Sender, DialError> {
    let io = dial::peer(&departure.worker, route, backend, ALPN_UPGRADE, within).await?;
    dial::speak_http1(&departure.worker, io, &backend.endpoint.address.to_string()).await
}

async fn exchange(
    departure: &Departure,
    route: &Rc<Route>,
    mut sender: Sender,
    request: Request<Body>,
    client: &OnUpgrade,
    framing: Framing,
) -> Answer {
    let mut response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => {
            departure.worker.report.request_failed(&route.edge, &error);
            return Answer::own(lost(route, &error, framing));
        }
    };
    note_denial(departure, route, response.headers());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Answer::own(response.map(Body::Incoming));
    }
    let far = hyper::upgrade::on(&mut response);
    join(departure, route, client.clone(), far);
    Answer::own(response.map(|_| Body::Empty))
}

fn join(departure: &Departure, route: &Rc<Route>, near: OnUpgrade, far: OnUpgrade) {
    let (worker, edge) = (departure.worker.clone(), route.edge.clone());
    worker.clone().spawn_counted("an upgraded connection", async move {
        if let Err(error) = relay_upgraded(near, far, &worker.scratch, &edge).await {
            worker.report.relay_failed(&edge, &error);
        }
    });
}
