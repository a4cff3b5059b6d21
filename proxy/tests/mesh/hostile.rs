//! What clients and strangers send who mean no good, or know no better.

use http::StatusCode;
use purlin_model::intention::{Action, PathForm, Permission, Rule};
use purlin_model::service::Protocol;
use purlin_proxy::Config;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::apps::{get, named_app, read_all};
use crate::kit::{Host, Pair, config};

/// What comes back for these bytes on a connection of their own.
async fn say(pair: &Pair, bytes: &str) -> String {
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    String::from_utf8(read_all(&mut client).await.unwrap()).unwrap()
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let limits = purlin_proxy::Limits { handshakes_per_worker: 4, ..config().limits };
    pair.api = Host::with(&pair.ca, "127.0.0.3", Config { workers: 1, limits, ..config() }).await;
    pair.remote = pair.api.instance(&pair.ca, "api-1", app.address, Some(Protocol::Http));
    pair.api.allow("web", "api");
    pair.api.apply().await;
    pair.web.target(&pair.ca, "api", Some(Protocol::Http), &[&pair.remote], None);
    pair.web.apply().await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(pair.api.inbound).await.unwrap());
    }
    assert_eq!(get(pair.upstream, "/").await, (StatusCode::OK, "api".into()));
}

#[tokio::test]
async fn a_body_that_breaks_the_rules_is_the_clients_fault() {
    let app = named_app("api").await;
    for pair in [
        Pair::new(app.address, Some(Protocol::Http)).await,
        Pair::local(app.address, Some(Protocol::Http)).await,
    ] {
        let answer =
            say(&pair, "POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("the body of the request cannot be read"), "{answer}");
    }
}

#[tokio::test]
async fn a_target_that_is_no_path_is_not_passed_on() {
    let app = named_app("api").await;
    let pair = Pair::new(app.address, Some(Protocol::Http)).await;
    for target in ["admin", "api:80"] {
        let answer =
            say(&pair, &format!("GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }
}

#[tokio::test]
async fn a_denied_path_cannot_be_reached_under_another_spelling() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let rule = |action, path| Permission { action, path, headers: vec![], methods: vec![] };
    let rules = vec![
        rule(Action::Deny, PathForm::Prefix("/admin".into())),
        rule(Action::Allow, PathForm::Prefix("/".into())),
    ];
    pair.api.policy("api", &[("web", Rule::L7(rules))]);
    pair.api.apply().await;
    assert_eq!(get(pair.upstream, "/a").await.0, StatusCode::OK);
    for path in ["/admin", "//admin", "/a/../admin", "/a/%2e%2e/admin", "/%61dmin", "/%2561dmin", "/;x/admin"]
    {
        assert_eq!(get(pair.upstream, path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
}
