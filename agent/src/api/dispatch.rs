//! From an HTTP request to its handler and back: limits, what holds for every endpoint, and the form of the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use purlin_model::limit;
use tracing::{debug, info};

use super::Api;
use super::answer::{Answer, Body, Failure};
use super::linger::linger;
use super::request::{Peer, Query, Request, Upload, names_this_host};
use super::router::{Found, Route, find};
use super::routes::routes;
use super::snapshot;

/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);

pub(super) type Handler = for<'a> fn(&'a Api, &'a Request) -> BoxFuture<'a, Result<Answer, Failure>>;

pub(super) struct Dispatch {
    api: Arc<Api>,
    routes: Vec<Route<Handler>>,
    headers: HeaderMap,
}

impl Dispatch {
    pub(super) fn new(api: Arc<Api>) -> Self {
        let configured = &api.core.config().http.response_headers;
        let headers = configured
            .iter()
            .filter_map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value).ok()?))
            })
            .collect();
        Self { api, routes: routes(), headers }
    }

    pub(super) async fn answer(&self, request: http::Request<Incoming>, peer: Peer) -> Response<Body> {
        let begun = Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let pretty = query.as_ref().is_ok_and(|query| query.has("pretty"));
        let answer = match query {
            Ok(query) => self.handle(request, query, peer).await.unwrap_or_else(Failure::into_answer),
            Err(failure) => {
                let (parts, body) = request.into_parts();
                linger(body, &parts.headers);
                failure.into_answer()
            }
        };
        let mut response = answer.into_response(pretty);
        response.headers_mut().extend(self.headers.clone());
        let status = response.status().as_u16();
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if response.status().is_server_error() {
            info!(%method, path, status, ms, "request to the HTTP API failed");
        } else {
            debug!(%method, path, status, ms, "request to the HTTP API");
        }
        response
    }

    async fn handle(
        &self,
        request: http::Request<Incoming>,
        query: Query,
        peer: Peer,
    ) -> Result<Answer, Failure> {
        let (parts, mut body) = request.into_parts();
        let (handler, parameters) = match self.admit(&parts, &query, peer) {
            Ok(admitted) => admitted,
            Err(answer) => {
                linger(body, &parts.headers);
                return Ok(answer);
            }
        };
        let (body, upload) = match parts.uri.path() {
            snapshot::PATH => (Bytes::new(), Upload::new(body)),
            _ => match receive(&mut body).await {
                Ok(bytes) => (bytes, Upload::default()),
                Err(failure) => {
                    linger(body, &parts.headers);
                    return Err(failure);
                }
            },
        };
        let request = Request { parameters, query, headers: parts.headers, body, upload, peer };
        handler(&self.api, &request).await
    }

    /// Who answers the request; or the answer, where its head says enough.
    fn admit(&self, parts: &Parts, query: &Query, peer: Peer) -> Result<(Handler, Vec<String>), Answer> {
        let found = find(&self.routes, &parts.method, parts.uri.path()).map_err(Failure::into_answer)?;
        let (handler, parameters) = match found {
            Found::Handler(handler, parameters) => (*handler, parameters),
            Found::Methods(allowed) if parts.method == Method::OPTIONS => {
                return Err(Answer::empty().header(ALLOW_NAME, allowed));
            }
            Found::Methods(allowed) => {
                let text = format!("method {} not allowed", parts.method);
                let answer = Failure::new(StatusCode::METHOD_NOT_ALLOWED, text).into_answer();
                return Err(answer.header(ALLOW_NAME, allowed));
            }
        };
        refuse_foreign_pages(&parts.method, &parts.headers, peer).map_err(Failure::into_answer)?;
        self.check_scope(query, &parts.headers).map_err(Failure::into_answer)?;
        Ok((handler, parameters))
    }

    /// There is one datacenter and one namespace; a question about another is an error, not an empty answer.
    fn check_scope(&self, query: &Query, headers: &HeaderMap) -> Result<(), Failure> {
        let own = self.api.core.config().datacenter.as_str();
        for name in ["dc", "datacenter"] {
            if query.filled(name).is_some_and(|dc| dc != own) {
                return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
            }
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        for (name, of_header) in [("ns", "x-consul-namespace"), ("partition", "x-consul-partition")] {
            let asked = query.filled(name).or_else(|| header(of_header)).unwrap_or_default();
            if !matches!(asked, "" | "default") {
                let text =
                    format!("Invalid query parameter: {name:?}: this version has no other than \"default\"");
                return Err(Failure::invalid(text));
            }
        }
        for name in ["peer", "sg"] {
            if query.filled(name).is_some() {
                let text = format!("Invalid query parameter: {name:?} is not supported by this version");
                return Err(Failure::invalid(text));
            }
        }
        Ok(())
    }
}

const ALLOW_NAME: &str = "allow";

/// A web page from elsewhere must not write through a browser on this host, not even one whose own name leads here.
fn refuse_foreign_pages(method: &Method, headers: &HeaderMap, peer: Peer) -> Result<(), Failure> {
    let Some(origin) = headers.get(ORIGIN).filter(|_| !matches!(*method, Method::GET | Method::HEAD)) else {
        return Ok(());
    };
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    let host = headers.get(HOST).map(text).unwrap_or_default();
    match text(origin).split_once("://") {
        Some((_, own)) if own == host && (!peer.is_local() || names_this_host(headers)) => Ok(()),
        _ => Err(Failure::new(StatusCode::FORBIDDEN, "a page of another origin may not write here")),
    }
}

async fn receive(body: &mut Incoming) -> Result<Bytes, Failure> {
    let too_large = || {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body too large, max allowed size is {} bytes", limit::API_BODY_BYTES),
        )
    };
    // One that says so beforehand need not be waited for.
    if body.size_hint().lower() > limit::API_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(body, limit::API_BODY_BYTES);
    let collected = tokio::time::timeout(BODY_TIME, limited.collect()).await.map_err(|_| {
        Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
        )
    })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Failure::invalid(format!("the body did not arrive whole: {error}"))),
    }
}
