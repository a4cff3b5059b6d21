//! What this host says it runs: services and checks from configuration files and from the API, what each check last
//! said, and maintenance mode.
//!
//! One snapshot at a time is published; whoever reacts (anti-entropy, probes, the view) follows [`Registry::watch`].
//! A change is accepted whole or refused whole, and one from the API is on disk before it is acknowledged.

mod layers;
mod marks;
mod store;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use purlin_model::check::{Check, CheckDefinition, Probe, Status};
use purlin_model::service::{Instance, ServiceDefinition};
use purlin_model::{CheckId, Fault, InstanceId, NodeName, limit};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::CheckOptions;
use layers::{Effective, Layers};
use marks::Marks;

/// Id of the check that stands for a node in maintenance mode, as Consul names it.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// Who said that something runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file of this host. Wins over the API, and is not kept: it is read again at each start.
    File,
    /// The HTTP API or the command line; kept on disk.
    Api,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub node: NodeName,
    /// Where registrations and statuses are kept; absent: in memory only.
    pub file: Option<PathBuf>,
    pub checks: CheckOptions,
    pub clock: Clock,
}

/// All of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalState {
    /// Rises with each change, also of a check's output.
    pub version: u64,
    /// Rises when a service or the definition of a check comes, changes or goes.
    pub definitions: u64,
    pub services: BTreeMap<InstanceId, Arc<LocalService>>,
    pub checks: BTreeMap<CheckId, Arc<LocalCheck>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    pub instance: Arc<Instance>,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCheck {
    /// As the catalog shall know it.
    pub check: Check,
    /// Absent for maintenance mode, which nothing probes.
    pub definition: Option<Arc<CheckDefinition>>,
    pub origin: Origin,
}

impl LocalState {
    /// The checks of one service, without those of the node.
    pub fn checks_of<'a>(&'a self, service: &'a InstanceId) -> impl Iterator<Item = &'a Check> + 'a {
        self.checks
            .values()
            .map(|local| &local.check)
            .filter(|check| check.service_id.as_ref() == Some(service))
    }

    /// Checks that count for every service of this host.
    pub fn node_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.values().map(|local| &local.check).filter(|check| check.service_id.is_none())
    }
}

/// A handle on the registry of one agent; clones are the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    options: Options,
    /// Held through a durable change, so that there is one at a time and disk and memory never disagree in order.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
    published: watch::Sender<Arc<LocalState>>,
    /// Told when a deadline (TTL, removal of a critical service) may have come nearer.
    deadlines: Notify,
    /// Told when a status waits to be saved.
    unsaved: Notify,
}

struct Inner {
    layers: Layers,
    effective: Effective,
    marks: Marks,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("node", &self.0.options.node).finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens what the last run left. Registrations that are no longer allowed are dropped with a log line; a file that
    /// cannot be read is an error, because to forget a host's services would take them out of the mesh.
    pub fn open(options: Options) -> Result<Self, Fault> {
        let stored = store::load(options.file.as_deref())?;
        let mut layers = Layers::default();
        let mut marks = Marks::default();
        stored.restore(&options, &mut layers, &mut marks);
        let inner = Inner { layers, effective: Effective::default(), marks };
        let shared = Shared {
            options,
            turn: tokio::sync::Mutex::default(),
            inner: Mutex::new(inner),
            published: watch::Sender::new(Arc::default()),
            deadlines: Notify::new(),
            unsaved: Notify::new(),
        };
        let registry = Self(Arc::new(shared));
        registry.publish(&mut registry.inner());
        Ok(registry)
    }

    /// The snapshot in force.
    pub fn local(&self) -> Arc<LocalState> {
        self.0.published.borrow().clone()
    }

    /// Follows the snapshots; a slow follower sees the newest one only.
    pub fn watch(&self) -> watch::Receiver<Arc<LocalState>> {
        self.0.published.subscribe()
    }

    pub fn node(&self) -> &NodeName {
        &self.0.options.node
    }

    /// Puts what the configuration files say in place of what they said before. Refused whole if any of it is wrong.
    pub async fn set_files(
        &self,
        services: Vec<ServiceDefinition>,
        node_checks: Vec<CheckDefinition>,
    ) -> Result<(), Fault> {
        let options = self.0.options.checks;
        self.change(move |layers| {
            let mut services = services;
            let mut node_checks = node_checks;
            for definition in &mut services {
                validate::service(definition, Origin::File, options)?;
            }
            for check in &mut node_checks {
                validate::check(check, Origin::File, options)?;
            }
            layers.replace_files(services, node_checks)
        })
        .await
    }

    /// Registers a service. Checks that were registered for it before and are not among the new ones stay, as in
    /// Consul; see [`Self::register_replacing`].
    pub async fn register(&self, definition: ServiceDefinition, origin: Origin) -> Result<(), Fault> {
        self.put_service(definition, origin, false).await
    }

    /// Registers a service; its checks are then exactly those of the definition.
    pub async fn register_replacing(
        &self,
        definition: ServiceDefinition,
        origin: Origin,
    ) -> Result<(), Fault> {
        self.put_service(definition, origin, true).await
    }

    async fn put_service(
        &self,
        mut definition: ServiceDefinition,
        origin: Origin,
        replace: bool,
    ) -> Result<(), Fault> {
        validate::service(&mut definition, origin, self.0.options.checks)?;
        self.change(move |layers| layers.put_service(definition, origin, replace)).await
    }

    /// Why a registration of that id from the API is not in force, if there is one.
    pub fn shadowed(&self, id: &InstanceId) -> Option<String> {
        self.inner().effective.shadowed.get(id).cloned()
    }

    /// Removes a service with its checks and its maintenance mode. One from a file comes back with the next reload.
    pub async fn deregister(&self, id: &InstanceId) -> Result<(), Fault> {
        let id = id.clone();
        self.change(move |layers| layers.remove_service(&id)).await
    }

    /// Registers a check of the node, or of a service that is here.
    pub async fn register_check(&self, mut check: CheckDefinition, origin: Origin) -> Result<(), Fault> {
        validate::check(&mut check, origin, self.0.options.checks)?;
        self.change(move |layers| layers.put_check(check, origin)).await
    }

    pub async fn deregister_check(&self, id: &CheckId) -> Result<(), Fault> {
        let id = id.clone();
        self.change(move |layers| layers.remove_check(&id)).await
    }

    /// Takes the node out of service with that reason (empty: a default text), or (absent) puts it back.
    pub async fn set_node_maintenance(&self, reason: Option<String>) -> Result<(), Fault> {
        self.change(move |layers| layers.maintain_node(reason)).await
    }

    /// As [`Self::set_node_maintenance`], for one service.
    pub async fn set_service_maintenance(
        &self,
        id: &InstanceId,
        reason: Option<String>,
    ) -> Result<(), Fault> {
        let id = id.clone();
        self.change(move |layers| layers.maintain_service(&id, reason)).await
    }

    /// What a probe found. Returns false if there is no such check any more.
    pub fn set_status(&self, id: &CheckId, status: Status, output: &str) -> bool {
        let mut inner = self.inner();
        let Some(local) = self.0.published.borrow().checks.get(id).cloned() else { return false };
        self.mark(&mut inner, &local, status, output);
        true
    }

    /// What an application says about itself: for a TTL check, the sign of life.
    pub fn report(&self, id: &CheckId, status: Status, output: &str) -> Result<(), Fault> {
        let mut inner = self.inner();
        let Some(local) = self.0.published.borrow().checks.get(id).cloned() else {
            return Err(layers::unknown_check(id));
        };
        let ttl = match local.definition.as_deref().map(|definition| &definition.probe) {
            Some(Probe::Ttl { ttl }) => *ttl,
            _ => {
                return Err(Fault::not_found(format!(
                    "check id \"{id}\" does not have an associated TTL: only TTL checks are updated by hand"
                )));
            }
        };
        inner.marks.beat(id, Instant::now() + ttl);
        self.mark(&mut inner, &local, status, output);
        self.0.deadlines.notify_one();
        // The new deadline is to be saved even where nothing else changed: an agent that is killed and comes back must
        // not take an application for dead that reported a moment ago.
        self.0.unsaved.notify_one();
        Ok(())
    }

    /// Makes TTL checks whose time is up critical. Returns the services that were critical for longer than they may
    /// be, and when to look again.
    pub(crate) fn expire(&self, now: Instant) -> (Vec<InstanceId>, Option<Instant>) {
        let mut inner = self.inner();
        for id in inner.marks.take_expired(now) {
            let Some(local) = self.0.published.borrow().checks.get(&id).cloned() else { continue };
            let output = marks::expired_output(&local.check);
            warn!(check = %id, "check missed its TTL, is now critical");
            self.mark(&mut inner, &local, Status::Critical, &output);
        }
        let state = self.local();
        inner.marks.deadlines(&state, now)
    }

    /// Resolves when a deadline may have come nearer than [`Self::expire`] said.
    pub(crate) async fn deadline_changed(&self) {
        self.0.deadlines.notified().await;
    }

    /// Resolves when a status waits to be saved.
    pub(crate) async fn unsaved(&self) {
        self.0.unsaved.notified().await;
    }

    /// Saves statuses, so that a restarted agent does not start from nothing.
    pub async fn save(&self) -> Result<(), Fault> {
        let _turn = self.0.turn.lock().await;
        let layers = self.inner().layers.clone();
        self.write(&layers).await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one change of definitions. Runs in a task of its own: a caller that goes away in the middle must
    /// not leave disk and memory apart.
    async fn change(
        &self,
        edit: impl FnOnce(&mut Layers) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), Fault> {
        let registry = self.clone();
        let task = tokio::spawn(async move {
            let _turn = registry.0.turn.lock().await;
            let before = registry.inner().layers.clone();
            let mut layers = before.clone();
            edit(&mut layers)?;
            layers.check_limits()?;
            if !layers.same_durable(&before) {
                registry.write(&layers).await?;
            }
            let mut inner = registry.inner();
            inner.layers = layers;
            registry.publish(&mut inner);
            registry.0.deadlines.notify_one();
            Ok(())
        });
        task.await
            .unwrap_or_else(|error| Err(Fault::internal(format!("the change was not carried out: {error}"))))
    }

    async fn write(&self, layers: &Layers) -> Result<(), Fault> {
        let Some(path) = self.0.options.file.clone() else { return Ok(()) };
        let stored = {
            let inner = self.inner();
            store::Stored::take(layers, &inner.marks, &self.local(), self.0.options.clock.now())
        };
        let task = tokio::task::spawn_blocking(move || store::save(&path, &stored));
        task.await.unwrap_or_else(|error| Err(Fault::internal(format!("cannot save the registry: {error}"))))
    }

    /// Computes what is in force and tells it, keeping what did not change as it is.
    fn publish(&self, inner: &mut Inner) {
        let effective = inner.layers.effective();
        for (id, why) in &effective.shadowed {
            if inner.effective.shadowed.get(id) != Some(why) {
                info!(service = %id, "registration from the API is not in force: {why}");
            }
        }
        let before = self.local();
        let mut state =
            LocalState { version: before.version + 1, definitions: before.definitions, ..Default::default() };
        for (id, (service, origin)) in &effective.services {
            let local = LocalService { instance: service.instance.clone(), origin: *origin };
            state.services.insert(id.clone(), keep(before.services.get(id), local));
        }
        inner.marks.retain(|id| effective.checks.contains_key(id));
        for (id, (definition, origin)) in &effective.checks {
            let mark = inner.marks.of(id, definition);
            let mut check = self.describe(definition, &state);
            check.status = mark.status;
            check.output.clone_from(&mark.output);
            let local = LocalCheck { check, definition: Some(definition.clone()), origin: *origin };
            state.checks.insert(id.clone(), keep(before.checks.get(id), local));
        }
        for check in inner.layers.maintenance_checks(self.node(), &state) {
            let local = LocalCheck { check, definition: None, origin: Origin::Api };
            state.checks.insert(local.check.id.clone(), keep(before.checks.get(&local.check.id), local));
        }
        state.definitions += u64::from(!same_definitions(&before, &state));
        inner.effective = effective;
        self.0.published.send_replace(Arc::new(state));
    }

    fn describe(&self, definition: &CheckDefinition, state: &LocalState) -> Check {
        let service = definition.service_id.as_ref().and_then(|id| state.services.get(id));
        Check {
            node: self.node().clone(),
            id: definition.id.clone(),
            name: definition.name.clone(),
            status: definition.initial,
            notes: definition.notes.clone(),
            output: String::new(),
            service_id: definition.service_id.clone(),
            service_name: service.map(|service| service.instance.name.clone()),
            service_tags: service.map(|service| service.instance.tags.clone()).unwrap_or_default(),
            kind: definition.probe.kind().into(),
            interval: definition.interval,
            timeout: definition.timeout,
            create_index: Default::default(),
            modify_index: Default::default(),
        }
    }

    fn mark(&self, inner: &mut Inner, local: &LocalCheck, status: Status, output: &str) {
        let max = local
            .definition
            .as_ref()
            .map_or(limit::CHECK_OUTPUT_BYTES, |definition| definition.output_max_size);
        let output = marks::cut(output, max.min(limit::CHECK_OUTPUT_BYTES));
        inner.marks.set(&local.check.id, status, output, Instant::now());
        if local.check.status == status && local.check.output == output {
            return;
        }
        if local.check.status != status {
            info!(check = %local.check.id, from = local.check.status.as_str(), to = status.as_str(), "check changed");
            self.0.deadlines.notify_one();
        }
        let mut state = LocalState::clone(&self.local());
        state.version += 1;
        let mut changed = local.clone();
        changed.check.status = status;
        changed.check.output = output.to_owned();
        state.checks.insert(changed.check.id.clone(), Arc::new(changed));
        self.0.published.send_replace(Arc::new(state));
        self.0.unsaved.notify_one();
    }
}

/// The value that is there already if it is the same, so that followers can tell what changed by its address.
fn keep<T: PartialEq>(before: Option<&Arc<T>>, now: T) -> Arc<T> {
    match before {
        Some(before) if **before == now => before.clone(),
        _ => Arc::new(now),
    }
}

fn same_definitions(a: &LocalState, b: &LocalState) -> bool {
    a.services == b.services
        && a.checks.len() == b.checks.len()
        && a.checks
            .iter()
            .zip(&b.checks)
            .all(|((x, one), (y, other))| x == y && one.definition == other.definition)
}
