//! Health checks of every kind against real targets: what they find is what every host's catalog and DNS say.

mod maintenance;
mod thresholds;

use std::time::Duration;

use serde_json::{Value, json};

use super::ran::has;
use crate::kit::apps::{await_open, meshed, nginx_with, python, redis, script};
use crate::kit::mesh::PURLIN;
use crate::kit::wait::SOON;
use crate::kit::{Agent, Host, Lab, Mesh, Process, until};

pub const STORIES: &[(&str, fn())] = &[
    ("health_checks::probes", probes),
    ("health_checks::reports", reports),
    ("health_checks::critical_for_long", critical_for_long),
    ("health_checks::thresholds", thresholds::thresholds),
    ("health_checks::maintenance", maintenance::felt),
];

/// Until every host's catalog and DNS say this of a check and of the service it belongs to, which has one instance and
/// no other check that is worse.
#[track_caller]
fn follows(mesh: &Mesh, service: &str, check: &str, status: &str, words: &[&str]) -> Value {
    let mut found = Value::Null;
    for agent in &mesh.agents {
        found = until(&format!("{check} is {status} on {}", agent.host.name), SOON, || {
            let listed = agent.get(&format!("/v1/health/checks/{service}"))?;
            let found = find(&listed, check).ok_or_else(|| format!("not listed: {listed}"))?;
            let output = found["Output"].as_str().unwrap_or_default();
            if found["Status"] != status || !words.iter().all(|word| output.contains(word)) {
                return Err(format!("{words:?} in {found}"));
            }
            let same = agent.get(&format!("/v1/health/state/{status}"))?;
            find(&same, check).ok_or_else(|| format!("not among the {status}: {same}"))?;
            is_offered(agent, service, status)?;
            Ok(found)
        });
    }
    found
}

fn find(listed: &Value, check: &str) -> Option<Value> {
    listed.as_array()?.iter().find(|one| one["CheckID"] == check).cloned()
}

/// Whether this host would send a client to the service, with that status of its worst check: a warning is no reason
/// not to, except where only passing ones are asked for.
fn is_offered(agent: &Agent, service: &str, status: &str) -> Result<(), String> {
    let passing = agent.get(&format!("/v1/health/service/{service}?passing"))?;
    let passing = passing.as_array().map_or(0, Vec::len);
    let name = format!("{service}.service.mesh.internal");
    let words = ["@127.0.0.1", "-p", "8600", "+short", "+tries=1", "+time=5", &name];
    let addresses = agent.host.try_run("dig", &words)?;
    let wanted = (usize::from(status == "passing"), usize::from(status != "critical"));
    if (passing, addresses.lines().count()) == wanted {
        return Ok(());
    }
    Err(format!("{status}, and {passing} of {service} are passing, DNS says {addresses:?}"))
}

/// Until every host offers the service as one of that status.
#[track_caller]
fn offered(mesh: &Mesh, service: &str, status: &str) {
    for agent in &mesh.agents {
        until(&format!("{service} as seen from {}", agent.host.name), SOON, || {
            is_offered(agent, service, status)
        });
    }
}

/// A check as the host that runs it has it.
fn own(agent: &Agent, check: &str) -> Result<Value, String> {
    Ok(agent.get("/v1/agent/checks")?[check].clone())
}

fn id(service: &str) -> String {
    format!("service:{service}")
}

/// A change that is accepted.
#[track_caller]
fn put(agent: &Agent, path: &str, body: &str) {
    let answer = agent.put(path, body);
    assert_eq!(answer.as_ref().map(|(status, _)| *status), Ok(200), "{path}: {answer:?}");
}

/// One that is refused with this status and these words.
#[track_caller]
fn refused(agent: &Agent, path: &str, body: &Value, wanted: u16, words: &[&str]) {
    let (status, text) = agent.put(path, &body.to_string()).expect("an answer");
    assert_eq!(status, wanted, "{path}: {text}");
    has(&text, words);
}

/// Passes only what comes as the check says; `slow` and `broken` are files.
const PAGE: &str = r#"
location /health {
  if ($http_x_story != "told") { return 400 "no header"; }
  if ($request_method != "PUT") { return 400 "$request_method"; }
  if ($http_user_agent != "Consul Health Check") { return 400 "$http_user_agent"; }
  if (-f DIR/broken) { return 500 "out of order"; }
  if (-f DIR/slow) { return 429 "too busy"; }
  return 200 "fine";
}
location /moved { return 307 /health; }
location /empty { return 204; }
"#;

/// Ends with the code in a file; where that is `hang`, not at all, and neither does what it started.
const SCRIPT: &str = r#"
cd "$(dirname "$0")"
code=$(cat code)
echo "the disk says $code"
[ "$code" != hang ] || { sleep 600 & echo $! >> hung; wait; }
exit "$code"
"#;

/// Stands in for systemd, which hosts of the lab do not have: `story.service` is in the state that a file says.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
  "show "*" story.service") echo LoadState=loaded; echo "ActiveState=$(cat unit)"; echo SubState=told ;;
  *) echo "unknown: $*" >&2; exit 4 ;;
esac
"#;

/// Services with a check each, probed every second.
fn probed() -> Vec<Value> {
    let header = json!({"X-Story": ["told"]});
    let page = "http://127.0.0.1:8080/moved";
    let checks = [
        ("page", json!({"HTTP": page, "Method": "PUT", "Header": header})),
        ("unmoved", json!({"HTTP": page, "Method": "PUT", "Header": header, "DisableRedirects": true})),
        ("empty", json!({"HTTP": "http://127.0.0.1:8080/empty"})),
        ("cache", json!({"TCP": "127.0.0.1:6379"})),
        ("all", json!({"GRPC": "127.0.0.1:50051"})),
        ("echo", json!({"GRPC": "127.0.0.1:50051/story"})),
        ("nobody", json!({"GRPC": "127.0.0.1:50051/nobody"})),
        ("two", json!({"H2PING": "127.0.0.1:8082", "H2PingUseTLS": false})),
        ("one", json!({"H2PING": "127.0.0.1:8080", "H2PingUseTLS": false})),
        ("tls", json!({"H2PING": "127.0.0.1:8082"})),
        ("old", json!({"HTTP": "https://127.0.0.1:8443/", "TLSSkipVerify": true})),
        ("unsigned", json!({"HTTP": "https://127.0.0.1:8443/"})),
        ("names", json!({"UDP": "127.0.0.1:8600"})),
        ("silent", json!({"UDP": "127.0.0.1:9"})),
        ("unit", json!({"OSService": "story.service"})),
    ];
    let definition = |(name, mut check): (&str, Value)| {
        check["Interval"] = "1s".into();
        json!({"Name": name, "Port": 1, "Check": check})
    };
    checks.map(definition).into()
}

/// A server, and on host 2 an agent whose configuration file has a service with a script.
fn mesh_with_script() -> Mesh {
    let lab = Lab::new(2);
    let host = lab.host(2);
    host.write("code", "0");
    let path = host.write("probe.sh", SCRIPT);
    let config = format!(
        "enable_local_script_checks = true\n[[service]]\nname = \"disk\"\nport = 1\n\
         check = {{ args = [\"sh\", {path:?}], interval = \"1s\", timeout = \"2s\" }}"
    );
    let mut mesh = Mesh { agents: vec![Agent::server(lab.host(1), "")], lab };
    mesh.join(2, &config);
    mesh.await_members(2);
    mesh
}

/// Starts the agent of host 2 again, on a host that has a `systemctl`.
fn restart_with_systemctl(mesh: &mut Mesh) {
    let host = mesh.lab.host(2).clone();
    host.write("unit", "active");
    let program = host.write("bin/systemctl", SYSTEMCTL);
    host.run("chmod", &["755", program.to_str().expect("a path in UTF-8")]);
    let agent = mesh.on_mut(2);
    agent.process.stop();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = host.command(PURLIN);
    command.args(["agent", "--config", "agent.toml"]);
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", host.dir.join("bin").display()));
    agent.process = Process::start(&host, "agent", command);
    agent.await_ready();
}

fn two(host: &Host) -> Process {
    nginx_with(host, "8082 http2", "location / { return 200 \"two\"; }")
}

/// nginx that knows nothing newer than TLS 1.2, with a certificate from no authority of the system.
fn old_tls(mesh: &Mesh) -> Process {
    let (agent, host) = (mesh.on(2), mesh.lab.host(2));
    agent.register(&meshed("own", 8099));
    let leaf = until("there is a certificate", SOON, || agent.get("/v1/agent/connect/ca/leaf/own"));
    for (file, key) in [("own.pem", "CertPEM"), ("own.key", "PrivateKeyPEM")] {
        host.write(file, leaf[key].as_str().expect("a text"));
    }
    let file = |name: &str| host.dir.join(name).display().to_string();
    let (certificate, key) = (file("own.pem"), file("own.key"));
    let more = format!(
        "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2;\n\
         location / {{ return 200 \"old\"; }}"
    );
    nginx_with(host, "8443 ssl", &more)
}

fn probes() {
    let mut mesh = mesh_with_script();
    let far = mesh.lab.host(2).clone();
    let _old = old_tls(&mesh);
    let _page = nginx_with(&far, "8080", &PAGE.replace("DIR", &far.dir.display().to_string()));
    let (mut cache, mut ping) = (redis(&far, 6379), two(&far));
    let echo = far.spawn("serving_app", &python(), &[&script("serving_app.py"), "50051"]);
    await_open(&far, "50051");
    for definition in probed() {
        mesh.on(2).register(&definition);
    }
    // What a check finds first is told at once, though it was critical before as well.
    follows(&mesh, "unit", &id("unit"), "critical", &["system"]);
    restart_with_systemctl(&mut mesh);

    let all = |table: &[(&str, &str, &[&str])]| {
        for (service, status, words) in table {
            follows(&mesh, service, &id(service), status, words);
        }
    };
    let well: [(&str, &str, &[&str]); 10] = [
        ("page", "passing", &["HTTP PUT http://127.0.0.1:8080/moved: 200 OK", "Output: fine"]),
        ("empty", "passing", &["204 No Content"]),
        ("cache", "passing", &["127.0.0.1:6379", "Success"]),
        ("all", "passing", &["127.0.0.1:50051", "success"]),
        ("echo", "passing", &["127.0.0.1:50051/story", "success"]),
        ("two", "passing", &["HTTP2 ping was successful"]),
        ("old", "passing", &["HTTP GET https://127.0.0.1:8443/: 200 OK", "Output: old"]),
        ("names", "passing", &["UDP connect 127.0.0.1:8600", "Success"]),
        ("disk", "passing", &["the disk says 0"]),
        ("unit", "passing", &["story.service is active (told)"]),
    ];
    all(&well);
    all(&[
        ("unmoved", "critical", &["307"]),
        ("nobody", "critical", &["rpc error: code 5"]),
        ("one", "critical", &["HTTP2 ping to 127.0.0.1:8080 failed"]),
        ("tls", "critical", &["HTTP2 ping to 127.0.0.1:8082 failed"]),
        ("unsigned", "critical", &["certificate"]),
        ("silent", "critical", &["UDP connect 127.0.0.1:9", "connection refused"]),
    ]);
    for (service, kind) in [("page", "http"), ("echo", "grpc"), ("disk", "script"), ("unit", "os_service")] {
        let check = own(mesh.on(2), &id(service)).expect("checks");
        assert_eq!((&check["Type"], &check["Interval"]), (&json!(kind), &json!("1s")), "{check}");
    }

    for (file, text) in [("slow", ""), ("code", "1"), ("unit", "activating")] {
        far.write(file, text);
    }
    all(&[
        ("page", "warning", &["429 Too Many Requests", "Output: too busy"]),
        ("disk", "warning", &["the disk says 1"]),
        ("unit", "warning", &["is activating"]),
    ]);

    for (file, text) in [("broken", ""), ("code", "2"), ("unit", "failed")] {
        far.write(file, text);
    }
    cache.kill();
    ping.kill();
    echo.signal("USR1");
    all(&[
        ("page", "critical", &["500 Internal Server Error", "Output: out of order"]),
        ("cache", "critical", &["127.0.0.1:6379", "connection refused"]),
        ("echo", "critical", &["127.0.0.1:50051/story", "NOT_SERVING"]),
        ("two", "critical", &["HTTP2 ping to 127.0.0.1:8082 failed", "connection refused"]),
        ("disk", "critical", &["the disk says 2"]),
        ("unit", "critical", &["is failed"]),
    ]);
    hangs(mesh.on(2));

    for (file, text) in [("code", "0"), ("unit", "active")] {
        far.write(file, text);
    }
    far.run("rm", &["slow", "broken"]);
    let _again = (redis(&far, 6379), two(&far));
    echo.signal("USR2");
    all(&well);
}

/// A service that is critical for as long as its check says is no more; a minute is the least, as in Consul.
fn critical_for_long() {
    let mut mesh = Mesh::start(2, "");
    let check = |port: u16, more: Value| {
        let mut check = json!({"TCP": format!("127.0.0.1:{port}"), "Interval": "1s"});
        check.as_object_mut().expect("a table").extend(more.as_object().cloned().unwrap_or_default());
        check
    };
    let after = json!({"DeregisterCriticalServiceAfter": "1m"});
    // The API of the agent is there, the port beside it is not.
    for (name, port, more) in [("gone", 9, &after), ("well", 8500, &after), ("ill", 9, &json!({}))] {
        mesh.on(2).register(&json!({"Name": name, "Port": 1, "Check": check(port, more.clone())}));
    }
    let services = |agent: &Agent| agent.get("/v1/catalog/services");
    until("the catalog has all three", SOON, || {
        let found = services(mesh.on(1))?;
        if found.as_object().map(serde_json::Map::len) == Some(3) { Ok(()) } else { Err(found.to_string()) }
    });
    until("what was critical for a minute is gone", Duration::from_secs(180), || {
        let found = services(mesh.on(1))?;
        if found.get("gone").is_none() { Ok(()) } else { Err(found.to_string()) }
    });
    assert_eq!(services(mesh.on(1)), Ok(json!({"ill": [], "well": []})));
    // Nor does it come back with its agent.
    mesh.on_mut(2).again();
    mesh.on(2).await_ready();
    let own = mesh.on(2).get("/v1/agent/services").expect("services");
    assert_eq!(
        own.as_object().map(|own| own.keys().cloned().collect()),
        Some(vec!["ill".to_owned(), "well".to_owned()])
    );
}

/// A script that does not end is ended, with all that it started.
fn hangs(agent: &Agent) {
    agent.host.write("code", "hang");
    until("the script is out of time", SOON, || match own(agent, &id("disk"))? {
        check if check["Output"] == "script check timed out after 2s" => Ok(()),
        check => Err(check.to_string()),
    });
    let hung = std::fs::read_to_string(agent.host.dir.join("hung")).expect("the script had begun");
    let pids: Vec<&str> = hung.split_whitespace().collect();
    until("what it started is gone", SOON, || {
        let left =
            |pid: &&&str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        pids.iter().find(left).map_or(Ok(()), |pid| Err(format!("{pid} goes on")))
    });
}

fn reports() {
    let mesh = Mesh::start(2, "");
    let agent = mesh.on(2);
    let definition = r#"service {
        name = "api"
        port = 8080
        check { id = "alive" name = "api is alive" ttl = "1h" notes = "it reports" }
    }"#;
    agent.host.write("api.hcl", definition);
    agent.purlin(&["services", "register", "api.hcl"]);
    let silent = follows(&mesh, "api", "alive", "critical", &[]);
    assert_eq!((&silent["Name"], &silent["Notes"]), (&json!("api is alive"), &json!("it reports")));

    // Others stand and fall with it, on its host and on another.
    agent.register(&json!({"Name": "front", "Port": 1, "Check": {"AliasService": "api"}}));
    let far = json!({"Name": "far", "Port": 1, "Check": {"AliasNode": "h2", "AliasService": "api"}});
    mesh.on(1).register(&far);
    for (verb, status) in
        [("pass", "passing"), ("warn", "warning"), ("fail", "critical"), ("pass", "passing")]
    {
        put(agent, &format!("/v1/agent/check/{verb}/alive?note=I%20{verb}"), "");
        follows(&mesh, "api", "alive", status, &[&format!("I {verb}")]);
        let why =
            if status == "passing" { "All checks passing".into() } else { format!("failing: I {verb}") };
        for service in ["front", "far"] {
            follows(&mesh, service, &id(service), status, &[&why]);
        }
    }
    let update = json!({"Status": "warning", "Output": "as updated"}).to_string();
    put(agent, "/v1/agent/check/update/alive", &update);
    follows(&mesh, "api", "alive", "warning", &["as updated"]);
    put(agent, "/v1/agent/check/pass/alive", "");
    follows(&mesh, "api", "alive", "passing", &[]);

    let nothing = Value::Null;
    refused(agent, "/v1/agent/check/pass/dead", &nothing, 404, &["unknown check id", "dead"]);
    refused(agent, "/v1/agent/check/pass/service:front", &nothing, 404, &["service:front", "ttl"]);
    let update = json!({"Status": "splendid"});
    refused(agent, "/v1/agent/check/update/alive", &update, 400, &["splendid"]);

    silence(&mesh);
    more_checks(&mesh);
    maintenance::said(&mesh);
    scripts_are_off(agent);

    // A service takes its checks along.
    agent.purlin(&["services", "deregister", "-id=api"]);
    offered(&mesh, "api", "critical");
    assert_eq!(mesh.on(1).get("/v1/health/checks/api"), Ok(json!([])));
    follows(&mesh, "far", &id("far"), "critical", &["Service api could not be found on node h2"]);
}

/// One that reports for a while and then no more.
fn silence(mesh: &Mesh) {
    let agent = mesh.on(2);
    agent.register(&json!({"Name": "pulse", "Port": 1, "Check": {"TTL": "2s"}}));
    for _ in 0..2 {
        until("it reports and is offered", SOON, || {
            put(agent, "/v1/agent/check/pass/service:pulse?note=beat", "");
            is_offered(mesh.on(1), "pulse", "passing")
        });
        let words = ["TTL expired", "last output before timeout follows", "beat"];
        follows(mesh, "pulse", &id("pulse"), "critical", &words);
    }
}

/// Checks that are registered by themselves, for a service and for the host.
fn more_checks(mesh: &Mesh) {
    let agent = mesh.on(2);
    let register = |check: &Value| put(agent, "/v1/agent/check/register", &check.to_string());
    register(&json!({"ID": "more", "Name": "more", "ServiceID": "api", "TTL": "1h", "Status": "passing"}));
    let more = follows(mesh, "api", "more", "passing", &[]);
    assert_eq!((&more["ServiceName"], &more["Node"]), (&json!("api"), &json!("h2")));
    put(agent, "/v1/agent/check/fail/more?note=no%20more", "");
    follows(mesh, "api", "more", "critical", &["no more"]);
    // The worst of them counts.
    let checks = mesh.on(1).get("/v1/health/checks/api").expect("checks");
    assert_eq!(find(&checks, "alive").map(|check| check["Status"].clone()), Some(json!("passing")));
    put(agent, "/v1/agent/check/deregister/more", "");
    follows(mesh, "api", "alive", "passing", &[]);
    for agent in &mesh.agents {
        let checks = agent.get("/v1/health/checks/api").expect("checks");
        assert_eq!(checks.as_array().map(Vec::len), Some(1), "{checks}");
    }

    // One of the host that stands for a service of it.
    register(&json!({"ID": "alias", "Name": "alias", "AliasService": "api"}));
    for (verb, status) in [("fail", "critical"), ("pass", "passing")] {
        put(agent, &format!("/v1/agent/check/{verb}/alive"), "");
        until(&format!("the alias is {status}"), SOON, || match own(agent, "alias")? {
            check if check["Status"] == status => Ok(()),
            check => Err(check.to_string()),
        });
    }
    put(agent, "/v1/agent/check/deregister/alias", "");
    follows(mesh, "api", "alive", "passing", &[]);

    let both = json!({"Name": "both", "TTL": "1h", "TCP": "127.0.0.1:1"});
    refused(agent, "/v1/agent/check/register", &both, 400, &["both", "several kinds"]);
    let stray = json!({"Name": "stray", "ServiceID": "nobody", "TTL": "1h"});
    refused(agent, "/v1/agent/check/register", &stray, 400, &["nobody", "does not exist"]);
    refused(agent, "/v1/agent/check/deregister/stray", &Value::Null, 404, &["stray"]);

    // That of a host counts for all that runs there.
    register(&json!({"ID": "heat", "Name": "heat", "TTL": "1h", "Status": "critical"}));
    for service in ["api", "front", "far"] {
        offered(mesh, service, "critical");
    }
    let node = mesh.on(1).get("/v1/health/node/h2").expect("checks");
    assert_eq!(find(&node, "heat").map(|check| check["Status"].clone()), Some(json!("critical")), "{node}");
    put(agent, "/v1/agent/check/deregister/heat", "");
    for service in ["api", "front", "far"] {
        offered(mesh, service, "passing");
    }
}

/// Nobody gets a program run here by registering a check.
fn scripts_are_off(agent: &Agent) {
    let check = json!({"ID": "run", "Name": "run", "Args": ["touch", "ran"], "Interval": "1s"});
    let words = ["run", "scripts are disabled", "enable_script_checks = true"];
    refused(agent, "/v1/agent/check/register", &check, 400, &words);
    let service = json!({"Name": "runner", "Port": 1, "Check": check});
    refused(agent, "/v1/agent/service/register", &service, 400, &words);
    assert_eq!(agent.get("/v1/agent/services").expect("services").get("runner"), None);

    // Nor by a file, where that is not said either.
    let file = agent.host.dir.join("agent.toml");
    let before = std::fs::read_to_string(&file).expect("its configuration");
    let added = "[[check]]\nid = \"run\"\nname = \"run\"\nargs = [\"touch\", \"ran\"]\ninterval = \"1s\"\n";
    agent.host.write("agent.toml", &format!("{before}\n{added}"));
    let refusal = agent.try_purlin(&["reload"]).expect_err("refused");
    has(&refusal, &["agent.toml", "run", "script checks are off", "enable_local_script_checks = true"]);
    agent.host.write("agent.toml", &before);
    agent.purlin(&["reload"]);
    assert_eq!(own(agent, "run"), Ok(Value::Null));
}
