//! The settings of autopilot, and what the leader says of the servers: who has a vote, who leads, who is gone.

use purlin_model::autopilot::AutopilotConfig;
use purlin_model::command::Done;
use purlin_model::topic::{ServerInfo, Topic};
use purlin_model::{Fault, NodeName, Revision};

use super::{Draft, State};

impl State {
    /// Those that were written, or the defaults.
    pub(crate) fn autopilot(&self) -> AutopilotConfig {
        self.mesh.autopilot.clone().unwrap_or_default()
    }

    /// Every server, by name.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &ServerInfo> {
        self.mesh.servers.values()
    }
}

impl Draft {
    pub(super) fn put_autopilot(
        &mut self,
        config: &AutopilotConfig,
        cas: Option<Revision>,
    ) -> Result<Done, Fault> {
        self.mesh()?;
        config.check()?;
        let before = self.state.autopilot();
        if cas.is_some_and(|cas| cas != before.modify_index) {
            return Ok(Done::CasFailed);
        }
        let create_index = match self.state.mesh.autopilot {
            Some(_) => before.create_index,
            None => self.revision,
        };
        let config = AutopilotConfig { create_index, modify_index: self.revision, ..config.clone() };
        self.state.mesh.autopilot = Some(config);
        Ok(Done::Yes)
    }

    /// What the leader sees of the cluster becomes what everybody is told of it.
    pub(super) fn put_voters(&mut self, leader: &NodeName, voters: &[NodeName]) -> Result<Done, Fault> {
        self.mesh()?;
        let mut servers = self.state.mesh.servers.clone();
        let names: Vec<NodeName> = servers.keys().cloned().collect();
        for name in names {
            let Some(server) = servers.get_mut(&name) else { continue };
            let (leads, votes) = (name == *leader, voters.contains(&name));
            if (server.leader, server.voter) != (leads, votes) {
                (server.leader, server.voter) = (leads, votes);
                self.touch(Topic::Servers, name.as_str());
            }
        }
        self.state.mesh.servers = servers;
        Ok(Done::Yes)
    }

    /// A server that belongs to the cluster no more is not to be called. It was perhaps only off for a while, so it stays
    /// trusted and may come back, until its node is removed.
    pub(super) fn drop_server(&mut self, node: &NodeName) -> Result<Done, Fault> {
        self.mesh()?;
        let existed = self.state.mesh.servers.contains_key(node);
        self.forget_server(node);
        Ok(Done::Deleted { existed })
    }
}
