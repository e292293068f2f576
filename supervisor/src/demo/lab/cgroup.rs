//! One control group (version 2) per lab, with one below it per machine: whatever a machine
//! starts is born in it, so that a machine can be frozen or lose its power as one.
//!
//! Where the system runs version 1, Docker's containers still inherit the version 2 group of
//! the engine that starts them; where it runs version 2, the engine is told a parent inside.

use super::command::{LabError, at, until};
use super::held::Held;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of all labs below a hierarchy's root.
const LABS: &str = "thermidor-lab";
/// How long the kernel may take to end or freeze a group; a process in an uninterruptible
/// wait holds it up.
const SETTLE: Duration = Duration::from_secs(10);

/// A group of the version 2 hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
    /// Its path below the root of every hierarchy, as Docker's `--cgroup-parent` takes it.
    below_root: String,
}

/// Where the version 2 hierarchy is mounted, by `/proc/mounts`.
fn root_of(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(2) == Some(&"cgroup2"))
        .map(|words| PathBuf::from(words[1]))
}

/// Where every hierarchy is mounted, version 1 ones included.
fn roots_of(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(2).is_some_and(|t| *t == "cgroup" || *t == "cgroup2"))
        .map(|words| PathBuf::from(words[1]))
        .collect()
}

fn mounts() -> Result<String, LabError> {
    let path = Path::new("/proc/mounts");
    fs::read_to_string(path).map_err(at("read", path))
}

impl Cgroup {
    /// The group of the lab of that name; not made yet.
    pub fn of_lab(lab: &str) -> Result<Self, LabError> {
        let root = root_of(&mounts()?).ok_or_else(|| LabError::Refused {
            name: lab.to_owned(),
            why: "no cgroup2 hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)".into(),
        })?;
        let below_root = format!("/{LABS}/{lab}");
        Ok(Self { path: root.join(&below_root[1..]), below_root })
    }

    /// A group inside this one; not made yet.
    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name), below_root: format!("{}/{name}", self.below_root) }
    }

    /// Makes the group.
    pub fn make(&self) -> Result<(), LabError> {
        fs::create_dir_all(&self.path).map_err(at("make", &self.path))
    }

    /// The file into which a process writes its number to be in the group.
    pub fn door(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The path below the root of every hierarchy.
    pub fn below_root(&self) -> &str {
        &self.below_root
    }

    /// Numbers of all processes in it and below it.
    pub fn pids(&self) -> Vec<u32> {
        fn walk(dir: &Path, pids: &mut Vec<u32>) {
            if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
                pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
            }
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), pids);
                }
            }
        }
        let mut pids = Vec::new();
        walk(&self.path, &mut pids);
        pids
    }

    /// Kills (-9) everything in it, and waits until nothing is left.
    pub fn kill(&self) -> Result<(), LabError> {
        let kill = self.path.join("cgroup.kill");
        if !kill.exists() {
            return Ok(());
        }
        let held = Held::of(&self.pids());
        fs::write(&kill, "1").map_err(at("write", &kill))?;
        let ended = until(SETTLE, &format!("the processes of {} to end", self.below_root), || {
            Ok(self.event("populated 0")?.then_some(()))
        });
        held.release()?;
        ended
    }

    /// Stops everything in it where it stands; returns once it is so.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.set_frozen("1")?;
        until(SETTLE, &format!("{} to freeze", self.below_root), || Ok(self.event("frozen 1")?.then_some(())))
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), LabError> {
        self.set_frozen("0")
    }

    fn set_frozen(&self, value: &str) -> Result<(), LabError> {
        let path = self.path.join("cgroup.freeze");
        fs::write(&path, value).map_err(at("write", &path))
    }

    fn event(&self, line: &str) -> Result<bool, LabError> {
        let path = self.path.join("cgroup.events");
        Ok(fs::read_to_string(&path).map_err(at("read", &path))?.lines().any(|l| l == line))
    }

    /// Removes the group, and what Docker made of the same path in version 1 hierarchies.
    /// Nothing may run in it any more.
    pub fn remove(&self) -> Result<(), LabError> {
        for root in roots_of(&mounts()?) {
            let labs = root.join(LABS);
            let own = root.join(&self.below_root[1..]);
            until(SETTLE, &format!("{} to empty", own.display()), || {
                Ok((!own.exists() || remove_tree(&own)).then_some(()))
            })?;
            // The folder of all labs stays while another lab is there: then this refuses, rightly.
            fs::remove_dir(labs).ok();
        }
        Ok(())
    }
}

/// Removes a tree of groups, deepest first; false while one is still busy.
fn remove_tree(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn the_version_2_hierarchy_is_found_wherever_it_is_mounted() {
        assert_eq!(root_of(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(roots_of(HYBRID).len(), 2);
        assert_eq!(root_of("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(root_of("proc /proc proc rw 0 0"), None);
    }
}
