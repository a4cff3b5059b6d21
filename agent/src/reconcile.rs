//! What must be written so that the catalog says of this host what the host says of itself. Pure.
//!
//! Carrying out the plan and planning again gives an empty plan. An instance never looks healthier in between than it
//! is, and nothing of another host is touched.

use std::collections::BTreeMap;

use purlin_model::check::{Check, NODE_ALIVE};
use purlin_model::command::{Command, Deregister, DeregisterWhat, Register};
use purlin_model::node::Node;
use purlin_model::service::{Instance, ServiceKind};
use purlin_model::topic::{Contents, Record};
use purlin_model::{CheckId, InstanceId, limit};

use crate::registry::{LocalCheck, LocalService, LocalState};

#[cfg(test)]
mod tests;

/// How long a change of nothing but a check's output waits, as in Consul: output changes with each run, and each
/// write costs every server.
pub const OUTPUT_DELAY: std::time::Duration = std::time::Duration::from_secs(300);

/// Of a command, leaving room for the node, the envelope and the codec's own bytes.
const REGISTER_BYTES: usize = limit::COMMAND_BYTES / 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Written only with something else that changed.
    Deferred,
    Now,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub commands: Vec<Command>,
    /// Some check differs in its output alone: plan with [`Outputs::Now`] after [`OUTPUT_DELAY`].
    pub outputs_differ: bool,
}

/// Compares what is registered here with `catalog`, the contents of this node's topic.
pub fn plan(local: &LocalState, own: &Node, catalog: &Contents, outputs: Outputs) -> Plan {
    let known = Known::of(catalog);
    let mut plan = Plan::default();
    let mut due: BTreeMap<Option<&InstanceId>, Vec<Check>> = BTreeMap::new();
    for check in local.checks.values() {
        let wanted = wanted_check(check, local, &known);
        let is_due = match known.checks.get(&wanted.id) {
            None => true,
            Some(held) if wanted.same_content(held) => false,
            Some(held) => {
                let differs_in_output =
                    Check { output: held.output.clone(), ..wanted.clone() }.same_content(held);
                // What a check finds first is told at once: until then nobody can see why it is critical.
                let waits = differs_in_output && outputs == Outputs::Deferred && !held.output.is_empty();
                plan.outputs_differ |= waits;
                !waits
            }
        };
        if is_due {
            due.entry(check.check.service_id.as_ref()).or_default().push(wanted);
        }
    }
    removals(local, own, &known, &mut plan.commands);
    for (id, service) in &local.services {
        let wanted = wanted_instance(service, &known);
        let is_changed = known.instances.get(id).is_none_or(|held| !wanted.same_content(held));
        let checks = due.remove(&Some(id)).unwrap_or_default();
        if is_changed || !checks.is_empty() {
            register(own, is_changed.then_some(wanted), checks, &mut plan.commands);
        }
    }
    // What is left is of the node; the registry holds no check of a service that is not here.
    for checks in due.into_values() {
        register(own, None, checks, &mut plan.commands);
    }
    plan
}

/// The catalog's records of this node.
#[derive(Default)]
struct Known<'a> {
    instances: BTreeMap<&'a InstanceId, &'a Instance>,
    checks: BTreeMap<&'a CheckId, &'a Check>,
}

impl<'a> Known<'a> {
    fn of(catalog: &'a Contents) -> Self {
        let mut known = Self::default();
        for record in catalog.records.values() {
            match record {
                Record::Instance(instance) => drop(known.instances.insert(&instance.id, instance)),
                Record::Check(check) => drop(known.checks.insert(&check.id, check)),
                _ => {}
            }
        }
        known
    }
}

/// Tags that somebody changed in the catalog stay where the service allows it.
fn wanted_instance(service: &LocalService, known: &Known<'_>) -> Instance {
    let mut wanted = Instance::clone(&service.instance);
    if let Some(held) = known.instances.get(&wanted.id)
        && wanted.enable_tag_override
    {
        wanted.tags.clone_from(&held.tags);
    }
    wanted
}

fn wanted_check(local: &LocalCheck, state: &LocalState, known: &Known<'_>) -> Check {
    let mut wanted = local.check.clone();
    let service = wanted.service_id.as_ref().and_then(|id| state.services.get(id));
    if let Some(service) = service {
        wanted.service_tags = wanted_instance(service, known).tags;
    }
    wanted
}

fn removals(local: &LocalState, own: &Node, known: &Known<'_>, commands: &mut Vec<Command>) {
    let remove = |what| Command::Deregister(Deregister { node: own.name.clone(), what });
    let is_gone = |id: &InstanceId| !local.services.contains_key(id);
    for (id, instance) in &known.instances {
        if is_gone(id) && !is_derived(instance, local) {
            commands.push(remove(DeregisterWhat::Instance((*id).clone())));
        }
    }
    for (id, check) in &known.checks {
        // The checks of an instance go with it.
        let goes_with_instance = check
            .service_id
            .as_ref()
            .is_some_and(|service| is_gone(service) && known.instances.contains_key(service));
        if !local.checks.contains_key(*id) && id.as_str() != NODE_ALIVE && !goes_with_instance {
            commands.push(remove(DeregisterWhat::Check((*id).clone())));
        }
    }
}

/// The proxy that the catalog lists for a meshed instance of ours: nobody registered it, so nobody removes it.
fn is_derived(instance: &Instance, local: &LocalState) -> bool {
    let of = instance.id.as_str().strip_suffix("-sidecar-proxy");
    instance.kind == ServiceKind::ConnectProxy
        && of.and_then(|id| local.services.get(id)).is_some_and(|service| service.instance.mesh.is_some())
}

/// One command, or several where checks say so much that one could not hold them: the worst status goes first.
fn register(own: &Node, instance: Option<Instance>, mut checks: Vec<Check>, commands: &mut Vec<Command>) {
    checks.sort_by(|a, b| b.status.cmp(&a.status).then_with(|| a.id.cmp(&b.id)));
    let mut next = Register {
        node: own.clone(),
        skip_node_update: true,
        instance,
        checks: Vec::new(),
        replace_checks: false,
    };
    let mut bytes = 0;
    for check in checks {
        let size = 512 + check.output.len() + check.notes.len() + check.name.len() + tags(&check);
        if bytes + size > REGISTER_BYTES && !next.checks.is_empty() {
            let rest = Register { instance: None, checks: Vec::new(), ..next.clone() };
            commands.push(Command::Register(std::mem::replace(&mut next, rest)));
            bytes = 0;
        }
        bytes += size;
        next.checks.push(check);
    }
    commands.push(Command::Register(next));
}

fn tags(check: &Check) -> usize {
    check.service_tags.iter().map(|tag| tag.len() + 8).sum()
}
