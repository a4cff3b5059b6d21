//! A server of the simulation: the product's Raft, state and hub, on a disk that outlives it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use purlin_model::Revision;
use purlin_model::command::{Envelope, Outcome};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::invariant;
use super::net::Way;
use super::world::World;
use crate::feed::Hub;
use crate::raft::log::LogGauge;
use crate::raft::machine::{Loaded, Store};
use crate::raft::snapshot::SnapshotStore;
use crate::raft::{Hook, Machine, RaftHandle, RaftOptions, ServerNode};
use crate::state::{State, Touched};

/// Small, so that a run sees many snapshots and followers that need one.
const SNAPSHOT_EVERY: u64 = 60;
const KEEP_ENTRIES: u64 = 130;

/// The state, which also tells the book of invariants what is applied to it.
#[derive(Clone)]
pub(super) struct Watched(pub State);

impl Machine for Watched {
    type Touched = Touched;

    fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, Touched) {
        let (outcome, touched) = self.0.apply(revision, envelope);
        invariant::applied(revision, envelope, &self.0);
        (outcome, touched)
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        State::decode(bytes).map(Self).map_err(|why| why.to_string())
    }
}

struct Forward(Arc<Hub>);

impl Hook<Watched> for Forward {
    fn applied(&self, state: &Arc<Watched>, touched: Vec<Touched>) {
        Hook::<State>::applied(&*self.0, &Arc::new(state.0.clone()), touched);
    }

    fn replaced(&self, state: &Arc<Watched>, revision: Revision) {
        Hook::<State>::replaced(&*self.0, &Arc::new(state.0.clone()), revision);
    }
}

/// A server from a start to a crash.
pub(super) struct Life {
    pub raft: RaftHandle<Watched>,
    pub hub: Arc<Hub>,
    pub skew_ms: i64,
    /// Cancelled when it crashes.
    pub over: CancellationToken,
}

pub(super) struct Server {
    id: u64,
    of: u64,
    disk: Arc<Disk>,
    dir: TempDir,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    life: Option<Arc<Life>>,
    lives: u64,
}

pub(super) fn name(id: u64) -> String {
    format!("server-{id}")
}

fn node(id: u64) -> ServerNode {
    ServerNode { name: name(id), address: name(id) }
}

impl Server {
    pub(super) fn new(world: &Arc<World>, id: u64, of: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { id, of, disk: Disk::new(world, id), dir, inner: Mutex::default() }
    }

    pub(super) fn life(&self) -> Option<Arc<Life>> {
        self.inner.lock().unwrap().life.clone()
    }

    /// Each life has snapshots of its own, so that a dead one cannot write among them.
    fn snapshots(&self, life: u64) -> PathBuf {
        self.dir.path().join(life.to_string())
    }

    pub(super) async fn start(&self, world: &Arc<World>) {
        let life = {
            let mut inner = self.inner.lock().unwrap();
            inner.lives += 1;
            inner.lives
        };
        let (before, dir) = (self.snapshots(life - 1), self.snapshots(life));
        let snapshots = SnapshotStore::open(&dir).unwrap();
        for file in std::fs::read_dir(&before).into_iter().flatten().flatten() {
            std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
        let log = self.disk.open();
        let loaded = Loaded::load(&snapshots, Watched(State::new())).unwrap();
        let (reaches, begins) = (loaded.last.map(|last| last.index), log.purged());
        if begins > reaches {
            world.broke(format!(
                "server {}: snapshots reach {reaches:?}, the log begins behind {begins:?}",
                self.id
            ));
        }
        let hub = Arc::new(Hub::default());
        let store = Store::new(loaded, snapshots, Arc::new(Forward(hub.clone())));
        let mut options = RaftOptions::new(dir, self.id, name(self.id), name(self.id));
        (options.snapshot_every, options.keep_entries) = (SNAPSHOT_EVERY, KEEP_ENTRIES);
        let over = CancellationToken::new();
        let way = Arc::new(Way { world: world.clone(), from: (self.id, life), over: over.clone() });
        let raft = match RaftHandle::run(&options, log, LogGauge::none(), store, way).await {
            Ok(raft) => raft,
            Err(error) => return world.broke(format!("running: server {} does not start: {error}", self.id)),
        };
        hub.begin(Arc::new(raft.applied().borrow().state.0.clone()));
        let skew_ms = i64::try_from(world.below(600_000)).unwrap() - 300_000;
        let started = Arc::new(Life { raft, hub, skew_ms, over });
        world.tell(format_args!("server {} starts, clock off by {skew_ms} ms", self.id));
        self.inner.lock().unwrap().life = Some(started.clone());
        invariant::watch_leader(world, &started);
        let world = world.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = started.over.cancelled() => {}
                why = started.raft.dead() => world.broke(format!("running: server {} ended: {why}", started.raft.id())),
            }
        });
    }

    pub(super) async fn initialize(&self, world: &Arc<World>) {
        let members: BTreeMap<u64, ServerNode> = (1..=self.of).map(|id| (id, node(id))).collect();
        let raft = self.life().unwrap().raft.clone();
        if let Err(fault) = raft.initialize(members).await {
            world.broke(fault.to_string());
        }
    }

    /// Ends it as a power cut does. What its tasks still do reaches nobody.
    pub(super) fn crash(&self, world: &Arc<World>) {
        let Some(life) = self.inner.lock().unwrap().life.take() else { return };
        world.tell(format_args!("server {} crashes", self.id));
        self.disk.crash();
        life.over.cancel();
        tokio::spawn(async move { life.raft.shutdown().await });
    }
}
