//! How far the files of a restore have come. It is told by the radiator that brings them, from memory: the home agrees on
//! stages only. restic 0.14 says nothing of it, so what lies there already is measured.

use super::super::Context;
use crate::api::recovery::RestoreLine;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermidor_model::{ServiceName, State};
use tokio::time::Instant;

/// How often is looked how much is there, unless looking takes longer than a tenth of that.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long another radiator may take to say how far it is.
const CALL_MAX: Duration = Duration::from_secs(2);

/// Bytes that are there, and all that come, by service.
type Counted = BTreeMap<ServiceName, (u64, u64)>;

/// What is being brought here. Clones are the same.
#[derive(Clone, Default)]
pub struct Bringing(Arc<Mutex<Counted>>);

/// It counts as being brought as long as this lives.
pub(super) struct Counting {
    all: Bringing,
    service: ServiceName,
    total: u64,
}

impl Bringing {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes will be brought.
    pub(super) fn begin(&self, service: &ServiceName, total: u64) -> Counting {
        self.lock().insert(service.clone(), (0, total));
        Counting { all: self.clone(), service: service.clone(), total }
    }
}

impl Counting {
    /// So many are there. More than all is a file that grew under another name for a moment.
    pub(super) fn there(&self, bytes: u64) {
        self.all.lock().insert(self.service.clone(), (bytes.min(self.total), self.total));
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.all.lock().remove(&self.service);
    }
}

/// Does some work, and tells meanwhile how many bytes lie below a folder.
pub(super) async fn counted<T>(work: impl Future<Output = T>, folder: PathBuf, tell: impl Fn(u64)) -> T {
    counted_every(LOOK_EVERY, work, folder, tell).await
}

async fn counted_every<T>(
    every: Duration,
    work: impl Future<Output = T>,
    folder: PathBuf,
    tell: impl Fn(u64),
) -> T {
    tokio::pin!(work);
    let mut pause = every;
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(pause) => {
                let (below, begun) = (folder.clone(), Instant::now());
                match tokio::task::spawn_blocking(move || bytes_below(&below)).await {
                    Ok(there) => tell(there),
                    Err(error) => tracing::warn!(%error, "how far a restore is can't be seen"),
                }
                // A folder of very many files is not walked all the time.
                pause = every.max(begun.elapsed() * 10);
            }
        }
    }
}

/// What lies below a folder, bytes, as far as it can be read while it is written.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: PathBuf| match path.symlink_metadata() {
        Ok(about) if about.is_dir() => bytes_below(&path),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

/// What another member is answered: all that is being brought here.
pub async fn answer(context: Context, _: Bytes) -> Result<Bytes, String> {
    let counted = context.bringing.lock().clone();
    serde_json::to_vec(&counted).map(Bytes::from).map_err(|e| e.to_string())
}

impl Context {
    /// Puts to each restore how far it is, as whoever does it says; one that does not say is told without.
    pub(in crate::daemon) async fn with_progress(&self, state: &State, lines: &mut [RestoreLine]) {
        let own = self.bringing.lock().clone();
        for line in lines.iter_mut().filter(|line| line.brings) {
            let Ok(service) = ServiceName::new(&line.service) else { continue };
            let Some(active) = state.services.get(&service).and_then(|service| service.active) else {
                continue;
            };
            line.progress = if active == self.node.id() {
                own.get(&service).copied()
            } else {
                let said = self.node.call(active, "restore", Bytes::new(), CALL_MAX).await;
                said.ok()
                    .and_then(|said| serde_json::from_slice::<Counted>(&said).ok()?.get(&service).copied())
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> ServiceName {
        ServiceName::new("mail").unwrap()
    }

    #[test]
    fn what_is_brought_is_told_as_long_as_it_is() {
        let all = Bringing::default();
        let counting = all.begin(&mail(), 100);
        assert_eq!(all.lock().get(&mail()), Some(&(0, 100)));
        counting.there(40);
        assert_eq!(all.lock().get(&mail()), Some(&(40, 100)));
        counting.there(140);
        assert_eq!(all.lock().get(&mail()), Some(&(100, 100)));
        drop(counting);
        assert_eq!(all.lock().get(&mail()), None);
        let json = serde_json::to_string(&Counted::from([(mail(), (1, 2))])).unwrap();
        assert_eq!(serde_json::from_str::<Counted>(&json).unwrap()[&mail()], (1, 2));
    }

    #[tokio::test]
    async fn what_lies_there_is_told_while_work_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("below/one"), "12345").unwrap();
        let told = Mutex::new(Vec::new());
        let work = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::fs::write(dir.path().join("other"), "678").unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        };
        let (every, tell) = (Duration::from_millis(10), |there| told.lock().unwrap().push(there));
        let done = counted_every(every, work, dir.path().to_owned(), tell).await;
        assert_eq!(done, "done");
        let told = told.into_inner().unwrap();
        assert!(told.first() == Some(&5) && told.last() == Some(&8), "{told:?}");
    }
}
