//! `sign-leaf` and `renew-node`: certificates for who is here already.

use std::time::Duration;

use purlin_model::command::Command;
use purlin_model::identity::Identity;
use purlin_model::{Fault, NodeName};
use purlin_wire::rpc::{Call, RenewNode, SignLeaf, Signed};
use purlin_wire::tls;

use super::authorize::{Access, Resource, authorize};
use super::{Conversation, Service};
use crate::issue::NODE_TTL;

impl Conversation {
    pub(super) async fn sign_leaf(&self, call: &Call) -> Result<Signed, Fault> {
        let ask: SignLeaf = Self::decode(call)?;
        let service = &self.service;
        let state = service.hub.state();
        authorize(&state, &self.caller, &Resource::Service(&ask.service), Access::Write)?;
        let mesh = state.mesh_info().ok_or_else(|| Fault::unavailable("the mesh is not bootstrapped yet"))?;
        let life = Duration::from_millis(mesh.leaf_ttl_ms);
        let identity =
            Identity::service(service.trust_domain.clone(), service.datacenter.clone(), &ask.service);
        service.issuer.turn().await?;
        let chain = service.issuer.sign(&ask.csr, &identity, life, service.now())?;
        service.metrics.signed("leaf");
        tracing::debug!(%identity, node = self.caller.node().map(tracing::field::display), "leaf signed");
        Ok(Signed { chain })
    }

    pub(super) async fn renew_node(&self, call: &Call) -> Result<Signed, Fault> {
        let ask: RenewNode = Self::decode(call)?;
        let service = &self.service;
        let state = service.hub.state();
        authorize(&state, &self.caller, &Resource::OwnIdentity, Access::Write)?;
        let identity = self.caller.identity(&service.trust_domain, &service.datacenter);
        let (Some(node), Some(identity)) = (self.caller.node(), identity) else {
            return Err(Fault::forbidden("only a host has a certificate of its own"));
        };
        if state.node(node).is_none() {
            return Err(Fault::forbidden(format!(
                "node {node} was removed from the mesh: join again with a join token"
            )));
        }
        service.issuer.turn().await?;
        let chain = service.issuer.sign(&ask.csr, &identity, NODE_TTL, service.now())?;
        record(service, node, &chain).await?;
        service.metrics.signed("node");
        tracing::info!(%node, "node certificate renewed");
        Ok(Signed { chain })
    }
}

/// Writes down which certificate a host has, before it gets it, so that there is none that could not be revoked.
pub(super) async fn record(service: &Service, node: &NodeName, chain: &[Vec<u8>]) -> Result<(), Fault> {
    let leaf = chain.first().ok_or_else(|| Fault::internal("a certificate was signed but is not there"))?;
    let validity = tls::validity(leaf).map_err(|why| Fault::internal(why.to_string()))?;
    let (sha256, not_after) = (tls::fingerprint(leaf).to_vec(), validity.not_after);
    let command = Command::RecordCertificate { node: node.clone(), sha256, not_after };
    service.propose_own(command).await?.result.map(|_| ())
}
