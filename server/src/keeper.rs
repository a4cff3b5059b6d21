//! What a server keeps fresh: its own certificate and its intermediate.

pub(crate) mod authority;

use std::sync::Arc;
use std::time::{Duration, Instant};

use purlin_model::command::Command;
use purlin_model::session::SessionWrite;
use purlin_model::topic::{MeshInfo, Topic};
use purlin_model::{Fault, Millis, Revision};
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc::{RENEW_NODE, RenewNode, Signed};
use purlin_wire::tls::{self, Credentials};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::StartError;
use crate::ca::{CaError, Intermediate};
use crate::expiry;
use crate::issue::NODE_TTL;
use crate::rpc::{self, Service};
use crate::start::own_identity;
use crate::state::State;

/// How often certificates are looked at; each has days left when its renewal is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Keeps this server's certificates.
pub(crate) struct Keeper {
    store: Arc<NodeStore>,
    service: Arc<Service>,
    credentials: watch::Sender<Arc<Credentials>>,
}

impl Keeper {
    /// The certificate of this host: that on the disk if it is good, else a new one. A server that cannot sign yet
    /// goes on with what it has.
    pub(crate) fn open(store: Arc<NodeStore>, service: Arc<Service>) -> Result<Self, StartError> {
        let state = service.hub.state();
        let own = own_identity(&service);
        let kept = store.load_credentials()?.filter(|kept| *kept.identity() == own);
        let credentials = match (kept, state.mesh_info()) {
            // One that comes in knows no mesh but by what it was given when it joined.
            (Some(kept), None) => kept,
            // What is due is renewed once this server runs, and may ask others to do it.
            (Some(kept), Some(mesh))
                if !service.issuer.can_sign() || is_of(&kept, mesh) && is_valid(&kept, service.now()) =>
            {
                take_trust(&store, mesh)?.unwrap_or(kept)
            }
            (_, Some(mesh)) => {
                let (key, chain) = sign(&service)?;
                keep(&store, mesh, &key, &chain)?
            }
            (None, None) => return Err(no_mesh().into()),
        };
        Ok(Self { store, service, credentials: watch::Sender::new(Arc::new(credentials)) })
    }

    pub(crate) fn credentials(&self) -> watch::Receiver<Arc<Credentials>> {
        self.credentials.subscribe()
    }

    /// Renews what is due, for ever. What fails is tried again: there is time.
    pub(crate) async fn renew(self) {
        let news = self.service.hub.subscribe(None);
        for topic in [Topic::Mesh, Topic::Servers] {
            if let Err(fault) = news.follow(topic, Revision(0)) {
                tracing::error!(%fault, "certificates of this server are looked at by the clock alone");
            }
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = looks.tick() => {}, () = news.rung() => drop(news.take()) }
            if let Err(error) = take_up_authority(&self.service).await {
                tracing::warn!(%error, "the signing certificate is not as it should be, will try again");
            }
            if let Err(error) = self.look_at_own().await {
                tracing::error!(%error, "the server certificate cannot be renewed, will try again");
            }
        }
    }

    /// By our own authority, or the leader's while there is none.
    async fn new_certificate(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>), StartError> {
        if self.service.issuer.can_sign() || self.service.raft.is_leader() {
            return sign(&self.service);
        }
        let (key, csr) = tls::new_key_and_csr()?;
        let signed: Signed = self.service.call_leader(RENEW_NODE, &RenewNode { csr }).await?;
        Ok((key, signed.chain))
    }

    async fn look_at_own(&self) -> Result<(), StartError> {
        let state = self.service.hub.state();
        // One that comes in hears of its mesh soon.
        let Some(mesh) = state.mesh_info() else { return Ok(()) };
        let current = self.credentials.borrow().clone();
        let known = state.knows_certificate(&self.service.node, &current.fingerprint());
        // Who the catalog does not have yet, or any more, has nothing to be written down.
        if !known && state.node(&self.service.node).is_some() {
            rpc::record(&self.service, &self.service.node, &chain_of(&current)).await?;
        }
        if renewal_due(&current, mesh, self.service.now()) {
            let (key, chain) = self.new_certificate().await?;
            rpc::record(&self.service, &self.service.node, &chain).await?;
            self.credentials.send_replace(Arc::new(keep(&self.store, mesh, &key, &chain)?));
            tracing::info!("server certificate renewed");
        } else if !trusts_as(&current, mesh)
            && let Some(credentials) = take_trust(&self.store, mesh)?
        {
            self.credentials.send_replace(Arc::new(credentials));
        }
        Ok(())
    }
}

fn no_mesh() -> Fault {
    Fault::internal("there is no mesh")
}

fn chain_of(credentials: &Credentials) -> Vec<Vec<u8>> {
    credentials.chain().iter().map(|one| one.to_vec()).collect()
}

/// Whether it can be shown now.
fn is_valid(credentials: &Credentials, now: Millis) -> bool {
    credentials.not_before() <= now && now < credentials.not_after()
}

/// From two thirds of its life on; when it is not valid yet, because the clock was ahead when it was made; or when who
/// signed it is about to be trusted no more.
fn renewal_due(credentials: &Credentials, mesh: &MeshInfo, now: Millis) -> bool {
    let life = credentials.not_after().since(credentials.not_before());
    now < credentials.not_before()
        || now >= credentials.not_before().plus(life * 2 / 3)
        || tls::is_distrusted(credentials.chain(), &mesh.distrust)
}

/// Whether a root that this mesh trusts is at the end of it.
fn is_of(credentials: &Credentials, mesh: &MeshInfo) -> bool {
    mesh.roots.iter().any(|root| tls::is_below(credentials.chain(), &root.pem))
}

/// Whether it trusts whom the mesh trusts now.
fn trusts_as(credentials: &Credentials, mesh: &MeshInfo) -> bool {
    let roots = rpc::roots(mesh).unwrap_or_default();
    let known = credentials.roots();
    known.len() == roots.len()
        && known.iter().zip(&roots).all(|(known, root)| known.as_ref() == root)
        && *credentials.revoked() == tls::revoked_of(&mesh.distrust)
}

/// Writes down whom the mesh trusts now, and reads what this host has with it.
fn take_trust(store: &NodeStore, mesh: &MeshInfo) -> Result<Option<Credentials>, StartError> {
    store.save_roots(&rpc::roots(mesh)?)?;
    store.save_revoked(&tls::revoked_of(&mesh.distrust))?;
    Ok(store.load_credentials()?)
}

/// A new key and certificate for this host: key, then chain.
fn sign(service: &Service) -> Result<(Vec<u8>, Vec<Vec<u8>>), StartError> {
    let (key, csr) = tls::new_key_and_csr()?;
    let chain = service.issuer.sign(&csr, &own_identity(service), NODE_TTL, service.now())?;
    Ok((key, chain))
}

fn keep(
    store: &NodeStore,
    mesh: &MeshInfo,
    key: &[u8],
    chain: &[Vec<u8>],
) -> Result<Credentials, StartError> {
    store.save_credential(key, chain)?;
    let loaded = take_trust(store, mesh)?;
    Ok(loaded.ok_or_else(|| Fault::internal("the saved certificate is gone"))?)
}

/// Sees to it that this server signs with an intermediate of the active root, that the mesh knows it before it is
/// used, and that it is renewed in time. A server to which the root key is not sealed yet waits.
pub(crate) async fn take_up_authority(service: &Service) -> Result<(), StartError> {
    let (state, now) = (service.hub.state(), service.now());
    let Some(mesh) = state.mesh_info() else { return Ok(()) };
    let in_use = service.issuer.intermediate();
    if let Some(in_use) = in_use.filter(|one| one.is_current(mesh) && !one.renewal_due(now)) {
        return Ok(tell_intermediate(service, &in_use).await?);
    }
    let made = match service.ca.intermediate(mesh, now)? {
        Some(kept) => kept,
        None => match new_intermediate(service, &state, mesh, now) {
            // It comes: the leader seals the key as soon as it sees this server.
            Err(CaError::NotSealedToUs) => return Ok(()),
            made => made?,
        },
    };
    tell_intermediate(service, &made).await?;
    service.issuer.replace(made);
    tracing::info!("this server signs certificates with an intermediate of its own");
    Ok(())
}

fn new_intermediate(
    service: &Service,
    state: &State,
    mesh: &MeshInfo,
    now: Millis,
) -> Result<Intermediate, CaError> {
    let sealed = state.sealed_root_key(service.ca.sealing().public()).ok_or(CaError::NotSealedToUs)?;
    service.ca.renew_intermediate(mesh, sealed, &service.node, now)
}

/// The mesh keeps every intermediate, so that one can be revoked. Does nothing if it has this one.
async fn tell_intermediate(service: &Service, intermediate: &Intermediate) -> Result<(), Fault> {
    let certificate_pem = intermediate.pem();
    if service.hub.state().knows_intermediate(&service.node, &certificate_pem) {
        return Ok(());
    }
    let command = Command::PutIntermediate { node: service.node.clone(), certificate_pem };
    service.propose_own(command).await?.result.map(|_| ())
}

/// Ends sessions whose time is over while this server leads. Never ends itself.
pub(crate) async fn watch_sessions(service: &Service) {
    let mut leadership = service.raft.leadership();
    loop {
        if leadership.wait_for(|now| now.here).await.is_err() {
            return std::future::pending().await;
        }
        service.expiry().led();
        let lost = async {
            // An error means that Raft ended, which the handle reports.
            let _ = leadership.wait_for(|now| !now.here).await;
        };
        tokio::select! { () = lost => {}, () = expire(service) => {} }
    }
}

async fn expire(service: &Service) {
    let mut looks = interval(expiry::LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let state = service.hub.state();
        let due = service.expiry().due(state.renewed_sessions(), Instant::now());
        for id in due {
            tracing::info!(session = %id, "session was not renewed and ends");
            let ended = service.propose_own(Command::Session(SessionWrite::Destroy(id.clone()))).await;
            if let Err(fault) = ended.and_then(|outcome| outcome.result) {
                tracing::warn!(session = %id, %fault, "a session cannot be ended, will try again");
            }
        }
    }
}
