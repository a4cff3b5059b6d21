//! Consul's own examples are read as they are; what is wrong is named with its place, all of it at once.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use super::reader::nearest;
use super::{config_entry_to_json, parse_check, parse_config_entry, parse_service, parse_service_noted};
use crate::check::{Probe, Status};
use crate::config_entry::ConfigBody;
use crate::intention::{HeaderForm, PathForm, Rule};
use crate::limit;
use crate::service::Protocol;

mod limits;

fn faults<T: std::fmt::Debug>(read: Result<T, Vec<crate::Fault>>) -> Vec<String> {
    read.unwrap_err().into_iter().map(|fault| fault.text).collect()
}

fn service_faults(value: Value) -> Vec<String> {
    faults(parse_service(&value))
}

#[test]
fn a_service_file_of_consul_is_read() {
    let service = parse_service(&json!({
        "id": "redis", "name": "redis", "tags": ["primary"], "address": "", "meta": {"meta": "for my service"},
        "tagged_addresses": {
            "lan": {"address": "192.168.0.55", "port": 8000}, "wan": {"address": "198.18.0.23", "port": 80}},
        "port": 8000, "socket_path": "", "enable_tag_override": false, "kind": "",
        "checks": [{"args": ["/usr/local/bin/check_redis.py"], "interval": "10s"}],
        "weights": {"passing": 5, "warning": 1}, "token": "233b604b-b92e-48c8-a253-5f11514e4b50",
        "proxy": {}, "connect": null, "locality": {"region": "us-east-1", "zone": "us-east-1b"}
    }))
    .unwrap();
    assert_eq!(service.instance.port, 8000);
    assert_eq!(service.instance.weights.passing, 5);
    assert_eq!(service.instance.tagged_addresses["wan"].port, 80);
    assert_eq!(service.instance.locality.as_ref().unwrap().zone, "us-east-1b");
    assert!(service.instance.mesh.is_none());
    let check = &service.checks[0];
    assert_eq!(check.id.as_str(), "service:redis");
    assert_eq!(check.name, "Service 'redis' check");
    assert_eq!((check.initial, check.timeout), (Status::Critical, Duration::from_secs(30)));
    assert_eq!(check.service_id.as_ref().unwrap().as_str(), "redis");
}

#[test]
fn a_registration_over_http_is_read_in_any_case() {
    let service = parse_service(&json!({
        "ID": "redis1", "Name": "redis", "Tags": ["primary", "v1"], "Address": "127.0.0.1", "Port": 8000.0,
        "Meta": {"redis_version": "4.0"}, "EnableTagOverride": false, "enable_tag_override": true,
        "Check": {"DeregisterCriticalServiceAfter": "90m", "Args": ["/usr/local/bin/check_redis.py"],
            "Interval": "10s", "Timeout": 5_000_000_000u64},
        "Weights": {"Passing": 10, "Warning": 1}
    }));
    assert_eq!(
        faults(service),
        [
            "service \"redis\": enable_tag_override: given twice, as \"EnableTagOverride\" and as \"enable_tag_override\"; keep one"
        ]
    );
    let service = parse_service(&json!({
        "id": "redis1", "name": "redis", "enabletagoverride": true, "check": {},
        "checks": [{"tcp": ":6379", "interval": "1s", "deregistercriticalserviceafter": "90m"},
            {"ttl": "15s", "status": "passing", "notes": "n"}]
    }))
    .unwrap();
    assert!(service.instance.enable_tag_override);
    let ids: Vec<_> = service.checks.iter().map(|check| check.id.as_str()).collect();
    assert_eq!(ids, ["service:redis1:1", "service:redis1:2"]);
    assert_eq!(service.checks[0].probe, Probe::Tcp { address: "127.0.0.1:6379".into(), tls: None });
    assert_eq!(service.checks[0].deregister_critical_service_after, Some(Duration::from_secs(5400)));
    assert_eq!(service.checks[1].probe, Probe::Ttl { ttl: Duration::from_secs(15) });
    assert_eq!(service.checks[1].initial, Status::Passing);
}

#[test]
fn a_sidecar_with_upstreams_is_read() {
    let noted = parse_service_noted(&json!({
        "name": "web", "port": 9090,
        "connect": {"sidecar_service": {"port": 20000, "proxy": {
            "local_service_address": "127.0.0.1", "local_service_port": 9091,
            "upstreams": [
                {"destination_type": "service", "destination_name": "api", "local_bind_port": 9191,
                 "config": {"connect_timeout_ms": 3000}},
                {"destination_name": "db", "datacenter": "dc1", "local_bind_address": "127.0.0.2",
                 "local_bind_port": 9191, "mesh_gateway": {"mode": "none"}}]}}}
    }))
    .unwrap();
    let mesh = noted.value.instance.mesh.unwrap();
    assert_eq!((mesh.local_address.as_deref(), mesh.local_port), (Some("127.0.0.1"), Some(9091)));
    assert_eq!(mesh.upstreams[0].connect_timeout_ms, Some(3000));
    assert_eq!(mesh.upstreams[0].local_bind_address, "127.0.0.1");
    assert_eq!(mesh.upstreams[1].local_bind_address, "127.0.0.2");
    assert_eq!(noted.warnings.len(), 1);
    assert!(
        noted.warnings[0].contains("connect.sidecar_service.port: has no effect"),
        "{:?}",
        noted.warnings
    );
}

#[test]
fn the_mesh_has_short_forms() {
    let of = |value: Value| parse_service(&value).unwrap().instance;
    let upstreams = of(json!({"name": "web", "upstreams": [{"name": "api", "local_bind_port": 9191}]}));
    assert_eq!(upstreams.mesh.unwrap().upstreams[0].name.as_str(), "api");
    assert!(of(json!({"name": "web", "mesh": true})).mesh.is_some());
    assert!(of(json!({"name": "web", "connect": {}})).mesh.is_some());
    assert!(of(json!({"name": "web", "connect": {"sidecar_service": {}}})).mesh.is_some());
    // One block of HCL that another syntax made a list of.
    assert!(of(json!({"name": "web", "connect": [{"sidecar_service": [{}]}]})).mesh.is_some());
    let native = of(json!({"name": "web", "connect": {"native": true}}));
    assert!(native.native && native.mesh.is_none());
    assert!(of(json!({"name": "web", "connect": {"native": false}, "mesh": false})).mesh.is_none());
}

#[test]
fn everything_wrong_with_a_service_is_said_at_once() {
    let found = service_faults(json!({
        "name": "web.front", "prot": 80, "port": 70000, "meta": {"a b": "x"}, "weights": {"passing": 0, "warning": 1},
        "kind": "mesh-gateway", "namespace": "blue", "address": "0.0.0.0", "mesh": true,
        "checks": [
            {"http": "http://127.0.0.1/", "interval": "10s"},
            {"ttl": "5s", "interval": "10x"},
            {"tcp": "localhost:1", "http": "http://x/"},
            {"interval": "10s"}],
        "upstreams": [{"local_bind_port": 1}, {"name": "api", "local_bind_adress": "::1"}]
    }));
    let expected = [
        "service \"web.front\": kind: \"mesh-gateway\" is not supported by this version",
        "service \"web.front\": namespace: only \"default\" is supported",
        "service \"web.front\": address: must be an address that others can dial",
        "service \"web.front\": port: 70000 is out of range: it must be a whole number from 0 to 65535",
        "service \"web.front\": weights.passing: 0 is out of range",
        "service \"web.front\": meta: the key \"a b\" may only have",
        "service \"web.front\": name: \"web.front\" cannot be in the mesh: its name must be a DNS label",
        "service \"web.front\": upstreams[0].destination_name: is required",
        "service \"web.front\": upstreams[1].local_bind_port: is required",
        "service \"web.front\": upstreams[1].local_bind_adress: unknown key; did you mean \"local_bind_address\"?",
        "service \"web.front\": checks[1].interval: \"10x\" is not a duration",
        "service \"web.front\": checks[2]: has several kinds of probe (http, tcp); keep one",
        "service \"web.front\": checks[3]: says not what to probe",
        "service \"web.front\": prot: unknown key; did you mean \"port\"?",
    ];
    for start in expected {
        assert!(found.iter().any(|text| text.starts_with(start)), "{start}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_local_address_is_taken_once() {
    let found = service_faults(json!({"name": "web", "upstreams": [
        {"name": "api", "local_bind_port": 9191}, {"name": "db", "local_bind_port": 9191}]}));
    assert_eq!(
        found,
        ["service \"web\": upstream \"db\" wants 127.0.0.1:9191, which upstream \"api\" already has"]
    );
}

#[test]
fn what_this_version_would_not_enforce_is_refused() {
    for (value, key) in [
        (
            json!({"name": "a", "connect": {"sidecar_service": {"proxy": {"mode": "transparent"}}}}),
            "proxy.mode",
        ),
        (
            json!({"name": "a", "connect": {"sidecar_service": {"proxy": {"expose": {"checks": true}}}}}),
            "proxy.expose",
        ),
        (
            json!({"name": "a", "upstreams": [{"name": "b", "local_bind_port": 1, "destination_peer": "x"}]}),
            "destination_peer",
        ),
        (
            json!({"name": "a", "checks": [{"docker_container_id": "x", "args": ["y"]}]}),
            "docker_container_id",
        ),
        (json!({"name": "a", "kind": "connect-proxy", "proxy": {"destination_service_name": "b"}}), "proxy"),
        (json!({"name": "a", "connect": {"native": true, "sidecar_service": {}}}), "connect"),
    ] {
        let found = service_faults(value);
        assert!(found.iter().any(|text| text.contains(key)), "{key}: {found:?}");
    }
    // Empty forms of the same say nothing.
    let empty = json!({"name": "a", "connect": {"sidecar_service": {"proxy": {
        "mode": "", "expose": {}, "mesh_gateway": {}, "transparent_proxy": {"outbound_listener_port": 0}}}}});
    assert!(parse_service(&empty).is_ok());
}

#[test]
fn limits_hold_at_their_edge() {
    let tags = |n: usize| json!({"name": "a", "tags": vec!["t"; n]});
    assert!(parse_service(&tags(limit::TAGS)).is_ok());
    assert!(parse_service(&tags(limit::TAGS + 1)).is_err());
    let name = |n: usize| json!({"name": "a".repeat(n)});
    assert!(parse_service(&name(limit::SERVICE_NAME_BYTES)).is_ok());
    assert!(parse_service(&name(limit::SERVICE_NAME_BYTES + 1)).is_err());
    let meta = |n: usize| json!({"name": "a", "meta": {"k": "v".repeat(n)}});
    assert!(parse_service(&meta(limit::META_VALUE_BYTES)).is_ok());
    assert!(parse_service(&meta(limit::META_VALUE_BYTES + 1)).is_err());
    let upstreams = |n: usize| {
        let list: Vec<Value> = (0..n).map(|p| json!({"name": "b", "local_bind_port": 1000 + p})).collect();
        json!({"name": "a", "upstreams": list})
    };
    assert!(parse_service(&upstreams(limit::UPSTREAMS)).is_ok());
    assert!(parse_service(&upstreams(limit::UPSTREAMS + 1)).is_err());
    let places = |n: usize| {
        let places = (0..n).map(|p| (format!("t{p}"), json!({"address": "10.0.0.1"})));
        json!({"name": "a", "tagged_addresses": places.collect::<serde_json::Map<_, _>>()})
    };
    assert!(parse_service(&places(limit::TAGGED_ADDRESSES)).is_ok());
    assert!(parse_service(&places(limit::TAGGED_ADDRESSES + 1)).is_err());
}

#[test]
fn named_ports_need_one_default() {
    let of = |ports: Value| parse_service(&json!({"name": "a", "ports": ports}));
    let one = of(json!([{"name": "http", "port": 80}])).unwrap().instance;
    assert!(one.ports[0].default && one.port == 80);
    assert!(of(json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}])).is_err());
    let two = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81, "default": true, "protocol": "http"}]);
    let two = of(two).unwrap().instance;
    assert_eq!((two.port, two.ports[1].protocol), (81, Some(Protocol::Http)));
}

#[test]
fn every_kind_of_check_is_read() {
    let probe = |mut value: Value| {
        value["name"] = json!("c");
        let check = parse_check(&value, None).unwrap();
        assert_eq!(check.id.as_str(), "c");
        check.probe
    };
    let http = probe(
        json!({"http": "https://localhost:5000/health", "tls_server_name": "x", "tls_skip_verify": true,
        "method": "post", "header": {"Content-Type": ["application/json"], "A": "b"}, "body": "{}",
        "disable_redirects": true, "interval": "10s", "timeout": "1s"}),
    );
    let Probe::Http { method, headers, tls, .. } = http else { unreachable!("an HTTP probe") };
    assert_eq!((method.as_str(), headers.len(), tls.skip_verify), ("POST", 2, true));
    assert_eq!(probe(json!({"udp": "localhost:9"})), Probe::Udp { address: "localhost:9".into() });
    assert_eq!(probe(json!({"tcp": "[::1]:9", "TCPUseTLS": true})).kind(), "tcp");
    let grpc = probe(json!({"grpc": "127.0.0.1:12345/my_service", "GRPCUseTLS": true}));
    assert!(matches!(grpc, Probe::Grpc { tls: Some(_), .. }));
    assert!(matches!(probe(json!({"h2ping": "localhost:22222"})), Probe::H2Ping { tls: Some(_), .. }));
    assert!(matches!(
        probe(json!({"H2PING": "localhost:1", "H2PingUseTLS": false})),
        Probe::H2Ping { tls: None, .. }
    ));
    assert_eq!(probe(json!({"os_service": "nginx.service"})).kind(), "os_service");
    assert_eq!(probe(json!({"alias_service": "web"})).kind(), "alias");
    assert_eq!(probe(json!({"ScriptArgs": ["/bin/true"]})).kind(), "script");
    assert_eq!(probe(json!({"ttl": "30s"})).kind(), "ttl");
}

#[test]
fn checks_that_contradict_themselves_are_refused() {
    for (value, text) in [
        (
            json!({"name": "c", "ttl": "5s", "interval": "5s"}),
            "check \"c\": interval: cannot stand beside \"ttl\"",
        ),
        (json!({"tcp": "a:1"}), "check: name: is required"),
        (json!({"name": "c", "tcp": "a"}), "check \"c\": tcp: \"a\" is not an address"),
        (
            json!({"name": "c", "http": "localhost/health"}),
            "check \"c\": http: \"localhost/health\" is not a URL",
        ),
        (json!({"name": "c", "ttl": "5s", "status": "ok"}), "check \"c\": status: \"ok\" is not a status"),
        (
            json!({"name": "c", "ttl": "5s", "failures_before_warning": 3, "failures_before_critical": 2}),
            "check \"c\": failures_before_warning: must not be higher",
        ),
        (
            json!({"name": "serfHealth", "ttl": "5s"}),
            "check \"serfHealth\": check_id: \"serfHealth\" is reserved",
        ),
        (json!([1, 2]), "check: must be a block of keys, not a list"),
    ] {
        let found = faults(parse_check(&value, None));
        assert!(found.len() == 1 && found[0].starts_with(text), "{text}\n{found:?}");
    }
}

#[test]
fn no_warning_comes_before_critical_unless_asked() {
    let of = |value: Value| parse_check(&value, None).unwrap();
    let check = of(json!({"name": "c", "tcp": "a:1", "failures_before_critical": 3}));
    assert_eq!((check.failures_before_warning, check.failures_before_critical), (3, 3));
    let slow = of(json!({"name": "c", "tcp": "a:1", "interval": "10ms", "output_max_size": 1_000_000}));
    assert_eq!((slow.interval, slow.output_max_size), (Duration::from_secs(1), limit::CHECK_OUTPUT_BYTES));
}

#[test]
fn intentions_are_read_and_shown_as_consul_does() {
    let body = json!({
        "Kind": "service-intentions", "Name": "api",
        "Sources": [
            {"Name": "*", "Action": "deny"},
            {"Name": "web", "Description": "d", "Precedence": 9, "Type": "consul", "Permissions": [
                {"Action": "allow", "HTTP": {"PathPrefix": "/v1/", "Methods": ["GET", "put"],
                    "Header": [{"Name": "x-env", "Exact": "Prod", "IgnoreCase": true}]}},
                {"Action": "deny", "HTTP": {"PathRegex": "/admin/.*"}}]}],
        "Meta": {"owner": "me"}, "CreateIndex": 7, "ModifyIndex": 9
    });
    let entry = parse_config_entry(&body).unwrap();
    let ConfigBody::ServiceIntentions(intentions) = &entry.body else { unreachable!("intentions") };
    let Rule::L7(permissions) = &intentions.sources[0].rule else { unreachable!("permissions") };
    assert_eq!(permissions[0].methods, ["GET", "PUT"]);
    assert_eq!(permissions[0].headers[0].form, HeaderForm::Exact("Prod".into()));
    assert_eq!(permissions[1].path, PathForm::Regex("/admin/.*".into()));
    let shown = config_entry_to_json(&entry);
    assert_eq!(shown["Sources"][0]["Name"], "web");
    assert_eq!(shown["Sources"][0]["Precedence"], 9);
    assert_eq!(
        shown["Sources"][1],
        json!({"Name": "*", "Action": "deny", "Precedence": 8, "Type": "consul"})
    );
    let again = parse_config_entry(&shown).unwrap();
    assert_eq!(config_entry_to_json(&again), shown);
}

#[test]
fn defaults_are_read_and_can_be_written_back() {
    for (body, protocol) in [
        (
            json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http", "MaxInboundConnections": 10,
            "LocalConnectTimeoutMs": 1000, "local_request_timeout_ms": 2000, "MeshGateway": {}, "Expose": {}}),
            "http",
        ),
        (
            json!({"kind": "proxy-defaults", "name": "global", "config": [{"protocol": "http2",
            "protocol_detection_timeout_ms": 50}]}),
            "http2",
        ),
    ] {
        let entry = parse_config_entry(&body).unwrap();
        let shown = config_entry_to_json(&entry);
        assert!(shown["Protocol"] == protocol || shown["Config"]["protocol"] == protocol, "{shown}");
        assert!(parse_config_entry(&shown).unwrap().same_content(&entry));
    }
}

#[test]
fn entries_that_cannot_be_enforced_are_refused() {
    let source = |source: Value| json!({"Kind": "service-intentions", "Name": "api", "Sources": [source]});
    let l7 = |http: Value| source(json!({"Name": "web", "Permissions": [{"Action": "allow", "HTTP": http}]}));
    for (body, text) in [
        (
            json!({"Kind": "service-resolver", "Name": "a"}),
            "Kind: \"service-resolver\" is not supported by this version",
        ),
        (json!({"Kind": "service-default", "Name": "a"}), "did you mean \"service-defaults\"?"),
        (
            json!({"Kind": "service-defaults", "Name": "a", "UpstreamConfig": {"Defaults": {"Protocol": "http"}}}),
            "UpstreamConfig: is not supported by this version",
        ),
        (
            json!({"Kind": "service-defaults", "Name": "a", "Protocol": "gopher"}),
            "Protocol: \"gopher\" is not a protocol",
        ),
        (
            json!({"Kind": "service-defaults", "Name": "a", "Protcol": "http"}),
            "Protcol: unknown key; did you mean \"Protocol\"?",
        ),
        (json!({"Kind": "proxy-defaults", "Name": "x"}), "Name: \"x\" must be \"global\""),
        (json!({"Kind": "service-intentions", "Name": "api"}), "Sources: must name at least one source"),
        (source(json!({"Name": "web"})), "Sources[0].Action: is required"),
        (
            source(json!({"Name": "web", "Action": "permit"})),
            "Sources[0].Action: \"permit\" is not an action",
        ),
        (source(json!({"Name": "web", "Peer": "p", "Action": "allow"})), "Sources[0].Peer: is not supported"),
        (
            l7(json!({"PathExact": "/a", "PathPrefix": "/b"})),
            "HTTP.PathPrefix: cannot stand beside \"PathExact\"",
        ),
        (l7(json!({"PathRegex": "("})), "HTTP.PathRegex: \"(\" is not a regular expression"),
        (l7(json!({"PathExact": "a"})), "HTTP.PathExact: \"a\" must begin with '/'"),
        (l7(json!({})), "HTTP: is empty"),
        (l7(json!({"Header": [{"Name": "x"}]})), "HTTP.Header[0]: needs exactly one of"),
        (
            json!({"Kind": "service-intentions", "Name": "api", "Sources": [
            {"Name": "web", "Action": "allow"}, {"Name": "web", "Action": "deny"}]}),
            "\"web\" is a source more than once",
        ),
        (
            json!({"Kind": "service-intentions", "Name": "*", "Sources": [
            {"Name": "web", "Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]}]}),
            "need one service as destination",
        ),
    ] {
        let found = faults(parse_config_entry(&body));
        assert!(found.len() == 1 && found[0].contains(text), "{text}\n{found:#?}");
    }
}

#[test]
fn the_nearest_key_is_found() {
    let keys = ["datacenter", "data_dir", "bind_addr", "node_name"];
    assert_eq!(nearest("datacentre", keys), Some("datacenter"));
    assert_eq!(nearest("dataDir", keys), Some("data_dir"));
    assert_eq!(nearest("nodename", keys), Some("node_name"));
    assert_eq!(nearest("banana", keys), None);
}

/// Any JSON, its keys often ones that a parser knows.
fn arbitrary() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:/.*é-]{0,12}".prop_map(Value::from),
        "[0-9]{1,3}(ms|s|h|x)".prop_map(Value::from),
    ];
    let key = proptest::sample::select(vec![
        "name",
        "ID",
        "Kind",
        "port",
        "ports",
        "checks",
        "check",
        "http",
        "ttl",
        "interval",
        "connect",
        "proxy",
        "sidecar_service",
        "upstreams",
        "Sources",
        "Action",
        "Permissions",
        "HTTP",
        "PathRegex",
        "Header",
        "Methods",
        "meta",
        "tags",
        "weights",
        "tagged_addresses",
        "locality",
        "Config",
        "protocol",
        "grpc",
        "tcp",
        "x",
    ]);
    leaf.prop_recursive(5, 48, 6, move |inner| {
        let map = proptest::collection::btree_map(key.clone(), inner.clone(), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            map.prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn no_input_makes_a_parser_panic(value in arbitrary(), kind in 0usize..3) {
        let _ = parse_service(&value);
        let _ = parse_check(&value, None);
        let mut entry = value;
        if let Some(object) = entry.as_object_mut() {
            object.insert("Kind".into(), crate::config_entry::ConfigKind::ALL[kind].as_str().into());
        }
        // What is accepted is what is shown again.
        if let Ok(entry) = parse_config_entry(&entry) {
            let shown = config_entry_to_json(&entry);
            proptest::prop_assert!(parse_config_entry(&shown).is_ok_and(|again| again.same_content(&entry)), "{}", shown);
        }
    }
}
