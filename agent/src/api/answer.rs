//! What a handler gives back, and how it becomes an HTTP response: compact JSON or plain text, never a JSON error.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use purlin_model::{Fault, FaultCode};
use serde::Serialize;
use serde_json::Value;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A finished answer of a handler.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) content: Content,
}

pub(super) enum Content {
    Empty,
    Json(Value),
    /// With its media type.
    Text(&'static str, String),
    /// With their media type.
    Bytes(&'static str, Bytes),
    /// Sent as it comes, as plain text.
    Stream(Body),
}

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(super) fn json(value: Value) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), content: Content::Json(value) }
    }

    pub(super) fn empty() -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), content: Content::Empty }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), content: Content::Text(PLAIN, text.into()) }
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header; a value that cannot be one is left out.
    pub(super) fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(super) fn into_response(self, pretty: bool) -> Response<Body> {
        let (media, body) = match self.content {
            Content::Empty => (None, full(Bytes::new())),
            Content::Json(value) => (Some("application/json"), full(encode(&value, pretty))),
            Content::Text(media, text) => (Some(media), full(text.into())),
            Content::Bytes(media, bytes) => (Some(media), full(bytes)),
            Content::Stream(body) => (Some(PLAIN), body),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        if let Some(media) = media {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        }
        response.headers_mut().extend(self.headers);
        response
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

fn encode(value: &Value, pretty: bool) -> Bytes {
    if !pretty {
        return value.to_string().into();
    }
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a value into memory cannot fail.
    let _ = value.serialize(&mut serializer);
    bytes.push(b'\n');
    bytes.into()
}

/// A refusal: a status and one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(super) fn into_answer(self) -> Answer {
        Answer::text(self.text).status(self.status)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let status = match fault.code {
            FaultCode::Invalid => StatusCode::BAD_REQUEST,
            FaultCode::Forbidden => StatusCode::FORBIDDEN,
            FaultCode::NotFound => StatusCode::NOT_FOUND,
            FaultCode::Conflict => StatusCode::CONFLICT,
            FaultCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            FaultCode::Busy => StatusCode::TOO_MANY_REQUESTS,
            FaultCode::Unavailable | FaultCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, fault.text)
    }
}

/// Everything that is wrong with a body, in one line.
impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        let texts: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        Self::invalid(texts.join("; "))
    }
}

impl From<crate::filter::FilterError> for Failure {
    fn from(error: crate::filter::FilterError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pretty_is_four_spaces_and_a_line_end() {
        let value = json!({"A": [1]});
        assert_eq!(encode(&value, false), Bytes::from_static(b"{\"A\":[1]}"));
        assert_eq!(encode(&value, true), Bytes::from_static(b"{\n    \"A\": [\n        1\n    ]\n}\n"));
    }

    #[test]
    fn an_unreachable_leader_is_500_as_in_consul() {
        let failure = Failure::from(Fault::unavailable("No cluster leader"));
        assert_eq!(failure, Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader"));
    }
}
