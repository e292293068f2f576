//! Going before whatever computes for warmth: a busy machine is not a dead one.

use rustix::process::{getpriority_process, setpriority_process};
use std::{fs, io};

/// Nice value of the guard.
pub const GUARD: i32 = -20;

/// Nice value of daemon, ingress and volume processes: a lease is renewed through all of the home's daemons.
pub const OTHERS: i32 = -10;

/// Where the kernel groups tasks by session, nice counts within a session only, and this is what counts
/// between them (sched(7), autogrouping). Only the leader of a session touches it: whoever types `thermidor run`
/// in a terminal does not raise with it all else that was started there.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Names this process and its session in one process namespace, the mount's. `getsid` answers 0 where the leader
/// stands outside of it, as in a container, and rustix takes no such answer.
const STAT: &str = "/proc/self/stat";

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
    if !leads_session(&fs::read_to_string(STAT)?) {
        return Ok(());
    }
    match fs::write(AUTOGROUP, nice.to_string()) {
        // A kernel without autogrouping.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Whether the process of a `stat` file leads its session: its first field is the process, the sixth the session,
/// and the second may hold blanks and brackets (proc(5)).
fn leads_session(stat: &str) -> bool {
    let Some((head, tail)) = stat.rsplit_once(')') else { return false };
    match (head.split_whitespace().next(), tail.split_whitespace().nth(3)) {
        (Some(process), Some(session)) => process == session,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_told_from_a_member_even_where_its_session_began_outside() {
        let stat = |session: u32| format!("42 (odd) (name) S 7 42 {session} 0 -1 4194560 1 0\n");
        assert!(leads_session(&stat(42)));
        assert!(!leads_session(&stat(7)));
        assert!(!leads_session(&stat(0)), "led from outside of the process namespace");
        assert!(!leads_session("42 (cut"));
    }

    #[test]
    fn a_process_that_shares_its_session_leaves_the_others_in_it_where_they_are() {
        // The kernel keeps the group's value when a member's own changes; whoever may not raise is refused
        // the first step already.
        let Ok(before) = fs::read_to_string(AUTOGROUP) else { return };
        assert!(!leads_session(&fs::read_to_string(STAT).unwrap()), "a test is no session's leader");
        let _ = try_raise(getpriority_process(None).unwrap());
        assert_eq!(fs::read_to_string(AUTOGROUP).unwrap(), before);
    }
}
