//! The local image as both machines use it: extents are marked before they are written, what
//! overlaps is written in order, and a sync waits for the writes it covers.

use super::frame::{ImageHeader, Op};

/// What the shell is to do with the local image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEffect {
    /// Write, discard or zero; answered by [`LocalEvent::Stored`].
    Store {
        /// Number (active) or handle (follower) of the payload.
        id: u64,
        /// What to do.
        op: Op,
    },
    /// Durably mark and unmark extents; answered by [`LocalEvent::Marked`].
    Mark {
        /// To be marked, durable before the answer.
        mark: Vec<u64>,
        /// To be unmarked, durable at any time.
        unmark: Vec<u64>,
    },
    /// Write the header if one is given, then `fdatasync`; answered by [`LocalEvent::Synced`].
    Sync {
        /// Comes back in the answer.
        id: u64,
        /// The header with the position of the sync before.
        header: Option<ImageHeader>,
    },
    /// Write the header durably; answered by [`LocalEvent::HeaderSaved`].
    SaveHeader(ImageHeader),
}

/// What the local image answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEvent {
    /// A `Store` is done.
    Stored {
        /// Its id.
        id: u64,
    },
    /// The `Mark` is durable.
    Marked,
    /// The `Sync` is done.
    Synced {
        /// Its id.
        id: u64,
    },
    /// The `SaveHeader` is durable.
    HeaderSaved,
    /// Any of them failed.
    Failed {
        /// The error.
        error: String,
    },
}
