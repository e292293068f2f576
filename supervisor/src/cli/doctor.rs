//! `thermidor doctor`: what this machine lacks, and the command that mends it.

use super::processes::engine_socket;
use super::{Format, show};
use crate::api::{Refused, Request, client, view};
use crate::paths::Paths;
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use thermidor_services::docker::podman_socket;
use thermidor_services::volume::group;

/// One thing looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// What is wrong and the command that mends it; `None`: fine.
    wrong: Option<String>,
}

/// Everything looked at.
#[derive(Serialize)]
struct Findings {
    version: u32,
    findings: Vec<Finding>,
}

pub fn main(paths: &Paths, format: Format) -> Result<(), Refused> {
    let all = Findings { version: view::VERSION, findings: look(paths) };
    let bad = all.findings.iter().filter(|f| f.wrong.is_some()).count();
    match format {
        Format::Table => all.findings.iter().for_each(|finding| match &finding.wrong {
            None => println!("ok  {}", finding.what),
            Some(words) => println!("!!  {}: {words}", finding.what),
        }),
        format => show::print(&all, format)?,
    }
    match bad {
        0 => Ok(()),
        n => Err(Refused::because(format!("{n} of {} findings need mending", all.findings.len()))),
    }
}

fn look(paths: &Paths) -> Vec<Finding> {
    let finding = |what, wrong| Finding { what, wrong };
    let program = |name: &str, package: &str| {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
            || Path::new("/usr/sbin").join(name).is_file()
            || Path::new("/sbin").join(name).is_file();
        (!found).then(|| format!("{name} is missing: apt-get install {package}"))
    };
    let root = rustix::process::geteuid().is_root();
    let named = std::env::var("THERMIDOR_DOCKER").ok();
    vec![
        finding("root", (!root).then(|| "volumes need root: run as root, or with sudo".into())),
        finding("container engine", engine(&engine_socket(named.as_deref()), podman_socket())),
        finding(
            "FUSE",
            (!Path::new("/dev/fuse").exists())
                .then(|| "no /dev/fuse: modprobe fuse; without it volumes need `replication: none`".into()),
        ),
        finding(
            "loop devices",
            (!Path::new("/dev/loop-control").exists()).then(|| "no /dev/loop-control: modprobe loop".into()),
        ),
        finding("ext4 tools", program("mkfs.ext4", "e2fsprogs")),
        finding("losetup", program("losetup", "util-linux")),
        finding(
            "memory control groups",
            group::refusal()
                .map(|why| format!("{why}: a service that runs out of memory may make its volume hang")),
        ),
        finding(
            "restic",
            program("restic", "restic").map(|missing| format!("no backups to friends, none back: {missing}")),
        ),
        finding("this radiator", home(paths)),
        finding("run folder", run_folder(paths)),
    ]
}

/// What is wrong with the engine at a socket; `podman`: Podman's socket, where it is there.
fn engine(socket: &Path, podman: Option<PathBuf>) -> Option<String> {
    let e = UnixStream::connect(socket).err()?;
    let deaf = format!("{}: {e}", socket.display());
    Some(match podman.filter(|podman| podman != socket) {
        Some(podman) => format!(
            "{deaf}: systemctl start docker; or take Podman: THERMIDOR_DOCKER=unix://{} in the daemon's environment",
            podman.display()
        ),
        None => format!(
            "{deaf}: apt-get install docker.io && systemctl start docker; \
             or apt-get install podman catatonit && systemctl enable --now podman.socket"
        ),
    })
}

fn home(paths: &Paths) -> Option<String> {
    if !paths.data.join("identity").exists() {
        return Some(
            "belongs to no home yet: `thermidor init HOME --radiator NAME`, or `thermidor join TOKEN`".into(),
        );
    }
    match client::ask_for::<view::Home>(paths, &Request::Status) {
        Err(refused) => Some(refused.text),
        Ok(home) if !home.quorum => {
            Some("no quorum: see which members `thermidor status` calls silent".into())
        }
        Ok(_) => None,
    }
}

/// The lease page must not wait for a disk.
fn run_folder(paths: &Paths) -> Option<String> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    match rustix::fs::statfs(&paths.run) {
        Err(_) => None,
        Ok(fs) if fs.f_type as u64 == TMPFS_MAGIC => None,
        Ok(_) => Some(format!(
            "{} is not on a memory file system: set THERMIDOR_RUN to a folder of /dev/shm",
            paths.run.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_listens_is_fine_and_a_deaf_one_is_told_how_to_wake_or_replace_it() {
        let dir = tempfile::tempdir().unwrap();
        let (docker, podman) = (dir.path().join("docker.sock"), dir.path().join("podman.sock"));
        let words = engine(&docker, None).unwrap();
        assert!(words.contains("docker.io") && words.contains("enable --now podman.socket"), "{words}");
        let listener = std::os::unix::net::UnixListener::bind(&podman).unwrap();
        let words = engine(&docker, Some(podman.clone())).unwrap();
        assert!(words.contains(&format!("THERMIDOR_DOCKER=unix://{}", podman.display())), "{words}");
        assert_eq!(engine(&podman, Some(podman.clone())), None);
        drop(listener);
        let words = engine(&podman, Some(podman.clone())).unwrap();
        assert!(words.contains("refused"), "{words}");
    }

    #[test]
    fn a_machine_of_no_home_is_told_how_to_found_or_join_one() {
        let dir = tempfile::tempdir().unwrap();
        let findings = look(&Paths::of(dir.path()));
        let home = findings.iter().find(|f| f.what == "this radiator").unwrap();
        let words = home.wrong.as_ref().unwrap();
        assert!(words.contains("thermidor init") && words.contains("thermidor join"), "{words}");
    }
}
