//! The level of the mesh: the newest form of command that every one of its servers understands. It only rises.

use purlin_model::Fault;
use purlin_model::command::FIRST_LEVEL;

use super::{Draft, State};

impl State {
    pub(crate) fn level(&self) -> u16 {
        self.mesh.level.max(FIRST_LEVEL)
    }

    /// Why a command of that level is not for this mesh yet.
    pub(crate) fn below(&self, wanted: u16) -> Fault {
        let level = self.level();
        let behind: Vec<&str> = self
            .mesh
            .servers
            .values()
            .filter(|server| server.level.max(FIRST_LEVEL) < wanted)
            .map(|server| server.node.as_str())
            .collect();
        Fault::conflict(format!(
            "this needs command level {wanted}, the mesh is at {level} until every server knows more: upgrade {}",
            if behind.is_empty() { "its servers".to_owned() } else { behind.join(", ") }
        ))
    }
}

impl Draft {
    /// Once every server that is known understands more, the mesh does.
    pub(super) fn raise_level(&mut self) {
        let servers = &self.state.mesh.servers;
        let Some(common) = servers.values().map(|server| server.level.max(FIRST_LEVEL)).min() else { return };
        if common > self.state.level() {
            self.state.mesh.level = common;
        }
    }
}
