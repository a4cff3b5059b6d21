//! Raw bytes to an application of this host. The application is reached before the client's side is told yes, so that
//! one that is down costs nobody a byte.

use std::rc::Rc;
use std::time::Duration;

use purlin_model::service::Protocol;

use super::Arrival;
use crate::authorize::{Call, Denial};
use crate::dial;
use crate::live::{LiveGuard, What};
use crate::relay::relay;
use crate::serve::{self, Spoken};
use crate::state::Place;
use crate::stream::Stream;
use crate::tunnel::{Status, send_status};

/// Why a connection is not taken.
pub(crate) enum Refused {
    Denied(Denial),
    Retry(String),
}

/// A connection to the application, allowed by the policy of this moment; the guard ends it when that changes.
pub(crate) struct Accepted {
    pub(crate) application: Stream,
    pub(crate) guard: LiveGuard,
    _place: Place,
}

/// Policy, then application.
pub(crate) async fn accept(arrival: &Arrival) -> Result<Accepted, Refused> {
    let Some(destination) = arrival.destination() else {
        return Err(Refused::Retry(arrival.absent()));
    };
    if let Err(denial) = arrival.verdict(Call::Connection) {
        arrival.worker.report.denied(&arrival.edge, &denial);
        return Err(Refused::Denied(denial));
    }
    let guard = arrival.worker.live.enter(arrival.edge.clone(), What::Connection);
    let Some(place) = destination.place() else {
        let why =
            format!("{} has all the connections that its max_connections allows", destination.instance.id);
        return Err(Refused::Retry(why));
    };
    let within = Duration::from_millis(destination.instance.connect_timeout_ms);
    match guard.unless_cut(dial::application(&destination.dial, within)).await {
        Ok(Ok(application)) => Ok(Accepted { application, guard, _place: place }),
        Ok(Err(error)) => {
            arrival.worker.report.connect_failed(&arrival.edge, &destination.instance.id, &error);
            let why = format!("application {} cannot be reached: {error}", destination.instance.id);
            Err(Refused::Retry(why))
        }
        Err(denial) => {
            arrival.worker.report.cut(&arrival.edge, &denial);
            Err(Refused::Denied(denial))
        }
    }
}

impl Accepted {
    /// Moves bytes until both ends are done or a new policy forbids it.
    pub(crate) async fn relay(mut self, arrival: &Arrival, mut client: Stream) {
        let (worker, edge) = (&arrival.worker, &arrival.edge);
        let work = relay(&mut client, &mut self.application, &worker.scratch, edge);
        match self.guard.unless_cut(work).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => worker.report.relay_failed(edge, &error),
            Err(denial) => worker.report.cut(edge, &denial),
        }
        client.reset_on_close();
        self.application.reset_on_close();
    }
}

pub(super) async fn serve(arrival: Rc<Arrival>, mut tunnel: Stream) {
    let protocol = arrival.destination().and_then(|destination| destination.protocol);
    if let Some(protocol) = protocol.filter(|protocol| protocol.is_http_like()) {
        return serve_http(arrival, tunnel, protocol).await;
    }
    let (status, accepted) = match accept(&arrival).await {
        Ok(accepted) => (Status::Accepted, Some(accepted)),
        Err(Refused::Denied(denial)) => (Status::Denied(denial.rule.to_string()), None),
        Err(Refused::Retry(why)) => (Status::Retry(why), None),
    };
    if let Err(error) = send_status(&mut tunnel, &status).await {
        return arrival.worker.report.relay_failed(&arrival.edge, &error);
    }
    match accepted {
        Some(accepted) => accepted.relay(&arrival, tunnel).await,
        None => end(&arrival, tunnel).await,
    }
}

/// The client's side took it for TCP, but the destination says HTTP: its rules for requests hold all the same.
async fn serve_http(arrival: Rc<Arrival>, mut tunnel: Stream, protocol: Protocol) {
    let worker = arrival.worker.clone();
    if let Err(error) = send_status(&mut tunnel, &Status::Accepted).await {
        return worker.report.relay_failed(&arrival.edge, &error);
    }
    let patience = worker.limits.header_read_timeout;
    match serve::detect(&worker, &mut tunnel, Some(protocol), patience).await {
        Ok(Spoken::Http2) => super::http2(arrival, tunnel, None).await,
        Ok(Spoken::Http1 | Spoken::Tcp) => super::http1(arrival, tunnel).await,
        Err(error) => worker.report.relay_failed(&arrival.edge, &error),
    }
}

/// Closes so that the status arrives: what the client sent meanwhile would turn a plain close into a reset.
async fn end(arrival: &Arrival, mut tunnel: Stream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let within = arrival.worker.limits.handshake_timeout;
    let work = async {
        tunnel.shutdown().await?;
        let mut rest = [0; 1024];
        let mut left = 64;
        while left > 0 && tunnel.read(&mut rest).await? > 0 {
            left -= 1;
        }
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(within, work).await {
        arrival.worker.report.relay_failed(&arrival.edge, &error);
    }
}
