//! Going before whatever computes for warmth: a busy machine is not a dead one.

use rustix::process::{getpid, getpriority_process, getsid, setpriority_process};
use std::io;

/// Nice value of the guard.
pub const GUARD: i32 = -20;

/// Nice value of daemon, ingress and volume processes: a lease is renewed through all of the home's daemons.
pub const OTHERS: i32 = -10;

/// Where the kernel groups tasks by session, nice counts within a session only, and this is what counts
/// between them (sched(7), autogrouping). Only the leader of a session touches it: whoever types `thermidor run`
/// in a terminal does not raise with it all else that was started there.
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
    if getsid(None)? != getpid() {
        return Ok(());
    }
    match std::fs::write(AUTOGROUP, nice.to_string()) {
        // A kernel without autogrouping.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_shares_its_session_leaves_the_others_in_it_where_they_are() {
        // The kernel keeps the group's value when a member's own changes; whoever may not raise is refused
        // the first step already.
        let Ok(before) = std::fs::read_to_string(AUTOGROUP) else { return };
        assert_ne!(getsid(None).unwrap(), getpid(), "a test is no session's leader");
        let _ = try_raise(getpriority_process(None).unwrap());
        assert_eq!(std::fs::read_to_string(AUTOGROUP).unwrap(), before);
    }
}
