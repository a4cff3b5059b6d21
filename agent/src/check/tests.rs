//! Probes against small servers on loopback, and the runner against a registry.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use purlin_model::check::ProbeTls;
use purlin_model::{InstanceId, NodeName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::clock::Clock;
use crate::config::CheckOptions;
use crate::registry::Origin;

pub(super) fn definition(id: &str, probe: Probe) -> CheckDefinition {
    CheckDefinition {
        id: CheckId::new(id).unwrap(),
        name: id.into(),
        notes: String::new(),
        service_id: None,
        probe,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        initial: Status::Critical,
        success_before_passing: 0,
        failures_before_warning: 0,
        failures_before_critical: 0,
        deregister_critical_service_after: None,
        output_max_size: 4096,
    }
}

fn tools() -> Tools {
    Tools {
        tls: tls::Configs::new(None),
        network: Semaphore::new(4),
        processes: Semaphore::new(4),
        systemctl: "/nonexistent/systemctl".into(),
    }
}

async fn verdict(probe: Probe) -> Verdict {
    run(&definition("c", probe), &tools()).await
}

/// Answers each connection with the next text, and keeps what it was asked.
async fn http_server(answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap();
            asked.push(String::from_utf8_lossy(&request[..read]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (address, task)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn http(url: String) -> Probe {
    Probe::Http {
        url,
        method: String::new(),
        headers: BTreeMap::new(),
        body: String::new(),
        disable_redirects: false,
        tls: ProbeTls::default(),
    }
}

#[tokio::test]
async fn http_status_codes_are_judged_as_consul_does() {
    for (code, status) in [
        ("200 OK", Status::Passing),
        ("201 Created", Status::Passing),
        ("429 Too Many Requests", Status::Warning),
        ("404 Not Found", Status::Critical),
        ("503 Service Unavailable", Status::Critical),
    ] {
        let (address, _server) = http_server(vec![answer(code, "", "hello")]).await;
        let url = format!("http://{address}/health");
        let verdict = verdict(http(url.clone())).await;
        assert_eq!(verdict, Verdict::new(status, format!("HTTP GET {url}: {code} Output: hello")));
    }
}

#[tokio::test]
async fn http_sends_what_the_check_says() {
    let (address, server) = http_server(vec![answer("200 OK", "", "")]).await;
    let probe = Probe::Http {
        url: format!("http://{address}/p?q=1"),
        method: "PUT".into(),
        headers: BTreeMap::from([
            ("X-Test".into(), vec!["a".into(), "b".into()]),
            ("Host".into(), vec!["web".into()]),
        ]),
        body: "ping".into(),
        disable_redirects: false,
        tls: ProbeTls::default(),
    };
    assert_eq!(verdict(probe).await.status, Status::Passing);
    let asked = server.await.unwrap().remove(0).to_ascii_lowercase();
    assert!(asked.starts_with("put /p?q=1 http/1.1\r\n"), "{asked}");
    for part in [
        "x-test: a\r\n",
        "x-test: b\r\n",
        "host: web\r\n",
        "user-agent: consul health check\r\n",
        "\r\n\r\nping",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
}

#[tokio::test]
async fn http_follows_redirects_unless_told_not_to() {
    let found = || answer("302 Found", "location: /there\r\n", "");
    let (address, server) = http_server(vec![found(), answer("200 OK", "", "there")]).await;
    assert_eq!(verdict(http(format!("http://{address}/"))).await.status, Status::Passing);
    assert!(server.await.unwrap()[1].starts_with("GET /there "));

    let (address, _server) = http_server(vec![found()]).await;
    let mut stays = http(format!("http://{address}/"));
    if let Probe::Http { disable_redirects, .. } = &mut stays {
        *disable_redirects = true;
    }
    assert_eq!(verdict(stays).await.status, Status::Critical);
}

#[tokio::test]
async fn http_keeps_no_more_of_a_body_than_asked() {
    let (address, _server) = http_server(vec![answer("200 OK", "", &"x".repeat(6000))]).await;
    let mut definition = definition("c", http(format!("http://{address}/")));
    definition.output_max_size = 100;
    let output = run(&definition, &tools()).await.output;
    assert_eq!(output.matches('x').count(), 100);
}

#[tokio::test]
async fn a_server_that_never_answers_is_critical_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut definition = definition("c", http(format!("http://{}/", listener.local_addr().unwrap())));
    definition.timeout = Duration::from_millis(50);
    let verdict = run(&definition, &tools()).await;
    assert_eq!(verdict, Verdict::critical("http check timed out after 50ms"));
}

#[tokio::test]
async fn tcp_passes_when_somebody_accepts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let probe = || Probe::Tcp { address: address.clone(), tls: None };
    assert_eq!(
        verdict(probe()).await,
        Verdict::new(Status::Passing, format!("TCP connect {address}: Success"))
    );
    drop(listener);
    assert_eq!(verdict(probe()).await, Verdict::critical(format!("dial tcp {address}: connection refused")));
}

#[tokio::test]
async fn udp_passes_unless_it_is_refused() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let answering = tokio::spawn(async move {
        let (_, from) = socket.recv_from(&mut [0; 16]).await.unwrap();
        socket.send_to(b"pong", from).await.unwrap();
    });
    assert_eq!(verdict(Probe::Udp { address: address.clone() }).await.status, Status::Passing);
    answering.await.unwrap();
    assert_eq!(verdict(Probe::Udp { address }).await.status, Status::Critical);
}

fn certificate(name: &str) -> (rcgen::CertifiedKey<rcgen::KeyPair>, tempfile::NamedTempFile) {
    let pair = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, pair.cert.pem().as_bytes()).unwrap();
    (pair, file)
}

#[tokio::test]
async fn tls_is_verified_unless_the_check_says_otherwise() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        tls_is_verified(version).await;
    }
}

async fn tls_is_verified(version: &'static rustls::SupportedProtocolVersion) {
    let (pair, roots) = certificate("web.test");
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let _server = Task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let trusting = Tools { tls: tls::Configs::new(Some(roots.path().into())), ..tools() };
    let (_, others) = certificate("other.test");
    let strange = Tools { tls: tls::Configs::new(Some(others.path().into())), ..tools() };
    for (tools, server_name, skip_verify, status) in [
        (&trusting, "web.test", false, Status::Passing),
        (&trusting, "other.test", false, Status::Critical),
        (&strange, "web.test", false, Status::Critical),
        (&strange, "web.test", true, Status::Passing),
        (&trusting, "", false, Status::Critical),
    ] {
        let tls = Some(ProbeTls { server_name: server_name.into(), skip_verify });
        let definition = definition("c", Probe::Tcp { address: address.clone(), tls });
        let verdict = run(&definition, tools).await;
        assert_eq!(verdict.status, status, "{server_name} {skip_verify}: {}", verdict.output);
    }
}

/// Speaks HTTP/2 and answers every call with this health status, or with this gRPC code.
async fn grpc_server(serving: u8, code: &'static str) -> (String, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = Task::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let head =
                ::http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            if code == "0" {
                stream.send_data(bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]), false).unwrap();
            }
            let trailers = ::http::HeaderMap::from_iter([(
                ::http::HeaderName::from_static("grpc-status"),
                ::http::HeaderValue::from_static(code),
            )]);
            stream.send_trailers(trailers).unwrap();
        }
    });
    (address, task)
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    for (serving, code, status) in [
        (1, "0", Status::Passing),
        (2, "0", Status::Critical),
        (1, "5", Status::Critical),
        (1, "12", Status::Critical),
    ] {
        let (address, _server) = grpc_server(serving, code).await;
        let verdict = verdict(Probe::Grpc { target: format!("{address}/web"), tls: None }).await;
        assert_eq!(verdict.status, status, "{}", verdict.output);
    }
    let (address, _server) = http_server(vec![answer("200 OK", "", "")]).await;
    let target = address.to_string();
    assert_eq!(verdict(Probe::Grpc { target, tls: None }).await.status, Status::Critical);
}

#[tokio::test]
async fn h2ping_needs_a_server_that_answers_pings() {
    let (address, _server) = grpc_server(1, "0").await;
    let passed = verdict(Probe::H2Ping { address, tls: None }).await;
    assert_eq!(passed, Verdict::new(Status::Passing, "HTTP2 ping was successful"));
    let (address, _server) = http_server(vec![answer("200 OK", "", "")]).await;
    let address = address.to_string();
    assert_eq!(verdict(Probe::H2Ping { address, tls: None }).await.status, Status::Critical);
}

fn shell(text: &str) -> Probe {
    Probe::Script { args: vec!["/bin/sh".into(), "-c".into(), text.into()] }
}

#[tokio::test]
async fn scripts_speak_by_their_exit_code() {
    for (code, status) in
        [(0, Status::Passing), (1, Status::Warning), (2, Status::Critical), (127, Status::Critical)]
    {
        let found = verdict(shell(&format!("echo out; echo err >&2; exit {code}"))).await;
        assert_eq!(found.status, status);
        assert!(found.output.contains("out") && found.output.contains("err"), "{}", found.output);
    }
    let missing = verdict(Probe::Script { args: vec!["/nonexistent/program".into()] }).await;
    assert_eq!(missing.status, Status::Critical);
}

#[tokio::test]
async fn much_output_is_read_to_its_end_and_its_end_is_kept() {
    let found = verdict(shell("head -c 300000 /dev/zero | tr '\\0' x; echo the end")).await;
    assert_eq!(found.status, Status::Passing);
    assert!(found.output.len() <= 4096 && found.output.ends_with("the end\n"), "{}", found.output.len());
    assert!(found.output.starts_with("Captured "), "{}", found.output);
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_all_it_started() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let mut definition = definition("c", shell(&format!("sleep 600 & echo $! > {path}; wait")));
    definition.timeout = Duration::from_millis(500);
    let found = run(&definition, &tools()).await;
    assert_eq!(found, Verdict::critical("script check timed out after 500ms"));
    let child: i32 = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    // It is killed at once, but whoever inherits it takes a moment to bury it.
    let is_dead = || match std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero())) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    timeout(Duration::from_secs(20), async {
        while !is_dead() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the script's child is still alive");
}

#[tokio::test]
async fn what_a_script_leaves_in_the_background_delays_nothing() {
    let mut definition = definition("c", shell("sleep 600 & echo done"));
    definition.timeout = Duration::from_secs(60);
    let found =
        timeout(Duration::from_secs(30), run(&definition, &tools())).await.expect("waits for the background");
    assert_eq!(found, Verdict::new(Status::Passing, "done\n"));
}

#[tokio::test]
async fn a_unit_is_asked_of_systemd() {
    let found = verdict(Probe::OsService { unit: "web.service".into() }).await;
    assert_eq!(found.status, Status::Critical, "no systemctl here: {}", found.output);
    let directory = tempfile::tempdir().unwrap();
    let systemctl = directory.path().join("systemctl");
    let text = "#!/bin/sh\n[ \"$6\" = web.service ] && printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\n'\n";
    std::fs::write(&systemctl, text).unwrap();
    std::fs::set_permissions(&systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let tools = Tools { systemctl, ..tools() };
    let found = run(&definition("c", Probe::OsService { unit: "web.service".into() }), &tools).await;
    assert_eq!(found, Verdict::new(Status::Passing, "unit web.service is active (running)"));
}

fn registry() -> Registry {
    Registry::open(crate::registry::Options {
        node: NodeName::new("n1").unwrap(),
        file: None,
        checks: CheckOptions { enable_script_checks: true, enable_local_script_checks: true },
        clock: Clock::system(),
    })
    .unwrap()
}

async fn until(registry: &Registry, id: &str, status: Status) {
    let id = CheckId::new(id).unwrap();
    let mut states = registry.watch();
    let reached =
        states.wait_for(|state| state.checks.get(&id).is_some_and(|local| local.check.status == status));
    timeout(Duration::from_secs(30), reached).await.expect("status not reached").unwrap();
}

#[tokio::test]
async fn checks_run_when_registered_and_stop_when_gone() {
    let registry = registry();
    let handle = Runner::start(registry.clone(), Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let definition = definition("tcp", Probe::Tcp { address, tls: None });
    registry.register_check(definition.clone(), Origin::Api).await.unwrap();
    until(&registry, "tcp", Status::Passing).await;
    drop(listener);
    until(&registry, "tcp", Status::Critical).await;
    registry.deregister_check(&definition.id).await.unwrap();
    assert!(!registry.set_status(&definition.id, Status::Passing, ""));
    handle.stop().await;
}

#[tokio::test]
async fn a_probe_that_hangs_holds_up_nobody() {
    let registry = registry();
    let _handle = Runner::start(registry.clone(), Options::default());
    let mut stuck = definition("stuck", shell("sleep 600"));
    stuck.timeout = Duration::from_secs(600);
    registry.register_check(stuck, Origin::Api).await.unwrap();
    registry.register_check(definition("ok", shell("exit 0")), Origin::Api).await.unwrap();
    until(&registry, "ok", Status::Passing).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_ttl_check_becomes_critical() {
    let registry = registry();
    let _handle = Runner::start(registry.clone(), Options::default());
    let ttl = definition("ttl", Probe::Ttl { ttl: Duration::from_secs(10) });
    registry.register_check(ttl.clone(), Origin::Api).await.unwrap();
    registry.report(&ttl.id, Status::Passing, "alive").unwrap();
    sleep(Duration::from_secs(9)).await;
    registry.report(&ttl.id, Status::Passing, "alive").unwrap();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(registry.local().checks[&ttl.id].check.status, Status::Passing);
    sleep(Duration::from_secs(2)).await;
    let check = registry.local().checks[&ttl.id].check.clone();
    assert_eq!(check.status, Status::Critical);
    assert_eq!(check.output, "TTL expired (last output before timeout follows): alive");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_critical_is_deregistered() {
    let registry = registry();
    let _handle = Runner::start(registry.clone(), Options::default());
    let ttl = CheckDefinition {
        deregister_critical_service_after: Some(Duration::from_secs(90)),
        ..definition("ttl", Probe::Ttl { ttl: Duration::from_secs(10) })
    };
    let instance = serde_json::from_value(serde_json::json!({"id": "w1", "name": "web"})).unwrap();
    let service = purlin_model::service::ServiceDefinition { instance, checks: vec![ttl.clone()] };
    registry.register(service, Origin::Api).await.unwrap();
    let is_here = || registry.local().services.contains_key(&InstanceId::new("w1").unwrap());
    sleep(Duration::from_secs(60)).await;
    registry.report(&ttl.id, Status::Passing, "").unwrap();
    sleep(Duration::from_secs(95)).await;
    assert!(is_here(), "it was critical for 85 s only");
    sleep(Duration::from_secs(10)).await;
    assert!(!is_here());
}

#[tokio::test]
async fn an_alias_follows_its_service() {
    let registry = registry();
    let _handle = Runner::start(registry.clone(), Options::default());
    let service = |id: &str, check: CheckDefinition| purlin_model::service::ServiceDefinition {
        instance: serde_json::from_value(serde_json::json!({"id": id, "name": id})).unwrap(),
        checks: vec![check],
    };
    let ttl = definition("ttl", Probe::Ttl { ttl: Duration::from_secs(600) });
    let alias =
        definition("alias", Probe::Alias { node: None, service: Some(InstanceId::new("db").unwrap()) });
    registry.register(service("web", alias), Origin::Api).await.unwrap();
    until(&registry, "alias", Status::Critical).await;
    registry.register(service("db", ttl.clone()), Origin::Api).await.unwrap();
    registry.report(&ttl.id, Status::Passing, "").unwrap();
    until(&registry, "alias", Status::Passing).await;
    registry.report(&ttl.id, Status::Warning, "").unwrap();
    until(&registry, "alias", Status::Warning).await;
}
