//! Plans against catalogs that lag, differ, or hold what is not ours.

use std::sync::Arc;

use purlin_model::check::Status;
use purlin_model::{NodeName, Revision};

use super::*;
use crate::registry::Origin;

fn own() -> Node {
    serde_json::from_value(serde_json::json!({"name": "n1", "address": "10.0.0.1"})).unwrap()
}

fn instance(id: &str) -> Instance {
    serde_json::from_value(serde_json::json!({"id": id, "name": "web", "port": 80, "tags": ["a"]})).unwrap()
}

fn check(id: &str, service: Option<&str>, status: Status) -> Check {
    serde_json::from_value(serde_json::json!({
        "node": "n1", "id": id, "name": id, "status": status.as_str(), "service_id": service,
        "service_name": service.map(|_| "web"), "service_tags": service.map_or(vec![], |_| vec!["a"]),
    }))
    .unwrap()
}

fn local(instances: &[Instance], checks: &[Check]) -> LocalState {
    let mut state = LocalState::default();
    for instance in instances {
        let service = LocalService { instance: Arc::new(instance.clone()), origin: Origin::Api };
        state.services.insert(instance.id.clone(), Arc::new(service));
    }
    for check in checks {
        let check = LocalCheck { check: check.clone(), definition: None, origin: Origin::Api };
        state.checks.insert(check.check.id.clone(), Arc::new(check));
    }
    state
}

/// The catalog after `commands`, with revisions as a server would write them.
fn carry_out(catalog: &mut Contents, commands: Vec<Command>) {
    for (at, command) in commands.into_iter().enumerate() {
        let modify_index = Revision(10 + at as u64);
        match command {
            Command::Register(Register { instance, checks, .. }) => {
                if let Some(instance) = instance {
                    let key = format!("instance/{}", instance.id);
                    catalog.records.insert(key, Record::Instance(Instance { modify_index, ..instance }));
                }
                for check in checks {
                    let key = format!("check/{}", check.id);
                    catalog.records.insert(key, Record::Check(Check { modify_index, ..check }));
                }
            }
            Command::Deregister(Deregister { what: DeregisterWhat::Instance(id), node }) => {
                assert_eq!(node, NodeName::new("n1").unwrap());
                catalog.records.remove(&format!("instance/{id}"));
                catalog.records.retain(
                    |_, record| !matches!(record, Record::Check(check) if check.service_id.as_ref() == Some(&id)),
                );
            }
            Command::Deregister(Deregister { what: DeregisterWhat::Check(id), .. }) => {
                catalog.records.remove(&format!("check/{id}")).expect("only what is there is removed");
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn catalog(instances: &[Instance], checks: &[Check]) -> Contents {
    let mut catalog = Contents::default();
    catalog.records.insert("node".into(), Record::Node(own()));
    carry_out(
        &mut catalog,
        instances
            .iter()
            .map(|instance| Some(instance.clone()))
            .chain([None])
            .map(|instance| {
                let checks = if instance.is_none() { checks.to_vec() } else { vec![] };
                let node = own();
                Command::Register(Register {
                    node,
                    skip_node_update: true,
                    instance,
                    checks,
                    replace_checks: false,
                })
            })
            .collect(),
    );
    catalog
}

#[test]
fn a_new_instance_and_its_checks_are_one_command() {
    let state = local(
        &[instance("w1")],
        &[check("c1", Some("w1"), Status::Critical), check("n", None, Status::Passing)],
    );
    let plan = plan(&state, &own(), &catalog(&[], &[]), Outputs::Deferred);
    assert_eq!(plan.commands.len(), 2, "{plan:?}");
    let Command::Register(first) = &plan.commands[0] else { panic!("{plan:?}") };
    assert!(first.skip_node_update && first.instance.is_some());
    assert_eq!(first.checks.len(), 1);
    let Command::Register(of_node) = &plan.commands[1] else { panic!("{plan:?}") };
    assert!(of_node.instance.is_none());
    assert_eq!(of_node.checks[0].id.as_str(), "n");
}

#[test]
fn carrying_out_a_plan_leaves_nothing_to_plan() {
    let state = local(&[instance("w1"), instance("w2")], &[check("c1", Some("w1"), Status::Critical)]);
    let stray = check("stray", None, Status::Passing);
    let alive = check(NODE_ALIVE, None, Status::Passing);
    let mut held = catalog(&[instance("old")], &[check("o", Some("old"), Status::Passing), stray, alive]);
    let first = plan(&state, &own(), &held, Outputs::Now);
    assert_eq!(first.commands.len(), 4, "{first:?}");
    carry_out(&mut held, first.commands);
    assert!(held.records.contains_key("check/serfHealth"));
    assert!(!held.records.contains_key("instance/old") && !held.records.contains_key("check/stray"));
    assert_eq!(plan(&state, &own(), &held, Outputs::Now), Plan::default());
}

#[test]
fn an_output_waits_but_a_status_does_not() {
    let of = |status, output: &str| Check { output: output.into(), ..check("c1", Some("w1"), status) };
    let held = catalog(&[instance("w1")], &[of(Status::Passing, "200 OK, it said")]);
    let said = |status, output: &str| local(&[instance("w1")], &[of(status, output)]);
    let waits = plan(&said(Status::Passing, "200 OK"), &own(), &held, Outputs::Deferred);
    assert_eq!(waits, Plan { commands: vec![], outputs_differ: true });
    let now = plan(&said(Status::Passing, "200 OK"), &own(), &held, Outputs::Now);
    assert_eq!((now.commands.len(), now.outputs_differ), (1, false));
    let failed = plan(&said(Status::Critical, "500"), &own(), &held, Outputs::Deferred);
    let Command::Register(register) = &failed.commands[0] else { panic!("{failed:?}") };
    assert_eq!(register.checks[0].output, "500");
    assert!(register.instance.is_none(), "the instance did not change");

    // Nobody knows anything before the first.
    let held = catalog(&[instance("w1")], &[of(Status::Critical, "")]);
    let first = plan(&said(Status::Critical, "500"), &own(), &held, Outputs::Deferred);
    assert_eq!((first.commands.len(), first.outputs_differ), (1, false));
}

#[test]
fn tags_of_the_catalog_stay_where_the_service_allows_it() {
    let mut ours = instance("w1");
    let mut theirs = instance("w1");
    theirs.tags = vec!["set-by-hand".into()];
    let held = catalog(std::slice::from_ref(&theirs), &[]);
    assert_eq!(plan(&local(&[ours.clone()], &[]), &own(), &held, Outputs::Now).commands.len(), 1);
    ours.enable_tag_override = true;
    theirs.enable_tag_override = true;
    let mut of_check = check("c1", Some("w1"), Status::Passing);
    of_check.service_tags = theirs.tags.clone();
    let held = catalog(&[theirs], &[of_check]);
    let state = local(&[ours], &[check("c1", Some("w1"), Status::Passing)]);
    assert_eq!(plan(&state, &own(), &held, Outputs::Now), Plan::default());
}

#[test]
fn much_output_is_cut_into_commands_worst_first() {
    let mut checks: Vec<Check> =
        (0..150).map(|n| check(&format!("c{n:03}"), Some("w1"), Status::Passing)).collect();
    checks[149].status = Status::Critical;
    for check in &mut checks {
        check.output = "x".repeat(limit::CHECK_OUTPUT_BYTES);
    }
    let plan = plan(&local(&[instance("w1")], &checks), &own(), &catalog(&[], &[]), Outputs::Now);
    assert!(plan.commands.len() > 1);
    let mut seen = 0;
    for (at, command) in plan.commands.iter().enumerate() {
        let Command::Register(register) = command else { panic!() };
        assert_eq!(register.instance.is_some(), at == 0);
        assert!(rmp_serde::to_vec_named(command).unwrap().len() < limit::COMMAND_BYTES);
        seen += register.checks.len();
    }
    assert_eq!(seen, 150);
    let Command::Register(first) = &plan.commands[0] else { panic!() };
    assert_eq!(first.checks[0].status, Status::Critical);
}

#[test]
fn a_derived_proxy_is_left_alone() {
    let mut ours = instance("w1");
    ours.mesh = Some(purlin_model::service::Mesh::default());
    let mut proxy = instance("w1-sidecar-proxy");
    proxy.kind = ServiceKind::ConnectProxy;
    let held = catalog(&[ours.clone(), proxy.clone()], &[]);
    assert_eq!(plan(&local(&[ours], &[]), &own(), &held, Outputs::Now), Plan::default());
    assert_eq!(plan(&local(&[], &[]), &own(), &catalog(&[proxy], &[]), Outputs::Now).commands.len(), 1);
}
