//! Tells when something in a folder is written, renamed or removed, so that nobody looks for it all the time.

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of events taken at once: which they were does not matter.
const EVENTS_BYTES: usize = 4096;

/// A folder that is watched.
pub struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    /// Watches a folder. Needs a runtime.
    ///
    /// # Errors
    /// Where the folder is missing, or the machine has no more watches.
    #[allow(
        deprecated,
        reason = "its sound successor is unsafe; an owned descriptor stays open as long as it is watched"
    )]
    pub fn start(folder: &Path) -> io::Result<Self> {
        let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what =
            WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        add_watch(&watch, folder, what)?;
        Ok(Self(AsyncFd::with_interest(watch, Interest::READABLE)?))
    }

    /// Ends once something has happened there since the last call.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut events = [0; EVENTS_BYTES];
            let read = ready.try_io(|watch| Ok(rustix::io::read(watch.get_ref(), &mut events)?));
            // Err: it was not readable after all.
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_that_is_replaced_or_removed_is_told_at_once_and_silence_is_silence() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FolderWatch::start(&dir.path().join("none")).is_err());
        let watch = FolderWatch::start(dir.path()).unwrap();
        let told =
            async |within| tokio::time::timeout(Duration::from_millis(within), watch.changed()).await.is_ok();
        assert!(!told(50).await, "nothing has happened");
        let (new, path) = (dir.path().join("new"), dir.path().join("table"));
        std::fs::write(&new, "1").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(told(5_000).await);
        assert!(!told(50).await, "told once");
        std::fs::remove_file(&path).unwrap();
        assert!(told(5_000).await);
    }
}
