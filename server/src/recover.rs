//! `purlin operator recover`: a stopped server's data directory becomes that of a mesh with one server.

use std::path::Path;

use purlin_model::HistoryId;
use purlin_model::node::NodeRole;
use purlin_wire::node_store::{NodeFile, NodeStore, StoreError};

use crate::raft::{Found, RaftOptions, raft_id, survey};
use crate::state::State;

/// Why it cannot be done. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Raft(#[from] crate::raft::StartError),
}

/// What is there before anything was changed.
pub struct Survey {
    survivor: crate::raft::Survivor<State>,
    node: NodeFile,
    /// Keeps others out.
    _store: NodeStore,
}

/// Opens the data directory of a server that is stopped, and reads all of it. Blocks on the disk.
pub fn look(data_dir: &Path) -> Result<Survey, RecoverError> {
    let refuse = |why: &str| Err(RecoverError::Refused(format!("{}: {why}", data_dir.display())));
    if !data_dir.join("raft").is_dir() {
        return refuse("there is no raft/ in it: this is not the data_dir of a server");
    }
    let store = NodeStore::open(data_dir)?;
    let Some(node) = store.load()? else {
        return refuse("there is no node.json in it: this server never joined a mesh");
    };
    if node.role != NodeRole::Server {
        return refuse("it is the data_dir of an agent: recover a server's");
    }
    let (name, id) = (node.name.as_str(), raft_id(node.id));
    let options = RaftOptions::new(data_dir, id, name, "");
    let mut survivor = survey(options, State::new())?;
    let known =
        survivor.found.members.iter().find(|(known, _)| known == name).map(|(_, address)| address.clone());
    let address = known.or_else(|| survivor.state.server_address(&node.name));
    survivor.set_address(address.unwrap_or_default());
    Ok(Survey { survivor, node, _store: store })
}

impl Survey {
    pub fn node(&self) -> &str {
        self.node.name.as_str()
    }

    pub fn found(&self) -> &Found {
        &self.survivor.found
    }

    /// Does it. What was not on this disk is lost, and other servers of before do not fit any more.
    pub async fn recover(self) -> Result<HistoryId, RecoverError> {
        let id = HistoryId(uuid::Uuid::new_v4());
        let at = (crate::system_clock())();
        let state = self.survivor.state.clone().recovered(id, &self.node.name, at);
        self.survivor.take_over(state).await?;
        Ok(id)
    }
}
