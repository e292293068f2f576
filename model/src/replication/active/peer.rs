//! What the active knows of one other replica, and of the stream to it.

use super::super::frame::EXTENT_BYTES;
use super::Grade;
use crate::name::ReplicaId;
use std::collections::{BTreeSet, VecDeque};

/// One other replica.
#[derive(Debug, Clone, Hash)]
pub(super) struct Peer {
    pub id: ReplicaId,
    pub session: Option<u64>,
    /// Since the replica proved who it is.
    pub stream: Option<Stream>,
    /// It said so itself: durable up to this number of this epoch.
    pub durable: u64,
    /// The highest number stored there, as far as acknowledged. Only a broken rule reads it.
    pub received: u64,
    /// It was in the in-sync set when the epoch began: only marked extents can differ.
    pub base_in_set: bool,
    pub failed: bool,
    pub heard_ms: u64,
    /// When its session began or last brought anything.
    pub alive_ms: u64,
    /// Waited for already, though not proposed yet.
    pub joining: bool,
}

impl Peer {
    pub fn new(id: ReplicaId, now_ms: u64) -> Self {
        Self {
            id,
            session: None,
            stream: None,
            durable: 0,
            received: 0,
            base_in_set: false,
            failed: false,
            heard_ms: now_ms,
            alive_ms: now_ms,
            joining: false,
        }
    }

    /// The session's number, if it is the given one and the replica proved who it is.
    pub fn stream_of(&mut self, session: u64) -> Option<&mut Stream> {
        if self.session == Some(session) { self.stream.as_mut() } else { None }
    }
}

/// A frame sent and not yet stored there.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Sent {
    pub seq: u64,
    pub bytes: u64,
    pub copy: bool,
}

/// One session's stream.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Stream {
    pub sent: VecDeque<Sent>,
    pub in_flight: u64,
    pub copying: usize,
    pub frames_acked: u64,
    /// To be copied.
    pub dirty: BTreeSet<u64>,
    /// To be compared, then copied if different.
    pub unknown: BTreeSet<u64>,
    /// Every extent from here on is to be compared.
    pub compare_from: Option<u64>,
    /// Under comparison: which, and the last number when they were asked about.
    pub asked: Option<(BTreeSet<u64>, u64)>,
    pub torn: bool,
    /// How it is brought up to date.
    pub grade: Option<Grade>,
    /// When the session began, ms, and how many extents it lacked then.
    pub began: (u64, u64),
    /// Extents copied.
    pub copied: u64,
    /// Bytes that may be copied before more of the device's own have gone by.
    pub credit: i64,
    /// When the last copy was sent, ms.
    pub copied_ms: u64,
    /// Its map is of another line: it is to take this one's when it settles.
    pub teach: bool,
    /// The first flush sent since nothing is left to compare or copy.
    pub settle: Option<u64>,
    /// When that was sent, ms, as long as it matters: 0 for a member, and for one that joins.
    pub settle_ms: u64,
}

impl Stream {
    /// Whether the replica may lack this extent, so that changes of it need not be sent.
    pub fn lacks(&self, extent: u64) -> bool {
        self.dirty.contains(&extent)
            || self.unknown.contains(&extent)
            || self.compare_from.is_some_and(|from| extent >= from)
            || self.asked.as_ref().is_some_and(|(asked, _)| asked.contains(&extent))
    }

    /// Whether nothing is left to compare or copy.
    pub fn whole(&self) -> bool {
        self.dirty.is_empty()
            && self.unknown.is_empty()
            && self.compare_from.is_none()
            && self.asked.is_none()
    }

    /// Extents left of a volume of so many.
    pub fn left(&self, extents: u64) -> u64 {
        let asked = self.asked.as_ref().map_or(0, |(asked, _)| asked.len());
        (self.dirty.len() + self.unknown.len() + asked + self.copying) as u64
            + self.compare_from.map_or(0, |from| extents.saturating_sub(from))
    }

    /// How many extents were to do, how many bytes of them are done in a second, and the seconds left.
    pub fn speed(&self, extents: u64, now_ms: u64) -> (u64, u64, Option<u64>) {
        let left = self.left(extents);
        let total = self.began.1.max(left);
        if left == 0 {
            return (total, 0, Some(0));
        }
        let took_ms = now_ms.saturating_sub(self.began.0).max(1);
        let bytes_per_s = (total - left).saturating_mul(EXTENT_BYTES).saturating_mul(1000) / took_ms;
        let bytes_left = left.saturating_mul(EXTENT_BYTES);
        (total, bytes_per_s, (bytes_per_s > 0).then(|| bytes_left.div_ceil(bytes_per_s)))
    }

    /// A frame with a change went out.
    pub fn sent(&mut self, seq: u64, bytes: u64, copy: bool) {
        self.sent.push_back(Sent { seq, bytes, copy });
        self.in_flight += bytes;
        self.copying += usize::from(copy);
    }

    /// So many frames are stored there; gives the number of the last one.
    pub fn stored(&mut self, frames: u64) -> Option<u64> {
        let mut last = None;
        while self.frames_acked < frames {
            let Some(sent) = self.sent.pop_front() else { break };
            self.frames_acked += 1;
            self.in_flight -= sent.bytes;
            self.copying -= usize::from(sent.copy);
            last = Some(sent.seq);
        }
        last
    }
}
