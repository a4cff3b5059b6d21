//! Services come and go: by files, by the command line, by the API; they outlive their agent, and a reload changes
//! what changed and nothing else.

use serde_json::{Value, json};

use super::ran::{Ran, has};
use crate::kit::wait::SOON;
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("services::files_of_three_kinds", files_of_three_kinds),
    ("services::the_command_line_registers_files", the_command_line_registers_files),
    ("services::registrations_outlive_the_agent", registrations_outlive_the_agent),
    ("services::a_reload_touches_what_changed", a_reload_touches_what_changed),
    ("services::a_bad_reload_changes_nothing", a_bad_reload_changes_nothing),
    ("services::a_file_wins_over_the_api", a_file_wins_over_the_api),
];

/// A host with a server whose configuration is in `conf.d` besides its own file.
fn one_host(lab: &Lab, files: &[(&str, &str)]) -> Agent {
    let host = lab.host(1);
    std::fs::create_dir_all(host.dir.join("conf.d")).expect("a directory");
    for (name, text) in files {
        host.write(&format!("conf.d/{name}"), text);
    }
    let agent = Agent::start(host, "server", "", &["--bootstrap", "--config", "conf.d"]);
    agent.await_ready();
    agent
}

/// Ids of this host, without the derived proxies.
fn try_ids(agent: &Agent) -> Result<Vec<String>, String> {
    let mine = agent.get("/v1/agent/services")?;
    let ids = mine.as_object().into_iter().flat_map(serde_json::Map::keys);
    Ok(ids.filter(|id| !id.ends_with("-sidecar-proxy")).cloned().collect())
}

#[track_caller]
fn ids(agent: &Agent) -> Vec<String> {
    try_ids(agent).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn await_ids(agent: &Agent, wanted: &[&str]) {
    until(&format!("the services are {wanted:?}"), SOON, || match try_ids(agent)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// The only instance of a service, as the catalog has it.
fn entry(agent: &Agent, service: &str) -> Result<Value, String> {
    let found = agent.get(&format!("/v1/catalog/service/{service}"))?;
    match found.as_array().map(Vec::as_slice) {
        Some([one]) => Ok(one.clone()),
        _ => Err(format!("{service}: {found}")),
    }
}

#[track_caller]
fn await_entry(agent: &Agent, service: &str, key: &str, wanted: &Value) -> Value {
    until(&format!("{service} has {key} = {wanted}"), SOON, || match entry(agent, service)? {
        found if found[key] == *wanted => Ok(found),
        found => Err(found.to_string()),
    })
}

#[track_caller]
fn await_gone(agent: &Agent, service: &str) {
    until(&format!("{service} is gone"), SOON, || {
        match agent.get(&format!("/v1/catalog/service/{service}"))? {
            found if found == json!([]) => Ok(()),
            found => Err(found.to_string()),
        }
    });
}

const SHORT: &str = r#"
[[service]]
name = "web"
port = 80
upstreams = [{ name = "api", local_bind_port = 9191 }]
"#;

/// After the examples in Consul's documentation of service definitions.
const REDIS: &str = r#"{
  "service": {
    "id": "redis", "name": "redis", "tags": ["primary"], "address": "", "meta": {"meta": "for my service"},
    "tagged_addresses": {"lan": {"address": "192.168.0.55", "port": 8000}, "wan": {"address": "198.18.0.23", "port": 80}},
    "port": 8000, "enable_tag_override": false,
    "checks": [{"ttl": "5m", "name": "redis is alive", "success_before_passing": 3, "failures_before_critical": 3}],
    "weights": {"passing": 5, "warning": 1}
  }
}"#;
const MANY: &str = r#"
services {
  id = "red0"
  name = "cache"
  tags = ["primary"]
  address = ""
  port = 6000
  checks = [{ tcp = "127.0.0.1:1", interval = "5s", timeout = "20s" }]
}
services {
  id = "red1"
  name = "delayed"
  tags = ["delayed", "secondary"]
  port = 7000
}
"#;
const COUNTING: &str = r#"
service {
  name = "dashboard"
  port = 9002

  connect {
    sidecar_service {
      proxy {
        upstreams = [
          {
            destination_name = "counting"
            local_bind_port  = 5000
          }
        ]
      }
    }
  }

  check {
    id       = "dashboard-check"
    http     = "http://localhost:9002/health"
    method   = "GET"
    interval = "1s"
    timeout  = "1s"
  }
}
"#;

fn files_of_three_kinds() {
    let lab = Lab::new(1);
    let files =
        [("a.toml", SHORT), ("b.json", REDIS), ("c.hcl", MANY), ("d.hcl", COUNTING), ("e.txt", "ignored")];
    let agent = one_host(&lab, &files);
    await_ids(&agent, &["dashboard", "red0", "red1", "redis", "web"]);

    let redis = await_entry(&agent, "redis", "ServicePort", &json!(8000));
    assert_eq!(redis["ServiceTags"], json!(["primary"]));
    assert_eq!(redis["ServiceMeta"], json!({"meta": "for my service"}));
    assert_eq!(redis["ServiceWeights"], json!({"Passing": 5, "Warning": 1}));
    assert_eq!(redis["ServiceTaggedAddresses"]["wan"], json!({"Address": "198.18.0.23", "Port": 80}));
    let delayed = await_entry(&agent, "delayed", "ServiceID", &json!("red1"));
    assert_eq!(delayed["ServiceTags"], json!(["delayed", "secondary"]));
    await_entry(&agent, "cache", "ServiceID", &json!("red0"));

    // The short form of upstreams and Consul's say the same, and put the service into the mesh.
    for (service, upstream, port) in [("web", "api", 9191), ("dashboard", "counting", 5000)] {
        let proxy =
            await_entry(&agent, &format!("{service}-sidecar-proxy"), "ServiceKind", &json!("connect-proxy"));
        let one = &proxy["ServiceProxy"]["Upstreams"][0];
        assert_eq!(
            (&one["DestinationName"], &one["LocalBindPort"]),
            (&json!(upstream), &json!(port)),
            "{proxy}"
        );
        assert_eq!(proxy["ServiceProxy"]["DestinationServiceID"], service);
        assert_eq!(proxy["ServicePort"], 20000);
    }
    let checks = agent.get("/v1/agent/checks").expect("checks");
    assert_eq!(
        (&checks["dashboard-check"]["Type"], &checks["dashboard-check"]["Interval"]),
        (&json!("http"), &json!("1s"))
    );
    assert_eq!(checks["service:redis"]["Name"], "redis is alive");
    assert_eq!(checks["service:red0"]["ServiceName"], "cache");
}

fn the_command_line_registers_files() {
    let lab = Lab::new(1);
    let agent = one_host(&lab, &[]);
    let host = lab.host(1);
    let purlin = |args: &[&str]| Ran::purlin(host, args);
    host.write("web.hcl", COUNTING);
    host.write("many.hcl", MANY);
    host.write("redis.json", REDIS);
    host.write("web.toml", SHORT);

    let said = purlin(&["services", "register", "web.hcl", "many.hcl", "redis.json", "web.toml"]).ok();
    assert_eq!(said.lines().count(), 5, "{said}");
    has(&said, &["Registered service: dashboard", "Registered service: redis", "Registered service: cache"]);
    // The answer comes when the catalog has it.
    assert_eq!(entry(&agent, "redis").map(|one| one["ServicePort"].clone()), Ok(json!(8000)));
    let flags = [
        "-name",
        "plain",
        "-id=plain-1",
        "-port=81",
        "-tag=v1",
        "-tag",
        "v2",
        "-meta=a=b",
        "-address=10.9.9.9",
    ];
    purlin(&[&["services", "register"], flags.as_slice()].concat()).ok();
    let plain = entry(&agent, "plain").expect("plain");
    assert_eq!((&plain["ServiceID"], &plain["ServiceTags"]), (&json!("plain-1"), &json!(["v1", "v2"])));
    assert_eq!((&plain["ServiceMeta"], &plain["ServiceAddress"]), (&json!({"a": "b"}), &json!("10.9.9.9")));

    // By the API, with the fields in Consul's case and in the other, and back.
    agent.register(&json!({"Name": "api", "ID": "api-1", "Port": 8080, "Tags": ["v1"], "Check": {"TTL": "1m", "Status": "passing"}}));
    agent.register(
        &json!({"name": "low", "port": 1, "enable_tag_override": true, "connect": {"sidecar_service": {}}}),
    );
    assert_eq!(entry(&agent, "low").map(|one| one["ServiceEnableTagOverride"].clone()), Ok(json!(true)));
    assert!(entry(&agent, "low-sidecar-proxy").is_ok());
    assert_eq!(agent.put("/v1/agent/service/deregister/api-1", ""), Ok((200, String::new())));
    assert_eq!(agent.get("/v1/health/checks/api"), Ok(json!([])));
    assert_eq!(agent.put("/v1/agent/service/deregister/api-1", "").map(|answer| answer.0), Ok(404));

    has(
        &purlin(&["services", "deregister", "redis.json", "many.hcl"]).ok(),
        &["Deregistered service: redis", "red0", "red1"],
    );
    purlin(&["services", "deregister", "-id", "plain-1"]).ok();
    assert_eq!(ids(&agent), ["dashboard", "low", "web"]);
    assert_eq!(agent.get("/v1/catalog/service/redis"), Ok(json!([])));

    // Nothing is registered unless every file is right, and all that is wrong is said.
    host.write(
        "bad.json",
        r#"{"service": {"name": "bad", "prot": 1, "port": 70000, "check": {"http": "x"}}}"#,
    );
    let ran = purlin(&["services", "register", "redis.json", "bad.json"]);
    assert_eq!(ran.code, Some(1));
    has(&ran.err, &["bad.json", "prot", "70000", "not a URL"]);
    assert!(
        ran.err.lines().count() >= 3 && ran.err.lines().all(|line| line.starts_with("purlin: ")),
        "{}",
        ran.err
    );
    assert_eq!(ids(&agent), ["dashboard", "low", "web"]);
    purlin(&["services", "register", "absent.hcl"]).fails(1, &["absent.hcl", "No such file"]);
    purlin(&["services", "deregister", "-id=nobody"]).fails(1, &["nobody"]);
    purlin(&["services", "register"]).was_misused(&["FILE"]);

    // A second upstream on a taken address and port names the holder.
    let taken = json!({"Name": "late", "Port": 1, "Connect": {"SidecarService": {"Proxy": {"Upstreams": [
        {"DestinationName": "db", "LocalBindPort": 9191}]}}}});
    let (status, text) = agent.put("/v1/agent/service/register", &taken.to_string()).expect("an answer");
    assert!((400..500).contains(&status), "{status} {text}");
    has(&text, &["127.0.0.1:9191", "upstream \"api\" of service \"web\""]);
    assert!(agent.get("/v1/agent/service/late").is_err());
}

fn registrations_outlive_the_agent() {
    let mut mesh = Mesh::start(2, "");
    let host = mesh.lab.host(2).clone();
    host.write("redis.json", REDIS);
    Ran::purlin(&host, &["services", "register", "redis.json"]).ok();
    mesh.on(2).register(
        &json!({"Name": "api", "Port": 1, "Tags": ["v1"], "Check": {"CheckID": "beat", "TTL": "10m"}}),
    );
    assert_eq!(mesh.on(2).put("/v1/agent/check/pass/beat?note=well", "").map(|answer| answer.0), Ok(200));
    mesh.on(1).await_healthy("api", 1);
    assert_eq!(
        mesh.on(2).put("/v1/agent/maintenance?enable=true&reason=disk", "").map(|answer| answer.0),
        Ok(200)
    );
    mesh.on(1).await_healthy("api", 0);
    let before = entry(mesh.on(1), "api").expect("api");

    // Killed and started again, with nobody registering anew and the server away for the while.
    mesh.on_mut(1).process.kill();
    mesh.on_mut(2).again();
    until("the agent has its services again", SOON, || match mesh.on(2).get("/v1/agent/services")? {
        found if found["api"]["Tags"] == json!(["v1"]) && found["redis"]["Port"] == 8000 => Ok(()),
        found => Err(found.to_string()),
    });
    let checks = mesh.on(2).get("/v1/agent/checks").expect("checks");
    assert_eq!((&checks["beat"]["Status"], &checks["beat"]["Output"]), (&json!("passing"), &json!("well")));
    assert_eq!(checks["_node_maintenance"]["Notes"], "disk");

    // Without a server a registration is taken and said to be so.
    let ran = Ran::purlin(&host, &["services", "register", "-name=late", "-port=2"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    has(&ran.out, &["Registered service: late"]);
    has(&ran.err, &["late", "catalog", "server"]);

    mesh.on_mut(1).again();
    mesh.on(1).await_ready();
    mesh.await_members(2);
    let after = await_entry(mesh.on(1), "api", "ServiceID", &json!("api"));
    assert_eq!(after["ModifyIndex"], before["ModifyIndex"], "api was written again");
    await_entry(mesh.on(1), "late", "ServicePort", &json!(2));
    assert_eq!(mesh.on(2).put("/v1/agent/maintenance?enable=false", "").map(|answer| answer.0), Ok(200));
    mesh.on(1).await_healthy("api", 1);

    // What was deregistered does not rise again.
    Ran::purlin(&host, &["services", "deregister", "redis.json"]).ok();
    mesh.on_mut(2).again();
    await_ids(mesh.on(2), &["api", "late"]);
    await_gone(mesh.on(1), "redis");
}

fn definition(name: &str, port: u16) -> String {
    format!("service {{\n  name = \"{name}\"\n  port = {port}\n  check {{ ttl = \"10m\" }}\n}}\n")
}

fn write(host: &Host, name: &str, port: u16) {
    host.write(&format!("conf.d/{name}.hcl"), &definition(name, port));
}

fn a_reload_touches_what_changed() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    std::fs::create_dir_all(host.dir.join("conf.d")).expect("a directory");
    for name in ["changes", "goes", "stays"] {
        write(host, name, 1);
    }
    let agent = one_host(&lab, &[]);
    agent.register(&json!({"Name": "by-api", "Port": 5}));
    await_ids(&agent, &["by-api", "changes", "goes", "stays"]);
    assert_eq!(agent.put("/v1/agent/check/pass/service:stays?note=fine", "").map(|answer| answer.0), Ok(200));
    agent.await_healthy("stays", 1);
    // Health with the check: neither instance nor check may be written again.
    let state = |name: &str| agent.get(&format!("/v1/health/service/{name}")).expect("an entry");
    let (stays, by_api) = (state("stays"), state("by-api"));

    // With SIGHUP.
    write(host, "changes", 2);
    write(host, "comes", 3);
    std::fs::remove_file(host.dir.join("conf.d/goes.hcl")).expect("a file to remove");
    agent.process.signal("HUP");
    await_entry(&agent, "changes", "ServicePort", &json!(2));
    await_entry(&agent, "comes", "ServicePort", &json!(3));
    await_gone(&agent, "goes");
    assert_eq!((state("stays"), state("by-api")), (stays.clone(), by_api.clone()), "touched by SIGHUP");

    // And with the command, which ends when it is done. The level of logs follows, too.
    write(host, "changes", 4);
    std::fs::remove_file(host.dir.join("conf.d/comes.hcl")).expect("a file to remove");
    host.write("conf.d/log.hcl", "log_level = \"debug\"\nrecursors = [\"10.77.0.9\"]\n");
    has(&Ran::purlin(host, &["reload"]).ok(), &["reload"]);
    assert_eq!(ids(&agent), ["by-api", "changes", "stays"]);
    await_entry(&agent, "changes", "ServicePort", &json!(4));
    await_gone(&agent, "comes");
    assert_eq!((state("stays"), state("by-api")), (stays, by_api), "touched by `purlin reload`");
    until("debug lines are in the log", SOON, || match agent.process.log().contains("DEBUG purlin") {
        true => Ok(()),
        false => Err(agent.process.log()),
    });
    // What only a restart changes is named.
    has(&agent.process.log(), &["recursors", "need a restart"]);
}

fn a_bad_reload_changes_nothing() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    std::fs::create_dir_all(host.dir.join("conf.d")).expect("a directory");
    write(host, "stays", 1);
    let agent = one_host(&lab, &[]);
    await_entry(&agent, "stays", "ServicePort", &json!(1));

    // One good change beside several wrong ones: refused whole, all reasons given.
    write(host, "stays", 2);
    host.write("conf.d/bad.hcl", "service {\n  name = \"x\"\n  prot = 1\n}\nlog_levle = \"debug\"\n");
    host.write("conf.d/worse.json", "{\"service\": ");
    let ran = Ran::purlin(host, &["reload"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    has(&ran.err, &["not reloaded", "bad.hcl", "prot", "\"port\"", "log_levle", "log_level", "worse.json"]);
    assert_eq!(agent.get("/v1/agent/services").map(|all| all["stays"]["Port"].clone()), Ok(json!(1)));
    agent.process.signal("HUP");
    until("the refusal is in the log", SOON, || {
        let log = agent.process.log();
        let line = log.lines().find(|line| line.contains("reload refused"));
        let found = line.filter(|line| line.contains("old configuration stays")).ok_or(log.clone())?;
        if found.contains("log_levle") { Ok(()) } else { Err(log) }
    });
    assert_eq!(ids(&agent), ["stays"]);
    assert_eq!(entry(&agent, "stays").map(|one| one["ServicePort"].clone()), Ok(json!(1)));

    // Mended, it is taken.
    host.write("conf.d/bad.hcl", "");
    std::fs::remove_file(host.dir.join("conf.d/worse.json")).expect("a file to remove");
    Ran::purlin(host, &["reload"]).ok();
    await_entry(&agent, "stays", "ServicePort", &json!(2));
}

fn a_file_wins_over_the_api() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    std::fs::create_dir_all(host.dir.join("conf.d")).expect("a directory");
    let agent = one_host(&lab, &[]);
    agent.register(&json!({"Name": "web", "Port": 7, "Check": {"TTL": "1m"}}));
    await_entry(&agent, "web", "ServicePort", &json!(7));

    // The file comes later and wins, and the log says so.
    host.write("conf.d/web.hcl", "service {\n  name = \"web\"\n  port = 8\n}\n");
    Ran::purlin(host, &["reload"]).ok();
    await_entry(&agent, "web", "ServicePort", &json!(8));
    let log = agent.process.log();
    let line = log.lines().find(|line| line.contains("not in force")).unwrap_or_else(|| panic!("{log}"));
    has(line, &["web", "API", "configuration file", "wins"]);
    assert_eq!(agent.get("/v1/agent/checks"), Ok(json!({})), "a check of what is not in force");

    // And it wins over one that comes after it; whoever registers hears it.
    let ran = Ran::purlin(host, &["services", "register", "-name=web", "-port=9"]);
    has(&ran.err, &["web", "configuration file", "wins"]);
    assert_eq!(entry(&agent, "web").map(|one| one["ServicePort"].clone()), Ok(json!(8)));

    // Without the file the other is in force.
    std::fs::remove_file(host.dir.join("conf.d/web.hcl")).expect("a file to remove");
    Ran::purlin(host, &["reload"]).ok();
    await_entry(&agent, "web", "ServicePort", &json!(9));
}
