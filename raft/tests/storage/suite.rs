//! openraft's own storage suite passes over RocksDB's engine and over the simulated one.

use crate::support::{Journal, options};
use conclave_raft::{
    storage::{
        engine::LogEngine,
        log_store::LogStore,
        rocks_engine::RocksEngine,
        simulated_engine::SimulatedEngine,
        snapshot_store::SnapshotStore,
        state_machine_adapter::{StateMachineAdapter, StateMachineThread},
    },
    types::LogTypes,
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use std::{path::Path, sync::Arc};
use tempfile::TempDir;

struct Rocks;
struct Simulated;

fn build(engine: Arc<dyn LogEngine>, folder: &Path) -> (LogStore, StateMachineAdapter) {
    let machine =
        StateMachineThread::start(Arc::new(Journal::default()), crate::support::options().on_fatal).unwrap();
    let snapshots = SnapshotStore::open(&folder.join("snapshots")).unwrap();
    (
        LogStore::open(engine, options()).unwrap(),
        StateMachineAdapter::new(machine, snapshots),
    )
}

impl StoreBuilder<LogTypes, LogStore, StateMachineAdapter, TempDir> for Rocks {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachineAdapter), StorageError<LogTypes>> {
        let folder = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(&folder.path().join("log")).unwrap();
        let (log, machine) = build(Arc::new(engine), folder.path());
        Ok((folder, log, machine))
    }
}

impl StoreBuilder<LogTypes, LogStore, StateMachineAdapter, TempDir> for Simulated {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachineAdapter), StorageError<LogTypes>> {
        let folder = tempfile::tempdir().unwrap();
        let (log, machine) = build(Arc::new(SimulatedEngine::default()), folder.path());
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_over_rocksdb() {
    Suite::test_all(Rocks).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_over_the_simulation() {
    Suite::test_all(Simulated).await.unwrap();
}
