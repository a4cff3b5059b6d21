//! Heads of HTTP messages: what may pass from one hop to the next, and how a version's form becomes the other's.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use crate::report::Framing;

/// From the inbound proxy to the outbound one: this answer is a denial, by that rule.
pub(crate) const DENIED: HeaderName = HeaderName::from_static("x-purlin-denied");
/// From the inbound proxy to the outbound one: nothing reached the application, another instance may be tried.
pub(crate) const RETRY: HeaderName = HeaderName::from_static("x-purlin-retry");
pub(crate) const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const INTERNAL: &str = "x-purlin-";

/// A request that cannot be passed on; the text is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("the Host header is not a host name: {0:?}")]
    Host(String),
    #[error("the request target cannot be passed on: it must be a path, or a URL")]
    Target,
    #[error("CONNECT is not passed on: the destination is chosen by the port that is called")]
    Connect,
}

/// Whether the client asks for another protocol on this connection.
pub(crate) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && offered_protocols(headers).is_some()
}

/// The protocols of `Upgrade` that may be passed on. Another HTTP, or TLS with HTTP in it, is none: requests in it
/// would go by the rules unseen.
fn offered_protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let names_http = |protocol: &str| {
        let name = protocol.split('/').next().unwrap_or_default().trim();
        ["h2c", "h2", "h3", "http", "https", "tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
    };
    let offered: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty() && !names_http(protocol))
        .collect();
    if offered.is_empty() { None } else { HeaderValue::from_str(&offered.join(", ")).ok() }
}

/// Tells gRPC from other requests in HTTP/2; gRPC-Web is none, it reads answers as any HTTP does.
pub(crate) fn http2_framing(headers: &HeaderMap) -> Framing {
    let content_type = headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    match rest.map(|rest| rest.first()) {
        Some(None | Some(b'+' | b';' | b' ')) => Framing::Grpc,
        _ => Framing::Http2,
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// What a request must not take along from an application: what belongs to its own hop, and what only proxies say.
pub(crate) fn clean_request(headers: &mut HeaderMap, keep_upgrade: bool) {
    clean_hop(headers, keep_upgrade);
    headers.remove(EXPECT);
    headers.remove(CLIENT_CERTIFICATE);
    strip_internal(headers);
}

/// The same for an answer, which an application must not dress as one of a proxy.
pub(crate) fn clean_response(headers: &mut HeaderMap, keep_upgrade: bool) {
    clean_hop(headers, keep_upgrade);
    strip_internal(headers);
}

/// What comes behind a body must not say what a head may not.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    trailers.remove(CLIENT_CERTIFICATE);
    strip_internal(trailers);
}

pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with(INTERNAL)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

fn clean_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    let upgrade = if keep_upgrade { offered_protocols(headers) } else { None };
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let takes_trailers = headers.contains_key(TE) && has_token(headers, &TE, "trailers");
    if headers.contains_key(TRANSFER_ENCODING) {
        // Framing is told anew on each hop; a length beside it would be a lie to one of them.
        headers.remove(CONTENT_LENGTH);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
        TE,
    ] {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whom the request names: its target's authority before its `Host`, as RFC 9112 has it.
pub(crate) fn authority<B>(request: &Request<B>) -> Result<Option<Authority>, BadRequest> {
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.clone()));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return match request.headers().contains_key(HOST) {
            true => Err(BadRequest::Host("given twice".into())),
            false => Ok(None),
        };
    };
    if host.is_empty() {
        return Ok(None);
    }
    Authority::try_from(host.as_bytes())
        .map(Some)
        .map_err(|_| BadRequest::Host(String::from_utf8_lossy(host.as_bytes()).chars().take(80).collect()))
}

/// The form of HTTP/2: scheme and authority in the target, no `Host`.
pub(crate) fn to_http2<B>(request: &mut Request<B>, fallback: &str) -> Result<(), BadRequest> {
    let authority = match authority(request)? {
        Some(authority) => authority,
        None => Authority::try_from(fallback).map_err(|_| BadRequest::Target)?,
    };
    let path = path_and_query(request)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadRequest::Target)?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(HOST);
    Ok(())
}

/// The form of HTTP/1.1: the path alone in the target, the authority as `Host`.
pub(crate) fn to_http1<B>(request: &mut Request<B>, fallback: &str) -> Result<(), BadRequest> {
    let host = match authority(request)? {
        Some(authority) => HeaderValue::from_str(authority.as_str()),
        None => HeaderValue::from_str(fallback),
    };
    let host = host.map_err(|_| BadRequest::Target)?;
    let path = path_and_query(request)?;
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, host);
    join_cookies(request.headers_mut());
    Ok(())
}

fn path_and_query<B>(request: &Request<B>) -> Result<PathAndQuery, BadRequest> {
    if request.method() == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    let uri = request.uri();
    // `GET name` is the form of CONNECT: an authority, and nothing to ask it for.
    if uri.scheme().is_none() && uri.authority().is_some() {
        return Err(BadRequest::Target);
    }
    Ok(match uri.path_and_query().cloned() {
        Some(path) if request.method() == Method::OPTIONS && path.as_str().is_empty() => {
            PathAndQuery::from_static("*")
        }
        Some(path) if !path.as_str().is_empty() => path,
        _ => PathAndQuery::from_static("/"),
    })
}

/// HTTP/2 may split a cookie over several headers; HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> =
        headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(http::header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests;
