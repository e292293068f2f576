//! Why a home's signed statement is not taken, and the HTTP status that says so.

use super::signed::NotBelieved;
use super::waiting::LIST_MAX;
use hyper::StatusCode;

/// Why a signed statement is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// No key was agreed on.
    #[error("no key of this home is known here: pair again")]
    NoKey,
    /// It is not signed as it must be.
    #[error(transparent)]
    NotBelieved(#[from] NotBelieved),
    /// It was meant for somebody else.
    #[error("this was said by `{home}` to `{vault}`")]
    Elsewhere {
        /// Who said it.
        home: String,
        /// To whom.
        vault: String,
    },
    /// Another generation of the home speaks.
    #[error(
        "generation {given} of the home speaks, {believed} is believed: its friend's person must confirm"
    )]
    Generation {
        /// Which one speaks.
        given: u64,
        /// Which one is believed.
        believed: u64,
    },
    /// It was said before, or something later was.
    #[error("statement {given} is not after the last one, {last}")]
    Stale {
        /// Its number.
        given: u64,
        /// The last that was taken.
        last: u64,
    },
    /// It is another statement than the place is for.
    #[error("that is not said here")]
    Misplaced,
    /// No such folder, or a list that names nothing that is here.
    #[error("none of what the list names is here")]
    Nothing,
    /// More than one list holds.
    #[error("a list may name {LIST_MAX} blobs")]
    TooMany,
    /// A list names a lock.
    #[error("locks are deleted as such, not by a list")]
    Locks,
    /// Nobody forgets everything at once.
    #[error("the list names every snapshot there is: one must remain")]
    EverySnapshot,
    /// Nothing would open the repository any more.
    #[error("the list names every key of the repository: one must remain")]
    EveryKey,
    /// More at once than was agreed.
    #[error("{wanted} of {all} bytes would wait for deletion: {share} percent may at once")]
    Share {
        /// What would wait.
        wanted: u64,
        /// All that is kept.
        all: u64,
        /// What was agreed.
        share: u8,
    },
    /// The reserve is used up.
    #[error("{wanted} bytes would wait for deletion: the reserve is {reserve}")]
    Reserve {
        /// What would wait.
        wanted: u64,
        /// What was agreed.
        reserve: u64,
    },
}

impl NotTaken {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::NotBelieved(_) | Self::Elsewhere { .. } | Self::Generation { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Stale { .. } => StatusCode::CONFLICT,
            Self::Misplaced | Self::TooMany | Self::Locks => StatusCode::BAD_REQUEST,
            Self::Nothing => StatusCode::NOT_FOUND,
            Self::EverySnapshot | Self::EveryKey | Self::Share { .. } | Self::Reserve { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }
}
