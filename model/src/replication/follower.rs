//! The replica's side: refuses what is old or foreign, stores in order, makes durable, acknowledges.

use super::frame::{Frame, Refusal};
use super::local::{LocalEffect, LocalEvent};

/// What happened at a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerEvent {
    /// A frame came from an active. The first of a session is its `Hello`.
    Frame {
        /// On which session; newer sessions have higher numbers.
        session: u64,
        /// Grows with every frame of this process; names the payload in `Store`.
        handle: u64,
        /// What it says.
        frame: Frame,
    },
    /// A session ended.
    Closed {
        /// Which.
        session: u64,
    },
    /// The local image answered.
    Local(LocalEvent),
    /// Answers [`FollowerEffect::Hash`].
    Hashed {
        /// For which session.
        session: u64,
        /// BLAKE3 of each extent asked for.
        hashes: Vec<(u64, [u8; 32])>,
    },
    /// Time has passed.
    Tick,
}

/// What the replica's shell is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerEffect {
    /// Something with the local image.
    Local(LocalEffect),
    /// Send a frame to the active.
    Send {
        /// On which session.
        session: u64,
        /// What.
        frame: Frame,
    },
    /// Hash these extents of the local image; answered by [`FollowerEvent::Hashed`].
    Hash {
        /// For which session.
        session: u64,
        /// Which.
        extents: Vec<u64>,
    },
    /// End a session, after what was sent on it; forget its payloads that are not in a `Store`.
    Close {
        /// Which.
        session: u64,
        /// Why, if it was refused.
        why: Option<Refusal>,
    },
    /// Once: the disk failed; the image is durably marked if it still could be.
    Failed {
        /// For people.
        error: String,
    },
}
