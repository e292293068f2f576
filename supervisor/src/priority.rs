//! Going before whatever computes for warmth: a busy machine is not a dead one.

use rustix::process::{getpriority_process, setpriority_process};
use std::io;

/// Nice value of the guard.
pub const GUARD: i32 = -20;

/// Nice value of daemon, ingress and volume processes: a lease is renewed through all of the home's daemons.
pub const OTHERS: i32 = -10;

/// Where the kernel groups tasks by session, nice counts within a session only, and this is what counts
/// between them (sched(7), autogrouping).
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Raises this process to a nice value, unless it stands higher. Call it in the first thread before others
/// begin, which inherit it. The unit files say the same; this serves who starts the processes otherwise.
/// What is refused is said and done without.
pub fn raise(nice: i32) {
    if let Err(e) = try_raise(nice) {
        tracing::warn!(error = %e, "the priority can't be raised: on a busy machine this radiator may seem silent");
    }
}

fn try_raise(nice: i32) -> io::Result<()> {
    if getpriority_process(None)? > nice {
        setpriority_process(None, nice)?;
    }
    match std::fs::write(AUTOGROUP, nice.to_string()) {
        // A kernel without autogrouping.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
