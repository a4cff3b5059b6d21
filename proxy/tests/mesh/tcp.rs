//! Connections that are not HTTP, and those that only look so.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use purlin_model::intention::{Action, PathForm, Permission, Rule};
use purlin_model::service::Protocol;
use purlin_model::view::{Part, PartKey, TargetKey};
use purlin_wire::testing::TestCa;
use purlin_wire::tls;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::apps::{App, echo_app, get, http1_app, mirror, named_app, read_all, tcp_app};
use crate::kit::{Pair, key, metric};

#[tokio::test]
async fn bytes_come_back_and_each_direction_ends_by_itself() {
    let app = echo_app().await;
    let pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut five = [0; 5];
    client.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"bye");
    metric(&pair.web, r#"purlin_proxy_bytes_sent_total source="web""#, |n| n == 8.0).await;
    metric(&pair.api, r#"purlin_proxy_bytes_received_total direction="inbound""#, |n| n == 8.0).await;
    metric(&pair.api, r#"purlin_proxy_connections_active direction="inbound""#, |n| n == 0.0).await;
}

/// Says so much, then reads to the end and says how much that was.
async fn talker(greeting: usize) -> App {
    tcp_app(move |mut stream| async move {
        let bytes: Vec<u8> = (0..greeting).map(|at| (at % 251) as u8).collect();
        stream.write_all(&bytes).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all.iter().enumerate().all(|(at, &byte)| byte == (at % 253) as u8));
        stream.write_all(&(all.len() as u64).to_be_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_server_may_speak_first_and_long_before_it_hears_anything() {
    const GREETING: usize = 3_000_000;
    const ANSWER: usize = 5_000_000;
    let app = talker(GREETING).await;
    // Undeclared: the silent client gets TCP when the detection timeout has passed.
    let pair = Pair::new(app.address, None).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    let mut greeting = vec![0; GREETING];
    client.read_exact(&mut greeting).await.unwrap();
    assert!(greeting.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
    let answer: Vec<u8> = (0..ANSWER).map(|at| (at % 253) as u8).collect();
    client.write_all(&answer).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), (ANSWER as u64).to_be_bytes());
}

#[tokio::test]
async fn a_client_that_only_listens_hears_all() {
    let app = talker(100_000).await;
    let pair = Pair::new(app.address, None).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap().len(), 100_008);
}

#[tokio::test]
async fn first_bytes_that_are_not_http_go_on_at_once() {
    let app = echo_app().await;
    let mut pair = Pair::new(app.address, None).await;
    let Part::Settings(settings) = pair.web.part(&PartKey::Settings) else { panic!("settings") };
    // Were it waited for, this test would take for ever.
    settings.detection_timeout_ms = 3_600_000;
    pair.web.apply().await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut echo = [0; 14];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"*1\r\n$4\r\nPING\r\n");
}

#[tokio::test]
async fn a_slow_client_is_still_understood() {
    let app = http1_app(mirror).await;
    let pair = Pair::new(app.address, None).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.set_nodelay(true).unwrap();
    for byte in b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" {
        client.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = String::from_utf8(read_all(&mut client).await.unwrap()).unwrap();
    assert!(answer.contains("GET /slow") && answer.contains("x-forwarded-client-cert"), "{answer}");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one() {
    let app = tcp_app(|mut stream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let error = read_all(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_denied_connection_is_closed_and_counted_on_both_sides() {
    let app = named_app("never").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    pair.api.policy("api", &[("web", Rule::L4(Action::Deny))]);
    pair.api.apply().await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    for host in [&pair.web, &pair.api] {
        let rule = r#"rule="intention web -> api (deny, precedence 9)""#;
        metric(host, &format!(r#"purlin_proxy_denied_total source="web" destination="api" {rule}"#), |n| {
            n == 1.0
        })
        .await;
    }
}

fn only_public() -> Rule {
    let path = PathForm::Prefix("/public".into());
    Rule::L7(vec![Permission { action: Action::Allow, path, headers: vec![], methods: vec![] }])
}

#[tokio::test]
async fn rules_for_requests_hold_in_a_tunnel_of_raw_bytes() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    // The client's side believes that it is TCP, so it asks for a raw tunnel.
    pair.web.target(&pair.ca, "api", Some(Protocol::Tcp), &[&pair.remote], None);
    pair.web.apply().await;
    pair.api.policy("api", &[("web", only_public())]);
    pair.api.apply().await;
    assert_eq!(get(pair.upstream, "/public/a").await, (StatusCode::OK, "api".into()));
    let (status, body) = get(pair.upstream, "/private").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("no permission allows GET /private"), "{body}");
}

#[tokio::test]
async fn rules_for_requests_forbid_what_is_not_http() {
    let app = echo_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    pair.api.policy("api", &[("web", only_public())]);
    pair.api.apply().await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
}

/// What a stranger gets who dials the inbound port itself.
async fn dial(pair: &Pair, config: rustls::ClientConfig, name: &str) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(pair.api.inbound).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut io = connector.connect(name, tcp).await?;
    io.write_all(b"x").await?;
    let mut status = vec![0; 3];
    io.read_exact(&mut status).await?;
    Ok(status)
}

fn client_config(pair: &Pair, ca: &TestCa, service: &str) -> rustls::ClientConfig {
    let credentials = ca.issue(&ca.service(service));
    let roots = tls::root_store(&[pair.ca.root_der().into()]).unwrap();
    let verifier = tls::server_verifier(roots, tls::any_of_domain(pair.ca.trust_domain.clone()));
    tls::client_config(&credentials, verifier, &[b"purlin/tcp"]).unwrap()
}

#[tokio::test]
async fn only_certificates_of_this_mesh_enter() {
    let app = echo_app().await;
    let pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let name = pair.remote.endpoint.server_name.clone();
    assert_eq!(dial(&pair, client_config(&pair, &pair.ca, "web"), &name).await.unwrap(), [0, 0, 0]);
    // Of the same name, but of another authority.
    let forger = TestCa::new(&pair.ca.trust_domain.0);
    dial(&pair, client_config(&pair, &forger, "web"), &name).await.unwrap_err();
    // Without any.
    let roots = tls::root_store(&[pair.ca.root_der().into()]).unwrap();
    let verifier = tls::server_verifier(roots, tls::any_of_domain(pair.ca.trust_domain.clone()));
    let nobody = tls::anonymous_client_config(verifier, &[b"purlin/tcp"]).unwrap();
    dial(&pair, nobody, &name).await.unwrap_err();
    // For an instance that is not here.
    dial(&pair, client_config(&pair, &pair.ca, "web"), "other.default.dc1.internal.x").await.unwrap_err();
    metric(&pair.api, r#"connections_refused_total reason="handshake""#, |n| n == 2.0).await;
    metric(&pair.api, r#"connections_refused_total reason="unknown-name""#, |n| n == 1.0).await;
    // By the name of the service, any instance of it here.
    let service = name.split_once(".default.").unwrap().1;
    assert_eq!(dial(&pair, client_config(&pair, &pair.ca, "web"), service).await.unwrap(), [0, 0, 0]);
}

#[tokio::test]
async fn plaintext_does_not_enter() {
    let app = named_app("never").await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut client = TcpStream::connect(pair.api.inbound).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let answer = read_all(&mut client).await.unwrap_or_default();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    metric(&pair.api, r#"connections_refused_total reason="handshake""#, |n| n == 1.0).await;
}

#[tokio::test]
async fn a_peer_that_is_not_who_it_should_be_gets_nothing() {
    let app = named_app("never").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let target = PartKey::Target(TargetKey::local(key("api")));
    let Part::Target(part) = pair.web.part(&target) else { panic!("a target") };
    part.identity = pair.ca.service("other").to_string();
    pair.web.apply().await;
    let (status, body) = get(pair.upstream, "/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("svc/api, not spiffe://"), "{body}");
    metric(&pair.api, "purlin_proxy_requests_total", |n| n == 0.0).await;
    metric(&pair.web, "purlin_proxy_connect_failures_total", |n| n == 1.0).await;
}
