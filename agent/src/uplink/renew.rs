//! The host's own certificate: renewed from a third of its life, and the roots beside it kept as the mesh has them.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::{Fault, Millis};
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc;
use purlin_wire::tls::{self, Credentials, Revoked};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MOST_PAUSE, Uplink, jitter};
use crate::clock::Clock;
use crate::core::mesh_of;
use crate::join::{Door, NotRenewed, renew_by_key};
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
    /// For when the certificate has expired and no session can be had with it.
    pub door: Arc<dyn Door>,
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
            let due = is_due(&current, now, share) || renewal.is_distrusted(&current);
            let result = renewal.bring_up_to_date(&current, due).await;
            if let Err(fault) = result {
                warn!(left_s = left.as_secs(), "the certificate of this host is not renewed yet: {fault}");
                pause = retry;
                retry = (retry * 2).min(MOST_RETRY);
            } else {
                retry = RETRY;
            }
        } else if left.is_zero() {
            pause = renewal.come_back(&current).await;
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

/// Resolves when there may be something to do: the mesh trusts others than it did, or a session came.
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
        if renewal.new_trust(&current).is_some() || renewal.is_distrusted(&current) {
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
        let trust = self.new_trust(current);
        if !is_due && trust.is_none() {
            return Ok(());
        }
        let signed = if is_due { Some(self.sign().await?) } else { None };
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || {
            if let Some((roots, revoked)) = trust {
                store.save_roots(&roots)?;
                store.save_revoked(&revoked)?;
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

    /// This host was off, or without servers, until its certificate had expired. How long to wait for the next look.
    async fn come_back(&self, current: &Credentials) -> Duration {
        let servers = match self.store.load() {
            Ok(file) => file.map(|file| file.servers).unwrap_or_default(),
            Err(error) => {
                warn!("where servers are cannot be read: {error}");
                Vec::new()
            }
        };
        match renew_by_key(&self.store, &servers, current, self.door.as_ref()).await {
            Ok(renewed) => {
                info!("the certificate of this host had expired and was renewed by its key");
                self.credentials.send_replace(Arc::new(renewed));
                LOOK
            }
            Err(NotRenewed::Refused(fault)) => {
                warn!("the certificate of this host has expired, and no other is given: {fault}");
                MOST_RETRY
            }
            Err(NotRenewed::ForNow(why)) => {
                warn!("the certificate of this host has expired and is not renewed yet: {why}");
                jitter(MOST_PAUSE)
            }
        }
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

    /// Whether the server that signed it is gone: it gets another, in good time.
    fn is_distrusted(&self, current: &Credentials) -> bool {
        mesh_of(&self.mirror).is_some_and(|mesh| tls::is_distrusted(current.chain(), &mesh.distrust))
    }

    /// Roots, and certificates not to trust, as the mesh has them now, if they are not those in use.
    fn new_trust(&self, current: &Credentials) -> Option<(Vec<Vec<u8>>, Revoked)> {
        let mesh = mesh_of(&self.mirror)?;
        if mesh.trust_domain != current.identity().trust_domain {
            return None;
        }
        let roots = crate::view::root_certificates(&mesh);
        let same = roots.len() == current.roots().len()
            && roots.iter().all(|root| current.roots().iter().any(|known| known.as_ref() == root));
        let revoked = tls::revoked_of(&mesh.distrust);
        let same = same && *current.revoked() == revoked;
        (!same && !roots.is_empty()).then_some((roots, revoked))
    }
}
