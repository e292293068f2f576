//! Restores from friends as the home agrees on them: what is wanted, and how far each has come. The files are brought
//! and swapped by the radiator on which the service is active; whoever is active next goes on from the stage.

use crate::name::{HomeName, ServiceName, UnixMs};
use crate::state::State;
use serde::{Deserialize, Serialize};

/// What a person wants back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreWish {
    /// From which friend; `None`: from whoever has the newest.
    pub from: Option<HomeName>,
    /// Which snapshot; `None`: the newest.
    pub snapshot: Option<String>,
    /// The friend's vault as it stood then, seconds since the Unix epoch.
    pub as_of_s: Option<u64>,
    /// One folder, `VOLUME/PATH`, that is merged with what is there; `None`: everything is swapped.
    pub path: Option<String>,
}

/// A restore under way, or one whose earlier files are still kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The home's how-many-eth restore: what is said of it names it.
    pub number: u64,
    /// What is wanted.
    pub wish: RestoreWish,
    /// How far it is.
    pub stage: RestoreStage,
    /// How often files have been exchanged or are being: raised with each undoing, so that none is done twice.
    pub turn: u32,
    /// When it began.
    pub begun_ms: UnixMs,
    /// Why it does not get on, in words; empty: it does.
    pub trouble: String,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreStage {
    /// The files are brought beside the data.
    Filling {
        /// The service does not run meanwhile: its data are gone, and it has not begun yet (`recover`).
        held: bool,
    },
    /// What was brought is merged with what is there, while the service runs.
    Merging,
    /// The service is held while files are exchanged.
    Swapping,
    /// The service runs on what was restored; its earlier files lie beside, until a person decides.
    Swapped,
    /// The service is held while its earlier files are put back.
    Undoing,
    /// What is not wanted any more is removed.
    Cleaning,
}

/// What can be proposed of a service's restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreOrder {
    /// `thermidor restore`. Takes the place of a restore that has changed nothing yet.
    Begin {
        /// What is wanted.
        wish: RestoreWish,
    },
    /// `thermidor restore --undo`: the earlier files back, and those of now beside them.
    Undo,
    /// `thermidor restore --keep`: the earlier files go for good.
    Keep,
    /// `thermidor restore --cancel`: one that has changed nothing yet is given up. A service that was held for it starts.
    Cancel,
    /// From the active: this stage is done.
    Done {
        /// The restore it speaks of.
        number: u64,
        /// The stage that is done.
        stage: RestoreStage,
        /// Whether earlier files were there, which are kept.
        earlier: bool,
    },
    /// From the active: it does not get on.
    Trouble {
        /// The restore it speaks of.
        number: u64,
        /// Why, in words; empty: it does again.
        why: String,
    },
}

impl RestoreStage {
    /// Whether the service must not run.
    pub fn holds(self) -> bool {
        matches!(self, Self::Filling { held: true } | Self::Swapping | Self::Undoing)
    }

    /// Whether nothing of the service's data has been touched yet.
    pub fn is_before_the_swap(self) -> bool {
        matches!(self, Self::Filling { .. })
    }
}

impl State {
    /// Whether a service's data are not what they are to be yet: no backup of them is wanted meanwhile.
    pub fn is_being_restored(&self, service: &ServiceName) -> bool {
        self.restores.get(service).is_some_and(|restore| restore.stage != RestoreStage::Swapped)
    }

    /// Why a service is held by a restore: its volumes are attached and nothing runs on them.
    pub fn held_by_restore(&self, service: &ServiceName) -> Option<&'static str> {
        let stage = self.restores.get(service)?.stage;
        match stage {
            RestoreStage::Filling { held: true } => Some("waits until its data are restored from a friend"),
            RestoreStage::Swapping => Some("waits while restored files are swapped in"),
            RestoreStage::Undoing => Some("waits while its earlier files are put back"),
            _ => None,
        }
    }
}
