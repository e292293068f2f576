//! A volume that becomes longer while it is in use: the image, the exported file, the loop device, the file
//! system, in this order. Each step is done again without harm, so whatever was cut off is finished by whoever
//! attaches next.

use super::active::{Active, Fault};
use super::device::{DeviceError, Places, loops_of, step, tool};
use super::disk::Disk;
use super::export;
use super::roles::{Process, Role, blocking, chain, lock};
use fuser::Notifier;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::replication::Event;

/// How often is looked whether there is something to do.
const LOOK: Duration = Duration::from_millis(100);
/// When what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the disk may take to make the image longer.
const LENGTHEN_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// A file system that lacks less is as long as its device: ext4 leaves the rest of a last group that is too small.
const REST_BYTES: u64 = 1 << 20;
/// A block device has whole ones.
const SECTOR_BYTES: u64 = 512;
/// Where ext4's superblock is, and how much of it is read.
const SUPERBLOCK: (u64, usize) = (1024, 1024);

/// Why an image is not longer.
#[derive(Debug, thiserror::Error)]
pub enum NotGrown {
    /// Its disk could not hold what is to come.
    #[error(
        "the volume grows by {} MiB and the disk here has {} MiB left: make room there, it goes on by itself",
        .more_bytes >> 20,
        .free_bytes >> 20
    )]
    NoRoom {
        /// What is to come, bytes.
        more_bytes: u64,
        /// What is left, bytes.
        free_bytes: u64,
    },
    /// Its marks would not fit.
    #[error("a volume of {0} bytes is too large")]
    TooLarge(u64),
    /// The disk refused.
    #[error("the image can't be made longer")]
    Io(#[from] io::Error),
}

/// Why an attached device is not longer.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Image(#[from] NotGrown),
    #[error("the kernel can't be told that the device has grown")]
    Told(#[source] io::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the disk did not make the image longer within {LENGTHEN_MAX:?}")]
    Slow,
    #[error("the device is not served")]
    Failed(#[from] Fault),
    #[error(
        "the device is longer, its file system is not: resize2fs needs CAP_SYS_RESOURCE, which root lacks on this radiator"
    )]
    Withheld,
}

impl Unfinished {
    fn of_the_file_system(error: DeviceError) -> Self {
        match error {
            DeviceError::Tool { words, .. } if words.contains("Permission denied") => Self::Withheld,
            other => other.into(),
        }
    }
}

/// The attached device, as far as it can be made longer beside everything else.
pub struct Grower {
    pub(super) active: Arc<Active>,
    pub(super) places: Places,
    pub(super) notifier: Notifier,
}

impl Grower {
    /// Makes image, device and file system so long. Blocks.
    fn grow(&self, disk: &Disk, wanted_bytes: u64) -> Result<(), Unfinished> {
        self.lengthen_image(disk, wanted_bytes)?;
        let size_bytes = disk.image().size_bytes();
        self.lengthen_loops(size_bytes)?;
        let mut superblock = [0; SUPERBLOCK.1];
        self.active.read(&mut superblock, SUPERBLOCK.0)?;
        if file_system_bytes(&superblock) + REST_BYTES <= size_bytes {
            for device in self.loops()? {
                tool("resize2fs", [device.as_os_str()]).map_err(Unfinished::of_the_file_system)?;
            }
        }
        Ok(())
    }

    /// The machine has it done, and its replicas follow.
    fn lengthen_image(&self, disk: &Disk, wanted_bytes: u64) -> Result<(), Unfinished> {
        let image = disk.image();
        if image.size_bytes() >= wanted_bytes {
            return Ok(());
        }
        image.may_become(wanted_bytes)?;
        self.active.tell(Event::Grow { size_bytes: wanted_bytes });
        let since = Instant::now();
        while image.size_bytes() < wanted_bytes {
            if !self.active.serves() {
                return Err(Fault::Failed.into());
            }
            if since.elapsed() > LENGTHEN_MAX {
                return Err(Unfinished::Slow);
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn loops(&self) -> Result<Vec<PathBuf>, DeviceError> {
        let exported = self.places.exported();
        loops_of(&exported).map_err(step("listing loop devices", &exported))
    }

    fn lengthen_loops(&self, size_bytes: u64) -> Result<(), Unfinished> {
        let exported = self.places.exported();
        let whole_bytes = size_bytes - size_bytes % SECTOR_BYTES;
        let short = |device: &PathBuf| {
            capacity(device).map(|bytes| bytes < whole_bytes).map_err(step("reading the size", device))
        };
        for device in self.loops()? {
            if !short(&device)? {
                continue;
            }
            export::resized(&self.notifier).map_err(Unfinished::Told)?;
            // The loop device takes the size that the kernel has seen last.
            let seen = std::fs::metadata(&exported).map_err(step("looking at the export", &exported))?.len();
            tool("losetup", [OsStr::new("-c"), device.as_os_str()])?;
            if seen < size_bytes || short(&device)? {
                let source = io::Error::other(format!("it has {seen} of {size_bytes} bytes"));
                return Err(step("lengthening", &device)(source).into());
            }
        }
        Ok(())
    }
}

/// Size of a loop device, bytes.
fn capacity(device: &Path) -> io::Result<u64> {
    let name = device.file_name().unwrap_or_default();
    let sectors = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors * SECTOR_BYTES)
}

/// Size of an ext4, from its superblock, bytes.
fn file_system_bytes(superblock: &[u8; SUPERBLOCK.1]) -> u64 {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| superblock[at + i]));
    let wide = word(0x60) & 0x80 != 0;
    let high = if wide { u64::from(word(0x150)) } else { 0 };
    // A block has 1 KiB at least and 64 KiB at most.
    (high << 32 | u64::from(word(0x4))) << (10 + word(0x18).min(6))
}

struct Growing {
    epoch: u64,
    wanted_bytes: u64,
    disk: Arc<Disk>,
    grower: Grower,
}

impl Process {
    /// Makes an image as long as the volume is to be, if there is room; else it goes on as it is.
    pub(super) async fn lengthen(&self, disk: &Arc<Disk>, size_bytes: u64) {
        let image = disk.image().clone();
        if let Err(e) = blocking(move || image.grow(size_bytes)).await {
            tracing::warn!(error = %chain(&e), "the image stays as long as it is");
        }
    }

    fn growing(&self, done: Option<(u64, u64)>) -> Option<Growing> {
        let state = lock(&self.state);
        let wanted_bytes = state.configured.as_ref()?.record.size_bytes;
        let (_, disk) = state.disk.as_ref()?;
        let Role::Active { epoch, attached: Some(attached), .. } = &state.role else { return None };
        if done == Some((*epoch, wanted_bytes)) {
            return None;
        }
        Some(Growing { epoch: *epoch, wanted_bytes, disk: disk.clone(), grower: attached.grower()? })
    }

    /// Makes an attached device as long as the volume is to be, once per attachment and size. Nothing is attached or
    /// detached meanwhile.
    pub(super) async fn look_after_size(self: Arc<Self>) {
        let mut done = None;
        loop {
            tokio::time::sleep(LOOK).await;
            if self.growing(done).is_none() {
                continue;
            }
            let step = self.steps.lock().await;
            let Some(Growing { epoch, wanted_bytes, disk, grower }) = self.growing(done) else { continue };
            let grown = blocking(move || grower.grow(&disk, wanted_bytes)).await;
            drop(step);
            let words = grown.as_ref().err().map(|e| chain(e));
            let known = std::mem::replace(&mut *lock(&self.not_grown), words.clone());
            let Some(words) = words else {
                done = Some((epoch, wanted_bytes));
                continue;
            };
            if known.as_ref() != Some(&words) {
                tracing::warn!(error = words, "the volume is not as long as it is to be");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_systems_size_is_read_from_its_superblock() {
        let mut superblock = [0; SUPERBLOCK.1];
        superblock[0x4..0x8].copy_from_slice(&65536_u32.to_le_bytes());
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        assert_eq!(file_system_bytes(&superblock), 256 << 20);
        superblock[0x60] = 0x80;
        assert_eq!(file_system_bytes(&superblock), (16 << 40) + (256 << 20));
    }

    #[test]
    fn who_has_no_room_says_how_much_is_missing() {
        let none = NotGrown::NoRoom { more_bytes: 5 << 30, free_bytes: 3 << 20 };
        assert!(none.to_string().contains("grows by 5120 MiB and the disk here has 3 MiB left"), "{none}");
    }
}
