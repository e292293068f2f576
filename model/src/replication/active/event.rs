//! What the active hears and what it has done.

use super::super::frame::{Frame, Op};
use super::super::local::{LocalEffect, LocalEvent};
use super::super::scrub::{Found, Pace, Record};
use crate::command::Command;
use crate::name::NodeId;
use crate::state::Volume;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the kernel asks of the device. Reads do not come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceOp {
    /// Write, discard or zero.
    Change(Op),
    /// Make everything answered so far durable.
    Flush,
}

/// What became of the active's own proposal. There is one at most at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Applied; the new set version.
    Set(u64),
    /// `apply` refused it.
    Refused,
    /// No answer (timeout, no leader, leader changed): it may still be applied, also much later.
    Unknown,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The kernel asks. Its payload is held by the shell under `request`.
    Device {
        /// FUSE's unique number, or any other.
        request: u64,
        /// What.
        op: DeviceOp,
    },
    /// The local image answered.
    Local(LocalEvent),
    /// A session to a replica stands; the machine will say `Hello`.
    Connected {
        /// On which radiator.
        replica: NodeId,
        /// A number never used before.
        session: u64,
    },
    /// A frame came from a replica.
    Frame {
        /// From which radiator.
        replica: NodeId,
        /// On which session.
        session: u64,
        /// What it says.
        frame: Frame,
    },
    /// A session ended.
    Closed {
        /// To which radiator.
        replica: NodeId,
        /// Which session.
        session: u64,
    },
    /// Answers [`Effect::Compare`].
    Compared {
        /// Which replica.
        replica: NodeId,
        /// Which session.
        session: u64,
        /// The extents whose local hash differs from the given one.
        differing: Vec<u64>,
    },
    /// The volume as the local Raft node has applied it; whenever it changes.
    Config(Volume),
    /// The device is to be longer, and the disk here has room for it.
    Grow {
        /// Its new size, bytes.
        size_bytes: u64,
    },
    /// Answers [`Effect::Propose`].
    Answered(Answer),
    /// The service's lease is held until then; read it before every batch of events.
    Lease {
        /// CLOCK_BOOTTIME ms.
        until_ms: u64,
    },
    /// The file system is unmounted: make all durable everywhere, then [`Effect::Detached`].
    Detach,
    /// Examine the volume for bit rot from now on, going on where the record says.
    Scrub {
        /// As noted last, by whomever.
        record: Record,
        /// How fast.
        pace: Pace,
        /// Wall clock, Unix ms.
        wall_ms: u64,
    },
    /// A person wants all replicas compared now.
    Check,
    /// An extent's bytes are here: answers [`Effect::ReadExtent`], or came with a [`Frame::Extent`].
    Fetched(Fetched),
    /// Time has passed.
    Tick,
}

/// An extent's bytes, from a replica or from here. The shell holds them under `request`, as those of a device request,
/// until a `Number` or a `Reply` for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Like a device request's, and different from all of them.
    pub request: u64,
    /// From which radiator.
    pub from: NodeId,
    /// Which extent.
    pub extent: u64,
    /// BLAKE3 of the bytes; `None`: they could not be read.
    pub hash: Option<[u8; 32]>,
}

/// What the shell is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Something with the local image.
    Local(LocalEffect),
    /// The request's payload is known by this number from now on.
    Number {
        /// Which request.
        request: u64,
        /// Its number.
        seq: u64,
    },
    /// Payloads up to this number are not needed any more.
    Forget {
        /// The number.
        up_to: u64,
    },
    /// Send a frame (and its payload).
    Send {
        /// To which radiator.
        replica: NodeId,
        /// On which session.
        session: u64,
        /// What.
        frame: Frame,
    },
    /// End a session.
    Close {
        /// To which radiator.
        replica: NodeId,
        /// Which session.
        session: u64,
        /// For the log.
        why: String,
    },
    /// Hash these extents of the local image and answer with [`Event::Compared`].
    Compare {
        /// Which replica.
        replica: NodeId,
        /// Which session.
        session: u64,
        /// Extent and the replica's BLAKE3 of it.
        hashes: Vec<(u64, [u8; 32])>,
    },
    /// Read this extent of the local image and answer with [`Event::Fetched`].
    ReadExtent {
        /// Which.
        extent: u64,
    },
    /// For the log: the replicas were found different.
    Differs {
        /// On which extent.
        extent: u64,
        /// What each found.
        found: BTreeMap<NodeId, Found>,
    },
    /// Answer the kernel: done, or EIO.
    Reply {
        /// Which request.
        request: u64,
        /// `false`: EIO.
        ok: bool,
    },
    /// Propose a `DropFromSet` or `JoinSet` and bring back the [`Answer`].
    Propose(Command),
    /// Once: from now on every request gets EIO. Close the sessions, end the service here, ask for a hand-over.
    Fenced {
        /// For people.
        why: String,
    },
    /// Answers [`Event::Detach`]: all is durable on every in-sync member. From now on every request gets
    /// EIO, as after [`Effect::Fenced`]; close the sessions and give the lease back.
    Detached,
}

/// Why a radiator cannot be this epoch's active.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotServe {
    /// Raft says somebody else, or nobody.
    #[error("another radiator is active, or none")]
    NotActive,
    /// The image is not the member that Raft knows.
    #[error("the image here is replica {found}, not the member {expected}")]
    Foreign {
        /// In the header.
        found: String,
        /// In Raft.
        expected: String,
    },
    /// The image had an I/O error.
    #[error("the image here had an I/O error")]
    Failed,
    /// A catch-up was under way.
    #[error("the image here is of no one moment: a catch-up was under way")]
    Torn,
    /// An earlier life of this process used the epoch, or a newer one is known: ask for `Activate` with `Why::Again`.
    #[error("epoch {epoch} cannot be used: epoch {promised} is promised")]
    EpochUsed {
        /// The epoch in Raft.
        epoch: u64,
        /// The one in the header.
        promised: u64,
    },
}

/// How a replica that returned is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grade {
    /// The operations it missed, from the ring of recent writes.
    Ring,
    /// The extents that it or the active may have been written meanwhile.
    Map,
    /// Every extent is compared.
    Compare,
}

/// How far a replica is, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whether a session stands and the replica proved who it is.
    pub connected: bool,
    /// Whether it counts for flushes.
    pub counted: bool,
    /// How it is or was brought up to date in this session.
    pub grade: Option<Grade>,
    /// Extents still to be compared or copied.
    pub extents_left: u64,
    /// Extents that were to be compared or copied in this session.
    pub extents_total: u64,
    /// Extents copied in this session.
    pub extents_copied: u64,
    /// How fast what it lacks becomes less, bytes a second, since the session began; 0 once it lacks nothing.
    pub bytes_per_s: u64,
    /// Until it lacks nothing at that speed, s; `None`: nothing is done yet.
    pub seconds_left: Option<u64>,
    /// Durable up to this number of the epoch.
    pub durable_seq: u64,
}
