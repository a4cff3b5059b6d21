//! Views that change while traffic flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::StatusCode;
use http_body_util::BodyExt;
use purlin_model::service::Protocol;
use purlin_model::view::{Part, PartKey};
use purlin_wire::local::ToProxy;
use purlin_wire::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::apps::{
    client1, client2, echo_app, full, get, http1_app, mirror, named_app, read_all, request, request2, text,
};
use crate::kit::{Agent, Host, Pair, key, metric, within};

fn certificate(body: &str) -> String {
    let line = body.lines().find(|line| line.starts_with("x-forwarded-client-cert")).unwrap();
    line.split(';').find(|part| part.starts_with("Hash=")).unwrap().to_owned()
}

#[tokio::test]
async fn certificates_are_renewed_under_traffic_without_a_failed_request() {
    let app = http1_app(mirror).await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU32::new(0));
    let traffic: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served, upstream) = (stop.clone(), served.clone(), pair.upstream);
            tokio::spawn(async move {
                let mut client = client1(upstream).await;
                while !stop.load(Ordering::Relaxed) {
                    client.ready().await.unwrap();
                    let (status, _, body) = text(client.send_request(request("/")).await.unwrap()).await;
                    assert_eq!(status, StatusCode::OK, "{body}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        let before = served.load(Ordering::Relaxed);
        within(async {
            while served.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (status, body) = get(pair.upstream, "/").await;
        assert_eq!(status, StatusCode::OK);
        if round % 2 == 0 {
            assert!(seen.insert(certificate(&body)), "the new certificate is used at once");
            pair.web.credential(&pair.ca, "web");
            pair.web.apply().await;
        } else {
            pair.api.credential(&pair.ca, "api");
            pair.api.apply().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for one in traffic {
        one.await.unwrap();
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_renewed_certificate_cuts_no_connection() {
    let app = echo_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    let mut byte = [0];
    for _ in 0..3 {
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        pair.web.credential(&pair.ca, "web");
        pair.web.apply().await;
        pair.api.credential(&pair.ca, "api");
        pair.api.apply().await;
    }
}

/// The leaf of a service as a view has it, by SHA-256.
fn leaf_of(host: &mut Host, service: &str) -> String {
    match host.part(&PartKey::Credential(key(service))) {
        Part::Credential(credential) => tls::hex(&tls::fingerprint(&credential.chain[0])),
        other => panic!("{other:?}"),
    }
}

fn revoke(host: &mut Host, sha256: &str) {
    match host.part(&PartKey::Settings) {
        Part::Settings(settings) => settings.revoked.insert(sha256.to_owned()),
        other => panic!("{other:?}"),
    };
}

#[tokio::test]
async fn what_rests_on_a_revoked_certificate_is_cut_on_either_side_and_a_new_one_goes_on() {
    for at_client in [false, true] {
        let app = echo_app().await;
        let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
        let mut client = TcpStream::connect(pair.upstream).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let (sha256, judge) = match at_client {
            true => (leaf_of(&mut pair.api, "api"), &mut pair.web),
            false => (leaf_of(&mut pair.web, "web"), &mut pair.api),
        };
        revoke(judge, &sha256);
        judge.apply().await;
        let cut = within(client.read(&mut [0])).await;
        assert!(matches!(cut, Ok(0) | Err(_)), "at_client {at_client}: {cut:?}");
        let mut again = TcpStream::connect(pair.upstream).await.unwrap();
        assert_eq!(within(read_all(&mut again)).await.unwrap_or_default(), b"", "at_client {at_client}");

        let renewed = if at_client { &mut pair.api } else { &mut pair.web };
        renewed.credential(&pair.ca, if at_client { "api" } else { "web" });
        renewed.apply().await;
        let served = async {
            loop {
                let mut again = TcpStream::connect(pair.upstream).await.unwrap();
                let _ = again.write_all(b"y").await;
                if again.read_exact(&mut [0]).await.is_ok() {
                    return;
                }
            }
        };
        within(served).await;
    }
}

/// Two hosts with an instance of `api` each, besides that of `web`.
async fn two(protocol: Protocol, one: std::net::SocketAddr, other: std::net::SocketAddr) -> (Pair, Host) {
    let mut pair = Pair::new(one, Some(protocol)).await;
    let mut second = Host::new(&pair.ca, "127.0.0.5").await;
    let remote = second.instance(&pair.ca, "api-2", other, Some(protocol));
    second.allow("web", "api");
    assert_eq!(second.apply().await, []);
    let both = [&pair.remote, &remote];
    pair.web.target(&pair.ca, "api", Some(protocol), &both, None);
    pair.web.apply().await;
    (pair, second)
}

#[tokio::test]
async fn requests_move_to_another_instance_when_an_application_dies() {
    let (one, other) = (named_app("one").await, named_app("two").await);
    let (pair, _second) = two(Protocol::Http, one.address, other.address).await;
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 2 {
        seen.insert(get(pair.upstream, "/").await.1);
    }
    drop(one);
    // A kept connection may still be seen to close while a request is on it.
    let mut lost = 0;
    for _ in 0..50 {
        match get(pair.upstream, "/").await {
            (StatusCode::OK, body) => assert_eq!(body, "two"),
            (StatusCode::BAD_GATEWAY, _) => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost <= 2, "{lost}");
    metric(&pair.web, "purlin_proxy_retries_total", |n| n >= 1.0).await;
}

#[tokio::test]
async fn requests_move_when_an_instance_leaves_its_host() {
    let (one, other) = (named_app("one").await, named_app("two").await);
    let (mut pair, second) = two(Protocol::Http, one.address, other.address).await;
    let mut client = client2(pair.upstream).await;
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 2 {
        seen.insert(text(client.send_request(request2("/")).await.unwrap()).await.2);
    }
    // The client's host does not know it yet.
    pair.api.remove(&PartKey::Local(pair.remote.endpoint.instance.clone()));
    pair.api.apply().await;
    for _ in 0..50 {
        let answer = text(client.send_request(request2("/")).await.unwrap()).await;
        assert_eq!((answer.0, answer.2.as_str()), (StatusCode::OK, "two"));
    }
    drop(second);
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
}

#[tokio::test]
async fn connections_move_to_another_instance_when_an_application_or_a_host_is_gone() {
    let (one, other) = (echo_app().await, echo_app().await);
    let (pair, second) = two(Protocol::Tcp, one.address, other.address).await;
    drop(one);
    for _ in 0..10 {
        let mut client = TcpStream::connect(pair.upstream).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.unwrap(), b"x");
    }
    pair.api.proxy.stop().await.unwrap();
    second.proxy.stop().await.unwrap();
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap_or_default(), b"");
    metric(&pair.web, r#"purlin_proxy_unroutable_total reason="unreachable""#, |n| n == 1.0).await;
}

#[tokio::test]
async fn only_listeners_that_differ_are_touched_and_failures_are_said_and_repaired() {
    let app = echo_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    let second = pair.web.upstream(&pair.ca, "web", "api", Some(Protocol::Tcp), &[&pair.remote]);
    let holder = TcpListener::bind(second).await.unwrap();
    let failed = pair.web.apply().await;
    assert_eq!(failed, [(second.to_string(), "the address is in use by another process".to_owned())]);
    metric(&pair.web, "purlin_proxy_failed_listeners", |n| n == 1.0).await;
    drop(holder);
    let mut applied = pair.web.proxy.applied();
    within(applied.wait_for(|applied| applied.failed_listeners.is_empty())).await.unwrap();
    assert_eq!(pair.web.agent.applied(applied.borrow().revision).await, []);
    TcpStream::connect(second).await.unwrap();
    pair.web.remove(&PartKey::Listener(second));
    assert_eq!(pair.web.apply().await, []);
    assert!(TcpStream::connect(second).await.is_err());
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"still here");
}

#[tokio::test]
async fn a_lost_agent_changes_nothing_and_the_next_one_adopts_what_runs() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let (ours, theirs) = tokio::io::duplex(1024);
    let last = pair.api.proxy.applied().borrow().revision;
    pair.api.agent.hang_up().await;
    assert_eq!(get(pair.upstream, "/").await.0, StatusCode::OK);
    pair.api.proxy.attach(theirs);
    let mut agent = Agent::connect(ours).await;
    assert_eq!(agent.has_revision, last);
    // Garbage ends its session and nothing else.
    agent.send(&ToProxy::Scrape { id: 5 }).await;
    let purlin_wire::local::FromProxy::Metrics { id, text } = agent.receive().await else {
        panic!("metrics")
    };
    assert!(id == 5 && text.contains("purlin_proxy_requests_total"), "{text}");
    agent.write_raw(&[0xff; 64]).await;
    agent.ended().await;
    assert_eq!(get(pair.upstream, "/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_request_with_a_body_moves_whole_when_its_application_is_down() {
    let echo = |request: http::Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        http::Response::new(full(body))
    };
    let (one, other) = (http1_app(echo).await, http1_app(echo).await);
    let (pair, _second) = two(Protocol::Http, one.address, other.address).await;
    drop(one);
    let mut client = client1(pair.upstream).await;
    for round in 0..20 {
        let body = format!("{round}").repeat(1000);
        let asked = http::Request::post("/").header("host", "api").body(full(body.clone())).unwrap();
        client.ready().await.unwrap();
        let (status, _, answer) = text(client.send_request(asked).await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer == body);
    }
    metric(&pair.web, "purlin_proxy_retries_total", |n| n >= 1.0).await;
}

#[tokio::test]
async fn a_removed_listener_ends_its_kept_connections_in_order() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = client1(pair.upstream).await;
    assert_eq!(text(client.send_request(request("/")).await.unwrap()).await.0, StatusCode::OK);
    pair.web.remove(&PartKey::Listener(pair.upstream));
    assert_eq!(pair.web.apply().await, []);
    within(async {
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    metric(&pair.web, r#"connections_active direction="outbound""#, |n| n == 0.0).await;
}
