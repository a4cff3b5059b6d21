//! What the servers together do for the certificate authority: the root key is sealed to every server, a root whose
//! key nobody can open gives way to a new one, and what removed servers signed with is revoked.
//!
//! What is due is a pure function of the state; one server at a time carries it out.

use std::time::Duration;

use purlin_model::command::{Command, SealedKey};
use purlin_model::node::NodeStatus;
use purlin_model::topic::{MeshInfo, ServerInfo, Topic};
use purlin_model::{Fault, Millis, NodeName, Revision};
use tokio::time::{MissedTickBehavior, interval};

use crate::StartError;
use crate::ca::{NewRoot, seal};
use crate::issue::NODE_TTL;
use crate::rpc::Service;
use crate::state::State;

/// From this level of the mesh on its servers understand what is done here.
const LEVEL: u16 = 2;
/// For what becomes due by the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between the first word of a new root and its first signature: it reaches every session within a moment.
const TRUST_FIRST: Duration = Duration::from_secs(15);
/// Beyond the longest life of what a root that was active has signed.
const MARGIN: Duration = Duration::from_secs(24 * 3600);

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Duty {
    /// The root key for one more server.
    Seal(ServerInfo),
    /// Nobody can open the root key.
    NewRoot,
    Activate(String),
    Forget(String),
    Revoke(Vec<String>),
}

/// Looks after it for ever, on every server.
pub(crate) async fn look_after(service: &Service) {
    let news = service.hub.subscribe(None);
    for topic in [Topic::Mesh, Topic::Servers] {
        if let Err(fault) = news.follow(topic, Revision(0)) {
            tracing::error!(%fault, "the certificate authority is looked after by the clock alone");
        }
    }
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! { _ = looks.tick() => {}, () = news.rung() => drop(news.take()) }
        let state = service.hub.state();
        let leads = service.raft.leadership().borrow().here;
        let mut result = Ok(());
        for duty in duties(&state, &service.node, service.ca.sealing().public(), leads, service.now()) {
            result = result.and(carry_out(service, &state, duty).await);
        }
        match result {
            Err(fault) if !failing => {
                tracing::warn!(%fault, "the certificate authority of the mesh is not in order yet, will try again");
                failing = true;
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
    }
}

/// What this server is to do. `public`: of its own sealing key.
fn duties(state: &State, own: &NodeName, public: &[u8], leads: bool, now: Millis) -> Vec<Duty> {
    let Some(mesh) = state.mesh_info().filter(|_| state.level() >= LEVEL) else { return Vec::new() };
    let mut duties = Vec::new();
    let opens = |sealed: &SealedKey| can_open(state, own, public, sealed);
    let openers: Vec<&NodeName> = state.sealed_to().filter(|one| opens(one)).map(|one| &one.node).collect();
    if sealer(state, &openers, own, leads) {
        let known = |server: &ServerInfo| {
            state.sealed_to().any(|one| one.node == server.node && one.recipient == server.sealing)
        };
        let missing = state.servers().filter(|server| !server.sealing.is_empty() && !known(server));
        duties.extend(missing.cloned().map(Duty::Seal));
    }
    if !leads {
        return duties;
    }
    match state.coming_root() {
        Some((id, since)) if since.plus(TRUST_FIRST) <= now => duties.push(Duty::Activate(id.to_owned())),
        Some(_) => {}
        None if openers.is_empty() => duties.push(Duty::NewRoot),
        None => {}
    }
    let life = NODE_TTL.max(Duration::from_millis(mesh.leaf_ttl_ms)) + MARGIN;
    let over = state.retired_roots().filter(|(_, until)| until.plus(life) <= now);
    duties.extend(over.map(|(id, _)| Duty::Forget(id.clone())));
    let revoke = state.authorities_to_revoke(now);
    if !revoke.is_empty() {
        duties.push(Duty::Revoke(revoke));
    }
    duties
}

/// Whether the server that a key is sealed to can still open it, as far as anybody knows.
fn can_open(state: &State, own: &NodeName, public: &[u8], sealed: &SealedKey) -> bool {
    if sealed.node == *own {
        return sealed.recipient == public;
    }
    let server = state.servers().find(|server| server.node == sealed.node);
    server.is_some_and(|server| server.sealing.is_empty() || server.sealing == sealed.recipient)
}

/// The leader seals; where it cannot open the key itself, the first that can.
fn sealer(state: &State, openers: &[&NodeName], own: &NodeName, leads: bool) -> bool {
    if leads {
        return openers.contains(&own);
    }
    let leader = state.servers().find(|server| server.leader).map(|server| &server.node);
    if leader.is_some_and(|leader| openers.contains(&leader)) {
        return false;
    }
    let lives = |name: &NodeName| state.node(name).is_some_and(|node| node.status == NodeStatus::Alive);
    openers.iter().find(|name| lives(name)).is_some_and(|first| *first == own)
}

async fn carry_out(service: &Service, state: &State, duty: Duty) -> Result<(), Fault> {
    let mesh = state.mesh_info().ok_or_else(|| Fault::internal("there is no mesh"))?;
    let command = match duty {
        Duty::Seal(server) => {
            let sealed = seal_to(service, state, mesh, &server)?;
            tracing::info!(server = %server.node, "the root key is sealed to a server, which can sign from now on");
            Command::SealRootKey(sealed)
        }
        Duty::NewRoot => {
            tracing::error!(
                "no server of this mesh can open the root key: the mesh starts a new root by itself; the old one stays \
                 trusted until what it signed has expired"
            );
            new_root(service, state, mesh)?
        }
        Duty::Activate(id) => {
            tracing::warn!(
                root = id,
                "a new root signs from now on, and every certificate of a service is renewed"
            );
            Command::ActivateRoot { id }
        }
        Duty::Forget(id) => {
            tracing::info!(root = id, "a root that signs no more is trusted no more");
            Command::RemoveRoot { id }
        }
        Duty::Revoke(sha256) => {
            tracing::warn!(certificates = sha256.len(), "what removed servers signed is trusted no more");
            Command::RevokeAuthorities { sha256 }
        }
    };
    service.propose_own(command).await?.result.map(|_| ())
}

fn seal_to(
    service: &Service,
    state: &State,
    mesh: &MeshInfo,
    server: &ServerInfo,
) -> Result<SealedKey, Fault> {
    let own = state.sealed_root_key(service.ca.sealing().public());
    let own = own.ok_or_else(|| Fault::unavailable("the root key is not sealed to this server"))?;
    let internal = |why: crate::ca::CaError| Fault::internal(why.to_string());
    let key = service.ca.open_root_key(mesh, own).map_err(internal)?;
    seal(&server.sealing, &server.node, &mesh.trust_domain, &own.root, &key).map_err(internal)
}

/// A root of our own making, its key sealed to every server that told its sealing key, and to this one.
fn new_root(service: &Service, state: &State, mesh: &MeshInfo) -> Result<Command, Fault> {
    let internal = |why: crate::ca::CaError| Fault::internal(why.to_string());
    let root = NewRoot::create(&mesh.trust_domain, service.now()).map_err(internal)?;
    let others = state.servers().filter(|server| server.node != service.node && !server.sealing.is_empty());
    let recipients = others.map(|server| (&server.node, server.sealing.as_slice()));
    let recipients = recipients.chain([(&service.node, service.ca.sealing().public())]);
    let sealed: Result<Vec<_>, _> = recipients
        .map(|(node, public)| seal(public, node, &mesh.trust_domain, &root.certificate.id, &root.key))
        .collect();
    Ok(Command::AddRoot { root: root.certificate, sealed_root_key: sealed.map_err(internal)? })
}

/// For a server that has neither a certificate nor a key to make one with, and so nobody who could be left behind: a
/// new root that signs at once.
pub(crate) async fn begin_anew(service: &Service) -> Result<(), StartError> {
    let state = service.hub.state();
    if state.coming_root().is_none() {
        carry_out(service, &state, Duty::NewRoot).await?;
    }
    let state = service.hub.state();
    if let Some((id, _)) = state.coming_root() {
        carry_out(service, &state, Duty::Activate(id.to_owned())).await?;
    }
    super::take_up_authority(service).await
}

#[cfg(test)]
mod tests;
