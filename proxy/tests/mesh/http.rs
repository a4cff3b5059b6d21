//! Requests, from an application of one host to one of another.

use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use purlin_model::service::Protocol;
use purlin_model::view::{Absence, Part, PartKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::apps::{
    App, channel, client1, client2, full, get, http1_app, http2_app, mirror, read_all, request, request2,
    text,
};
use crate::kit::{Pair, metric};

#[tokio::test]
async fn http1_goes_through_with_identity_and_without_hop_headers() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = client1(pair.upstream).await;
    let asked = Request::builder()
        .uri("/a/b?c=d")
        .header("host", "api.example:8080")
        .header("connection", "x-mine, keep-alive")
        .header("x-mine", "1")
        .header("x-purlin-denied", "spoofed")
        .header("x-forwarded-client-cert", "spoofed")
        .header("x-kept", "2")
        .body(full(""))
        .unwrap();
    let (status, headers, body) = text(client.send_request(asked).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!headers.contains_key("connection"), "{headers:?}");
    let lines: Vec<_> = body.lines().collect();
    assert_eq!(lines[0], "HTTP/1.1 GET /a/b?c=d");
    assert!(lines.contains(&"host: api.example:8080"), "{body}");
    assert!(lines.contains(&"x-kept: 2"), "{body}");
    assert!(!body.contains("spoofed") && !body.contains("x-mine"), "{body}");
    let certificate = lines.iter().find(|line| line.starts_with("x-forwarded-client-cert: ")).unwrap();
    let (web, api) = (pair.ca.service("web"), pair.ca.service("api"));
    assert!(certificate.contains(&format!("By={api};Hash=")), "{certificate}");
    assert!(certificate.ends_with(&format!("URI={web}")), "{certificate}");
    // The connection serves another request.
    let (status, _, _) = text(client.send_request(request("/again")).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    for host in [&pair.web, &pair.api] {
        metric(
            host,
            r#"purlin_proxy_requests_total source="web" destination="api" response_class="2xx""#,
            |n| n == 2.0,
        )
        .await;
    }
}

#[tokio::test]
async fn an_undeclared_protocol_is_told_from_the_first_bytes() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, None).await;
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains("x-forwarded-client-cert"), "it went as HTTP: {body}");
}

#[tokio::test]
async fn http2_and_its_cookies_and_authority_reach_an_http2_application() {
    let app = http2_app(mirror).await;
    let pair = Pair::new(app.address, None).await;
    let mut asked = request2("/x?y");
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    let response = client2(pair.upstream).await.send_request(asked).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let (status, _, body) = text(response).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("HTTP/2.0 GET http://api.example/x?y\n"), "{body}");
    metric(&pair.web, r#"requests_total protocol="http2" response_class="2xx""#, |n| n == 1.0).await;
}

#[tokio::test]
async fn the_destination_decides_what_its_application_is_spoken_to_in() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut asked = request2("/x");
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    let (status, _, body) = text(client2(pair.upstream).await.send_request(asked).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("HTTP/1.1 GET /x\n"), "{body}");
    assert!(body.contains("host: api.example\n") && body.contains("cookie: a=1; b=2\n"), "{body}");

    let app = http2_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http2)).await;
    let (status, body) = get(pair.upstream, "/x").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("HTTP/2.0 GET http://api.example/x\n"), "{body}");
}

#[tokio::test]
async fn grpc_keeps_its_trailers_and_their_announcement() {
    let app = http2_app(|request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let (sender, body) = channel();
        tokio::spawn(async move {
            // A streaming call: each message goes back when it comes.
            let mut messages = request.into_body();
            while let Some(frame) = messages.frame().await {
                let _ = sender.send(frame.unwrap()).await;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = sender.send(Frame::trailers(trailers)).await;
        });
        Response::new(body)
    })
    .await;
    let pair = Pair::new(app.address, Some(Protocol::Grpc)).await;
    let (messages, body) = channel();
    let asked = Request::builder()
        .method("POST")
        .uri("http://api.example/pkg.Service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let response = client2(pair.upstream).await.send_request(asked).await.unwrap();
    let mut answers = response.into_body();
    for message in ["one", "two"] {
        messages.send(Frame::data(message.into())).await.unwrap();
        assert_eq!(answers.frame().await.unwrap().unwrap().into_data().unwrap(), message);
    }
    drop(messages);
    let trailers = answers.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    metric(&pair.api, r#"requests_total protocol="grpc" direction="inbound""#, |n| n == 1.0).await;
}

/// Sends so much up and gets the same back, frame by frame, never all of it at once.
async fn stream_through(http2: bool) {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 256;
    let echo = |request: Request<hyper::body::Incoming>| async move {
        Response::new(BodyExt::boxed(
            request.into_body().map_err(|_| -> std::convert::Infallible { unreachable!() }),
        ))
    };
    let app = if http2 { http2_app(echo).await } else { http1_app(echo).await };
    let pair = Pair::new(app.address, None).await;
    let (sender, body) = channel();
    let response = if http2 {
        let asked = Request::post("http://api.example/").body(body).unwrap();
        client2(pair.upstream).await.send_request(asked).await.unwrap()
    } else {
        let asked = Request::post("/").header("host", "api").body(body).unwrap();
        client1(pair.upstream).await.send_request(asked).await.unwrap()
    };
    assert_eq!(response.status(), StatusCode::OK);
    let send = async move {
        for index in 0..CHUNKS {
            sender.send(Frame::data(vec![index as u8; CHUNK].into())).await.unwrap();
        }
    };
    let receive = async {
        let (mut body, mut at) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            for byte in frame.unwrap().into_data().unwrap() {
                assert_eq!(byte, (at / CHUNK) as u8);
                at += 1;
            }
        }
        at
    };
    let ((), received) = tokio::join!(send, receive);
    assert_eq!(received, CHUNK * CHUNKS);
    let all = (CHUNK * CHUNKS) as f64;
    for host in [&pair.web, &pair.api] {
        metric(host, "purlin_proxy_bytes_sent_total", |n| n == all).await;
        metric(host, "purlin_proxy_bytes_received_total", |n| n == all).await;
    }
}

#[tokio::test]
async fn big_http1_bodies_stream_both_ways() {
    stream_through(false).await;
}

#[tokio::test]
async fn big_http2_bodies_stream_both_ways() {
    stream_through(true).await;
}

#[tokio::test]
async fn many_requests_at_once_share_tunnels_and_all_are_answered() {
    let app = http2_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http2)).await;
    let client = client2(pair.upstream).await;
    let mut all = tokio::task::JoinSet::new();
    for index in 0..400 {
        let mut client = client.clone();
        all.spawn(
            async move { text(client.send_request(request2(&format!("/{index}"))).await.unwrap()).await },
        );
    }
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.unwrap().0, StatusCode::OK);
    }
    metric(&pair.api, r#"connections_opened_total direction="inbound""#, |n| n > 0.0 && n <= 16.0).await;
}

#[tokio::test]
async fn bodiless_answers_stay_bodiless() {
    let app = http1_app(|request: Request<hyper::body::Incoming>| async move {
        let builder = Response::builder();
        match request.method() {
            &Method::HEAD => builder.header("content-length", "123").body(full("")).unwrap(),
            _ => builder.status(204).body(full("")).unwrap(),
        }
    })
    .await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = client1(pair.upstream).await;
    let head = Request::head("/").header("host", "api").body(full("")).unwrap();
    let (status, headers, body) = text(client.send_request(head).await.unwrap()).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
    assert_eq!(headers["content-length"], "123");
    client.ready().await.unwrap();
    let (status, headers, _) = text(client.send_request(request("/")).await.unwrap()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(
        !headers.contains_key("content-length") && !headers.contains_key("transfer-encoding"),
        "{headers:?}"
    );
}

#[tokio::test]
async fn a_client_that_waits_for_permission_to_send_gets_it() {
    let app = http1_app(|request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(body))
    })
    .await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: api\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut answer = [0; 25];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    let rest = String::from_utf8(read_all(&mut client).await.unwrap()).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("hello"), "{rest}");
}

#[tokio::test]
async fn an_application_that_closes_after_each_answer_costs_no_request() {
    let app =
        http1_app(|_| async { Response::builder().header("connection", "close").body(full("one")).unwrap() })
            .await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = client1(pair.upstream).await;
    for _ in 0..50 {
        client.ready().await.unwrap();
        let (status, _, body) = text(client.send_request(request("/")).await.unwrap()).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "one"));
    }
}

/// Raw bytes in, raw bytes out.
async fn raw(pair: &Pair, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    String::from_utf8_lossy(&read_all(&mut client).await.unwrap()).into_owned()
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ] {
        let answer = raw(&pair, bytes).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{bytes:?}: {answer}");
    }
    let mut long = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    long.resize(70 * 1024, b'y');
    long.extend(b"\r\n\r\n");
    let answer = raw(&pair, &long).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    metric(&pair.api, "purlin_proxy_requests_total", |n| n == 0.0).await;
}

#[tokio::test]
async fn why_there_is_no_endpoint_is_said() {
    let app = http1_app(mirror).await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    for (absence, reason, words) in [
        (Absence::Unknown, "unknown", "service api is unknown"),
        (Absence::NotInMesh, "not-in-mesh", "add `connect { sidecar_service {} }` to its definition"),
        (Absence::Unhealthy, "unhealthy", "service api has no healthy instance"),
        (Absence::Pending, "pending", "service api is not known here yet"),
    ] {
        pair.web.target(&pair.ca, "api", Some(Protocol::Http), &[], Some(absence));
        pair.web.apply().await;
        let (status, body) = get(pair.upstream, "/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(words), "{body}");
        metric(&pair.web, &format!("purlin_proxy_unroutable_total {reason}"), |n| n == 1.0).await;
    }
}

#[tokio::test]
async fn an_application_that_is_down_is_named() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    assert_eq!(get(pair.upstream, "/").await.0, StatusCode::OK);
    drop(app);
    metric(&pair.api, "purlin_proxy_panics_total", |n| n == 0.0).await;
    let (status, body) = loop {
        // Until the proxy has seen the kept connection close.
        let (status, body) = get(pair.upstream, "/").await;
        if status != StatusCode::BAD_GATEWAY {
            break (status, body);
        }
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.starts_with("application api-1 of api cannot be reached: 127.0.0.1:"), "{body}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let app = http1_app(|_| std::future::pending()).await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let key = PartKey::Local(pair.remote.endpoint.instance.clone());
    let Part::Local(local) = pair.api.part(&key) else { panic!("a local instance") };
    local.request_timeout_ms = Some(50);
    pair.api.apply().await;
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(body, "application api-1 did not answer within 50 ms\n");
}

#[tokio::test]
async fn an_instance_has_no_more_connections_than_it_wants() {
    let app = http1_app(|_| std::future::pending()).await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let key = PartKey::Local(pair.remote.endpoint.instance.clone());
    let Part::Local(local) = pair.api.part(&key) else { panic!("a local instance") };
    local.max_connections = Some(1);
    pair.api.apply().await;
    let upstream = pair.upstream;
    let waiting = tokio::spawn(async move { get(upstream, "/").await });
    // The first of the two holds the place, whichever that is.
    let (status, body) = tokio::select! {
        answer = get(upstream, "/") => answer,
        answer = waiting => answer.unwrap(),
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "api-1 has all the connections that its max_connections allows\n");
}

/// Changes the protocol, then sends back what it gets.
async fn upgrade_app() -> App {
    http1_app(|mut request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "echo");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(io);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let builder =
            Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade");
        builder.body(full("")).unwrap()
    })
    .await
}

pub(crate) async fn upgrade(address: std::net::SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = b"GET /chat HTTP/1.1\r\nhost: api\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("\r\nupgrade: echo\r\n") && answer.contains("\r\nconnection: upgrade\r\n"),
        "{answer}"
    );
    client
}

async fn echo_after_upgrade(pair: &Pair) {
    let mut client = upgrade(pair.upstream).await;
    client.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn an_upgraded_connection_carries_anything_and_is_cut_when_forbidden() {
    let app = upgrade_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    echo_after_upgrade(&pair).await;
    let mut client = upgrade(pair.upstream).await;
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    // Its end is not clean, or at least it ends.
    let _ = read_all(&mut client).await;
    metric(&pair.api, r#"purlin_proxy_denied_total source="web""#, |n| n == 1.0).await;
}

#[tokio::test]
async fn an_upgrade_on_one_host_works_too() {
    let app = upgrade_app().await;
    let pair = Pair::local(app.address, Some(Protocol::Http)).await;
    echo_after_upgrade(&pair).await;
}

#[tokio::test]
async fn two_services_of_one_host_meet_without_the_network() {
    let app = http1_app(mirror).await;
    let mut pair = Pair::local(app.address, Some(Protocol::Http)).await;
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(&format!("URI={}", pair.ca.service("web"))), "{body}");
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("purlin intention create web api"), "{body}");
    metric(&pair.api, r#"connections_opened_total direction="inbound""#, |n| n == 0.0).await;
    for direction in ["inbound", "outbound"] {
        metric(&pair.api, &format!(r#"purlin_proxy_denied_total direction="{direction}""#), |n| n == 1.0)
            .await;
    }
}
