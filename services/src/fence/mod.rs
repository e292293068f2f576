//! Kills a container through its cgroup, whatever state Docker is in: by `cgroup.kill` where
//! there is one (version 2), else by SIGKILL to everything listed until nothing is (version 1).

mod place;

pub use place::Place;

use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait between two looks at a cgroup that is being emptied.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a cgroup is not known to be empty.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A path that no container can have.
    #[error("{0} is no container's cgroup: it must be an absolute path below a cgroup file system's root")]
    NoContainer(PathBuf),
    /// Nothing that an engine gives as a container's id.
    #[error("{0:?} is no container's id: it must be 64 hexadecimal digits")]
    NoId(String),
    /// The kernel refuses to list or kill.
    #[error("cannot kill through {path}")]
    Kernel {
        /// The cgroup.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Something is still there.
    #[error("{left} processes in {path} outlive SIGKILL: they hang in the kernel")]
    Alive {
        /// The cgroup.
        path: PathBuf,
        /// How many.
        left: usize,
    },
}

/// Refuses what would kill more than a container: a relative path, one with `..`, a cgroup's root.
pub fn check_path(cgroup: &Path) -> Result<(), FenceError> {
    let plain = cgroup.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let parent = cgroup.parent().is_some_and(|parent| parent.join("cgroup.procs").exists());
    // A container that is not up yet has no cgroup; nor may its parent exist before the first one.
    let absent = !cgroup.exists() && cgroup.starts_with("/sys/fs/cgroup") && cgroup.components().count() > 4;
    if cgroup.is_absolute() && plain && (parent || absent) && !holds_self(cgroup) {
        Ok(())
    } else {
        Err(FenceError::NoContainer(cgroup.to_path_buf()))
    }
}

fn holds_self(cgroup: &Path) -> bool {
    let me = rustix::process::getpid();
    processes(cgroup).is_ok_and(|pids| pids.contains(&me))
}

/// Whether nothing runs there. A cgroup that is gone is empty.
pub fn is_empty(cgroup: &Path) -> Result<bool, FenceError> {
    processes(cgroup)
        .map(|pids| pids.is_empty())
        .map_err(|source| FenceError::Kernel { path: cgroup.into(), source })
}

/// Kills everything in the cgroup and below, and returns once nothing is left: after `within` at the
/// latest with an error. Blocks.
pub fn kill(cgroup: &Path, within: Duration) -> Result<(), FenceError> {
    let kernel = |source| FenceError::Kernel { path: cgroup.to_path_buf(), source };
    let deadline = Instant::now() + within;
    loop {
        // Version 2 kills all at once, forks in progress included; where that can't be, one by one.
        let at_once = std::fs::write(cgroup.join("cgroup.kill"), "1").is_ok();
        let pids = processes(cgroup).map_err(kernel)?;
        if pids.is_empty() {
            return Ok(());
        }
        if !at_once {
            for pid in &pids {
                match kill_process(*pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => return Err(kernel(e.into())),
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(FenceError::Alive { path: cgroup.to_path_buf(), left: pids.len() });
        }
        std::thread::sleep(PAUSE);
    }
}

/// The processes of a cgroup and of those below it; none once it is gone.
pub(crate) fn processes(cgroup: &Path) -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    let mut paths = vec![cgroup.to_path_buf()];
    while let Some(path) = paths.pop() {
        let text = match std::fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => text,
            Err(e) if gone(&e) => continue,
            Err(e) => return Err(e),
        };
        pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw));
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                    paths.push(entry.path());
                }
            }
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(pids)
}

fn gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests;
