//! A piece of the disk kept back for the home's own log. Whoever fills the disk, a volume, images or
//! somebody else, leaves it alone; when a write of ours finds no room, a little of it is given up and
//! the write is made again. So a full disk silences no radiator: it can still vote and say what is wrong.

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What is kept back, bytes: some ten thousand entries and their snapshots.
pub const RESERVE_BYTES: u64 = 32 << 20;

/// What is given up at a time, bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// The file's name in the data directory.
const NAME: &str = "reserve";

/// The reserve. Clones share it.
#[derive(Debug, Clone)]
pub struct Reserve(Arc<Mutex<File>>);

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Reserve {
    /// Opens the reserve of a data directory, and fills it if there is room. That there is none is no
    /// error: then `missing_bytes` tells.
    pub fn open(data: &Path) -> io::Result<Self> {
        let path = data.join(NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let reserve = Self(Arc::new(Mutex::new(file)));
        match reserve.refill() {
            Err(e) if !is_full(&e) => Err(e),
            _ => Ok(reserve),
        }
    }

    /// How much of it is given up, bytes.
    pub fn missing_bytes(&self) -> io::Result<u64> {
        Ok(RESERVE_BYTES.saturating_sub(self.file().metadata()?.len()))
    }

    /// Takes back what was given up; an error of kind `StorageFull` if the disk has no room for it.
    pub fn refill(&self) -> io::Result<()> {
        let file = self.file();
        let found = file.metadata()?;
        if found.len() == RESERVE_BYTES && found.blocks() * 512 >= RESERVE_BYTES {
            return Ok(());
        }
        let kept = found.len().min(RESERVE_BYTES);
        let filled = fallocate(&*file, FallocateFlags::empty(), 0, RESERVE_BYTES).map_err(io::Error::from);
        if filled.is_err() {
            // Half of it allocated would be counted as kept back.
            file.set_len(kept)?;
        }
        filled
    }

    /// Writes, giving up as much of the reserve as the write needs.
    pub(crate) fn spend<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match write() {
                Err(e) if is_full(&e) => {
                    if !self.give_up()? {
                        return Err(e);
                    }
                }
                done => return done,
            }
        }
    }

    /// Gives up a piece; false: there is none left.
    fn give_up(&self) -> io::Result<bool> {
        let file = self.file();
        let left = file.metadata()?.len();
        if left > 0 {
            tracing::warn!(left, "the disk is full: the log takes from its reserve");
            file.set_len(left.saturating_sub(PIECE_BYTES))?;
        }
        Ok(left > 0)
    }

    fn file(&self) -> std::sync::MutexGuard<'_, File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// redb's file, whose writes may spend the reserve.
#[derive(Debug)]
pub(crate) struct Backend {
    file: FileBackend,
    reserve: Reserve,
}

impl Backend {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path, reserve: Reserve) -> Result<Self, redb::DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file: FileBackend::new(file)?, reserve })
    }
}

type Range = Bound<u64>;

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.reserve.spend(|| self.file.set_len(len))
    }

    /// Not made again when it fails: what the kernel could not write it may have forgotten.
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.reserve.spend(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_what_it_needs_and_the_reserve_is_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        assert_eq!(reserve.missing_bytes().unwrap(), 0);
        let mut refused = 2;
        let written = reserve.spend(|| {
            refused -= 1;
            if refused >= 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(7) }
        });
        assert_eq!(written.unwrap(), 7);
        assert_eq!(reserve.missing_bytes().unwrap(), 2 * PIECE_BYTES);
        assert_eq!(
            Reserve::open(dir.path()).unwrap().missing_bytes().unwrap(),
            0,
            "filled at the next start"
        );
        assert_eq!(reserve.missing_bytes().unwrap(), 0, "it is one file");
    }

    #[test]
    fn only_a_full_disk_spends_it_and_once_it_is_spent_the_error_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        let other = reserve.spend(|| Err::<(), _>(io::ErrorKind::PermissionDenied.into())).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(reserve.missing_bytes().unwrap(), 0);
        let full = reserve.spend(|| Err::<(), _>(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(reserve.missing_bytes().unwrap(), RESERVE_BYTES);
        reserve.refill().unwrap();
        assert_eq!(reserve.missing_bytes().unwrap(), 0);
    }
}
