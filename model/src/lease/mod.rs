//! The right to serve, as two state machines without a clock: the radiator's [`Holder`]
//! and the leader's [`Ledger`]. Times are CLOCK_BOOTTIME in ns, each on its own machine.
//!
//! Why no two hold a right at once, as long as no clock runs more than 5 % faster than another:
//! a grant runs on its radiator from the moment the request was *sent*, and is counted here from the
//! moment it was *received*, plus a margin of 5 %. The leader answers only after a quorum round begun
//! after that moment, so a later leader was elected `election_max_ms` after it at the earliest
//! (a voter that has just heard a leader refuses others), and waits for the rest.

mod holder;
mod ledger;
#[cfg(test)]
mod tests;

pub use holder::{Change, Holder, Standing};
pub use ledger::{Beginning, Ledger};

use crate::name::ServiceName;
use std::fmt;

/// Nanoseconds of a millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// The latest moment, by the reader's clock, that another machine calls `ago_ns` ago: its clock
/// may run 5 % faster.
pub fn moment_ago(now_ns: u64, ago_ns: u64) -> u64 {
    now_ns.saturating_sub(ago_ns - ago_ns.div_ceil(20))
}

/// What a lease is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// To serve as a service's active.
    Service(ServiceName),
    /// To answer for the home's floating address.
    Address,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Right::Service(name) => name.fmt(f),
            Right::Address => f.pad("the floating address"),
        }
    }
}
