//! Health: every kind of check against what it looks at, and what follows for those who ask.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::apps::{await_open, client, meshed, nginx, nginx_with, python, script};
use crate::kit::mesh::await_status;
use crate::kit::net::{App, read_head};
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] =
    &[("checks::kinds", kinds), ("checks::consequences", consequences), ("checks::maintenance", maintenance)];

/// Until the agent's own check has this status; what it says.
#[track_caller]
fn becomes(agent: &Agent, check: &str, status: &str) -> String {
    until(&format!("{check} is {status}"), LONG, || {
        let one = agent.get("/v1/agent/checks")?[check].clone();
        if one["Status"] == status {
            Ok(one["Output"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(one.to_string())
        }
    })
}

/// An application whose answers to health checks are set from outside.
fn moody(host: &Host, address: &str) -> (App, Arc<AtomicU16>) {
    let mood = Arc::new(AtomicU16::new(200));
    let shared = mood.clone();
    let app = App::start(host, address, move |mut stream| {
        let head = read_head(&mut stream);
        let status = shared.load(Ordering::Relaxed);
        let asked = head.contains("post /health") && head.contains("x-asked-by: purlin");
        let body = if asked { "as asked" } else { "not as asked" };
        let text = format!("HTTP/1.1 {status} Mood\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(text.as_bytes());
    });
    (app, mood)
}

fn register_check(agent: &Agent, id: &str, fields: &Value) -> (u16, String) {
    let mut check = json!({"ID": id, "Name": id, "Interval": "1s", "Timeout": "5s"});
    for (key, value) in fields.as_object().expect("fields") {
        check[key] = value.clone();
    }
    if fields.get("TTL").is_some() || fields.get("AliasService").is_some() {
        check.as_object_mut().expect("a check").retain(|key, _| key != "Interval" && key != "Timeout");
    }
    agent.put("/v1/agent/check/register", &check.to_string()).expect("an answer")
}

#[track_caller]
fn check(agent: &Agent, id: &str, fields: &Value) {
    let (status, body) = register_check(agent, id, fields);
    assert_eq!(status, 200, "{id}: {body}");
}

fn kinds() {
    let lab = Lab::new(2);
    let mut mesh = Mesh { agents: vec![Agent::server(lab.host(1), "")], lab };
    mesh.join(2, "enable_script_checks = true");
    let host = mesh.lab.host(2).clone();
    let agent = mesh.on(2);

    let (_moody, mood) = moody(&host, "127.0.0.1:8080");
    let header = json!({"X-Asked-By": ["purlin"]});
    check(
        agent,
        "http",
        &json!({"HTTP": "http://127.0.0.1:8080/health", "Method": "POST", "Header": header}),
    );
    let said = becomes(agent, "http", "passing");
    assert!(said.contains("200") && said.ends_with("as asked") && !said.contains("not"), "{said}");
    for (status, wanted) in [(429, "warning"), (500, "critical"), (204, "passing"), (302, "critical")] {
        mood.store(status, Ordering::Relaxed);
        becomes(agent, "http", wanted);
    }

    let door = App::start(&host, "127.0.0.1:7000", |_| ());
    check(agent, "tcp", &json!({"TCP": "127.0.0.1:7000"}));
    becomes(agent, "tcp", "passing");
    drop(door);
    let said = becomes(agent, "tcp", "critical");
    assert!(said.contains("7000") && said.contains("refused"), "{said}");

    let _health = host.spawn("health_app", &python(), &[&script("health_app.py"), "50051"]);
    await_open(&host, "50051");
    for (service, wanted) in
        [("", "passing"), ("/well", "passing"), ("/ill", "critical"), ("/other", "critical")]
    {
        let id = format!("grpc{service}");
        check(agent, &id, &json!({"GRPC": format!("127.0.0.1:50051{service}")}));
        becomes(agent, &id, wanted);
    }

    let _nginx = nginx_with(&host, "8443 http2", "location / { return 200; }");
    check(agent, "h2ping", &json!({"H2PING": "127.0.0.1:8443", "H2PingUseTLS": false}));
    becomes(agent, "h2ping", "passing");
    check(agent, "h2ping-1", &json!({"H2PING": "127.0.0.1:8080", "H2PingUseTLS": false}));
    becomes(agent, "h2ping-1", "critical");

    // Nothing of the kind runs here, with or without a systemd.
    check(agent, "unit", &json!({"OSService": "no-such-unit-of-purlin.service"}));
    becomes(agent, "unit", "critical");

    scripts(&mesh);
    reports(&mesh);
}

fn scripts(mesh: &Mesh) {
    let agent = mesh.on(2);
    for (code, wanted) in [(0, "passing"), (1, "warning"), (2, "critical")] {
        let id = format!("script-{code}");
        check(agent, &id, &json!({"Args": ["sh", "-c", format!("echo all about {code}; exit {code}")]}));
        // Critical is what it is before it ran, too.
        until("the script has run", SOON, || match becomes(agent, &id, wanted) {
            said if said.contains(&format!("all about {code}")) => Ok(()),
            said => Err(said),
        });
    }
    check(agent, "script-slow", &json!({"Args": ["sleep", "600"], "Timeout": "1s"}));
    until("a slow script is ended", LONG, || {
        let one = agent.get("/v1/agent/checks")?["script-slow"].clone();
        let output = one["Output"].as_str().unwrap_or_default().to_lowercase();
        if one["Status"] == "critical" && output.contains("time") { Ok(()) } else { Err(one.to_string()) }
    });
    // Where nobody said that scripts may run, none does.
    let (status, body) = register_check(mesh.on(1), "script", &json!({"Args": ["true"]}));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("enable_script_checks"), "{body}");
}

/// What applications say themselves, and what stands for something else.
fn reports(mesh: &Mesh) {
    let agent = mesh.on(1);
    check(agent, "ttl", &json!({"TTL": "2s"}));
    becomes(agent, "ttl", "critical");
    for (path, wanted) in [("pass", "passing"), ("warn", "warning")] {
        let answer = agent.put(&format!("/v1/agent/check/{path}/ttl?note=from+the+application"), "");
        assert_eq!(answer.expect("an answer").0, 200);
        assert_eq!(becomes(agent, "ttl", wanted), "from the application");
    }
    let said = becomes(agent, "ttl", "critical");
    assert!(said.to_lowercase().contains("ttl"), "{said}");

    // An alias stands for the service and the host it is on: what is wrong with the host counts.
    agent.put("/v1/agent/check/deregister/ttl", "").expect("an answer");
    assert_eq!(agent.get("/v1/agent/checks").expect("checks").get("ttl"), None);

    let mut api =
        json!({"Name": "api", "Port": 80, "Check": {"CheckID": "api-ttl", "TTL": "1h", "Status": "passing"}});
    agent.register(&api);
    check(agent, "alias", &json!({"AliasService": "api"}));
    becomes(agent, "alias", "passing");
    agent.put("/v1/agent/check/fail/api-ttl", "").expect("an answer");
    becomes(agent, "alias", "critical");
    agent.put("/v1/agent/check/pass/api-ttl", "").expect("an answer");
    becomes(agent, "alias", "passing");

    // All of it is in the catalog, where others see it.
    for (node, check, status) in
        [("h2", "grpc/ill", "critical"), ("h2", "script-1", "warning"), ("h1", "alias", "passing")]
    {
        for host in [1, 2] {
            until(&format!("{check} is known on host {host}"), SOON, || {
                let checks = mesh.on(host).get(&format!("/v1/health/node/{node}"))?;
                let found = checks.as_array().into_iter().flatten().find(|one| one["CheckID"] == check);
                if found.is_some_and(|one| one["Status"] == status) {
                    Ok(())
                } else {
                    Err(checks.to_string())
                }
            });
        }
    }
    // Two kinds in one, and none, are refused.
    api["Check"] = json!({"TTL": "1h", "TCP": "127.0.0.1:1"});
    let (status, body) = agent.put("/v1/agent/service/register", &api.to_string()).expect("an answer");
    assert_eq!(status, 400, "{body}");
}

fn consequences() {
    let mesh = Mesh::start(2, "");
    let (far, web) = (mesh.lab.host(1), mesh.lab.host(2));
    // How many more times it fails before it is well again; forever below 0.
    let failures = Arc::new(AtomicI32::new(0));
    let left = failures.clone();
    let _app = App::start(far, "127.0.0.1:8080", move |mut stream| {
        let is_check = read_head(&mut stream).starts_with("get /health");
        let fails = is_check && left.load(Ordering::Relaxed) != 0;
        if fails && left.load(Ordering::Relaxed) > 0 {
            left.fetch_sub(1, Ordering::Relaxed);
        }
        let status = if fails { 500 } else { 200 };
        let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
    });
    let mut api = meshed("api", 8080);
    api["Check"] = json!({
        "CheckID": "health", "HTTP": "http://127.0.0.1:8080/health", "Interval": "1s",
        "SuccessBeforePassing": 2, "FailuresBeforeWarning": 2, "FailuresBeforeCritical": 3,
    });
    mesh.on(1).register(&api);
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    await_status(web, 9191, 200, SOON);

    // Twice is a warning, and with that it is still found and called.
    failures.store(2, Ordering::Relaxed);
    until("a warning, and never more", SOON, || match status_of(mesh.on(1)).as_str() {
        "warning" => Ok(()),
        "critical" => panic!("critical after two failures of three"),
        other => Err(other.to_owned()),
    });
    assert_eq!(dig(web), "10.77.0.1");
    assert_eq!(crate::kit::mesh::call(web, 9191).map(|(status, _)| status), Ok(200));
    until("well again, and never critical", SOON, || match status_of(mesh.on(1)).as_str() {
        "passing" => Ok(()),
        "critical" => panic!("critical after two failures of three"),
        other => Err(other.to_owned()),
    });

    // For good: it is no longer found, and callers are told why.
    failures.store(-1, Ordering::Relaxed);
    becomes(mesh.on(1), "health", "critical");
    let body = await_status(web, 9191, 503, SOON);
    assert!(body.contains("api") && body.contains("healthy"), "{body}");
    until("DNS has it no more", SOON, || match dig(web) {
        none if none.is_empty() => Ok(()),
        found => Err(found),
    });
    failures.store(0, Ordering::Relaxed);
    await_status(web, 9191, 200, SOON);
    assert_eq!(dig(web), "10.77.0.1");
}

fn status_of(agent: &Agent) -> String {
    let checks = agent.get("/v1/agent/checks").expect("checks");
    checks["health"]["Status"].as_str().unwrap_or_default().to_owned()
}

fn dig(host: &Host) -> String {
    host.run(
        "dig",
        &["@127.0.0.1", "-p", "8600", "+time=3", "+tries=1", "+short", "api.service.mesh.internal"],
    )
}

fn maintenance() {
    let mut mesh = Mesh::start(3, "");
    let web = mesh.lab.host(3).clone();
    let _apps = [nginx(mesh.lab.host(1), 8080, "one"), nginx(mesh.lab.host(2), 8080, "two")];
    for host in [1, 2] {
        mesh.on(host).register(&meshed("api", 8080));
    }
    mesh.on(3).register(&client("web", &[("api", 9191)]));
    mesh.on(3).purlin(&["intention", "create", "web", "api"]);
    mesh.on(3).await_healthy("api", 2);
    await_status(&web, 9191, 200, SOON);

    mesh.on(1).purlin(&["maint", "-enable", "-service=api", "-reason=new disk"]);
    mesh.on(3).await_healthy("api", 1);
    only(&web, "two");
    let checks = mesh.on(3).get("/v1/health/checks/api").expect("checks");
    let note =
        checks.as_array().into_iter().flatten().find(|one| one["CheckID"] == "_service_maintenance:api");
    assert_eq!(
        note.map(|one| (&one["Status"], &one["Notes"])),
        Some((&json!("critical"), &json!("new disk")))
    );

    mesh.on(1).purlin(&["maint", "-disable", "-service=api"]);
    mesh.on(3).await_healthy("api", 2);
    // A whole host, by the API; it stays so when its agent starts anew.
    let answer = mesh.on(2).put("/v1/agent/maintenance?enable=true&reason=move", "").expect("an answer");
    assert_eq!(answer.0, 200, "{answer:?}");
    mesh.on(3).await_healthy("api", 1);
    only(&web, "one");
    mesh.on_mut(2).again();
    mesh.on(2).await_ready();
    until("the check is there after a start", SOON, || {
        let checks = mesh.on(2).get("/v1/agent/checks")?;
        if checks["_node_maintenance"]["Status"] == "critical" { Ok(()) } else { Err(checks.to_string()) }
    });
    only(&web, "one");
    mesh.on(2).purlin(&["maint", "-disable"]);
    mesh.on(3).await_healthy("api", 2);
}

/// All requests are answered by this one, once the word got around.
#[track_caller]
fn only(web: &Host, wanted: &str) {
    until(&format!("only {wanted} answers"), Duration::from_secs(3), || {
        for _ in 0..8 {
            match crate::kit::mesh::call(web, 9191)? {
                (200, body) if body.trim() == wanted => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    });
}
