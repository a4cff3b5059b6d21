//! What a server does once it runs, and needs a leader for: it lets itself be counted in, and tells what it is.
//!
//! A server of a cluster does this beside its other work, because its host must serve what it knows though no leader
//! can be found.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::Command;
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::topic::ServerInfo;
use purlin_model::{Fault, NodeId, Revision};
use purlin_wire::link::Connector;
use purlin_wire::quic::QuicConnector;
use purlin_wire::rpc::{self, ADMIT, Admit, Admitted};
use tokio::time::sleep;

use crate::Config;
use crate::govern::Wishes;
use crate::rpc::Service;

/// One server may take so long to answer: it asks the leader, who waits for a majority.
const ADMITTED_WITHIN: Duration = Duration::from_secs(15);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(10);

/// What this server says of itself.
pub(super) struct Newcomer {
    pub(super) config: Config,
    pub(super) id: NodeId,
    /// `host:port` by which others reach it.
    pub(super) address: String,
    /// The public half of its sealing key.
    pub(super) sealing: Vec<u8>,
    pub(super) service: Arc<Service>,
    /// Where servers were last known to be, for one that no leader reaches yet.
    pub(super) servers: Option<QuicConnector>,
}

impl Newcomer {
    /// Goes on until all of it is done.
    pub(super) async fn settle(self) {
        let mut pause = PAUSE;
        loop {
            let Err(fault) = self.try_settle().await else {
                tracing::info!(node = %self.config.node, "this server is one of the cluster");
                return;
            };
            tracing::warn!(%fault, "this server cannot tell the cluster about itself yet, will try again");
            sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    /// As `settle`, but gives up at the first failure that will not mend itself.
    pub(super) async fn try_settle(&self) -> Result<(), Fault> {
        self.be_admitted().await?;
        self.tell_own_host().await?;
        if self.service.raft.is_leader() {
            Wishes::of(&self.config).put_in_force(&self.service).await?;
        }
        self.announce().await
    }

    /// The leader must know who this is and where. One that it cannot reach, because it has moved or is new, hears from
    /// no leader, and asks any server that it knows of.
    pub(super) async fn be_admitted(&self) -> Result<(), Fault> {
        let service = &self.service;
        let empty = service.raft.is_empty().await?;
        let admit = Admit {
            id: self.id,
            name: self.config.node.clone(),
            address: self.address.clone(),
            level: self.config.level,
            empty,
        };
        let unreached = match empty {
            false => match service.be_admitted(&admit).await {
                Ok(_) => return Ok(()),
                Err(fault) => fault,
            },
            true => Fault::unavailable("no other server is known: join again with a join token"),
        };
        let Some(servers) = &self.servers else { return Err(unreached) };
        let link = servers.connect().await?;
        let admitted = rpc::call::<_, Admitted>(link.as_ref(), ADMIT, &admit, ADMITTED_WITHIN).await;
        link.close("done");
        admitted.map(|_| ())
    }

    /// The catalog knows this host.
    async fn tell_own_host(&self) -> Result<(), Fault> {
        let (config, service) = (&self.config, &self.service);
        let state = service.hub.state();
        let own = state.node(&config.node).filter(|node| node.id == Some(self.id));
        let same = own.is_some_and(|node| node.address == config.advertise && node.version == config.version);
        let base = own.cloned().unwrap_or_else(|| Node {
            id: Some(self.id),
            name: config.node.clone(),
            datacenter: service.datacenter.clone(),
            address: config.advertise.clone(),
            tagged_addresses: Default::default(),
            meta: Default::default(),
            locality: None,
            mesh_port: config.mesh_port,
            role: NodeRole::Server,
            status: NodeStatus::Alive,
            version: config.version.clone(),
            create_index: Revision(0),
            modify_index: Revision(0),
        });
        if same && base.status == NodeStatus::Alive {
            return Ok(());
        }
        // Its agent tells the rest; only what a server is reached by is told here.
        let (address, version) = (config.advertise.clone(), config.version.clone());
        let node = Node { address, version, mesh_port: config.mesh_port.or(base.mesh_port), ..base };
        service.propose_own(Command::AnnounceNode(node)).await?.result.map(|_| ())
    }

    async fn announce(&self) -> Result<(), Fault> {
        let service = &self.service;
        let server = ServerInfo {
            node: self.config.node.clone(),
            address: self.address.clone(),
            leader: service.raft.is_leader(),
            voter: service.raft.is_voter(),
            id: Some(self.id),
            level: self.config.level,
            sealing: self.sealing.clone(),
        };
        service.propose_own(Command::AnnounceServer(server)).await?.result.map(|_| ())
    }
}
