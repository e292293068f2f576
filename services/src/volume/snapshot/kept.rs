//! Copy-on-write: what the image is about to lose is written into a file of the snapshot's own first. A bit per
//! piece says which pieces are kept there; all others are still in the image.
//!
//! The order is: the piece's old bytes, its bit in the map, then the image. All three go through the page cache,
//! which outlives the process: killed between any two of them, the snapshot is exact. It does not outlive the
//! machine's power, so nobody believes a map that was made in an earlier boot.

use super::DATA_OFFSET;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstatvfs, seek};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is kept at once, bytes: small, for a write waits for it.
pub const PIECE_BYTES: u64 = 64 << 10;
/// Keeping what one operation overwrites may hold the volume up so long: less than a replica may be silent.
const HOLD_MAX: Duration = Duration::from_millis(400);
/// Less than this share of the disk is left to the volume alone ...
const RESERVE_SHARE: u64 = 20;
/// ... and so many bytes at least and at most.
const RESERVE_MIN_BYTES: u64 = 4 << 20;
const RESERVE_MAX_BYTES: u64 = 1 << 30;

/// Room on the disk of a file, bytes: beyond what snapshots leave to the volume; 0: the disk is short.
pub fn room(file: &File) -> io::Result<u64> {
    let found = fstatvfs(file)?;
    let (free, size) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
    Ok(free.saturating_sub((size / RESERVE_SHARE).clamp(RESERVE_MIN_BYTES, RESERVE_MAX_BYTES)))
}

/// The kept pieces of one snapshot. Kept by one thread at a time, read by any.
#[derive(Debug)]
pub struct Kept {
    bytes: File,
    map: File,
    bits: Vec<AtomicU8>,
    size_bytes: u64,
    kept_bytes: AtomicU64,
    kept_max_bytes: u64,
    /// For one piece; made beforehand, for a write must not wait for memory.
    buffer: Mutex<Vec<u8>>,
}

/// Why the old bytes were not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The disk is needed by the volume.
    #[error("the disk became short")]
    Short,
    /// It had its share.
    #[error("more was overwritten than the {0} bytes it may keep")]
    Large(u64),
    /// The volume would have had to wait.
    #[error("the disk is too slow to keep what is overwritten")]
    Slow,
    /// The disk refused.
    #[error("what is overwritten could not be kept: {0}")]
    Io(#[from] io::Error),
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(new).mode(0o600).open(path)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

impl Kept {
    /// An empty one for a device of that size.
    pub fn create(bytes: &Path, map: &Path, size_bytes: u64, kept_max_bytes: u64) -> io::Result<Self> {
        let (bytes, map) = (open(bytes, true)?, open(map, true)?);
        bytes.set_len(size_bytes)?;
        // The map has its blocks beforehand: a full disk is not to break it.
        let length = size_bytes.div_ceil(PIECE_BYTES).div_ceil(8);
        fallocate(&map, FallocateFlags::empty(), 0, length.max(1))?;
        Self::over(bytes, map, size_bytes, kept_max_bytes)
    }

    /// The one that lies there; `None`: it is not whole.
    pub fn open(bytes: &Path, map: &Path, size_bytes: u64, kept_max_bytes: u64) -> io::Result<Option<Self>> {
        let (bytes, map) = (open(bytes, false)?, open(map, false)?);
        let map_bytes = size_bytes.div_ceil(PIECE_BYTES).div_ceil(8);
        if bytes.metadata()?.len() != size_bytes || map.metadata()?.len() < map_bytes {
            return Ok(None);
        }
        Self::over(bytes, map, size_bytes, kept_max_bytes).map(Some)
    }

    fn over(bytes: File, map: File, size_bytes: u64, kept_max_bytes: u64) -> io::Result<Self> {
        let mut bits = vec![0; size_bytes.div_ceil(PIECE_BYTES).div_ceil(8) as usize];
        map.read_exact_at(&mut bits, 0)?;
        let kept_bytes = AtomicU64::new(bytes.metadata()?.blocks() * 512);
        Ok(Self {
            bytes,
            map,
            bits: bits.into_iter().map(AtomicU8::new).collect(),
            size_bytes,
            kept_bytes,
            kept_max_bytes,
            buffer: Mutex::new(vec![0; PIECE_BYTES as usize]),
        })
    }

    /// Says durably enough for the next process that not everything is kept any more.
    pub fn void(&self) -> io::Result<()> {
        self.map.set_len(0)
    }

    /// Bytes kept.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// The file that grows.
    pub fn file(&self) -> &File {
        &self.bytes
    }

    fn is_kept(&self, piece: u64) -> bool {
        let bits = self.bits.get((piece / 8) as usize);
        bits.is_some_and(|b| b.load(Ordering::SeqCst) & (1 << (piece % 8)) != 0)
    }

    fn set(&self, piece: u64) -> io::Result<()> {
        let Some(byte) = self.bits.get((piece / 8) as usize) else { return Ok(()) };
        let with = byte.load(Ordering::SeqCst) | 1 << (piece % 8);
        self.map.write_all_at(&[with], piece / 8)?;
        byte.store(with, Ordering::SeqCst);
        Ok(())
    }

    /// Keeps what is not kept yet of a range of the device that is about to be changed in the image.
    pub fn keep(&self, image: &File, offset: u64, length: u64) -> Result<(), NotKept> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let mut data_from = 0;
        let end = offset.saturating_add(length).min(self.size_bytes);
        for piece in offset / PIECE_BYTES..end.div_ceil(PIECE_BYTES) {
            if self.is_kept(piece) {
                continue;
            }
            let from = piece * PIECE_BYTES;
            let until = (from + PIECE_BYTES).min(self.size_bytes);
            if data_from <= from {
                data_from = next_data(image, from)?;
            }
            // A hole is kept as one: its bit alone says that it was zero.
            if data_from < until {
                if began.elapsed() > HOLD_MAX {
                    return Err(NotKept::Slow);
                }
                let old = &mut buffer[..(until - from) as usize];
                image.read_exact_at(old, DATA_OFFSET + from)?;
                if !is_zero(old) {
                    self.admit(old.len() as u64)?;
                    self.bytes.write_all_at(old, from)?;
                }
            }
            self.set(piece)?;
        }
        // Whoever reads the image's new bytes finds the bits set.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn admit(&self, more: u64) -> Result<(), NotKept> {
        if self.kept_bytes.fetch_add(more, Ordering::Relaxed) + more > self.kept_max_bytes {
            return Err(NotKept::Large(self.kept_max_bytes));
        }
        if room(&self.bytes)? == 0 {
            return Err(NotKept::Short);
        }
        Ok(())
    }

    /// Reads the device as it was.
    pub fn read(&self, image: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let piece = at / PIECE_BYTES;
            let length = ((piece + 1) * PIECE_BYTES - at).min(rest.len() as u64) as usize;
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length);
            if !self.is_kept(piece) {
                image.read_exact_at(part, DATA_OFFSET + at)?;
                // It may have been overwritten meanwhile; then it was kept before.
                fence(Ordering::SeqCst);
            }
            if self.is_kept(piece) {
                self.bytes.read_exact_at(part, at)?;
            }
            (at, rest) = (at + length as u64, tail);
        }
        Ok(())
    }
}

/// Where, from a place of the device on, the image holds data; beyond its end: nowhere.
pub fn next_data(image: &File, from: u64) -> io::Result<u64> {
    match seek(image, SeekFrom::Data(DATA_OFFSET + from)) {
        Ok(at) => Ok(at.saturating_sub(DATA_OFFSET)),
        Err(rustix::io::Errno::NXIO) => Ok(u64::MAX),
        // A file system that does not tell.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(from),
        Err(e) => Err(e.into()),
    }
}
