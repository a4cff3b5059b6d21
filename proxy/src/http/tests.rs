use http::Request;

use super::*;

fn request(version: Version, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().version(version).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn names(request: &Request<()>) -> Vec<&str> {
    request.headers().keys().map(HeaderName::as_str).collect()
}

#[test]
fn a_hop_keeps_its_headers_to_itself() {
    let hop = [
        ("connection", "keep-alive, x-one"),
        ("connection", "X-Two"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("te", "gzip, trailers"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAA"),
        ("expect", "100-continue"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-purlin-retry", "spoofed"),
        ("x-forwarded-client-cert", "spoofed"),
        ("x-kept", "3"),
    ];
    let mut request = request(Version::HTTP_11, "/", &hop);
    clean_request(request.headers_mut(), false);
    assert_eq!(names(&request), ["te", "x-kept"]);
    assert_eq!(request.headers()["te"], "trailers");
}

#[test]
fn an_upgrade_keeps_what_asks_for_it() {
    let mut asks = request(Version::HTTP_11, "/", &[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert!(wants_upgrade(&asks));
    clean_request(asks.headers_mut(), true);
    assert_eq!(asks.headers()["upgrade"], "websocket");
    assert_eq!(asks.headers()["connection"], "upgrade");
    for headers in [&[("upgrade", "websocket")][..], &[("connection", "upgrade"), ("upgrade", "h2c")], &[]] {
        assert!(!wants_upgrade(&request(Version::HTTP_11, "/", headers)), "{headers:?}");
    }
}

#[test]
fn targets_take_the_form_of_http2() {
    for (uri, headers, expected) in [
        ("/a?b", &[("host", "api:80")][..], "http://api:80/a?b"),
        ("http://other/a", &[("host", "api")], "http://other/a"),
        ("/a", &[], "http://fallback/a"),
        ("/a", &[("host", "")], "http://fallback/a"),
        ("http://other", &[], "http://other/"),
    ] {
        let mut request = request(Version::HTTP_11, uri, headers);
        to_http2(&mut request, "fallback").unwrap();
        assert_eq!(request.uri().to_string(), expected);
        assert_eq!((request.version(), request.headers().contains_key("host")), (Version::HTTP_2, false));
    }
    let mut star = request(Version::HTTP_11, "*", &[("host", "api")]);
    *star.method_mut() = Method::OPTIONS;
    to_http2(&mut star, "fallback").unwrap();
    assert_eq!(star.uri().path(), "*");
}

#[test]
fn targets_take_the_form_of_http1() {
    let split = [("cookie", "a=1"), ("cookie", "b=2")];
    let mut request = request(Version::HTTP_2, "http://api:80/a?b", &split);
    to_http1(&mut request, "fallback").unwrap();
    assert_eq!(request.uri().to_string(), "/a?b");
    assert_eq!(request.headers()["host"], "api:80");
    assert_eq!(request.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[test]
fn a_request_for_two_hosts_or_none_that_is_one_is_refused() {
    for headers in [&[("host", "a"), ("host", "b")][..], &[("host", "a b")], &[("host", "a/b")]] {
        let mut request = request(Version::HTTP_11, "/", headers);
        assert!(matches!(to_http2(&mut request, "fallback"), Err(BadRequest::Host(_))), "{headers:?}");
    }
}

#[test]
fn grpc_is_told_from_its_neighbours() {
    for (content_type, framing) in [
        ("application/grpc", Framing::Grpc),
        ("application/grpc+proto", Framing::Grpc),
        ("application/grpc;x=y", Framing::Grpc),
        ("application/grpc-web", Framing::Http2),
        ("application/json", Framing::Http2),
    ] {
        let request = request(Version::HTTP_2, "/", &[("content-type", content_type)]);
        assert_eq!(http2_framing(request.headers()), framing, "{content_type}");
    }
}

#[test]
fn an_upgrade_to_another_http_is_not_offered_on() {
    for (offer, kept) in [
        ("websocket", Some("websocket")),
        ("websocket, h2c", Some("websocket")),
        ("H2C, foo/2", Some("foo/2")),
        ("h2c", None),
        ("h2c/1, HTTP/2.0", None),
        ("TLS/1.2", None),
        (",", None),
    ] {
        let mut request = request(Version::HTTP_11, "/", &[("connection", "upgrade"), ("upgrade", offer)]);
        assert_eq!(wants_upgrade(&request), kept.is_some(), "{offer}");
        clean_request(request.headers_mut(), true);
        assert_eq!(request.headers().get("upgrade").map(|value| value.to_str().unwrap()), kept, "{offer}");
    }
    let two = [("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket")];
    let mut request = request(Version::HTTP_11, "/", &two);
    assert!(wants_upgrade(&request));
    clean_request(request.headers_mut(), true);
    assert_eq!(request.headers()["upgrade"], "websocket");
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let mut bare = request(Version::HTTP_11, "admin", &[("host", "api")]);
    assert_eq!(to_http2(&mut bare, "fallback"), Err(BadRequest::Target));
    let mut connect = request(Version::HTTP_11, "api:80", &[("host", "api")]);
    *connect.method_mut() = Method::CONNECT;
    assert_eq!(to_http1(&mut connect, "fallback"), Err(BadRequest::Connect));
}

#[test]
fn trailers_do_not_speak_for_a_proxy() {
    let names = ["x-forwarded-client-cert", "x-purlin-denied", "grpc-status"];
    let mut trailers: HeaderMap =
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("0"))).collect();
    clean_trailers(&mut trailers);
    assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
}
