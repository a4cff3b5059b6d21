//! Keys and certificates of the services of this host: made here, signed by a server, renewed long before they expire.
//!
//! A key never leaves this host. An old certificate stays in use until a new one is whole, and while no server can be
//! reached; what is kept is on disk, so that a restarted agent goes on with it.

mod keeper;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use purlin_model::service::{Instance, ServiceKind};
use purlin_model::view::Credential;
use purlin_model::{Fault, Millis, ServiceKey};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::metrics::{Own, ServiceLabel};
use crate::registry::{LocalState, Registry};
use schedule::Schedule;

pub use keeper::Keeper;

/// How long a question for a leaf waits for the first one.
const FIRST_LEAF: Duration = Duration::from_secs(5);

/// A certificate with its key, and a number that rises with each renewal.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub credential: Arc<Credential>,
    pub version: u64,
}

/// The credentials of one host's services. Cheap to clone.
#[derive(Clone)]
pub struct Workloads(Arc<Shared>);

struct Shared {
    slots: Mutex<BTreeMap<ServiceKey, Slot>>,
    registry: Arc<Registry>,
    /// Counts every change of any credential.
    changes: watch::Sender<u64>,
}

struct Slot {
    leaf: watch::Sender<Option<Leaf>>,
    schedule: Schedule,
    /// When the leaf came here.
    issued: Millis,
    /// For how long it was good then.
    life: Duration,
    /// A server is being asked right now.
    busy: bool,
    /// Why the last try failed.
    failure: Option<String>,
}

impl Workloads {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self(Arc::new(Shared { slots: Mutex::default(), registry, changes: watch::Sender::new(0) }))
    }

    /// The leaf of a local service; waits a moment for the first.
    pub async fn leaf(&self, service: &ServiceKey) -> Result<Leaf, Fault> {
        self.leaf_past(service, 0, FIRST_LEAF).await
    }

    /// The leaf once its version is above `after`, or as it is when `wait` is over.
    pub async fn leaf_past(&self, service: &ServiceKey, after: u64, wait: Duration) -> Result<Leaf, Fault> {
        let deadline = Instant::now() + wait;
        let mut receiver = self.watch(service)?;
        let newer = receiver.wait_for(|leaf| leaf.as_ref().is_some_and(|leaf| leaf.version > after));
        if let Ok(Ok(newer)) = timeout_at(deadline, newer).await
            && let Some(leaf) = newer.clone()
        {
            return Ok(leaf);
        }
        let known = receiver.borrow().clone();
        known.ok_or_else(|| self.no_leaf(service))
    }

    /// All that are usable now.
    pub fn credentials(&self) -> BTreeMap<ServiceKey, Arc<Credential>> {
        let slots = self.lock();
        let leaves = slots
            .iter()
            .filter_map(|(key, slot)| Some((key.clone(), slot.leaf.borrow().clone()?.credential)));
        leaves.collect()
    }

    /// Changes with every credential that comes, changes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// How long everything here goes on without servers; absent where nothing has a certificate.
    pub fn stability(&self, now: Millis) -> Option<Duration> {
        let slots = self.lock();
        let left = slots
            .values()
            .filter_map(|slot| Some(slot.leaf.borrow().as_ref()?.credential.not_after.since(now)));
        left.min()
    }

    /// Sets the gauges of expiry.
    pub(crate) fn measure(&self, own: &Own, now: Millis) {
        own.static_stability.0.set(self.stability(now).map(|left| left.as_secs_f64()));
        own.leaf_expiry.clear();
        for (key, credential) in self.credentials() {
            let label = ServiceLabel { service: key.to_string() };
            own.leaf_expiry.get_or_create(&label).set(credential.not_after.since(now).as_secs_f64());
        }
    }

    /// Follows the leaf of a service that is registered here.
    fn watch(&self, service: &ServiceKey) -> Result<watch::Receiver<Option<Leaf>>, Fault> {
        if !wanted(&self.0.registry.local()).contains(service) {
            return Err(Fault::not_found(format!(
                "service \"{service}\" is not registered on this host with a connect block, so it has no certificate here"
            )));
        }
        let mut slots = self.lock();
        Ok(slots.entry(service.clone()).or_insert_with(Slot::new).leaf.subscribe())
    }

    fn no_leaf(&self, service: &ServiceKey) -> Fault {
        let failure = self.lock().get(service).and_then(|slot| slot.failure.clone());
        let why = failure.unwrap_or_else(|| "no server has signed one yet".into());
        Fault::unavailable(format!("service \"{service}\" has no certificate: {why}"))
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, Slot>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            leaf: watch::Sender::new(None),
            schedule: Schedule::now(),
            issued: Millis(0),
            life: Duration::ZERO,
            busy: false,
            failure: None,
        }
    }
}

/// Services of this host that need an identity: those behind the proxy, and those that do the mesh's TLS themselves.
fn wanted(local: &LocalState) -> BTreeSet<ServiceKey> {
    let instances = local.services.values().map(|service| service.instance.as_ref());
    instances.filter(|instance| needs_identity(instance)).map(Instance::key).collect()
}

fn needs_identity(instance: &Instance) -> bool {
    instance.kind == ServiceKind::Typical && (instance.mesh.is_some() || instance.native)
}
