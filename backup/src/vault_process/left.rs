//! What removed friends kept: counted again after each change, and removed beside everything else that goes on.

use crate::vault::Vault;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thermidor_model::name::HomeName;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

/// Files that are removed between two moments at which the process may end.
const STEP: usize = 500;
/// How soon what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// What was counted last, and a bell for whoever counts. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Left {
    counted: Arc<Mutex<Option<BTreeMap<HomeName, u64>>>>,
    changed: Arc<Notify>,
}

impl Left {
    /// Bytes by home; `None`: they are not counted yet.
    pub fn told(&self) -> Option<BTreeMap<HomeName, u64>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There may be more to remove or to count.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Removes and counts whenever the bell is rung. Dropped, it ends after some files.
    pub async fn keep_up(self, vault: Vault) {
        loop {
            self.changed.notified().await;
            self.count(&vault).await;
            while !self.sweep(&vault).await {
                tokio::time::sleep(AGAIN).await;
            }
            if self.told().is_none_or(|left| !left.is_empty()) {
                self.count(&vault).await;
            }
        }
    }

    /// Says whether nothing is left to be removed; if not, something was in the way.
    async fn sweep(&self, vault: &Vault) -> bool {
        loop {
            let step = vault.clone();
            match spawn_blocking(move || step.sweep(STEP)).await {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "what removed friends kept is not all removed yet");
                    return false;
                }
                Err(error) => {
                    tracing::error!(%error, "what removed friends kept is not removed");
                    return false;
                }
            }
        }
    }

    async fn count(&self, vault: &Vault) {
        let vault = vault.clone();
        match spawn_blocking(move || vault.left()).await {
            Ok(Ok(left)) => *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(left),
            Ok(Err(error)) => tracing::warn!(%error, "what removed friends kept can't be counted"),
            Err(error) => tracing::error!(%error, "what removed friends kept is not counted"),
        }
    }
}
