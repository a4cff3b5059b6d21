//! The view as a function of its inputs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use purlin_model::check::{Check, Status};
use purlin_model::config_entry::{
    ConfigBody, ConfigEntry, ConfigKind, ProxyDefaults, ServiceDefaults, ServiceIntentions,
};
use purlin_model::identity::TrustDomain;
use purlin_model::intention::{Action, Party, Rule, SourceIntention};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::service::{Instance, Mesh, NamedPort, Protocol, ServiceEntry, Upstream, Weights};
use purlin_model::topic::{Contents, MeshInfo, Record, Topic};
use purlin_model::view::{
    Absence, Credential, Dial, Listener, LocalInstance, Part, PartKey, Target, TargetKey,
};
use purlin_model::{Datacenter, InstanceId, Millis, NodeName, Revision, ServiceKey, ServiceName};

use super::{Built, Inputs, build, names, wanted_topics};
use crate::registry::{LocalCheck, LocalService, LocalState, Origin};

pub(crate) fn node(name: &str, address: &str) -> Node {
    Node {
        id: None,
        name: NodeName::new(name).unwrap(),
        datacenter: Datacenter::default(),
        address: address.into(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        locality: None,
        mesh_port: Some(20_000),
        role: NodeRole::Agent,
        status: NodeStatus::Alive,
        version: "0.1.0".into(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

pub(crate) fn instance(id: &str, name: &str, port: u16) -> Instance {
    Instance {
        id: InstanceId::new(id).unwrap(),
        name: ServiceName::new(name).unwrap(),
        namespace: Default::default(),
        kind: Default::default(),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        address: String::new(),
        port,
        ports: Vec::new(),
        socket_path: String::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        native: false,
        mesh: Some(Mesh::default()),
        locality: None,
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn upstream(name: &str, port: u16) -> Upstream {
    Upstream {
        name: ServiceName::new(name).unwrap(),
        namespace: Default::default(),
        datacenter: None,
        peer: None,
        port_name: None,
        local_bind_address: "127.0.0.1".into(),
        local_bind_port: port,
        connect_timeout_ms: None,
    }
}

fn check(node: &str, id: &str, service: Option<&str>, status: Status) -> Check {
    Check {
        node: NodeName::new(node).unwrap(),
        id: purlin_model::CheckId::new(id).unwrap(),
        name: id.into(),
        status,
        notes: String::new(),
        output: String::new(),
        service_id: service.map(|id| InstanceId::new(id).unwrap()),
        service_name: None,
        service_tags: Vec::new(),
        kind: String::new(),
        interval: Default::default(),
        timeout: Default::default(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

/// Inputs that a test changes before it builds.
struct Host {
    node: Node,
    mesh: MeshInfo,
    local: LocalState,
    credentials: BTreeMap<ServiceKey, Arc<Credential>>,
    topics: BTreeMap<Topic, Contents>,
}

impl Host {
    fn new() -> Self {
        let mesh = MeshInfo {
            trust_domain: TrustDomain("td.mesh.internal".into()),
            datacenter: Datacenter::default(),
            roots: Vec::new(),
            default_intention: Action::Deny,
            leaf_ttl_ms: 1000,
            distrust: Default::default(),
            ca: None,
        };
        let mut host = Self {
            node: node("here", "10.0.0.1"),
            mesh,
            local: LocalState::default(),
            credentials: BTreeMap::new(),
            topics: BTreeMap::new(),
        };
        host.known(Topic::Config(ConfigKind::ServiceIntentions, Some("*".into())));
        host
    }

    fn runs(mut self, instance: Instance) -> Self {
        let key = instance.key();
        self.known(Topic::Config(ConfigKind::ServiceIntentions, Some(key.name.to_string())));
        for upstream in instance.mesh.iter().flat_map(|mesh| &mesh.upstreams) {
            self.topics.entry(Topic::Service(upstream.key())).or_default();
        }
        let service = LocalService { instance: Arc::new(instance.clone()), origin: Origin::Api };
        self.local.services.insert(instance.id.clone(), Arc::new(service));
        self
    }

    fn checked(mut self, check: Check) -> Self {
        let local = LocalCheck { check: check.clone(), definition: None, origin: Origin::Api };
        self.local.checks.insert(check.id, Arc::new(local));
        self
    }

    fn known(&mut self, topic: Topic) -> &mut Contents {
        self.topics.entry(topic).or_default()
    }

    fn entry(mut self, node: Node, instance: Instance, checks: Vec<Check>) -> Self {
        let key = format!("{}/{}", node.name, instance.id);
        let topic = Topic::Service(instance.key());
        let checks = checks.into_iter().map(Arc::new).collect();
        let entry = ServiceEntry { node: Arc::new(node), instance: Arc::new(instance), checks };
        self.known(topic).records.insert(key, Record::Entry(entry));
        self
    }

    fn config(mut self, name: &str, body: ConfigBody) -> Self {
        let entry = ConfigEntry {
            name: name.into(),
            namespace: Default::default(),
            meta: BTreeMap::new(),
            body,
            create_index: Revision(1),
            modify_index: Revision(1),
        };
        let topic = Topic::Config(entry.kind(), Some(name.into()));
        self.known(topic).records.insert(name.into(), Record::Config(entry));
        self
    }

    fn allows(self, source: &str, destination: &str, action: Action) -> Self {
        let source = SourceIntention {
            source: Party::parse(source).unwrap(),
            source_namespace: Default::default(),
            rule: Rule::L4(action),
            description: String::new(),
            legacy_meta: BTreeMap::new(),
            created_at: Millis(0),
            updated_at: Millis(0),
        };
        self.config(destination, ConfigBody::ServiceIntentions(ServiceIntentions { sources: vec![source] }))
    }

    fn build(&self) -> Built {
        build(&Inputs {
            node: &self.node,
            inbound: &["10.0.0.1:20000".parse().unwrap()],
            detection_timeout: None,
            own_addresses: &["10.0.0.1".parse().unwrap()],
            mesh: &self.mesh,
            local: &self.local,
            credentials: &self.credentials,
            topic: &|topic| self.topics.get(topic).cloned().map(Arc::new),
        })
    }
}

impl Built {
    fn target(&self, name: &str) -> &Target {
        match &self.parts[&PartKey::Target(TargetKey::local(key(name)))] {
            Part::Target(target) => target,
            other => panic!("{other:?}"),
        }
    }

    fn local(&self, id: &str) -> Option<&LocalInstance> {
        match self.parts.get(&PartKey::Local(InstanceId::new(id).unwrap()))? {
            Part::Local(local) => Some(local),
            other => panic!("{other:?}"),
        }
    }

    fn listener(&self, address: &str) -> &Listener {
        match &self.parts[&PartKey::Listener(address.parse().unwrap())] {
            Part::Listener(listener) => listener,
            other => panic!("{other:?}"),
        }
    }

    fn may(&self, source: &str, destination: &str) -> Action {
        let Part::Policy(policy) = &self.parts[&PartKey::Policy(key(destination))] else {
            panic!("no policy")
        };
        match policy.deciding(&key(source)).map(|intention| &intention.rule) {
            Some(Rule::L4(action)) => *action,
            Some(Rule::L7(_)) => panic!("no L7 rule was written"),
            None => policy.default,
        }
    }
}

fn web() -> Instance {
    let mut web = instance("web", "web", 8080);
    web.mesh.as_mut().unwrap().upstreams = vec![upstream("api", 9191)];
    web
}

#[test]
fn an_upstream_has_a_listener_and_the_healthy_instances_of_its_service() {
    let mut slow = instance("api-2", "api", 80);
    slow.weights = Weights { passing: 10, warning: 3 };
    let host = Host::new()
        .runs(web())
        .entry(node("h1", "10.0.0.2"), instance("api-1", "api", 80), vec![])
        .entry(node("h2", "fd00::2"), slow, vec![check("h2", "c", None, Status::Warning)])
        .entry(
            node("h3", "10.0.0.4"),
            instance("api-3", "api", 80),
            vec![check("h3", "c", None, Status::Critical)],
        );
    let built = host.build();
    assert_eq!(built.listener("127.0.0.1:9191").target, TargetKey::local(key("api")));
    let target = built.target("api");
    assert_eq!(target.identity, "spiffe://td.mesh.internal/ns/default/dc/dc1/svc/api");
    let found: Vec<_> =
        target.endpoints.iter().map(|one| (one.address.to_string(), one.weight, one.local)).collect();
    assert_eq!(found, [("10.0.0.2:20000".into(), 1, false), ("[fd00::2]:20000".into(), 3, false)]);
    assert_eq!(target.absence, None);
}

#[test]
fn why_nobody_can_be_called_is_told() {
    let absence = |host: &Host| host.build().target("api").absence;
    let mut host = Host::new().runs(web());
    assert_eq!(absence(&host), Some(Absence::Unknown));
    host.topics.remove(&Topic::Service(key("api")));
    assert_eq!(absence(&host), Some(Absence::Pending));
    let mut plain = instance("api-1", "api", 80);
    plain.mesh = None;
    let host = Host::new().runs(web()).entry(node("h1", "10.0.0.2"), plain, vec![]);
    assert_eq!(absence(&host), Some(Absence::NotInMesh));
    let mut gone = node("h1", "10.0.0.2");
    gone.status = NodeStatus::Failed;
    let host = Host::new().runs(web()).entry(gone, instance("api-1", "api", 80), vec![]);
    assert_eq!(absence(&host), Some(Absence::Unhealthy));
}

#[test]
fn instances_of_this_host_are_taken_from_its_own_registry() {
    let stale = instance("api-gone", "api", 80);
    let host = Host::new()
        .runs(web())
        .runs(instance("api-1", "api", 80))
        .runs(instance("api-2", "api", 81))
        .checked(check("here", "c", Some("api-2"), Status::Critical))
        .entry(node("here", "10.0.0.1"), stale, vec![]);
    let built = host.build();
    let found: Vec<_> =
        built.target("api").endpoints.iter().map(|one| (one.instance.as_str(), one.local)).collect();
    assert_eq!(found, [("api-1", true)]);
    assert!(built.local("api-1").unwrap().healthy);
    assert!(!built.local("api-2").unwrap().healthy);
}

#[test]
fn a_node_in_maintenance_takes_all_its_instances_out() {
    let host = Host::new().runs(web()).checked(check("here", "_node_maintenance", None, Status::Critical));
    assert!(!host.build().local("web").unwrap().healthy);
}

#[test]
fn a_second_upstream_on_a_taken_address_is_left_out_and_said() {
    let mut other = instance("worker", "worker", 0);
    other.mesh.as_mut().unwrap().upstreams = vec![upstream("db", 9191)];
    let built = Host::new().runs(web()).runs(other).build();
    assert_eq!(built.listener("127.0.0.1:9191").source_instance.as_str(), "web");
    assert_eq!(built.skipped.len(), 1);
    assert!(built.skipped[0].contains("held by upstream api of web"), "{}", built.skipped[0]);
    assert!(!built.parts.contains_key(&PartKey::Target(TargetKey::local(key("db")))));
}

#[test]
fn policies_hold_what_concerns_the_service_and_deny_while_something_is_unknown() {
    let host = Host::new().runs(web()).allows("shop", "web", Action::Allow).allows("*", "*", Action::Deny);
    let built = host.build();
    assert_eq!(built.may("shop", "web"), Action::Allow);
    assert_eq!(built.may("other", "web"), Action::Deny);
    let mut open = Host::new().runs(web());
    open.mesh.default_intention = Action::Allow;
    assert_eq!(open.build().may("other", "web"), Action::Allow);
    open.topics.remove(&Topic::Config(ConfigKind::ServiceIntentions, Some("*".into())));
    assert_eq!(open.build().may("other", "web"), Action::Deny);
}

#[test]
fn an_application_is_dialled_where_it_can_only_be_this_host() {
    let dial = |address: &str, mesh: Mesh| {
        let mut one = instance("web", "web", 8080);
        one.address = address.into();
        one.mesh = Some(mesh);
        match &Host::new().runs(one).build().local("web").unwrap().ports[0].dial {
            Dial::Tcp(address) => address.to_string(),
            Dial::Unix(path) => path.clone(),
        }
    };
    assert_eq!(dial("", Mesh::default()), "127.0.0.1:8080");
    assert_eq!(dial("10.0.0.1", Mesh::default()), "10.0.0.1:8080");
    assert_eq!(dial("127.0.0.7", Mesh::default()), "127.0.0.7:8080");
    assert_eq!(dial("0.0.0.0", Mesh::default()), "127.0.0.1:8080");
    assert_eq!(dial("::", Mesh::default()), "[::1]:8080");
    assert_eq!(dial("192.0.2.9", Mesh::default()), "127.0.0.1:8080");
    assert_eq!(dial("web.example", Mesh::default()), "127.0.0.1:8080");
    let told = Mesh { local_address: Some("172.17.0.2".into()), local_port: Some(80), ..Mesh::default() };
    assert_eq!(dial("10.0.0.1", told), "172.17.0.2:80");
    let socket = Mesh { local_socket_path: Some("/run/web.sock".into()), ..Mesh::default() };
    assert_eq!(dial("", socket), "/run/web.sock");
}

#[test]
fn named_ports_are_told_apart_by_their_server_names() {
    let port = |name: &str, port, protocol, default| NamedPort { name: name.into(), port, protocol, default };
    let mut api = instance("api-1", "api", 0);
    api.ports =
        vec![port("http", 80, Some(Protocol::Http), true), port("admin", 81, Some(Protocol::Tcp), false)];
    let mut one = web();
    one.mesh.as_mut().unwrap().upstreams[0].port_name = Some("admin".into());
    let built = Host::new().runs(one).runs(api).build();
    let names: Vec<_> =
        built.local("api-1").unwrap().ports.iter().map(|one| one.server_name.clone()).collect();
    assert_eq!(names.len(), 3);
    let target = TargetKey { port_name: Some("admin".into()), ..TargetKey::local(key("api")) };
    let Part::Target(target) = &built.parts[&PartKey::Target(target)] else { panic!("no target") };
    assert_eq!(target.protocol, Some(Protocol::Tcp));
    assert_eq!(target.endpoints[0].server_name, names[2]);
    let default = &built.local("api-1").unwrap().ports[0];
    assert_eq!((default.name.clone(), default.protocol), (None, Some(Protocol::Http)));
    assert_eq!(default.dial, Dial::Tcp("127.0.0.1:80".parse::<SocketAddr>().unwrap()));
}

#[test]
fn server_names_are_those_of_the_design() {
    let id = InstanceId::new("web-1").unwrap();
    let domain = TrustDomain("td.mesh.internal".into());
    let dc = Datacenter::default();
    // printf web-1 | sha256sum
    let expected = "c4719afa76fa448b.default.web.default.dc1.internal.td.mesh.internal";
    let name = names::instance(&id, None, &key("web"), &dc, &domain);
    assert_eq!(name.split_once('.').map(|(_, rest)| rest), expected.split_once('.').map(|(_, rest)| rest));
    assert_eq!(name, expected);
    assert_eq!(names::service(None, &key("web"), &dc, &domain), "web.default.dc1.internal.td.mesh.internal");
    assert_eq!(
        names::service(Some("admin"), &key("web"), &dc, &domain),
        "admin.web.default.dc1.internal.td.mesh.internal"
    );
}

#[test]
fn protocol_and_limits_come_from_service_defaults_then_from_proxy_defaults() {
    let defaults = ServiceDefaults {
        protocol: Some(Protocol::Grpc),
        local_connect_timeout_ms: Some(250),
        max_inbound_connections: Some(0),
        ..ServiceDefaults::default()
    };
    let mesh_wide = ProxyDefaults { protocol: Some(Protocol::Http), detection_timeout_ms: Some(7) };
    let built = Host::new()
        .runs(web())
        .runs(instance("other", "other", 90))
        .config("web", ConfigBody::ServiceDefaults(defaults))
        .config("global", ConfigBody::ProxyDefaults(mesh_wide))
        .build();
    let local = built.local("web").unwrap();
    assert_eq!((local.protocol, local.connect_timeout_ms), (Some(Protocol::Grpc), 250));
    assert_eq!(local.max_connections, None);
    assert_eq!(built.local("other").unwrap().protocol, Some(Protocol::Http));
    let Part::Settings(settings) = &built.parts[&PartKey::Settings] else { panic!("no settings") };
    assert_eq!(settings.detection_timeout_ms, 7);
}

#[test]
fn native_and_unmeshed_instances_are_none_of_the_proxy() {
    let mut native = instance("native", "native", 80);
    native.native = true;
    let mut plain = instance("plain", "plain", 80);
    plain.mesh = None;
    let built = Host::new().runs(native).runs(plain).build();
    assert_eq!(built.parts.keys().collect::<Vec<_>>(), [&PartKey::Settings]);
}

#[test]
fn what_is_followed_for_good_is_what_this_host_cannot_do_without() {
    let mut native = instance("native", "native", 80);
    native.native = true;
    native.mesh = None;
    let mut plain = instance("plain", "plain", 80);
    plain.mesh = None;
    let host = Host::new().runs(web()).runs(native).runs(plain);
    let (topics, too_many) = wanted_topics(&host.node.name, &host.local);
    assert!(!too_many);
    for topic in [
        Topic::Mesh,
        Topic::Servers,
        Topic::Node(host.node.name.clone()),
        Topic::Service(key("api")),
        Topic::Service(key("web")),
        Topic::Service(key("plain")),
        Topic::Service(key("native")),
        Topic::Config(ConfigKind::ServiceIntentions, Some("native".into())),
        Topic::Config(ConfigKind::ProxyDefaults, Some("global".into())),
        Topic::Config(ConfigKind::ServiceDefaults, Some("api".into())),
        Topic::Config(ConfigKind::ServiceDefaults, Some("web".into())),
        Topic::Config(ConfigKind::ServiceIntentions, Some("web".into())),
        Topic::Config(ConfigKind::ServiceIntentions, Some("api".into())),
        Topic::Config(ConfigKind::ServiceIntentions, Some("*".into())),
    ] {
        assert!(topics.contains(&topic), "{topic}");
    }
    assert_eq!(topics.len(), 14);
}

#[test]
fn of_very_many_instances_each_host_takes_a_part_of_its_own() {
    let mut host = Host::new().runs(web()).runs(instance("mine", "api", 80));
    for n in 0..6_100 {
        host = host.entry(node(&format!("n{n}"), "10.0.0.2"), instance("api", "api", 80), vec![]);
    }
    let first = host.build();
    assert_eq!(first.target("api").endpoints.len(), 6_000);
    assert!(first.target("api").endpoints.iter().any(|endpoint| endpoint.local));
    assert_eq!(first, host.build(), "the choice stays the same");
    host.node.name = NodeName::new("elsewhere").unwrap();
    assert_ne!(first.target("api").endpoints, host.build().target("api").endpoints);
}
