//! One of each kind of record, and messages made of them, for the tests of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::check::{Check, Status};
use purlin_model::command::JoinTokenInfo;
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ServiceIntentions};
use purlin_model::event::UserEvent;
use purlin_model::identity::TrustDomain;
use purlin_model::intention::{Action, Party, Rule, SourceIntention};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::query::{Failover, PreparedQuery, ServiceQuery, Template};
use purlin_model::service::{Instance, NamedPort, Protocol, ServiceEntry, ServiceKind, Weights};
use purlin_model::topic::{MeshInfo, Record, RootCertificate, ServerInfo, ServiceSummary};
use purlin_model::{
    CheckId, Datacenter, InstanceId, Millis, Namespace, NodeId, NodeName, Revision, ServiceKey, ServiceName,
};

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn key(text: &str) -> ServiceKey {
    ServiceKey::new(name(text))
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain("11111111-2222-3333-4444-555555555555.mesh.internal".into())
}

pub(crate) fn node_name() -> NodeName {
    NodeName::new("host-1").unwrap()
}

pub(crate) fn node_id() -> NodeId {
    NodeId(uuid::Uuid::from_u128(0x1234_5678))
}

pub(crate) fn node() -> Node {
    Node {
        id: Some(node_id()),
        name: node_name(),
        datacenter: Datacenter::default(),
        address: "10.0.0.1".into(),
        tagged_addresses: BTreeMap::from([("wan".into(), "192.0.2.1".into())]),
        meta: BTreeMap::from([("rack".into(), "7".into())]),
        locality: None,
        mesh_port: Some(20_000),
        role: NodeRole::Agent,
        status: NodeStatus::Alive,
        version: "0.1.0".into(),
        create_index: Revision(3),
        modify_index: Revision(4),
    }
}

pub(crate) fn check() -> Check {
    Check {
        node: node_name(),
        id: CheckId::new("service:web").unwrap(),
        name: "web answers".into(),
        status: Status::Passing,
        notes: String::new(),
        output: "200 OK".into(),
        service_id: Some(InstanceId::new("web").unwrap()),
        service_name: Some(name("web")),
        service_tags: vec!["v1".into()],
        kind: "http".into(),
        interval: Duration::from_secs(10),
        timeout: Duration::from_millis(1500),
        create_index: Revision(5),
        modify_index: Revision(6),
    }
}

pub(crate) fn instance() -> Instance {
    Instance {
        id: InstanceId::new("web").unwrap(),
        name: name("web"),
        namespace: Namespace::default(),
        kind: ServiceKind::Typical,
        tags: vec!["v1".into()],
        meta: BTreeMap::from([("version".into(), "1".into())]),
        address: String::new(),
        port: 8080,
        ports: vec![NamedPort {
            name: "admin".into(),
            port: 8081,
            protocol: Some(Protocol::Http),
            default: false,
        }],
        socket_path: String::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        native: false,
        mesh: None,
        locality: None,
        create_index: Revision(5),
        modify_index: Revision(6),
    }
}

fn config() -> ConfigEntry {
    let source = SourceIntention {
        source: Party::Service(name("web")),
        source_namespace: Namespace::default(),
        rule: Rule::L4(Action::Allow),
        description: "the shop".into(),
        legacy_meta: BTreeMap::new(),
        created_at: Millis(1_000),
        updated_at: Millis(2_000),
    };
    ConfigEntry {
        name: "api".into(),
        namespace: Namespace::default(),
        meta: BTreeMap::new(),
        body: ConfigBody::ServiceIntentions(ServiceIntentions { sources: vec![source] }),
        create_index: Revision(7),
        modify_index: Revision(8),
    }
}

fn mesh() -> MeshInfo {
    let root = RootCertificate {
        id: "aa:bb".into(),
        name: "root".into(),
        pem: "-----BEGIN CERTIFICATE-----".into(),
        serial: "1".into(),
        not_before: Millis(1),
        not_after: Millis(2),
        active: true,
        create_index: Revision(1),
        modify_index: Revision(1),
    };
    MeshInfo {
        trust_domain: domain(),
        datacenter: Datacenter::default(),
        roots: vec![root],
        default_intention: Action::Deny,
        leaf_ttl_ms: 259_200_000,
        distrust: Default::default(),
        ca: None,
    }
}

/// One of each kind that the first release knew: what its golden files hold.
pub(crate) fn records() -> Vec<Record> {
    let summary = ServiceSummary {
        name: name("web"),
        namespace: Namespace::default(),
        tags: vec!["v1".into()],
        instances: 2,
        in_mesh: true,
    };
    let entry = ServiceEntry {
        node: Arc::new(node()),
        instance: Arc::new(instance()),
        checks: vec![Arc::new(check())],
    };
    let server = ServerInfo {
        node: node_name(),
        address: "10.0.0.1:8300".into(),
        leader: true,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    };
    let token = JoinTokenInfo {
        id: "6f1d".into(),
        role: NodeRole::Agent,
        created: Millis(1),
        expires: Millis(2),
        uses: 10,
        uses_left: 9,
    };
    vec![
        Record::Node(node()),
        Record::Instance(instance()),
        Record::Check(check()),
        Record::Entry(entry),
        Record::ServiceSummary(summary),
        Record::Config(config()),
        Record::Mesh(mesh()),
        Record::Server(server),
        Record::JoinToken(token),
    ]
}

/// Kinds that came with the second level.
pub(crate) fn events_and_queries() -> Vec<Record> {
    let event = UserEvent {
        id: uuid::Uuid::from_u128(7),
        name: "deploy".into(),
        payload: b"v2".to_vec(),
        node_filter: "^host-".into(),
        service_filter: "web".into(),
        tag_filter: "v1".into(),
        ltime: 9,
    };
    let service = ServiceQuery {
        service: "${match(1)}".into(),
        failover: Failover { nearest: 2, datacenters: vec!["dc2".into()], targets: Vec::new() },
        only_passing: true,
        ignore_checks: vec!["flaky".into()],
        near: "_agent".into(),
        tags: vec!["v1".into(), "!old".into()],
        node_meta: BTreeMap::from([("rack".into(), "7".into())]),
        service_meta: BTreeMap::from([("engine".into(), "pg".into())]),
        connect: true,
    };
    let query = PreparedQuery {
        id: uuid::Uuid::from_u128(8),
        name: "geo-".into(),
        session: Some(uuid::Uuid::from_u128(9)),
        token: "secret".into(),
        template: Some(Template { regexp: "^geo-(.*)$".into(), remove_empty_tags: true }),
        service,
        ttl: "10s".into(),
        create_index: Revision(4),
        modify_index: Revision(5),
    };
    vec![Record::Event(event), Record::Query(query)]
}

/// One of each kind.
pub(crate) fn all_records() -> Vec<Record> {
    [records(), events_and_queries()].concat()
}
