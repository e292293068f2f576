//! Images of volumes that a person removed: each radiator removes its own and says so, one that
//! was away when it returns.

use super::{Context, within};
use anyhow::Context as _;
use std::time::Duration;
use thermidor_model::state::RemovedImage;
use thermidor_model::{Command, Outcome, Refusal};
use thermidor_services::folder::Folder;
use thermidor_services::volume::control::{ControlError, VolumeControl};
use thermidor_services::volume::removal;
use tracing::{info, warn};

/// How soon what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long saying so may take.
const TELL_MAX: Duration = Duration::from_secs(5);

/// Removes for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut state = context.node.state();
    loop {
        let mine: Vec<RemovedImage> = {
            let state = state.borrow_and_update();
            let me = context.node.id();
            state.removed_images.iter().filter(|r| r.node == me).cloned().collect()
        };
        let mut left = false;
        for removed in mine {
            if let Err(e) = context.remove_image(&removed).await {
                warn!(volume = %removed.volume, "its image is not removed yet: {e:#}");
                left = true;
            }
        }
        if left {
            tokio::time::sleep(AGAIN).await;
        } else if state.changed().await.is_err() {
            return;
        }
    }
}

impl Context {
    /// The folder that is to go, unless a new volume of that name has its data there by now.
    fn removed_folder(&self, removed: &RemovedImage) -> Option<Folder> {
        let state = self.node.state();
        let state = state.borrow();
        let used = state.volumes.get(&removed.volume).is_some_and(|v| v.driver.is_folder() && v.epoch > 0);
        let home = state.home.clone().filter(|_| removed.driver.is_folder() && !used)?;
        Some(Folder::new(
            self.paths.volume(removed.volume.as_str()),
            home,
            removed.volume.clone(),
            &removed.driver,
        ))
    }

    async fn remove_image(&self, removed: &RemovedImage) -> anyhow::Result<()> {
        let wanted_anew = {
            let state = self.node.state();
            let state = state.borrow();
            state.volumes.get(&removed.volume).is_some_and(|v| v.replicas.contains_key(&removed.node))
        };
        if !wanted_anew {
            // A daemon that was not there when the volume went finds its process still running.
            match VolumeControl::new(&self.paths.run, removed.volume.clone()).quit().await {
                Ok(()) | Err(ControlError::Absent { .. }) => {}
                Err(e) => return Err(e).context("its process did not end"),
            }
        }
        let (dir, id) = (self.paths.volume(removed.volume.as_str()), removed.id);
        if let Some(folder) = self.removed_folder(removed) {
            folder.remove().await?;
        }
        tokio::task::spawn_blocking(move || removal::remove(&dir, id, !wanted_anew)).await??;
        let RemovedImage { volume, node, id, .. } = removed.clone();
        match self.node.propose(Command::ImageRemoved { volume, node, id }, within(TELL_MAX)).await? {
            Outcome::Refused(Refusal::Stale(_)) => Ok(()),
            Outcome::Refused(refusal) => anyhow::bail!("{refusal}"),
            _ => {
                info!(volume = %removed.volume, "its image is removed");
                Ok(())
            }
        }
    }
}
