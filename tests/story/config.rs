//! Configuration files: what is accepted, what is warned of, what is refused, and that all of it is said at once.

use serde_json::{Value, json};

use super::ran::{Ran, has};
use crate::kit::mesh::PURLIN;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, until};

pub const STORIES: &[(&str, fn())] = &[
    ("config::validate_says_all_that_is_wrong", validate_says_all_that_is_wrong),
    ("config::three_classes_of_keys", three_classes_of_keys),
    ("config::plaintext_stays_on_loopback", plaintext_stays_on_loopback),
    ("config::a_consul_agents_file_starts_a_server", a_consul_agents_file_starts_a_server),
    ("config::default_ports_and_others", default_ports_and_others),
    ("config::files_are_laid_over_each_other", files_are_laid_over_each_other),
];

fn validate(host: &Host, name: &str, text: &str) -> Ran {
    host.write(name, text);
    Ran::purlin(host, &["validate", name])
}

/// It is refused, each line is an error of its own, and each list of words is in one line of its own.
#[track_caller]
fn refuses(ran: &Ran, lines: &[&[&str]]) {
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    let said: Vec<&str> = ran.err.lines().filter(|line| !line.contains("warning:")).collect();
    assert_eq!(said.len(), lines.len(), "{} lines were expected: {}", lines.len(), ran.err);
    assert!(said.iter().all(|line| line.starts_with("purlin: ")), "{}", ran.err);
    for words in lines {
        let found = said.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}: {}", ran.err);
    }
}

fn validate_says_all_that_is_wrong() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let good = "node_name = \"a\"\nservice { name = \"web\" port = 80 }\n";
    has(&validate(host, "good.hcl", good).ok(), &["valid"]);
    assert_eq!(Ran::purlin(host, &["validate", "-quiet", "good.hcl"]).ok(), "");

    let ran = validate(
        host,
        "bad.toml",
        r#"
node_name = "not a name"
datacenter = 7
bind_addr = "10.0.0.300"
log_level = "loud"
ports = { http = 99999, dns = 8600 }
default_intention_policy = "maybe"
join_timeout = "soon"

[[service]]
name = "web"
port = 80
check = { http = "http://127.0.0.1/", interval = "often" }

[[service]]
name = "web"
port = "http"

[[check]]
name = "script"
args = ["/bin/true"]
interval = "5s"
"#,
    );
    refuses(
        &ran,
        &[
            &["bad.toml:2", "node_name", "not a name"],
            &["bad.toml:3", "datacenter"],
            &["bad.toml:4", "bind_addr", "10.0.0.300"],
            &["bad.toml:5", "log_level", "loud"],
            &["bad.toml", "ports.http", "99999"],
            &["bad.toml:7", "default_intention_policy", "maybe"],
            &["bad.toml:8", "join_timeout", "soon"],
            &["service \"web\"", "interval", "often"],
            &["service \"web\"", "port", "text"],
            &["service \"web\"", "its id is taken"],
            &["check \"script\"", "enable_local_script_checks"],
        ],
    );

    // What cannot be read is named by place, in each of the three forms.
    for (name, text, place) in [
        ("x.hcl", "service {\n  name = \"web\"\n  port = }\n", "line 3"),
        ("x.json", "{\n  \"service\": {\n    \"name\": web\n  }\n}\n", "line 3"),
        ("x.toml", "[service]\nname = \"web\"\nport = \n", "line 3"),
        ("x.yaml", "service: {}\n", ".hcl, .json or .toml"),
    ] {
        validate(host, name, text).fails(1, &[name, place]);
    }
    Ran::purlin(host, &["validate", "absent.hcl"]).fails(1, &["absent.hcl", "No such file"]);
    Ran::purlin(host, &["validate"]).was_misused(&["FILE"]);

    // What the file of one service says is taken as `purlin services register` takes it.
    let bare =
        "{\"Name\": \"web\", \"Port\": 80, \"Check\": {\"TCP\": \"127.0.0.1:80\", \"Interval\": \"5s\"}}";
    has(&validate(host, "bare.json", bare).ok(), &["valid"]);
    validate(host, "bare.hcl", "name = \"web\"\nprot = 80\nport = \"x\"\n");
    let ran = Ran::purlin(host, &["validate", "bare.json", "bare.hcl", "good.hcl"]);
    refuses(&ran, &[&["bare.hcl:2", "prot", "\"port\""], &["bare.hcl:3", "port", "number"]]);
    let proxy = "kind = \"connect-proxy\"\nname = \"web-sidecar-proxy\"\n";
    validate(host, "proxy.hcl", proxy).fails(1, &["proxy.hcl", "\"connect\" block"]);

    // Warnings are not kept back by errors.
    let ran = validate(host, "both.hcl", "server = true\ndata_dri = \"/x\"\n");
    refuses(&ran, &[&["both.hcl:2", "data_dri"]]);
    has(&ran.err, &["purlin: warning: both.hcl:1: server: has no effect here"]);

    // Config entries are judged as well.
    let entry = "kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"http\"\n";
    validate(host, "entry.hcl", entry).ok();
    let wrong = "{\"Kind\": \"service-defaults\", \"Name\": \"api\", \"Protocl\": \"http\"}";
    validate(host, "entry.json", wrong).fails(1, &["entry.json", "Protocl", "protocol"]);
}

fn three_classes_of_keys() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let unknown = "retry_jion = [\"x\"]\ndata_dri = \"/x\"\nports { htttp = 1 }\nconnect { ca_confg {} }\n";
    refuses(
        &validate(host, "unknown.hcl", unknown),
        &[
            &["retry_jion", "unknown key", "\"retry_join\""],
            &["data_dri", "unknown key", "\"data_dir\""],
            &["htttp", "unknown key", "\"http\""],
            &["ca_confg", "unknown key", "\"ca_config\""],
        ],
    );

    let foreign = r#"
server = true
bootstrap_expect = 3
encrypt = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
retry_join = ["10.0.0.1"]
ui_config { enabled = true }
telemetry { prometheus_retention_time = "60s" }
ports { grpc = 8502 serf_lan = 8301 serf_wan = 8302 }
"#;
    let ran = validate(host, "foreign.hcl", foreign);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let instead = [
        ("server", "`purlin server`"),
        ("bootstrap_expect", "purlin server --bootstrap"),
        ("encrypt", "mutual TLS"),
        ("retry_join", "purlin join-token create"),
        ("ui_config", "no UI"),
        ("telemetry", "/v1/agent/metrics?format=prometheus"),
        ("ports.grpc", "no Envoy"),
        ("ports.serf_wan", "no gossip"),
    ];
    assert_eq!(ran.err.lines().count(), instead.len(), "{}", ran.err);
    for (key, words) in instead {
        let found = ran.err.lines().find(|line| line.contains(&format!("{key}: has no effect")));
        has(found.unwrap_or_else(|| panic!("no warning of {key}: {}", ran.err)), &["warning", words]);
    }

    has(&validate(host, "gone.hcl", "reconnect_timeout = \"8h\"").ok(), &["valid"]);
    validate(host, "gone.hcl", "reconnect_timeout = \"7h\"").fails(1, &["reconnect_timeout", "8h"]);

    // Access control is known from the start and only off is accepted.
    let acl = "acl {\n  enabled = false\n  default_policy = \"allow\"\n  tokens { agent = \"\" }\n}\n";
    assert_eq!(validate(host, "acl.hcl", acl).code, Some(0));
    validate(host, "acl.hcl", "acl { enabled = true }").fails(1, &["acl", "enabled"]);
}

fn plaintext_stays_on_loopback() {
    let lab = Lab::new(2);
    let host = lab.host(1);
    for text in
        ["client_addr = \"0.0.0.0\"", "client_addr = \"10.77.0.1\"", "addresses { http = \"10.77.0.1\" }"]
    {
        validate(host, "open.hcl", text).fails(1, &["8500", "without encryption", "allow_plaintext = true"]);
    }
    for text in [
        "client_addr = \"127.0.0.9\"",
        "client_addr = \"::1\"",
        "addresses { http = \"unix:///tmp/x.sock\" }",
    ] {
        validate(host, "closed.hcl", text).ok();
    }
    // It is not only said of a file, it is not started either.
    let open = "client_addr = \"0.0.0.0\"";
    host.write("server.toml", &format!("data_dir = \"{}\"\n{open}\n", host.dir.join("data").display()));
    let typed = ["server", "--bootstrap", "--config", "server.toml"];
    Ran::purlin(host, &typed).fails(1, &["client_addr", "allow_plaintext"]);
    assert!(!host.dir.join("data").exists());

    // Asked for in so many words, it is open to the other host.
    let server = Agent::server(host, &format!("{open}\n[http_config]\nallow_plaintext = true"));
    has(&server.process.log(), &["WARN", "client_addr", "without encryption"]);
    let asked = lab.host(2).curl(&["http://10.77.0.1:8500/v1/status/leader"]);
    assert_eq!(asked, Ok((200, "\"10.77.0.1:8300\"".into())));
}

/// As it is found on servers that run Consul.
const CONSUL: &str = r#"
datacenter = "east"
node_name  = "consul-server-1"
log_level  = "INFO"
server     = true
bootstrap_expect = 1
bind_addr   = "10.77.0.1"
client_addr = "127.0.0.1"
retry_join = ["10.77.0.1"]
encrypt    = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
encrypt_verify_incoming = true
verify_incoming        = true
verify_outgoing        = true
verify_server_hostname = true
ca_file   = "/etc/consul.d/consul-agent-ca.pem"
cert_file = "/etc/consul.d/dc1-server-consul-0.pem"
key_file  = "/etc/consul.d/dc1-server-consul-0-key.pem"
enable_local_script_checks = true
leave_on_terminate = false
rejoin_after_leave = true
disable_update_check = true
recursors = ["10.77.0.1:5300"]
performance { raft_multiplier = 1 }
connect { enabled = true }
ports { grpc = 8502 https = -1 }
addresses { grpc = "127.0.0.1" }
ui_config { enabled = true }
dns_config { service_ttl { "*" = "5s" } node_ttl = "30s" allow_stale = true }
telemetry { statsite_address = "127.0.0.1:2180" }
acl { enabled = false default_policy = "allow" enable_token_persistence = true }
node_meta { rack = "7" }
autopilot { cleanup_dead_servers = true }
limits { http_max_conns_per_client = 200 }
service {
  name = "web"
  port = 8080
  check { args = ["/bin/true"] interval = "1s" }
}
"#;

fn a_consul_agents_file_starts_a_server() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    host.write("consul.hcl", &format!("{CONSUL}\ndata_dir = \"{}\"\n", host.dir.join("data").display()));
    let checked = Ran::purlin(host, &["validate", "consul.hcl"]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let warned: Vec<&str> = checked.err.lines().filter(|line| line.contains("has no effect here")).collect();
    assert!(warned.len() >= 18, "{} warnings: {}", warned.len(), checked.err);

    let mut process = host.spawn("server", PURLIN, &["server", "--bootstrap", "--config-file=consul.hcl"]);
    let own: Value = until("the server is up", LONG, || {
        let (_, body) = host.curl(&["http://127.0.0.1:8500/v1/agent/self"])?;
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}\n{}", process.log()))
    });
    assert_eq!(
        (&own["Config"]["NodeName"], &own["Config"]["Datacenter"]),
        (&json!("consul-server-1"), &json!("east"))
    );
    assert_eq!(own["Meta"]["rack"], "7");
    let log = process.log();
    for line in warned {
        let key = line.split(": ").nth(2).unwrap_or(line);
        assert!(log.contains(key), "no warning of {key} in the log: {log}");
    }
    until("its script check passes", SOON, || {
        let (_, body) = host.curl(&["http://127.0.0.1:8500/v1/health/service/web?passing"])?;
        if body.contains("\"ServiceID\":\"web\"") { Ok(()) } else { Err(body) }
    });
    // Scripts of files are allowed here, those of the API are not.
    let script = r#"{"Name": "evil", "Args": ["/bin/true"], "Interval": "1s"}"#;
    let (status, text) = host
        .curl(&["-X", "PUT", "-d", script, "http://127.0.0.1:8500/v1/agent/check/register"])
        .expect("an answer");
    assert!((400..500).contains(&status), "{status} {text}");
    has(&text, &["enable_script_checks"]);
    assert_eq!(process.stop().code(), Some(0));
}

/// What listens on this host, each once: `tcp 127.0.0.1:8500`.
fn listeners(host: &Host) -> Vec<String> {
    let text = host.run("ss", &["-Hlntu"]);
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.nth(3)?))
    };
    let all: std::collections::BTreeSet<String> = text.lines().filter_map(line).collect();
    all.into_iter().collect()
}

fn default_ports_and_others() {
    let lab = Lab::new(2);
    let server = Agent::server(lab.host(1), "");
    let usual = [
        "tcp 127.0.0.1:8500",
        "tcp 127.0.0.1:8600",
        "udp 127.0.0.1:8600",
        "udp 0.0.0.0:8300",
        "udp 0.0.0.0:8301",
        "tcp 0.0.0.0:20000",
    ];
    until("the usual ports are open", SOON, || {
        let open = listeners(lab.host(1));
        let missing: Vec<_> = usual.iter().filter(|one| !open.contains(&(**one).to_owned())).collect();
        if missing.is_empty() && open.len() == usual.len() { Ok(()) } else { Err(format!("{open:?}")) }
    });
    assert_eq!(server.get("/v1/status/peers"), Ok(json!(["10.77.0.1:8300"])));

    // Flags win over the environment, that over the file; a socket stands beside an address; -1 switches off.
    let host = lab.host(2);
    let text = "node_name = \"file\"\nports = { http = 1500, dns = -1, server = 1300, mesh = 1200 }\n\
                bind_addr = \"10.77.0.2\"\ndomain = \"file.example\"\n\
                addresses = { http = \"127.0.0.1 unix:///tmp/lab-config.sock\" }\n";
    host.write("server.toml", &format!("data_dir = \"{}\"\n{text}", host.dir.join("data").display()));
    let mut command = host.command(PURLIN);
    command
        .args(["server", "--bootstrap", "--config", "server.toml", "--node", "flag", "-http-port=2500"])
        .env("PURLIN_NODE_NAME", "environment")
        .env("PURLIN_LOG_LEVEL", "debug");
    let process = crate::kit::Process::start(host, "server", command);
    let other = ["tcp 127.0.0.1:2500", "tcp 10.77.0.2:1200", "udp 10.77.0.2:1300", "udp 10.77.0.2:8301"];
    until("the other ports are open", LONG, || {
        let open = listeners(host);
        let missing: Vec<_> = other.iter().filter(|one| !open.contains(&(**one).to_owned())).collect();
        if missing.is_empty() && open.len() == other.len() {
            Ok(())
        } else {
            Err(format!("{open:?}\n{}", process.log()))
        }
    });
    let own =
        Ran::with(host, &[("PURLIN_HTTP_ADDR", "unix:///tmp/lab-config.sock")], &["info", "-format=json"])
            .json();
    assert_eq!(own["Config"]["NodeName"], "flag");
    assert_eq!(own["DebugConfig"]["DNSDomain"], "file.example.");
    assert!(process.log().contains("DEBUG"), "the level of the environment is not in force");

    // A busy port is named, with code 1, before anything else happens.
    let data = format!("--data-dir={}", host.dir.join("second").display());
    let typed = [
        "server",
        "--bootstrap",
        &data,
        "--http-port=2500",
        "--bind=10.77.0.2",
        "--mesh-port=1201",
        "--server-port=1301",
    ];
    Ran::purlin(host, &typed).fails(1, &["127.0.0.1:2500", "in use"]);
}

fn files_are_laid_over_each_other() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let data = host.dir.join("data");
    host.write(
        "conf.d/10-base.hcl",
        &format!(
            "data_dir = \"{}\"\nnode_name = \"first\"\nnode_meta {{ a = \"1\" b = \"1\" }}\n",
            data.display()
        ),
    );
    host.write(
        "conf.d/20-more.json",
        r#"{"node_name": "second", "node_meta": {"b": "2"}, "service": {"name": "web", "port": 1}}"#,
    );
    host.write("conf.d/30-last.toml", "node_name = \"third\"\n[[service]]\nname = \"api\"\nport = 2\n");
    host.write("conf.d/99-ignored.conf", "node_name = \"ignored\"\n");
    host.write("conf.d/README", "not a configuration\n");
    host.write("extra.hcl", "datacenter = \"west\"\nservice { name = \"db\" port = 3 }\n");
    let mut process = host.spawn(
        "server",
        PURLIN,
        &["server", "--bootstrap", "-config-dir=conf.d", "-config-file", "extra.hcl", "-advertise=10.77.0.1"],
    );
    let own: Value = until("the server is up", LONG, || {
        let (_, body) = host.curl(&["http://127.0.0.1:8500/v1/agent/self"])?;
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}\n{}", process.log()))
    });
    assert_eq!((&own["Config"]["NodeName"], &own["Config"]["Datacenter"]), (&json!("third"), &json!("west")));
    assert_eq!(own["Meta"], json!({"a": "1", "b": "2"}));
    let (_, body) = host.curl(&["http://127.0.0.1:8500/v1/agent/services"]).expect("services");
    let services: Value = serde_json::from_str(&body).expect("JSON");
    let ports: Vec<&Value> = ["web", "api", "db"].iter().map(|id| &services[id]["Port"]).collect();
    assert_eq!(ports, [1, 2, 3]);
    assert_eq!(process.stop().code(), Some(0));

    // One id in two files is refused, naming both.
    host.write("conf.d/40-again.hcl", "service { name = \"web\" port = 9 }\n");
    Ran::purlin(host, &["validate", "conf.d"]).fails(1, &["40-again.hcl", "20-more.json", "web"]);
}
