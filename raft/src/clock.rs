//! The clocks read in this crate: one that goes on while the machine sleeps, one for people.

use crate::types::C;
use openraft::alias::SerdeInstantOf;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thermidor_model::name::UnixMs;

/// CLOCK_BOOTTIME, ns: goes on during suspend and never jumps with the wall clock.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// How long ago one of openraft's moments was.
pub(crate) fn elapsed(at: &SerdeInstantOf<C>) -> Duration {
    openraft::Instant::elapsed(&at.into_inner())
}

/// The wall clock, ms since 1970. Only for people and for spans of minutes.
pub(crate) fn wall_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
