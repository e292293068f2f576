//! Room on the disk that holds everything of this radiator: said before it is gone, said when it is,
//! and the log's reserve taken back once there is some again.

use super::Context;
use super::found::Shared;
use std::io;
use std::path::Path;
use std::time::Duration;
use thermidor_raft::Reserve;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Less than this share of the disk, at most so many bytes, is nearly nothing.
const LOW_SHARE: u64 = 20;
const LOW_MAX_BYTES: u64 = 1 << 30;

/// Less is nothing: what the file system needs for itself.
const NOTHING_BYTES: u64 = 1 << 20;

/// Room beside the reserve before it is taken back: it is not to be what fills the disk, bytes.
const BESIDE_BYTES: u64 = 16 << 20;

/// Room on a file system, bytes, as `df` says it: what a file system keeps for itself or for root is not free,
/// for some of it even root never gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    free: u64,
    size: u64,
}

impl Space {
    fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self { free: found.f_bavail * found.f_frsize, size: found.f_blocks * found.f_frsize })
    }

    /// What is to be said of it, if anything.
    fn trouble(self, data: &Path, reserve_missing: u64) -> Option<String> {
        let mib = |bytes: u64| bytes >> 20;
        let (free, size, data) = (mib(self.free), mib(self.size), data.display());
        if self.free < NOTHING_BYTES || reserve_missing > 0 {
            Some(format!(
                "the disk is full: {free} of {size} MiB are left under {data}. Make room there; what stopped goes on by itself"
            ))
        } else if self.free < (self.size / LOW_SHARE).min(LOW_MAX_BYTES) {
            Some(format!("the disk is nearly full: {free} of {size} MiB are left under {data}"))
        } else {
            None
        }
    }
}

/// Looks for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (data, reserve) = (context.paths.data.clone(), context.node.reserve().clone());
        let looking = tokio::task::spawn_blocking(move || look(&data, &reserve));
        let trouble = match looking.await.map_err(io::Error::other).and_then(|looked| looked) {
            Ok(trouble) => trouble,
            Err(e) => Some(format!("the disk can't be looked at: {e}")),
        };
        tell(&context.shared, trouble);
    }
}

fn look(data: &Path, reserve: &Reserve) -> io::Result<Option<String>> {
    let space = Space::of(data)?;
    let mut missing = reserve.missing_bytes()?;
    if missing > 0 && space.free > missing + BESIDE_BYTES {
        reserve.refill()?;
        missing = 0;
    }
    Ok(space.trouble(data, missing))
}

fn tell(shared: &Shared, trouble: Option<String>) {
    let mut found = shared.lock();
    if found.space_trouble.is_some() != trouble.is_some() {
        match &trouble {
            Some(trouble) => tracing::warn!("{trouble}"),
            None => tracing::info!("there is room on the disk again"),
        }
        shared.report_now.notify_one();
    }
    found.space_trouble = trouble;
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_is_called_nearly_full_and_full_with_figures() {
        let data = Path::new("/var/lib/thermidor");
        let words = |free, size, missing| Space { free, size }.trouble(data, missing);
        assert_eq!(words(2 * GIB, 500 * GIB, 0), None, "a large disk with two GiB goes on for long");
        assert_eq!(words(30 << 20, 480 << 20, 0), None);
        let nearly = words(20 << 20, 480 << 20, 0).unwrap();
        assert!(nearly.contains("nearly full: 20 of 480 MiB are left under /var/lib/thermidor"), "{nearly}");
        let full = words(1 << 19, 480 << 20, 0).unwrap();
        assert!(full.contains("the disk is full: 0 of 480 MiB"), "{full}");
        assert!(
            words(9 << 20, 480 << 20, 1).unwrap().contains("the disk is full"),
            "the log lives on its reserve"
        );
    }

    #[test]
    fn the_reserve_is_taken_back_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        std::fs::File::options().write(true).open(dir.path().join("reserve")).unwrap().set_len(0).unwrap();
        assert!(reserve.missing_bytes().unwrap() > 0);
        look(dir.path(), &reserve).unwrap();
        assert_eq!(reserve.missing_bytes().unwrap(), 0);
    }
}
