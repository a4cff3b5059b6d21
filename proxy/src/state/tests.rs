use std::collections::BTreeMap;

use purlin_model::intention::{Action, Policy};
use purlin_model::view::{Credential, LocalPort, Part, PartKey};
use purlin_model::{Datacenter, Millis, NodeName, ServiceName};
use purlin_wire::testing::TestCa;
use purlin_wire::tls;

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

fn settings(ca: &TestCa, roots: Vec<Vec<u8>>) -> (PartKey, Part) {
    let settings = Settings {
        node: NodeName::new("one").unwrap(),
        datacenter: Datacenter::default(),
        trust_domain: ca.trust_domain.clone(),
        inbound: vec![],
        roots,
        revoked: Default::default(),
        detection_timeout_ms: 100,
        locality: None,
    };
    (PartKey::Settings, Part::Settings(settings))
}

fn credential(ca: &TestCa, service: &str) -> (PartKey, Part) {
    let (private, csr) = tls::new_key_and_csr().unwrap();
    let identity = ca.service(service);
    let credential = Credential {
        service: key(service),
        identity: identity.to_string(),
        chain: ca.sign(&csr, &identity),
        key: private,
        not_before: Millis(0),
        not_after: Millis(0),
    };
    (PartKey::Credential(key(service)), Part::Credential(credential))
}

fn local(id: &str, healthy: bool) -> (PartKey, Part) {
    let instance = LocalInstance {
        id: InstanceId::new(id).unwrap(),
        service: key("api"),
        ports: vec![LocalPort {
            server_name: format!("{id}.default.api"),
            service_server_name: "api".into(),
            name: None,
            protocol: None,
            dial: Dial::Unix(format!("/{id}")),
        }],
        healthy,
        protocol: Some(Protocol::Http),
        connect_timeout_ms: 1,
        request_timeout_ms: None,
        max_connections: Some(1),
    };
    (PartKey::Local(instance.id.clone()), Part::Local(instance))
}

fn policy(default: Action) -> (PartKey, Part) {
    (PartKey::Policy(key("api")), Part::Policy(Policy::new(key("api"), default, vec![])))
}

fn set(parts: impl IntoIterator<Item = (PartKey, Part)>) -> Update {
    Update { revision: 1, set: parts.into_iter().collect(), ..Update::default() }
}

fn remove(key: &PartKey) -> Update {
    Update { revision: 2, removed: [key.clone()].into(), ..Update::default() }
}

fn ca() -> TestCa {
    TestCa::new("11111111-2222-3333-4444-555555555555.mesh.internal")
}

#[test]
fn what_did_not_change_is_the_same_object() {
    let ca = ca();
    let mut builder = Builder::default();
    let parts =
        [settings(&ca, vec![ca.root_der()]), credential(&ca, "web"), policy(Action::Deny), local("a", true)];
    assert_eq!(builder.apply(set(parts.clone())).1, Vec::<String>::new());
    let before = builder.state();
    // An agent that starts anew says all of it again.
    let again = Update { reset: true, revision: 9, ..set(parts) };
    let (changes, problems) = builder.apply(again);
    assert!(problems.is_empty() && changes.policies.is_empty() && !changes.locals);
    let after = builder.state();
    assert_eq!(after.revision, 9);
    assert!(Arc::ptr_eq(&before.identities[&key("web")], &after.identities[&key("web")]));
    assert!(Arc::ptr_eq(&before.guards, &after.guards) && Arc::ptr_eq(&before.names, &after.names));
}

#[test]
fn a_reset_forgets_what_is_not_said_again() {
    let ca = ca();
    let mut builder = Builder::default();
    builder.apply(set([settings(&ca, vec![ca.root_der()]), credential(&ca, "web"), local("a", true)]));
    let (changes, _) = builder
        .apply(Update { reset: true, ..set([settings(&ca, vec![ca.root_der()]), credential(&ca, "db")]) });
    assert!(changes.locals);
    let state = builder.state();
    assert_eq!(state.identities.keys().collect::<Vec<_>>(), [&key("db")]);
    assert!(state.names.is_empty() && builder.parts() == 2);
}

#[test]
fn a_certificate_that_cannot_be_used_leaves_the_old_one_in_force() {
    let ca = ca();
    let mut builder = Builder::default();
    builder.apply(set([settings(&ca, vec![ca.root_der()]), credential(&ca, "web")]));
    let before = builder.state().identities[&key("web")].clone();
    let (partkey, mut part) = credential(&ca, "web");
    let Part::Credential(broken) = &mut part else { panic!("a credential") };
    broken.key = vec![1, 2, 3];
    let (_, problems) = builder.apply(set([(partkey.clone(), part)]));
    assert!(problems[0].starts_with("certificate of web: private key cannot be used"), "{problems:?}");
    assert!(Arc::ptr_eq(&before, &builder.state().identities[&key("web")]));
    builder.apply(remove(&partkey));
    assert!(builder.state().identities.is_empty());
}

#[test]
fn other_roots_make_all_certificates_anew() {
    let (ca, other) = (ca(), ca());
    let mut builder = Builder::default();
    // The certificate may come before the roots.
    builder.apply(set([credential(&ca, "web")]));
    assert!(builder.state().identities.is_empty());
    builder.apply(set([settings(&ca, vec![ca.root_der()])]));
    let before = builder.state().identities[&key("web")].clone();
    builder.apply(set([settings(&ca, vec![ca.root_der(), other.root_der()])]));
    assert!(!Arc::ptr_eq(&before, &builder.state().identities[&key("web")]));
    let (_, problems) = builder.apply(set([settings(&ca, vec![])]));
    assert!(problems[0].contains("no root certificate"), "{problems:?}");
    assert!(builder.state().identities.is_empty() && builder.state().anchors.is_none());
}

#[test]
fn a_name_of_a_service_stands_for_a_healthy_instance_and_one_of_an_instance_for_itself() {
    let mut builder = Builder::default();
    builder.apply(set([local("a", false), local("b", true)]));
    let state = builder.state();
    let id = |name: &str| state.destination(name).map(|one| one.instance.id.to_string());
    assert_eq!(id("api").as_deref(), Some("b"));
    assert_eq!(id("a.default.api").as_deref(), Some("a"));
    assert_eq!(id("c.default.api"), None);
}

#[test]
fn places_of_an_instance_are_counted_over_changes() {
    let mut builder = Builder::default();
    builder.apply(set([local("a", true)]));
    let place = builder.state().destination("api").unwrap().place();
    assert!(place.is_some());
    builder.apply(set([local("a", false)]));
    assert!(builder.state().destination("api").unwrap().place().is_none());
    drop(place);
    assert!(builder.state().destination("api").unwrap().place().is_some());
}

#[test]
fn a_policy_that_goes_with_its_service_cuts_nothing_but_one_that_goes_alone_does() {
    let mut builder = Builder::default();
    let (of_policy, of_local) = (policy(Action::Allow).0, local("a", true).0);
    builder.apply(set([policy(Action::Allow), local("a", true)]));
    let (alone, _) = builder.apply(remove(&of_policy));
    assert!(alone.policies.contains(&key("api")));
    builder.apply(set([policy(Action::Allow), local("a", true)]));
    let both = Update { removed: [of_policy, of_local].into(), ..Update::default() };
    let (together, _) = builder.apply(both);
    assert!(together.policies.is_empty());
}

#[test]
fn a_part_under_a_key_of_another_kind_is_not_taken() {
    let mut builder = Builder::default();
    let parts = BTreeMap::from([(PartKey::Policy(key("api")), local("a", true).1)]);
    builder.apply(Update { set: parts, ..Update::default() });
    assert!(builder.state().guards.is_empty() && builder.state().instances.is_empty());
}
