//! What the mesh is: its trust domain, roots, sealed root key, the servers and their intermediate certificates.

use imbl::{OrdMap, Vector};
use purlin_model::autopilot::AutopilotConfig;
use purlin_model::command::{CreateMesh, Done, SealedKey};
use purlin_model::intention::Action;
use purlin_model::topic::{MeshInfo, ServerInfo, Topic};
use purlin_model::{Fault, NodeName};
use purlin_wire::tls;
use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::{Draft, State, validate};

/// The key of the one record of `Topic::Mesh`.
pub(super) const KEY: &str = "mesh";
/// Certificates that are kept of each server, newest last.
const INTERMEDIATES: usize = 8;
pub(super) const PEM_BYTES: usize = 16 * 1024;
pub(super) const SERVERS: usize = 64;
const SEALED_BYTES: usize = 4096;
/// The shortest and the longest life of a leaf.
pub(super) const LEAF_TTL_MS: std::ops::RangeInclusive<u64> = 10_000..=365 * 24 * 3_600_000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeshTable {
    pub(super) mesh: Option<Mesh>,
    pub(super) intermediates: OrdMap<NodeName, Vector<String>>,
    pub(super) servers: OrdMap<NodeName, ServerInfo>,
    /// Zero, in what the first release wrote, means the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) level: u16,
    /// Absent until somebody wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) autopilot: Option<AutopilotConfig>,
}

fn is_zero(level: &u16) -> bool {
    *level == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mesh {
    pub(super) info: MeshInfo,
    /// The root's private key, as ciphertext for each server.
    pub(super) sealed_root_key: Vec<SealedKey>,
    #[serde(default, skip_serializing_if = "Authority::is_empty")]
    pub(super) authority: Authority,
}

pub(super) fn check_ttl(leaf_ttl_ms: u64) -> Result<(), Fault> {
    if LEAF_TTL_MS.contains(&leaf_ttl_ms) {
        return Ok(());
    }
    Err(Fault::invalid("leaf_cert_ttl must be between 10s and one year"))
}

impl State {
    /// Whether the certificate with that SHA-256 is of a server that is gone.
    pub(crate) fn distrusts(&self, sha256: &[u8; 32]) -> bool {
        self.mesh_info().is_some_and(|mesh| mesh.distrust.names(&tls::hex(sha256)))
    }

    /// Whether this is the newest intermediate certificate that the mesh knows of a server.
    pub(crate) fn knows_intermediate(&self, node: &NodeName, pem: &str) -> bool {
        self.mesh.intermediates.get(node).and_then(Vector::last).is_some_and(|last| last == pem)
    }
}

impl Draft {
    pub(super) fn mesh(&self) -> Result<&Mesh, Fault> {
        self.state.mesh.mesh.as_ref().ok_or_else(|| Fault::unavailable("the mesh is not bootstrapped yet"))
    }

    pub(super) fn create_mesh(&mut self, create: &CreateMesh) -> Result<Done, Fault> {
        if let Ok(mesh) = self.mesh() {
            return Err(Fault::conflict(format!("there is a mesh already: {}", mesh.info.trust_domain)));
        }
        check_ttl(create.leaf_ttl_ms)?;
        validate::text("the root certificate", &create.root.pem, PEM_BYTES)?;
        check_sealed(&create.sealed_root_key)?;
        let mut root = create.root.clone();
        (root.create_index, root.modify_index) = (self.revision, self.revision);
        let info = MeshInfo {
            trust_domain: create.trust_domain.clone(),
            datacenter: create.datacenter.clone(),
            roots: vec![root],
            default_intention: create.default_intention,
            leaf_ttl_ms: create.leaf_ttl_ms,
            distrust: Default::default(),
            ca: None,
        };
        let sealed_root_key = create.sealed_root_key.clone();
        self.state.mesh.mesh = Some(Mesh { info, sealed_root_key, authority: Authority::default() });
        self.touch(Topic::Mesh, KEY);
        Ok(Done::Yes)
    }

    pub(super) fn update_mesh(&mut self, default: Action, leaf_ttl_ms: u64) -> Result<Done, Fault> {
        check_ttl(leaf_ttl_ms)?;
        let mut mesh = self.mesh()?.clone();
        mesh.info.default_intention = default;
        // What an operator set over the API is not undone by a file on some server.
        if mesh.info.ca.is_none() {
            mesh.info.leaf_ttl_ms = leaf_ttl_ms;
        }
        if self.state.mesh.mesh.as_ref() != Some(&mesh) {
            self.state.mesh.mesh = Some(mesh);
            self.touch(Topic::Mesh, KEY);
        }
        Ok(Done::Yes)
    }

    pub(super) fn put_intermediate(&mut self, node: &NodeName, pem: &str) -> Result<Done, Fault> {
        self.mesh()?;
        validate::text("the intermediate certificate", pem, PEM_BYTES)?;
        self.still_a_server(node)?;
        let table = &mut self.state.mesh.intermediates;
        if !table.contains_key(node) && table.len() >= SERVERS {
            return Err(validate::too_many("servers", table.len() + 1, SERVERS));
        }
        let of_node = table.entry(node.clone()).or_default();
        if of_node.last().is_some_and(|last| last == pem) {
            return Ok(Done::Yes);
        }
        of_node.push_back(pem.to_owned());
        while of_node.len() > INTERMEDIATES {
            of_node.pop_front();
        }
        Ok(Done::Yes)
    }

    /// Where a server listens. There is one leader at most.
    pub(super) fn announce_server(&mut self, server: &ServerInfo) -> Result<Done, Fault> {
        self.mesh()?;
        validate::text("the server address", &server.address, 512)?;
        let mut servers = self.state.mesh.servers.clone();
        if !servers.contains_key(&server.node) && servers.len() >= SERVERS {
            return Err(validate::too_many("servers", servers.len() + 1, SERVERS));
        }
        servers.insert(server.node.clone(), server.clone());
        let names: Vec<NodeName> = servers.keys().cloned().collect();
        for name in names.into_iter().filter(|name| server.leader && *name != server.node) {
            if let Some(other) = servers.get_mut(&name) {
                other.leader = false;
            }
        }
        for (name, info) in &servers {
            if self.state.mesh.servers.get(name) != Some(info) {
                self.touch(Topic::Servers, name.as_str());
            }
        }
        self.state.mesh.servers = servers;
        self.raise_level();
        Ok(Done::Yes)
    }

    /// A node that is no server any more is not to be called. Whether it is still trusted is another question.
    pub(super) fn forget_server(&mut self, name: &NodeName) {
        if self.state.mesh.servers.remove(name).is_some() {
            self.touch(Topic::Servers, name.as_str());
            self.raise_level();
        }
    }
}

pub(super) fn check_sealed(keys: &[SealedKey]) -> Result<(), Fault> {
    if keys.is_empty() || keys.len() > SERVERS {
        return Err(Fault::invalid(format!("the root key must be sealed to 1 to {SERVERS} servers")));
    }
    for key in keys {
        if key.ciphertext.len().max(key.encapsulated.len()).max(key.recipient.len()) > SEALED_BYTES {
            return Err(Fault::invalid(format!("the root key sealed to {} is too long", key.node)));
        }
    }
    Ok(())
}
