//! What a server keeps fresh: its own certificate, its intermediate, and the verdicts on hosts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use purlin_model::command::Command;
use purlin_model::node::NodeStatus;
use purlin_model::{Fault, Millis, NodeName};
use purlin_wire::node_store::NodeStore;
use purlin_wire::tls::{self, Credentials};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::StartError;
use crate::ca::{CaError, CaStore, Intermediate};
use crate::issue::NODE_TTL;
use crate::liveness::TICK;
use crate::rpc::{self, Service};
use crate::start::own_identity;
use crate::state::State;

/// How often certificates are looked at; each has days left when its renewal is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Keeps this server's certificates.
pub(crate) struct Keeper {
    store: Arc<NodeStore>,
    ca: CaStore,
    service: Arc<Service>,
    credentials: watch::Sender<Arc<Credentials>>,
}

impl Keeper {
    /// The certificate of this host: that on the disk if it is good, else a new one. A server that cannot sign yet
    /// goes on with what it has.
    pub(crate) fn open(
        store: Arc<NodeStore>,
        ca: CaStore,
        service: Arc<Service>,
    ) -> Result<Self, StartError> {
        let own = own_identity(&service);
        let may_sign = service.issuer.intermediate().is_some();
        let kept = store.load_credentials()?.filter(|kept| {
            let good = !renewal_due(kept, service.now()) && is_trusted(kept, &service);
            *kept.identity() == own && (good || !may_sign)
        });
        let credentials = match kept {
            Some(kept) => kept,
            None => issue(&store, &service)?,
        };
        Ok(Self { store, ca, service, credentials: watch::Sender::new(Arc::new(credentials)) })
    }

    pub(crate) fn credentials(&self) -> watch::Receiver<Arc<Credentials>> {
        self.credentials.subscribe()
    }

    /// Renews what is due, for ever. What fails is tried again: there is time.
    pub(crate) async fn renew(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = self.service.now();
            if self.service.issuer.intermediate().is_some_and(|own| own.renewal_due(now))
                && let Err(error) = self.renew_intermediate(now)
            {
                tracing::error!(%error, "the signing certificate cannot be renewed, will try again");
            }
            if let Err(fault) = tell_intermediate(&self.service).await {
                tracing::warn!(%fault, "the mesh does not know the signing certificate yet, will tell it again");
            }
            let may_sign = self.service.issuer.intermediate().is_some();
            if may_sign && renewal_due(&self.credentials.borrow().clone(), now) {
                match issue(&self.store, &self.service) {
                    Ok(credentials) => {
                        self.credentials.send_replace(Arc::new(credentials));
                        tracing::info!("server certificate renewed");
                    }
                    Err(error) => {
                        tracing::error!(%error, "the server certificate cannot be renewed, will try again")
                    }
                }
            }
        }
    }

    fn renew_intermediate(&self, now: Millis) -> Result<(), StartError> {
        let made = new_intermediate(&self.ca, &self.service.hub.state(), &self.service.node, now)?;
        self.service.issuer.replace(made);
        tracing::info!("signing certificate renewed");
        Ok(())
    }
}

/// From two thirds of its life on; or when it is not valid yet, because the clock was ahead when it was made.
fn renewal_due(credentials: &Credentials, now: Millis) -> bool {
    let life = credentials.not_after().since(credentials.not_before());
    now < credentials.not_before() || now >= credentials.not_before().plus(life * 2 / 3)
}

/// Whether its roots are still the mesh's.
fn is_trusted(credentials: &Credentials, service: &Service) -> bool {
    let state = service.hub.state();
    let roots = state.mesh_info().and_then(|mesh| rpc::roots(mesh).ok()).unwrap_or_default();
    let kept = credentials.roots();
    kept.len() == roots.len() && kept.iter().zip(&roots).all(|(kept, root)| kept.as_ref() == root)
}

/// A new key and certificate for this host, on the disk when it returns.
fn issue(store: &NodeStore, service: &Service) -> Result<Credentials, StartError> {
    let (key, csr) = tls::new_key_and_csr()?;
    let chain = service.issuer.sign(&csr, &own_identity(service), NODE_TTL, service.now())?;
    let state = service.hub.state();
    let mesh = state.mesh_info().ok_or_else(|| Fault::internal("there is no mesh"))?;
    let roots = rpc::roots(mesh)?;
    store.save_roots(&roots)?;
    store.save_credential(&key, &chain)?;
    Ok(Credentials::from_der(chain, &key, roots)?)
}

pub(crate) fn new_intermediate(
    ca: &CaStore,
    state: &State,
    node: &NodeName,
    now: Millis,
) -> Result<Intermediate, StartError> {
    let mesh = state.mesh_info().ok_or_else(|| Fault::internal("there is no mesh"))?;
    let sealed = state.sealed_root_key(ca.sealing().public()).ok_or(CaError::NotSealedToUs)?;
    Ok(ca.renew_intermediate(mesh, sealed, node, now)?)
}

/// The mesh keeps every intermediate, so that one can be revoked. Does nothing if it has this one.
pub(crate) async fn tell_intermediate(service: &Service) -> Result<(), Fault> {
    let Some(certificate_pem) = service.issuer.intermediate().map(|own| own.pem()) else { return Ok(()) };
    if service.hub.state().knows_intermediate(&service.node, &certificate_pem) {
        return Ok(());
    }
    let command = Command::PutIntermediate { node: service.node.clone(), certificate_pem };
    service.propose_own(command).await?.result.map(|_| ())
}

/// Watches the sessions of hosts while this server leads, and writes down the verdicts. Never ends.
pub(crate) async fn watch_hosts(service: &Service) {
    let mut leadership = service.raft.leadership();
    loop {
        if leadership.wait_for(|now| now.here).await.is_err() {
            return std::future::pending().await;
        }
        service.liveness().led(Instant::now());
        let lost = async {
            // An error means that Raft ended, which the handle reports.
            let _ = leadership.wait_for(|now| !now.here).await;
        };
        tokio::select! { () = lost => {}, () = judge(service) => {} }
    }
}

async fn judge(service: &Service) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = service.look.notified() => {} }
        for (node, status) in verdicts(service) {
            let name = match status {
                NodeStatus::Alive => "alive",
                NodeStatus::Failed => "failed",
                NodeStatus::Left => "left",
            };
            tracing::info!(%node, status = name, "host changed its status");
            service.metrics.verdict(name);
            let proposed = service.propose_own(Command::SetNodeStatus { node: node.clone(), status }).await;
            if let Err(fault) = proposed.and_then(|outcome| outcome.result) {
                tracing::warn!(%node, %fault, "the status of a host cannot be written down, will try again");
            }
        }
    }
}

fn verdicts(service: &Service) -> Vec<(NodeName, NodeStatus)> {
    let state = service.hub.state();
    let now = Instant::now();
    let mut liveness = service.liveness();
    liveness.catalog(state.members().filter(|(name, _)| **name != service.node), now);
    liveness.verdicts(now)
}
