//! `thermidor doctor`: what this machine lacks, and the command that mends it.

use super::{Format, show};
use crate::api::{Refused, Request, client, view};
use crate::paths::Paths;
use serde::Serialize;
use std::path::Path;

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
    let engine = std::env::var("THERMIDOR_DOCKER").unwrap_or_else(|_| "/var/run/docker.sock".into());
    let engine = engine.trim_start_matches("unix://").to_string();
    let engine_wrong = match std::os::unix::net::UnixStream::connect(&engine) {
        Ok(_) => None,
        Err(e) => Some(format!("{engine}: {e}: apt-get install docker.io && systemctl start docker")),
    };
    vec![
        finding("root", (!root).then(|| "volumes need root: run as root, or with sudo".into())),
        finding("container engine", engine_wrong),
        finding(
            "FUSE",
            (!Path::new("/dev/fuse").exists())
                .then(|| "no /dev/fuse: modprobe fuse; without it use `replicas: 1`".into()),
        ),
        finding(
            "loop devices",
            (!Path::new("/dev/loop-control").exists()).then(|| "no /dev/loop-control: modprobe loop".into()),
        ),
        finding("ext4 tools", program("mkfs.ext4", "e2fsprogs")),
        finding("losetup", program("losetup", "util-linux")),
        finding("this radiator", home(paths)),
        finding("run folder", run_folder(paths)),
    ]
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
    fn a_machine_of_no_home_is_told_how_to_found_or_join_one() {
        let dir = tempfile::tempdir().unwrap();
        let findings = look(&Paths::of(dir.path()));
        let home = findings.iter().find(|f| f.what == "this radiator").unwrap();
        let words = home.wrong.as_ref().unwrap();
        assert!(words.contains("thermidor init") && words.contains("thermidor join"), "{words}");
    }
}
