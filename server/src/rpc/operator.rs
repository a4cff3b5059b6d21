//! What operators ask of the cluster itself: who belongs to it and how it is, and changes of both. The leader answers;
//! another server passes the call on.

use std::time::Duration;

use purlin_model::command::{Actor, Command, Outcome, RequestId};
use purlin_model::node::{NodeRole, NodeStatus};
use purlin_model::{Fault, NodeId};
use purlin_wire::rpc::{
    AskMembers, Call, Consistency, MEMBERS, Members, OPERATE, Operate, Operated, Operation, PROPOSE, Peer,
    Proposal, Usage,
};

use super::authorize::{Access, Resource, authorize};
use super::{Conversation, Service};
use crate::autopilot;
use crate::raft::{Member, ServerNode, raft_id};

/// For the others to let a server go.
const LEAVE_WAIT: Duration = Duration::from_secs(15);

impl Conversation {
    /// `members`.
    pub(super) async fn members(&self, call: &Call) -> Result<Members, Fault> {
        let ask: AskMembers = Self::decode(call)?;
        let service = &self.service;
        authorize(&service.hub.state(), &self.caller, &Resource::Shared, Access::Read)?;
        if ask.stale {
            return Ok(autopilot::health(service));
        }
        let attempt = || async {
            if service.raft.is_leader() {
                service.raft.read_barrier(Consistency::Default).await?;
                return Ok(autopilot::health(service));
            }
            not_again(ask.forwarded)?;
            service.call_leader(MEMBERS, &AskMembers { stale: false, forwarded: true }).await
        };
        service.until_led(attempt).await
    }

    /// `operate`.
    pub(super) async fn operate(&self, call: &Call) -> Result<Operated, Fault> {
        let Operation { what, forwarded } = Self::decode(call)?;
        let service = &self.service;
        authorize(&service.hub.state(), &self.caller, &Resource::Membership, Access::Write)?;
        let what = &what;
        let attempt = || async move {
            if service.raft.is_leader() {
                return service.carry_out(what).await;
            }
            not_again(forwarded)?;
            service.pass_on(what).await
        };
        service.until_led(attempt).await
    }

    /// `usage`.
    pub(super) async fn usage(&self) -> Result<Usage, Fault> {
        let state = self.service.hub.state();
        authorize(&state, &self.caller, &Resource::Shared, Access::Read)?;
        let counted = tokio::task::spawn_blocking(move || state.usage()).await;
        counted.map_err(|_| Fault::internal("counting failed inside the server"))
    }
}

/// Two servers that take each other for the leader do not pass a call to and fro.
fn not_again(forwarded: bool) -> Result<(), Fault> {
    if forwarded { Err(Fault::unavailable("No cluster leader")) } else { Ok(()) }
}

impl Service {
    async fn pass_on(&self, what: &Operate) -> Result<Operated, Fault> {
        self.call_leader(OPERATE, &Operation { what: what.clone(), forwarded: true }).await
    }

    /// As the leader.
    async fn carry_out(&self, what: &Operate) -> Result<Operated, Fault> {
        match what {
            Operate::AddPeer { id, address } => self.add_peer(*id, address.as_deref()).await,
            Operate::RemovePeer(peer) => {
                let member = find(&self.raft.members(), peer)?;
                if member.id == self.raft.id() {
                    // Nobody takes the ground from under its own feet: whoever leads next does it.
                    self.raft.transfer(None).await?;
                    return self.until_led(move || self.pass_on(what)).await;
                }
                self.raft.remove(member.id).await?;
                Ok(Operated { name: member.name })
            }
            Operate::TransferLeader(peer) => {
                let to = match peer {
                    Some(peer) => Some(find(&self.raft.members(), peer)?.id),
                    None => None,
                };
                let member = self.raft.transfer(to).await?;
                Ok(Operated { name: member.name })
            }
        }
    }

    /// Before a stop from which nobody shall wait for this server: another leads, the rest agrees without it, and the
    /// catalog says that it left. What fails is said; a server alone has nobody to leave to.
    pub(crate) async fn leave_cluster(&self) {
        if !self.raft.members().iter().any(|member| member.voter && member.id != self.raft.id()) {
            return;
        }
        match tokio::time::timeout(LEAVE_WAIT, self.try_leave()).await {
            Ok(Ok(())) => tracing::info!("this server left the cluster"),
            Ok(Err(fault)) => tracing::warn!(%fault, "this server stops, but stays a member of the cluster"),
            Err(_) => tracing::warn!("nobody let this server leave the cluster within {LEAVE_WAIT:?}"),
        }
    }

    async fn try_leave(&self) -> Result<(), Fault> {
        let own = &Operate::RemovePeer(Peer::RaftId(self.raft.id()));
        let attempt = move || async move {
            if self.raft.is_leader() { self.carry_out(own).await } else { self.pass_on(own).await }
        };
        self.until_led(attempt).await?;
        // Nothing of the log comes here any more, so there is nothing to wait for but the leader's answer.
        let command = Command::SetNodeStatus { node: self.node.clone(), status: NodeStatus::Left };
        let (request, actor) = (RequestId(uuid::Uuid::new_v4()), Actor::default());
        let told: Outcome = self.call_leader(PROPOSE, &Proposal { request, actor, command }).await?;
        told.result.map(|_| ())
    }

    async fn add_peer(&self, id: NodeId, address: Option<&str>) -> Result<Operated, Fault> {
        let state = self.hub.state();
        let servers = state.members().filter_map(|(name, _)| state.node(name));
        let node = servers.filter(|node| node.role == NodeRole::Server).find(|node| node.id == Some(id));
        let node = node.ok_or_else(|| {
            Fault::not_found(format!(
                "no server with id {id} has joined this mesh: start it with \"purlin server --join TOKEN\" first"
            ))
        })?;
        let known = state.servers().find(|server| server.node == node.name);
        let address = address.or_else(|| known.map(|server| server.address.as_str())).ok_or_else(|| {
            Fault::invalid(format!(
                "where server {} listens is not known: give its address, as host:port",
                node.name
            ))
        })?;
        if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(Fault::invalid(format!("address {address:?} is not of the form host:port")));
        }
        let name = node.name.to_string();
        let server = ServerNode { name: name.clone(), address: address.to_owned() };
        self.raft.add_learner(raft_id(id), server).await?;
        Ok(Operated { name })
    }
}

fn find(members: &[Member], peer: &Peer) -> Result<Member, Fault> {
    let is = |member: &&Member| match peer {
        Peer::Id(id) => member.id == raft_id(*id),
        Peer::RaftId(id) => member.id == *id,
        Peer::Address(address) => member.address == *address,
    };
    members.iter().find(is).cloned().ok_or_else(|| {
        let named = match peer {
            Peer::Id(id) => format!("id \"{id}\""),
            Peer::RaftId(id) => format!("id \"{id:016x}\""),
            Peer::Address(address) => format!("address {address:?}"),
        };
        Fault::not_found(format!("{named} was not found in the Raft configuration"))
    })
}
