//! Starting: what lies on the disk is checked to fit together before Raft runs on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use openraft::storage::RaftLogStorage;
use openraft::{Config, SnapshotPolicy};
use purlin_model::command::LEVEL;
use tokio::sync::{Mutex, Semaphore, watch};

use super::{IN_FLIGHT_KIB, Inner, Raft, RaftHandle, leadership, space};
use crate::raft::log::{LogGauge, LogOpenError, LogStore};
use crate::raft::machine::{Hook, Loaded, Machine, Store};
use crate::raft::network::{Book, Network, Transport};
use crate::raft::serve::{Incoming, LEASE};
use crate::raft::snapshot::{SnapshotError, SnapshotStore};
use crate::raft::types::{ServerNode, TypeConfig};

/// Entries kept behind a snapshot: followers that are a little behind need no snapshot, a damaged snapshot can be
/// passed over, and openraft's issue 2116 (a purge that overtakes an apply) stays out of reach.
const KEEP_ENTRIES: u64 = 50_000;
const SNAPSHOT_EVERY: u64 = 10_000;
const _: () = assert!(KEEP_ENTRIES > 2 * SNAPSHOT_EVERY);

/// What a server brings with it.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// The host's data directory: the log lies in `raft/`, snapshots in `snapshots/`.
    pub dir: PathBuf,
    /// Of this host for good; see [`raft_id`](crate::raft::raft_id).
    pub node_id: u64,
    /// The host's name in the catalog.
    pub name: String,
    /// `host:port` where peers reach this server.
    pub address: String,
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// The newest command level that is taken in from others.
    pub level: u16,
    /// Entries kept behind a snapshot.
    pub keep_entries: u64,
}

impl RaftOptions {
    pub fn new(
        dir: impl Into<PathBuf>,
        node_id: u64,
        name: impl Into<String>,
        address: impl Into<String>,
    ) -> Self {
        Self {
            dir: dir.into(),
            node_id,
            name: name.into(),
            address: address.into(),
            snapshot_every: SNAPSHOT_EVERY,
            level: LEVEL,
            keep_entries: KEEP_ENTRIES,
        }
    }

    fn config(&self) -> Config {
        Config {
            cluster_name: "purlin".into(),
            heartbeat_interval: 100,
            // A follower waits for the end of the lease, and then for a random part of the same again: the first of
            // two elects after about 0.8 s of silence, seven heartbeats and more.
            election_timeout_min: 250,
            election_timeout_max: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
            enable_pre_vote: Some(true),
            // A restarted leader asks again: its state may be a moment behind what it had acknowledged.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: 1_000,
            replication_lag_threshold: self.keep_entries,
            max_payload_entries: 256,
            max_append_entries: Some(1_024),
            api_channel_size: Some(4_096),
            notification_channel_size: Some(4_096),
            install_snapshot_timeout: 30_000,
            // A server that starts again is found soon; one that is gone is not called all the time.
            backoff: "50ms 100ms 200ms ...1s".into(),
            ..Config::default()
        }
    }
}

/// Why Raft does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Log(String),
    #[error("{0}")]
    Snapshot(String),
    #[error(
        "the snapshots in {dir} reach to log entry {snapshot}, but the log begins behind {purged}{damaged}: remove \
         the data directory and let this server join again, or restore a backup"
    )]
    Gap { dir: String, snapshot: u64, purged: u64, damaged: String },
    #[error(
        "there is a snapshot in {dir}/snapshots but no log in {dir}/raft: restore the log, or remove the data \
         directory and let this server join again"
    )]
    LogLost { dir: String },
    #[error("raft cannot start: {0}")]
    Raft(String),
}

impl From<LogOpenError> for StartError {
    fn from(error: LogOpenError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<SnapshotError> for StartError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error.to_string())
    }
}

/// What the disk holds, checked to fit together. Blocks on the disk.
pub(crate) fn open<M: Machine>(
    options: &RaftOptions,
    empty: M,
) -> Result<(SnapshotStore, Loaded<M>, LogStore), StartError> {
    let snapshots = SnapshotStore::open(&options.dir.join("snapshots"))?;
    let loaded = Loaded::load(&snapshots, empty)?;
    let log = LogStore::open(&options.dir.join("raft"), options.node_id)?;
    let dir = options.dir.display().to_string();
    let snapshot = loaded.last.map(|last| last.index);
    let (purged, last) = log.bounds();
    if (snapshot.is_some() || !loaded.damaged.is_empty()) && last.is_none() && !log.has_vote() {
        return Err(StartError::LogLost { dir });
    }
    if purged > snapshot {
        let damaged = loaded.damaged.iter().map(|error| format!("; {error}")).collect();
        let (snapshot, purged) = (snapshot.unwrap_or(0), purged.unwrap_or(0));
        return Err(StartError::Gap { dir, snapshot, purged, damaged });
    }
    Ok((snapshots, loaded, log))
}

impl<M: Machine> RaftHandle<M> {
    /// Opens what is on the disk and starts to take part. `empty` is the state before the first entry.
    pub async fn start(
        options: RaftOptions,
        empty: M,
        transport: Arc<dyn Transport>,
        hook: Arc<dyn Hook<M>>,
    ) -> Result<Self, StartError> {
        let opening = options.clone();
        let opened = tokio::task::spawn_blocking(move || open(&opening, empty)).await;
        let (snapshots, loaded, log) = opened.map_err(|error| StartError::Raft(error.to_string()))??;
        let gauge = log.gauge();
        let store = Store::new(loaded, snapshots, hook);
        let handle = Self::run(&options, log, gauge, store, transport).await?;
        tokio::spawn(space::watch(Arc::downgrade(&handle.inner)));
        Ok(handle)
    }

    /// Takes part with what was opened. `gauge` looks at `log`.
    pub(crate) async fn run(
        options: &RaftOptions,
        log: impl RaftLogStorage<TypeConfig>,
        gauge: LogGauge,
        store: Store<M>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let config = options.config().validate().map_err(|error| StartError::Raft(error.to_string()))?;
        let (own, level) = (options.node_id, options.level);
        let node = ServerNode { name: options.name.clone(), address: options.address.clone() };
        let snapshot_dir = options.dir.join("snapshots");
        let incoming = Incoming::new(level, gauge.clone(), snapshot_dir.clone());
        let applied = store.subscribe();
        let book = Book::default();
        let network = Network { transport, book: book.clone() };
        let raft = Box::pin(Raft::new(own, Arc::new(config), network, log, store))
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let (dead, stopping) = (watch::Sender::new(None), Arc::new(AtomicBool::new(false)));
        let leadership = leadership::follow(raft.metrics(), book, dead.clone(), stopping.clone());
        // Alone there is nobody to wait for.
        if raft.voter_ids().eq([own]) {
            raft.trigger().elect(false).await.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        let inner = Inner {
            raft,
            own,
            node,
            applied,
            leadership,
            dead,
            stopping,
            log: gauge,
            incoming,
            in_flight: Semaphore::new(IN_FLIGHT_KIB),
            changing: Mutex::default(),
            proposals: AtomicU64::new(0),
            snapshots: snapshot_dir,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}
