//! Snapshots of one replica: what its image held at one moment, read-only. The moment lies between two
//! operations of the write stream, so it is what a pulled plug would leave: everything answered before is in it.
//!
//! A snapshot never costs the volume anything but time and spare room: where its disk gets short or slow, or
//! it gets old, the snapshot is given up and says so.

mod about;
mod kept;
mod mounted;
mod orders;
mod overlay;

pub use about::Way;
pub use kept::PIECE_BYTES;
pub(in crate::volume) use kept::next_data;
pub use mounted::MountedSnapshot;

use super::image::DATA_OFFSET;
use about::{ABOUT_VERSION, About, boot};
use kept::{Kept, room};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thermidor_model::replication::Op;
use thermidor_model::{ReplicaId, SnapshotName};

/// Snapshots of one replica at once.
pub const SNAPSHOTS_MAX: usize = 4;
/// A snapshot this old is given up.
pub const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is said of one whose files are empty.
const EMPTIED: &str = "its disk became short or slow";
/// Those given up are told of; so many at most, the oldest are forgotten.
const LOST_MAX: usize = 8;

/// Why something was not done with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is one of that name.
    #[error("there is a snapshot {0} already")]
    Taken(SnapshotName),
    /// There is none.
    #[error("there is no snapshot {0} here")]
    Unknown(SnapshotName),
    /// No more at once.
    #[error("there are {SNAPSHOTS_MAX} snapshots already: remove one first")]
    TooMany,
    /// The volume needs the disk.
    #[error("the disk is nearly full: what is left is for the volume itself")]
    Short,
    /// It is gone.
    #[error("the snapshot {name} was given up: {why}")]
    Lost {
        /// Which.
        name: SnapshotName,
        /// Why.
        why: String,
    },
    /// The disk refused.
    #[error("the snapshot's files in {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is told of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its name.
    pub name: SnapshotName,
    /// When it was taken, Unix ms.
    pub taken_ms: u64,
    /// How it keeps its bytes.
    pub way: Way,
    /// The volume's epoch then.
    pub epoch: u64,
    /// What it keeps beside the image, bytes; unknown, thus 0, where blocks are shared.
    pub kept_bytes: u64,
    /// For how long the volume's writes were held while it was taken, µs.
    pub held_us: u64,
    /// Where it is mounted.
    pub mounted: Option<PathBuf>,
    /// Why it was given up.
    pub lost: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The folder of a volume's snapshots.
pub fn folder(volume_dir: &Path) -> PathBuf {
    volume_dir.join("snapshots")
}

#[derive(Debug)]
enum Bytes {
    /// A reflink of the whole image.
    Shared(File),
    /// What was overwritten, and the image itself.
    Kept { kept: Kept, image: File },
    /// Given up before this process.
    Nothing,
}

/// One snapshot.
#[derive(Debug)]
pub struct Snapshot {
    dir: PathBuf,
    about: About,
    bytes: Bytes,
    lost: OnceLock<String>,
    /// Given up, and its room given back.
    tidied: AtomicBool,
}

impl Snapshot {
    fn new(dir: &Path, about: About, bytes: Bytes) -> Self {
        let tidied = AtomicBool::new(about.lost.is_some());
        let lost = about.lost.clone().map_or_else(OnceLock::new, OnceLock::from);
        Self { dir: dir.into(), about, bytes, lost, tidied }
    }

    /// Its name.
    pub fn name(&self) -> &SnapshotName {
        &self.about.name
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Size of the device, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.about.size_bytes
    }

    /// Why it was given up.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Reads the device as it was.
    pub fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(into.len() as u64) {
            Some(end) if end <= self.about.size_bytes => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the device")),
        }
        match &self.bytes {
            Bytes::Shared(file) => file.read_exact_at(into, DATA_OFFSET + offset)?,
            Bytes::Kept { kept, image } => kept.read(image, into, offset)?,
            Bytes::Nothing => {}
        }
        // After the read: had it been given up meanwhile, these could be newer bytes.
        match self.lost() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(why.to_string())),
        }
    }

    /// What is told of it; where it is mounted is known elsewhere.
    pub fn view(&self) -> SnapshotView {
        let kept_bytes = match (&self.bytes, self.lost()) {
            (Bytes::Kept { kept, .. }, None) => kept.kept_bytes(),
            _ => 0,
        };
        SnapshotView {
            name: self.about.name.clone(),
            taken_ms: self.about.taken_ms,
            way: self.about.way,
            epoch: self.about.epoch,
            kept_bytes,
            held_us: self.about.held_us,
            mounted: None,
            lost: self.lost().map(String::from),
        }
    }

    /// Gives it up: whoever reads it gets errors from now on. Quick, for the volume may be waiting; its room
    /// comes back with [`Self::tidy`].
    fn give_up(&self, why: &str) {
        if self.lost.set(why.to_string()).is_err() {
            return;
        }
        tracing::warn!(snapshot = %self.about.name, why, "the snapshot is given up");
        if let Bytes::Kept { kept, .. } = &self.bytes
            && let Err(e) = kept.void()
        {
            tracing::error!(snapshot = %self.about.name, error = %e, "a map that is no longer true stays");
        }
    }

    /// Whether there is something to be had from it, also where it was given up a moment ago.
    fn holds_room(&self) -> bool {
        !self.tidied.load(Ordering::Relaxed)
    }

    /// Gives the room of one that was given up back.
    fn empty(&self) -> io::Result<()> {
        match &self.bytes {
            Bytes::Shared(file) => file.set_len(0),
            Bytes::Kept { kept, .. } => kept.file().set_len(0),
            Bytes::Nothing => Ok(()),
        }
    }

    fn tidy(&self, why: &str) {
        if self.tidied.swap(true, Ordering::Relaxed) {
            return;
        }
        let told = About { lost: Some(why.to_string()), ..self.about.clone() };
        if let Err(e) = self.empty().and_then(|()| told.write(&self.dir)) {
            tracing::warn!(snapshot = %self.about.name, error = %e, "what is left of it can't be tidied yet");
            self.tidied.store(false, Ordering::Relaxed);
        }
    }

    /// Keeps what an operation overwrites, or gives the snapshot up.
    fn before(&self, op: &Op) {
        if let Bytes::Kept { kept, image } = &self.bytes
            && self.lost.get().is_none()
            && let Err(e) = kept.keep(image, op.offset, op.len)
        {
            self.give_up(&e.to_string());
        }
    }

    fn look_after(&self, now_ms: u64) {
        if let Some(why) = self.lost() {
            return self.tidy(why);
        }
        if now_ms.saturating_sub(self.about.taken_ms) > AGE_MAX.as_millis() as u64 {
            return self.give_up(&format!("it was older than {} hours", AGE_MAX.as_secs() / 3600));
        }
        let file = match &self.bytes {
            Bytes::Shared(file) => file,
            Bytes::Kept { kept, .. } => kept.file(),
            Bytes::Nothing => return,
        };
        match room(file) {
            Ok(0) => self.give_up("the disk became short"),
            Ok(_) => {}
            Err(e) => tracing::warn!(snapshot = %self.about.name, error = %e, "room is not known"),
        }
    }
}

/// The snapshots of one image.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Held while the image is changed: a moment lies between two operations.
    gate: Mutex<Vec<Arc<Snapshot>>>,
    known: Mutex<BTreeMap<SnapshotName, Arc<Snapshot>>>,
}

/// What a snapshot is taken of.
pub struct Origin<'a> {
    /// The volume's folder.
    pub dir: &'a Path,
    /// The image.
    pub image: &'a File,
    /// Its identity.
    pub replica: ReplicaId,
    /// Size of the device, bytes.
    pub size_bytes: u64,
    /// Its epoch.
    pub epoch: u64,
}

impl Snapshots {
    /// Carries out a change of the image: what the snapshots need of what it overwrites is kept first. Where the
    /// disk is full they make room.
    pub fn around(&self, op: &Op, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let gate = lock(&self.gate);
        for snapshot in &*gate {
            snapshot.before(op);
        }
        match change() {
            Err(e) if e.kind() == io::ErrorKind::StorageFull && gate.iter().any(|s| s.holds_room()) => {
                for snapshot in gate.iter().filter(|s| s.holds_room()) {
                    snapshot.give_up("the disk became full");
                    if let Err(e) = snapshot.empty() {
                        tracing::warn!(snapshot = %snapshot.about.name, error = %e, "its room is not given back");
                    }
                }
                change()
            }
            done => done,
        }
    }

    /// Takes up what lies on the disk; what can't be exact any more is given up.
    pub fn load(&self, of: &Origin) -> io::Result<()> {
        let folder = folder(of.dir);
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let dir = entry?.path();
            if !dir.is_dir() {
                continue;
            }
            let read = About::read(&dir);
            let unfinished = matches!(read, Ok(None));
            match read.and_then(|about| about.map(|about| take_up(&dir, about, of)).transpose()) {
                Ok(Some(snapshot)) => {
                    let snapshot = Arc::new(snapshot);
                    lock(&self.gate).push(snapshot.clone());
                    lock(&self.known).insert(snapshot.name().clone(), snapshot);
                }
                // Nothing more is kept for it, so it must never be believed again.
                other => {
                    let why = other.err().map(|e| e.to_string());
                    tracing::warn!(path = %dir.display(), unfinished, ?why, "no usable snapshot: removed");
                    About::remove(&dir)?;
                    std::fs::remove_dir_all(&dir)?;
                }
            }
        }
        Ok(())
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<Snapshot>> {
        lock(&self.known).values().cloned().collect()
    }

    /// One of them, if it can be read.
    pub fn get(&self, name: &SnapshotName) -> Result<Arc<Snapshot>, SnapshotError> {
        let found = lock(&self.known).get(name).cloned();
        let found = found.ok_or_else(|| SnapshotError::Unknown(name.clone()))?;
        match found.lost() {
            None => Ok(found),
            Some(why) => Err(SnapshotError::Lost { name: name.clone(), why: why.into() }),
        }
    }

    /// Begins a snapshot: its moment is now. It counts for nothing before it is kept with [`Self::commit`], and
    /// is to be discarded otherwise.
    pub fn begin(&self, name: &SnapshotName, of: &Origin) -> Result<Arc<Snapshot>, SnapshotError> {
        let dir = folder(of.dir).join(name.as_str());
        let io = |source| SnapshotError::Io { path: dir.clone(), source };
        {
            let known = lock(&self.known);
            match known.get(name) {
                Some(old) if old.lost().is_none() => return Err(SnapshotError::Taken(name.clone())),
                _ if known.values().filter(|s| s.lost().is_none()).count() >= SNAPSHOTS_MAX => {
                    return Err(SnapshotError::TooMany);
                }
                _ => {}
            }
        }
        let room = room(of.image).map_err(io)?;
        if room == 0 {
            return Err(SnapshotError::Short);
        }
        self.forget(name).map_err(io)?;
        // With or without a name that is known: what lies there counts for nothing.
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => std::fs::create_dir_all(&dir).map_err(io)?,
        }
        let begun = self.freeze(&dir, name, of, room / 2);
        if begun.is_err()
            && let Err(e) = std::fs::remove_dir_all(&dir)
        {
            tracing::warn!(path = %dir.display(), error = %e, "what is left of a snapshot stays");
        }
        begun.map_err(io)
    }

    fn freeze(
        &self,
        dir: &Path,
        name: &SnapshotName,
        of: &Origin,
        kept_max_bytes: u64,
    ) -> io::Result<Arc<Snapshot>> {
        // What is written back now is not waited for while the volume is held. Through a file opened for this
        // only: an error of the disk is told once to each, and the image's own must hear of it.
        if let Err(e) =
            File::open(format!("/proc/self/fd/{}", of.image.as_raw_fd())).and_then(|f| f.sync_data())
        {
            tracing::warn!(error = %e, "the image can't be written back before a snapshot");
        }
        let path = dir.join("bytes");
        let mut about = About {
            version: ABOUT_VERSION,
            name: name.clone(),
            taken_ms: now_ms(),
            way: Way::Reflink,
            boot: boot()?,
            replica: of.replica,
            size_bytes: of.size_bytes,
            epoch: of.epoch,
            kept_max_bytes,
            held_us: 0,
            lost: None,
        };
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        {
            let mut gate = lock(&self.gate);
            let held = Instant::now();
            match rustix::fs::ioctl_ficlone(&file, of.image) {
                Ok(()) => {
                    about.held_us = held.elapsed().as_micros() as u64;
                    return Ok(push(&mut gate, Snapshot::new(dir, about, Bytes::Shared(file))));
                }
                Err(e) => tracing::debug!(error = %e, "no reflink here: what is overwritten will be kept"),
            }
        }
        std::fs::remove_file(&path)?;
        about.way = Way::CopyOnWrite;
        let kept = Kept::create(&path, &dir.join("map"), of.size_bytes, kept_max_bytes)?;
        let snapshot = Snapshot::new(dir, about, Bytes::Kept { kept, image: of.image.try_clone()? });
        Ok(push(&mut lock(&self.gate), snapshot))
    }

    /// Makes a snapshot that was begun one that is known and stays.
    pub fn commit(&self, snapshot: &Arc<Snapshot>) -> Result<(), SnapshotError> {
        let io = |source| SnapshotError::Io { path: snapshot.dir.clone(), source };
        if let Bytes::Shared(file) = &snapshot.bytes {
            file.sync_all().map_err(io)?;
        }
        snapshot.about.write(&snapshot.dir).map_err(io)?;
        if let Some(why) = snapshot.lost() {
            return Err(SnapshotError::Lost { name: snapshot.name().clone(), why: why.into() });
        }
        lock(&self.known).insert(snapshot.name().clone(), snapshot.clone());
        Ok(())
    }

    /// Takes a snapshot away, known or only begun. It must not be mounted.
    pub fn discard(&self, snapshot: &Arc<Snapshot>) -> Result<(), SnapshotError> {
        let io = |source| SnapshotError::Io { path: snapshot.dir.clone(), source };
        About::remove(&snapshot.dir).map_err(io)?;
        lock(&self.gate).retain(|s| !Arc::ptr_eq(s, snapshot));
        lock(&self.known).retain(|_, s| !Arc::ptr_eq(s, snapshot));
        std::fs::remove_dir_all(&snapshot.dir).map_err(io)
    }

    /// Any of that name, given up or not.
    pub fn find(&self, name: &SnapshotName) -> Result<Arc<Snapshot>, SnapshotError> {
        lock(&self.known).get(name).cloned().ok_or_else(|| SnapshotError::Unknown(name.clone()))
    }

    /// Forgets the given up one of that name, and the oldest of too many.
    fn forget(&self, name: &SnapshotName) -> io::Result<()> {
        let mut lost: Vec<_> = self.all().into_iter().filter(|s| s.lost().is_some()).collect();
        lost.sort_by_key(|s| (s.name() == name, s.about.taken_ms));
        let over = lost.len().saturating_sub(LOST_MAX);
        for (number, snapshot) in lost.iter().enumerate() {
            if number < over || snapshot.name() == name {
                self.discard(snapshot).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Gives up what is too old, or needs room that the volume may need.
    pub fn look_after(&self) {
        let now_ms = now_ms();
        self.all().iter().for_each(|s| s.look_after(now_ms));
    }
}

fn push(gate: &mut Vec<Arc<Snapshot>>, snapshot: Snapshot) -> Arc<Snapshot> {
    let snapshot = Arc::new(snapshot);
    gate.retain(|s| s.holds_room());
    gate.push(snapshot.clone());
    snapshot
}

fn take_up(dir: &Path, about: About, of: &Origin) -> io::Result<Snapshot> {
    if dir.file_name() != Some(about.name.as_str().as_ref()) {
        return Err(io::Error::other("a snapshot's folder bears its name"));
    }
    if about.lost.is_some() {
        return Ok(Snapshot::new(dir, about, Bytes::Nothing));
    }
    let (path, size_bytes) = (dir.join("bytes"), about.size_bytes);
    let (bytes, why) = match about.way {
        Way::Reflink => {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let whole = file.metadata()?.len() >= DATA_OFFSET + size_bytes;
            (Bytes::Shared(file), (!whole).then_some(EMPTIED))
        }
        Way::CopyOnWrite => {
            let kept = Kept::open(&path, &dir.join("map"), size_bytes, about.kept_max_bytes)?;
            let why = if about.boot != boot()? {
                Some("the machine was restarted, which no copy-on-write snapshot outlives")
            } else if about.replica != of.replica || size_bytes > of.size_bytes {
                Some("the replica here is another one")
            } else {
                kept.is_none().then_some(EMPTIED)
            };
            let image = of.image.try_clone()?;
            (kept.map_or(Bytes::Nothing, |kept| Bytes::Kept { kept, image }), why)
        }
    };
    let snapshot = Snapshot::new(dir, about, bytes);
    if let Some(why) = why {
        snapshot.give_up(why);
    }
    Ok(snapshot)
}

/// Gives up whatever depends on the image, before that is made anew. No process may use them.
pub fn void(volume_dir: &Path, why: &str) -> io::Result<()> {
    each(volume_dir, |dir, about| {
        if about.way == Way::CopyOnWrite && about.lost.is_none() {
            About { lost: Some(why.into()), ..about }.write(dir)?;
            OpenOptions::new().write(true).open(dir.join("bytes"))?.set_len(0)?;
        }
        Ok(())
    })
}

/// Removes the snapshots of a replica that a person gave up.
pub fn remove_of(volume_dir: &Path, replica: ReplicaId) -> io::Result<()> {
    each(volume_dir, |dir, about| {
        if about.replica == replica {
            About::remove(dir)?;
            std::fs::remove_dir_all(dir)?;
        }
        Ok(())
    })
}

fn each(volume_dir: &Path, mut work: impl FnMut(&Path, About) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder(volume_dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let dir = entry?.path();
        match About::read(&dir) {
            Ok(Some(about)) => work(&dir, about)?,
            Ok(None) => {}
            // Whatever it was, it can't be believed any more.
            Err(e) if dir.is_dir() => {
                tracing::warn!(path = %dir.display(), error = %e, "no readable snapshot");
                About::remove(&dir)?;
            }
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
