//! A snapshot as a device that takes writes: they go to a file without a name, and with it. So a file system
//! that was never unmounted can replay its journal, and the snapshot stays what it is.

use super::Snapshot;
use crate::volume::active::{Done, Fault};
use crate::volume::export::Device;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};

const BLOCK_BYTES: u64 = 4096;
/// What may be written, bytes: a journal is far smaller.
const WRITTEN_MAX_BYTES: u64 = 256 << 20;

/// The device.
#[derive(Debug)]
pub struct Overlay {
    snapshot: Arc<Snapshot>,
    file: File,
    /// Blocks that are read from the file.
    written: RwLock<BTreeSet<u64>>,
}

impl Overlay {
    /// Nothing is written yet.
    pub fn new(snapshot: Arc<Snapshot>) -> io::Result<Self> {
        let file = tempfile::tempfile_in(snapshot.dir())?;
        file.set_len(snapshot.size_bytes().next_multiple_of(BLOCK_BYTES))?;
        Ok(Self { snapshot, file, written: RwLock::default() })
    }

    fn block_length(&self, block: u64) -> usize {
        (self.snapshot.size_bytes() - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize
    }

    fn look(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        self.snapshot.read(into, offset)?;
        let end = offset + into.len() as u64;
        for block in written.range(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)) {
            let from = (block * BLOCK_BYTES).max(offset);
            let until = (block * BLOCK_BYTES + BLOCK_BYTES).min(end);
            self.file.read_exact_at(&mut into[(from - offset) as usize..(until - offset) as usize], from)?;
        }
        Ok(())
    }

    fn put(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        let end = offset + data.len() as u64;
        for block in offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            if !written.contains(&block) {
                if (written.len() as u64 + 1) * BLOCK_BYTES > WRITTEN_MAX_BYTES {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let mut whole = [0; BLOCK_BYTES as usize];
                let whole = &mut whole[..self.block_length(block)];
                self.snapshot.read(whole, block * BLOCK_BYTES)?;
                self.file.write_all_at(whole, block * BLOCK_BYTES)?;
                written.insert(block);
            }
        }
        self.file.write_all_at(data, offset)
    }

    fn inside(&self, offset: u64, length: usize) -> Result<(), Fault> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.snapshot.size_bytes() => Ok(()),
            _ => Err(Fault::Refused),
        }
    }

    fn failed(&self, error: &io::Error) -> Fault {
        tracing::warn!(snapshot = %self.snapshot.name(), %error, "the mounted snapshot can't be read");
        Fault::Failed
    }
}

impl Device for Overlay {
    fn size_bytes(&self) -> u64 {
        self.snapshot.size_bytes()
    }

    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.inside(offset, into.len())?;
        self.look(into, offset).map_err(|e| self.failed(&e))
    }

    fn write(&self, data: &[u8], offset: u64, done: Done) {
        let outcome = self.inside(offset, data.len());
        done(outcome.and_then(|()| self.put(data, offset).map_err(|e| self.failed(&e))));
    }

    fn punch(&self, _: u64, _: u64, done: Done) {
        done(Err(Fault::Refused));
    }

    fn flush(&self, done: Done) {
        done(Ok(()));
    }
}
