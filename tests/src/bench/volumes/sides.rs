//! What is compared: a folder of the disk, ext4 on a loop device over a plain file of the disk, our volume,
//! GlusterFS. Each is a folder in which the workloads run.

use super::gluster::Gluster;
use super::home::Home;
use super::report::Side;
use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The size of the volume and of the loop file, sparse.
pub const SIZE_BYTES: u64 = 2 << 30;

/// All four, on one disk.
pub struct Sides {
    /// Ours.
    pub home: Home,
    gluster: Gluster,
    looped: Looped,
    directory: PathBuf,
    volume: PathBuf,
}

/// ext4 on a loop device over a plain file.
struct Looped {
    file: PathBuf,
    point: PathBuf,
}

fn tool(program: &str, args: &[&str]) -> Result<()> {
    let said = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    ensure!(said.status.success(), "`{program} {}`: {text}", args.join(" "));
    Ok(())
}

impl Looped {
    /// Made as a volume's file system is.
    fn make(dir: &Path) -> Result<Self> {
        let (file, point) = (dir.join("file"), dir.join("mnt"));
        std::fs::create_dir_all(&point)?;
        File::create(&file)?.set_len(SIZE_BYTES)?;
        let (path, at) = (file.to_string_lossy(), point.to_string_lossy());
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", "-i", "65536", "-E", lazy, "-J", "size=64", &path])?;
        let device = Command::new("losetup").args(["--find", "--show", "--direct-io=on", &path]).output()?;
        let device = String::from_utf8(device.stdout).context("the loop device's name")?;
        ensure!(!device.trim().is_empty(), "no loop device for {path}");
        let mounted = tool("mount", &[device.trim(), &at]);
        // Mounted or not, it goes with its last user.
        tool("losetup", &["--detach", device.trim()])?;
        mounted?;
        Ok(Self { file, point })
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        if let Err(e) = tool("umount", &[&self.point.to_string_lossy()]) {
            eprintln!("left to the lab's end: {e:#}");
        }
    }
}

impl Sides {
    /// Makes all four below that folder.
    pub fn make(root: &Path, address: Ipv4Addr) -> Result<Self> {
        let sub = |name: &str| -> Result<PathBuf> {
            let dir = root.join(name);
            std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            Ok(dir)
        };
        let directory = sub("directory")?;
        let looped = Looped::make(&sub("loop")?)?;
        let gluster = Gluster::start(&sub("gluster")?, address)?;
        let home = Home::start(root, SIZE_BYTES)?;
        let volume = home.promote(1, None)?;
        home.until_in_sync()?;
        Ok(Self { home, gluster, looped, directory, volume })
    }

    /// Where a side's workloads run.
    pub fn dir(&self, side: Side) -> PathBuf {
        match side {
            Side::Directory => self.directory.clone(),
            Side::Loop => self.looped.point.clone(),
            Side::Volume => self.volume.clone(),
            Side::Gluster => self.gluster.mount(),
        }
    }

    /// Lets the kernel forget what it has of a file that was read or written on a side, and of what lies below it.
    pub fn forget(&self, side: Side, file: &str) -> Result<()> {
        let mut files = vec![self.dir(side).join(file)];
        match side {
            Side::Directory => {}
            Side::Loop => files.push(self.looped.file.clone()),
            Side::Volume => files.extend(self.home.images()),
            Side::Gluster => files.extend(self.gluster.bricks().iter().map(|brick| brick.join(file))),
        }
        for path in files {
            let open = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            // What is not written yet stays: nothing is written any more when this is called.
            open.sync_data()?;
            fadvise(&open, 0, None, Advice::DontNeed).context("fadvise")?;
        }
        Ok(())
    }
}
