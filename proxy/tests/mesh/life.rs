//! How a proxy starts and ends.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Frame;
use purlin_model::service::Protocol;
use purlin_proxy::{Config, Proxy, ProxyError};
use purlin_wire::frame::{self, FrameReader};
use purlin_wire::local::{FromProxy, PROTOCOL, ToProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::apps::{
    channel, client1, client2, echo_app, http1_app, http2_app, named_app, read_all, request, request2, text,
};
use crate::kit::{LONG, Pair, config};

/// Answers, and ends its answer when told.
async fn held_app(
    http2: bool,
) -> (crate::apps::App, tokio::sync::mpsc::Receiver<tokio::sync::mpsc::Sender<Frame<bytes::Bytes>>>) {
    let (held, receiver) = tokio::sync::mpsc::channel(4);
    let handler = move |_| {
        let held = held.clone();
        async move {
            let (sender, body) = channel();
            held.send(sender).await.unwrap();
            http::Response::new(body)
        }
    };
    (if http2 { http2_app(handler).await } else { http1_app(handler).await }, receiver)
}

#[tokio::test]
async fn a_drain_lets_what_is_under_way_end_and_takes_nothing_new() {
    let (app, mut held) = held_app(false).await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut idle = TcpStream::connect(pair.upstream).await.unwrap();
    let mut response = client1(pair.upstream).await.send_request(request("/")).await.unwrap();
    let sender = held.recv().await.unwrap();
    sender.send(Frame::data("begun".into())).await.unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
    let drain = tokio::spawn(pair.web.proxy.drain(None));
    // Nothing new: the listener is closed.
    while TcpStream::connect(pair.upstream).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!drain.is_finished());
    sender.send(Frame::data(", ended".into())).await.unwrap();
    drop(sender);
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, ", ended");
    // One that never said what it wants is not waited for beyond its time.
    idle.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    drop(idle);
    tokio::time::timeout(LONG, drain).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_http2_client_is_told_to_go_away_and_its_stream_ends_well() {
    let (app, mut held) = held_app(true).await;
    let pair = Pair::new(app.address, Some(Protocol::Http2)).await;
    let mut client = client2(pair.upstream).await;
    let response = client.send_request(request2("/")).await.unwrap();
    let sender = held.recv().await.unwrap();
    let drain = tokio::spawn(pair.web.proxy.drain(Some(10 * LONG)));
    while TcpStream::connect(pair.upstream).await.is_ok() {
        tokio::task::yield_now().await;
    }
    sender.send(Frame::data("all of it".into())).await.unwrap();
    drop(sender);
    assert_eq!(text(response).await.2, "all of it");
    // The client would have kept its connection for more; it was told not to.
    tokio::time::timeout(LONG, drain).await.unwrap().unwrap().unwrap();
    assert!(client.send_request(request2("/")).await.is_err());
}

#[tokio::test]
async fn the_far_proxy_drains_without_a_failed_request() {
    let app = named_app("api").await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = client1(pair.upstream).await;
    assert_eq!(text(client.send_request(request("/")).await.unwrap()).await.0, StatusCode::OK);
    pair.api.proxy.drain(None).await.unwrap();
    client.ready().await.unwrap();
    let (status, _, body) = text(client.send_request(request("/")).await.unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("no instance of api could be reached"), "{body}");
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline() {
    let app = echo_app().await;
    let pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).await.unwrap();
    pair.web.proxy.drain(Some(Duration::from_millis(50))).await.unwrap();
    assert!(read_all(&mut client).await.is_ok_and(|rest| rest.is_empty()));
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    let app = echo_app().await;
    let ca = purlin_wire::testing::TestCa::new("11111111-2222-3333-4444-555555555555.mesh.internal");
    let mut limited = config();
    limited.workers = 1;
    limited.limits.connections_per_listener = 2;
    let mut host = crate::kit::Host::with(&ca, "127.0.0.6", limited).await;
    let mut remote = host.instance(&ca, "api-1", app.address, Some(Protocol::Tcp));
    remote.endpoint.local = true;
    host.allow("web", "api");
    let upstream = host.upstream(&ca, "web", "api", Some(Protocol::Tcp), &[&remote]);
    assert_eq!(host.apply().await, []);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(upstream).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).await.unwrap();
        open.push(client);
    }
    let mut third = TcpStream::connect(upstream).await.unwrap();
    assert_eq!(read_all(&mut third).await.unwrap_or_default(), b"");
    drop(open);
    crate::kit::metric(&host, r#"connections_refused_total reason="too-many""#, |n| n == 1.0).await;
    crate::kit::metric(&host, r#"connections_active direction="outbound""#, |n| n == 0.0).await;
    let mut fourth = TcpStream::connect(upstream).await.unwrap();
    fourth.write_all(b"y").await.unwrap();
    fourth.shutdown().await.unwrap();
    assert_eq!(read_all(&mut fourth).await.unwrap(), b"y");
}

#[tokio::test]
async fn a_proxy_of_its_own_is_found_by_its_socket_and_ends_when_its_agent_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { workers: 1, runtime_dir: Some(dir.path().join("run")), ..Config::default() };
    let proxy = Proxy::start(config.clone()).unwrap();
    let second = Proxy::start(config).unwrap_err();
    assert!(matches!(second, ProxyError::Socket(_)), "{second}");
    let path = dir.path().join("run/proxy.sock");
    let mut first = UnixStream::connect(&path).await.unwrap();
    let hello = ToProxy::Hello { version: "test".into(), protocol: PROTOCOL };
    frame::write(&mut first, &hello).await.unwrap();
    let mut frames = FrameReader::new(first, 1 << 20);
    let Some(FromProxy::Hello { pid, has_revision, .. }) = frames.next().await.unwrap() else {
        panic!("hello")
    };
    assert_eq!((pid, has_revision), (std::process::id(), 0));
    // The newer one counts: the older one hears that it is over.
    let mut newer = UnixStream::connect(&path).await.unwrap();
    frame::write(&mut newer, &hello).await.unwrap();
    assert!(tokio::time::timeout(LONG, frames.next::<FromProxy>()).await.unwrap().unwrap().is_none());
    frame::write(&mut newer, &ToProxy::Drain { deadline_ms: 1000 }).await.unwrap();
    tokio::time::timeout(LONG, proxy.wait()).await.unwrap().unwrap();
    assert!(!path.exists());
}
