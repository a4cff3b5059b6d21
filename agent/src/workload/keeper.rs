//! The task that keeps credentials fresh: asks servers to sign, puts new ones in use, saves them, drops what is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use purlin_model::topic::{Distrust, MeshInfo, Topic};
use purlin_model::view::Credential;
use purlin_model::{Fault, Millis, ServiceKey};
use purlin_wire::{rpc, tls};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::schedule::{Schedule, life};
use super::{Leaf, Slot, Workloads, wanted};
use crate::anti_entropy::SyncDriver;
use crate::clock::Clock;
use crate::core::mesh_of;
use crate::metrics::{Metrics, ResultLabel};
use crate::mirror::Mirror;
use crate::registry::LocalState;
use crate::store;
use crate::uplink::Uplink;

/// Servers are asked for so many at once.
const AT_ONCE: usize = 8;
/// The wall clock is looked at so often, whatever the other one says.
const LOOK: Duration = Duration::from_secs(30);
/// Less than this without a server is worth a warning.
const THIN: Duration = Duration::from_secs(24 * 3600);
/// Before a certificate that came and is outdated already is asked for again.
const OUTDATED_AGAIN: Duration = Duration::from_secs(2);
const VERSION: u16 = 1;

/// What the task needs.
pub struct Keeper {
    pub workloads: Workloads,
    pub uplink: Uplink,
    pub mirror: Mirror,
    pub sync: SyncDriver,
    pub metrics: Metrics,
    pub clock: Clock,
    /// Where credentials are kept; absent: in memory only.
    pub file: Option<PathBuf>,
    pub stop: CancellationToken,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    leaves: Vec<StoredLeaf>,
}

#[derive(Serialize, Deserialize)]
struct StoredLeaf {
    credential: Credential,
    issued: Millis,
    life: Duration,
    version: u64,
}

struct Signing {
    service: ServiceKey,
    result: Result<Credential, Fault>,
}

impl Keeper {
    /// Puts in use what the last run left, as far as it is still good.
    pub fn restore(&self) {
        let Some(file) = &self.file else { return };
        let Some(stored) = store::load_keys_or_warn::<Stored>(file, VERSION) else { return };
        let now = self.clock.now();
        let mut slots = self.workloads.lock();
        for leaf in stored.leaves {
            if leaf.credential.not_after <= now {
                continue;
            }
            let slot = slots.entry(leaf.credential.service.clone()).or_insert_with(Slot::new);
            slot.schedule = Schedule::renewal(leaf.issued, leaf.life, now, fastrand::f64());
            slot.issued = leaf.issued;
            slot.life = leaf.life;
            slot.leaf
                .send_replace(Some(Leaf { credential: Arc::new(leaf.credential), version: leaf.version }));
        }
        drop(slots);
        self.workloads.changed();
    }

    /// Runs until told to stop.
    pub async fn run(self) {
        let mut local = self.workloads.0.registry.watch();
        let mut rounds = self.sync.rounds();
        let mut session = self.uplink.session();
        let mut topics = self.mirror.changes();
        let mut trusted = None;
        let mut signings = FuturesUnordered::new();
        let mut thin = false;
        loop {
            let definitions = local.borrow_and_update().definitions;
            self.replace_outdated(&mut trusted);
            if self.drop_unwanted() {
                self.save().await;
            }
            for service in self.due(AT_ONCE - signings.len()) {
                signings.push(self.sign(service));
            }
            self.warn_if_thin(&mut thin);
            tokio::select! {
                () = self.stop.cancelled() => return,
                open = changed_since(&mut local, definitions) => if !open { return },
                () = rounds.next() => self.try_sooner(),
                _ = session.changed() => self.try_now_if_connected(),
                () = self.other_trust(&mut topics, &trusted) => {}
                Some(signing) = signings.next() => self.finish(signing).await,
                () = sleep_until(self.next_look()) => {}
            }
        }
    }

    /// Services that came get a slot, those that went lose theirs. Tells whether a credential went.
    fn drop_unwanted(&self) -> bool {
        let wanted = wanted(&self.workloads.0.registry.local());
        let mut slots = self.workloads.lock();
        for service in &wanted {
            slots.entry(service.clone()).or_insert_with(Slot::new);
        }
        let mut dropped = false;
        slots.retain(|service, slot| {
            let keep = wanted.contains(service) || slot.busy;
            dropped |= !keep && slot.leaf.borrow().is_some();
            keep
        });
        drop(slots);
        if dropped {
            self.workloads.changed();
        }
        dropped
    }

    /// Takes what is to be signed now, at most so many.
    fn due(&self, most: usize) -> Vec<ServiceKey> {
        let (now, wall) = (Instant::now(), self.clock.now());
        let mut slots = self.workloads.lock();
        let due =
            slots.iter_mut().filter(|(_, slot)| !slot.busy && slot.schedule.is_due(now, wall)).take(most);
        due.map(|(service, slot)| {
            slot.busy = true;
            service.clone()
        })
        .collect()
    }

    /// Resolves when the mesh trusts others than it did.
    async fn other_trust(&self, topics: &mut watch::Receiver<u64>, known: &Option<Trusted>) {
        loop {
            if topics.changed().await.is_err() {
                return std::future::pending().await;
            }
            if mesh_of(&self.mirror).is_some_and(|mesh| known.as_ref() != Some(&Trusted::of(&mesh))) {
                return;
            }
        }
    }

    /// Certificates of an authority that is soon trusted no more, or of a root that signs no more, get replaced; hosts
    /// spread that over the time that the servers need.
    fn replace_outdated(&self, known: &mut Option<Trusted>) {
        let Some(mesh) = mesh_of(&self.mirror) else { return };
        let now = Trusted::of(&mesh);
        if known.replace(now.clone()).as_ref() == Some(&now) {
            return;
        }
        let spread = Duration::from_millis(mesh.distrust.spread_ms);
        for (service, slot) in self.workloads.lock().iter_mut() {
            let leaf = slot.leaf.borrow().clone();
            if leaf.is_some_and(|leaf| is_outdated(&leaf.credential.chain, &mesh)) {
                debug!(service = %service, "certificate is of an authority that goes, it is replaced");
                slot.schedule = Schedule::within(spread, fastrand::f64());
            }
        }
    }

    fn try_sooner(&self) {
        for slot in self.workloads.lock().values_mut() {
            slot.schedule = slot.schedule.sooner();
        }
    }

    fn try_now_if_connected(&self) {
        if self.uplink.session().borrow().is_connected() {
            for slot in self.workloads.lock().values_mut() {
                slot.schedule = slot.schedule.at_last(fastrand::f64());
            }
        }
    }

    fn next_look(&self) -> Instant {
        let slots = self.workloads.lock();
        let next = slots.values().filter(|slot| !slot.busy).map(|slot| slot.schedule.at()).min();
        let look = Instant::now() + LOOK;
        next.map_or(look, |next| next.min(look))
    }

    async fn sign(&self, service: ServiceKey) -> Signing {
        let result = self.ask_to_sign(&service).await;
        Signing { service, result }
    }

    /// A new key, a request for it, and a check that what comes back is usable.
    async fn ask_to_sign(&self, service: &ServiceKey) -> Result<Credential, Fault> {
        let mesh = mesh_of(&self.mirror)
            .ok_or_else(|| Fault::unavailable(format!("{} is not known yet", Topic::Mesh)))?;
        let bad = |error: tls::TlsError| Fault::internal(format!("certificate of {service}: {error}"));
        let (key, csr) = tls::new_key_and_csr().map_err(bad)?;
        let ask = rpc::SignLeaf { service: service.clone(), csr };
        let signed: rpc::Signed = self.uplink.call(rpc::SIGN_LEAF, &ask).await?;
        let roots = crate::view::root_certificates(&mesh);
        let usable = tls::Credentials::from_der(signed.chain.clone(), &key, roots).map_err(bad)?;
        let identity = usable.identity();
        if identity.service_key().as_ref() != Some(service) || identity.trust_domain != mesh.trust_domain {
            return Err(Fault::internal(format!("certificate of {service} says {identity}; it is not used")));
        }
        Ok(Credential {
            service: service.clone(),
            identity: identity.to_string(),
            chain: signed.chain,
            key,
            not_before: usable.not_before(),
            not_after: usable.not_after(),
        })
    }

    async fn finish(&self, signing: Signing) {
        let Signing { service, result } = signing;
        let label = ResultLabel { result: if result.is_ok() { "signed" } else { "failed" } };
        self.metrics.own().leaf_signings.get_or_create(&label).inc();
        match result {
            Ok(credential) => {
                self.put_in_use(&service, credential);
                self.save().await;
            }
            Err(fault) => self.note_failure(&service, &fault),
        }
    }

    fn put_in_use(&self, service: &ServiceKey, credential: Credential) {
        let now = self.clock.now();
        let ttl = mesh_of(&self.mirror).map_or(0, |mesh| mesh.leaf_ttl_ms);
        let life = life(credential.not_before, credential.not_after, now, Duration::from_millis(ttl));
        let mut slots = self.workloads.lock();
        let Some(slot) = slots.get_mut(service) else { return };
        slot.busy = false;
        slot.failure = None;
        slot.issued = now;
        slot.life = life;
        // A server may sign with the old authority for a moment longer.
        let again = mesh_of(&self.mirror).is_some_and(|mesh| is_outdated(&credential.chain, &mesh));
        slot.schedule = match again {
            true => Schedule::within(OUTDATED_AGAIN, 0.5 + fastrand::f64() / 2.0),
            false => Schedule::renewal(now, life, now, fastrand::f64()),
        };
        let version = slot.leaf.borrow().as_ref().map_or(0, |leaf| leaf.version) + 1;
        slot.leaf.send_replace(Some(Leaf { credential: Arc::new(credential), version }));
        drop(slots);
        info!(service = %service, version, valid_s = life.as_secs(), "service has a new certificate");
        self.workloads.changed();
    }

    fn note_failure(&self, service: &ServiceKey, fault: &Fault) {
        let now = self.clock.now();
        let mut slots = self.workloads.lock();
        let Some(slot) = slots.get_mut(service) else { return };
        slot.busy = false;
        let left = slot.leaf.borrow().as_ref().map(|leaf| leaf.credential.not_after.since(now));
        slot.schedule = slot.schedule.retry(left, fastrand::f64());
        // The first certificate may be asked for while the servers still hear of the service: that is no news.
        let tries = slot.schedule.failures();
        let other = slot.failure.as_ref() != Some(&fault.text);
        let is_new = if left.is_some() { other } else { tries == 2 || (other && tries > 2) };
        slot.failure = Some(fault.text.clone());
        drop(slots);
        if is_new && self.uplink.session().borrow().is_connected() {
            warn!(service = %service, "no new certificate yet: {fault}");
        } else {
            debug!(service = %service, "no new certificate yet: {fault}");
        }
    }

    /// Says once that certificates run out and nobody can renew them.
    fn warn_if_thin(&self, thin: &mut bool) {
        let left = self.workloads.stability(self.clock.now());
        let offline = !self.uplink.session().borrow().is_connected();
        let now_thin = offline && left.is_some_and(|left| left < THIN);
        if now_thin && !*thin {
            let left_s = left.unwrap_or_default().as_secs();
            warn!(
                left_s,
                "certificates of this host's services expire soon and no server can be reached to renew them"
            );
        }
        *thin = now_thin;
    }

    async fn save(&self) {
        let Some(file) = self.file.clone() else { return };
        store::save_or_warn(file, VERSION, self.stored()).await;
    }

    fn stored(&self) -> Stored {
        let slots = self.workloads.lock();
        let leaves = slots.values().filter_map(|slot| {
            let leaf = slot.leaf.borrow().clone()?;
            let credential = Credential::clone(&leaf.credential);
            Some(StoredLeaf { credential, issued: slot.issued, life: slot.life, version: leaf.version })
        });
        Stored { leaves: leaves.collect() }
    }
}

/// Whom a mesh trusts, as far as certificates of this host depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trusted {
    distrust: Distrust,
    active: Option<String>,
}

impl Trusted {
    fn of(mesh: &MeshInfo) -> Self {
        let active = mesh.active_root().map(|root| root.id.clone());
        Self { distrust: mesh.distrust.clone(), active }
    }
}

fn is_outdated(chain: &[Vec<u8>], mesh: &MeshInfo) -> bool {
    tls::is_distrusted(chain, &mesh.distrust)
        || mesh.active_root().is_some_and(|root| !tls::is_below(chain, &root.pem))
}

/// Resolves when services or definitions of checks changed; false when the registry is gone.
async fn changed_since(local: &mut watch::Receiver<Arc<LocalState>>, definitions: u64) -> bool {
    local.wait_for(|local| local.definitions != definitions).await.is_ok()
}
