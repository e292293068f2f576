//! Volumes that are folders: on one radiator only (`replication: none`), or in a file system that all radiators
//! have mounted by themselves (`driver: shared`: CephFS, GlusterFS, NFS). Nothing is replicated here; that the
//! service runs in one place only is up to its lease, and what is fenced is its container.
//!
//! What may hang (a server that is gone) is done by child processes, which are waited for so long and no longer.

mod child;

use crate::volume::mounts;
use child::Shell;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use thermidor_model::VolumeName;
use thermidor_model::name::HomeName;
use thermidor_model::spec::VolumeDriver;

/// Version of the two records.
const RECORD_VERSION: u32 = 1;

/// File systems that are on one machine's disks or in its memory.
const OWN: [&str; 17] = [
    "bcachefs", "btrfs", "devtmpfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay",
    "ramfs", "reiserfs", "tmpfs", "vfat", "xfs", "zfs",
];

/// Why something was not done with a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A disk of this radiator's own.
    #[error("{path} lies on {kind}, which only this radiator has: mount the shared file system here")]
    NotShared {
        /// The folder.
        path: PathBuf,
        /// Kind of file system.
        kind: String,
    },
    /// The record beside it is missing: an unmounted, or another, file system.
    #[error(
        "{marker} is missing, so this is not the file system that the volume was made on: mount that one"
    )]
    Unmarked {
        /// The record.
        marker: PathBuf,
    },
    /// It is another volume's.
    #[error("{path} belongs to the volume {volume} of the home {home}: choose another folder")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose.
        home: String,
        /// Which.
        volume: String,
    },
    /// It was attached in this epoch, or a later one, before.
    #[error("epoch {epoch} is over here: the last was {last}")]
    Spent {
        /// Asked for.
        epoch: u64,
        /// Seen.
        last: u64,
    },
    /// It took too long.
    #[error("{what} takes longer than {limit_s} s: the file system hangs, or its server is gone")]
    Hangs {
        /// What.
        what: String,
        /// How long was waited.
        limit_s: u64,
    },
    /// A command failed.
    #[error("{what}: {said}")]
    Failed {
        /// What.
        what: String,
        /// What it said.
        said: String,
    },
    /// A record of ours can't be read or written.
    #[error("{path}")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Lies beside a shared folder and says whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    home: String,
    volume: String,
}

/// The last epoch in which it was attached here.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Attached {
    version: u32,
    epoch: u64,
}

/// What a look at a folder found.
#[derive(Debug)]
pub struct Found {
    /// Whether it is mounted where the service's container finds it.
    pub mounted: bool,
    /// The last epoch in which it was attached here; 0: never.
    pub epoch: u64,
    /// Whether it can be served from here.
    pub usable: Result<(), FolderError>,
}

/// A volume that is a folder, on this radiator.
#[derive(Debug, Clone)]
pub struct Folder {
    dir: PathBuf,
    home: HomeName,
    volume: VolumeName,
    /// Where on the shared file system; otherwise it is the radiator's own.
    shared: Option<PathBuf>,
    shell: Shell,
}

impl Folder {
    /// Of a volume whose driver is a folder; `dir` is what this radiator keeps of the volume.
    pub fn new(dir: PathBuf, home: HomeName, volume: VolumeName, driver: &VolumeDriver) -> Self {
        let shared = match driver {
            VolumeDriver::Shared { path } => Some(PathBuf::from(path)),
            VolumeDriver::Local | VolumeDriver::Replicated => None,
        };
        Self { dir, home, volume, shared, shell: Shell::default() }
    }

    /// Where the data lies.
    pub fn path(&self) -> PathBuf {
        self.shared.clone().unwrap_or_else(|| self.dir.join("folder"))
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Beside the folder, so that an image which wants its volume empty finds it so.
    fn marker(&self) -> PathBuf {
        match &self.shared {
            Some(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                path.with_file_name(format!(".{name}.thermidor"))
            }
            None => self.dir.join("folder.json"),
        }
    }

    fn attached(&self) -> PathBuf {
        self.dir.join("attached.json")
    }

    fn last_epoch(&self) -> Result<u64, FolderError> {
        let path = self.attached();
        let failed = |source| FolderError::Record { path: path.clone(), source };
        match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(failed(e)),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(|a: Attached| a.epoch).map_err(|e| failed(e.into()))
            }
        }
    }

    /// What is here. `new`: the home has never had it attached anywhere, so it may be made.
    pub async fn look(&self, new: bool) -> Result<Found, FolderError> {
        let point = self.mountpoint();
        let mounted =
            mounts::on(&point).map_err(|source| FolderError::Record { path: point, source })?.is_some();
        let usable = match self.known().await {
            Err(FolderError::Unmarked { .. }) if new => self.make().await,
            known => known,
        };
        Ok(Found { mounted, epoch: self.last_epoch()?, usable })
    }

    /// Whether the folder is there and this volume's.
    async fn known(&self) -> Result<(), FolderError> {
        let (path, marker) = (self.path(), self.marker());
        if self.shared.is_some()
            && let Some(kind) = own_file_system(&path)?
        {
            return Err(FolderError::NotShared { path, kind });
        }
        let said = if self.shared.is_some() {
            // Both, for a marker may be cached where nothing else can be had.
            let script = r#"[ -e "$1" ] || exit 3; cat -- "$1" && [ -d "$2" ] && ls -- "$2" >/dev/null"#;
            match self.shell.run("looking at the folder", script, &[&marker, &path]).await {
                Err(child::Ended::With(3, _)) => return Err(FolderError::Unmarked { marker }),
                told => told?,
            }
        } else {
            let there = std::fs::read_dir(&path).and_then(|_| std::fs::read(&marker));
            match there {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(FolderError::Unmarked { marker });
                }
                told => told.map_err(|source| FolderError::Record { path: path.clone(), source })?,
            }
        };
        let found: Marker = serde_json::from_slice(&said)
            .map_err(|e| FolderError::Record { path: marker, source: e.into() })?;
        if (found.home.as_str(), found.volume.as_str()) != (self.home.as_str(), self.volume.as_str()) {
            return Err(FolderError::Foreign { path, home: found.home, volume: found.volume });
        }
        Ok(())
    }

    /// Makes it, or takes a folder that is there as it is.
    async fn make(&self) -> Result<(), FolderError> {
        let (path, marker) = (self.path(), self.marker());
        let text = serde_json::to_string(&Marker {
            version: RECORD_VERSION,
            home: self.home.to_string(),
            volume: self.volume.to_string(),
        })
        .map_err(|e| FolderError::Record { path: marker.clone(), source: e.into() })?;
        // Several radiators may do this at once: each writes the same.
        let script =
            r#"mkdir -p -- "$1" && printf %s "$3" >"$2.$$" && sync -- "$2.$$" && mv -- "$2.$$" "$2""#;
        self.shell.run("making the folder", script, &[&path, &marker, Path::new(&text)]).await?;
        tracing::info!(volume = %self.volume, path = %path.display(), "its folder is this one");
        self.known().await
    }

    /// Has the service's container find it, in an epoch once.
    pub async fn attach(&self, epoch: u64) -> Result<(), FolderError> {
        self.known().await?;
        let last = self.last_epoch()?;
        if last >= epoch {
            return Err(FolderError::Spent { epoch, last });
        }
        let (path, at) = (self.attached(), self.mountpoint());
        let failed = |source| FolderError::Record { path: path.clone(), source };
        let record = Attached { version: RECORD_VERSION, epoch };
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        serde_json::to_writer(&mut file, &record).map_err(|e| failed(e.into()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        let script = r#"mkdir -p -- "$2" && mount --bind -- "$1" "$2""#;
        self.shell.run("mounting the folder", script, &[&self.path(), &at]).await?;
        Ok(())
    }

    /// Takes it away again. What hangs, or is still in use though it may not be (`force`), is taken off lazily.
    pub async fn detach(&self, force: bool) -> Result<(), FolderError> {
        let at = self.mountpoint();
        let on = || mounts::on(&at).map_err(|source| FolderError::Record { path: at.clone(), source });
        while on()?.is_some() {
            let script = if force { r#"umount -l -- "$1""# } else { r#"sync -f -- "$1" && umount -- "$1""# };
            self.shell.run("unmounting the folder", script, &[&at]).await?;
        }
        Ok(())
    }

    /// Removes what a person gave up. What is shared stays, without our record of it: others may use it.
    pub async fn remove(&self) -> Result<(), FolderError> {
        self.detach(false).await?;
        let script =
            if self.shared.is_some() { r#"rm -f -- "$1""# } else { r#"rm -f -- "$1" && rm -rf -- "$2""# };
        self.shell.run("removing the folder", script, &[&self.marker(), &self.path()]).await?;
        match std::fs::remove_file(self.attached()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(FolderError::Record { path: self.attached(), source: e })
            }
            _ => Ok(()),
        }
    }
}

/// The kind of file system that a path lies on, if no other radiator can have it.
fn own_file_system(path: &Path) -> Result<Option<String>, FolderError> {
    let over = mounts::over(path).map_err(|source| FolderError::Record { path: path.into(), source })?;
    Ok(match over {
        None => Some("nothing that is mounted".into()),
        Some(m) => OWN.contains(&m.kind.as_str()).then_some(m.kind),
    })
}

#[cfg(test)]
mod tests;
