//! Reads an extent as it lies on the disk, page cache aside: that is where bits rot. What is dirty is written back
//! before by the kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What direct reading asks of addresses and lengths, bytes; no disk has larger blocks.
const ALIGNED: usize = 4096;

/// A way past the page cache.
#[derive(Debug)]
pub struct Platter {
    /// `None`: this file system has none.
    direct: Option<File>,
}

impl Platter {
    /// To that file.
    pub fn open(path: &Path) -> Self {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        Self { direct: OpenOptions::new().read(true).custom_flags(direct).open(path).ok() }
    }

    /// Calls `look` with the bytes of a range whose offset is aligned.
    pub fn read<T>(
        &self,
        cached: &File,
        offset: u64,
        length: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        let whole = length.next_multiple_of(ALIGNED);
        let mut buffer = vec![0; whole + ALIGNED];
        let at = buffer.as_ptr().align_offset(ALIGNED);
        let into = &mut buffer[at..at + whole];
        let direct = self.direct.as_ref().map(|direct| direct.read_at(into, offset));
        match direct {
            // the end of the file may come before the end of a block
            Some(Ok(read)) if read >= length => {}
            Some(Ok(_)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Err(e)) if e.kind() != io::ErrorKind::InvalidInput => return Err(e),
            Some(Err(_)) | None => {
                let range = NonZeroU64::new(length as u64);
                rustix::fs::fadvise(cached, offset, range, rustix::fs::Advice::DontNeed)?;
                cached.read_exact_at(&mut into[..length], offset)?;
            }
        }
        Ok(look(&into[..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_read_aligned_or_not_and_also_without_a_direct_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        for platter in [Platter::open(&path), Platter { direct: None }] {
            for length in [4096, 5904] {
                let read = platter.read(&file, 4096, length, <[u8]>::to_vec).unwrap();
                assert_eq!(read, bytes[4096..4096 + length]);
            }
            assert!(platter.read(&file, 8192, 4096, <[u8]>::len).is_err(), "beyond the end");
        }
    }
}
