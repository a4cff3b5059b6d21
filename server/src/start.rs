//! From a data directory to a serving server: what is missing is made, what is there must fit together.
//!
//! Each step may be cut short by a crash and is then done again at the next start: `node.json` is written last, and
//! before it is there nothing is promised to anybody.

use std::sync::{Arc, Mutex};

use purlin_model::command::{Command, CreateMesh};
use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::topic::{MeshInfo, ServerInfo};
use purlin_model::{Millis, NodeId, Revision};
use purlin_wire::link::{Link, Peer};
use purlin_wire::memory::MemoryConnector;
use purlin_wire::node_store::NodeFile;
use purlin_wire::quic::QuicServer;
use purlin_wire::tls::Credentials;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ca::{CaStore, NewRoot};
use crate::feed::Hub;
use crate::issue::Issuer;
use crate::keeper::{self, Keeper};
use crate::metrics::Metrics;
use crate::raft::{Alone, RaftHandle, RaftOptions, raft_id};
use crate::rpc::{self, Service};
use crate::state::State;
use crate::{Config, ServerHandle, StartError};

/// Each waits some seconds.
const RECOVERY_TRIES: usize = 20;

pub(crate) async fn start(config: Config, bootstrap: bool) -> Result<ServerHandle, StartError> {
    let known = known_node(&config, bootstrap)?;
    let id = match &known {
        Some(file) => file.id,
        None => config.store.joining()?.id,
    };
    let ca = CaStore::open(config.store.directory())?;
    let (raft, hub) = open_raft(&config, id).await?;
    let served = Box::pin(serve(&config, known, id, ca, raft.clone(), hub)).await;
    if served.is_err() {
        // The files must be free again for the next try of the same process.
        raft.shutdown().await;
    }
    served
}

async fn serve(
    config: &Config,
    known: Option<NodeFile>,
    id: NodeId,
    ca: CaStore,
    raft: RaftHandle<State>,
    hub: Arc<Hub>,
) -> Result<ServerHandle, StartError> {
    raft.initialize_single().await?;
    recover(&raft).await?;
    let mesh = match hub.state().mesh_info() {
        Some(mesh) => mesh.clone(),
        None => found_mesh(config, known.as_ref(), &ca, &raft, &hub).await?,
    };
    check_mesh(config, known.as_ref(), &mesh)?;
    let now = (config.clock)();
    let issuer = open_issuer(config, &ca, &mesh, &hub, now)?;
    if hub.state().sealed_root_key(ca.sealing().public()).is_none() {
        tracing::error!(
            good_until = %issuer.intermediate().not_after().0,
            "the root key of the mesh cannot be opened, because data_dir/ca/sealing is a new one: restore the file \
             from a backup, or certificates cannot be signed any more once this server's own expires (Unix time, ms)"
        );
    }
    let service = Arc::new(Service {
        node: config.node.clone(),
        datacenter: mesh.datacenter.clone(),
        trust_domain: mesh.trust_domain.clone(),
        raft,
        hub,
        issuer,
        liveness: Mutex::default(),
        look: Notify::new(),
        clock: config.clock.clone(),
        metrics: Metrics::default(),
    });
    keeper::tell_intermediate(&service).await?;
    let keeper = Keeper::open(config.store.clone(), ca, service.clone())?;
    let credentials = keeper.credentials();
    tell_own_host(config, id, &service).await?;
    let quic = Arc::new(QuicServer::bind(&config.bind, credentials.clone(), mesh.trust_domain.clone())?);
    let address = advertised(config, &quic);
    let server = ServerInfo {
        node: config.node.clone(),
        address: address.clone(),
        leader: true,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    };
    service.propose_own(Command::AnnounceServer(server)).await?.result?;
    save_node_file(config, known.as_ref(), id, &mesh, address)?;
    Ok(run(service, quic, keeper, credentials, known.is_some()))
}

/// Waits until the log is applied, which takes longer the longer it is.
async fn recover(raft: &RaftHandle<State>) -> Result<(), StartError> {
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

async fn open_raft(config: &Config, id: NodeId) -> Result<(RaftHandle<State>, Arc<Hub>), StartError> {
    let hub = Arc::new(Hub::default());
    let port = config.bind.first().map_or(0, std::net::SocketAddr::port);
    let address = host_port(&config.advertise, port);
    let options = RaftOptions::new(config.store.directory(), raft_id(id), config.node.as_str(), address);
    let raft = Box::pin(RaftHandle::start(options, State::new(), Arc::new(Alone), hub.clone())).await?;
    hub.begin(raft.applied().borrow().state.clone());
    Ok((raft, hub))
}

/// Makes the mesh: its trust domain and its root, whose key is sealed before it is forgotten.
async fn found_mesh(
    config: &Config,
    known: Option<&NodeFile>,
    ca: &CaStore,
    raft: &RaftHandle<State>,
    hub: &Hub,
) -> Result<MeshInfo, StartError> {
    if let Some(file) = known {
        return Err(StartError::OtherMesh {
            dir: config.store.directory().to_owned(),
            expected: file.trust_domain.clone(),
            found: "no mesh".into(),
        });
    }
    let domain = config.domain.trim_matches('.').to_ascii_lowercase();
    let label = |label: &str| purlin_model::ServiceName::new(label).is_ok_and(|label| label.is_dns_label());
    if domain.len() > 200 || !domain.split('.').all(label) {
        return Err(StartError::BadDomain(config.domain.chars().take(80).collect()));
    }
    let trust_domain = TrustDomain(format!("{}.{domain}", uuid::Uuid::new_v4()));
    let root = NewRoot::create(&trust_domain, (config.clock)())?;
    let sealed = ca.sealing().seal(&config.node, &trust_domain, &root.key)?;
    let create = CreateMesh {
        trust_domain,
        datacenter: config.datacenter.clone(),
        root: root.certificate,
        sealed_root_key: vec![sealed],
        default_intention: config.default_intention,
        leaf_ttl_ms: millis(config.leaf_ttl),
    };
    let envelope = purlin_model::command::Envelope {
        level: purlin_model::command::FIRST_LEVEL,
        request: purlin_model::command::RequestId(uuid::Uuid::new_v4()),
        actor: Default::default(),
        at: (config.clock)(),
        command: Command::CreateMesh(create),
    };
    raft.propose(envelope).await?.result?;
    let state = hub.state();
    let mesh = state.mesh_info().ok_or_else(|| purlin_model::Fault::internal("the new mesh is not there"))?;
    tracing::info!(trust_domain = %mesh.trust_domain, "mesh founded");
    Ok(mesh.clone())
}

fn check_mesh(config: &Config, known: Option<&NodeFile>, mesh: &MeshInfo) -> Result<(), StartError> {
    if let Some(file) = known.filter(|file| file.trust_domain != mesh.trust_domain) {
        return Err(StartError::OtherMesh {
            dir: config.store.directory().to_owned(),
            expected: file.trust_domain.clone(),
            found: mesh.trust_domain.to_string(),
        });
    }
    if mesh.datacenter != config.datacenter {
        let (was, is) = (mesh.datacenter.clone(), config.datacenter.clone());
        return Err(StartError::OtherDatacenter { was, is });
    }
    Ok(())
}

fn open_issuer(
    config: &Config,
    ca: &CaStore,
    mesh: &MeshInfo,
    hub: &Hub,
    now: Millis,
) -> Result<Issuer, StartError> {
    let intermediate = match ca.intermediate(mesh, now)? {
        Some(intermediate) => intermediate,
        None => keeper::new_intermediate(ca, &hub.state(), &config.node, now)?,
    };
    Ok(Issuer::new(intermediate))
}

/// The catalog knows this host, and the mesh what its configuration says of all.
async fn tell_own_host(config: &Config, id: NodeId, service: &Service) -> Result<(), StartError> {
    let state = service.hub.state();
    let own = state.node(&config.node).filter(|node| node.id == Some(id));
    let same = own.is_some_and(|node| node.address == config.advertise && node.version == config.version);
    let base = own.cloned().unwrap_or_else(|| Node {
        id: Some(id),
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
    // Its agent tells the rest; only what a server is reached by is told here.
    if !same || base.status != NodeStatus::Alive {
        let (address, version) = (config.advertise.clone(), config.version.clone());
        let node = Node { address, version, mesh_port: config.mesh_port.or(base.mesh_port), ..base };
        service.propose_own(Command::AnnounceNode(node)).await?.result?;
    }
    let wanted = (config.default_intention, millis(config.leaf_ttl));
    let has = state.mesh_info().map(|mesh| (mesh.default_intention, mesh.leaf_ttl_ms));
    if has != Some(wanted) {
        let (default_intention, leaf_ttl_ms) = wanted;
        service.propose_own(Command::UpdateMesh { default_intention, leaf_ttl_ms }).await?.result?;
    }
    Ok(())
}

fn save_node_file(
    config: &Config,
    known: Option<&NodeFile>,
    id: NodeId,
    mesh: &MeshInfo,
    address: String,
) -> Result<(), StartError> {
    let file = NodeFile {
        id,
        name: config.node.clone(),
        datacenter: mesh.datacenter.clone(),
        trust_domain: mesh.trust_domain.clone(),
        role: NodeRole::Server,
        servers: vec![address],
    };
    if known != Some(&file) {
        config.store.save(&file)?;
    }
    config.store.forget_joining()?;
    Ok(())
}

/// What runs as long as the server does.
struct Parts {
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: watch::Sender<Option<String>>,
}

impl Parts {
    /// Runs a part until the stop. One that ends before, or panics, ends the server: half of one is worse than none.
    fn spawn(&self, what: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        let ended = Ended { what, stop: stop.clone(), failed };
        self.tasks.spawn(async move {
            stop.run_until_cancelled(part).await;
            drop(ended);
        });
    }
}

/// Tells, when it is dropped, that a part is no more.
struct Ended {
    what: &'static str,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let what = self.what;
            let why = format!("the part of the server that {what} ended by itself: start the server again");
            self.failed.send_modify(|failed| {
                failed.get_or_insert(why);
            });
        }
    }
}

/// Starts the tasks. Each ends when the token is cancelled, and the handle waits for them.
fn run(
    service: Arc<Service>,
    quic: Arc<QuicServer>,
    keeper: Keeper,
    credentials: watch::Receiver<Arc<Credentials>>,
    already_bootstrapped: bool,
) -> ServerHandle {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let parts = Parts { stop: stop.clone(), tasks: tasks.clone(), failed: watch::Sender::new(None) };
    let me = {
        let credentials = credentials.borrow();
        Peer::Member { identity: credentials.identity().clone(), certificate: credentials.fingerprint() }
    };
    let (connector, local_links) = MemoryConnector::new(me.clone(), me);
    let local = accept_local(service.clone(), local_links, stop.clone(), tasks.clone());
    parts.spawn("takes links of this host", local);
    let remote = accept_remote(service.clone(), quic.clone(), stop.clone(), tasks.clone());
    parts.spawn("takes connections of other hosts", remote);
    let watched = service.clone();
    parts.spawn("watches hosts", async move { keeper::watch_hosts(&watched).await });
    parts.spawn("renews certificates", keeper.renew());
    let failed = parts.failed;
    ServerHandle { service, quic, connector, credentials, already_bootstrapped, stop, tasks, failed }
}

async fn accept_local(
    service: Arc<Service>,
    mut links: mpsc::Receiver<Arc<dyn Link>>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(link) = links.recv().await {
        spawn_link(&service, link, &stop, &tasks);
    }
}

async fn accept_remote(
    service: Arc<Service>,
    quic: Arc<QuicServer>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(link) = quic.accept().await {
        spawn_link(&service, link, &stop, &tasks);
    }
}

fn spawn_link(service: &Arc<Service>, link: Arc<dyn Link>, stop: &CancellationToken, tasks: &TaskTracker) {
    let (service, stop) = (service.clone(), stop.clone());
    tasks.spawn(async move {
        if stop.run_until_cancelled(rpc::serve(service, link.clone())).await.is_none() {
            link.close("the server stops");
        }
    });
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

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// This server's own identity.
pub(crate) fn own_identity(service: &Service) -> Identity {
    let (datacenter, node) = (service.datacenter.clone(), service.node.clone());
    Identity { trust_domain: service.trust_domain.clone(), subject: Subject::Server { datacenter, node } }
}
