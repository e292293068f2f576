//! From the exported file to the mounted file system: loop device, ext4, mount, and the way back
//! in the one order that leaves nothing behind.

use super::mounts;
use rustix::mount::{MountFlags, mount};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thermidor_model::SnapshotName;

/// How long a loop device may take to let go, and an unmount to be no more busy.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// The same, where the device is taken away by force: what is held goes with its last user.
const RELEASE_BY_FORCE_MAX: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(5);
const MIB: u64 = 1 << 20;
/// What ext4 does about an error: it stops writing, it never goes on.
const MOUNT_DATA: &std::ffi::CStr = c"errors=remount-ro,data_err=abort";
/// Where the loop devices are seen.
const BLOCK: &str = "/sys/block";
/// Where FUSE connections are seen and can be aborted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// What went wrong between the exported file and the mount.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A step failed.
    #[error("{step} failed for {path}")]
    Step {
        /// Which.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tool said no.
    #[error("{tool} failed: {words}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What it said.
        words: String,
    },
    /// The loop device stays: somebody else holds a copy of the mount.
    #[error(
        "{0} is still in use after unmounting: another mount namespace (a container?) holds a copy of the mount"
    )]
    Held(PathBuf),
}

pub(super) fn step<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DeviceError + 'a {
    move |source| DeviceError::Step { step, path: path.into(), source }
}

/// The places of one volume on this radiator.
#[derive(Debug, Clone)]
pub struct Places {
    /// Everything of the volume.
    pub dir: PathBuf,
}

impl Places {
    /// How far the search for bit rot is.
    pub fn progress(&self) -> PathBuf {
        self.dir.join("scrub")
    }

    /// The replica's image.
    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Where the one exported file appears.
    pub fn fuse(&self) -> PathBuf {
        self.dir.join("fuse")
    }

    /// The exported file.
    pub fn exported(&self) -> PathBuf {
        self.fuse().join(super::export::FILE)
    }

    /// Where the volume's file system is mounted on the active.
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Makes the directories and takes away what an earlier process left: mounts, loop devices,
    /// a FUSE connection that nobody serves.
    pub fn clean(&self) -> Result<(), DeviceError> {
        let (fuse, mnt) = (self.fuse(), self.mount());
        std::fs::create_dir_all(&self.dir).map_err(step("creating the directory", &self.dir))?;
        // Before anything is mounted below, or that would be hidden.
        mounts::share(&self.dir).map_err(step("sharing mounts", &self.dir))?;
        show_connections();
        self.sweep()?;
        for point in [&mnt, &fuse] {
            match std::fs::create_dir(point) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(step("creating the directory", point))?,
            }
        }
        let held = mounts::set_immutable(&mnt, true).map_err(step("protecting the mountpoint", &mnt))?;
        if !held {
            tracing::warn!(path = %mnt.display(), "this file system cannot protect an unmounted mountpoint");
        }
        Ok(())
    }

    /// The places of one snapshot: a folder like the volume's own.
    pub fn snapshot(&self, name: &SnapshotName) -> Self {
        Self { dir: super::snapshot::folder(&self.dir).join(name.as_str()) }
    }

    fn sweep(&self) -> Result<(), DeviceError> {
        let snapshots = super::snapshot::folder(&self.dir);
        match std::fs::read_dir(&snapshots) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            other => {
                for entry in other.map_err(step("listing snapshots", &snapshots))? {
                    let dir = entry.map_err(step("listing snapshots", &snapshots))?.path();
                    Self { dir }.sweep_one()?;
                }
            }
        }
        self.sweep_one()
    }

    fn sweep_one(&self) -> Result<(), DeviceError> {
        let (fuse, mnt) = (self.fuse(), self.mount());
        // Abort first: whoever hangs in that mount is freed, and unmounting cannot hang.
        if let Some(left) = mounts::on(&fuse).map_err(step("reading mounts", &fuse))?
            && left.kind.starts_with("fuse")
        {
            abort(&fuse, left.minor).map_err(step("aborting the old connection", &fuse))?;
        }
        mounts::take_off(&mnt, true).map_err(step("unmounting", &mnt))?;
        // While the export is there, for by its path they are known.
        for old in loops_of(&self.exported()).map_err(step("listing loop devices", &fuse))? {
            detach_loop(&old)?;
        }
        mounts::take_off(&fuse, true).map_err(step("unmounting the export", &fuse))
    }

    /// Takes every mount of this volume away; for the end of its process.
    pub fn leave(&self) -> Result<(), DeviceError> {
        self.sweep()?;
        // The directory itself was bound where mounts were not shared.
        mounts::take_off(&self.dir, true).map_err(step("unmounting", &self.dir))
    }

    /// Leaves, and takes the mountpoint's protection away, so that the directory can be removed.
    pub fn unprotect(&self) -> Result<(), DeviceError> {
        self.leave()?;
        let mnt = self.mount();
        if mnt.exists() {
            mounts::set_immutable(&mnt, false).map_err(step("freeing the mountpoint", &mnt))?;
        }
        Ok(())
    }

    /// Loop device over the exported file, a file system if there is none yet, and the mount.
    pub fn attach(&self, size_bytes: u64, format: bool) -> Result<PathBuf, DeviceError> {
        let device = self.make_loop()?;
        if format {
            make_file_system(&device, size_bytes)?;
        }
        self.mount_device(&device, MountFlags::empty())?;
        Ok(device)
    }

    /// The same, to be read only. The journal is replayed first, into the device.
    pub fn attach_read_only(&self) -> Result<PathBuf, DeviceError> {
        let device = self.make_loop()?;
        self.mount_device(&device, MountFlags::RDONLY | MountFlags::NOEXEC)?;
        Ok(device)
    }

    fn make_loop(&self) -> Result<PathBuf, DeviceError> {
        let exported = self.exported();
        let arguments =
            [OsStr::new("--find"), OsStr::new("--show"), OsStr::new("--direct-io=on"), exported.as_os_str()];
        tool("losetup", arguments).map(PathBuf::from)
    }

    fn mount_device(&self, device: &Path, more: MountFlags) -> Result<(), DeviceError> {
        let mnt = self.mount();
        let flags = more | MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
        mount(device, &mnt, "ext4", flags, MOUNT_DATA).map_err(|e| step("mounting", &mnt)(io::Error::from(e)))
    }

    /// Unmounts and gives the loop device back, waiting until it is really gone. The export is still
    /// needed for that: take it away afterwards.
    pub fn detach(&self) -> Result<(), DeviceError> {
        let mnt = self.mount();
        let deadline = Instant::now() + RELEASE_MAX;
        while let Err(e) = mounts::take_off(&mnt, false) {
            if e.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                return Err(step("unmounting", &mnt)(e));
            }
            std::thread::sleep(POLL);
        }
        self.release_loops(RELEASE_MAX)
    }

    /// The way back when the device has failed: nothing is waited for that needs it.
    pub fn detach_by_force(&self) -> Result<(), DeviceError> {
        let mnt = self.mount();
        mounts::take_off(&mnt, true).map_err(step("unmounting", &mnt))?;
        self.release_loops(RELEASE_BY_FORCE_MAX)
    }

    fn release_loops(&self, within: Duration) -> Result<(), DeviceError> {
        let exported = self.exported();
        let deadline = Instant::now() + within;
        loop {
            let left = loops_of(&exported).map_err(step("listing loop devices", &exported))?;
            let Some(device) = left.first() else { return Ok(()) };
            for device in &left {
                detach_loop(device)?;
            }
            if Instant::now() > deadline {
                return Err(DeviceError::Held(device.clone()));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn make_file_system(device: &Path, size_bytes: u64) -> Result<(), DeviceError> {
    // Replaying the journal dominates a take-over: it is kept small.
    let journal_mib = match size_bytes / MIB {
        0..256 => 4,
        256..2048 => 16,
        2048..16384 => 32,
        _ => 64,
    };
    let journal = format!("size={journal_mib}");
    let options = "lazy_itable_init=1,lazy_journal_init=1";
    let fixed = ["-q", "-F", "-m", "0", "-i", "65536", "-e", "remount-ro", "-E", options, "-J", &journal];
    tool("mkfs.ext4", fixed.iter().map(OsStr::new).chain([device.as_os_str()])).map(|_| ())
}

/// Where the tools are looked for.
pub(super) fn tool_path() -> String {
    match std::env::var("PATH") {
        Ok(path) => format!("{path}:/usr/sbin:/sbin"),
        Err(_) => "/usr/sbin:/sbin:/usr/bin:/bin".to_string(),
    }
}

/// Runs a tool of the system and answers its output.
pub(super) fn tool<'a>(
    name: &'static str,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> Result<String, DeviceError> {
    let done = Command::new(name)
        .args(arguments)
        .env("PATH", tool_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(step("starting", Path::new(name)))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_string());
    }
    Err(DeviceError::Tool { tool: name, words: String::from_utf8_lossy(&done.stderr).trim().to_string() })
}

/// The loop devices over a file, told by the path they were given.
pub fn loops_of(file: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(BLOCK)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b"loop") {
            continue;
        }
        let Ok(backing) = std::fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let backing = backing.trim_end_matches('\n');
        if Path::new(backing.strip_suffix(" (deleted)").unwrap_or(backing)) == file {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// Gives a loop device back; one that is gone already is no error.
fn detach_loop(device: &Path) -> Result<(), DeviceError> {
    match tool("losetup", [OsStr::new("-d"), device.as_os_str()]) {
        Err(DeviceError::Tool { words, .. }) if words.contains("No such device") => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Mounts the kernel's control of FUSE connections, where nobody has done so yet.
fn show_connections() {
    let dir = Path::new(CONNECTIONS);
    if matches!(mounts::on(dir), Ok(None))
        && let Err(e) = mount("fusectl", dir, "fusectl", MountFlags::empty(), None)
    {
        tracing::warn!(error = %e, "the kernel's FUSE control file system cannot be mounted");
    }
}

/// Where a connection can be aborted; `None` where the kernel's control file system is not seen.
pub fn abort_file(minor: u32) -> Option<PathBuf> {
    let path = Path::new(CONNECTIONS).join(minor.to_string()).join("abort");
    path.exists().then_some(path)
}

/// Aborts a FUSE connection: whoever waits for it gets an error.
pub fn abort(point: &Path, minor: u32) -> io::Result<()> {
    match abort_file(minor) {
        Some(path) => std::fs::write(path, "1"),
        // A forced unmount aborts too, even where it fails for being busy.
        None => match rustix::mount::unmount(point, rustix::mount::UnmountFlags::FORCE) {
            Ok(()) | Err(rustix::io::Errno::BUSY | rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(e.into()),
        },
    }
}

/// Whether a device begins with an ext4 superblock; `start` is its first 2 KiB.
pub fn is_formatted(start: &[u8]) -> bool {
    start.get(1024 + 56..1024 + 58) == Some(&[0x53, 0xef])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_loop_device_has_none() {
        assert_eq!(loops_of(Path::new("/nonexistent/device")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_superblock_is_told_by_its_magic() {
        let mut start = vec![0; 2048];
        assert!(!is_formatted(&start));
        start[1080] = 0x53;
        start[1081] = 0xef;
        assert!(is_formatted(&start));
        assert!(!is_formatted(&[]));
    }

    #[test]
    fn what_a_tool_said_is_kept() {
        let no = tool("losetup", [OsStr::new("--find"), OsStr::new("/nonexistent/file")]).unwrap_err();
        assert!(no.to_string().contains("/nonexistent/file"), "{no}");
    }
}
