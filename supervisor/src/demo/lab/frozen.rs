//! A machine stopped where it stands and let go on: process by process, since the kernel's freezer
//! waits for every process, and one that waits for a volume's device waits for a frozen one.

use super::cgroup::Cgroup;
use super::command::{LabError, at};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How often a group is looked through for processes that were started meanwhile.
const LOOKS_MAX: usize = 50;

/// Stops everything in it: the processes of volumes last, for others wait for them. One that waits in
/// the kernel stops as soon as it comes back from there, before it does anything else.
pub fn freeze(group: &Cgroup) -> Result<(), LabError> {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS_MAX {
        let fresh: Vec<u32> = group.pids().into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let (volumes, others): (Vec<u32>, Vec<u32>) = fresh.iter().partition(|pid| serves_volume(**pid));
        for pid in others.into_iter().chain(volumes) {
            send(pid, Signal::STOP)?;
        }
        stopped.extend(fresh);
    }
    Err(LabError::Late { what: format!("{} to start nothing more", group.below_root()), seconds: 0 })
}

/// Lets it go on, in the opposite order.
pub fn thaw(group: &Cgroup) -> Result<(), LabError> {
    let (volumes, others): (Vec<u32>, Vec<u32>) =
        group.pids().into_iter().partition(|pid| serves_volume(*pid));
    volumes.into_iter().chain(others).try_for_each(|pid| send(pid, Signal::CONT))
}

/// Whether it is a volume's process or its watchdog.
fn serves_volume(pid: u32) -> bool {
    // A process that ended meanwhile serves nothing.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).nth(1).is_some_and(|verb| verb.starts_with(b"volume-"))
}

fn send(pid: u32, signal: Signal) -> Result<(), LabError> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(number, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(at("signal the process of", Path::new(&format!("/proc/{pid}")))(e.into())),
    }
}
