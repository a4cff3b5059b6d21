//! What was said, by whom, and what of it is in force: files over the API.
//!
//! Invariant: what is in force has no two listeners on one address, and every check belongs to a service that is in
//! force or to the node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use purlin_model::check::{Check, CheckDefinition, Status};
use purlin_model::service::{Instance, ServiceDefinition};
use purlin_model::{CheckId, Fault, FaultCode, InstanceId, NodeName, limit};
use tracing::info;

use super::{LocalState, NODE_MAINTENANCE, Origin, SERVICE_MAINTENANCE};

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Layers {
    file: Layer,
    api: Layer,
    maintenance: Maintenance,
}

/// What one origin said.
#[derive(Debug, Clone, Default, PartialEq)]
struct Layer {
    services: BTreeMap<InstanceId, Arc<Service>>,
    /// Checks that were registered by themselves, of the node or of a service.
    checks: BTreeMap<CheckId, Arc<CheckDefinition>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Service {
    pub(super) instance: Arc<Instance>,
    pub(super) checks: BTreeMap<CheckId, Arc<CheckDefinition>>,
}

/// Reasons of what is out of service by hand.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Maintenance {
    node: Option<String>,
    services: BTreeMap<InstanceId, String>,
}

#[derive(Debug, Default)]
pub(super) struct Effective {
    pub(super) services: BTreeMap<InstanceId, (Arc<Service>, Origin)>,
    pub(super) checks: BTreeMap<CheckId, (Arc<CheckDefinition>, Origin)>,
    /// Registrations from the API that are not in force, with the reason.
    pub(super) shadowed: BTreeMap<InstanceId, String>,
}

impl Service {
    fn new(definition: ServiceDefinition) -> Result<Self, Fault> {
        let instance = Arc::new(definition.instance);
        let mut checks = BTreeMap::new();
        for check in definition.checks {
            let id = check.id.clone();
            if checks.insert(id.clone(), Arc::new(check)).is_some() {
                return Err(Fault::invalid(format!(
                    "service \"{}\" has two checks with id \"{id}\"",
                    instance.id
                )));
            }
        }
        Ok(Self { instance, checks })
    }

    pub(super) fn definition(&self) -> ServiceDefinition {
        let checks = self.checks.values().map(|check| CheckDefinition::clone(check)).collect();
        ServiceDefinition { instance: Instance::clone(&self.instance), checks }
    }
}

impl Layer {
    fn remove_service(&mut self, id: &InstanceId) -> bool {
        self.checks.retain(|_, check| check.service_id.as_ref() != Some(id));
        self.services.remove(id).is_some()
    }

    fn remove_check(&mut self, id: &CheckId) -> bool {
        let mut removed = self.checks.remove(id).is_some();
        for service in self.services.values_mut().filter(|service| service.checks.contains_key(id)) {
            let mut without = Service::clone(service);
            without.checks.remove(id);
            *service = Arc::new(without);
            removed = true;
        }
        removed
    }
}

impl Layers {
    pub(super) fn of_api(&self) -> (Vec<ServiceDefinition>, Vec<CheckDefinition>, Maintenance) {
        let services = self.api.services.values().map(|service| service.definition()).collect();
        let checks = self.api.checks.values().map(|check| CheckDefinition::clone(check)).collect();
        (services, checks, self.maintenance.clone())
    }

    /// What the last run left. Whatever is wrong with it was told by the caller, who leaves it out.
    pub(super) fn restore(&mut self, services: Vec<ServiceDefinition>, checks: Vec<CheckDefinition>) {
        for definition in services {
            if let Ok(service) = Service::new(definition) {
                self.api.services.insert(service.instance.id.clone(), Arc::new(service));
            }
        }
        self.api.checks = checks.into_iter().map(|check| (check.id.clone(), Arc::new(check))).collect();
    }

    pub(super) fn restore_maintenance(&mut self, maintenance: Maintenance) {
        self.maintenance = maintenance;
    }

    pub(super) fn same_durable(&self, other: &Self) -> bool {
        self.api == other.api && self.maintenance == other.maintenance
    }

    pub(super) fn replace_files(
        &mut self,
        services: Vec<ServiceDefinition>,
        checks: Vec<CheckDefinition>,
    ) -> Result<(), Fault> {
        let mut layer = Layer::default();
        for definition in services {
            let service = Service::new(definition)?;
            let id = service.instance.id.clone();
            if layer.services.insert(id.clone(), Arc::new(service)).is_some() {
                return Err(Fault::conflict(format!(
                    "service id \"{id}\" is defined twice in the configuration files: give one of them another id"
                )));
            }
        }
        for check in checks {
            let id = check.id.clone();
            if let Some(service) = &check.service_id
                && !layer.services.contains_key(service)
                && !self.api.services.contains_key(service)
            {
                return Err(Fault::invalid(format!(
                    "check \"{id}\" is for service id \"{service}\", which is not here"
                )));
            }
            if layer.checks.insert(id.clone(), Arc::new(check)).is_some() {
                return Err(Fault::conflict(format!(
                    "check id \"{id}\" is defined twice in the configuration files"
                )));
            }
        }
        let mut owners: BTreeMap<&CheckId, String> = BTreeMap::new();
        for (owner, id) in layer
            .services
            .values()
            .flat_map(|service| {
                service.checks.keys().map(move |id| (format!("service \"{}\"", service.instance.id), id))
            })
            .chain(layer.checks.keys().map(|id| ("a check of its own".to_owned(), id)))
        {
            if let Some(other) = owners.insert(id, owner.clone()) {
                return Err(Fault::conflict(format!("check id \"{id}\" belongs to {other} and to {owner}")));
            }
        }
        let mut listeners = Listeners::default();
        for service in layer.services.values() {
            listeners.take(&service.instance)?;
        }
        self.file = layer;
        Ok(())
    }

    pub(super) fn put_service(
        &mut self,
        definition: ServiceDefinition,
        origin: Origin,
        replace: bool,
    ) -> Result<(), Fault> {
        let mut service = Service::new(definition)?;
        let id = service.instance.id.clone();
        let mut listeners = Listeners::default();
        let in_force = self.effective();
        for (other, _) in in_force.services.values().filter(|(other, _)| other.instance.id != id) {
            listeners.take(&other.instance)?;
        }
        listeners.take(&service.instance)?;
        for check in service.checks.keys() {
            let owner = in_force.checks.get(check).and_then(|(held, _)| held.service_id.as_ref());
            if in_force.checks.contains_key(check) && owner != Some(&id) {
                return Err(taken_check(check, owner));
            }
        }
        let layer = if origin == Origin::File { &mut self.file } else { &mut self.api };
        if let Some(before) = layer.services.get(&id) {
            for (check, definition) in &before.checks {
                if !replace {
                    service.checks.entry(check.clone()).or_insert_with(|| definition.clone());
                }
            }
        }
        layer.checks.retain(|check, held| {
            held.service_id.as_ref() != Some(&id) || !(replace || service.checks.contains_key(check))
        });
        layer.services.insert(id, Arc::new(service));
        Ok(())
    }

    pub(super) fn remove_service(&mut self, id: &InstanceId) -> Result<(), Fault> {
        let in_file = self.file.remove_service(id);
        if in_file {
            info!(service = %id, "service is in a configuration file: it is removed until the next reload or start");
        }
        let in_api = self.api.remove_service(id);
        self.maintenance.services.remove(id);
        if in_file || in_api { Ok(()) } else { Err(unknown_service(id)) }
    }

    pub(super) fn put_check(&mut self, check: CheckDefinition, origin: Origin) -> Result<(), Fault> {
        let in_force = self.effective();
        if let Some(service) = &check.service_id
            && !in_force.services.contains_key(service)
        {
            return Err(Fault::invalid(format!(
                "service id \"{service}\" does not exist: register the service first"
            )));
        }
        if let Some((held, _)) = in_force.checks.get(&check.id)
            && held.service_id != check.service_id
        {
            return Err(taken_check(&check.id, held.service_id.as_ref()));
        }
        let layer = if origin == Origin::File { &mut self.file } else { &mut self.api };
        layer.remove_check(&check.id);
        layer.checks.insert(check.id.clone(), Arc::new(check));
        Ok(())
    }

    pub(super) fn remove_check(&mut self, id: &CheckId) -> Result<(), Fault> {
        let mut removed = self.file.remove_check(id) | self.api.remove_check(id);
        if id.as_str() == NODE_MAINTENANCE {
            removed |= self.maintenance.node.take().is_some();
        } else if let Some(service) = id.as_str().strip_prefix(SERVICE_MAINTENANCE) {
            removed |= self.maintenance.services.remove(service).is_some();
        }
        if removed { Ok(()) } else { Err(unknown_check(id)) }
    }

    pub(super) fn maintain_node(&mut self, reason: Option<String>) -> Result<(), Fault> {
        self.maintenance.node = reason.map(bounded).transpose()?;
        Ok(())
    }

    pub(super) fn maintain_service(&mut self, id: &InstanceId, reason: Option<String>) -> Result<(), Fault> {
        if !self.file.services.contains_key(id) && !self.api.services.contains_key(id) {
            return Err(unknown_service(id));
        }
        match reason.map(bounded).transpose()? {
            Some(reason) => self.maintenance.services.insert(id.clone(), reason),
            None => self.maintenance.services.remove(id),
        };
        Ok(())
    }

    pub(super) fn check_limits(&self) -> Result<(), Fault> {
        let services = self.file.services.len() + self.api.services.len();
        let count = |layer: &Layer| {
            layer.checks.len() + layer.services.values().map(|s| s.checks.len()).sum::<usize>()
        };
        let checks = count(&self.file) + count(&self.api);
        let too_many = |what: &str, max: usize| {
            let text =
                format!("this host has {max} {what} already, the most it may have: deregister some first");
            Err(Fault::new(FaultCode::TooLarge, text))
        };
        if services > limit::INSTANCES_PER_NODE {
            return too_many("services", limit::INSTANCES_PER_NODE);
        }
        if checks > limit::CHECKS_PER_NODE {
            return too_many("checks", limit::CHECKS_PER_NODE);
        }
        Ok(())
    }

    /// Files first, then what the API said and does not collide with them.
    pub(super) fn effective(&self) -> Effective {
        let mut effective = Effective::default();
        let mut listeners = Listeners::default();
        for (layer, origin) in [(&self.file, Origin::File), (&self.api, Origin::Api)] {
            for (id, service) in &layer.services {
                let refused = if effective.services.contains_key(id) {
                    Some("a configuration file defines a service of the same id, which wins".to_owned())
                } else {
                    listeners.take(&service.instance).err().map(|fault| fault.text)
                };
                if let Some(why) = refused {
                    effective.shadowed.insert(id.clone(), why);
                    continue;
                }
                for (check, definition) in &service.checks {
                    effective.checks.entry(check.clone()).or_insert_with(|| (definition.clone(), origin));
                }
                effective.services.insert(id.clone(), (service.clone(), origin));
            }
        }
        for (layer, origin) in [(&self.file, Origin::File), (&self.api, Origin::Api)] {
            for (id, check) in &layer.checks {
                if check.service_id.as_ref().is_none_or(|service| effective.services.contains_key(service)) {
                    effective.checks.entry(id.clone()).or_insert_with(|| (check.clone(), origin));
                }
            }
        }
        effective
    }

    /// The critical checks that stand for maintenance mode.
    pub(super) fn maintenance_checks(&self, node: &NodeName, state: &LocalState) -> Vec<Check> {
        let mut checks = Vec::new();
        if let Some(reason) = &self.maintenance.node {
            checks.extend(maintenance_check(node, None, "node", NODE_MAINTENANCE, reason));
        }
        for (id, reason) in &self.maintenance.services {
            let Some(service) = state.services.get(id) else { continue };
            let check_id = format!("{SERVICE_MAINTENANCE}{id}");
            checks.extend(maintenance_check(node, Some(&service.instance), "service", &check_id, reason));
        }
        checks
    }
}

fn maintenance_check(
    node: &NodeName,
    service: Option<&Instance>,
    what: &str,
    id: &str,
    reason: &str,
) -> Option<Check> {
    let default = format!(
        "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
    );
    let title = if service.is_some() { "Service" } else { "Node" };
    Some(Check {
        node: node.clone(),
        // An id of a service is shorter than that of a check by far more than the prefix.
        id: CheckId::new(id).ok()?,
        name: format!("{title} Maintenance Mode"),
        status: Status::Critical,
        notes: if reason.is_empty() { default } else { reason.to_owned() },
        output: String::new(),
        service_id: service.map(|service| service.id.clone()),
        service_name: service.map(|service| service.name.clone()),
        service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
        kind: "maintenance".into(),
        interval: Default::default(),
        timeout: Default::default(),
        create_index: Default::default(),
        modify_index: Default::default(),
    })
}

/// Local addresses on which upstreams listen, and whose they are.
#[derive(Default)]
struct Listeners(BTreeMap<u16, Vec<(IpAddr, String)>>);

impl Listeners {
    fn take(&mut self, instance: &Instance) -> Result<(), Fault> {
        let upstreams = instance.mesh.iter().flat_map(|mesh| &mesh.upstreams);
        let mut wanted = Vec::new();
        for upstream in upstreams {
            let Ok(address) = upstream.local_bind_address.parse::<IpAddr>() else { continue };
            let port = upstream.local_bind_port;
            let collides = |held: &&(IpAddr, String)| {
                held.0 == address || held.0.is_unspecified() || address.is_unspecified()
            };
            let owner = format!("upstream \"{}\" of service \"{}\"", upstream.name, instance.id);
            let own = wanted.iter().filter(|(p, _)| *p == port).map(|(_, held)| held).find(collides);
            if let Some((_, holder)) =
                own.or_else(|| self.0.get(&port).and_then(|held| held.iter().find(collides)))
            {
                return Err(Fault::conflict(format!(
                    "{owner} cannot listen on {}: {holder} holds it, choose another local_bind_port",
                    std::net::SocketAddr::new(address, port)
                )));
            }
            wanted.push((port, (address, owner)));
        }
        for (port, held) in wanted {
            self.0.entry(port).or_default().push(held);
        }
        Ok(())
    }
}

fn bounded(reason: String) -> Result<String, Fault> {
    if reason.len() > limit::CHECK_OUTPUT_BYTES {
        return Err(Fault::invalid(format!("the reason is longer than {} bytes", limit::CHECK_OUTPUT_BYTES)));
    }
    Ok(reason)
}

fn taken_check(id: &CheckId, owner: Option<&InstanceId>) -> Fault {
    let owner = owner.map_or_else(|| "the node".to_owned(), |service| format!("service \"{service}\""));
    Fault::conflict(format!("check id \"{id}\" belongs to {owner} already: give the check another id"))
}

fn unknown_service(id: &InstanceId) -> Fault {
    Fault::not_found(format!(
        "Unknown service ID \"{id}\". Ensure that the service ID is passed, not the service name."
    ))
}

pub(super) fn unknown_check(id: &CheckId) -> Fault {
    Fault::not_found(format!(
        "Unknown check ID \"{id}\". Ensure that the check ID is passed, not the check name."
    ))
}
