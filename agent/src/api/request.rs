//! A request as handlers see it: decoded path parameters and query, the body, and who is at the other end.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use super::answer::Failure;

/// Most parameters that a query may have.
const MAX_PARAMETERS: usize = 256;

/// Who sent it, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    /// The Unix socket of this host, with the user where the kernel told.
    Unix {
        uid: Option<u32>,
    },
}

impl Peer {
    /// Whether the peer is on this host, so that private keys may be handed to it.
    pub(super) fn is_local(self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix { .. } => true,
        }
    }

    pub(super) fn uid(self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix { uid } => uid,
        }
    }
}

/// Whether `Host` is an address or `localhost`. Another name that leads to loopback is one that a page in a browser
/// made lead there.
pub(super) fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    is_address || matches!(name, "" | "localhost")
}

#[derive(Debug)]
pub(super) struct Request {
    /// What the pattern's `:name` and `*name` stand for, decoded, in order.
    pub(super) parameters: Vec<String>,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Where the body is too large to be held, itself.
    pub(super) upload: Upload,
    pub(super) peer: Peer,
}

/// A body that its handler reads piece by piece.
#[derive(Debug, Default)]
pub(super) struct Upload(Mutex<Option<Incoming>>);

impl Upload {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Mutex::new(Some(body)))
    }

    /// There is one, once.
    pub(super) fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Request {
    /// The path parameter at `position`; empty where the pattern has none.
    pub(super) fn parameter(&self, position: usize) -> &str {
        self.parameters.get(position).map_or("", String::as_str)
    }

    /// The body as JSON, whatever its Content-Type says.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::invalid(format!("Request decode failed: the body is not JSON: {error}"))
        })
    }

    /// As `json`, where no body means no fields.
    pub(super) fn json_or_empty(&self) -> Result<Value, Failure> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        self.json()
    }
}

/// The decoded pairs of a query, in the order in which they came.
#[derive(Debug, Default, Clone)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() >= MAX_PARAMETERS {
                return Err(Failure::invalid(format!("more than {MAX_PARAMETERS} query parameters")));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |text: &str| {
                percent_decode(&text.replace('+', " "))
                    .ok_or_else(|| Failure::invalid(format!("query parameter {text:?} is not valid")))
            };
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The value, where one is given that is not empty.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// `?name`, `?name=true`, `?name=1` are yes; absent and `false` are no.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(Failure::invalid(format!("Invalid value for ?{name}"))),
        }
    }

    /// Repeated `name=key:value` pairs.
    pub(super) fn pairs(&self, name: &str) -> Vec<(String, String)> {
        self.all(name)
            .map(|text| text.split_once(':').unwrap_or((text, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}

/// Undoes percent encoding; nothing where it is malformed or not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Decodes one segment of a path. Line feeds are refused, as Consul refuses them.
pub(super) fn decode_segment(text: &str) -> Result<String, Failure> {
    match percent_decode(text) {
        Some(segment) if segment.contains(['\n', '\r', '\0']) => {
            Err(Failure::new(StatusCode::BAD_REQUEST, "URL path contains a line feed or a zero byte"))
        }
        Some(segment) => Ok(segment),
        None => Err(Failure::new(StatusCode::BAD_REQUEST, "URL path is not valid percent encoding")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_repeat() {
        let query = Query::parse("tag=a&tag=b%20c&filter=x+%3D%3D+y&passing&node-meta=os:debian").unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.get("filter"), Some("x == y"));
        assert_eq!(query.flag("passing"), Ok(true));
        assert_eq!(query.flag("stale"), Ok(false));
        assert_eq!(query.pairs("node-meta"), [("os".to_owned(), "debian".to_owned())]);
    }

    #[test]
    fn bad_queries_are_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
        assert!(Query::parse("passing=perhaps").unwrap().flag("passing").is_err());
        assert!(Query::parse(&"a&".repeat(MAX_PARAMETERS)).is_ok());
        assert!(Query::parse(&"a&".repeat(MAX_PARAMETERS + 1)).is_err());
    }

    #[test]
    fn line_feeds_in_paths_are_refused() {
        assert_eq!(decode_segment("a%2Fb").as_deref(), Ok("a/b"));
        assert!(decode_segment("a%0Ab").is_err());
        assert!(decode_segment("a%").is_err());
    }

    #[test]
    fn only_this_host_is_local() {
        let tcp = |text: &str| Peer::Tcp(text.parse().unwrap());
        assert!(tcp("127.0.0.9:1").is_local());
        assert!(tcp("[::1]:1").is_local());
        assert!(tcp("[::ffff:127.0.0.1]:1").is_local());
        assert!(!tcp("10.0.0.1:1").is_local());
        assert!(Peer::Unix { uid: None }.is_local());
    }
}
