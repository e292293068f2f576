//! Killing through control groups, both versions.

use super::*;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

/// A cgroup of our own, with processes in it; both are removed at the end.
struct Group {
    path: PathBuf,
    children: Vec<Child>,
}

impl Group {
    fn new(under: &str, name: &str) -> Option<Self> {
        let path = Path::new(under).join(format!("ingress-{name}-{}", std::process::id()));
        if let Err(e) = std::fs::create_dir(&path) {
            println!("SKIPPED {name}: no cgroup can be made under {under}: {e}");
            return None;
        }
        Some(Self { path, children: vec![] })
    }

    fn spawn(&mut self, below: &str) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let path = self.path.join(below);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
        self.children.push(child);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir(self.path.join("below"));
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn everything_dies(under: &str, name: &str) {
    let Some(mut group) = Group::new(under, name) else { return };
    group.spawn("");
    group.spawn("");
    group.spawn("below");
    assert!(!is_empty(&group.path).unwrap());
    check_path(&group.path).unwrap();
    // The children are ours to reap, and a zombie still counts as one of version 1's processes.
    let path = group.path.clone();
    let killer = std::thread::spawn(move || kill(&path, Duration::from_secs(20)));
    for child in &mut group.children {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    killer.join().unwrap().unwrap();
    assert!(is_empty(&group.path).unwrap());
    kill(&group.path, Duration::ZERO).unwrap();
}

#[test]
fn a_version_1_cgroup_is_emptied_with_all_below_it() {
    everything_dies("/sys/fs/cgroup/pids", "fence-v1");
}

#[test]
fn a_version_2_cgroup_is_emptied_with_all_below_it() {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    match root {
        Some(root) => everything_dies(root, "fence-v2"),
        None => println!("SKIPPED fence-v2: no cgroup version 2 is mounted"),
    }
}

#[test]
fn a_cgroup_that_is_gone_is_empty() {
    let path = Path::new("/sys/fs/cgroup/pids/ingress/never/was");
    kill(path, Duration::ZERO).unwrap();
    assert!(is_empty(path).unwrap());
    check_path(path).unwrap();
}

#[test]
fn what_is_no_containers_cgroup_is_refused() {
    for bad in ["", "pids/x", "/", "/tmp", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/a/../..", "/etc/a/b/c"]
    {
        assert!(check_path(Path::new(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_listing_that_cannot_be_read_is_no_empty_cgroup() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("cgroup.procs")).unwrap();
    assert!(matches!(kill(dir.path(), Duration::ZERO), Err(FenceError::Kernel { .. })));
}

#[test]
fn what_outlives_the_kill_is_said() {
    let Some(group) = Group::new("/sys/fs/cgroup/pids", "fence-alive") else { return };
    let mut group = group;
    group.spawn("");
    // Within zero time the kernel has not reaped it, and we have not waited for it.
    let told = kill(&group.path, Duration::ZERO);
    assert!(matches!(told, Err(FenceError::Alive { left: 1, .. })), "{told:?}");
}
