//! The durations on which a home's safety and speed rest, in one place.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Times of consensus, lease and replication. The defaults are what `thermidor` ships with;
/// tests may scale them, and [`Timing::check`] says whether a set is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Raft heartbeat, ms.
    pub heartbeat_ms: u64,
    /// Shortest election timeout, ms.
    pub election_min_ms: u64,
    /// Longest election timeout, ms; also the followers' view of the leader's lease.
    pub election_max_ms: u64,
    /// How long a grant lets a radiator serve, counted from when it *sent* its request, ms.
    pub lease_ms: u64,
    /// What the leader waits beyond a lease before it raises an epoch, ms (clock drift).
    pub margin_ms: u64,
    /// How often the guard asks for its leases anew, ms.
    pub renew_ms: u64,
    /// How long before its lease ends the guard begins to fence, ms.
    pub fence_ms: u64,
    /// How long a replica may be silent before it is dropped from the in-sync set, ms.
    pub replica_timeout_ms: u64,
    /// How long the ingress holds a new connection for a service that is not up, ms.
    pub park_max_ms: u64,
    /// How long a service goes on without its radiator's daemon, ms.
    pub daemon_absent_max_ms: u64,
    /// How long a voter may be silent before it loses its vote (while three remain), ms.
    pub forget_after_ms: u64,
    /// How often a radiator reports to the leader, ms.
    pub report_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 300,
            lease_ms: 900,
            margin_ms: 50,
            renew_ms: 100,
            fence_ms: 100,
            replica_timeout_ms: 500,
            park_max_ms: 10_000,
            daemon_absent_max_ms: 60_000,
            forget_after_ms: 600_000,
            report_ms: 500,
        }
    }
}

/// A member that restarts is silent for a moment, and keeps its vote, ms.
const FORGET_AFTER_MIN_MS: u64 = 5_000;

impl Timing {
    /// What makes this set of times unsound, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.margin_ms * 20 < self.lease_ms {
            return Err(format!(
                "margin_ms {} is under 5 % of lease_ms {}: clocks may drift that far",
                self.margin_ms, self.lease_ms
            ));
        }
        if self.renew_ms * 3 + self.fence_ms > self.lease_ms {
            return Err(format!(
                "lease_ms {} leaves no room for three renewals of {} ms and fencing of {} ms",
                self.lease_ms, self.renew_ms, self.fence_ms
            ));
        }
        if self.heartbeat_ms * 2 > self.election_min_ms || self.election_min_ms > self.election_max_ms {
            return Err(
                "heartbeat_ms, election_min_ms, election_max_ms must grow, the first at least twofold".into(),
            );
        }
        if self.forget_after_ms < FORGET_AFTER_MIN_MS {
            return Err(format!(
                "forget_after_ms {} would take the vote of a member that only restarts: {FORGET_AFTER_MIN_MS} at least",
                self.forget_after_ms
            ));
        }
        Ok(())
    }

    /// A field in milliseconds as a `Duration`.
    pub const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound_and_a_thin_margin_is_not() {
        assert_eq!(Timing::default().check(), Ok(()));
        let thin = Timing { margin_ms: 10, ..Timing::default() };
        assert!(thin.check().unwrap_err().contains("5 %"));
        let hasty = Timing { forget_after_ms: 1_000, ..Timing::default() };
        assert!(hasty.check().unwrap_err().contains("restarts"));
    }
}
