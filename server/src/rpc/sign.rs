//! `sign-leaf` and `renew-node`: certificates for who is here already.

use std::time::Duration;

use purlin_model::command::Command;
use purlin_model::identity::{Identity, Subject};
use purlin_model::node::NodeRole;
use purlin_model::{Fault, NodeName};
use purlin_wire::rpc::{CERTIFY, Call, Certify, Consistency, RenewByKey, RenewNode, SignLeaf, Signed};
use purlin_wire::tls;

use super::authorize::{Access, JOIN_AGAIN, Resource, authorize};
use super::{Conversation, Service};
use crate::issue::{NODE_TTL, key_sha256};

/// A certificate that expired longer ago is renewed for nobody.
const LAPSE: Duration = Duration::from_secs(90 * 24 * 3600);

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
        let chain = service.sign(&ask.csr, &identity, life).await?;
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
        // The catalog may have forgotten a host that was off for long and has just come back.
        if state.node(node).is_none() && !state.has_joined(node) {
            return Err(no_member(node));
        }
        let chain = service.sign(&ask.csr, &identity, NODE_TTL).await?;
        record(service, node, &chain).await?;
        service.metrics.signed("node");
        tracing::info!(%node, "node certificate renewed");
        Ok(Signed { chain })
    }

    /// For a host that was off until its certificate had expired: it proves its key, and is let in as who it was.
    pub(super) async fn renew_by_key(&self, call: &Call) -> Result<Signed, Fault> {
        let ask: RenewByKey = Self::decode(call)?;
        let service = &self.service;
        // Who is sent away for good must not be so because this server is behind.
        service.read_barrier(Consistency::Default).await?;
        let state = service.hub.state();
        authorize(&state, &self.caller, &Resource::Door, Access::Write)?;
        let node = &ask.node;
        // Servers sign their own certificates.
        let is_server = state.node(node).is_some_and(|node| node.role == NodeRole::Server);
        let until = state.joined_until(node, &key_sha256(&ask.csr)?).filter(|_| !is_server);
        let until = until.ok_or_else(|| no_member(node))?;
        if until.plus(LAPSE) < service.now() {
            return Err(Fault::forbidden(format!(
                "the certificate of node {node} expired more than {} days ago: {JOIN_AGAIN}",
                LAPSE.as_secs() / 86_400
            )));
        }
        let subject = Subject::Agent { datacenter: service.datacenter.clone(), node: node.clone() };
        let identity = Identity { trust_domain: service.trust_domain.clone(), subject };
        let chain = service.sign(&ask.csr, &identity, NODE_TTL).await?;
        record(service, node, &chain).await?;
        service.metrics.signed("node");
        tracing::info!(%node, remote = self.link.remote(), "node certificate renewed by its key");
        Ok(Signed { chain })
    }
}

fn no_member(node: &NodeName) -> Fault {
    Fault::forbidden(format!("node {node} was removed from this mesh or replaced by another: {JOIN_AGAIN}"))
}

impl Conversation {
    /// `certify`, which only a server may ask: it has looked who the certificate is for.
    pub(super) async fn certify(&self, call: &Call) -> Result<Signed, Fault> {
        self.only_servers()?;
        let Certify { csr, identity, life_ms } = Self::decode(call)?;
        let service = &self.service;
        if identity.trust_domain != service.trust_domain {
            return Err(Fault::invalid(format!("{identity} is of another mesh")));
        }
        service.sign_here(&csr, &identity, Duration::from_millis(life_ms)).await.map(|chain| Signed { chain })
    }
}

impl Service {
    /// A chain for whom the caller has authorized; by the leader's authority, while this server has none.
    pub(super) async fn sign(
        &self,
        csr: &[u8],
        identity: &Identity,
        life: Duration,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        if self.issuer.can_sign() || self.raft.is_leader() {
            return self.sign_here(csr, identity, life).await;
        }
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let ask = Certify { csr: csr.to_vec(), identity: identity.clone(), life_ms };
        let signed: Signed = self.call_leader(CERTIFY, &ask).await?;
        Ok(signed.chain)
    }

    async fn sign_here(
        &self,
        csr: &[u8],
        identity: &Identity,
        life: Duration,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        self.issuer.turn().await?;
        self.issuer.sign(csr, identity, life, self.now())
    }
}

/// Writes down which certificate a host has, before it gets it, so that there is none that could not be revoked.
pub(crate) async fn record(service: &Service, node: &NodeName, chain: &[Vec<u8>]) -> Result<(), Fault> {
    let leaf = chain.first().ok_or_else(|| Fault::internal("a certificate was signed but is not there"))?;
    let validity = tls::validity(leaf).map_err(|why| Fault::internal(why.to_string()))?;
    let (sha256, not_after) = (tls::fingerprint(leaf).to_vec(), validity.not_after);
    let command = Command::RecordCertificate { node: node.clone(), sha256, not_after };
    service.propose_own(command).await?.result.map(|_| ())
}
