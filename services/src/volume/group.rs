//! A memory control group of one's own. Whoever writes to a volume waits, when its group is short of memory, for
//! what it wrote to reach the volume process, which must then not be refused memory of the same group: both
//! would wait for one another for ever. So each volume process sits in a group without a limit that no writer is
//! in, and the daemon, which writes to volumes when it restores, in one of its own too.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the names of these groups begin with.
const PREFIX: &str = "thermidor-";

/// Whether a group has a name of ours.
fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

/// A hierarchy of control groups in which this process may make some.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// The group in which this process was started.
    base: PathBuf,
    /// Version 2, where a group has a controller only if its parent hands it on.
    unified: bool,
}

/// Those which say how much memory a process may have: the one of version 2, and the memory controller's of
/// version 1.
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mounted = |unified: bool| {
        mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (point, kind, options) = (words.get(1)?, words.get(2)?, words.get(3)?);
            let wanted = match unified {
                true => *kind == "cgroup2",
                false => *kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            };
            wanted.then(|| PathBuf::from(point))
        })
    };
    let hierarchy = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let unified = number == "0" && controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == "memory") {
            return None;
        }
        let group = mounted(unified)?.join(path.trim_start_matches('/'));
        let base = if group.file_name().is_some_and(is_ours) { group.parent()?.to_owned() } else { group };
        Some(Hierarchy { base, unified })
    };
    groups.lines().filter_map(hierarchy).collect()
}

fn of_this_process() -> io::Result<Vec<Hierarchy>> {
    Ok(hierarchies(&fs::read_to_string("/proc/self/cgroup")?, &fs::read_to_string("/proc/self/mounts")?))
}

impl Hierarchy {
    /// Whether a file of the base names the memory controller.
    fn names_memory(&self, file: &str) -> io::Result<bool> {
        Ok(fs::read_to_string(self.base.join(file))?.split_whitespace().any(|word| word == "memory"))
    }

    /// Whether memory is accounted for here, not in another hierarchy.
    fn has_memory(&self) -> io::Result<bool> {
        Ok(!self.unified || self.names_memory("cgroup.controllers")?)
    }

    /// Makes a group and enters it; whether it accounts for memory by itself.
    fn enter(&self, name: &str) -> io::Result<bool> {
        let group = self.base.join(format!("{PREFIX}{name}"));
        match fs::create_dir(&group) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        fs::write(group.join("cgroup.procs"), "0")?;
        let accounted = self.has_memory()?;
        if accounted && self.unified && !self.names_memory("cgroup.subtree_control")? {
            fs::write(self.base.join("cgroup.subtree_control"), "+memory")?;
        }
        Ok(accounted)
    }
}

/// Puts this process, and what it starts from now on, into a group of that name beside whatever else was started
/// where it was.
pub fn apart(name: &str) -> io::Result<()> {
    let (mut own, mut refused) = (false, None);
    for hierarchy in of_this_process()? {
        match hierarchy.enter(name) {
            Ok(accounted) => own |= accounted,
            Err(e) => refused = Some(io::Error::new(e.kind(), format!("{}: {e}", hierarchy.base.display()))),
        }
    }
    match refused {
        _ if own => Ok(()),
        Some(e) => Err(e),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "no control groups for memory are mounted")),
    }
}

/// Why [`apart`] can't give a memory group here, found out without changing anything.
pub fn refusal() -> Option<String> {
    let hierarchies = match of_this_process() {
        Ok(hierarchies) if hierarchies.is_empty() => return Some("no control groups are mounted".into()),
        Ok(hierarchies) => hierarchies,
        Err(e) => return Some(format!("/proc/self/cgroup: {e}")),
    };
    let Some(memory) = hierarchies.iter().find(|h| h.has_memory().unwrap_or(false)) else {
        return Some("the kernel keeps no account of memory per control group (cgroup_enable=memory)".into());
    };
    let writable = rustix::fs::access(&memory.base, rustix::fs::Access::WRITE_OK);
    writable.err().map(|e| format!("{}: {e}", memory.base.display()))
}

/// Removes the groups that [`apart`] made, from wherever this process was started, and that nobody is in.
pub fn sweep() -> io::Result<()> {
    for hierarchy in of_this_process()? {
        sweep_below(&hierarchy.base)?;
    }
    Ok(())
}

fn sweep_below(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        if !is_ours(&entry.file_name()) || !entry.file_type()?.is_dir() {
            continue;
        }
        match fs::remove_dir(entry.path()) {
            // In use, gone meanwhile, or not a group that this made: the lab's have others below them.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENOENT)) => {}
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    fn at(base: &str, unified: bool) -> Hierarchy {
        Hierarchy { base: base.into(), unified }
    }

    #[test]
    fn groups_are_made_where_the_process_was_started_not_where_it_is() {
        let started = "8:cpu:/\n4:memory:/user/bob\n0::/\n";
        let there = [at("/sys/fs/cgroup/memory/user/bob", false), at("/sys/fs/cgroup/unified/", true)];
        assert_eq!(hierarchies(started, V1), there);
        let moved = "8:cpu:/\n4:memory:/user/bob/thermidor-volume-mail\n0::/thermidor-daemon\n";
        assert_eq!(hierarchies(moved, V1), there);
        let v2 = "0::/system.slice/thermidor.service/thermidor-daemon\n";
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(hierarchies(v2, mounts), [at("/sys/fs/cgroup/system.slice/thermidor.service", true)]);
        assert_eq!(hierarchies(v2, V1.lines().next().unwrap()), []);
    }

    #[test]
    fn memory_is_handed_on_once_and_only_by_those_who_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        let hierarchy = Hierarchy { base: base.into(), unified: true };
        let (has, hands_on) = (base.join("cgroup.controllers"), base.join("cgroup.subtree_control"));
        fs::write(&has, "cpu hugetlb").unwrap();
        fs::write(&hands_on, "").unwrap();
        assert!(!hierarchy.enter("volume-mail").unwrap(), "memory is another hierarchy's");
        fs::write(&has, "cpu memory").unwrap();
        assert!(hierarchy.enter("volume-mail").unwrap());
        assert_eq!(fs::read_to_string(&hands_on).unwrap(), "+memory");
        fs::write(&hands_on, "memory pids").unwrap();
        assert!(hierarchy.enter("daemon").unwrap());
        assert_eq!(fs::read_to_string(&hands_on).unwrap(), "memory pids");
        assert_eq!(fs::read_to_string(base.join("thermidor-daemon/cgroup.procs")).unwrap(), "0");
    }

    #[test]
    fn only_empty_groups_of_ours_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        for group in ["thermidor-volume-mail", "thermidor-lab/one", "somebodys"] {
            fs::create_dir_all(dir.path().join(group)).unwrap();
        }
        sweep_below(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["somebodys", "thermidor-lab"]);
    }
}
