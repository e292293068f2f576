//! A frozen source: snapshots of a service's volumes, mounted below one folder that has the same path each time, so that
//! restic finds what it has read before.

use crate::daemon::Context;
use anyhow::Context as _;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::path::{Path, PathBuf};
use thermidor_backup::home_itself::{HomeItself, make_private};
use thermidor_model::backup::Subject;
use thermidor_model::state::State;
use thermidor_model::{ServiceName, SnapshotName, VolumeName};
use thermidor_services::folder::Folder;
use thermidor_services::volume::control::VolumeControl;

/// How the snapshots are called that backups take: whoever begins removes what one before has left.
const PREFIX: &str = "backup-";

/// A source that stays as it is until it is given back.
pub struct Stage {
    /// Where it lies.
    pub dir: PathBuf,
    /// Of when it is, Unix ms.
    pub taken: u64,
    mounted: Vec<PathBuf>,
    snapshots: Vec<(VolumeControl, SnapshotName)>,
}

fn place(data: &Path) -> PathBuf {
    data.join("backup").join("stage")
}

/// Unmounts what a daemon that was killed has left.
pub fn sweep(data: &Path) -> anyhow::Result<()> {
    let place = place(data);
    let subjects = match std::fs::read_dir(&place) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        subjects => subjects?,
    };
    for subject in subjects {
        let volumes = subject?.path().join("volumes");
        let Ok(entries) = std::fs::read_dir(&volumes) else { continue };
        for entry in entries {
            let path = entry?.path();
            match unmount(&path, UnmountFlags::DETACH) {
                // Nothing is mounted there.
                Err(rustix::io::Errno::INVAL) | Ok(()) => {}
                Err(e) => return Err(e).with_context(|| path.display().to_string()),
            }
        }
    }
    Ok(())
}

impl Stage {
    /// Freezes a subject; of the home itself what whoever holds to the kit `before` may have.
    pub async fn take(
        context: &Context,
        state: &State,
        subject: &Subject,
        before: bool,
    ) -> anyhow::Result<Self> {
        let dir = place(&context.paths.data).join(subject.as_str());
        let taken = crate::clock::unix_ms();
        let mut stage = Self { dir, taken, mounted: Vec::new(), snapshots: Vec::new() };
        let filled = match subject {
            Subject::HomeItself => stage.write_home(context, state, before),
            Subject::Service(service) => stage.freeze(context, state, service).await,
        };
        match filled {
            Ok(()) => Ok(stage),
            Err(e) => {
                stage.give_back().await;
                Err(e)
            }
        }
    }

    fn write_home(&self, context: &Context, state: &State, before: bool) -> anyhow::Result<()> {
        make_private(&self.dir)?;
        let (state, kit) = context.home_to_leave(state, before)?;
        let keys = context.node.identity().keep(&state)?;
        let home = HomeItself { state, home_keys: keys.home_keys, authority_key_pem: keys.authority_key_pem };
        Ok(home.write_into(&self.dir, &kit)?)
    }

    async fn freeze(
        &mut self,
        context: &Context,
        state: &State,
        service: &ServiceName,
    ) -> anyhow::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let volumes = self.dir.join("volumes");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&volumes)?;
        for (name, volume) in state.volumes_of(service) {
            let from = if volume.driver.is_folder() {
                let home = state.home.clone().context("this home is not founded yet")?;
                let dir = context.paths.volume(name.as_str());
                Folder::new(dir, home, name.clone(), &volume.driver).path()
            } else {
                self.snapshot(context, name).await.with_context(|| format!("a snapshot of {name}"))?
            };
            let to = volumes.join(name.as_str());
            std::fs::create_dir_all(&to)?;
            mount_bind(&from, &to).with_context(|| format!("mount {}", to.display()))?;
            self.mounted.push(to);
        }
        anyhow::ensure!(!self.mounted.is_empty(), "{service} has no volume: there is nothing to back up");
        Ok(())
    }

    async fn snapshot(&mut self, context: &Context, volume: &VolumeName) -> anyhow::Result<PathBuf> {
        let control = VolumeControl::new(&context.paths.run, volume.clone());
        let all = control.snapshots().await?;
        for left in all.into_iter().filter(|left| left.name.as_str().starts_with(PREFIX)) {
            remove(&control, left.name).await;
        }
        let name = SnapshotName::new(format!("{PREFIX}{}", self.taken))?;
        control.take_snapshot(name.clone()).await?;
        let at = control.mount_snapshot(name.clone()).await;
        self.snapshots.push((control, name));
        Ok(at?)
    }

    /// Lets go of everything. What can't be removed now is removed by whoever freezes next.
    pub async fn give_back(mut self) {
        for path in self.mounted.drain(..).rev() {
            if let Err(e) = unmount(&path, UnmountFlags::DETACH) {
                tracing::warn!(path = %path.display(), "a backup's source stays mounted: {e}");
            }
        }
        for (control, name) in self.snapshots.drain(..) {
            remove(&control, name).await;
        }
    }
}

async fn remove(control: &VolumeControl, name: SnapshotName) {
    // One that was never mounted can't be unmounted; what matters is whether it goes.
    let unmounted = control.unmount_snapshot(name.clone()).await;
    if let Err(e) = control.remove_snapshot(name.clone()).await {
        tracing::warn!(snapshot = %name, ?unmounted, "a backup's snapshot stays: {e}");
    }
}
