//! What lies on the disk beside a snapshot's bytes: whose it is, since when, and of which kind. The file is
//! written last: a folder without it is what a crash left of a snapshot that nobody was told of.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use thermidor_model::{ReplicaId, SnapshotName};

/// Version of [`About`].
pub const ABOUT_VERSION: u32 = 1;
const FILE: &str = "about";

/// How a snapshot keeps its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The file system shares the image's blocks (reflink). It outlives a restart of the machine.
    Reflink,
    /// What is overwritten is kept beside. It outlives the volume process, not the machine.
    CopyOnWrite,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Way::Reflink => "reflink",
            Way::CopyOnWrite => "copy-on-write",
        })
    }
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// [`ABOUT_VERSION`] of its writer.
    pub version: u32,
    /// Its name.
    pub name: SnapshotName,
    /// When it was taken, Unix ms.
    pub taken_ms: u64,
    /// How it keeps its bytes.
    pub way: Way,
    /// The machine's boot in which it was taken.
    pub boot: String,
    /// The replica it was taken of.
    pub replica: ReplicaId,
    /// Size of the device, bytes.
    pub size_bytes: u64,
    /// The image's epoch then.
    pub epoch: u64,
    /// What it may keep at most, bytes.
    pub kept_max_bytes: u64,
    /// For how long the volume's writes were held while it was taken, µs.
    pub held_us: u64,
    /// Why it was given up.
    pub lost: Option<String>,
}

impl About {
    /// Reads it; `None`: there is none.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let about: Self = serde_json::from_slice(&text)?;
        if about.version > ABOUT_VERSION {
            return Err(io::Error::other(format!("version {} is newer than this program", about.version)));
        }
        Ok(Some(about))
    }

    /// Writes it whole, durably.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let made = dir.join("about.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&made)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&made, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }

    /// Takes it away, so that whatever is left of the folder counts for nothing.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(dir.join(FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// The machine's present boot: another one after every restart.
pub fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}
