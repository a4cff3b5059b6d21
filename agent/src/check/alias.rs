//! Alias checks: the health of another service or node as a check of one's own.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::check::{Check, CheckDefinition, Probe, Status};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{CheckId, InstanceId, NodeName};
use tokio::time::sleep;

use super::Verdict;
use crate::core::Core;
use crate::registry::{LocalState, Registry};

/// How long one question for another node's checks lasts, and how long to wait after one that failed.
const WAIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the aliases of what runs on this host.
pub(super) async fn follow_local(registry: Registry) {
    let mut states = registry.watch();
    loop {
        let state = states.borrow_and_update().clone();
        for (id, verdict) in judge_local(&state, registry.node()) {
            registry.set_status(&id, verdict.status, &verdict.output);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn judge_local(state: &LocalState, own: &NodeName) -> Vec<(CheckId, Verdict)> {
    let aliases = state.checks.values().filter_map(|local| local.definition.as_ref());
    aliases
        .filter_map(|definition| match &definition.probe {
            Probe::Alias { node, service } if node.as_ref().is_none_or(|node| node == own) => {
                let exists = service.as_ref().is_none_or(|service| state.services.contains_key(service));
                let checks = state.checks.values().map(|local| &local.check);
                let verdict = judge(&definition.id, own, service.as_ref(), exists, checks);
                Some((definition.id.clone(), verdict))
            }
            _ => None,
        })
        .collect()
}

/// Keeps one alias of what runs on another host.
pub(super) async fn follow_remote(definition: Arc<CheckDefinition>, registry: Registry, core: Option<Core>) {
    let Probe::Alias { node: Some(node), service } = &definition.probe else { return };
    let Some(core) = core else {
        registry.set_status(&definition.id, Status::Critical, "this agent does not follow other nodes");
        return std::future::pending().await;
    };
    let topic = Topic::Node(node.clone());
    let mut seen = None;
    loop {
        let known = match seen {
            None => core.contents(&topic).await,
            Some(seen) => core.wait_past(&topic, seen, WAIT).await,
        };
        match known {
            Ok(contents) => {
                let verdict = judge_remote(&definition.id, node, service.as_ref(), &contents);
                registry.set_status(&definition.id, verdict.status, &verdict.output);
                seen = Some(contents.revision);
            }
            Err(fault) => {
                let output = format!("the checks of node \"{node}\" are not known: {fault}");
                registry.set_status(&definition.id, Status::Critical, &output);
                sleep(RETRY).await;
            }
        }
    }
}

fn judge_remote(id: &CheckId, node: &NodeName, service: Option<&InstanceId>, contents: &Contents) -> Verdict {
    let exists = contents.records.values().any(|record| match (record, service) {
        (Record::Instance(instance), Some(service)) => instance.id == *service,
        (Record::Node(found), None) => found.name == *node,
        _ => false,
    });
    let checks = contents.records.values().filter_map(|record| match record {
        Record::Check(check) => Some(check),
        _ => None,
    });
    judge(id, node, service, exists, checks)
}

/// The worst of the checks that count: those of the node, and those of the service where one is named. Never the alias
/// itself, which would hold its own failure for ever.
fn judge<'a>(
    id: &CheckId,
    node: &NodeName,
    service: Option<&InstanceId>,
    exists: bool,
    checks: impl Iterator<Item = &'a Check>,
) -> Verdict {
    if !exists {
        return Verdict::critical(match service {
            Some(service) => format!("Service {service} could not be found on node {node}"),
            None => format!("Node {node} could not be found"),
        });
    }
    let counts = |check: &&Check| {
        let is_self = check.id == *id && check.node == *node;
        !is_self && (check.service_id.is_none() || check.service_id.as_ref() == service)
    };
    match checks.filter(counts).max_by_key(|check| check.status) {
        None => Verdict::new(Status::Passing, "No checks found."),
        Some(check) if check.status == Status::Passing => {
            Verdict::new(Status::Passing, "All checks passing.")
        }
        Some(check) => {
            Verdict::new(check.status, format!("Aliased check \"{}\" failing: {}", check.name, check.output))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, service: Option<&str>, status: Status) -> Check {
        serde_json::from_value(serde_json::json!({
            "node": "n1", "id": id, "name": id, "status": status.as_str(), "service_id": service, "output": "why",
        }))
        .unwrap()
    }

    fn judged(service: Option<&str>, checks: &[Check]) -> Verdict {
        let service = service.map(|id| InstanceId::new(id).unwrap());
        let node = NodeName::new("n1").unwrap();
        judge(&CheckId::new("alias").unwrap(), &node, service.as_ref(), true, checks.iter())
    }

    #[test]
    fn an_alias_is_as_bad_as_the_worst_check_that_counts() {
        let checks = [
            check("a", Some("web"), Status::Warning),
            check("b", Some("db"), Status::Critical),
            check("c", None, Status::Passing),
        ];
        assert_eq!(
            judged(Some("web"), &checks),
            Verdict::new(Status::Warning, "Aliased check \"a\" failing: why")
        );
        assert_eq!(judged(Some("db"), &checks).status, Status::Critical);
        assert_eq!(judged(None, &checks), Verdict::new(Status::Passing, "All checks passing."));
        assert_eq!(judged(Some("idle"), &[]), Verdict::new(Status::Passing, "No checks found."));
    }

    #[test]
    fn an_alias_does_not_hold_its_own_failure() {
        let checks = [check("alias", None, Status::Critical), check("c", None, Status::Passing)];
        assert_eq!(judged(None, &checks).status, Status::Passing);
    }

    #[test]
    fn what_is_not_there_is_critical() {
        let node = NodeName::new("n2").unwrap();
        let service = InstanceId::new("web").unwrap();
        let id = CheckId::new("alias").unwrap();
        let verdict = judge_remote(&id, &node, Some(&service), &Contents::default());
        assert_eq!(verdict, Verdict::critical("Service web could not be found on node n2"));
    }
}
