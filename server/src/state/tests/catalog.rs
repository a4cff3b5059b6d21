//! Registration and deregistration.

use purlin_model::command::{Deregister, DeregisterWhat, Register};
use purlin_model::limit;
use purlin_model::service::{NamedPort, TaggedAddress};

use super::*;

fn topics(touched: &Touched) -> Vec<String> {
    touched.keys.iter().map(|(topic, key)| format!("{topic}:{key}")).collect()
}

fn gone(node: &str, what: DeregisterWhat) -> Command {
    Command::Deregister(Deregister { node: node_name(node), what })
}

#[test]
fn one_registration_touches_all_that_shows_it() {
    let mut log = Log::new();
    let touched = log.yes(register(
        node("n1"),
        Some(instance("web-1", "web")),
        vec![check("n1", "alive", Some("web-1"), Status::Passing)],
    ));
    assert_eq!(
        topics(&touched),
        [
            "nodes:n1",
            "node/n1:check/alive",
            "node/n1:instance/web-1",
            "node/n1:node",
            "services:web",
            "service/web:n1/web-1",
            "checks:n1/alive",
            "checks/passing:n1/alive",
        ]
    );
    let Some(Record::Entry(entry)) = log.state.record(&Topic::Service(service_key("web")), "n1/web-1") else {
        panic!("no entry");
    };
    assert_eq!(entry.checks[0].service_name.as_ref().map(ServiceName::as_str), Some("web"));
    assert_eq!(entry.checks[0].service_tags, ["v1"]);
    assert_eq!(entry.instance.create_index, Revision(10));
}

#[test]
fn what_does_not_change_keeps_its_index_and_wakes_nobody() {
    let mut log = Log::new();
    let command = register(
        node("n1"),
        Some(instance("web-1", "web")),
        vec![check("n1", "alive", Some("web-1"), Status::Passing)],
    );
    log.yes(command.clone());
    let touched = log.yes(command);
    assert_eq!(touched.keys, []);
    assert_eq!(log.state.revision(&Topic::Service(service_key("web"))), Revision(10));
    assert_eq!(log.state.applied(), Revision(11));
    // A topic that never had a record answers at least 1.
    assert_eq!(log.state.revision(&Topic::Service(service_key("other"))), Revision(1));
}

#[test]
fn a_write_to_one_service_leaves_the_revision_of_another() {
    let mut log = Log::new();
    log.yes(register(node("n1"), Some(instance("web-1", "web")), vec![]));
    log.yes(register(node("n2"), Some(instance("api-1", "api")), vec![]));
    assert_eq!(log.state.revision(&Topic::Service(service_key("web"))), Revision(10));
    assert_eq!(log.state.revision(&Topic::Service(service_key("api"))), Revision(11));
}

#[test]
fn a_node_check_counts_for_every_instance_and_touches_them() {
    let mut log = Log::new();
    log.yes(register(node("n1"), Some(instance("web-1", "web")), vec![]));
    log.yes(register(node("n1"), Some(instance("api-1", "api")), vec![]));
    let touched = log.yes(register(node("n1"), None, vec![check("n1", "disk", None, Status::Critical)]));
    for key in ["service/web:n1/web-1", "service/api:n1/api-1"] {
        assert!(topics(&touched).contains(&key.to_owned()), "{key}");
    }
    assert_eq!(log.status("web", "n1/web-1"), Status::Critical);
    assert_eq!(log.status("api", "n1/api-1"), Status::Critical);
    let touched = log.yes(register(node("n1"), None, vec![check("n1", "disk", None, Status::Passing)]));
    assert_eq!(log.status("web", "n1/web-1"), Status::Passing);
    for key in ["checks/passing:n1/disk", "checks/critical:n1/disk"] {
        assert!(topics(&touched).contains(&key.to_owned()), "{key}");
    }
    assert_eq!(log.keys(&Topic::Checks(Some(Status::Critical))), [""; 0]);
}

#[test]
fn a_registration_is_all_or_nothing() {
    let mut log = Log::new();
    let orphan = check("n1", "alive", Some("nobody"), Status::Passing);
    let (code, text) = log.refused(register(node("n1"), Some(instance("web-1", "web")), vec![orphan]));
    assert_eq!(code, FaultCode::Invalid);
    assert!(text.contains("service id nobody, which is not registered on node n1"), "{text}");
    assert_eq!(log.keys(&Topic::Nodes), [""; 0]);
    let elsewhere = check("n2", "alive", None, Status::Passing);
    assert!(log.refused(register(node("n1"), None, vec![elsewhere])).1.contains("is of node n2"));
}

#[test]
fn checks_that_are_not_named_again_go_when_asked() {
    let mut log = Log::new();
    let two = vec![
        check("n1", "a", Some("web-1"), Status::Passing),
        check("n1", "b", Some("web-1"), Status::Passing),
        check("n1", "disk", None, Status::Passing),
    ];
    log.yes(register(node("n1"), Some(instance("web-1", "web")), two));
    log.yes(Command::Register(Register {
        node: node("n1"),
        skip_node_update: false,
        instance: Some(instance("web-1", "web")),
        checks: vec![check("n1", "b", Some("web-1"), Status::Passing)],
        replace_checks: true,
    }));
    assert_eq!(log.keys(&Topic::Checks(None)), ["n1/b", "n1/disk"]);
}

#[test]
fn checks_follow_the_tags_and_the_name_of_their_instance() {
    let mut log = Log::new();
    log.yes(register(
        node("n1"),
        Some(instance("one", "web")),
        vec![check("n1", "a", Some("one"), Status::Passing)],
    ));
    log.yes(register(
        node("n1"),
        Some(Instance { tags: vec!["v2".into()], ..instance("one", "api") }),
        vec![],
    ));
    assert_eq!(log.keys(&Topic::Services), ["api"]);
    assert_eq!(log.keys(&Topic::Service(service_key("web"))), [""; 0]);
    let Some(Record::Check(check)) = log.state.record(&Topic::Checks(None), "n1/a") else {
        panic!("no check")
    };
    assert_eq!(check.service_name.as_ref().map(ServiceName::as_str), Some("api"));
    assert_eq!(check.service_tags, ["v2"]);
}

#[test]
fn the_summary_tells_tags_count_and_mesh() {
    let mut log = Log::new();
    log.yes(register(node("n1"), Some(meshed("web-1", "web")), vec![]));
    log.yes(register(
        node("n2"),
        Some(Instance { tags: vec!["v2".into(), "v1".into()], ..instance("web-2", "web") }),
        vec![],
    ));
    let summary = |log: &Log| match log.state.record(&Topic::Services, "web") {
        Some(Record::ServiceSummary(summary)) => (summary.tags, summary.instances, summary.in_mesh),
        other => panic!("{other:?}"),
    };
    assert_eq!(summary(&log), (vec!["v1".to_owned(), "v2".into()], 2, true));
    log.apply(gone("n1", DeregisterWhat::Instance(InstanceId::new("web-1").unwrap())));
    assert_eq!(summary(&log), (vec!["v1".to_owned(), "v2".into()], 1, false));
    // Only the check changes, so the list of services is left alone.
    let touched = log.yes(register(node("n2"), None, vec![check("n2", "c", Some("web-2"), Status::Warning)]));
    assert!(!topics(&touched).contains(&"services:web".to_owned()));
}

#[test]
fn deregistration_cascades_and_says_whether_there_was_anything() {
    let mut log = Log::new();
    let checks =
        vec![check("n1", "a", Some("web-1"), Status::Passing), check("n1", "disk", None, Status::Passing)];
    log.yes(register(node("n1"), Some(instance("web-1", "web")), checks));
    let web = || DeregisterWhat::Instance(InstanceId::new("web-1").unwrap());
    assert_eq!(log.apply(gone("n1", web())).0.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(log.apply(gone("n1", web())).0.result, Ok(Done::Deleted { existed: false }));
    assert_eq!(log.keys(&Topic::Checks(None)), ["n1/disk"]);
    assert_eq!(log.keys(&Topic::Services), [""; 0]);
    let (outcome, touched) = log.apply(gone("n1", DeregisterWhat::Node));
    assert_eq!(outcome.result, Ok(Done::Deleted { existed: true }));
    assert!(topics(&touched).contains(&"checks/passing:n1/disk".to_owned()));
    assert_eq!(log.keys(&Topic::Nodes), [""; 0]);
    assert_eq!(log.keys(&Topic::Node(node_name("n1"))), [""; 0]);
}

#[test]
fn names_and_ids_of_nodes_do_not_mix() {
    let mut log = Log::new();
    let with_id = |name: &str, id| Node { id: Some(node_id(id)), ..node(name) };
    log.yes(register(with_id("n1", 1), None, vec![]));
    assert_eq!(log.refused(register(with_id("n1", 2), None, vec![])).0, FaultCode::Conflict);
    assert_eq!(log.refused(register(with_id("n2", 1), None, vec![])).0, FaultCode::Conflict);
    // Without an id the node keeps the one it has.
    log.yes(register(Node { address: "10.0.0.9".into(), ..node("n1") }, None, vec![]));
    let kept = log.state.node(&node_name("n1")).unwrap();
    assert_eq!((kept.id, kept.address.as_str()), (Some(node_id(1)), "10.0.0.9"));
}

#[test]
fn whoever_registers_on_a_member_from_outside_does_not_change_the_host() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    let outside = Node { address: "6.6.6.6".into(), ..node("h1") };
    log.yes(register(outside, Some(instance("db", "db")), vec![]));
    let host = log.state.node(&node_name("h1")).unwrap();
    assert_eq!((host.address.as_str(), host.role), ("10.0.0.1", NodeRole::Agent));
    assert_eq!(log.status("db", "h1/db"), Status::Passing);
}

#[test]
fn skipping_the_node_update_leaves_an_existing_node() {
    let mut log = Log::new();
    log.yes(register(node("n1"), None, vec![]));
    let update = Node { address: "10.9.9.9".into(), ..node("n1") };
    log.yes(Command::Register(Register {
        node: update,
        skip_node_update: true,
        instance: None,
        checks: vec![],
        replace_checks: false,
    }));
    assert_eq!(log.state.node(&node_name("n1")).unwrap().address, "10.0.0.1");
}

#[test]
fn limits_hold_at_their_edge() {
    let mut log = Log::new();
    let tags = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
    log.yes(register(node("n1"), Some(Instance { tags: tags(limit::TAGS), ..instance("a", "a") }), vec![]));
    let over = Instance { tags: tags(limit::TAGS + 1), ..instance("a", "a") };
    let (code, text) = log.refused(register(node("n1"), Some(over), vec![]));
    assert_eq!(code, FaultCode::TooLarge);
    assert_eq!(text, "too many tags of service a: 257, at most 256 are allowed");
    let meta = |n: usize| ("k".to_owned(), "v".repeat(n));
    log.yes(register(
        Node { meta: BTreeMap::from([meta(limit::META_VALUE_BYTES)]), ..node("n1") },
        None,
        vec![],
    ));
    let over = Node { meta: BTreeMap::from([meta(limit::META_VALUE_BYTES + 1)]), ..node("n1") };
    assert_eq!(log.refused(register(over, None, vec![])).0, FaultCode::TooLarge);
    let port = |name: &str| NamedPort { name: name.into(), port: 1, protocol: None, default: false };
    let twice = Instance { ports: vec![port("p"), port("p")], ..instance("a", "a") };
    assert!(log.refused(register(node("n1"), Some(twice), vec![])).1.contains("there twice"));
}

#[test]
fn a_host_has_a_bounded_number_of_instances() {
    let mut log = Log::new();
    for n in 0..limit::INSTANCES_PER_NODE {
        log.yes(register(node("n1"), Some(instance(&format!("i{n}"), "web")), vec![]));
    }
    let (code, _) = log.refused(register(node("n1"), Some(instance("one-more", "web")), vec![]));
    assert_eq!(code, FaultCode::TooLarge);
    // One that is there already may still change.
    log.yes(register(node("n1"), Some(Instance { port: 1, ..instance("i0", "web") }), vec![]));
}

#[test]
fn what_a_check_says_is_cut_between_characters() {
    let mut log = Log::new();
    let output = format!("a{}", "é".repeat(limit::CHECK_OUTPUT_BYTES));
    let long = Check { output, ..check("n1", "c", None, Status::Passing) };
    log.yes(register(node("n1"), None, vec![long]));
    let Some(Record::Check(check)) = log.state.record(&Topic::Checks(None), "n1/c") else {
        panic!("no check")
    };
    assert_eq!(check.output.len(), limit::CHECK_OUTPUT_BYTES - 1);
}

#[test]
fn sidecars_and_gateways_and_nameless_identities_are_refused() {
    let mut log = Log::new();
    let proxy = Instance { kind: ServiceKind::ConnectProxy, ..instance("p", "p") };
    assert!(log.refused(register(node("n1"), Some(proxy), vec![])).1.contains("derived"));
    let gateway = Instance { kind: ServiceKind::MeshGateway, ..instance("p", "p") };
    assert_eq!(log.refused(register(node("n1"), Some(gateway), vec![])).0, FaultCode::Invalid);
    assert!(log.refused(register(node("n1"), Some(meshed("d", "a.b")), vec![])).1.contains("DNS label"));
    log.yes(register(node("n1"), Some(instance("d", "a.b")), vec![]));
}

#[test]
fn only_a_host_that_runs_a_meshed_service_may_have_its_certificate() {
    let mut log = Log::new();
    log.yes(register(node("n1"), Some(meshed("web-1", "web")), vec![]));
    log.yes(register(node("n2"), Some(instance("web-2", "web")), vec![]));
    log.yes(register(node("n2"), Some(instance("zz", "other")), vec![]));
    let may = |name: &str| log.state.runs_meshed(&node_name(name), &service_key("web"));
    assert_eq!((may("n1"), may("n2"), may("n3")), (true, false, false));
    assert!(!log.state.runs_meshed(&node_name("n1"), &service_key("other")));
}

#[test]
fn what_one_record_says_is_what_the_whole_topic_says() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    let checks = vec![check("h1", "a/b", Some("web/1"), Status::Warning)];
    log.yes(register(member("h1", 1), Some(meshed("web/1", "web")), checks));
    let topics = [
        Topic::Nodes,
        Topic::Node(node_name("h1")),
        Topic::Services,
        Topic::Service(service_key("web")),
        Topic::Checks(None),
        Topic::Checks(Some(Status::Warning)),
        Topic::Mesh,
    ];
    for topic in topics {
        let contents = log.read(&topic);
        assert!(!contents.records.is_empty(), "{topic}");
        for (key, record) in contents.records {
            assert_eq!(log.state.record(&topic, &key), Some(record), "{topic} {key}");
        }
    }
}

#[test]
fn the_checks_of_one_instance_stay_small_enough_to_be_sent_with_it() {
    let mut log = Log::new();
    let large = |n: usize| Check {
        output: "o".repeat(limit::CHECK_OUTPUT_BYTES),
        ..check("n1", &format!("c{n}"), Some("web-1"), Status::Passing)
    };
    log.yes(register(node("n1"), Some(instance("web-1", "web")), vec![]));
    let mut taken = 0;
    let refusal = loop {
        let (outcome, _) = log.apply(register(node("n1"), None, vec![large(taken)]));
        match outcome.result {
            Ok(_) => taken += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!(refusal.code, FaultCode::TooLarge);
    assert!(refusal.text.contains("checks of service web-1 on node n1"), "{refusal}");
    assert!((150..200).contains(&taken), "{taken}");
    // Another instance has room of its own.
    let other = Check { service_id: Some(InstanceId::new("web-2").unwrap()), ..large(taken) };
    log.yes(register(node("n1"), Some(instance("web-2", "web")), vec![other]));
}

#[test]
fn an_address_of_its_own_leads_to_the_first_instance_that_has_it() {
    let at = |log: &Log, address: &str| log.keys(&Topic::At(address.parse().unwrap()));
    let with = |node_name: &str, id: &str, address: &str| {
        let tagged = TaggedAddress { address: "fd00::7".into(), port: 1 };
        let tagged_addresses = [("lan".to_owned(), tagged)].into();
        let one = Instance { address: address.into(), tagged_addresses, ..instance(id, "web") };
        register(node(node_name), Some(one), vec![])
    };
    let mut log = Log::new();
    log.yes(with("n2", "web-2", "10.9.0.1"));
    log.yes(with("n1", "web-1", "10.9.0.1"));
    log.yes(with("n1", "named", "db.example.com"));
    for state in [log.state.clone(), State::decode(&log.state.encode()).unwrap()] {
        log.state = state;
        assert_eq!(at(&log, "10.9.0.1"), ["n1/web-1"]);
        assert_eq!(at(&log, "fd00::7"), ["n1/named"]);
        // That is the node's, not its own.
        assert_eq!(at(&log, "10.0.0.1"), [""; 0]);
    }
    let topic = Topic::At("10.9.0.1".parse().unwrap());
    assert!(matches!(log.state.record(&topic, "n1/web-1"), Some(Record::Instance(_))));
    assert_eq!(log.state.record(&topic, "n2/web-2"), None);

    log.yes(with("n1", "web-1", "10.9.0.2"));
    assert_eq!(at(&log, "10.9.0.1"), ["n2/web-2"]);
    assert_eq!(at(&log, "10.9.0.2"), ["n1/web-1"]);
    log.apply(Command::RemoveNode { node: node_name("n2") });
    assert_eq!(at(&log, "10.9.0.1"), [""; 0]);
}
