//! One request to an application of this host: policy, application, answer.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::Arrival;
use crate::app::{Answer, AppError, Speak};
use crate::authorize::Denial;
use crate::body::{Body, Lent, Watch, Watched};
use crate::http::{
    BadRequest, CLIENT_CERTIFICATE, clean_request, clean_response, to_http1, to_http2, wants_upgrade,
};
use crate::live::{LiveGuard, What};
use crate::relay::relay_upgraded;
use crate::reply;
use crate::report::{Framing, RequestRecord};
use crate::state::Destination;

/// Answers a request, whatever happens to it.
pub(crate) async fn handle(arrival: Rc<Arrival>, request: Request<Body>, framing: Framing) -> Response<Body> {
    let mut record = arrival.edge.request(framing);
    match admit(&arrival, request, framing).await {
        Ok(admitted) => forward(arrival, admitted, framing, record).await,
        Err(answer) => {
            record.answered(answer.status());
            *answer
        }
    }
}

struct Admitted {
    destination: Arc<Destination>,
    request: Request<Body>,
    guard: LiveGuard,
    place: crate::state::Place,
}

async fn admit(
    arrival: &Arrival,
    request: Request<Body>,
    framing: Framing,
) -> Result<Admitted, Box<Response<Body>>> {
    let Some(destination) = arrival.destination() else {
        return Err(Box::new(reply::retry_elsewhere(framing, &arrival.absent())));
    };
    let what = facts(arrival, &request);
    if let Err(denial) = arrival.verdict(what.call()) {
        arrival.worker.report.denied(&arrival.edge, &denial);
        return Err(Box::new(reply::denied(&denial, framing)));
    }
    let guard = arrival.worker.live.enter(arrival.edge.clone(), what);
    let Some(place) = destination.place() else {
        let why =
            format!("{} has all the connections that its max_connections allows", destination.instance.id);
        return Err(Box::new(reply::retry_elsewhere(framing, &why)));
    };
    Ok(Admitted { destination, request, guard, place })
}

/// What rules may speak of; its headers are kept only where they do.
fn facts(arrival: &Arrival, request: &Request<Body>) -> What {
    let state = arrival.worker.state();
    let keeps = state.guards.get(&arrival.edge.destination).is_some_and(|guard| guard.needs_headers());
    What::Request {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: keeps.then(|| Box::new(request.headers().clone())),
    }
}

async fn forward(
    arrival: Rc<Arrival>,
    admitted: Admitted,
    framing: Framing,
    mut record: RequestRecord,
) -> Response<Body> {
    let Admitted { destination, mut request, guard, place } = admitted;
    let client = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let speak = if client.is_some() { Speak::Http1 } else { Speak::to(destination.protocol, framing) };
    if let Err(error) = prepare(&arrival, &mut request, speak, client.is_some()) {
        let answer = reply::text(StatusCode::BAD_REQUEST, framing, format!("{error}\n"));
        record.answered(answer.status());
        return answer;
    }
    let mut sent = None;
    let request = request.map(|body| {
        let body = Lent::new(body, arrival.edge.clone());
        sent = Some(body.clone());
        Body::Lent(body)
    });
    let deadline =
        destination.instance.request_timeout_ms.map(|millis| Instant::now() + Duration::from_millis(millis));
    let exchange = exchange(&arrival, &destination, speak, request, client.is_some());
    let exchanged = match guard.unless_cut(before(deadline, exchange)).await {
        Ok(exchanged) => exchanged,
        Err(denial) => Err(Failure::Cut(denial)),
    };
    match exchanged {
        Ok((mut response, lease)) => {
            record.answered(response.status());
            let upgraded = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                .then(|| hyper::upgrade::on(&mut response));
            clean_response(response.headers_mut(), upgraded.is_some());
            if let (Some(client), Some(application)) = (client, upgraded) {
                join(&arrival, client, application, guard);
                return response.map(|_| Body::Empty);
            }
            let deadline: Option<std::pin::Pin<Box<Sleep>>> = deadline.map(|at| Box::pin(sleep_until(at)));
            let watch = Watch {
                edge: arrival.edge.clone(),
                guard: Some(guard),
                deadline,
                lease,
                holds: (record, Some(place), None),
            };
            response.map(|body| Watched::wrap(Body::Incoming(body), watch))
        }
        Err(failure) => {
            let failure = failure.of_client(sent.as_ref());
            let answer = failure.answer(&arrival, &destination, framing);
            record.answered(answer.status());
            answer
        }
    }
}

fn prepare(
    arrival: &Arrival,
    request: &mut Request<Body>,
    speak: Speak,
    upgrade: bool,
) -> Result<(), BadRequest> {
    let fallback = arrival.edge.destination.name.as_str();
    match speak {
        Speak::Http1 => to_http1(request, fallback)?,
        Speak::Http2 => to_http2(request, fallback)?,
    }
    clean_request(request.headers_mut(), upgrade);
    if let Some(certificate) = &arrival.certificate {
        request.headers_mut().insert(CLIENT_CERTIFICATE, certificate.clone());
    }
    Ok(())
}

enum Failure {
    App(AppError),
    /// Of the request, not of the application.
    Body(String),
    Timeout,
    Cut(Denial),
}

async fn exchange(
    arrival: &Arrival,
    destination: &Arc<Destination>,
    speak: Speak,
    request: Request<Body>,
    upgrade: bool,
) -> Result<Answer, Failure> {
    let within = Duration::from_millis(destination.instance.connect_timeout_ms);
    let app = arrival.app(destination);
    let answer = match upgrade {
        true => app.exchange_upgrade(&arrival.worker, request, within).await,
        false => app.exchange(&arrival.worker, speak, request, within).await,
    };
    answer.map_err(Failure::App)
}

async fn before<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.unwrap_or(Err(Failure::Timeout)),
        None => work.await,
    }
}

impl Failure {
    /// Where the request's body broke off, it is not the application that is to blame.
    fn of_client(self, sent: Option<&Lent>) -> Self {
        match (self, sent.and_then(Lent::broken)) {
            (Self::App(AppError::Lost(_)), Some(why)) => Self::Body(why),
            (failure, _) => failure,
        }
    }

    fn answer(self, arrival: &Arrival, destination: &Destination, framing: Framing) -> Response<Body> {
        let (report, edge) = (&arrival.worker.report, &arrival.edge);
        let instance = &destination.instance.id;
        match self {
            Self::Cut(denial) => {
                report.cut(edge, &denial);
                reply::denied(&denial, framing)
            }
            Self::App(AppError::Unreached(error)) => {
                report.connect_failed(edge, instance, &error);
                let why =
                    format!("application {instance} of {} cannot be reached: {error}", edge.destination);
                reply::retry_elsewhere(framing, &why)
            }
            Self::App(AppError::Lost(error)) => {
                report.request_failed(edge, &error);
                let why =
                    format!("application {instance} closed the connection before it answered: {error}\n");
                reply::text(StatusCode::BAD_GATEWAY, framing, why)
            }
            Self::Body(why) => {
                report.request_failed(edge, &why.trim_end());
                reply::text(StatusCode::BAD_REQUEST, framing, why)
            }
            Self::Timeout => {
                report.request_failed(edge, &"request timeout");
                let millis = destination.instance.request_timeout_ms.unwrap_or_default();
                let why = format!("application {instance} did not answer within {millis} ms\n");
                reply::text(StatusCode::GATEWAY_TIMEOUT, framing, why)
            }
        }
    }
}

/// From now on bytes both ways, as long as the policy that let the request pass does.
fn join(arrival: &Rc<Arrival>, client: OnUpgrade, application: OnUpgrade, guard: LiveGuard) {
    let worker = arrival.worker.clone();
    let edge = arrival.edge.clone();
    worker.clone().spawn_counted("an upgraded connection", async move {
        let work = relay_upgraded(client, application, &worker.scratch, &edge);
        match guard.unless_cut(work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => worker.report.relay_failed(&edge, &error),
            Err(denial) => worker.report.cut(&edge, &denial),
        }
    });
}
