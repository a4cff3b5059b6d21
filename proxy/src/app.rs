//! The applications of this host: connections to them, kept for the next request, and the exchange of one request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use purlin_model::InstanceId;
use purlin_model::service::Protocol;
use purlin_model::view::Dial;

use crate::body::Body;
use crate::dial::{self, DialError};
use crate::pool::{Lease, Shared, Single};
use crate::report::Framing;
use crate::state::{Destination, State};
use crate::worker::Worker;

/// HTTP/2 connections of one worker to one application.
const SHARED_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Apps {
    known: RefCell<HashMap<Port, Rc<App>>>,
}

/// An instance and the name of its port; absent: the default one.
type Port = (InstanceId, Option<String>);

/// One port of one application, and this worker's connections to it.
pub(crate) struct App {
    dial: Dial,
    single: Single,
    shared: Shared,
}

/// Which HTTP an application is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speak {
    Http1,
    Http2,
}

impl Speak {
    /// As declared for the destination, else as the client spoke.
    pub(crate) fn to(declared: Option<Protocol>, framing: Framing) -> Self {
        match declared {
            Some(Protocol::Http) => Self::Http1,
            Some(Protocol::Http2 | Protocol::Grpc) => Self::Http2,
            Some(Protocol::Tcp | Protocol::Udp) | None => match framing {
                Framing::Http1 => Self::Http1,
                Framing::Http2 | Framing::Grpc => Self::Http2,
            },
        }
    }
}

/// Why an application gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// Nothing of the request was sent.
    #[error("{0}")]
    Unreached(DialError),
    /// It may have been carried out.
    #[error("{0}")]
    Lost(hyper::Error),
}

/// An answer's head, and the connection that its body comes from.
pub(crate) type Answer = (Response<Incoming>, Option<Lease>);

impl Apps {
    pub(crate) fn of(&self, worker: &Worker, destination: &Destination) -> Rc<App> {
        let key = (destination.instance.id.clone(), destination.port_name.clone());
        let mut known = self.known.borrow_mut();
        if let Some(app) = known.get(&key).filter(|app| app.dial == destination.dial) {
            return app.clone();
        }
        let limits = &worker.limits;
        let app = Rc::new(App {
            dial: destination.dial.clone(),
            single: Single::new(limits.idle_per_application, limits.application_idle_timeout),
            shared: Shared::new(limits.streams_before_next, SHARED_MAX),
        });
        known.insert(key, app.clone());
        app
    }

    pub(crate) fn forget_gone(&self, state: &State) {
        self.known.borrow_mut().retain(|(id, _), _| state.instances.contains_key(id));
    }

    /// Closes connections that idled too long.
    pub(crate) fn expire(&self, now: Instant) {
        self.known.borrow().values().for_each(|app| app.single.expire(now));
    }
}

impl App {
    pub(crate) async fn exchange(
        &self,
        worker: &Rc<Worker>,
        speak: Speak,
        request: Request<Body>,
        within: Duration,
    ) -> Result<Answer, AppError> {
        match speak {
            Speak::Http1 => self.exchange_http1(worker, request, within).await,
            Speak::Http2 => self.exchange_http2(worker, request, within).await,
        }
    }

    /// A kept connection may have been closed by the application a moment ago. While a request comes back unsent it is
    /// tried on the next one, at last on a new one.
    async fn exchange_http1(
        &self,
        worker: &Rc<Worker>,
        mut request: Request<Body>,
        within: Duration,
    ) -> Result<Answer, AppError> {
        loop {
            let mut lease = match self.single.take(Instant::now()) {
                Some(lease) => lease,
                None => {
                    self.single.lease(self.dial_http1(worker, within).await.map_err(AppError::Unreached)?)
                }
            };
            match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Some(Lease::Single(lease)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !lease.fresh => request = unsent,
                    _ => return Err(AppError::Lost(error.into_error())),
                },
            }
        }
    }

    async fn dial_http1(
        &self,
        worker: &Rc<Worker>,
        within: Duration,
    ) -> Result<hyper::client::conn::http1::SendRequest<Body>, DialError> {
        let io = dial::application(&self.dial, within).await?;
        dial::speak_http1(worker, io, &self.place()).await
    }

    async fn exchange_http2(
        &self,
        worker: &Rc<Worker>,
        mut request: Request<Body>,
        within: Duration,
    ) -> Result<Answer, AppError> {
        loop {
            let dialed = self.shared.acquire(|| self.dial_http2(worker, within)).await;
            let mut lease =
                dialed.map_err(|error| AppError::Unreached(error.unwrap_or(DialError::Shared)))?;
            match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Some(Lease::Shared(lease)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !lease.fresh => request = unsent,
                    _ => return Err(AppError::Lost(error.into_error())),
                },
            }
        }
    }

    async fn dial_http2(
        &self,
        worker: &Rc<Worker>,
        within: Duration,
    ) -> Result<hyper::client::conn::http2::SendRequest<Body>, DialError> {
        let io = dial::application(&self.dial, within).await?;
        dial::speak_http2(worker, io, false, &self.place()).await
    }

    /// On a connection of its own, because it may become something else than HTTP.
    pub(crate) async fn exchange_upgrade(
        &self,
        worker: &Rc<Worker>,
        request: Request<Body>,
        within: Duration,
    ) -> Result<Answer, AppError> {
        let mut sender = self.dial_http1(worker, within).await.map_err(AppError::Unreached)?;
        let response = sender.send_request(request).await.map_err(AppError::Lost)?;
        Ok((response, None))
    }

    fn place(&self) -> String {
        match &self.dial {
            Dial::Tcp(address) => address.to_string(),
            Dial::Unix(path) => path.clone(),
        }
    }
}
