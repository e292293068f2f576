//! openraft's own suite over our log store and state machine.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use thermidor_raft::Reserve;
use thermidor_raft::log_store::LogStore;
use thermidor_raft::machine::Machine;
use thermidor_raft::types::C;

struct OnDisk;

impl StoreBuilder<C, LogStore, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<C>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let reserve = Reserve::open(dir.path()).expect("a reserve");
        let log = LogStore::open(&dir.path().join("log.redb"), &reserve).expect("a log");
        let machine = Machine::open(dir.path().join("snapshot"), reserve).expect("a state machine");
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openrafts_suite_passes() {
    Suite::test_all(OnDisk).await.expect("the suite");
}
