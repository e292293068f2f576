//! The guard: `thermidor guard` holds this radiator's leases and fences what has lost its own.
//! It does nothing else, keeps its memory locked and touches no disk after its start
//! (the run directory is a memory file system), so that a busy machine is not a dead one.

mod daemon;
mod raise;
mod registry;
mod run;
mod socket;
#[cfg(test)]
mod tests;

pub use daemon::{Call, GuardClient, Reply, StatusLease, StatusReply};
pub use raise::raise;
pub use run::{GuardError, run};

use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::NodeId;
use thermidor_model::timing::Timing;

/// The guard's socket in the run directory.
pub const SOCKET_FILE: &str = "guard.sock";
/// The lease page in the run directory.
pub const PAGE_FILE: &str = "leases";
/// What the daemon registered, kept in the run directory for the next guard.
pub const REGISTRY_FILE: &str = "guard.json";

/// How a guard runs.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// Who this radiator is.
    pub node: NodeId,
    /// The run directory, on a memory file system that does not outlive a reboot.
    pub run_dir: PathBuf,
    /// The home's times.
    pub timing: Timing,
    /// Lock memory and raise priority; off in tests.
    pub raise: bool,
}

impl GuardOptions {
    /// The page that volume processes and the ingress read.
    pub fn page(run_dir: &Path) -> PathBuf {
        run_dir.join(PAGE_FILE)
    }

    /// How long a request to the leader may take: long enough for a quorum round under load,
    /// short enough that several fit into a lease.
    pub(crate) fn ask_max(&self) -> Duration {
        Duration::from_millis((self.timing.lease_ms - self.timing.fence_ms) / 2)
    }
}
