//! Who may do what: every call asks here, with the caller as its certificate proved it.
//!
//! Until access tokens land, what a member may do follows from what it is: a host speaks for itself and for external
//! nodes, operators on any host change policy, and what only servers decide nobody else writes.

use purlin_model::command::{Command, DeregisterWhat};
use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::txn::{Change, Txn, TxnOp};
use purlin_model::{Fault, NodeName, ServiceKey};
use purlin_wire::link::Peer;

use crate::state::State;

/// What an operator does on a host that is no member any more.
pub(super) const JOIN_AGAIN: &str =
    "join again with a join token, from the data_dir as it is (`purlin agent --join TOKEN`)";

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    Agent(NodeName),
    Server(NodeName),
    Stranger,
}

/// What is to be read or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    /// The catalog, config entries, intentions and the mesh, as everybody in it may know them.
    Shared,
    /// A host and what is registered on it, as the command would have it.
    Host { name: &'a NodeName, claims: Option<&'a Node> },
    /// The verdict on a host.
    Verdict { name: &'a NodeName, status: NodeStatus },
    /// Config entries and intentions.
    Policy,
    /// The key-value tree and what locks it.
    Kv,
    /// Prepared queries.
    Query,
    /// User events.
    Event,
    /// All that a transaction changes.
    Txn(&'a Txn),
    /// Who may join, and who is thrown out.
    Membership,
    /// The certificate of a service.
    Service(&'a ServiceKey),
    /// The certificate of the caller's own host.
    OwnIdentity,
    /// To come in.
    Door,
    /// What only a server writes, for itself.
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Caller {
    pub(crate) fn of(peer: &Peer, domain: &TrustDomain) -> Result<Self, Fault> {
        let Peer::Member { identity, .. } = peer else { return Ok(Self::Stranger) };
        if identity.trust_domain != *domain {
            return Err(Fault::forbidden(format!("{identity} is of another mesh, this one is {domain}")));
        }
        match &identity.subject {
            Subject::Agent { node, .. } => Ok(Self::Agent(node.clone())),
            Subject::Server { node, .. } => Ok(Self::Server(node.clone())),
            Subject::Service { .. } => {
                Err(Fault::forbidden(format!("{identity} is a service: only hosts call servers")))
            }
        }
    }

    pub(super) fn is_stranger(&self) -> bool {
        *self == Self::Stranger
    }

    pub(super) fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Agent(node) | Self::Server(node) => Some(node),
            Self::Stranger => None,
        }
    }

    /// Its identity, from our own words.
    pub(super) fn identity(
        &self,
        domain: &TrustDomain,
        datacenter: &purlin_model::Datacenter,
    ) -> Option<Identity> {
        let (trust_domain, datacenter) = (domain.clone(), datacenter.clone());
        let subject = match self {
            Self::Agent(node) => Subject::Agent { datacenter, node: node.clone() },
            Self::Server(node) => Subject::Server { datacenter, node: node.clone() },
            Self::Stranger => return None,
        };
        Some(Identity { trust_domain, subject })
    }
}

/// The certificate of a host that was removed or replaced opens no door any more; nor does one that nobody wrote down.
pub(super) fn not_revoked(state: &State, peer: &Peer) -> Result<(), Fault> {
    let Peer::Member { identity, certificate, issuer } = peer else { return Ok(()) };
    let is_server = matches!(&identity.subject, Subject::Server { .. });
    if state.is_revoked(certificate) || (is_server && state.distrusts(certificate)) {
        return Err(Fault::forbidden(format!(
            "the certificate of {identity} was revoked, because its host was removed or replaced: {JOIN_AGAIN}"
        )));
    }
    let (Subject::Agent { node, .. } | Subject::Server { node, .. }) = &identity.subject else {
        return Ok(());
    };
    // A server that is new, or was away, must hear its peers before it can learn of their certificates. It takes what
    // any server signed that was not removed: nobody but servers can sign.
    let vouched = is_server && issuer.is_some_and(|issuer| !state.distrusts(&issuer));
    if state.knows_certificate(node, certificate) || vouched {
        return Ok(());
    }
    Err(Fault::forbidden(format!(
        "this mesh does not know the certificate of {identity}, which another has replaced or whose host was removed: \
         restart the agent, or {JOIN_AGAIN}"
    )))
}

/// The one gate. Says no in words that name who, what, and where it may be done.
pub(super) fn authorize(
    state: &State,
    caller: &Caller,
    resource: &Resource<'_>,
    access: Access,
) -> Result<(), Fault> {
    let node = match (caller, resource) {
        (Caller::Stranger, Resource::Door) => return Ok(()),
        (Caller::Stranger, _) => {
            return Err(Fault::forbidden("who has not joined may only join: use a join token"));
        }
        (Caller::Server(_) | Caller::Agent(_), Resource::Door) => {
            return Err(Fault::forbidden("a member has joined already"));
        }
        (Caller::Agent(node) | Caller::Server(node), _) => node,
    };
    let server = matches!(caller, Caller::Server(_));
    match resource {
        Resource::Shared if access == Access::Read => Ok(()),
        Resource::Policy | Resource::Kv | Resource::Query | Resource::Event => Ok(()),
        Resource::Membership | Resource::OwnIdentity => Ok(()),
        Resource::Txn(txn) => {
            txn.ops.iter().try_for_each(|op| authorize(state, caller, &resource_of_op(op), access))
        }
        Resource::Host { name, claims } => host(state, caller, node, name, *claims),
        Resource::Verdict { name, status } => verdict(state, node, name, *status),
        Resource::Service(key) => service(state, node, key),
        Resource::Internal | Resource::Shared if server => Ok(()),
        Resource::Internal | Resource::Shared | Resource::Door => {
            Err(Fault::forbidden(format!("node {node} is an agent: only a server may do this")))
        }
    }
}

fn host(
    state: &State,
    caller: &Caller,
    own: &NodeName,
    name: &NodeName,
    claims: Option<&Node>,
) -> Result<(), Fault> {
    let role = match caller {
        Caller::Server(_) => NodeRole::Server,
        Caller::Agent(_) | Caller::Stranger => NodeRole::Agent,
    };
    if let Some(node) = claims
        && node.role != NodeRole::External
        && (name != own || node.role != role)
    {
        return Err(Fault::forbidden(format!(
            "node {own} cannot speak for host {name} in role {:?}: only that host does",
            node.role
        )));
    }
    if name == own || matches!(caller, Caller::Server(_)) {
        return Ok(());
    }
    match state.node(name) {
        Some(node) if node.role != NodeRole::External => Err(Fault::forbidden(format!(
            "node {name} is a host of the mesh: register and deregister what runs there through its own agent, not \
             through that of {own}"
        ))),
        _ => Ok(()),
    }
}

/// Operators may say that a failed host left for good; whether a host lives is for servers to say.
fn verdict(state: &State, own: &NodeName, name: &NodeName, status: NodeStatus) -> Result<(), Fault> {
    let gone = state.node(name).is_none_or(|node| node.status != NodeStatus::Alive);
    if status == NodeStatus::Left && (gone || name == own) {
        return Ok(());
    }
    Err(Fault::forbidden(format!("whether node {name} lives is for the servers to say, not for node {own}")))
}

fn service(state: &State, own: &NodeName, key: &ServiceKey) -> Result<(), Fault> {
    if state.runs_meshed(own, key) {
        return Ok(());
    }
    Err(Fault::forbidden(format!(
        "node {own} gets no certificate for service {key}: it has no instance of it in the mesh"
    )))
}

/// What a command changes, for the question whether its caller may.
pub(super) fn resource(command: &Command) -> Resource<'_> {
    match command {
        Command::Register(register) => {
            Resource::Host { name: &register.node.name, claims: Some(&register.node) }
        }
        Command::AnnounceNode(node) => Resource::Host { name: &node.name, claims: Some(node) },
        Command::Deregister(deregister) => match deregister.what {
            DeregisterWhat::Node => Resource::Membership,
            DeregisterWhat::Instance(_) | DeregisterWhat::Check(_) => {
                Resource::Host { name: &deregister.node, claims: None }
            }
        },
        Command::RemoveNode { .. }
        | Command::CreateJoinToken(_)
        | Command::RevokeJoinToken { .. }
        | Command::PutAutopilot { .. } => Resource::Membership,
        Command::SetNodeStatus { node, status } => Resource::Verdict { name: node, status: *status },
        Command::PutConfig { .. }
        | Command::DeleteConfig { .. }
        | Command::PutIntention { .. }
        | Command::DeleteIntention { .. }
        | Command::SetCaConfig(_) => Resource::Policy,
        Command::Kv(_) | Command::Session(_) => Resource::Kv,
        Command::PutQuery { .. } | Command::DeleteQuery { .. } => Resource::Query,
        Command::FireEvent(_) => Resource::Event,
        Command::Txn(txn) => Resource::Txn(txn),
        // Joining has a call of its own, which checks the joining key.
        Command::Join(_)
        | Command::CreateMesh(_)
        | Command::UpdateMesh { .. }
        | Command::Restore(_)
        | Command::ReleaseNode { .. }
        | Command::ReapNode { .. }
        | Command::PutIntermediate { .. }
        | Command::RecordCertificate { .. }
        | Command::PutVoters { .. }
        | Command::ForgetServer { .. }
        | Command::AnnounceServer(_)
        | Command::SealRootKey(_)
        | Command::AddRoot { .. }
        | Command::ActivateRoot { .. }
        | Command::RemoveRoot { .. }
        | Command::RevokeAuthorities { .. } => Resource::Internal,
    }
}

fn resource_of_op(op: &TxnOp) -> Resource<'_> {
    match op {
        TxnOp::Read(_) | TxnOp::Kv(_) | TxnOp::EndSession(_) => Resource::Kv,
        TxnOp::Node { name, change: Change::Set(node) | Change::Cas(node, _) } => {
            Resource::Host { name, claims: Some(node) }
        }
        TxnOp::Node { change: Change::Delete | Change::DeleteCas(_), .. } => Resource::Membership,
        TxnOp::Service { node, .. } | TxnOp::Check { node, .. } => {
            Resource::Host { name: node, claims: None }
        }
    }
}

#[cfg(test)]
mod tests;
