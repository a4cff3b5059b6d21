//! Raw bytes of an application to one of the instances of its upstream.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Departure;
use crate::dial;
use crate::inbound::{Accepted, Arrival, Refused, accept};
use crate::relay::relay;
use crate::reply;
use crate::route::{Backend, Budget, InFlight, Route};
use crate::stream::Stream;
use crate::tunnel::{ALPN_TCP, Status, receive_status};

/// Where a connection goes on.
enum Way {
    Tunnel(Stream),
    HandOver(Rc<Arrival>, Accepted),
}

enum Outcome {
    Open(Way),
    /// Said by policy: no other instance would decide otherwise.
    Denied,
    /// Try elsewhere.
    Failed(String),
}

pub(super) async fn serve(departure: Rc<Departure>, mut client: Stream) {
    let worker = departure.worker.clone();
    let route = departure.route();
    let Some((way, _in_flight)) = open(&departure, &route).await else {
        return;
    };
    match way {
        Way::HandOver(arrival, accepted) => accepted.relay(&arrival, client).await,
        Way::Tunnel(mut tunnel) => {
            if let Err(error) = relay(&mut client, &mut tunnel, &worker.scratch, &route.edge).await {
                worker.report.relay_failed(&route.edge, &error);
                client.reset_on_close();
                tunnel.reset_on_close();
            }
        }
    }
}

/// Tries endpoints until one takes the connection. What went wrong is reported here.
async fn open(departure: &Departure, route: &Rc<Route>) -> Option<(Way, InFlight)> {
    let (report, edge) = (&departure.worker.report, &route.edge);
    if route.backends.is_empty() {
        let (word, text) = reply::absence(route.absence(), &departure.listener.target);
        report.unroutable(edge, word, &text);
        return None;
    }
    let mut budget = Budget::new(&departure.worker, route, departure.listener.connect_timeout_ms);
    let mut tried = Vec::new();
    let mut last = String::new();
    while let Some((index, within)) =
        route.pick(&departure.worker, &tried).and_then(|index| Some((index, budget.next(tried.len())?)))
    {
        if !tried.is_empty() {
            edge.retried();
        }
        tried.push(index);
        let backend = &route.backends[index];
        let in_flight = InFlight::new(backend);
        match attempt(departure, route, backend, within).await {
            Outcome::Open(way) => return Some((way, in_flight)),
            Outcome::Denied => return None,
            Outcome::Failed(why) => {
                backend.failed(&departure.worker);
                report.connect_failed(edge, &backend.endpoint.instance, &why);
                last = why;
            }
        }
    }
    report.unroutable(
        edge,
        "unreachable",
        &format!("no instance could be reached, the last one because: {last}"),
    );
    None
}

async fn attempt(departure: &Departure, route: &Route, backend: &Rc<Backend>, within: Duration) -> Outcome {
    let started = Instant::now();
    let report = &departure.worker.report;
    let refused = |reason: &str| {
        report.denied_by_peer(&route.edge, reason);
        Outcome::Denied
    };
    if backend.endpoint.local {
        let arrival = departure.hand_over(backend);
        return match accept(&arrival).await {
            Ok(accepted) => Outcome::Open(Way::HandOver(arrival, accepted)),
            Err(Refused::Denied(denial)) => refused(&denial.rule),
            Err(Refused::Retry(why)) => Outcome::Failed(why),
        };
    }
    let mut tunnel = match dial::peer(&departure.worker, route, backend, ALPN_TCP, within).await {
        Ok(tunnel) => tunnel,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    backend.succeeded(started.elapsed());
    // The far side reaches its application before it answers, which may take as long again.
    match timeout(within, receive_status(&mut tunnel)).await {
        Ok(Ok(Status::Accepted)) => Outcome::Open(Way::Tunnel(tunnel)),
        Ok(Ok(Status::Denied(reason))) => refused(&reason),
        Ok(Ok(Status::Retry(why))) => Outcome::Failed(why),
        Ok(Err(error)) => Outcome::Failed(format!("the far proxy closed the tunnel: {error}")),
        Err(_) => Outcome::Failed("the far proxy did not answer in time".into()),
    }
}
