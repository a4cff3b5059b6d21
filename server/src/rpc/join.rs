//! `join`: a stranger with a join token becomes a member, with a certificate of its own.

use std::net::SocketAddr;

use purlin_model::command::{Actor, Command, Join, RequestId};
use purlin_model::identity::{Identity, Subject};
use purlin_model::node::NodeRole;
use purlin_model::topic::MeshInfo;
use purlin_model::{Fault, FaultCode};
use purlin_wire::rpc::{Call, JoinRequest, Joined};
use purlin_wire::token::Secret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Conversation;
use super::authorize::{Access, Resource, authorize};
use super::sign::record;
use crate::issue::{NODE_TTL, key_sha256};

impl Conversation {
    pub(super) async fn join(&self, call: &Call) -> Result<Joined, Fault> {
        let ask: JoinRequest = Self::decode(call)?;
        let service = &self.service;
        let state = service.hub.state();
        authorize(&state, &self.caller, &Resource::Door, Access::Write)?;
        let mesh = state.mesh_info().ok_or_else(|| Fault::unavailable("the mesh is not bootstrapped yet"))?;
        let identity = self.identity_of(&ask, mesh)?;
        let join = Join {
            token: ask.token.clone(),
            secret_sha256: Secret::sha256_of(&ask.secret),
            key_sha256: key_sha256(&ask.csr)?,
            id: ask.id,
            name: ask.name.clone(),
            role: ask.role,
            address: self.address_of(&ask.address),
            mesh_port: ask.mesh_port,
        };
        // Refused here, a stranger's attempt costs no place in the log.
        state.would_join(&join, service.now())?;
        let request = RequestId(uuid::Uuid::new_v4());
        service.propose(request, Actor::default(), Command::Join(join)).await?.result?;
        let chain = service.sign(&ask.csr, &identity, NODE_TTL).await?;
        record(service, &ask.name, &chain).await?;
        service.metrics.signed("node");
        tracing::info!(node = %ask.name, remote = self.link.remote(), token = ask.token, "node joined");
        Ok(Joined {
            trust_domain: mesh.trust_domain.clone(),
            datacenter: mesh.datacenter.clone(),
            chain,
            roots: roots(mesh)?,
            servers: service.hub.state().server_addresses(),
        })
    }

    fn identity_of(&self, ask: &JoinRequest, mesh: &MeshInfo) -> Result<Identity, Fault> {
        if let Some(asked) = ask.datacenter.as_ref().filter(|asked| **asked != mesh.datacenter) {
            return Err(Fault::new(
                FaultCode::Conflict,
                format!("this mesh is datacenter {}, not {asked}: set datacenter to it", mesh.datacenter),
            ));
        }
        let (datacenter, node) = (mesh.datacenter.clone(), ask.name.clone());
        let subject = match ask.role {
            NodeRole::Agent => Subject::Agent { datacenter, node },
            NodeRole::Server => Subject::Server { datacenter, node },
            NodeRole::External => {
                return Err(Fault::invalid("an external node does not join, it is registered"));
            }
        };
        Ok(Identity { trust_domain: mesh.trust_domain.clone(), subject })
    }

    /// One that does not know its own address is where its packets come from.
    fn address_of(&self, told: &str) -> String {
        let unknown = told.is_empty() || told.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        match self.link.remote().parse::<SocketAddr>() {
            Ok(remote) if unknown => remote.ip().to_canonical().to_string(),
            _ => told.to_owned(),
        }
    }
}

/// The mesh's roots as DER.
pub(crate) fn roots(mesh: &MeshInfo) -> Result<Vec<Vec<u8>>, Fault> {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map(|der| der.to_vec());
    let roots: Result<Vec<_>, _> = mesh.roots.iter().map(|root| der(&root.pem)).collect();
    roots.map_err(|why| Fault::internal(format!("a root certificate of the mesh is not readable: {why}")))
}
