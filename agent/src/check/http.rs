//! The HTTP probe: a request of its own connection, 2xx passes, 429 warns, anything else is critical.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, LOCATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use purlin_model::check::{ProbeTls, Status};

use super::{Task, Verdict, net, tls};

/// As many as common clients follow.
const REDIRECTS: usize = 10;

pub(super) struct Request<'a> {
    pub(super) url: &'a str,
    pub(super) method: &'a str,
    pub(super) headers: &'a BTreeMap<String, Vec<String>>,
    pub(super) body: &'a str,
    pub(super) redirects: bool,
    /// Bytes of the answer's body to keep.
    pub(super) output: usize,
}

/// One request of a chain of redirects.
#[derive(Clone)]
struct Step {
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

pub(super) async fn probe(request: Request<'_>, secure: &ProbeTls, configs: &tls::Configs) -> Verdict {
    let method = if request.method.is_empty() { "GET" } else { request.method };
    let failed = |why: String| Verdict::critical(format!("{method} {}: {why}", request.url));
    let mut step = match first_step(&request, method) {
        Ok(step) => step,
        Err(why) => return failed(why),
    };
    for _ in 0..=REDIRECTS {
        let (answer, _driver) = match send(&step, secure, configs).await {
            Ok(answer) => answer,
            Err(why) => return failed(why),
        };
        if request.redirects
            && let Some(next) = redirected(&step, answer.status(), answer.headers())
        {
            match next {
                Ok(next) => step = next,
                Err(why) => return failed(why),
            }
            continue;
        }
        let code = answer.status();
        let body = read(answer, request.output).await;
        return Verdict::new(judge(code), format!("HTTP {method} {}: {code} Output: {body}", request.url));
    }
    failed(format!("stopped after {REDIRECTS} redirects"))
}

fn judge(code: StatusCode) -> Status {
    match code {
        code if code.is_success() => Status::Passing,
        StatusCode::TOO_MANY_REQUESTS => Status::Warning,
        _ => Status::Critical,
    }
}

fn first_step(request: &Request<'_>, method: &str) -> Result<Step, String> {
    let uri: Uri = request.url.parse().map_err(|error| format!("is no URL: {error}"))?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for (name, values) in request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        headers.remove(&name);
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
        }
    }
    Ok(Step { uri, method, headers, body: Bytes::copy_from_slice(request.body.as_bytes()) })
}

async fn send(
    step: &Step,
    secure: &ProbeTls,
    configs: &tls::Configs,
) -> Result<(Response<Incoming>, Task), String> {
    let host = step.uri.host().ok_or("the URL names no host")?;
    let is_tls = step.uri.scheme_str() == Some("https");
    let port = step.uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let address = format!("{host}:{port}");
    let stream = net::connect(&address, is_tls.then_some(secure), configs, tls::Alpn::Http1).await?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = Task::spawn(async move {
        // Its error is the request's error too.
        let _ = connection.await;
    });
    let path = step.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = http::Request::builder().method(step.method.clone()).uri(path);
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&step.headers);
        if !headers.contains_key(HOST) {
            let named = step.uri.authority().map_or(address.as_str(), |authority| {
                authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
            });
            headers.insert(HOST, HeaderValue::from_str(named).map_err(|error| error.to_string())?);
        }
    }
    let request = request.body(Full::new(step.body.clone())).map_err(|error| error.to_string())?;
    let answer = requests.send_request(request).await.map_err(|error| reason(&error))?;
    Ok((answer, driver))
}

fn reason(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Where the answer sends us, if anywhere.
fn redirected(step: &Step, code: StatusCode, headers: &HeaderMap) -> Option<Result<Step, String>> {
    if !matches!(code.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let uri = match resolve(&step.uri, location) {
        Some(uri) => uri,
        None => return Some(Err(format!("redirects to \"{location}\", which is no URL"))),
    };
    let mut next = step.clone();
    if next.uri.authority() != uri.authority() {
        for secret in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST] {
            next.headers.remove(secret);
        }
    }
    next.uri = uri;
    if matches!(code.as_u16(), 301..=303) && next.method != Method::HEAD {
        next.method = Method::GET;
        next.body = Bytes::new();
    }
    Some(Ok(next))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let scheme = base.scheme_str()?;
    if location.starts_with("//") {
        return format!("{scheme}:{location}").parse().ok();
    }
    let authority = base.authority()?;
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{location}").parse().ok()
}

/// The beginning of the body. What follows is not read: the connection is closed.
async fn read(answer: Response<Incoming>, max: usize) -> String {
    let mut body = answer.into_body();
    let mut kept = Vec::new();
    while kept.len() < max {
        match body.frame().await {
            Some(Ok(frame)) => kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    kept.truncate(max);
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_as_a_browser_does() {
        let base: Uri = "http://h:81/a/b?x=1".parse().unwrap();
        for (location, expected) in [
            ("https://o/p", "https://o/p"),
            ("//o/p", "http://o/p"),
            ("/p", "http://h:81/p"),
            ("c?y", "http://h:81/a/c?y"),
            ("/p#fragment", "http://h:81/p"),
        ] {
            assert_eq!(resolve(&base, location), Some(expected.parse().unwrap()), "{location}");
        }
    }

    #[test]
    fn a_redirect_to_another_host_takes_no_secrets_along() {
        let headers = BTreeMap::from([("authorization".to_owned(), vec!["secret".to_owned()])]);
        let request = Request {
            url: "http://h/a",
            method: "POST",
            headers: &headers,
            body: "x",
            redirects: true,
            output: 1,
        };
        let step = first_step(&request, "POST").unwrap();
        let to = |location: &'static str, code| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            redirected(&step, StatusCode::from_u16(code).unwrap(), &headers).unwrap().unwrap()
        };
        assert!(!to("http://other/", 307).headers.contains_key(AUTHORIZATION));
        let same = to("/b", 307);
        assert!(same.headers.contains_key(AUTHORIZATION));
        assert_eq!((same.method, same.body), (Method::POST, Bytes::from("x")));
        assert_eq!(to("/b", 302).method, Method::GET);
    }
}
