//! How long an image's device is: made longer, cut off, and where nothing of it is on the disk.

use super::super::growth::NotGrown;
use super::super::snapshot::next_data;
use super::{DATA_OFFSET, EXTENT_BYTES, Image, SIZE_MAX_BYTES, extents_of, lock};
use rustix::fs::fstatvfs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use thermidor_model::replication::{ImageHeader, Op, OpKind};

impl Image {
    /// Writes what the protocol keeps in the header, durably, with the words of a failure if there are none yet. The
    /// device becomes as long as it says; what is new is zero.
    pub fn save(&self, image: &ImageHeader, words: &str) -> io::Result<()> {
        let (had_bytes, size_bytes) = (self.size_bytes(), image.size_bytes);
        if size_bytes > had_bytes {
            self.lengthen(had_bytes, size_bytes)?;
        }
        self.update(|h| {
            if image.failed && h.words.is_empty() {
                h.words = words.to_string();
            }
            h.image = image.clone();
        })?;
        if size_bytes != had_bytes {
            lock(&self.marks).resize(extents_of(size_bytes));
            lock(&self.map).resize(extents_of(size_bytes));
            self.size_bytes.store(size_bytes, Ordering::Release);
        }
        Ok(())
    }

    /// The file is long enough before its header says so: a shorter one is refused. A power cut on the way leaves
    /// the device as it was.
    fn lengthen(&self, had_bytes: u64, size_bytes: u64) -> io::Result<()> {
        // A file that somebody has truncated must not look whole again.
        self.is_whole()?;
        let (end, found) = (DATA_OFFSET + had_bytes, self.file.metadata()?.len());
        if found > end {
            // Of a device that was longer, or of a growth that was cut off.
            let rest = Op { kind: OpKind::Discard, offset: had_bytes, len: found - end };
            self.snapshots.around(&rest, || self.file.set_len(end))?;
        }
        self.seals.cut(extents_of(had_bytes))?;
        self.file.set_len(DATA_OFFSET + size_bytes)?;
        self.file.sync_all()
    }

    /// Whether the device may become so long: the disk has room for what is to come.
    pub fn may_become(&self, size_bytes: u64) -> Result<(), NotGrown> {
        let more_bytes = size_bytes.saturating_sub(self.size_bytes());
        if size_bytes > SIZE_MAX_BYTES {
            return Err(NotGrown::TooLarge(size_bytes));
        }
        let found = fstatvfs(&self.file).map_err(io::Error::from)?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        if more_bytes > free_bytes {
            return Err(NotGrown::NoRoom { more_bytes, free_bytes });
        }
        Ok(())
    }

    /// Makes the device longer, if it may be; for when no machine is at work.
    pub fn grow(&self, size_bytes: u64) -> Result<(), NotGrown> {
        if size_bytes <= self.size_bytes() {
            return Ok(());
        }
        self.may_become(size_bytes)?;
        Ok(self.save(&ImageHeader { size_bytes, ..self.header().image }, "")?)
    }

    /// From where on a range holds anything but a hole; `None`: nowhere.
    pub fn data_in(&self, offset: u64, length: u64) -> io::Result<Option<u64>> {
        self.inside(offset, length)?;
        let from = next_data(&self.file, offset)?;
        Ok((from < offset + length).then_some(from.max(offset)))
    }

    /// BLAKE3 of an extent that is a hole as a whole: most of a large volume is, and nothing of it has to be read.
    pub(super) fn hash_of_hole(&self, at: u64, length: u64) -> io::Result<Option<[u8; 32]>> {
        static OF_ZEROS: OnceLock<[u8; 32]> = OnceLock::new();
        if length < EXTENT_BYTES || self.data_in(at, length)?.is_some() {
            return Ok(None);
        }
        let zeros = || *blake3::hash(&vec![0; EXTENT_BYTES as usize]).as_bytes();
        Ok(Some(*OF_ZEROS.get_or_init(zeros)))
    }

    /// BLAKE3 of an extent.
    pub fn hash(&self, extent: u64) -> io::Result<[u8; 32]> {
        let (at, length) = self.place(extent);
        match self.hash_of_hole(at, length)? {
            Some(hash) => Ok(hash),
            None => Ok(*blake3::hash(&self.extent(extent)?).as_bytes()),
        }
    }
}
