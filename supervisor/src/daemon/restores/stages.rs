//! What each stage does on the volumes of a service, where they are attached.

use super::progress::counted;
use crate::daemon::Context;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_backup::restic::{Measured, ResticError};
use thermidor_backup::restore;
use thermidor_model::reconcile::Device;
use thermidor_model::restore::{Restore, RestoreStage};
use thermidor_model::{ServiceName, State, VolumeName};

/// How long a service must have been stopped before its files are exchanged.
const SETTLED: Duration = Duration::from_millis(700);

/// A volume, and where its files are here.
struct Place {
    volume: VolumeName,
    root: PathBuf,
}

impl Place {
    /// Where its files lie in a snapshot, and below a staging folder.
    fn in_snapshot(&self) -> PathBuf {
        Path::new("volumes").join(self.volume.as_str())
    }
}

/// Why a volume's files were not brought. One that became full meanwhile is the service's again at once, which needs the
/// room too.
async fn not_brought(place: &Place, error: anyhow::Error) -> anyhow::Error {
    let (volume, root) = (&place.volume, place.root.clone());
    if !matches!(error.downcast_ref(), Some(ResticError::DiskFull)) {
        return error.context(volume.to_string());
    }
    let made_room = tokio::task::spawn_blocking(move || {
        let is_full = restore::enough(&Measured::default(), restore::free_in(&root)?).is_err();
        // Another disk of this radiator is full: that one holds restic's cache.
        if is_full {
            restore::new_staging(&root)?;
        }
        Ok(is_full)
    });
    match made_room.await.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
        Ok(true) => anyhow::anyhow!(
            "{volume} became full while files were brought: they are removed again, and nothing of it was changed. Raise \
             its `size` in home.yaml, or restore elsewhere with --to"
        ),
        Ok(false) => error.context(volume.to_string()),
        Err(e) => error.context(format!("{volume}, where what was brought can't be removed either ({e})")),
    }
}

impl Context {
    fn places(&self, state: &State, service: &ServiceName) -> Vec<Place> {
        let place = |volume: &VolumeName| Place {
            volume: volume.clone(),
            root: self.paths.volume(volume.as_str()).join("mnt"),
        };
        state.volumes_of(service).map(|(volume, _)| place(volume)).collect()
    }

    /// Whether a stage can be worked on: the volumes are attached, and nothing runs on them where nothing may.
    pub(super) fn is_ready(&self, state: &State, service: &ServiceName, stage: RestoreStage) -> bool {
        let found = self.shared.lock();
        let attached = state
            .volumes_of(service)
            .all(|(name, volume)| found.devices.get(name) == Some(&Device::Attached(volume.epoch)));
        let runs = found.containers.get(service).is_some_and(|c| c.found.running);
        attached && !(stage.holds() && runs)
    }

    /// Does a stage; one that was done or interrupted before is finished. Answers whether earlier files are kept.
    pub(super) async fn do_stage(
        &self,
        state: &State,
        service: &ServiceName,
        restore: &Restore,
    ) -> anyhow::Result<bool> {
        match restore.stage {
            RestoreStage::Filling { held } => {
                self.fill(state, service, restore, held).await?;
                Ok(false)
            }
            RestoreStage::Merging => self.merge(state, service, restore).await.map(|()| false),
            RestoreStage::Swapping | RestoreStage::Undoing => {
                // A start that was under way when the service was held shows itself first.
                tokio::time::sleep(SETTLED).await;
                anyhow::ensure!(
                    self.is_ready(state, service, restore.stage),
                    "its container has not stopped yet"
                );
                self.swap(state, service, restore.turn).await
            }
            RestoreStage::Cleaning => self.clean_volumes(state, service).await.map(|()| false),
            RestoreStage::Swapped => Ok(true),
        }
    }

    /// Brings what is wished beside the data. Whether there is room is asked before anything is brought.
    async fn fill(
        &self,
        state: &State,
        service: &ServiceName,
        wanted: &Restore,
        held: bool,
    ) -> anyhow::Result<()> {
        let mut places = self.places(state, service);
        let mut below = None;
        if let Some(path) = &wanted.wish.path {
            let (volume, path) = path.split_once('/').unwrap_or((path, ""));
            places.retain(|place| place.volume.as_str() == volume);
            below = Some(path.to_owned());
        }
        let before = held.then_some(wanted.begun_ms);
        let offer = self.find_offer(state, service, &wanted.wish, before, "home").await?;
        tracing::info!(%service, vault = %offer.vault, snapshot = %offer.snapshot.id, "is restored");
        let source = |place: &Place| {
            let path = place.in_snapshot().display().to_string();
            below.as_ref().filter(|b| !b.is_empty()).map_or(path.clone(), |b| format!("{path}/{b}"))
        };
        let mut brought = Vec::new();
        for place in places {
            let measured = offer.measure(&source(&place)).await?;
            if measured == Measured::default() {
                continue;
            }
            let root = place.root.clone();
            let free = tokio::task::spawn_blocking(move || {
                // What an earlier attempt has left takes room.
                restore::new_staging(&root)?;
                restore::free_in(&root)
            });
            let free = free.await?.with_context(|| format!("the volume {}", place.volume))?;
            restore::enough(&measured, free).map_err(|short| {
                anyhow::anyhow!(
                    "{} has no room for both what is there and what comes: {short}. Raise its `size` in home.yaml, \
                     or restore elsewhere with --to",
                    place.volume
                )
            })?;
            brought.push((place, measured.bytes));
        }
        anyhow::ensure!(!brought.is_empty(), "{} holds nothing of what is asked for", offer.snapshot.id);
        let counting = self.bringing.begin(service, brought.iter().map(|(_, bytes)| bytes).sum());
        let mut there = 0;
        for (place, bytes) in &brought {
            let staging = place.root.join(restore::STAGING);
            let (path, tell) = (source(place), |more: u64| counting.there(there + more.min(*bytes)));
            if let Err(e) = counted(offer.bring(&path, &staging), staging.clone(), tell).await {
                return Err(not_brought(place, e).await);
            }
            there += bytes;
            counting.there(there);
        }
        Ok(())
    }

    async fn swap(&self, state: &State, service: &ServiceName, turn: u32) -> anyhow::Result<bool> {
        let mut earlier = false;
        for place in self.places(state, service) {
            let (root, restored) = (place.root.clone(), place.in_snapshot());
            let done = tokio::task::spawn_blocking(move || match restore::has_restored(&root, &restored)? {
                true => restore::exchange(&root, turn, &restored),
                false => Ok(restore::Exchanged { earlier: false }),
            });
            earlier |= done.await?.with_context(|| format!("the volume {}", place.volume))?.earlier;
        }
        Ok(earlier)
    }

    async fn merge(&self, state: &State, service: &ServiceName, wanted: &Restore) -> anyhow::Result<()> {
        let day =
            i64::try_from(wanted.begun_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let label = day.unwrap_or_default().strftime("%Y-%m-%d").to_string();
        for place in self.places(state, service) {
            let (restored, root) = (place.in_snapshot(), place.root.clone());
            // Of several volumes one is meant.
            let Ok(from) = restore::source(&root, &restored) else { continue };
            let label = label.clone();
            let merged = tokio::task::spawn_blocking(move || restore::merge(&from, &root, &label)).await?;
            let merged = merged.with_context(|| format!("the volume {}", place.volume))?;
            tracing::info!(%service, volume = %place.volume, ?merged, "what was restored is merged in");
        }
        Ok(())
    }

    /// Removes everything that a restore keeps beside the data.
    pub(super) async fn clean_volumes(&self, state: &State, service: &ServiceName) -> anyhow::Result<()> {
        let attached = |place: &Place| {
            matches!(self.shared.lock().devices.get(&place.volume), Some(Device::Attached(_)))
        };
        for place in self.places(state, service).into_iter().filter(attached) {
            let root = place.root.clone();
            let cleaned = tokio::task::spawn_blocking(move || restore::clean(&root)).await?;
            cleaned.with_context(|| format!("the volume {}", place.volume))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What became of a volume's half brought files when restic said so, and the words.
    async fn after(root: &Path, error: ResticError) -> (bool, String) {
        let half = root.join(restore::STAGING).join("half");
        std::fs::create_dir_all(half.parent().unwrap()).unwrap();
        std::fs::write(&half, "half").unwrap();
        let place = Place { volume: "box".parse().unwrap(), root: root.to_owned() };
        let words = format!("{:#}", not_brought(&place, error.into()).await);
        (half.exists(), words)
    }

    #[tokio::test]
    async fn a_volume_that_became_full_has_its_room_back_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (stays, words) = after(dir.path(), ResticError::DiskFull).await;
        assert!(stays && words == "box: this radiator's disk is full", "{words}");
        let (stays, words) = after(dir.path(), ResticError::NoSnapshot).await;
        assert!(stays && words.starts_with("box: "), "{words}");
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED in part: mounting a small file system takes root");
            return;
        }
        let root = dir.path().join("mnt");
        std::fs::create_dir(&root).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&root).status().unwrap();
        assert!(mounted.success());
        let (stays, words) = after(&root, ResticError::DiskFull).await;
        assert!(Command::new("umount").arg("-l").arg(&root).status().unwrap().success());
        assert!(!stays && words.contains("box became full") && words.contains("`size`"), "{words}");
    }
}
