//! Why a round came to nothing, in words for whoever can do something about it, and how that passes.

use crate::restic::ResticError;
use crate::schedule::passes;
use crate::vault::{Finding, NotBelieved, Room, VisitError};
use std::path::PathBuf;
use thermidor_model::backup::Passes;
use thermidor_model::name::HomeName;

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// restic failed.
    #[error(transparent)]
    Restic(#[from] ResticError),
    /// The vault, asked beside restic, failed.
    #[error(transparent)]
    Visit(#[from] VisitError),
    /// No connection on this machine.
    #[error("the way to the friend is shut")]
    Shut(#[source] std::io::Error),
    /// The vault does not show what was left there. Nothing more is left there until a person has looked.
    #[error(
        "the vault has lost something: {}; other friends' copies are not touched by that, and nothing more is left at \
         {vault}'s: ask its person what happened. To begin afresh there, run `thermidor friend rm {vault}` and pair again",
        said(findings)
    )]
    Lost {
        /// Whose vault.
        vault: HomeName,
        /// What is missing.
        findings: Vec<Finding>,
    },
    /// What is lent does not hold more.
    #[error(
        "{vault}'s vault has no room left: of the quota of {} MiB that it lends to this home {} are used, and what comes \
         is more than the rest. Ask its person to raise `lend` in the vault's settings",
        room.quota >> 20, room.used.div_ceil(1 << 20)
    )]
    QuotaUsed {
        /// Whose vault.
        vault: HomeName,
        /// How it stands.
        room: Room,
    },
    /// More is lent than the disk there holds.
    #[error(
        "{vault}'s vault has no room left: the disk under it is full, {} MiB are free, though {} of the {} MiB that it \
         lends to this home are unused. Ask its person to make room, by a larger `size` of the vault's volume say",
        room.free >> 20, room.quota.saturating_sub(room.used) >> 20, room.quota >> 20
    )]
    DiskThere {
        /// Whose vault.
        vault: HomeName,
        /// How it stands.
        room: Room,
    },
    /// There is no room to restore it here.
    #[error("there is no room here to try a restore: {0}")]
    NoRoom(crate::restore::Short),
    /// The kit gives no key.
    #[error("the recovery kit gives no key")]
    Kit,
    /// The head can't be signed.
    #[error(transparent)]
    Sign(#[from] NotBelieved),
    /// The file of the challenges.
    #[error("{0} can't be read or written: nothing is asked")]
    Stock(PathBuf, #[source] std::io::Error),
    /// No folder of the vault can be called so.
    #[error("no folder of a vault can be called `{0}`: give the service another name")]
    Folder(String),
}

fn said(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RoundError {
    /// How it passes.
    pub fn passes(&self) -> Passes {
        match self {
            Self::Restic(error) => passes(error),
            Self::Visit(VisitError::Refused { .. } | VisitError::Nonsense(_) | VisitError::Broken(_)) => {
                Passes::ByItself
            }
            Self::Visit(VisitError::Silent(_)) | Self::Shut(_) => Passes::ByItself,
            _ => Passes::ByAPerson,
        }
    }
}
