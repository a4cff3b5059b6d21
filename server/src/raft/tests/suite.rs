//! openraft's own storage suite on our log and our machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::Ledger;
use crate::raft::log::LogStore;
use crate::raft::machine::{Loaded, Store};
use crate::raft::snapshot::SnapshotStore;
use crate::raft::types::TypeConfig;

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, Store<Ledger>, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, Store<Ledger>), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(&dir.path().join("raft"), 0).unwrap();
        let snapshots = SnapshotStore::open(&dir.path().join("snapshots")).unwrap();
        let loaded = Loaded::load(&snapshots, Ledger::default()).unwrap();
        Ok((dir, log, Store::new(loaded, snapshots, Arc::new(()))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_storage_suite_passes() {
    Suite::test_all(OnDisk).await.unwrap();
}
