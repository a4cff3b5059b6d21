//! Answers that the proxy gives itself: what went wrong, where, why, and what to do about it.

use std::fmt::Write;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use purlin_model::ServiceKey;
use purlin_model::view::{Absence, TargetKey};

use crate::authorize::Denial;
use crate::body::Body;
use crate::http::{DENIED, RETRY};
use crate::report::Framing;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A text for people; a gRPC client gets it in the form that it reads.
pub(crate) fn text(status: StatusCode, framing: Framing, text: String) -> Response<Body> {
    if framing == Framing::Grpc {
        return grpc(status, &text);
    }
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Headers and nothing after them, with an HTTP status of 200: a client that got anything else would tell its
/// application of a broken stream, and not what is said here.
fn grpc(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(status)));
    // Percent-encoded text always is a header's value.
    if let Ok(message) = HeaderValue::from_str(&percent_encode(text.trim_end())) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "7",
        StatusCode::GATEWAY_TIMEOUT => "4",
        StatusCode::BAD_REQUEST => "13",
        _ => "14",
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// By policy. The header tells the client's proxy, which counts it too and takes the header off.
pub(crate) fn denied(denial: &Denial, framing: Framing) -> Response<Body> {
    let mut response = text(StatusCode::FORBIDDEN, framing, denial.body());
    mark(&mut response, DENIED, &denial.rule);
    response
}

/// Nothing reached the application. The header tells the client's proxy that it may try another instance.
pub(crate) fn retry_elsewhere(framing: Framing, why: &str) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, framing, format!("{why}\n"));
    mark(&mut response, RETRY, why);
    response
}

fn mark(response: &mut Response<Body>, name: HeaderName, value: &str) {
    let printable: String =
        value.chars().map(|c| if (' '..='~').contains(&c) { c } else { ' ' }).take(512).collect();
    let value = HeaderValue::from_str(&printable).unwrap_or(HeaderValue::from_static("yes"));
    response.headers_mut().insert(name, value);
}

/// Why a destination has no endpoint, as one word for metrics and as a sentence for people.
pub(crate) fn absence(absence: Absence, target: &TargetKey) -> (&'static str, String) {
    let service: &ServiceKey = &target.service;
    match absence {
        Absence::Unknown => (
            "unknown",
            format!(
                "service {service} is unknown: no host has registered it; register it, or correct the name of the upstream"
            ),
        ),
        Absence::NotInMesh => (
            "not-in-mesh",
            format!(
                "service {service} is registered but not in the mesh: add `connect {{ sidecar_service {{}} }}` to its definition"
            ),
        ),
        Absence::Unhealthy => (
            "unhealthy",
            format!(
                "service {service} has no healthy instance: see `purlin catalog nodes` and its health checks"
            ),
        ),
        Absence::Pending => (
            "pending",
            format!(
                "service {service} is not known here yet: the servers have not told this host about it; try again shortly"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use purlin_model::ServiceName;

    #[test]
    fn a_service_outside_the_mesh_is_told_what_to_add() {
        let target = TargetKey::local(ServiceKey::new(ServiceName::new("api").unwrap()));
        let (word, text) = absence(Absence::NotInMesh, &target);
        assert_eq!(word, "not-in-mesh");
        assert_eq!(
            text,
            "service api is registered but not in the mesh: add `connect { sidecar_service {} }` to its definition"
        );
    }

    #[test]
    fn grpc_clients_read_the_text_in_their_own_header() {
        let response = text(StatusCode::FORBIDDEN, Framing::Grpc, "100% no\nä\n".into());
        assert_eq!(response.status(), StatusCode::OK);
        assert!(matches!(response.body(), Body::Empty));
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(response.headers()[GRPC_STATUS], "7");
        assert_eq!(response.headers()[GRPC_MESSAGE], "100%25 no%0A%C3%A4");
        let plain = text(StatusCode::FORBIDDEN, Framing::Http1, "no".into());
        assert!(!plain.headers().contains_key(GRPC_STATUS));
    }
}
