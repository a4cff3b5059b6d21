//! The host's own certificate: renewed from a third of its life, and the roots beside it kept as the mesh has them.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::{Fault, Millis};
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc;
use purlin_wire::tls::{self, Credentials};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Uplink;
use crate::clock::Clock;
use crate::core::mesh_of;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::session::SessionState;

/// The clock is looked at so often.
const LOOK: Duration = Duration::from_secs(60);
/// After a try that failed.
const RETRY: Duration = Duration::from_secs(10);
const MOST_RETRY: Duration = Duration::from_secs(600);
/// Below this it is worth a warning that nobody renews it.
const THIN: Duration = Duration::from_secs(5 * 24 * 3600);

/// What the task needs.
pub struct Renewal {
    pub uplink: Uplink,
    pub mirror: Mirror,
    /// In use by every connection to servers; a renewal reaches all of them.
    pub credentials: Arc<watch::Sender<Arc<Credentials>>>,
    pub store: Arc<NodeStore>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub stop: CancellationToken,
}

/// Runs until told to stop.
pub async fn renew_node_certificate(renewal: Renewal) {
    let share = fastrand::f64();
    let mut topics = renewal.mirror.changes();
    let mut session = renewal.uplink.session();
    let mut retry = RETRY;
    loop {
        topics.borrow_and_update();
        let connected = session.borrow_and_update().is_connected();
        let now = renewal.clock.now();
        let current = renewal.credentials.borrow().clone();
        let left = current.not_after().since(now);
        renewal.metrics.own().node_certificate_expiry.0.set(Some(left.as_secs_f64()));
        let mut pause = LOOK;
        if connected {
            let result = renewal.bring_up_to_date(&current, is_due(&current, now, share)).await;
            if let Err(fault) = result {
                warn!(left_s = left.as_secs(), "the certificate of this host is not renewed yet: {fault}");
                pause = retry;
                retry = (retry * 2).min(MOST_RETRY);
            } else {
                retry = RETRY;
            }
        } else if left < THIN {
            let left_s = left.as_secs();
            warn!(
                left_s,
                "the certificate of this host expires soon and no server can be reached to renew it"
            );
            pause = MOST_RETRY;
        }
        tokio::select! {
            () = renewal.stop.cancelled() => return,
            () = sleep(pause) => {}
            () = news(&renewal, &mut topics, &mut session), if pause == LOOK => {}
        }
    }
}

/// Resolves when there may be something to do: the roots of the mesh differ, or a session came.
async fn news(
    renewal: &Renewal,
    topics: &mut watch::Receiver<u64>,
    session: &mut watch::Receiver<SessionState>,
) {
    loop {
        tokio::select! {
            changed = session.changed() => return if changed.is_err() { std::future::pending().await },
            changed = topics.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
        let current = renewal.credentials.borrow().clone();
        if renewal.new_roots(&current).is_some() {
            return;
        }
    }
}

/// From a third of its life on, and not all hosts at once.
fn is_due(credentials: &Credentials, now: Millis, share: f64) -> bool {
    let life = credentials.not_after().since(credentials.not_before());
    credentials.not_before().plus(life.mul_f64(1.0 / 3.0 + share * 0.1)) <= now
}

impl Renewal {
    async fn bring_up_to_date(&self, current: &Credentials, is_due: bool) -> Result<(), Fault> {
        let roots = self.new_roots(current);
        if !is_due && roots.is_none() {
            return Ok(());
        }
        let signed = if is_due { Some(self.sign().await?) } else { None };
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || {
            if let Some(roots) = roots {
                store.save_roots(&roots)?;
            }
            if let Some((key, chain)) = signed {
                store.save_credential(&key, &chain)?;
            }
            store.load_credentials()
        });
        let loaded = saved.await.map_err(|error| Fault::internal(error.to_string()))?;
        let loaded = loaded.map_err(|error| Fault::internal(error.to_string()))?;
        let renewed = loaded.ok_or_else(|| Fault::internal("the saved certificate is gone"))?;
        info!(
            valid_s = renewed.not_after().since(self.clock.now()).as_secs(),
            "this host has new credentials"
        );
        self.credentials.send_replace(Arc::new(renewed));
        Ok(())
    }

    /// A certificate for the key that this host has, checked before it replaces the old one.
    async fn sign(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
        let internal = |error: &dyn std::fmt::Display| Fault::internal(error.to_string());
        let store = self.store.clone();
        let key =
            tokio::task::spawn_blocking(move || store.load_key()).await.map_err(|error| internal(&error))?;
        let key =
            key.map_err(|error| internal(&error))?.ok_or_else(|| Fault::internal("this host has no key"))?;
        let csr = tls::csr_for_key(&key).map_err(|error| internal(&error))?;
        let signed: rpc::Signed = self.uplink.call(rpc::RENEW_NODE, &rpc::RenewNode { csr }).await?;
        let current = self.credentials.borrow().clone();
        let roots = current.roots().iter().map(|root| root.to_vec()).collect();
        let usable =
            Credentials::from_der(signed.chain.clone(), &key, roots).map_err(|error| internal(&error))?;
        if usable.identity() != current.identity() {
            return Err(Fault::internal(format!(
                "the new certificate says {}; it is not used",
                usable.identity()
            )));
        }
        Ok((key, signed.chain))
    }

    /// The roots that the mesh has now, if they are not those in use.
    fn new_roots(&self, current: &Credentials) -> Option<Vec<Vec<u8>>> {
        let mesh = mesh_of(&self.mirror)?;
        if mesh.trust_domain != current.identity().trust_domain {
            return None;
        }
        let roots = crate::view::root_certificates(&mesh);
        let same = roots.len() == current.roots().len()
            && roots.iter().all(|root| current.roots().iter().any(|known| known.as_ref() == root));
        (!same && !roots.is_empty()).then_some(roots)
    }
}
