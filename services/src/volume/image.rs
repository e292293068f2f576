//! One replica's image: a sparse file that carries its identity, its activity log and the
//! device's bytes. Never made anew unless told so: a lost disk must not look like an empty one.

mod size;

use super::header::{BadHeader, HEADER_VERSION, Header, SLOT_BYTES};
use super::marks::Marks;
use super::platter::Platter;
use super::seals::Seals;
use super::snapshot::{Origin, Snapshots};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thermidor_model::replication::scrub::{Found, Seal};
use thermidor_model::replication::{self, EXTENT_BYTES, ImageHeader, Op, OpKind, SIZE_MAX_BYTES};
use thermidor_model::{ReplicaId, VolumeName};

/// Where the device's bytes begin in the file.
pub const DATA_OFFSET: u64 = 1 << 20;
const MARKS_OFFSET: u64 = 64 << 10;
/// The dirty-extent map, behind as many bytes for the marks as it has itself.
const MAP_OFFSET: u64 = MARKS_OFFSET + (DATA_OFFSET - MARKS_OFFSET) / 2;
const _: () = assert!(SIZE_MAX_BYTES == (DATA_OFFSET - MAP_OFFSET) * 8 * EXTENT_BYTES);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not there.
    #[error("the image {0} is missing")]
    Missing(PathBuf),
    /// It belongs to another volume or is another replica.
    #[error("the image {path} is replica {found} of {volume}, not {expected}: another disk?")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        volume: VolumeName,
        /// Its identity.
        found: ReplicaId,
        /// The identity that the home knows.
        expected: ReplicaId,
    },
    /// The file is shorter than its device.
    #[error("the image {path} was truncated: {found_bytes} bytes, its device needs {needed_bytes}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The length it must have.
        needed_bytes: u64,
    },
    /// The header can't be read.
    #[error("the image {path} is no usable replica")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadHeader,
    },
    /// It failed before, durably.
    #[error("the image was given up: {0}")]
    Failed(String),
    /// A device of that size cannot be kept.
    #[error("a volume of {0} bytes is too large: {SIZE_MAX_BYTES} are possible")]
    TooLarge(u64),
    /// The disk refused.
    #[error("can't use the image {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// An open image. Reads, writes and marks may come from any thread.
#[derive(Debug)]
pub struct Image {
    file: File,
    header: Mutex<Header>,
    /// As the header says; whoever reads or writes must not wait for a header that is being written.
    size_bytes: AtomicU64,
    marks: Mutex<Marks>,
    map: Mutex<Marks>,
    platter: Platter,
    seals: Seals,
    snapshots: Snapshots,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn extents_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(EXTENT_BYTES)
}

impl Image {
    /// Makes a blank image with an identity. Refuses to overwrite one.
    pub fn create(path: &Path, volume: &VolumeName, id: ReplicaId, size: u64) -> Result<Self, ImageError> {
        let io = |source| ImageError::Io { path: path.into(), source };
        if size > SIZE_MAX_BYTES {
            return Err(ImageError::TooLarge(size));
        }
        let header = Header {
            version: HEADER_VERSION,
            count: 1,
            image: ImageHeader::new(volume.clone(), id, size),
            formatted: false,
            words: String::new(),
        };
        // Made under another name first: a crash half-way leaves no image, rather than a broken one.
        let made = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&made)
            .map_err(io)?;
        let slot = header.encode().map_err(|e| io(io::Error::other(e)))?;
        file.set_len(DATA_OFFSET + size)
            // Header and marks have their blocks beforehand: a full disk can still be told of.
            .and_then(|()| Ok(fallocate(&file, FallocateFlags::empty(), 0, DATA_OFFSET)?))
            .and_then(|()| file.write_all_at(&slot, SLOT_BYTES as u64))
            .and_then(|()| file.sync_all())
            .and_then(|()| {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &made,
                    rustix::fs::CWD,
                    path,
                    rustix::fs::RenameFlags::NOREPLACE,
                )
                .map_err(io::Error::from)
            })
            .and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all())
            .map_err(io)?;
        let none = || Marks::new(vec![], extents_of(size));
        Self::over(path, file, header, none(), none())
    }

    /// Opens an image and proves that it is that replica.
    pub fn open(path: &Path, volume: &VolumeName, id: ReplicaId) -> Result<Self, ImageError> {
        let io = |source| ImageError::Io { path: path.into(), source };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ImageError::Missing(path.into())),
            other => other.map_err(io)?,
        };
        let found_bytes = file.metadata().map_err(io)?.len();
        let truncated = |needed_bytes| ImageError::Truncated { path: path.into(), found_bytes, needed_bytes };
        if found_bytes < DATA_OFFSET {
            return Err(truncated(DATA_OFFSET));
        }
        let mut slots = [[0; SLOT_BYTES]; 2];
        file.read_exact_at(&mut slots[0], 0).map_err(io)?;
        file.read_exact_at(&mut slots[1], SLOT_BYTES as u64).map_err(io)?;
        let header = Header::choose([&slots[0], &slots[1]])
            .map_err(|source| ImageError::Broken { path: path.into(), source })?;
        let known = &header.image;
        if known.volume != *volume || known.replica != id {
            return Err(ImageError::Foreign {
                path: path.into(),
                volume: known.volume.clone(),
                found: known.replica,
                expected: id,
            });
        }
        if found_bytes < DATA_OFFSET + known.size_bytes {
            return Err(truncated(DATA_OFFSET + known.size_bytes));
        }
        if known.failed {
            return Err(ImageError::Failed(header.words));
        }
        if known.size_bytes > SIZE_MAX_BYTES {
            return Err(ImageError::TooLarge(known.size_bytes));
        }
        let extents = extents_of(known.size_bytes);
        let read = |offset| {
            let mut bits = vec![0; extents.div_ceil(8) as usize];
            file.read_exact_at(&mut bits, offset).map_err(io)?;
            Ok(Marks::new(bits, extents))
        };
        let (marks, map) = (read(MARKS_OFFSET)?, read(MAP_OFFSET)?);
        Self::over(path, file, header, marks, map)
    }

    fn over(path: &Path, file: File, header: Header, marks: Marks, map: Marks) -> Result<Self, ImageError> {
        let seals = Seals::beside(path, header.image.replica)
            .map_err(|source| ImageError::Io { path: path.into(), source })?;
        Ok(Self {
            file,
            size_bytes: AtomicU64::new(header.image.size_bytes),
            header: Mutex::new(header),
            marks: Mutex::new(marks),
            map: Mutex::new(map),
            platter: Platter::open(path),
            seals,
            snapshots: Snapshots::default(),
        })
    }

    /// Its snapshots.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// What a snapshot in the volume's folder is taken of.
    pub fn origin<'a>(&'a self, dir: &'a Path) -> Origin<'a> {
        let known = self.header().image;
        Origin {
            dir,
            image: &self.file,
            replica: known.replica,
            size_bytes: known.size_bytes,
            epoch: known.epoch,
        }
    }

    /// The header as last written.
    pub fn header(&self) -> Header {
        lock(&self.header).clone()
    }

    /// Size of the device, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Bytes allocated on the disk.
    pub fn used_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Changes the header and waits until that is on the disk.
    pub fn update(&self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        self.write_header(change, ReadWriteFlags::DSYNC)
    }

    /// Changes the header; the next [`Self::sync`] makes it durable.
    pub fn note(&self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        self.write_header(change, ReadWriteFlags::empty())
    }

    fn write_header(&self, change: impl FnOnce(&mut Header), flags: ReadWriteFlags) -> io::Result<()> {
        let mut header = lock(&self.header);
        let mut next = header.clone();
        change(&mut next);
        if next == *header {
            return Ok(());
        }
        next.count += 1;
        let slot = next.encode().map_err(io::Error::other)?;
        self.write_through(&slot, next.count % 2 * SLOT_BYTES as u64, flags)?;
        *header = next;
        Ok(())
    }

    fn write_through(&self, mut bytes: &[u8], mut at: u64, flags: ReadWriteFlags) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = pwritev2(&self.file, &[IoSlice::new(bytes)], at, flags)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
            at += written as u64;
        }
        Ok(())
    }

    /// Marks extents, durably, and unmarks others, whenever the disk comes to it. The seals of those that are marked are
    /// broken before.
    pub fn mark(&self, mark: &[u64], unmark: &[u64]) -> io::Result<()> {
        self.seals.tear(mark)?;
        self.change_bits(&self.marks, MARKS_OFFSET, mark, unmark)
    }

    /// Puts extents into the dirty-extent map, durably, and takes others out, whenever the disk comes to it.
    pub fn chart(&self, note: &[u64], forget: &[u64]) -> io::Result<()> {
        self.change_bits(&self.map, MAP_OFFSET, note, forget)
    }

    fn change_bits(&self, of: &Mutex<Marks>, offset: u64, set: &[u64], unset: &[u64]) -> io::Result<()> {
        let mut bits = lock(of);
        let Some(bytes) = bits.change(set, unset) else { return Ok(()) };
        let at = offset + bytes.start as u64;
        let flags = if set.is_empty() { ReadWriteFlags::empty() } else { ReadWriteFlags::DSYNC };
        self.write_through(&bits.bytes()[bytes], at, flags)
    }

    /// The extents of the dirty-extent map.
    pub fn charted(&self) -> BTreeSet<u64> {
        lock(&self.map).set()
    }

    /// The marked extents.
    pub fn marked(&self) -> BTreeSet<u64> {
        lock(&self.marks).set()
    }

    /// What the replication protocol begins with.
    pub fn state(&self) -> replication::Image {
        replication::Image { header: self.header().image, marked: self.marked(), noted: self.charted() }
    }

    /// Carries out an operation. The extents must be marked.
    pub fn store(&self, op: &Op, payload: &[u8]) -> io::Result<()> {
        self.inside(op.offset, op.len)?;
        self.snapshots.around(op, || match op.kind {
            OpKind::Write if payload.len() as u64 == op.len => self.write(payload, op.offset),
            OpKind::Write => Err(io::Error::new(io::ErrorKind::InvalidInput, "payload of a wrong length")),
            OpKind::Discard | OpKind::Zero => self.punch(op.offset, op.len),
        })
    }

    /// The bytes of a whole extent; the device's last one may be shorter, and beyond it there are none.
    pub fn extent(&self, extent: u64) -> io::Result<Vec<u8>> {
        let (offset, length) = self.place(extent);
        if length == 0 {
            return Ok(vec![]);
        }
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Looks at an extent as it lies on the disk.
    pub fn examine(&self, extent: u64) -> Found {
        let (at, length) = self.place(extent);
        let hash = self.hash_of_hole(at, length).and_then(|hole| match hole {
            // Nothing lies on the disk that could rot.
            Some(hash) => Ok(hash),
            None => {
                let hash = |bytes: &[u8]| blake3::hash(bytes).into();
                self.platter.read(&self.file, DATA_OFFSET + at, length as usize, hash)
            }
        });
        let hash = hash.inspect_err(|e| tracing::warn!(extent, error = %e, "an extent cannot be read")).ok();
        let sealed = hash.map(|hash| self.seals.of(extent, length, &hash));
        // A seal that cannot be read proves nothing.
        let seal =
            sealed.transpose().inspect_err(|e| tracing::warn!(extent, error = %e, "a seal cannot be read"));
        Found { hash, seal: seal.ok().flatten().unwrap_or(Seal::Absent) }
    }

    /// The bytes of a whole extent as they lie on the disk.
    pub fn extent_on_platter(&self, extent: u64) -> io::Result<Vec<u8>> {
        let (at, length) = self.place(extent);
        self.platter.read(&self.file, DATA_OFFSET + at, length as usize, <[u8]>::to_vec)
    }

    /// Keeps the hash of an extent until it is written.
    pub fn seal(&self, extent: u64, hash: &[u8; 32]) -> io::Result<()> {
        self.seals.put(extent, self.place(extent).1, hash)
    }

    /// Breaks all seals, durably.
    pub fn unseal(&self) -> io::Result<()> {
        self.seals.tear_all()
    }

    /// Where an extent lies in the device, and how long it is.
    fn place(&self, extent: u64) -> (u64, u64) {
        let at = extent.saturating_mul(EXTENT_BYTES);
        (at, self.size_bytes().saturating_sub(at).min(EXTENT_BYTES))
    }

    /// Reads from the device.
    pub fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.inside(offset, into.len() as u64)?;
        self.file.read_exact_at(into, DATA_OFFSET + offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inside(offset, bytes.len() as u64)?;
        self.file.write_all_at(bytes, DATA_OFFSET + offset)
    }

    /// Makes a range zero and gives its blocks back.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inside(offset, length)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, DATA_OFFSET + offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset, length),
            other => Ok(other?),
        }
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.write(&ZEROS[..part as usize], offset)?;
            offset += part;
            length -= part;
        }
        Ok(())
    }

    /// Waits until everything written so far is on the disk; an error if somebody has truncated or deleted the file
    /// since, for then it is not.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.is_whole()
    }

    fn is_whole(&self) -> io::Result<()> {
        let (found, needed) = (self.file.metadata()?, DATA_OFFSET + self.size_bytes());
        if found.nlink() == 0 {
            return Err(io::Error::other("its image was deleted"));
        }
        if found.len() < needed {
            return Err(io::Error::other(format!(
                "its image was truncated to {} of {needed} bytes",
                found.len()
            )));
        }
        Ok(())
    }

    fn inside(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the device")),
        }
    }
}

#[cfg(test)]
mod tests;
