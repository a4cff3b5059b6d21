//! From a data directory to a serving server: what is missing is made, what is there must fit together.
//!
//! Each step may be cut short by a crash and is then done again at the next start: `node.json` is written last, and
//! before it is there nothing is promised to anybody. Three beginnings lead here: a mesh is founded; the one server of
//! a mesh starts again; one of several starts again, or comes in, and then waits for no leader before it serves.

mod found;
mod parts;
mod settle;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use purlin_model::identity::{Identity, Subject};
use purlin_model::node::NodeRole;
use purlin_model::topic::MeshInfo;
use purlin_model::{Datacenter, NodeId};
use purlin_wire::node_store::NodeFile;
use purlin_wire::quic::{QuicConnector, QuicDialer, QuicServer};
use tokio::sync::Notify;

use crate::ca::CaStore;
use crate::feed::Hub;
use crate::govern::Wishes;
use crate::hosts::Touch;
use crate::issue::Issuer;
use crate::keeper::{self, Keeper};
use crate::liveness::Sessions;
use crate::metrics::Metrics;
use crate::peers::{PeerTransport, Peers};
use crate::raft::{RaftHandle, RaftOptions, raft_id};
use crate::rpc::{Admission, Barriers, Doors, Service};
use crate::state::State;
use crate::{Config, ServerHandle, StartError};
use settle::Newcomer;

/// Each waits some seconds.
const RECOVERY_TRIES: usize = 20;
/// A server that comes in for the first time serves nobody before it has what the others have.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn start(config: Config, bootstrap: bool) -> Result<ServerHandle, StartError> {
    let known = known_node(&config, bootstrap)?;
    let id = match &known {
        Some(file) => file.id,
        None => config.store.joining()?.id,
    };
    let ca = Arc::new(CaStore::open(config.store.directory())?);
    let peers = Peers::new();
    let (raft, hub) = open_raft(&config, id, peers.clone()).await?;
    let opened = Opened { config, known, id, ca, peers, raft: raft.clone(), hub };
    let served = Box::pin(opened.serve()).await;
    if served.is_err() {
        // The files must be free again for the next try of the same process.
        raft.shutdown().await;
    }
    served
}

/// What the data directory says this host is; `None`: nothing yet, and it may found a mesh.
fn known_node(config: &Config, bootstrap: bool) -> Result<Option<NodeFile>, StartError> {
    let dir = config.store.directory().to_owned();
    let Some(file) = config.store.load()? else {
        return if bootstrap { Ok(None) } else { Err(StartError::Empty(dir)) };
    };
    if file.role != NodeRole::Server {
        return Err(StartError::NotAServer(dir, file.trust_domain));
    }
    if file.name != config.node {
        return Err(StartError::OtherName { dir, was: file.name, is: config.node.clone() });
    }
    Ok(Some(file))
}

async fn open_raft(
    config: &Config,
    id: NodeId,
    peers: Arc<Peers>,
) -> Result<(RaftHandle<State>, Arc<Hub>), StartError> {
    let hub = Arc::new(Hub::default());
    let port = config.bind.first().map_or(0, std::net::SocketAddr::port);
    let address = host_port(&config.advertise, port);
    let options = RaftOptions::new(config.store.directory(), raft_id(id), config.node.as_str(), address);
    let options = RaftOptions { level: config.level, ..options };
    let transport = Arc::new(PeerTransport(peers));
    let raft = Box::pin(RaftHandle::start(options, State::new(), transport, hub.clone())).await?;
    hub.begin(raft.applied().borrow().state.clone());
    Ok((raft, hub))
}

/// A data directory that was opened, and what lies in it.
struct Opened {
    config: Config,
    known: Option<NodeFile>,
    id: NodeId,
    ca: Arc<CaStore>,
    peers: Arc<Peers>,
    raft: RaftHandle<State>,
    hub: Arc<Hub>,
}

impl Opened {
    async fn serve(self) -> Result<ServerHandle, StartError> {
        match self.known.clone() {
            Some(file) if !self.raft.is_alone().await? => self.serve_in_cluster(file).await,
            known => self.serve_alone(known).await,
        }
    }

    /// The one server of its mesh: it leads as soon as its log is read, and is ready when it serves.
    async fn serve_alone(self, known: Option<NodeFile>) -> Result<ServerHandle, StartError> {
        if known.is_none() {
            self.raft.initialize_single().await?;
        }
        self.recover().await?;
        let mesh = match self.hub.state().mesh_info() {
            Some(mesh) => mesh.clone(),
            None if known.is_some() => return Err(self.other_mesh("no mesh".into())),
            None => found::found_mesh(&self.config, &self.ca, &self.raft, &self.hub).await?,
        };
        self.check_mesh(&mesh)?;
        let service = self.service(mesh.trust_domain.clone(), mesh.datacenter.clone(), Issuer::new(None));
        keeper::take_up_authority(&service).await?;
        if !service.issuer.can_sign() && self.config.store.load_credentials()?.is_none() {
            keeper::authority::begin_anew(&service).await?;
        }
        let is_new = known.is_none();
        let (handle, newcomer) = self.run(service, Vec::new(), !is_new)?;
        newcomer.try_settle().await?;
        Ok(handle)
    }

    /// One of several, or one that comes in.
    async fn serve_in_cluster(self, file: NodeFile) -> Result<ServerHandle, StartError> {
        let mesh = self.hub.state().mesh_info().cloned();
        if let Some(mesh) = &mesh {
            self.check_mesh(mesh)?;
        } else if file.datacenter != self.config.datacenter {
            let (was, is) = (file.datacenter, self.config.datacenter.clone());
            return Err(StartError::OtherDatacenter { was, is });
        }
        let own = match &mesh {
            Some(mesh) => self.ca.intermediate(mesh, (self.config.clock)())?,
            None => None,
        };
        let service = self.service(file.trust_domain, file.datacenter, Issuer::new(own));
        let mut applied = service.raft.applied();
        let (handle, newcomer) = self.run(service, file.servers, true)?;
        if mesh.is_some() {
            handle.spawn_once(newcomer.settle());
            return Ok(handle);
        }
        tracing::info!("this server is new: it waits to be let in, and for what the others have");
        newcomer.be_admitted().await?;
        handle.spawn_once(newcomer.settle());
        let caught_up = applied.wait_for(|applied| applied.state.mesh_info().is_some());
        match tokio::time::timeout(CAUGHT_UP_WITHIN, caught_up).await {
            Ok(Ok(_)) => Ok(handle),
            Ok(Err(_)) | Err(_) => Err(StartError::NotCaughtUp(CAUGHT_UP_WITHIN.as_secs())),
        }
    }

    /// Opens the doors, and starts what runs as long as the server does.
    fn run(
        self,
        service: Arc<Service>,
        servers: Vec<String>,
        already_bootstrapped: bool,
    ) -> Result<(ServerHandle, Newcomer), StartError> {
        let Self { config, known, id, ca, peers, .. } = self;
        let sealing = ca.sealing().public().to_vec();
        let keeper = Keeper::open(config.store.clone(), service.clone())?;
        let credentials = keeper.credentials();
        let from = config.bind.first().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |bind| bind.ip());
        peers.dial_with(Arc::new(QuicDialer::new(from, credentials.clone())));
        let domain = service.trust_domain.clone();
        let quic = Arc::new(QuicServer::bind(&config.bind, credentials.clone(), domain)?);
        let address = advertised(&config, &quic);
        save_node_file(&config, known.as_ref(), id, &service, &address)?;
        let others: Vec<String> = servers.into_iter().filter(|server| *server != address).collect();
        let servers =
            (!others.is_empty()).then(|| QuicConnector::new(from, credentials.clone(), others, |_| {}));
        let (wishes, store) = (Wishes::of(&config), config.store.clone());
        let newcomer = Newcomer { config, id, address, sealing, service: service.clone(), servers };
        Ok((parts::run(service, quic, keeper, wishes, store, already_bootstrapped), newcomer))
    }

    fn service(
        &self,
        trust_domain: purlin_model::identity::TrustDomain,
        datacenter: Datacenter,
        issuer: Issuer,
    ) -> Arc<Service> {
        Arc::new(Service {
            node: self.config.node.clone(),
            datacenter,
            trust_domain,
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            barriers: Barriers::default(),
            hub: self.hub.clone(),
            issuer,
            ca: self.ca.clone(),
            liveness: Mutex::default(),
            stands: Mutex::default(),
            sessions: Mutex::new(Sessions::new(
                self.config.node.clone(),
                uuid::Uuid::new_v4(),
                Instant::now(),
            )),
            doors: Doors::default(),
            admission: Admission::new(),
            touch: Touch::new(),
            expiry: Mutex::default(),
            look: Notify::new(),
            news: Notify::new(),
            clock: self.config.clock.clone(),
            metrics: Metrics::default(),
            restoring: tokio::sync::Mutex::new(()),
            reconnect_timeout: self.config.reconnect_timeout,
        })
    }

    /// Waits until the log is applied, which takes longer the longer it is.
    async fn recover(&self) -> Result<(), StartError> {
        let raft = &self.raft;
        let recovered = async {
            let mut recovered = raft.recovered().await;
            for _ in 1..RECOVERY_TRIES {
                if recovered.is_ok() {
                    break;
                }
                tracing::info!(applied = raft.metrics().applied, "still applying the log");
                recovered = raft.recovered().await;
            }
            recovered
        };
        tokio::select! {
            biased;
            // As when the disk is full: the reason says more than that there is no leader.
            why = raft.dead() => Err(StartError::RaftEnded(why)),
            recovered = recovered => Ok(recovered?),
        }
    }

    fn check_mesh(&self, mesh: &MeshInfo) -> Result<(), StartError> {
        if self.known.as_ref().is_some_and(|file| file.trust_domain != mesh.trust_domain) {
            return Err(self.other_mesh(mesh.trust_domain.to_string()));
        }
        if mesh.datacenter != self.config.datacenter {
            let (was, is) = (mesh.datacenter.clone(), self.config.datacenter.clone());
            return Err(StartError::OtherDatacenter { was, is });
        }
        Ok(())
    }

    fn other_mesh(&self, found: String) -> StartError {
        StartError::OtherMesh {
            dir: self.config.store.directory().to_owned(),
            expected: self.known.as_ref().map(|file| file.trust_domain.to_string()).unwrap_or_default(),
            found,
        }
    }
}

fn save_node_file(
    config: &Config,
    known: Option<&NodeFile>,
    id: NodeId,
    service: &Service,
    address: &str,
) -> Result<(), StartError> {
    let mut servers = known.map(|file| file.servers.clone()).unwrap_or_default();
    if !servers.iter().any(|server| server == address) {
        servers.push(address.to_owned());
    }
    let file = NodeFile {
        id,
        name: config.node.clone(),
        datacenter: service.datacenter.clone(),
        trust_domain: service.trust_domain.clone(),
        role: NodeRole::Server,
        servers,
    };
    if known != Some(&file) {
        config.store.save(&file)?;
    }
    config.store.forget_joining()?;
    Ok(())
}

fn advertised(config: &Config, quic: &QuicServer) -> String {
    host_port(&config.advertise, quic.local_addrs().first().map_or(0, std::net::SocketAddr::port))
}

fn host_port(host: &str, port: u16) -> String {
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// This server's own identity.
pub(crate) fn own_identity(service: &Service) -> Identity {
    let (datacenter, node) = (service.datacenter.clone(), service.node.clone());
    Identity { trust_domain: service.trust_domain.clone(), subject: Subject::Server { datacenter, node } }
}
