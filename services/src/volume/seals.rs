//! Seals: the hash of each extent as all replicas last held it alike. A seal is broken, durably, before the first
//! write to its extent; so bytes that do not match their seal changed by themselves.
//!
//! They lie beside the image, 32 bytes an extent in a sparse file: 24 bytes of BLAKE3, and 8 that bind them to the
//! replica, the extent and its length. Whatever else is found there is no seal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thermidor_model::ReplicaId;
use thermidor_model::replication::scrub::Seal;

const SEAL_BYTES: usize = 32;
const HASH_BYTES: usize = 24;
const NONE: [u8; SEAL_BYTES] = [0; SEAL_BYTES];

/// The seals of one image.
#[derive(Debug)]
pub struct Seals {
    path: PathBuf,
    replica: ReplicaId,
    /// `None`: there is none yet.
    file: Mutex<Option<File>>,
}

impl Seals {
    /// Those beside an image. A file that cannot be opened is an error: writes would pass its seals by.
    pub fn beside(image: &Path, replica: ReplicaId) -> io::Result<Self> {
        let path = image.with_file_name("seals");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(Self { path, replica, file: Mutex::new(file) })
    }

    fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal(&self, extent: u64, len: u64, hash: &[u8; 32]) -> [u8; SEAL_BYTES] {
        let mut seal = NONE;
        seal[..HASH_BYTES].copy_from_slice(&hash[..HASH_BYTES]);
        let mut bound = blake3::Hasher::new();
        for number in [self.replica.0, extent, len] {
            bound.update(&number.to_le_bytes());
        }
        bound.update(&seal[..HASH_BYTES]);
        seal[HASH_BYTES..].copy_from_slice(&bound.finalize().as_bytes()[..SEAL_BYTES - HASH_BYTES]);
        seal
    }

    fn read(file: &File, extent: u64) -> io::Result<[u8; SEAL_BYTES]> {
        let mut seal = NONE;
        match file.read_exact_at(&mut seal, extent * SEAL_BYTES as u64) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(NONE),
            read => read.map(|()| seal),
        }
    }

    /// What the seal says of an extent that has this hash now.
    pub fn of(&self, extent: u64, len: u64, hash: &[u8; 32]) -> io::Result<Seal> {
        let found = match &*self.file() {
            Some(file) => Self::read(file, extent)?,
            None => NONE,
        };
        let mut sealed = [0; 32];
        sealed[..HASH_BYTES].copy_from_slice(&found[..HASH_BYTES]);
        Ok(if found == NONE || self.seal(extent, len, &sealed) != found {
            Seal::Absent
        } else if sealed[..HASH_BYTES] == hash[..HASH_BYTES] {
            Seal::Whole
        } else {
            Seal::Broken
        })
    }

    /// Seals an extent; the disk comes to it whenever it does.
    pub fn put(&self, extent: u64, len: u64, hash: &[u8; 32]) -> io::Result<()> {
        let seal = self.seal(extent, len, hash);
        let mut file = self.file();
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&self.path)?,
            ),
        };
        if Self::read(file, extent)? != seal {
            file.write_all_at(&seal, extent * SEAL_BYTES as u64)?;
        }
        Ok(())
    }

    /// Breaks the seals of these extents; durable when done. Costs nothing where there are none.
    pub fn tear(&self, extents: &[u64]) -> io::Result<()> {
        let file = self.file();
        let Some(file) = &*file else { return Ok(()) };
        let mut torn = false;
        for extent in extents {
            if Self::read(file, *extent)? != NONE {
                file.write_all_at(&NONE, extent * SEAL_BYTES as u64)?;
                torn = true;
            }
        }
        if torn { file.sync_data() } else { Ok(()) }
    }

    /// Breaks those from an extent on; durable when done.
    pub fn cut(&self, extents: u64) -> io::Result<()> {
        let file = self.file();
        let Some(file) = &*file else { return Ok(()) };
        let end = extents * SEAL_BYTES as u64;
        if file.metadata()?.len() <= end {
            return Ok(());
        }
        file.set_len(end)?;
        file.sync_all()
    }

    /// Breaks them all; durable when done.
    pub fn tear_all(&self) -> io::Result<()> {
        self.cut(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    #[test]
    fn a_seal_tells_what_changed_until_it_is_torn_and_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let seals = Seals::beside(&image, ReplicaId(1)).unwrap();
        let (a, b) = ([1; 32], [2; 32]);
        assert_eq!(seals.of(9, LEN, &a).unwrap(), Seal::Absent);
        seals.tear(&[9]).unwrap();
        seals.tear_all().unwrap();
        assert!(!dir.path().join("seals").exists(), "no file for nothing");
        seals.put(9, LEN, &a).unwrap();
        let seals = Seals::beside(&image, ReplicaId(1)).unwrap();
        assert_eq!(
            (seals.of(9, LEN, &a).unwrap(), seals.of(9, LEN, &b).unwrap()),
            (Seal::Whole, Seal::Broken)
        );
        assert_eq!(seals.of(9, LEN - 1, &b).unwrap(), Seal::Absent, "of another length");
        seals.put(10, LEN, &a).unwrap();
        seals.tear(&[8, 9]).unwrap();
        assert_eq!(
            (seals.of(9, LEN, &b).unwrap(), seals.of(10, LEN, &a).unwrap()),
            (Seal::Absent, Seal::Whole)
        );
        seals.put(3, LEN, &a).unwrap();
        seals.cut(10).unwrap();
        assert_eq!(
            (seals.of(3, LEN, &a).unwrap(), seals.of(10, LEN, &b).unwrap()),
            (Seal::Whole, Seal::Absent)
        );
        seals.tear_all().unwrap();
        assert_eq!(seals.of(3, LEN, &b).unwrap(), Seal::Absent);
    }

    #[test]
    fn a_seal_of_another_replica_or_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        Seals::beside(&image, ReplicaId(1)).unwrap().put(3, LEN, &[1; 32]).unwrap();
        let other = Seals::beside(&image, ReplicaId(2)).unwrap();
        assert_eq!(other.of(3, LEN, &[2; 32]).unwrap(), Seal::Absent);
        let file = OpenOptions::new().write(true).open(dir.path().join("seals")).unwrap();
        file.write_all_at(&[7], 3 * SEAL_BYTES as u64 + 5).unwrap();
        let ours = Seals::beside(&image, ReplicaId(1)).unwrap();
        assert_eq!(ours.of(3, LEN, &[2; 32]).unwrap(), Seal::Absent);
    }
}
