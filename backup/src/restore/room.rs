//! Whether there is room for what is to come, before anything is touched.

use crate::restic::Measured;
use std::fmt;
use std::io;
use std::path::Path;

/// A file takes a block more than its bytes, and its name.
const BYTES_PER_FILE: u64 = 4096 + 512;
/// What a file system needs for itself and what is written meanwhile: a twentieth, and at least this.
const SPARE_MIN: u64 = 16 << 20;

/// A twentieth of the disk, at most so many bytes, stays free beside what is restored only to be looked at.
const SPARE_SHARE: u64 = 20;
const SPARE_MAX: u64 = 1 << 30;

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Short {
    /// What is needed, bytes.
    pub needed: u64,
    /// What is free, bytes.
    pub free: u64,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(f, "{} MiB are needed and {} MiB are free", mib(self.needed), self.free >> 20)
    }
}

/// What may be written in a folder's file system, bytes.
pub fn free_in(dir: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(dir)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

/// What may be written there for the sake of a look, bytes: less than is free, for the disk is others' too, and nobody
/// may hear that it is nearly full for that.
pub fn spare_in(dir: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(dir)?;
    let size = about.f_blocks.saturating_mul(about.f_frsize);
    Ok(about.f_bavail.saturating_mul(about.f_frsize).saturating_sub((size / SPARE_SHARE).min(SPARE_MAX)))
}

/// Whether files of that measure fit into so much.
pub fn enough(measured: &Measured, free: u64) -> Result<(), Short> {
    let bytes = measured.bytes.saturating_add(measured.files.saturating_mul(BYTES_PER_FILE));
    let needed = bytes.saturating_add((bytes / 20).max(SPARE_MIN));
    if needed <= free { Ok(()) } else { Err(Short { needed, free }) }
}
