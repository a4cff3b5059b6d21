//! The certificate authority as the state has it: roots and to whom their keys are sealed, and certificates of servers
//! that are gone, which hosts first have time to replace and then trust no more.

use std::time::Duration;

use imbl::OrdMap;
use purlin_model::command::{Done, SealedKey};
use purlin_model::node::NodeRole;
use purlin_model::topic::{CaConfig, Distrust, RootCertificate, Topic};
use purlin_model::{Fault, Millis, NodeName};
use purlin_wire::tls;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::mesh::{KEY, LEAF_TTL_MS, Mesh, PEM_BYTES, check_sealed, check_ttl};
use super::{Draft, State, validate};

/// Roots at a time: the active one, one to come, and some that were active.
const ROOTS: usize = 8;
/// Certificates of servers that are gone. Each expires, and is forgotten then.
const GONE: usize = 1_024;
/// Between the removal of a server and the revocation of what it signs with: hosts renew at once, in so far as the
/// remaining servers can sign, and the more hosts there are the longer that takes.
const GRACE: Duration = Duration::from_secs(30);
const GRACE_PER_NODE: Duration = Duration::from_millis(40);
const SPREAD_MS_PER_NODE: u64 = 20;
/// As Consul: an intermediate outlives the leaves that it signs.
const LEAVES_OF_INTERMEDIATE: u64 = 3;
/// The longest life of an intermediate, and of anything else here.
const LONGEST_MS: u64 = 87_600 * 3_600_000;

/// What stands beside what everybody may know of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authority {
    /// By SHA-256 as hex.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    gone: OrdMap<String, Gone>,
    /// A root that is trusted, but does not sign yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coming: Option<Coming>,
    /// Roots that were active, and until when.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    retired: OrdMap<String, Millis>,
}

/// A certificate of a server that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gone {
    node: NodeName,
    /// From when on nobody trusts it any more.
    revoke_at: Millis,
    not_after: Millis,
    revoked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coming {
    id: String,
    since: Millis,
    sealed: Vec<SealedKey>,
}

impl Authority {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One that has expired by itself is refused without us.
    fn forget_expired(&mut self, at: Millis) {
        let live = self.gone.iter().filter(|(_, one)| one.not_after >= at);
        self.gone = live.map(|(sha256, one)| (sha256.clone(), one.clone())).collect();
    }
}

impl State {
    fn authority(&self) -> Option<&Authority> {
        self.mesh.mesh.as_ref().map(|mesh| &mesh.authority)
    }

    /// Servers to which the active root's key is sealed, with the sealing key each had then.
    pub(crate) fn sealed_to(&self) -> impl Iterator<Item = &SealedKey> {
        self.mesh.mesh.iter().flat_map(|mesh| &mesh.sealed_root_key)
    }

    /// What hosts had time to replace and is to be revoked now.
    pub(crate) fn authorities_to_revoke(&self, now: Millis) -> Vec<String> {
        let gone = self.authority().map(|authority| &authority.gone);
        let due = gone.into_iter().flatten().filter(|(_, one)| !one.revoked && one.revoke_at <= now);
        due.map(|(sha256, _)| sha256.clone()).collect()
    }

    /// The root that does not sign yet, and since when everybody may hear of it.
    pub(crate) fn coming_root(&self) -> Option<(&str, Millis)> {
        let coming = self.authority()?.coming.as_ref()?;
        Some((&coming.id, coming.since))
    }

    /// Roots that were active until then.
    pub(crate) fn retired_roots(&self) -> impl Iterator<Item = (&String, Millis)> {
        let retired = self.authority().map(|authority| &authority.retired);
        retired.into_iter().flatten().map(|(id, until)| (id, *until))
    }
}

impl Draft {
    fn mesh_mut(&mut self) -> Result<&mut Mesh, Fault> {
        let missing = || Fault::unavailable("the mesh is not bootstrapped yet");
        self.state.mesh.mesh.as_mut().ok_or_else(missing)
    }

    pub(super) fn seal_root_key(&mut self, sealed: &SealedKey) -> Result<Done, Fault> {
        check_sealed(std::slice::from_ref(sealed))?;
        let servers = &self.state.mesh.servers;
        if servers.get(&sealed.node).is_none_or(|server| server.sealing != sealed.recipient) {
            return Err(Fault::conflict(format!(
                "the root key is sealed to the servers of the mesh, and {} is none with that sealing key",
                sealed.node
            )));
        }
        let mesh = self.mesh_mut()?;
        let active = mesh.info.active_root().map(|root| root.id.clone()).unwrap_or_default();
        let keys = match &mut mesh.authority.coming {
            Some(coming) if sealed.root == coming.id => &mut coming.sealed,
            _ if sealed.root.is_empty() || sealed.root == active => &mut mesh.sealed_root_key,
            _ => return Err(Fault::conflict(format!("there is no root {} that signs", sealed.root))),
        };
        keys.retain(|known| known.node != sealed.node);
        keys.push(sealed.clone());
        // Whoever waits for its key follows the servers; the other hosts have nothing to learn.
        self.touch(Topic::Servers, sealed.node.as_str());
        Ok(Done::Yes)
    }

    pub(super) fn add_root(&mut self, root: &RootCertificate, sealed: &[SealedKey]) -> Result<Done, Fault> {
        check_sealed(sealed)?;
        validate::text("the root certificate", &root.pem, PEM_BYTES)?;
        let (revision, at) = (self.revision, self.at);
        let mesh = self.mesh_mut()?;
        if let Some(coming) = &mesh.authority.coming {
            return Err(Fault::conflict(format!("root {} is to become the active one already", coming.id)));
        }
        if mesh.info.roots.iter().any(|known| known.id == root.id) {
            return Err(Fault::conflict(format!("there is a root {} already", root.id)));
        }
        if mesh.info.roots.len() >= ROOTS {
            return Err(validate::too_many("root certificates", mesh.info.roots.len() + 1, ROOTS));
        }
        let added =
            RootCertificate { active: false, create_index: revision, modify_index: revision, ..root.clone() };
        mesh.info.roots.push(added);
        mesh.authority.coming = Some(Coming { id: root.id.clone(), since: at, sealed: sealed.to_vec() });
        self.touch(Topic::Mesh, KEY);
        Ok(Done::Yes)
    }

    pub(super) fn activate_root(&mut self, id: &str) -> Result<Done, Fault> {
        let (revision, at) = (self.revision, self.at);
        let mesh = self.mesh_mut()?;
        let Some(coming) = mesh.authority.coming.take_if(|coming| coming.id == id) else {
            return Err(Fault::conflict(format!("root {id} is not about to become the active one")));
        };
        for root in &mut mesh.info.roots {
            let active = root.id == id;
            if root.active && !active {
                mesh.authority.retired.insert(root.id.clone(), at);
            }
            if root.active != active {
                (root.active, root.modify_index) = (active, revision);
            }
        }
        // The active one first, as everybody expects it.
        mesh.info.roots.sort_by_key(|root| !root.active);
        mesh.sealed_root_key = coming.sealed;
        self.touch(Topic::Mesh, KEY);
        Ok(Done::Yes)
    }

    pub(super) fn remove_root(&mut self, id: &str) -> Result<Done, Fault> {
        let mesh = self.mesh_mut()?;
        let coming = mesh.authority.coming.as_ref().is_some_and(|coming| coming.id == id);
        if coming || mesh.info.active_root().is_some_and(|active| active.id == id) {
            return Err(Fault::conflict(format!("root {id} signs, or is about to: it cannot be removed")));
        }
        let before = mesh.info.roots.len();
        mesh.info.roots.retain(|root| root.id != id);
        mesh.authority.retired.remove(id);
        let existed = mesh.info.roots.len() < before;
        if existed {
            self.touch(Topic::Mesh, KEY);
        }
        Ok(Done::Deleted { existed })
    }

    pub(super) fn revoke_authorities(&mut self, sha256: &[String]) -> Result<Done, Fault> {
        let at = self.at;
        let authority = &mut self.mesh_mut()?.authority;
        for known in sha256 {
            if let Some(gone) = authority.gone.get_mut(known) {
                gone.revoked = true;
            }
        }
        authority.forget_expired(at);
        self.tell_distrust();
        Ok(Done::Yes)
    }

    pub(super) fn set_ca_config(&mut self, config: &CaConfig) -> Result<Done, Fault> {
        check_ttl(config.leaf_ttl_ms)?;
        let least = config.leaf_ttl_ms.saturating_mul(LEAVES_OF_INTERMEDIATE).max(*LEAF_TTL_MS.start());
        if config.intermediate_ttl_ms < least || config.intermediate_ttl_ms > LONGEST_MS {
            return Err(Fault::invalid(
                "IntermediateCertTTL must be at least three times LeafCertTTL, and at most 87600h",
            ));
        }
        if config.rotation_period_ms > LONGEST_MS {
            return Err(Fault::invalid("RotationPeriod must be at most 87600h"));
        }
        let info = &mut self.mesh_mut()?.info;
        if info.ca.as_ref() != Some(config) {
            (info.ca, info.leaf_ttl_ms) = (Some(config.clone()), config.leaf_ttl_ms);
            self.touch(Topic::Mesh, KEY);
        }
        Ok(Done::Yes)
    }

    /// What a server had that is gone: the root key is no longer sealed to it, its own certificates count no more, and
    /// those that it signs will not as soon as hosts had time to replace them.
    pub(super) fn distrust_server(&mut self, name: &NodeName) {
        let intermediates = self.state.mesh.intermediates.remove(name).unwrap_or_default();
        let is_server = self.host(name).is_some_and(|host| host.node.role == NodeRole::Server);
        let own = if is_server { self.state.certificates.of(name) } else { Vec::new() };
        let at = self.at;
        let nodes = u32::try_from(self.state.catalog.hosts.len()).unwrap_or(u32::MAX);
        let revoke_at = at.plus(GRACE + GRACE_PER_NODE.saturating_mul(nodes));
        let Ok(mesh) = self.mesh_mut() else { return };
        mesh.sealed_root_key.retain(|sealed| sealed.node != *name);
        if let Some(coming) = &mut mesh.authority.coming {
            coming.sealed.retain(|sealed| sealed.node != *name);
        }
        let signed = intermediates.iter().filter_map(|pem| identify(pem)).map(|found| (found, false));
        let own = own.into_iter().map(|(sha256, not_after)| ((tls::hex(&sha256), not_after), true));
        mesh.authority.forget_expired(at);
        let gone = &mut mesh.authority.gone;
        for ((sha256, not_after), revoked) in signed.chain(own).filter(|((_, until), _)| *until >= at) {
            gone.insert(sha256, Gone { node: name.clone(), revoke_at, not_after, revoked });
        }
        while gone.len() > GONE {
            // The one that expires first is missed least.
            let Some(first) = gone.iter().min_by_key(|(_, one)| one.not_after).map(|(sha, _)| sha.clone())
            else {
                break;
            };
            gone.remove(&first);
        }
        self.tell_distrust();
    }

    /// Refuses what a server said just before it was removed, and that comes after.
    pub(super) fn still_a_server(&self, name: &NodeName) -> Result<(), Fault> {
        let gone = self.state.authority().is_some_and(|own| own.gone.values().any(|one| one.node == *name));
        if gone && self.host(name).is_none() {
            return Err(Fault::not_found(format!("no server {name}: it was removed meanwhile")));
        }
        Ok(())
    }

    fn tell_distrust(&mut self) {
        let nodes = u64::try_from(self.state.catalog.hosts.len()).unwrap_or(u64::MAX);
        let Ok(mesh) = self.mesh_mut() else { return };
        let mut distrust = Distrust::default();
        for (sha256, gone) in &mesh.authority.gone {
            let list = if gone.revoked { &mut distrust.revoked } else { &mut distrust.retiring };
            list.insert(sha256.clone());
        }
        if !distrust.retiring.is_empty() {
            distrust.spread_ms = nodes.saturating_mul(SPREAD_MS_PER_NODE);
        }
        let lists = |one: &Distrust| (one.retiring.clone(), one.revoked.clone());
        if lists(&mesh.info.distrust) != lists(&distrust) {
            mesh.info.distrust = distrust;
            self.touch(Topic::Mesh, KEY);
        }
    }
}

/// A certificate's SHA-256 as hex and the end of its life. One that cannot be read vouches for nobody.
fn identify(pem: &str) -> Option<(String, Millis)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let validity = tls::validity(&der).ok()?;
    Some((tls::hex(&tls::fingerprint(&der)), validity.not_after))
}
