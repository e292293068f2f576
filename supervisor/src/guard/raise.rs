//! A guard that waits for a page from the disk, or for its turn, loses its leases: lock its memory,
//! go before others, be the last to be sacrificed. What is refused is said and done without.

use crate::priority;
use rustix::mm::{MlockAllFlags, mlockall};
use std::path::Path;
use std::time::Duration;
use thermidor_services::fence::{self, Place};

/// Call it in the first thread before others begin: they inherit the priority. The unit file may add
/// real-time scheduling (`CPUSchedulingPolicy=rr`).
pub fn raise() {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(e) = mlockall(all) {
        tracing::warn!(error = %e, "memory cannot be locked");
    }
    priority::raise(priority::GUARD);
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(error = %e, "out of memory this process may be killed");
    }
    // Pages are locked once they are there: walk the way that matters most.
    let nothing = Path::new("/sys/fs/cgroup/thermidor/guard/none");
    let nowhere = Place::Container("0".repeat(64));
    if let Err(e) = fence::kill(nothing, Duration::ZERO).and_then(|()| nowhere.kill(Duration::ZERO)) {
        tracing::warn!(error = %e, "cgroups cannot be read");
    }
}
