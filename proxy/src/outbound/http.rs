//! Requests of an application, each to one of the instances of its upstream.
//!
//! Another endpoint is tried only where it is certain that no application has seen the request: it could not be sent,
//! the far proxy said that it reached none, or the connection refused the stream; and where the whole body is at hand.

mod attempt;
mod upgrade;

use std::rc::Rc;

use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::Departure;
use crate::body::{Body, Lent, Watch, Watched};
use crate::http::{BadRequest, clean_request, clean_response, http2_framing, to_http2, wants_upgrade};
use crate::pool::Lease;
use crate::reply;
use crate::report::Framing;
use crate::route::{InFlight, Route};
use crate::serve;
use crate::stream::Stream;

pub(super) async fn serve1(departure: Rc<Departure>, client: Stream) {
    let worker = departure.worker.clone();
    let idle = worker.limits.client_idle_timeout;
    let here = departure.clone();
    let handler = move |request| answer(here.clone(), request, Framing::Http1);
    serve::http1(&worker, client, idle, departure.gone(), handler).await;
}

pub(super) async fn serve2(departure: Rc<Departure>, client: Stream) {
    let worker = departure.worker.clone();
    let here = departure.clone();
    let handler = move |request: Request<Incoming>| {
        let framing = http2_framing(request.headers());
        answer(here.clone(), request, framing)
    };
    serve::http2(&worker, client, false, departure.gone(), handler).await;
}

/// An answer, and what must last as long as its body.
struct Answer {
    response: Response<Body>,
    lease: Option<Lease>,
    in_flight: Option<InFlight>,
}

impl Answer {
    fn own(response: Response<Body>) -> Self {
        Self { response, lease: None, in_flight: None }
    }
}

/// Answers a request, whatever happens to it.
async fn answer(departure: Rc<Departure>, request: Request<Incoming>, framing: Framing) -> Response<Body> {
    let route = departure.route();
    let mut record = route.edge.request(framing);
    let Answer { mut response, lease, in_flight } =
        // Boxed, because one connection holds many of these and most of them only for a moment.
        Box::pin(forward(&departure, &route, request, framing)).await;
    record.answered(response.status());
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    clean_response(response.headers_mut(), upgraded);
    // What the application spoke on its host is not what this client is spoken to in.
    *response.version_mut() = Version::HTTP_11;
    let watch = Watch {
        edge: route.edge.clone(),
        guard: None,
        deadline: None,
        lease,
        holds: (record, None, in_flight),
    };
    response.map(|body| Watched::wrap(body, watch))
}

async fn forward(
    departure: &Departure,
    route: &Rc<Route>,
    request: Request<Incoming>,
    framing: Framing,
) -> Answer {
    if request.method() == Method::CONNECT {
        return refuse(&BadRequest::Connect, framing);
    }
    if route.backends.is_empty() {
        let (word, text) = reply::absence(route.absence(), &departure.listener.target);
        departure.worker.report.unroutable(&route.edge, word, &text);
        return Answer::own(reply::text(StatusCode::SERVICE_UNAVAILABLE, framing, format!("{text}\n")));
    }
    if wants_upgrade(&request) {
        return upgrade::forward(departure, route, request, framing).await;
    }
    let mut request = request.map(Body::Incoming);
    if let Err(error) = to_http2(&mut request, departure.listener.target.service.name.as_str()) {
        return refuse(&error, framing);
    }
    clean_request(request.headers_mut(), false);
    let edge = route.edge.clone();
    let (head, body) = request.into_parts();
    let body = Lent::new(body, edge);
    attempt::forward(departure, route, head, body, framing).await
}

fn refuse(error: &BadRequest, framing: Framing) -> Answer {
    Answer::own(reply::text(StatusCode::BAD_REQUEST, framing, format!("{error}\n")))
}
