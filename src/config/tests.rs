//! The three syntaxes say the same; each table refuses what it does not know; all that is wrong is said at once.

use std::path::PathBuf;
use std::time::Duration;

use purlin_model::check::Probe;
use serde_json::json;

use super::{Config, ConfigErrors, Host, Mode, Overrides, ProxyMode, Warning, load_on, parse_services};

const HCL: &str = r#"
# A Consul agent's file with Purlin's additions.
node_name = "host-1"
datacenter = "DC1"
data_dir = "/var/lib/purlin"
bind_addr = "0.0.0.0"
advertise_addr = "10.0.0.1"
client_addr = "127.0.0.1"
log_level = "INFO"
log_json = true
enable_local_script_checks = true
recursors = ["10.0.0.53", "[fd00::53]:5353"]
node_meta = { rack = "7" }
ports {
  http = 8501
  dns = -1
  mesh = 20001
}
addresses { http = "127.0.0.1 unix:///run/purlin/http.sock" }
dns_config {
  node_ttl = "5s"
  service_ttl { "*" = "10s" }
}
acl { enabled = false }
connect {
  enabled = true
  ca_config { leaf_cert_ttl = "30m" }
}
proxy { mode = "external" }
default_intention_policy = "deny"
locality { region = "eu", zone = "eu-1" }
service {
  name = "web"
  port = 8080
  connect { sidecar_service { proxy { upstreams = [{ destination_name = "api", local_bind_port = 9191 }] } } }
  check {
    args = ["/bin/true"]
    interval = "5s"
  }
}
service "api" {
  id = "api-1"
  port = 8081
}
check {
  name = "disk"
  ttl = "1m"
}
"#;

const TOML: &str = r#"
node_name = "host-1"
datacenter = "DC1"
data_dir = "/var/lib/purlin"
bind_addr = "0.0.0.0"
advertise_addr = "10.0.0.1"
client_addr = "127.0.0.1"
log_level = "INFO"
log_json = true
enable_local_script_checks = true
recursors = ["10.0.0.53", "[fd00::53]:5353"]
default_intention_policy = "deny"
node_meta.rack = "7"
ports = { http = 8501, dns = -1, mesh = 20001 }
addresses.http = "127.0.0.1 unix:///run/purlin/http.sock"
dns_config = { node_ttl = "5s", service_ttl = { "*" = "10s" } }
acl.enabled = false
connect = { enabled = true, ca_config = { leaf_cert_ttl = "30m" } }
proxy.mode = "external"
locality = { region = "eu", zone = "eu-1" }

[[services]]
name = "web"
port = 8080
upstreams = [{ name = "api", local_bind_port = 9191 }]
check = { args = ["/bin/true"], interval = "5s" }

[[services]]
name = "api"
id = "api-1"
port = 8081

[[checks]]
name = "disk"
ttl = "1m"
"#;

fn host() -> Host {
    Host { name: Some("vm-7".into()), addresses: vec![[10, 0, 0, 7].into()], ..Host::default() }
}

/// Writes files into a directory and loads it.
fn load(files: &[(&str, &str)], mode: Mode) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    load_with(files, mode, &Overrides::default())
}

fn load_with(
    files: &[(&str, &str)],
    mode: Mode,
    overrides: &Overrides,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let loaded = load_on(&[dir.path().to_path_buf()], overrides, mode, &host());
    loaded.map_err(|errors| {
        let prefix = format!("{}/", dir.path().display());
        ConfigErrors(errors.0.into_iter().map(|text| text.replace(&prefix, "")).collect())
    })
}

fn errors(files: &[(&str, &str)], mode: Mode) -> Vec<String> {
    load(files, mode).unwrap_err().0
}

#[test]
fn three_syntaxes_say_the_same() {
    let (hcl, warnings) = load(&[("a.hcl", HCL)], Mode::Agent).unwrap();
    let (toml, _) = load(&[("a.toml", TOML)], Mode::Agent).unwrap();
    let json = serde_json::to_string(&toml::from_str::<serde_json::Value>(TOML).unwrap()).unwrap();
    let (json, _) = load(&[("a.json", &json)], Mode::Agent).unwrap();
    assert_eq!(hcl, toml);
    assert_eq!(toml, json);
    assert_eq!(hcl.datacenter.as_str(), "dc1");
    assert_eq!(hcl.listen.http, ["127.0.0.1:8501".parse().unwrap()]);
    assert_eq!(hcl.listen.http_socket, Some("/run/purlin/http.sock".into()));
    assert!(hcl.listen.dns.is_empty());
    assert_eq!(hcl.listen.mesh, "0.0.0.0:20001".parse().unwrap());
    assert_eq!(hcl.recursors[0], "10.0.0.53:53".parse().unwrap());
    assert_eq!(hcl.leaf_cert_ttl, Some(Duration::from_secs(1800)));
    assert_eq!(hcl.dns.service_ttl["*"], Duration::from_secs(10));
    assert_eq!(hcl.proxy.mode, ProxyMode::External);
    assert_eq!(hcl.runtime_dir, Some("/var/lib/purlin/run".into()));
    let ids: Vec<_> = hcl.services.iter().map(|service| service.instance.id.as_str()).collect();
    assert_eq!(ids, ["web", "api-1"]);
    assert_eq!(hcl.checks[0].probe, Probe::Ttl { ttl: Duration::from_secs(60) });
    assert!(warnings.iter().any(|one| one.0.contains("leaf_cert_ttl: is below 1h")), "{warnings:?}");
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let (config, warnings) = load(&[("a.hcl", "data_dir = \"/d\"")], Mode::Server).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.node_name.as_str(), config.datacenter.as_str()), ("vm-7", "dc1"));
    assert_eq!((config.domain.as_str(), config.alt_domain.as_deref()), ("mesh.internal", Some("consul")));
    assert_eq!(config.listen.http, ["127.0.0.1:8500".parse().unwrap()]);
    assert_eq!(config.listen.dns, ["127.0.0.1:8600".parse().unwrap()]);
    assert_eq!(config.listen.server, "0.0.0.0:8300".parse().unwrap());
    assert_eq!(config.listen.mesh, "0.0.0.0:20000".parse().unwrap());
    assert_eq!(config.advertise_addr.to_string(), "10.0.0.7");
    // The mesh's own hold where nothing is said.
    assert_eq!((config.default_intention_policy, config.leaf_cert_ttl), (None, None));
    assert_eq!(config.join_timeout, Duration::from_secs(30));
    let (dev, _) = load(&[], Mode::Dev).unwrap();
    assert_eq!(
        (dev.bind_addr.to_string(), dev.advertise_addr.to_string()),
        ("127.0.0.1".into(), "127.0.0.1".into())
    );
    assert_eq!((dev.data_dir, dev.runtime_dir), (None, None));
}

#[test]
fn what_listens_for_other_hosts_is_of_the_family_that_they_are_told() {
    let (config, _) =
        load(&[("a.toml", "data_dir = \"/d\"\nadvertise_addr = \"fd00::7\"")], Mode::Agent).unwrap();
    assert_eq!(config.listen.mesh, "[::]:20000".parse().unwrap());
    for text in [
        "bind_addr = \"0.0.0.0\"\nadvertise_addr = \"fd00::7\"",
        "bind_addr = \"::\"\nadvertise_addr = \"10.0.0.7\"",
        "bind_addr = \"::\"",
    ] {
        let errors = errors(&[("a.toml", &format!("data_dir = \"/d\"\n{text}"))], Mode::Agent);
        assert!(errors.len() == 1 && errors[0].contains("or both IPv6"), "{errors:?}");
    }
    load(&[("a.toml", "bind_addr = \"::\"")], Mode::Validate).unwrap();
}

#[test]
fn consul_keys_without_meaning_are_named_and_accepted() {
    let text = r#"
        server = true
        bootstrap_expect = 3
        encrypt = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
        retry_join = ["10.0.0.1", "provider=aws tag_key=x"]
        verify_incoming = true
        performance { raft_multiplier = 1 }
        telemetry { prometheus_retention_time = "60s" }
        ui_config { enabled = true }
        leave_on_terminate = true
        tls { defaults { ca_file = "x" } }
        ports { grpc = 8502 }
        connect { ca_config { private_key_type = "ec" } }
        acl { default_policy = "allow" }
    "#;
    let (_, warnings) = load(&[("consul.hcl", text)], Mode::Validate).unwrap();
    let keys = [
        "server",
        "bootstrap_expect",
        "encrypt",
        "retry_join",
        "verify_incoming",
        "performance",
        "telemetry",
        "ui_config",
        "leave_on_terminate",
        "tls",
        "ports.grpc",
        "connect.ca_config.private_key_type",
        "acl.default_policy",
    ];
    for key in keys {
        assert!(
            warnings.iter().any(|one| one.0.contains(&format!(": {key}: has no effect"))),
            "{key}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), keys.len(), "{warnings:#?}");
    assert!(!format!("{warnings:?}").contains("pUqJ"), "a secret must not be repeated");
}

#[test]
fn every_table_refuses_a_bogus_key() {
    let tables = [
        "",
        "ports",
        "addresses",
        "dns_config",
        "dns_config.soa",
        "http_config",
        "limits",
        "acl",
        "acl.tokens",
        "connect",
        "connect.ca_config",
        "proxy",
        "locality",
        "service",
        "service.check",
        "service.connect",
        "service.connect.sidecar_service",
        "service.connect.sidecar_service.proxy",
        "service.weights",
        "check",
    ];
    for table in tables {
        let mut value = json!({});
        let mut place = &mut value;
        for part in table.split('.').filter(|part| !part.is_empty()) {
            if matches!(part, "service" | "check") {
                place[part] = json!({"name": "x", "ttl": "5s"});
                if part == "service" {
                    place[part] = json!({"name": "x"});
                }
            }
            place = &mut place[part];
        }
        place["zzbogus"] = json!(1);
        let found = errors(&[("a.json", &value.to_string())], Mode::Validate);
        assert!(found.iter().any(|text| text.contains("zzbogus: unknown key")), "{table}: {found:?}");
    }
}

#[test]
fn what_is_missing_is_not_said_to_be_on_the_line_of_another() {
    let text = "service { name = \"web\" }\nservice { id = \"b\" }\nnode_name = \"h\"\n";
    assert_eq!(errors(&[("a.hcl", text)], Mode::Validate), ["a.hcl: service \"b\": name: is required"]);
    let text = "service {\n  name = \"web\"\n  connect {\n    sidecar_service {\n      proxy {\n        upstreams { local_bind_port = 1 }\n      }\n    }\n  }\n}\n";
    let found = errors(&[("a.hcl", text)], Mode::Validate);
    assert!(
        found.iter().any(|text| text.starts_with("a.hcl:6: ") && text.contains("destination_name")),
        "{found:?}"
    );
}

#[test]
fn everything_wrong_is_said_at_once_with_file_line_and_key() {
    let first = "node_nmae = \"x\"\nbind_addr = \"nowhere\"\nports {\n  http = 99999\n}\nacl {\n  enabled = true\n}\n";
    let second = r#"{"client_addr": "0.0.0.0", "service": {"name": "web", "check": {"args": ["x"]}}}"#;
    let third = "[[services]]\nname = \"web\"\nport = 1\n";
    let found = errors(
        &[("1.hcl", first), ("2.json", second), ("3.toml", third), ("4.toml", "a = = 1\n")],
        Mode::Agent,
    );
    let expected = [
        "1.hcl:1: node_nmae: unknown key; did you mean \"node_name\"?",
        "1.hcl:2: bind_addr: \"nowhere\" is not an IP address",
        "1.hcl:4: ports.http: 99999 is out of range",
        "1.hcl:7: acl.enabled: must be false",
        "2.json: client_addr: would open the HTTP API on 0.0.0.0:8500 without encryption",
        "3.toml: service \"web\": its id is taken by another service in 2.json",
        "2.json: check \"service:web\": script checks are off",
        "4.toml: line 1: is not TOML",
        "data_dir: is required",
    ];
    for start in expected {
        assert!(found.iter().any(|text| text.starts_with(start)), "{start}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn later_files_win_and_flags_win_over_files() {
    let mut overrides = Overrides::default();
    overrides.set("ports.dns", Some(8700));
    overrides.set("datacenter", None::<String>);
    let files = [
        (
            "1.hcl",
            "node_name = \"a\"\ndatacenter = \"one\"\nports {\n http = 1000\n dns = 1001\n}\nnode_meta = { a = \"1\" }",
        ),
        (
            "2.hcl",
            "node_name = \"b\"\nports {\n http = 2000\n}\nnode_meta = { b = \"2\" }\nservice { name = \"x\" }",
        ),
        ("3.json", "{\"service\": {\"name\": \"y\"}}"),
        ("ignored.txt", "not a configuration"),
    ];
    let (config, _) = load_with(&files, Mode::Validate, &overrides).unwrap();
    assert_eq!((config.node_name.as_str(), config.datacenter.as_str()), ("b", "one"));
    assert_eq!((config.listen.http[0].port(), config.listen.dns[0].port()), (2000, 8700));
    assert_eq!((config.node_meta.len(), config.services.len()), (2, 2));
    overrides.set("bind_addr", Some("x"));
    let found = load_with(&files, Mode::Validate, &overrides).unwrap_err().0;
    assert_eq!(found, ["command line: bind_addr: \"x\" is not an IP address"]);
}

#[test]
fn an_open_plaintext_api_must_be_asked_for() {
    let open = "client_addr = \"10.0.0.7\"\n";
    assert_eq!(errors(&[("a.hcl", open)], Mode::Validate).len(), 1);
    let asked = format!("{open}http_config {{ allow_plaintext = true }}");
    let (config, warnings) = load(&[("a.hcl", &asked)], Mode::Validate).unwrap();
    assert_eq!(config.listen.http, ["10.0.0.7:8500".parse().unwrap()]);
    assert_eq!(warnings.len(), 1);
    let inward = format!("{open}addresses {{ http = \"127.0.0.1\" }}");
    let (config, _) = load(&[("a.hcl", &inward)], Mode::Validate).unwrap();
    assert_eq!(config.listen.dns, ["10.0.0.7:8600".parse().unwrap()]);
    let off = format!("{open}ports {{ http = -1 }}");
    assert!(load(&[("a.hcl", &off)], Mode::Validate).unwrap().0.listen.http.is_empty());
}

#[test]
fn values_are_judged_at_their_edges() {
    let leaf = |ttl: &str| {
        load(
            &[("a.hcl", &format!("connect {{ ca_config {{ leaf_cert_ttl = \"{ttl}\" }} }}"))],
            Mode::Validate,
        )
    };
    assert!(leaf("10s").is_ok_and(|(_, warnings)| warnings.len() == 1));
    assert!(leaf("1h").is_ok_and(|(_, warnings)| warnings.is_empty()));
    assert!(leaf("9s").is_err());
    let dir = |n: usize| load(&[("a.hcl", &format!("runtime_dir = \"/{}\"", "r".repeat(n)))], Mode::Validate);
    assert!(dir(107 - "/proxy.sock".len() - 1).is_ok());
    assert!(dir(107 - "/proxy.sock".len()).is_err());
    for wrong in [
        "log_level = \"loud\"",
        "domain = \"a..b\"",
        "ports { mesh = 0 }",
        "ports { http = 8600 }",
        "default_intention_policy = \"maybe\"",
        "client_addr = \"{{ GetPrivateIP }}\"",
        "node_id = \"x\"",
        "proxy { mode = \"x\" }",
        "join_timeout = \"1ms\"",
        "advertise_addr = \"0.0.0.0\"",
        "recursors = [\"x\"]",
        "node_name = \"a b\"",
        "http_config { response_headers { \"a b\" = \"c\" } }",
    ] {
        assert_eq!(errors(&[("a.hcl", wrong)], Mode::Validate).len(), 1, "{wrong}");
    }
    for fine in
        ["log_level = \"WARN\"", "log_level = \"info,purlin_agent=debug\"", "domain = \"Mesh.Example.\"", ""]
    {
        assert!(load(&[("a.hcl", fine)], Mode::Validate).is_ok(), "{fine}");
    }
}

#[test]
fn upstreams_of_two_services_cannot_share_an_address() {
    let upstream = "upstreams = [{ name = \"api\", local_bind_port = 9191 }]";
    let text =
        format!("service {{\n name = \"a\"\n {upstream}\n}}\nservice {{\n name = \"b\"\n {upstream}\n}}");
    let found = errors(&[("a.hcl", &text)], Mode::Validate);
    assert_eq!(
        found,
        [
            "a.hcl: service \"b\": upstream \"api\" wants 127.0.0.1:9191, which upstream \"api\" of service \"a\" already has"
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let overrides = Overrides::default();
    let found =
        load_on(&[PathBuf::from("/nowhere/a.hcl")], &overrides, Mode::Validate, &host()).unwrap_err().0;
    assert!(found[0].starts_with("/nowhere/a.hcl: cannot be read"), "{found:?}");
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a.conf");
    std::fs::write(&odd, "").unwrap();
    let found = load_on(&[odd], &overrides, Mode::Validate, &host()).unwrap_err().0;
    assert!(found[0].ends_with("name it .hcl, .json or .toml"), "{found:?}");
}

#[test]
fn a_file_of_services_may_hold_one_or_many() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        parse_services(&path).map(|(services, _)| services.len())
    };
    assert_eq!(of("a.json", "{\"ID\": \"w\", \"Name\": \"web\", \"Port\": 80}"), Ok(1));
    assert_eq!(of("b.hcl", "service { name = \"web\" }\nservice \"api\" { port = 1 }"), Ok(2));
    assert_eq!(of("c.toml", "[[services]]\nname = \"web\"\n[[services]]\nname = \"api\""), Ok(2));
    assert!(of("d.hcl", "service { name = \"web\" }\nnode_name = \"x\"").is_err());
}

#[test]
fn what_only_a_restart_changes_is_named() {
    let (old, _) = load(&[("a.hcl", "node_name = \"a\"")], Mode::Validate).unwrap();
    let (new, _) =
        load(&[("a.hcl", "node_name = \"b\"\nports { dns = 1 }\nlog_level = \"debug\"")], Mode::Validate)
            .unwrap();
    assert_eq!(old.restart_needed(&new), ["node_name", "addresses and ports"]);
    assert!(old.restart_needed(&old).is_empty());
}
