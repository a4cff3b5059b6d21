//! What is allowed, told to the caller, and ended when it is allowed no more.

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Frame;
use purlin_model::intention::{Action, HeaderForm, HeaderMatch, PathForm, Permission, Rule};
use purlin_model::service::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::apps::{
    channel, client1, client2, echo_app, get, http1_app, named_app, read_all, request, request2, text,
};
use crate::kit::{LONG, Pair, metric, within};

#[tokio::test]
async fn a_denied_request_says_who_by_what_and_how_to_allow_it() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    let (status, headers, body) =
        text(client1(pair.upstream).await.send_request(request("/")).await.unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        body,
        "web may not call api: no intention matches; default policy deny\n\
         to allow it: purlin intention create web api\n"
    );
    assert!(headers.keys().all(|name| !name.as_str().starts_with("x-purlin")), "{headers:?}");
    for host in [&pair.web, &pair.api] {
        metric(host, r#"purlin_proxy_denied_total source="web" destination="api""#, |n| n == 1.0).await;
    }
    pair.api.policy("api", &[("web", Rule::L4(Action::Deny))]);
    pair.api.apply().await;
    let (_, body) = get(pair.upstream, "/").await;
    assert!(body.ends_with("to allow it: purlin intention create -replace web api\n"), "{body}");
    pair.api.allow("web", "api");
    pair.api.apply().await;
    assert_eq!(get(pair.upstream, "/").await, (StatusCode::OK, "api".into()));
}

#[tokio::test]
async fn requests_are_judged_one_by_one() {
    let app = named_app("api").await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let team = HeaderMatch {
        name: "x-team".into(),
        form: HeaderForm::Exact("blue".into()),
        invert: false,
        ignore_case: false,
    };
    let rules = vec![
        Permission {
            action: Action::Allow,
            path: PathForm::Any,
            headers: vec![team],
            methods: vec!["DELETE".into()],
        },
        Permission {
            action: Action::Allow,
            path: PathForm::Regex("/v[0-9]/.*".into()),
            headers: vec![],
            methods: vec!["GET".into()],
        },
    ];
    pair.api.policy("api", &[("web", Rule::L7(rules))]);
    pair.api.apply().await;
    let mut client = client1(pair.upstream).await;
    for (method, path, team, expected) in [
        ("GET", "/v1/a?b", None, StatusCode::OK),
        ("GET", "/w1/a", None, StatusCode::FORBIDDEN),
        ("GET", "/v1/../secret", None, StatusCode::FORBIDDEN),
        ("POST", "/v1/a", None, StatusCode::FORBIDDEN),
        ("DELETE", "/x", Some("blue"), StatusCode::OK),
        ("DELETE", "/x", Some("red"), StatusCode::FORBIDDEN),
    ] {
        let mut asked = request(path);
        *asked.method_mut() = method.parse().unwrap();
        if let Some(team) = team {
            asked.headers_mut().insert("x-team", team.parse().unwrap());
        }
        client.ready().await.unwrap();
        let (status, _, body) = text(client.send_request(asked).await.unwrap()).await;
        assert_eq!(status, expected, "{method} {path} {team:?}: {body}");
    }
}

#[tokio::test]
async fn an_established_tcp_connection_is_cut_when_it_is_forbidden_and_others_stay() {
    let app = echo_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Tcp)).await;
    let other = pair.web.upstream(&pair.ca, "other", "api", Some(Protocol::Tcp), &[&pair.remote]);
    pair.web.apply().await;
    let both = [("web", Rule::L4(Action::Allow)), ("other", Rule::L4(Action::Allow))];
    pair.api.policy("api", &both);
    pair.api.apply().await;
    let mut forbidden = TcpStream::connect(pair.upstream).await.unwrap();
    let mut allowed = TcpStream::connect(other).await.unwrap();
    let mut byte = [0];
    for client in [&mut forbidden, &mut allowed] {
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
    }
    pair.api.policy("api", &both[1..]);
    pair.api.apply().await;
    let error = read_all(&mut forbidden).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "a cut is not a proper end");
    allowed.write_all(b"y").await.unwrap();
    allowed.read_exact(&mut byte).await.unwrap();
    metric(&pair.api, r#"purlin_proxy_denied_total source="web""#, |n| n == 1.0).await;
    metric(&pair.api, r#"purlin_proxy_denied_total source="other""#, |n| n == 0.0).await;
}

/// Answers at once and then goes on for ever.
async fn endless_app() -> crate::apps::App {
    http1_app(|_| async {
        let (sender, body) = channel();
        tokio::spawn(async move { while sender.send(Frame::data("tick".into())).await.is_ok() {} });
        http::Response::new(body)
    })
    .await
}

/// Reads until the answer breaks off; a proper end is a failure.
async fn breaks_off(response: http::Response<hyper::body::Incoming>) {
    let mut body = response.into_body();
    let deadline = tokio::time::Instant::now() + LONG;
    while tokio::time::Instant::now() < deadline {
        match within(body.frame()).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => panic!("a cut must not look like the end"),
        }
    }
    panic!("it goes on");
}

#[tokio::test]
async fn an_answer_under_way_is_cut_when_it_is_forbidden() {
    let app = endless_app().await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let mut over_http1 = client1(pair.upstream).await.send_request(request("/")).await.unwrap();
    let mut over_http2 = client2(pair.upstream).await.send_request(request2("/")).await.unwrap();
    for response in [&mut over_http1, &mut over_http2] {
        assert!(response.body_mut().frame().await.unwrap().is_ok());
    }
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    tokio::join!(breaks_off(over_http1), breaks_off(over_http2));
}

#[tokio::test]
async fn an_answer_under_way_on_one_host_is_cut_as_well() {
    let app = endless_app().await;
    let mut pair = Pair::local(app.address, Some(Protocol::Http)).await;
    let response = client1(pair.upstream).await.send_request(request("/")).await.unwrap();
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    breaks_off(response).await;
}

#[tokio::test]
async fn a_request_that_waits_is_answered_when_it_is_forbidden() {
    let (reached, mut has_reached) = tokio::sync::mpsc::channel(1);
    let app = http1_app(move |_| {
        let reached = reached.clone();
        async move {
            reached.send(()).await.unwrap();
            std::future::pending().await
        }
    })
    .await;
    let mut pair = Pair::new(app.address, Some(Protocol::Http)).await;
    let upstream = pair.upstream;
    let waiting = tokio::spawn(async move { get(upstream, "/slow").await });
    has_reached.recv().await.unwrap();
    // A change that still allows it does nothing to it.
    let public = Permission {
        action: Action::Allow,
        path: PathForm::Exact("/slow".into()),
        headers: vec![],
        methods: vec![],
    };
    pair.api.policy("api", &[("web", Rule::L7(vec![public]))]);
    pair.api.apply().await;
    assert!(!waiting.is_finished());
    pair.api.policy("api", &[("web", Rule::L4(Action::Deny))]);
    pair.api.apply().await;
    let (status, body) = within(waiting).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("intention web -> api (deny, precedence 9)"), "{body}");
}

#[tokio::test]
async fn a_tcp_connection_on_one_host_is_judged_and_cut_as_well() {
    let app = echo_app().await;
    let mut pair = Pair::local(app.address, Some(Protocol::Tcp)).await;
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).await.unwrap();
    pair.api.policy("api", &[]);
    pair.api.apply().await;
    assert!(read_all(&mut client).await.is_err());
    let mut client = TcpStream::connect(pair.upstream).await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
}
