//! What passes between active and replica, and what an image says of itself.

use super::scrub::{Found, Record};
use crate::name::{NodeId, ReplicaId, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Unit of marking, comparing and copying: 1 MiB. Small enough that a tail is copied in a second,
/// large enough that the marks of a 1 TiB volume fit into 128 KiB of bits.
pub const EXTENT_BYTES: u64 = 1 << 20;

/// The largest device whose marks and map fit before the data of an image, bytes (3.75 TiB).
pub const SIZE_MAX_BYTES: u64 = 3840 << 30;

/// Version of [`Frame`] and [`ImageHeader`].
pub const WIRE_VERSION: u32 = 2;

/// What an operation does to its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OpKind {
    /// Payload of `len` bytes.
    Write,
    /// The bytes are not needed any more; they read as zero.
    Discard,
    /// The bytes become zero.
    Zero,
}

/// A change of the volume's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Op {
    /// What is done.
    pub kind: OpKind,
    /// From where, bytes.
    pub offset: u64,
    /// How many bytes; not 0, within the volume.
    pub len: u64,
}

impl Op {
    /// The extents it touches.
    pub fn extents(&self) -> RangeInclusive<u64> {
        self.offset / EXTENT_BYTES..=(self.offset + self.len.max(1) - 1) / EXTENT_BYTES
    }

    /// Whether both touch a common byte.
    pub fn overlaps(&self, other: &Op) -> bool {
        self.offset < other.offset + other.len && other.offset < self.offset + self.len
    }

    /// Bytes that follow on the stream.
    pub fn payload(&self) -> u64 {
        if self.kind == OpKind::Write { self.len } else { 0 }
    }
}

/// What a replica's image durably says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageHeader {
    /// [`WIRE_VERSION`] of its writer.
    pub version: u32,
    /// Whose bytes these are.
    pub volume: VolumeName,
    /// Its random identity, the same as in Raft.
    pub replica: ReplicaId,
    /// Size of the device, bytes.
    pub size_bytes: u64,
    /// The highest epoch it has seen: an older one is refused.
    pub promised: u64,
    /// The epoch in which the image was last equal to an active's.
    pub epoch: u64,
    /// It holds every operation of `epoch` up to this number, durably.
    pub durable_seq: u64,
    /// A catch-up has begun and not ended: the bytes are of no one moment.
    pub torn: bool,
    /// It had an I/O error; never again a member.
    pub failed: bool,
    /// What its map counts from, named by the epoch in which that began. Images of the same line are equal
    /// wherever neither of their maps has an extent. 0: its map says nothing.
    pub line: u64,
}

impl ImageHeader {
    /// The header of a new, empty image.
    pub fn new(volume: VolumeName, replica: ReplicaId, size_bytes: u64) -> Self {
        Self {
            version: WIRE_VERSION,
            volume,
            replica,
            size_bytes,
            promised: 0,
            epoch: 0,
            durable_seq: 0,
            torn: false,
            failed: false,
            line: 0,
        }
    }
}

/// What a start finds on disk, and a retired machine leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The header.
    pub header: ImageHeader,
    /// The extents durably marked: their last writes may differ between replicas.
    pub marked: BTreeSet<u64>,
    /// The dirty-extent map: what was written since every replica of the volume was last known to be equal.
    pub noted: BTreeSet<u64>,
}

/// Some extents of a volume: a bit for each, up to the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extents(Vec<u8>);

impl Extents {
    /// Those of them that a volume of so many extents has.
    pub fn within(&self, count: u64) -> impl Iterator<Item = u64> + '_ {
        let bytes = (0..).zip(&self.0).filter(|(_, byte)| **byte != 0);
        let bits = bytes.flat_map(|(at, byte)| {
            (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| at * 8 + bit)
        });
        bits.take_while(move |extent| *extent < count)
    }
}

impl FromIterator<u64> for Extents {
    fn from_iter<T: IntoIterator<Item = u64>>(extents: T) -> Self {
        let mut bytes = Vec::new();
        for extent in extents {
            let at = (extent / 8) as usize;
            if at >= bytes.len() {
                bytes.resize(at + 1, 0);
            }
            bytes[at] |= 1 << (extent % 8);
        }
        Self(bytes)
    }
}

/// Why a replica does not take an active's stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It has seen a newer one.
    #[error("epoch {0} is promised")]
    OldEpoch(u64),
    /// Another volume, identity, size or version.
    #[error("{0}")]
    Foreign(String),
    /// Its disk failed.
    #[error("the replica's disk failed")]
    Failed,
    /// A frame that makes no sense here.
    #[error("unexpected {0}")]
    Unexpected(String),
}

/// One message of a session. Encoded by the shell; [`Frame::payload`] bytes follow it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Frame {
    /// Active to replica, first: who speaks, in which epoch, and whom it expects.
    Hello {
        /// [`WIRE_VERSION`]
        version: u32,
        /// Which volume.
        volume: VolumeName,
        /// In which epoch.
        epoch: u64,
        /// Who speaks.
        active: NodeId,
        /// The identity that Raft knows there.
        replica: ReplicaId,
        /// Size of the device, bytes.
        size_bytes: u64,
    },
    /// Replica to active, answers `Hello`: epoch promised, everything earlier stored.
    Present {
        /// Its header.
        header: ImageHeader,
        /// Its marked extents.
        marked: Vec<u64>,
        /// Its map.
        noted: Extents,
    },
    /// Replica to active: no. The session ends.
    Refused(Refusal),
    /// Active to replica: the stream begins.
    Begin {
        /// Until the next `Flush` the image is of no one moment: marks itself torn, and no extents.
        torn: bool,
    },
    /// Active to replica: an operation, in order; numbers grow but may leave gaps.
    Op {
        /// Its number in this epoch.
        seq: u64,
        /// What to do.
        op: Op,
    },
    /// Active to replica: a whole extent as it is on the active.
    Copy {
        /// Its number in this epoch.
        seq: u64,
        /// Which extent.
        extent: u64,
        /// Its bytes (the last one of a volume may be shorter).
        len: u64,
        /// All zero; no bytes follow.
        hole: bool,
    },
    /// Active to replica: make everything up to here durable, then `Ack`.
    Flush {
        /// Its number in this epoch.
        seq: u64,
        /// Every in-sync member holds everything up to here durably: older marks may go.
        all_durable: u64,
        /// Every replica there is holds everything up to here durably: older entries of the map may go.
        everywhere: u64,
    },
    /// Active to replica, before the flush that settles it: once it has settled, its map is of this line.
    Map {
        /// Of which line.
        line: u64,
        /// What the active's own map has; to be added.
        noted: Extents,
    },
    /// Active to replica: hash these extents as they are after the frames before this one.
    AskHashes {
        /// Which.
        extents: Vec<u64>,
    },
    /// Replica to active, answers `AskHashes`: BLAKE3 of each.
    Hashes {
        /// Extent and hash.
        hashes: Vec<(u64, [u8; 32])>,
    },
    /// Replica to active: how far it is.
    Ack {
        /// How many `Op` and `Copy` frames of this session are stored (in page cache at least).
        frames: u64,
        /// Everything up to this number of the active's epoch is durable; 0: nothing yet.
        durable: u64,
    },
    /// Active to replica, five times per replica timeout; answered by an `Ack`.
    Ping,
    /// Replica to active: its disk failed.
    Failed {
        /// The error.
        error: String,
    },
    /// Active to replica: look at this extent as it is after the frames before this one and before those after it.
    Examine {
        /// Its number in this epoch.
        seq: u64,
        /// Which extent.
        extent: u64,
    },
    /// Replica to active, answers `Examine`.
    Examined {
        /// The number asked under.
        seq: u64,
        /// What it found.
        found: Found,
    },
    /// Active to replica: every replica holds this extent alike, as it is after the frames before this one.
    Seal {
        /// Which extent.
        extent: u64,
        /// BLAKE3 of it.
        hash: [u8; 32],
    },
    /// Active to replica: send this extent as it is after the frames before this one.
    Fetch {
        /// Which extent.
        extent: u64,
    },
    /// Replica to active, answers `Fetch`.
    Extent {
        /// Which extent.
        extent: u64,
        /// Its bytes.
        len: u64,
        /// All zero; no bytes follow.
        hole: bool,
    },
    /// Active to replica: how far the examination of the volume is.
    Progress(Record),
    /// Active to replica: the device is longer from here on. Whose image can't become so refuses it.
    Grow {
        /// Its new size, bytes.
        size_bytes: u64,
    },
}

impl Frame {
    /// How many payload bytes follow it on the stream.
    pub fn payload(&self) -> u64 {
        match self {
            Frame::Op { op, .. } => op.payload(),
            Frame::Copy { len, hole: false, .. } | Frame::Extent { len, hole: false, .. } => *len,
            _ => 0,
        }
    }
}
