//! `admit`: a server comes into the cluster, or is reached elsewhere from now on. The leader decides.
//!
//! It comes without a vote; who watches over the cluster gives it one when it has caught up.

use purlin_model::node::NodeRole;
use purlin_model::{Fault, NodeName};
use purlin_wire::rpc::{ADMIT, Admit, Admitted, Call};

use super::authorize::Caller;
use super::{Conversation, Service};
use crate::raft::{ServerNode, raft_id};

impl Conversation {
    pub(super) async fn admit(&self, call: &Call) -> Result<Admitted, Fault> {
        self.only_servers()?;
        let admit: Admit = Self::decode(call)?;
        let service = &self.service;
        // Another server passes on what one asks; where the leader is asked itself, it is for oneself only.
        let own = self.caller == Caller::Server(admit.name.clone());
        if service.raft.is_leader() {
            if !own && !service.has_server(self.caller.node()) {
                return Err(Fault::forbidden(format!("server {} is not the caller", admit.name)));
            }
            return service.admit_here(&admit).await;
        }
        if !own {
            return Err(Fault::unavailable("this server does not lead the cluster"));
        }
        service.be_admitted(&admit).await
    }
}

impl Service {
    fn has_server(&self, caller: Option<&NodeName>) -> bool {
        caller.is_some_and(|name| self.hub.state().is_server(name))
    }

    /// Whoever leads lets the server in.
    pub(crate) async fn be_admitted(&self, admit: &Admit) -> Result<Admitted, Fault> {
        self.until_led(move || self.admit_once(admit)).await
    }

    async fn admit_once(&self, admit: &Admit) -> Result<Admitted, Fault> {
        if self.raft.is_leader() {
            return self.admit_here(admit).await;
        }
        self.call_leader(ADMIT, admit).await
    }

    /// As the leader: makes the server a member of the cluster, where it is reached by that address.
    pub(crate) async fn admit_here(&self, admit: &Admit) -> Result<Admitted, Fault> {
        let state = self.hub.state();
        let known = state.node(&admit.name).filter(|node| node.id == Some(admit.id));
        let founder = state.mesh_info().is_some() && admit.name == self.node;
        if !founder && known.is_none_or(|node| node.role != NodeRole::Server) {
            return Err(Fault::forbidden(format!(
                "server {} with id {} is not known here, another has its name or it was removed: empty its data_dir \
                 and join again",
                admit.name, admit.id
            )));
        }
        if admit.level < state.level() {
            return Err(Fault::conflict(format!(
                "server {} understands command level {}, the mesh is at {}: upgrade it first",
                admit.name,
                admit.level,
                state.level()
            )));
        }
        let id = raft_id(admit.id);
        let member = self.raft.members().into_iter().find(|member| member.id == id);
        if admit.empty && member.is_some_and(|member| member.voter) {
            return Err(Fault::conflict(format!(
                "server {} has a vote, but its log is gone: what it voted for is not known any more. Empty its \
                 data_dir and let it join again",
                admit.name
            )));
        }
        let node = ServerNode { name: admit.name.to_string(), address: admit.address.clone() };
        self.raft.add_learner(id, node).await?;
        Ok(Admitted { servers: state.server_addresses() })
    }
}
