//! The volume process's part: when a snapshot may be taken, and which are mounted. One order at a time.

use super::{MountedSnapshot, Snapshot, SnapshotError, SnapshotView};
use crate::volume::active::Active;
use crate::volume::control::Refused;
use crate::volume::following::{Stream, View};
use crate::volume::image::Image;
use crate::volume::roles::{Process, Role, blocking, chain, lock};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::SnapshotName;
use tokio::sync::MutexGuard;

/// How long a replica waits for the flush that covers a snapshot: the active sees to one every two seconds.
const FLUSHED_WITHIN: Duration = Duration::from_secs(7);
const POLL: Duration = Duration::from_millis(10);
/// How often snapshots are looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Why the image is of one moment, and what must still be true afterwards.
enum Standing {
    /// Every write that was answered is in it.
    Active(Arc<Active>),
    /// It follows a stream.
    Following(Stream),
    /// Nobody writes: so many frames were ever received.
    AtRest { frames: u64 },
}

fn refused(error: &SnapshotError) -> Refused {
    Refused::Failed(chain(error))
}

fn now_not(why: &str) -> Refused {
    Refused::Failed(format!("no snapshot can be taken here now: {why}"))
}

impl Process {
    fn image(&self) -> Result<Arc<Image>, Refused> {
        let state = lock(&self.state);
        match (&state.disk, &state.role) {
            (Some((_, disk)), _) => Ok(disk.image().clone()),
            (None, Role::Idle(words)) => Err(Refused::NoImage(words.clone())),
            (None, _) => Err(Refused::NoImage("there is no image yet".into())),
        }
    }

    fn standing(&self) -> Result<Standing, Refused> {
        let state = lock(&self.state);
        let (me, record) = (self.options.node, state.configured.as_ref().map(|c| &c.record));
        match &state.role {
            Role::Active { active, .. } if active.serves() => Ok(Standing::Active(active.clone())),
            Role::Active { .. } | Role::Ending(_) => Err(now_not("the device is cut off")),
            Role::Idle(words) => Err(Refused::NoImage(words.clone())),
            Role::Unconfigured => Err(now_not("the volume is not known yet")),
            Role::Following(following) => match (following.view(), record) {
                (View { failed: Some(words), .. }, _) => Err(Refused::NoImage(words)),
                (_, None) => Err(now_not("the volume is not known yet")),
                (_, Some(record)) if !record.in_sync.contains(&me) => {
                    Err(now_not("this replica is not in sync"))
                }
                (View { torn: true, .. }, _) => Err(now_not("this replica is catching up")),
                (View { stream: Some(stream), .. }, _) if stream.whole => Ok(Standing::Following(stream)),
                (View { heard: false, frames, .. }, Some(record))
                    if record.active.is_none_or(|a| a == me) =>
                {
                    Ok(Standing::AtRest { frames })
                }
                (View { heard: false, .. }, _) => Err(now_not("this replica does not hear the active")),
                _ => Err(now_not("this replica is catching up")),
            },
        }
    }

    /// Takes a snapshot of this replica.
    pub(in crate::volume) async fn take_snapshot(&self, name: SnapshotName) -> Result<SnapshotView, Refused> {
        let _one = self.snapshots.lock().await;
        let image = self.image()?;
        let standing = self.standing()?;
        let (dir, of) = (self.places.dir.clone(), image.clone());
        let begun = blocking(move || of.snapshots().begin(&name, &of.origin(&dir))).await;
        let begun = begun.map_err(|e| refused(&e))?;
        let held = match standing {
            Standing::Active(active) if active.serves() => Ok(()),
            Standing::Active(_) => Err(now_not("the device was cut off meanwhile")),
            Standing::Following(stream) => self.flushed(&stream).await,
            Standing::AtRest { frames } => self.rested(frames).await,
        };
        let snapshot = begun.clone();
        let outcome = blocking(move || {
            let kept = held.and_then(|()| image.snapshots().commit(&begun).map_err(|e| refused(&e)));
            if kept.is_err()
                && let Err(e) = image.snapshots().discard(&begun)
            {
                tracing::error!(error = %chain(&e), "a snapshot that was not finished stays");
            }
            kept
        });
        outcome.await?;
        let view = snapshot.view();
        tracing::info!(snapshot = %view.name, way = %view.way, held_us = view.held_us, "a snapshot is taken");
        Ok(view)
    }

    fn following(&self) -> Result<View, Refused> {
        match &lock(&self.state).role {
            Role::Following(following) => Ok(following.view()),
            _ => Err(now_not("this radiator became the active meanwhile: try again")),
        }
    }

    /// Whether still nothing came: an active's first frames may be those of a catch-up.
    async fn rested(&self, frames: u64) -> Result<(), Refused> {
        let first = self.following()?.shows;
        loop {
            let now = self.following()?;
            if now.frames != frames {
                return Err(now_not("an active began to write meanwhile: try again"));
            }
            if now.shows > first {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until what was stored when `began` was looked at is flushed: only then is it surely part of
    /// what the home keeps.
    async fn flushed(&self, began: &Stream) -> Result<(), Refused> {
        let since = Instant::now();
        let mut stored: Option<(u64, u64)> = None;
        loop {
            let now = self.following()?;
            let Some(stream) = now.stream.filter(|s| s.is_of(began) && s.whole && !now.torn) else {
                return Err(now_not("the stream of the active broke off meanwhile: try again"));
            };
            match stored {
                // The next one shows everything that was stored before the first.
                None => stored = Some((now.shows, u64::MAX)),
                Some((shows, u64::MAX)) if now.shows > shows => stored = Some((shows, stream.received)),
                Some(_) => {}
            }
            if stored.is_some_and(|(_, received)| stream.durable >= received) {
                return Ok(());
            }
            if since.elapsed() > FLUSHED_WITHIN {
                return Err(now_not("the active does not flush"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// All snapshots of this replica.
    pub(in crate::volume) fn snapshot_views(&self) -> Vec<SnapshotView> {
        let all = match &lock(&self.state).disk {
            Some((_, disk)) => disk.image().snapshots().all(),
            None => vec![],
        };
        let mounted = lock(&self.mounted);
        let view = |snapshot: &Arc<Snapshot>| SnapshotView {
            mounted: mounted.get(snapshot.name()).cloned(),
            ..snapshot.view()
        };
        all.iter().map(view).collect()
    }

    /// Mounts a snapshot and answers where.
    pub(in crate::volume) async fn mount_snapshot(&self, name: &SnapshotName) -> Result<PathBuf, Refused> {
        let mut mounts = self.snapshots.lock().await;
        let snapshot = self.image()?.snapshots().get(name).map_err(|e| refused(&e))?;
        if let Some(mounted) = mounts.get(name) {
            return Ok(mounted.point());
        }
        let made = blocking(move || MountedSnapshot::make(snapshot)).await;
        let made = made.map_err(|e| Refused::Failed(chain(&e)))?;
        let point = made.point();
        lock(&self.mounted).insert(name.clone(), point.clone());
        mounts.insert(name.clone(), made);
        Ok(point)
    }

    /// Unmounts a snapshot; one that is not mounted is well.
    pub(in crate::volume) async fn unmount_snapshot(&self, name: &SnapshotName) -> Result<(), Refused> {
        let mut mounts = self.snapshots.lock().await;
        let Some(mut mounted) = mounts.remove(name) else {
            return self.image()?.snapshots().find(name).map(drop).map_err(|e| refused(&e));
        };
        let (back, done) = blocking(move || {
            let done = mounted.unmount();
            (mounted, done)
        })
        .await;
        match done {
            Ok(()) => {
                lock(&self.mounted).remove(name);
                Ok(())
            }
            Err(e) => {
                mounts.insert(name.clone(), back);
                Err(Refused::Failed(format!("the snapshot {name} is in use: {}", chain(&e))))
            }
        }
    }

    /// Removes a snapshot for good, unless it is mounted.
    pub(in crate::volume) async fn remove_snapshot(&self, name: &SnapshotName) -> Result<(), Refused> {
        let mounts = self.snapshots.lock().await;
        let image = self.image()?;
        let snapshot = image.snapshots().find(name).map_err(|e| refused(&e))?;
        if mounts.contains_key(name) {
            return Err(Refused::Failed(format!("the snapshot {name} is mounted: unmount it first")));
        }
        blocking(move || image.snapshots().discard(&snapshot)).await.map_err(|e| refused(&e))
    }

    /// Gives up what must be, and takes the mounts of those away. Beside the process's own looking after: an
    /// order about a snapshot may take seconds.
    pub(in crate::volume) async fn look_after_snapshots(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(image) = self.image() else { continue };
            blocking(move || image.snapshots().look_after()).await;
            drop(self.unmount_snapshots(|mounted| mounted.snapshot().lost().is_some()).await);
        }
    }

    /// Takes mounts away, whoever uses them. No order about snapshots is carried out while the answer is kept.
    pub(in crate::volume) async fn unmount_snapshots(
        &self,
        which: impl Fn(&MountedSnapshot) -> bool,
    ) -> MutexGuard<'_, BTreeMap<SnapshotName, MountedSnapshot>> {
        let mut mounts = self.snapshots.lock().await;
        let names: Vec<_> = mounts.iter().filter(|(_, m)| which(m)).map(|(n, _)| n.clone()).collect();
        for name in names {
            let Some(mut mounted) = mounts.remove(&name) else { continue };
            if let Err(e) = blocking(move || mounted.take_away()).await {
                tracing::warn!(snapshot = %name, error = %chain(&e), "something of its mount is left");
            }
            lock(&self.mounted).remove(&name);
        }
        mounts
    }
}
