//! openraft's settings, out of the home's times.

use openraft::{Config, SnapshotPolicy};
use thermidor_model::timing::Timing;

/// Log entries between two snapshots.
pub(crate) const SNAPSHOT_EVERY: u64 = 5000;

/// Settings for a home with these times.
pub(crate) fn config(home: &str, timing: &Timing, snapshot_every: u64) -> Result<Config, String> {
    timing.check()?;
    Config {
        cluster_name: home.to_string(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms.max(timing.election_min_ms + 1),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: snapshot_every / 10,
        max_payload_entries: 1024,
        enable_pre_vote: Some(true),
        // The state machine starts from its snapshot: a restarted leader is elected anew, never restored.
        enable_leader_restore: Some(false),
        // Switched on once election_max_ms has passed since the start: see `Node::start`.
        enable_elect: false,
        // A leader without its quorum falls silent by itself: see `muting`.
        quorum_loss_probe_interval: None,
        backoff: "50ms".to_string(),
        ..Config::default()
    }
    .validate()
    .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_times_and_scaled_ones_are_taken() {
        let timing = Timing::default();
        assert!(config("maison", &timing, SNAPSHOT_EVERY).is_ok());
        let unsound = Timing { election_min_ms: 60, ..timing };
        assert!(config("maison", &unsound, SNAPSHOT_EVERY).is_err());
    }
}
