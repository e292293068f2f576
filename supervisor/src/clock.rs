//! The wall clock, for people and for spans of minutes.

/// Unix ms; a clock before 1970 is at its beginning.
pub fn unix_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().max(0) as u64
}
