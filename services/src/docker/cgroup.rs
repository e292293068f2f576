//! A container's control group, through which it is measured and, by [`fence::kill`], killed
//! without asking Docker, which may hang.

use crate::fence;
use rustix::process::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A container's control group on this machine; stays valid while the container runs, whatever
/// becomes of its first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// Version 1: a folder per controller.
    V1 {
        /// Which holds `cgroup.procs` and `freezer.state`.
        freezer: PathBuf,
        /// Which holds `cpuacct.usage`.
        cpuacct: PathBuf,
    },
    /// Version 2: one folder.
    V2(PathBuf),
}

/// The control group of a container's first process. Refuses a group that is no container's:
/// killing that one would kill the radiator.
pub fn cgroup_of(pid: u32) -> io::Result<Cgroup> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    parse(&text, Path::new("/sys/fs/cgroup"))
        .ok_or_else(|| io::Error::other(format!("process {pid} is in no container's control group")))
}

fn parse(text: &str, root: &Path) -> Option<Cgroup> {
    let of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let named = match controller {
                "" => number == "0" && controllers.is_empty(),
                name => controllers.split(',').any(|c| c == name),
            };
            (named && is_container(path))
                .then(|| (controllers.to_owned(), path.trim_start_matches('/').to_owned()))
        })
    };
    if let (Some((_, freezer)), Some((together, cpuacct))) = (of("freezer"), of("cpuacct")) {
        // Often mounted together, as `cpu,cpuacct`, with a link for each.
        let folder = if root.join("cpuacct").exists() { "cpuacct".to_owned() } else { together };
        return Some(Cgroup::V1 {
            freezer: root.join("freezer").join(freezer),
            cpuacct: root.join(folder).join(cpuacct),
        });
    }
    of("").map(|(_, path)| Cgroup::V2(root.join(path)))
}

/// Docker and Podman put the container's 64 hexadecimal digits into the path.
fn is_container(path: &str) -> bool {
    path.split(['/', '-', '.', ':'])
        .any(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Cgroup {
    /// Where its processes are listed.
    pub fn folder(&self) -> &Path {
        match self {
            Self::V1 { freezer, .. } => freezer,
            Self::V2(folder) => folder,
        }
    }

    /// The processes in it and in groups below; none once it is gone.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        fence::processes(self.folder())
    }

    /// CPU time used by it so far, ns.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let garbled = |path: &Path| io::Error::other(format!("{} holds no CPU time", path.display()));
        match self {
            Self::V1 { cpuacct, .. } => {
                let path = cpuacct.join("cpuacct.usage");
                fs::read_to_string(&path)?.trim().parse().map_err(|_| garbled(&path))
            }
            Self::V2(folder) => {
                let path = folder.join("cpu.stat");
                let text = fs::read_to_string(&path)?;
                let used =
                    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
                used.map(|us| us * 1000).ok_or_else(|| garbled(&path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn both_versions_are_found_and_what_is_no_container_is_refused() {
        let root = Path::new("/nowhere");
        let v1 = format!("5:freezer:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n0::/\n");
        let found = parse(&v1, root).unwrap();
        let freezer = root.join("freezer/docker").join(ID);
        assert_eq!(found, Cgroup::V1 { freezer, cpuacct: root.join("cpu,cpuacct/docker").join(ID) });
        let v2 = format!("0::/system.slice/docker-{ID}.scope\n");
        let folder = root.join(format!("system.slice/docker-{ID}.scope"));
        assert_eq!(parse(&v2, root), Some(Cgroup::V2(folder)));
        for none in ["0::/\n", "0::/init.scope\n", "5:freezer:/\n4:cpuacct:/\n", "", "garbage"] {
            assert_eq!(parse(none, root), None, "{none:?}");
        }
        assert!(cgroup_of(std::process::id()).is_err(), "a test is no container");
    }

    #[test]
    fn cpu_time_is_read_in_ns_and_a_gone_group_has_no_processes() {
        let dir = tempfile::tempdir().unwrap();
        let v2 = Cgroup::V2(dir.path().to_owned());
        fs::write(dir.path().join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\n").unwrap();
        assert_eq!(v2.cpu_ns().unwrap(), 1_500_000);
        fs::write(dir.path().join("cpu.stat"), "nothing\n").unwrap();
        assert!(v2.cpu_ns().unwrap_err().to_string().contains("no CPU time"));
        let gone = Cgroup::V2(dir.path().join("gone"));
        assert_eq!(gone.processes().unwrap(), []);
    }
}
