//! Mount namespaces that are held while their processes are killed. The last process of a namespace
//! would unmount what is in it before it closes its files: a volume's file system, whose device it
//! serves itself. It would wait for itself for ever. On a real machine the mounts outlive the process.

use super::command::{LabError, at, output};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Namespaces held, and the FUSE file systems that were mounted in them.
#[derive(Debug, Default)]
pub struct Held {
    namespaces: Vec<File>,
    /// Device numbers, `0:40`.
    fuse: BTreeSet<String>,
}

impl Held {
    /// Holds the mount namespaces of these processes that are not our own. A process that ends
    /// meanwhile needs no holding.
    pub fn of(pids: &[u32]) -> Self {
        let mut held = Self::default();
        let mut seen: BTreeSet<_> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
        for pid in pids {
            let path = format!("/proc/{pid}/ns/mnt");
            let Ok(namespace) = fs::read_link(&path) else { continue };
            if !seen.insert(namespace) {
                continue;
            }
            if let Ok(open) = File::open(&path) {
                held.namespaces.push(open);
                let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
                held.fuse.extend(fuse_devices(&mounts));
            }
        }
        held
    }

    /// Lets the loop devices over those file systems go with their mounts, and then the namespaces.
    pub fn release(self) -> Result<(), LabError> {
        if !self.fuse.is_empty() {
            for device in over(&loop_devices()?, &self.fuse) {
                // Still mounted: it is given back with the last mount of it.
                output(Command::new("losetup").args(["--detach", &device]))?;
            }
        }
        drop(self.namespaces);
        Ok(())
    }
}

/// All loop devices, a line each: name, device number of the file system that the file is on.
fn loop_devices() -> Result<String, LabError> {
    // Not --raw: that writes the blanks of a column as \x20.
    output(Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN"]))
}

/// Those over files on one of these file systems.
fn over(list: &str, fuse: &BTreeSet<String>) -> Vec<String> {
    let device = |line: &str| {
        let (name, backing) = line.split_once(char::is_whitespace)?;
        fuse.contains(backing.trim()).then(|| name.to_owned())
    };
    list.lines().filter_map(device).collect()
}

/// A loop device as it was attached at some moment: the next file it is attached to is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// `/dev/loop3`
    pub device: String,
    /// The kernel's number of this attachment.
    sequence: String,
}

impl Loop {
    /// Those over files on FUSE file systems of these processes' mount namespaces.
    pub fn of(pids: &[u32]) -> Result<Vec<Self>, LabError> {
        let devices = over(&loop_devices()?, &Held::of(pids).fuse);
        let known = |device: String| {
            let path = block(&device).join("diskseq");
            let sequence = fs::read_to_string(&path).map_err(at("read", &path))?;
            Ok(Self { device, sequence })
        };
        devices.into_iter().map(known).collect()
    }

    /// Whether it is still attached to the same file.
    pub fn is_attached(&self) -> bool {
        let block = block(&self.device);
        block.join("loop/backing_file").exists()
            && fs::read_to_string(block.join("diskseq")).is_ok_and(|now| now == self.sequence)
    }
}

fn block(device: &str) -> PathBuf {
    Path::new("/sys/block").join(device.trim_start_matches("/dev/"))
}

/// Device numbers of the FUSE file systems of a `mountinfo`.
fn fuse_devices(mountinfo: &str) -> impl Iterator<Item = String> + '_ {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("fuse").then(|| before.split(' ').nth(2).map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_are_told_from_others() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
            70 36 0:40 / /data/volumes/mail/fuse rw - fuse thermidor-mail rw\n";
        assert_eq!(fuse_devices(text).collect::<Vec<_>>(), ["0:40"]);
    }

    #[test]
    fn loop_devices_are_told_by_what_they_are_over() {
        let list = "/dev/loop1         0:40\n/dev/loop19       0:56 \n/dev/loop2        254:0\n";
        assert_eq!(over(list, &["0:56".to_owned()].into()), ["/dev/loop19"]);
    }

    #[test]
    fn our_own_namespace_is_not_held() {
        let held = Held::of(&[std::process::id(), u32::MAX]);
        assert!(held.namespaces.is_empty() && held.fuse.is_empty());
        assert!(held.release().is_ok());
    }
}
