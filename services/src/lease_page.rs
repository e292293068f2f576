//! The page on which the guard writes until when this radiator may serve what.
//! Volume processes and the ingress read it on every operation, so that a frozen
//! or dead guard cannot leave a stale service behind.
//!
//! It is a file of fixed slots on a memory file system. A slot is read with one `pread`
//! and carries a checksum: a torn read is seen and repeated, with no shared memory mapped
//! and no unsafe code.

use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

const SLOT: usize = 80;
const NAME: usize = 48;
const SLOTS: usize = 64;
/// How often a torn slot is read again before it counts as no lease.
const TRIES: usize = 5;

/// The slot of the floating address.
pub const ADDRESS: &str = "@address";

/// CLOCK_BOOTTIME, ns: goes on while the machine sleeps, is not set by anyone.
pub fn boottime_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// A right to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// In which epoch.
    pub epoch: u64,
    /// Until when, CLOCK_BOOTTIME ns.
    pub until_ns: u64,
}

/// The page. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeasePage(Arc<File>);

impl LeasePage {
    /// Opens the page for writing, emptied: a new guard holds nothing. For the guard alone.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(&[0; SLOT * SLOTS], 0)?;
        Ok(Self(Arc::new(file)))
    }

    /// Opens the page for writing as an earlier guard of this radiator left it, and lists what it
    /// says (`until_ns` 0: ended). A missing, short or torn page is emptied. For the guard alone.
    pub fn resume(path: &Path) -> io::Result<(Self, Vec<(String, Held)>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let whole = file.metadata()?.len() == (SLOT * SLOTS) as u64;
        let page = Self(Arc::new(file));
        let slots = (0..SLOTS).map(|slot| page.read(slot)).collect::<io::Result<Vec<_>>>();
        match slots {
            Ok(slots) if whole => Ok((page, slots.into_iter().flatten().collect())),
            _ => Ok((Self::create(path)?, Vec::new())),
        }
    }

    /// Opens the page for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(File::open(path)?)))
    }

    /// Writes a lease, or with `until_ns` 0 ends it.
    pub fn set(&self, name: &str, held: Held) -> io::Result<()> {
        let mut free = None;
        for slot in 0..SLOTS {
            match self.read(slot)? {
                Some((known, _)) if known == name => return self.write(slot, name, held),
                None if free.is_none() => free = Some(slot),
                _ => {}
            }
        }
        match free {
            Some(slot) => self.write(slot, name, held),
            None => Err(io::Error::other(format!("no free lease slot of {SLOTS} for {name}"))),
        }
    }

    /// What is held under a name at the moment `now_ns`; `None`: nothing (any more).
    pub fn held(&self, name: &str, now_ns: u64) -> Option<Held> {
        (0..SLOTS)
            .map_while(|slot| self.read(slot).ok().flatten())
            .find(|(known, _)| known == name)
            .map(|(_, held)| held)
            .filter(|held| held.until_ns > now_ns)
    }

    /// Whether the lease of that very epoch is held now.
    pub fn holds(&self, name: &str, epoch: u64) -> bool {
        self.held(name, boottime_ns()).is_some_and(|held| held.epoch == epoch)
    }

    fn write(&self, slot: usize, name: &str, held: Held) -> io::Result<()> {
        let mut bytes = [0; SLOT];
        let name = name.as_bytes();
        if name.len() > NAME {
            return Err(io::Error::other("a lease's name is too long"));
        }
        bytes[..name.len()].copy_from_slice(name);
        bytes[NAME..NAME + 8].copy_from_slice(&held.epoch.to_le_bytes());
        bytes[NAME + 8..NAME + 16].copy_from_slice(&held.until_ns.to_le_bytes());
        let sum = blake3::hash(&bytes[..NAME + 16]);
        bytes[NAME + 16..].copy_from_slice(&sum.as_bytes()[..SLOT - NAME - 16]);
        self.0.write_all_at(&bytes, (slot * SLOT) as u64)
    }

    fn read(&self, slot: usize) -> io::Result<Option<(String, Held)>> {
        let mut bytes = [0; SLOT];
        for _ in 0..TRIES {
            self.0.read_exact_at(&mut bytes, (slot * SLOT) as u64)?;
            if bytes == [0; SLOT] {
                return Ok(None);
            }
            let sum = blake3::hash(&bytes[..NAME + 16]);
            if bytes[NAME + 16..] == sum.as_bytes()[..SLOT - NAME - 16] {
                let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
                let end = bytes[..NAME].iter().position(|b| *b == 0).unwrap_or(NAME);
                let name = String::from_utf8_lossy(&bytes[..end]).into_owned();
                return Ok(Some((name, Held { epoch: number(NAME), until_ns: number(NAME + 8) })));
            }
        }
        Err(io::Error::other("a lease slot stays torn"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_lease_until_it_ends_and_only_in_its_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let guard = LeasePage::create(&path).unwrap();
        let reader = LeasePage::open(&path).unwrap();
        assert_eq!(reader.held("mail", 0), None);
        guard.set("mail", Held { epoch: 3, until_ns: 100 }).unwrap();
        guard.set("notes", Held { epoch: 1, until_ns: 200 }).unwrap();
        assert_eq!(reader.held("mail", 99), Some(Held { epoch: 3, until_ns: 100 }));
        assert_eq!(reader.held("mail", 100), None);
        guard.set("mail", Held { epoch: 4, until_ns: u64::MAX }).unwrap();
        assert!(reader.holds("mail", 4) && !reader.holds("mail", 3));
        guard.set("mail", Held { epoch: 4, until_ns: 0 }).unwrap();
        assert!(!reader.holds("mail", 4));
        LeasePage::create(&path).unwrap();
        assert_eq!(reader.held("notes", 0), None, "a new guard holds nothing");
    }

    #[test]
    fn a_page_is_resumed_as_it_was_left_and_a_torn_one_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (guard, none) = LeasePage::resume(&path).unwrap();
        assert_eq!(none, []);
        let (ended, held) = (Held { epoch: 2, until_ns: 0 }, Held { epoch: 3, until_ns: u64::MAX });
        guard.set("notes", ended).unwrap();
        guard.set("mail", held).unwrap();
        let (again, left) = LeasePage::resume(&path).unwrap();
        assert_eq!(left, [("notes".to_string(), ended), ("mail".to_string(), held)]);
        assert!(again.holds("mail", 3));
        again.0.write_all_at(&[9], 2).unwrap();
        let (torn, left) = LeasePage::resume(&path).unwrap();
        assert!(left.is_empty() && !torn.holds("mail", 3), "nothing on a torn page is trusted");
        again.0.set_len(100).unwrap();
        assert_eq!(LeasePage::resume(&path).unwrap().1, []);
    }

    #[test]
    fn torn_and_foreign_bytes_are_no_lease() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let guard = LeasePage::create(&path).unwrap();
        guard.set("mail", Held { epoch: 3, until_ns: u64::MAX }).unwrap();
        guard.0.write_all_at(&[9], (NAME + 2) as u64).unwrap();
        assert!(!guard.holds("mail", 3));
    }
}
