//! What the configuration of whoever leads says of the whole mesh: put in force when it begins to lead.

use std::sync::Arc;

use purlin_model::Fault;
use purlin_model::command::Command;
use purlin_model::intention::Action;

use crate::Config;
use crate::rpc::Service;

/// What is said; what is absent stays as the mesh has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    default_intention: Option<Action>,
    leaf_ttl_ms: Option<u64>,
}

impl Wishes {
    pub(crate) fn of(config: &Config) -> Self {
        let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self { default_intention: config.default_intention, leaf_ttl_ms: config.leaf_ttl.map(millis) }
    }

    /// Does nothing where the mesh is so already.
    pub(crate) async fn put_in_force(self, service: &Service) -> Result<(), Fault> {
        let state = service.hub.state();
        let Some(mesh) = state.mesh_info() else { return Ok(()) };
        let default_intention = self.default_intention.unwrap_or(mesh.default_intention);
        let leaf_ttl_ms = self.leaf_ttl_ms.unwrap_or(mesh.leaf_ttl_ms);
        if (default_intention, leaf_ttl_ms) == (mesh.default_intention, mesh.leaf_ttl_ms) {
            return Ok(());
        }
        tracing::info!(
            ?default_intention,
            leaf_ttl_ms,
            "the configuration of this server holds for the mesh"
        );
        let command = Command::UpdateMesh { default_intention, leaf_ttl_ms };
        service.propose_own(command).await?.result.map(|_| ())
    }
}

/// Each time this server begins to lead. Never ends.
pub(crate) async fn govern(service: Arc<Service>, wishes: Wishes) {
    let mut leadership = service.raft.leadership();
    loop {
        if leadership.wait_for(|now| now.here).await.is_err() {
            return std::future::pending().await;
        }
        if let Err(fault) = wishes.put_in_force(&service).await {
            tracing::warn!(%fault, "what this server's configuration says of the mesh is not in force yet");
        }
        if leadership.wait_for(|now| !now.here).await.is_err() {
            return std::future::pending().await;
        }
    }
}
