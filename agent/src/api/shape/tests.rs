use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::check::{Check, CheckDefinition, Probe, Status};
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ServiceIntentions};
use purlin_model::event::UserEvent;
use purlin_model::identity::TrustDomain;
use purlin_model::intention::{Action, Party, PathForm, Permission, Rule, SourceIntention};
use purlin_model::node::{Locality, Node, NodeRole, NodeStatus};
use purlin_model::query::{Failover, PreparedQuery, ServiceQuery};
use purlin_model::service::{
    Instance, Mesh, NamedPort, ServiceEntry, ServiceKind, TaggedAddress, Upstream, Weights,
};
use purlin_model::topic::{MeshInfo, RootCertificate};
use purlin_model::{
    CheckId, Datacenter, InstanceId, Millis, Namespace, NodeId, NodeName, Revision, ServiceName,
};
use serde_json::{Value, json};

use super::service::Shown;
use super::{certificate, check, event, instant, intention, node, query, schema, service};
use crate::filter::Filter;

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn host() -> Node {
    Node {
        id: Some(NodeId(uuid::Uuid::from_u128(7))),
        name: NodeName::new("host-1").unwrap(),
        datacenter: Datacenter::default(),
        address: "10.0.0.1".into(),
        tagged_addresses: BTreeMap::new(),
        meta: texts(&[("os", "debian")]),
        locality: Some(Locality { region: "eu".into(), zone: "a".into() }),
        mesh_port: Some(20_000),
        role: NodeRole::Agent,
        status: NodeStatus::Alive,
        version: "0.1.0".into(),
        create_index: Revision(3),
        modify_index: Revision(4),
    }
}

fn web() -> Instance {
    let upstream = Upstream {
        name: ServiceName::new("api").unwrap(),
        namespace: Namespace::default(),
        datacenter: None,
        peer: None,
        port_name: None,
        local_bind_address: "127.0.0.1".into(),
        local_bind_port: 9191,
        connect_timeout_ms: Some(100),
    };
    Instance {
        id: InstanceId::new("web-1").unwrap(),
        name: ServiceName::new("web").unwrap(),
        namespace: Namespace::default(),
        kind: ServiceKind::Typical,
        tags: vec!["v1".into()],
        meta: texts(&[("version", "1")]),
        address: "10.0.0.9".into(),
        port: 8080,
        ports: vec![NamedPort { name: "http".into(), port: 8080, protocol: None, default: true }],
        socket_path: String::new(),
        tagged_addresses: BTreeMap::from([(
            "wan".into(),
            TaggedAddress { address: "1.2.3.4".into(), port: 80 },
        )]),
        weights: Weights { passing: 10, warning: 1 },
        enable_tag_override: true,
        native: false,
        mesh: Some(Mesh { upstreams: vec![upstream], ..Mesh::default() }),
        locality: Some(Locality { region: "eu".into(), zone: "a".into() }),
        create_index: Revision(5),
        modify_index: Revision(6),
    }
}

fn alive() -> Check {
    Check {
        node: NodeName::new("host-1").unwrap(),
        id: CheckId::new("service:web-1").unwrap(),
        name: "up".into(),
        status: Status::Passing,
        notes: "n".into(),
        output: "200 OK".into(),
        service_id: Some(InstanceId::new("web-1").unwrap()),
        service_name: Some(ServiceName::new("web").unwrap()),
        service_tags: vec!["v1".into()],
        kind: "http".into(),
        interval: Duration::from_secs(10),
        timeout: Duration::ZERO,
        create_index: Revision(5),
        modify_index: Revision(6),
    }
}

fn sidecar() -> Shown {
    Shown::sidecar(&Arc::new(web()), Some(20_000)).unwrap()
}

#[test]
fn a_node_has_consuls_fields() {
    assert_eq!(
        node::node(&host()),
        json!({
            "ID": "00000000-0000-0000-0000-000000000007", "Node": "host-1", "Address": "10.0.0.1",
            "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "10.0.0.1", "lan_ipv4": "10.0.0.1", "wan": "10.0.0.1", "wan_ipv4": "10.0.0.1"},
            "Meta": {"os": "debian"}, "Locality": {"Region": "eu", "Zone": "a"},
            "CreateIndex": 3, "ModifyIndex": 4,
        })
    );
    let external = Node { role: NodeRole::External, id: None, ..host() };
    assert_eq!(node::node(&external)["TaggedAddresses"], json!({}));
    assert_eq!(node::node(&external)["ID"], "");
}

#[test]
fn a_member_has_serfs_numbers() {
    let member = node::member(&Node { status: NodeStatus::Failed, ..host() }, 20_000);
    assert_eq!(member["Status"], 4);
    assert_eq!(member["Tags"]["role"], "node");
    assert_eq!(member["Port"], 20_000);
    let server = node::member(&Node { role: NodeRole::Server, ..host() }, 8300);
    assert_eq!((&server["Tags"]["role"], &server["Tags"]["port"]), (&json!("consul"), &json!("8300")));
}

#[test]
fn a_service_of_health_has_consuls_fields() {
    assert_eq!(
        service::service(&Shown::registered(Arc::new(web()))),
        json!({
            "ID": "web-1", "Service": "web", "Tags": ["v1"], "Meta": {"version": "1"}, "Port": 8080,
            "Ports": [{"name": "http", "port": 8080, "default": true}],
            "Address": "10.0.0.9", "TaggedAddresses": {"wan": {"Address": "1.2.3.4", "Port": 80}},
            "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": true,
            "Locality": {"Region": "eu", "Zone": "a"},
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
            "CreateIndex": 5, "ModifyIndex": 6,
        })
    );
}

#[test]
fn a_sidecar_is_derived_from_its_instance() {
    let shape = service::service(&sidecar());
    assert_eq!(shape["Kind"], "connect-proxy");
    assert_eq!(
        (&shape["ID"], &shape["Service"]),
        (&json!("web-1-sidecar-proxy"), &json!("web-sidecar-proxy"))
    );
    assert_eq!((&shape["Port"], &shape["Address"]), (&json!(20_000), &json!("")));
    assert_eq!(
        shape["Proxy"],
        json!({
            "DestinationServiceName": "web", "DestinationServiceID": "web-1",
            "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080,
            "Upstreams": [{
                "DestinationType": "service", "DestinationName": "api", "Datacenter": "",
                "LocalBindAddress": "127.0.0.1", "LocalBindPort": 9191,
                "Config": {"connect_timeout_ms": 100}, "MeshGateway": {},
            }],
            "Mode": "", "MeshGateway": {}, "Expose": {},
        })
    );
}

#[test]
fn only_instances_in_the_mesh_have_a_sidecar() {
    let of = |instance: Instance, port| Shown::sidecar(&Arc::new(instance), port).is_some();
    assert!(of(web(), Some(1)));
    assert!(!of(web(), None));
    assert!(!of(Instance { mesh: None, ..web() }, Some(1)));
    assert!(!of(Instance { native: true, ..web() }, Some(1)));
    assert_eq!(Shown::both(&Arc::new(web()), Some(1)).count(), 2);
}

#[test]
fn native_instances_say_so() {
    let native = Shown::registered(Arc::new(Instance { native: true, ..web() }));
    assert_eq!(service::service(&native)["Connect"], json!({"Native": true}));
    assert_eq!(service::local(&native, "dc1")["Connect"], json!({"Native": true}));
}

#[test]
fn tags_and_metadata_are_never_null() {
    let bare =
        Instance { tags: Vec::new(), meta: BTreeMap::new(), tagged_addresses: BTreeMap::new(), ..web() };
    let shown = Shown::registered(Arc::new(bare));
    for (shape, tags, meta) in [
        (service::service(&shown), "Tags", "Meta"),
        (service::local(&shown, "dc1"), "Tags", "Meta"),
        (service::catalog(&host(), &shown), "ServiceTags", "ServiceMeta"),
    ] {
        assert_eq!((&shape[tags], &shape[meta]), (&json!([]), &json!({})));
    }
}

#[test]
fn a_local_service_names_its_datacenter() {
    let shape = service::local(&Shown::registered(Arc::new(web())), "dc1");
    assert_eq!(shape["Datacenter"], "dc1");
    assert!(shape.get("Proxy").is_none() && shape.get("CreateIndex").is_none());
}

#[test]
fn a_catalog_item_has_consuls_fields() {
    let shape = service::catalog(&host(), &sidecar());
    let fields: BTreeSet<&str> = shape.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "ID",
        "Node",
        "Address",
        "Datacenter",
        "TaggedAddresses",
        "NodeMeta",
        "ServiceKind",
        "ServiceID",
        "ServiceName",
        "ServiceTags",
        "ServiceAddress",
        "ServiceWeights",
        "ServiceMeta",
        "ServicePort",
        "ServiceSocketPath",
        "ServiceEnableTagOverride",
        "ServiceProxy",
        "ServiceConnect",
        "ServiceLocality",
        "CreateIndex",
        "ModifyIndex",
    ];
    assert_eq!(fields, BTreeSet::from(wanted));
    assert_eq!(shape["ServicePort"], 20_000);
}

#[test]
fn a_check_has_consuls_fields() {
    assert_eq!(
        check::check(&alive()),
        json!({
            "Node": "host-1", "CheckID": "service:web-1", "Name": "up", "Status": "passing", "Notes": "n",
            "Output": "200 OK", "ServiceID": "web-1", "ServiceName": "web", "ServiceTags": ["v1"], "Type": "http",
            "Interval": "10s", "Timeout": "", "ExposedPort": 0, "Definition": {}, "CreateIndex": 5, "ModifyIndex": 6,
        })
    );
}

#[test]
fn a_local_check_shows_its_definition_without_secrets() {
    let definition = CheckDefinition {
        id: CheckId::new("c").unwrap(),
        name: "c".into(),
        notes: String::new(),
        service_id: None,
        probe: Probe::Http {
            url: "http://127.0.0.1/".into(),
            method: "GET".into(),
            headers: BTreeMap::from([("Authorization".into(), vec!["secret".into()])]),
            body: "secret".into(),
            disable_redirects: false,
            tls: Default::default(),
        },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        initial: Status::Critical,
        success_before_passing: 0,
        failures_before_warning: 0,
        failures_before_critical: 0,
        deregister_critical_service_after: Some(Duration::from_secs(90)),
        output_max_size: 4096,
    };
    let shape = check::local(&alive(), Some(&definition));
    assert_eq!(shape["Definition"]["HTTP"], "http://127.0.0.1/");
    assert_eq!(shape["Definition"]["DeregisterCriticalServiceAfter"], "1m30s");
    assert!(!shape.to_string().contains("secret"));
}

fn intentions() -> ConfigEntry {
    let source = |name: &str, rule| SourceIntention {
        source: Party::parse(name).unwrap(),
        source_namespace: Namespace::default(),
        rule,
        description: "d".into(),
        legacy_meta: texts(&[("k", "v")]),
        created_at: Millis(1_700_000_000_000),
        updated_at: Millis(1_700_000_000_500),
    };
    let permission = Permission {
        action: Action::Allow,
        path: PathForm::Prefix("/".into()),
        headers: Vec::new(),
        methods: vec!["GET".into()],
    };
    let sources = vec![source("web", Rule::L4(Action::Allow)), source("*", Rule::L7(vec![permission]))];
    ConfigEntry {
        name: "api".into(),
        namespace: Namespace::default(),
        meta: BTreeMap::new(),
        body: ConfigBody::ServiceIntentions(ServiceIntentions { sources }),
        create_index: Revision(8),
        modify_index: Revision(9),
    }
}

#[test]
fn an_intention_has_consuls_fields() {
    let entry = intentions();
    let shapes: Vec<Value> = intention::pairs(&entry).map(intention::intention).collect();
    assert_eq!(
        shapes[0],
        json!({
            "SourceNS": "default", "SourceName": "web", "DestinationNS": "default", "DestinationName": "api",
            "SourceType": "consul", "Action": "allow", "Description": "d", "Meta": {"k": "v"}, "Precedence": 9,
            "CreatedAt": "2023-11-14T22:13:20Z", "UpdatedAt": "2023-11-14T22:13:20.5Z",
            "CreateIndex": 8, "ModifyIndex": 9,
        })
    );
    assert_eq!(shapes[1]["Precedence"], 8);
    assert_eq!(shapes[1]["Permissions"][0]["HTTP"]["PathPrefix"], "/");
    assert!(shapes[1].get("Action").is_none());
}

#[test]
fn roots_have_consuls_fields() {
    let root = |id: &str, active| RootCertificate {
        id: id.into(),
        name: "Purlin root".into(),
        pem: format!("pem of {id}"),
        serial: "01:00:00:00:00:00:00:00:02".into(),
        not_before: Millis(0),
        not_after: Millis(1_000),
        active,
        create_index: Revision(1),
        modify_index: Revision(2),
    };
    let mesh = MeshInfo {
        trust_domain: TrustDomain("uuid.mesh.internal".into()),
        datacenter: Datacenter::default(),
        roots: vec![root("old", false), root("new", true)],
        default_intention: Action::Deny,
        leaf_ttl_ms: 1,
        distrust: Default::default(),
        ca: None,
    };
    let shape = certificate::roots(&mesh);
    assert_eq!(
        (&shape["ActiveRootID"], &shape["TrustDomain"]),
        (&json!("new"), &json!("uuid.mesh.internal"))
    );
    assert_eq!(shape["Roots"][1]["RootCert"], "pem of new");
    assert_eq!(shape["Roots"][1]["SerialNumber"], 2);
    assert_eq!(shape["Roots"][0]["Active"], false);
    assert_eq!(certificate::pem(&mesh), "pem of new\npem of old\n");
}

#[test]
fn instants_are_written_as_go_does() {
    assert_eq!(instant(Millis(0)), "0001-01-01T00:00:00Z");
    assert_eq!(instant(Millis(1_700_000_000_000)), "2023-11-14T22:13:20Z");
    assert_eq!(instant(Millis(u64::MAX)), "0001-01-01T00:00:00Z");
}

/// Every selector that leads somewhere in a shape must be allowed by its schema.
#[test]
fn schemas_know_every_field_that_is_shown() {
    let shown = [Shown::registered(Arc::new(web())), sidecar()];
    let entry =
        ServiceEntry { node: Arc::new(host()), instance: Arc::new(web()), checks: vec![Arc::new(alive())] };
    let entries = intentions();
    let mut cases = vec![
        (node::node(&host()), schema::node()),
        (check::check(&alive()), schema::check()),
        (node::member(&host(), 1), schema::member()),
    ];
    for shown in &shown {
        cases.push((service::entry(&entry, shown), schema::entry()));
        cases.push((service::local(shown, "dc1"), schema::service()));
        cases.push((service::catalog(&host(), shown), schema::catalog_service()));
    }
    let fired = UserEvent { payload: vec![1], ..UserEvent::default() };
    cases.push((event::event(&fired), schema::event()));
    let failover = Failover { targets: vec!["dc2".into()], ..Failover::default() };
    let asked = ServiceQuery { failover, ..ServiceQuery::default() };
    cases
        .push((query::query(&PreparedQuery { service: asked, ..PreparedQuery::default() }), schema::query()));
    cases.extend(intention::pairs(&entries).map(|pair| (intention::intention(pair), schema::intention())));
    for (shape, schema) in cases {
        for selector in selectors(&shape, "") {
            // An operator that suits the kind is found among these, if the selector is known at all.
            let known = ["== 1", "== true", "is empty"]
                .iter()
                .any(|test| Filter::parse(&format!("{selector} {test}"), &schema).is_ok());
            assert!(known, "{selector} is shown but cannot be selected");
        }
    }
}

fn selectors(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let step = if at.is_empty() { name.clone() } else { format!("{at}[\"{name}\"]") };
                selectors(value, &step)
            })
            .collect(),
        Value::Array(items) => match items.first() {
            Some(Value::Object(_)) => items.iter().flat_map(|item| selectors(item, at)).collect(),
            _ => vec![at.to_owned()],
        },
        Value::Null => Vec::new(),
        _ => vec![at.to_owned()],
    }
}
