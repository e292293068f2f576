//! restic, as a child process: Debian's 0.14 and newer. It reads what lies in a folder, encrypts it and sends it to a
//! friend's vault; here it is told what to do, watched, and understood.

mod cache;
mod child;
mod keys;
mod lines;
mod overlay;
mod prune;
mod pulse;
mod repository;
mod said;
mod trouble;
mod watched;

pub use keys::Key;
pub use overlay::Watch;
pub use prune::{Forget, Keep};
pub use pulse::Patience;
pub use repository::{Repository, Secret};
pub use said::{Backup, Measured, Progress, Snapshot, SnapshotId};
pub use trouble::ResticError;

use child::{Ended, Heard, Orders};
use said::Line;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::name::HomeName;
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;

/// The oldest that is supported: Debian 12 has it.
const OLDEST: (u32, u32) = (0, 14);
/// Exit code of a backup that was made without some of the files.
const INCOMPLETE: i32 = 3;
/// Of what only reads.
const NO_LOCK: &str = "--no-lock";

/// How restic is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program, by name or path.
    pub program: PathBuf,
    /// A folder that nobody else uses, for its cache and its temporary files.
    pub cache: PathBuf,
    /// What may stay in the cache between two runs, in bytes.
    pub cache_max: u64,
    /// When it is ended.
    pub patience: Patience,
    /// What it sends at most, in KiB a second; `None` is without limit.
    pub up_kib: Option<u32>,
}

impl Settings {
    /// The installed restic, 1 GiB of cache, no limit.
    pub fn new(cache: PathBuf) -> Self {
        let program = PathBuf::from("restic");
        Self { program, cache, cache_max: 1 << 30, patience: Patience::default(), up_kib: None }
    }
}

/// What is backed up.
#[derive(Debug, Clone)]
pub struct Source {
    /// A folder that does not change meanwhile. What is in it lies at the root of the snapshot.
    pub dir: PathBuf,
    /// The home, whichever radiator does the work.
    pub home: HomeName,
    /// What it is: the service's name.
    pub tag: String,
    /// The snapshot before, if it was of another folder: unchanged files are not read again.
    pub parent: Option<SnapshotId>,
}

/// What is restored.
#[derive(Debug, Clone)]
pub struct Restore {
    /// From which snapshot.
    pub snapshot: SnapshotId,
    /// Into which folder; what is in it under the same names is replaced.
    pub target: PathBuf,
    /// Only this file or folder, as a path from the snapshot's root. `None` is everything.
    pub only: Option<String>,
    /// Whether what was written is read and compared.
    pub verify: bool,
}

/// The installed restic.
#[derive(Debug)]
pub struct Restic {
    settings: Settings,
    version: (u32, u32),
    /// Held to read by each run, to write while the cache is trimmed.
    cache: RwLock<()>,
}

impl Restic {
    /// Looks for restic and its version.
    pub async fn find(settings: Settings) -> Result<Self, ResticError> {
        let broken = |e| ResticError::Io(settings.program.clone(), e);
        let mut command = child::quiet(&settings.program);
        let patience = Duration::from_secs(30);
        let done = timeout(patience, command.arg("version").output()).await;
        let done = done.map_err(|_| ResticError::Stuck(patience))?.map_err(broken)?;
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let version = match said::version(&said) {
            Some(version) if done.status.success() => version,
            _ if done.status.success() => {
                return Err(ResticError::Unreadable(said.chars().take(100).collect()));
            }
            _ => return Err(ResticError::NotInstalled),
        };
        if version < OLDEST {
            return Err(ResticError::TooOld(format!("{}.{}", version.0, version.1)));
        }
        Ok(Self { settings, version, cache: RwLock::new(()) })
    }

    /// Its version: 0.14 is `(0, 14)`.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Makes a repository.
    pub async fn init(&self, repository: &Repository) -> Result<(), ResticError> {
        let arguments = ["init", "--repository-version", "2"].map(OsString::from).to_vec();
        self.run(repository, arguments, None, |_| Heard::Kept).await?.good(repository).map(drop)
    }

    /// Backs a folder up. `progress` is told how far it has come.
    pub async fn backup(
        &self,
        repository: &Repository,
        source: &Source,
        progress: &watch::Sender<Progress>,
    ) -> Result<Backup, ResticError> {
        let mut arguments = ["backup", "--json", "--host", source.home.as_str()].map(OsString::from).to_vec();
        arguments.push(format!("--tag={}", source.tag).into());
        if let Some(kib) = self.settings.up_kib {
            arguments.push(format!("--limit-upload={kib}").into());
        }
        if let Some(parent) = &source.parent {
            arguments.push(format!("--parent={parent}").into());
        }
        arguments.extend(crate::restore::OURS.map(|name| format!("--exclude={name}").into()));
        arguments.push(".".into());
        let (mut made, mut unread, mut first, mut last) = (None, 0, None, Progress::default());
        let hear = |text: &str| match said::line(text) {
            None => Heard::Kept,
            Some(Line::Progress(now)) => {
                let is_more = now.bytes_done > last.bytes_done || now.files_done > last.files_done;
                let is_more = is_more || now.total_bytes > last.total_bytes;
                last = now;
                progress.send_replace(now);
                if is_more { Heard::Progress } else { Heard::Taken }
            }
            Some(Line::Made(backup)) => {
                made = Some(backup);
                Heard::Progress
            }
            Some(Line::Unread(what)) => {
                unread += 1;
                first.get_or_insert(what);
                Heard::Taken
            }
        };
        let ended = self.run(repository, arguments, Some(&source.dir), hear).await?;
        match (ended.status.code(), made) {
            (Some(0), Some(made)) if unread == 0 => Ok(made),
            (Some(0 | INCOMPLETE), Some(made)) => Err(ResticError::Incomplete {
                snapshot: made.snapshot.to_string(),
                count: unread.max(1),
                first: first.unwrap_or_else(|| trouble::brief(&ended.words, repository)),
            }),
            (Some(0), None) => Err(ResticError::Unreadable("it made no snapshot".into())),
            _ => Err(ended.error(repository)),
        }
    }

    /// Checks the whole structure, and reads at random back as much as `read_mib` MiB.
    pub async fn check(&self, repository: &Repository, read_mib: u32) -> Result<(), ResticError> {
        let mut arguments = vec![OsString::from("check")];
        if read_mib > 0 {
            arguments.push(format!("--read-data-subset={read_mib}M").into());
        }
        self.run(repository, arguments, None, |_| Heard::Kept).await?.good(repository).map(drop)
    }

    /// Which snapshots there are, the oldest first. Like all that only reads it takes no lock: a vault whose disk is full
    /// has no room for one, and deletes nothing before the agreed time.
    pub async fn snapshots(&self, repository: &Repository) -> Result<Vec<Snapshot>, ResticError> {
        let arguments = ["snapshots", "--json", NO_LOCK].map(OsString::from).to_vec();
        let ended = self.run(repository, arguments, None, |_| Heard::Kept).await?;
        said::snapshots(&ended.good(repository)?)
    }

    /// What a snapshot holds, or what one file or folder of it does, a path from its root.
    pub async fn measure(
        &self,
        repository: &Repository,
        snapshot: &SnapshotId,
        only: Option<&str>,
    ) -> Result<Measured, ResticError> {
        let mut arguments = ["ls", "--json", NO_LOCK, snapshot.as_str()].map(OsString::from).to_vec();
        if let Some(only) = only {
            arguments.push("--recursive".into());
            arguments.push(format!("/{}", only.trim_matches('/')).into());
        }
        let mut all = Measured::default();
        let hear = |text: &str| match said::listed(text) {
            None => Heard::Kept,
            Some(one) => {
                all.files += one.files;
                all.bytes += one.bytes;
                Heard::Progress
            }
        };
        self.run(repository, arguments, None, hear).await?.good(repository)?;
        Ok(all)
    }

    /// Restores from a snapshot. Owners and rights are restored as far as this process may.
    pub async fn restore(&self, repository: &Repository, restore: &Restore) -> Result<(), ResticError> {
        let mut arguments =
            ["restore", NO_LOCK, restore.snapshot.as_str(), "--target"].map(OsString::from).to_vec();
        arguments.push(restore.target.clone().into());
        if let Some(only) = &restore.only {
            arguments.push(format!("--include=/{}", literally(only.trim_start_matches('/'))).into());
        }
        if restore.verify {
            arguments.push("--verify".into());
        }
        self.run(repository, arguments, None, |_| Heard::Kept).await?.good(repository).map(drop)
    }

    /// Removes locks whose owner is dead, or silent for half an hour.
    pub async fn unlock(&self, repository: &Repository) -> Result<(), ResticError> {
        let ended = self.run(repository, vec!["unlock".into()], None, |_| Heard::Kept).await?;
        ended.good(repository).map(drop)
    }

    async fn run(
        &self,
        repository: &Repository,
        arguments: Vec<OsString>,
        dir: Option<&Path>,
        hear: impl FnMut(&str) -> Heard,
    ) -> Result<Ended, ResticError> {
        self.trim().await?;
        let _in_use = self.cache.read().await;
        let Settings { program, cache, patience, .. } = &self.settings;
        let orders = Orders { program, arguments, dir, cache, patience: *patience, input: None };
        child::run(orders, repository, hear).await
    }

    /// Keeps the cache within its bounds, unless it is in use.
    async fn trim(&self) -> Result<(), ResticError> {
        let Ok(_alone) = self.cache.try_write() else { return Ok(()) };
        let (dir, max) = (self.settings.cache.clone(), self.settings.cache_max);
        let broken = |e| ResticError::Io(self.settings.cache.clone(), e);
        let trimmed = tokio::task::spawn_blocking(move || cache::trim(&dir, max)).await;
        trimmed.map_err(|e| broken(std::io::Error::other(e)))?.map_err(broken).map(drop)
    }
}

/// A path as a pattern that means this path only.
fn literally(path: &str) -> String {
    let one = |c: char| if matches!(c, '*' | '?' | '[' | '\\') { format!("\\{c}") } else { c.to_string() };
    path.chars().map(one).collect()
}
