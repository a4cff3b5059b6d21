//! One request, one endpoint after another, until one answers.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::client::conn::http2;

use super::super::Departure;
use super::Answer;
use crate::body::{Body, Lent};
use crate::dial::{self, DialError};
use crate::http::{DENIED, RETRY};
use crate::inbound;
use crate::pool::Lease;
use crate::reply;
use crate::report::Framing;
use crate::route::{Backend, Budget, InFlight, Route};
use crate::tunnel::{ALPN_H1, ALPN_H2};

/// How one attempt ended.
enum Outcome {
    Answered(Answer),
    /// The application was not reached: the answer is for the case that no other endpoint does better.
    Elsewhere(Answer),
    /// No connection could be made.
    Unreached(DialError),
    /// The request was given back or refused before anybody saw it.
    Unseen(String),
    /// It may have been carried out.
    Lost(hyper::Error),
}

pub(super) async fn forward(
    departure: &Departure,
    route: &Rc<Route>,
    head: Parts,
    body: Lent,
    framing: Framing,
) -> Answer {
    let (report, edge) = (&departure.worker.report, &route.edge);
    let mut budget = Budget::new(&departure.worker, route, departure.listener.connect_timeout_ms);
    let mut tried = Vec::new();
    let mut last = None;
    while let Some((index, within)) = next(departure, route, &mut budget, &tried) {
        if last.is_some() {
            edge.retried();
        }
        let backend = &route.backends[index];
        let request = Request::from_parts(head.clone(), Body::Lent(body.lend()));
        match attempt(departure, route, backend, request, framing, within).await {
            Outcome::Answered(answer) => {
                body.settle();
                return answer;
            }
            Outcome::Elsewhere(answer) => {
                tried.push(index);
                backend.failed(&departure.worker);
                report.connect_failed(
                    edge,
                    &backend.endpoint.instance,
                    &retry_reason(answer.response.headers()),
                );
                if !body.is_whole() {
                    return answer;
                }
                last = Some(answer);
            }
            Outcome::Unreached(error) => {
                tried.push(index);
                backend.failed(&departure.worker);
                report.connect_failed(edge, &backend.endpoint.instance, &error);
                last = Some(Answer::own(unreachable(route, &error.to_string(), framing)));
            }
            Outcome::Unseen(why) => {
                // The endpoint itself may be well: only that connection of it ended.
                report.request_failed(edge, &why);
                last = Some(Answer::own(unreachable(route, &why, framing)));
                if !body.is_whole() {
                    break;
                }
            }
            Outcome::Lost(error) => {
                report.request_failed(edge, &error);
                return Answer::own(match body.broken() {
                    Some(why) => reply::text(StatusCode::BAD_REQUEST, framing, why),
                    None => lost(route, &error, framing),
                });
            }
        }
    }
    last.unwrap_or_else(|| Answer::own(unreachable(route, "no time was left to try", framing)))
}

fn next(
    departure: &Departure,
    route: &Route,
    budget: &mut Budget,
    tried: &[usize],
) -> Option<(usize, Duration)> {
    let index = route.pick(&departure.worker, tried)?;
    Some((index, budget.next(tried.len())?))
}

async fn attempt(
    departure: &Departure,
    route: &Rc<Route>,
    backend: &Rc<Backend>,
    request: Request<Body>,
    framing: Framing,
    within: Duration,
) -> Outcome {
    let in_flight = Some(InFlight::new(backend));
    if backend.endpoint.local {
        let response = inbound::handle(departure.hand_over(backend), request, framing).await;
        return judge(departure, route, Answer { response, lease: None, in_flight });
    }
    let pool = if framing == Framing::Http1 { &backend.http1 } else { &backend.http2 };
    let dialed = pool.acquire(|| connect(departure, route, backend, framing, within)).await;
    let mut lease = match dialed {
        Ok(lease) => lease,
        Err(error) => return Outcome::Unreached(error.unwrap_or(DialError::Shared)),
    };
    let started = Instant::now();
    match lease.sender.try_send_request(request).await {
        Ok(response) => {
            backend.succeeded(started.elapsed());
            let response = response.map(Body::Incoming);
            judge(departure, route, Answer { response, lease: Some(Lease::Shared(lease)), in_flight })
        }
        Err(mut error) => {
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            if unsent || was_refused(&error) {
                Outcome::Unseen(error.to_string())
            } else {
                Outcome::Lost(error)
            }
        }
    }
}

async fn connect(
    departure: &Departure,
    route: &Route,
    backend: &Backend,
    framing: Framing,
    within: Duration,
) -> Result<http2::SendRequest<Body>, DialError> {
    let alpn = if framing == Framing::Http1 { ALPN_H1 } else { ALPN_H2 };
    let io = dial::peer(&departure.worker, route, backend, alpn, within).await?;
    dial::speak_http2(&departure.worker, io, true, &backend.endpoint.address.to_string()).await
}

/// The far end said that it did not, and will not, look at this stream (RFC 9113, 6.8 and 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (refused || error.is_go_away());
        }
        source = inner.source();
    }
    false
}

/// Reads what the far proxy says about its answer.
fn judge(departure: &Departure, route: &Route, answer: Answer) -> Outcome {
    let headers = answer.response.headers();
    if let Some(rule) = headers.get(DENIED) {
        departure.worker.report.denied_by_peer(&route.edge, &String::from_utf8_lossy(rule.as_bytes()));
    }
    match headers.contains_key(RETRY) {
        true => Outcome::Elsewhere(answer),
        false => Outcome::Answered(answer),
    }
}

fn retry_reason(headers: &HeaderMap) -> String {
    let reason = headers.get(RETRY).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    reason.unwrap_or_default()
}

pub(super) fn unreachable(route: &Route, why: &str, framing: Framing) -> Response<Body> {
    let service = &route.edge.destination;
    let text = format!("no instance of {service} could be reached, the last one because: {why}\n");
    reply::text(StatusCode::SERVICE_UNAVAILABLE, framing, text)
}

pub(super) fn lost(route: &Route, error: &hyper::Error, framing: Framing) -> Response<Body> {
    let service = &route.edge.destination;
    let text = format!("the connection to {service} was lost before it answered: {error}\n");
    reply::text(StatusCode::BAD_GATEWAY, framing, text)
}
