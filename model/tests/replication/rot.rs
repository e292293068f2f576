//! Bit rot in the simulated home: a block on one member's platter turns into something else by itself. What it was is
//! known here, so that everything else holds as if it still were; and a search that finds what is none, or writes
//! rotten bytes over good ones, is noticed.

use crate::disk::BLOCK;
use crate::world::{MS, Machine, World};
use std::collections::{BTreeMap, BTreeSet};
use thermidor_model::NodeId;
use thermidor_model::replication::scrub::{Found, Pace};
use thermidor_model::replication::{EXTENT_BYTES, Event, Fetched};

/// Tags of rotten blocks have this bit.
const ROTTEN: u64 = 1 << 63;
/// Requests of the search are numbered from here.
const REQUESTS: u64 = 1 << 40;

/// Passes follow one another, with pauses short enough for a run.
const PACE: Pace = Pace {
    pass_every_ms: 60,
    extent_every_ms: 3,
    quiet_ms: 3,
    patience_ms: 20,
    at_once: 2,
    note_extents: 2,
    note_ms: 20,
};

#[derive(Debug, Default)]
pub struct Rot {
    on: bool,
    /// By tag: what it was.
    was: BTreeMap<u64, u64>,
    /// Where anything ever rotted.
    extents: BTreeSet<u64>,
    /// Tags that a catch-up has carried to another replica.
    copied: BTreeSet<u64>,
}

/// What rotted, and what became of it.
#[derive(Debug, Default)]
pub struct CameTo {
    pub rotted: u64,
    pub mended: u64,
    pub told: u64,
    pub copied: u64,
}

impl Rot {
    pub fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    /// What a block held before it rotted.
    pub fn was(&self, tag: u64) -> u64 {
        self.was.get(&tag).copied().unwrap_or(tag)
    }

    /// A catch-up copies what the active holds, rotten or not.
    pub fn copied(&mut self, payload: &[u64]) {
        self.copied.extend(payload.iter().filter(|tag| **tag & ROTTEN != 0));
    }
}

impl World {
    pub fn begin_to_scrub(&mut self, id: NodeId) {
        if !self.rot.on {
            return;
        }
        let record = self.nodes[&id].disk.as_ref().map(|disk| disk.record.clone()).unwrap_or_default();
        let wall_ms = self.now_us / MS;
        self.tell_active(id, Event::Scrub { record, pace: PACE, wall_ms });
    }

    /// Perhaps a block of this member rots, in an extent where nothing else is rotten.
    pub fn rot_something(&mut self, id: NodeId) {
        if !self.rot.on || !self.dice.permille(500) {
            return;
        }
        let volume = self.raft.volume().clone();
        let block = self.dice.range(0, self.size_bytes / BLOCK);
        let extent = block * BLOCK / EXTENT_BYTES;
        let rotten = |tag: &u64| *tag & ROTTEN != 0;
        let taken = |d: &crate::disk::Disk| d.extent(extent).iter().any(rotten);
        if volume.in_sync.len() < 2
            || !volume.in_sync.contains(&id)
            || self.nodes.values().filter_map(|n| n.disk.as_ref()).any(taken)
        {
            return;
        }
        let tag = ROTTEN | self.count();
        let Some(disk) = &mut self.node(id).disk else { return };
        let Some(was) = disk.rot(block as usize, tag) else { return };
        self.note(|| format!("block {block} of {id} rots, it was {was}"));
        self.rot.was.insert(tag, was);
        self.rot.extents.insert(extent);
    }

    /// The search found that replicas differ.
    pub fn differs(&mut self, id: NodeId, extent: u64, found: &BTreeMap<NodeId, Found>) {
        self.note(|| format!("{id} finds extent {extent} different: {found:?}"));
        if !self.rot.extents.contains(&extent) {
            self.violate(format!("{id} finds extent {extent} different, where nothing rotted: {found:?}"));
        }
    }

    /// The bytes of an extent have come to the active.
    pub fn fetched(&mut self, id: NodeId, from: NodeId, extent: u64, payload: Vec<u64>) {
        let request = REQUESTS + self.count();
        let mut hash = [0; 32];
        for (at, tag) in payload.iter().enumerate() {
            hash[at * 8..at * 8 + 8].copy_from_slice(&tag.to_le_bytes());
        }
        self.note(|| format!("{id} has extent {extent} of {from}: {payload:?}"));
        self.node(id).requests.insert(request, payload);
        self.tell_active(id, Event::Fetched(Fetched { request, from, extent, hash: Some(hash) }));
    }

    /// A request has its number: if it is the search's, its bytes are taken for right.
    pub fn numbered(&mut self, id: NodeId, request: u64, payload: &[u64]) {
        let wrong = |tag: &&u64| **tag & ROTTEN != 0 && !self.rot.copied.contains(tag);
        if request >= REQUESTS
            && let Some(tag) = payload.iter().find(wrong)
        {
            self.violate(format!("{id} takes for right what rotted, {tag:#x} among {payload:?}"));
        }
    }

    /// Whether the active tells of an extent that replicas hold different bytes and nobody knows which are right.
    pub fn is_told(&self, active: NodeId, extent: u64) -> bool {
        match &self.nodes[&active].machine {
            Machine::Active(a) => a.examination().open.get(&extent).is_some_and(|finding| finding.undecided),
            _ => false,
        }
    }

    /// What became of all that rotted.
    pub fn rot_came_to(&self) -> CameTo {
        let active = self.raft.volume().active.and_then(|id| match &self.nodes[&id].machine {
            Machine::Active(active) => Some(active),
            _ => None,
        });
        CameTo {
            rotted: self.rot.was.len() as u64,
            copied: self.rot.copied.len() as u64,
            mended: active.map_or(0, |a| a.examination().repaired_ever),
            told: active.map_or(0, |a| a.examination().open.len() as u64),
        }
    }
}
