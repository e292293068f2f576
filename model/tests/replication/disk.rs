//! A disk with a page cache: after a crash any subset of what was not synced survives.

use crate::Chance;
use std::collections::{BTreeMap, BTreeSet};
use thermidor_model::NodeId;
use thermidor_model::replication::scrub::{Found, Record, Seal};
use thermidor_model::replication::{EXTENT_BYTES, Image, ImageHeader, Op, OpKind};

/// What the simulator writes at once; four make an extent.
pub const BLOCK: u64 = EXTENT_BYTES / 4;

pub fn blocks(op: &Op) -> std::ops::Range<usize> {
    (op.offset / BLOCK) as usize..((op.offset + op.len) / BLOCK) as usize
}

pub type Hashes = Vec<(u64, [u8; 32])>;

#[derive(Debug, Clone, Hash)]
pub enum Job {
    Store { id: u64, op: Op, tags: Vec<u64> },
    Sync { id: u64, header: Option<ImageHeader>, seen: Vec<usize> },
    Mark { mark: Vec<u64>, unmark: Vec<u64>, note: Vec<u64>, forget: Vec<u64> },
    Save { header: ImageHeader, note: Vec<u64> },
    Hash { session: u64, extents: Vec<u64> },
    Compare { replica: NodeId, session: u64, hashes: Hashes },
    Examine { id: u64, extent: u64 },
    Read { extent: u64 },
}

/// One image. Each block holds the tag of the write that made it; 0 is empty.
#[derive(Debug, Clone, Hash)]
pub struct Disk {
    pub header: ImageHeader,
    pub marked: BTreeSet<u64>,
    pub noted: BTreeSet<u64>,
    stable: Vec<u64>,
    cached: Vec<Vec<u64>>,
    jobs: BTreeMap<u64, Job>,
    seals: BTreeMap<u64, [u8; 32]>,
    /// How far the search for bit rot was noted to be.
    pub record: Record,
    pub bad: bool,
}

impl Disk {
    pub fn new(header: ImageHeader) -> Self {
        let count = (header.size_bytes / BLOCK) as usize;
        Self {
            header,
            marked: BTreeSet::new(),
            noted: BTreeSet::new(),
            stable: vec![0; count],
            cached: vec![vec![]; count],
            jobs: BTreeMap::new(),
            seals: BTreeMap::new(),
            record: Record::default(),
            bad: false,
        }
    }

    pub fn image(&self) -> Image {
        Image { header: self.header.clone(), marked: self.marked.clone(), noted: self.noted.clone() }
    }

    /// How many blocks the device has; what the file holds beyond them is not seen.
    fn count(&self) -> usize {
        (self.header.size_bytes / BLOCK) as usize
    }

    pub fn read(&self, block: usize) -> u64 {
        if block >= self.count() {
            return 0;
        }
        self.cached[block].last().copied().unwrap_or(self.stable[block])
    }

    /// Everything that a crash could leave in a block.
    pub fn could_be(&self, block: usize) -> impl Iterator<Item = u64> + '_ {
        let inside = block < self.count();
        let cached = if inside { &self.cached[block][..] } else { &[] };
        cached.iter().copied().chain([if inside { self.stable[block] } else { 0 }])
    }

    pub fn extent(&self, extent: u64) -> Vec<u64> {
        let first = (extent * EXTENT_BYTES / BLOCK) as usize;
        (first..(first + 4).min(self.count())).map(|b| self.read(b)).collect()
    }

    /// A hash that keeps everything.
    pub fn hash(&self, extent: u64) -> [u8; 32] {
        let mut hash = [0; 32];
        for (at, tag) in self.extent(extent).into_iter().enumerate() {
            hash[at * 8..at * 8 + 8].copy_from_slice(&tag.to_le_bytes());
        }
        hash
    }

    pub fn begin(&mut self, token: u64, mut job: Job) {
        if let Job::Sync { seen, .. } = &mut job {
            *seen = self.cached.iter().map(Vec::len).collect();
        }
        self.jobs.insert(token, job);
    }

    /// What runs.
    pub fn jobs(&self) -> impl Iterator<Item = u64> + '_ {
        self.jobs.keys().copied()
    }

    pub fn finish(&mut self, token: u64) -> Option<Job> {
        let job = self.jobs.remove(&token)?;
        match &job {
            Job::Store { op, tags, .. } => {
                for (at, block) in blocks(op).enumerate() {
                    self.cached[block].push(if op.kind == OpKind::Write { tags[at] } else { 0 });
                }
            }
            Job::Sync { header, seen, .. } => {
                for (block, seen) in seen.iter().enumerate().filter(|(_, seen)| **seen > 0) {
                    // of a device that was longer
                    if self.cached.get(block).is_none_or(|cached| cached.len() < *seen) {
                        continue;
                    }
                    self.stable[block] = self.cached[block][seen - 1];
                    self.cached[block].drain(..seen);
                }
                if let Some(header) = header {
                    self.note(header);
                }
            }
            Job::Mark { mark, unmark, note, forget } => {
                self.seals.retain(|extent, _| !mark.contains(extent));
                self.marked.extend(mark);
                self.marked.retain(|extent| !unmark.contains(extent));
                self.noted.extend(note);
                self.noted.retain(|extent| !forget.contains(extent));
            }
            Job::Save { header, note } => {
                self.noted.extend(note);
                self.save(header);
            }
            Job::Hash { .. } | Job::Compare { .. } | Job::Examine { .. } | Job::Read { .. } => {}
        }
        Some(job)
    }

    /// The map is gone, as after an upgrade from a program that kept none.
    pub fn lose_map(&mut self) {
        self.header.line = 0;
        self.noted.clear();
    }

    /// Whether the map of this or that image says that they may differ in an extent.
    pub fn either_notes(&self, other: &Disk, extent: u64) -> bool {
        [self, other].iter().any(|disk| disk.noted.contains(&extent) || disk.marked.contains(&extent))
    }

    /// A position; the size is as it was saved.
    fn note(&mut self, header: &ImageHeader) {
        self.save(&ImageHeader { size_bytes: self.header.size_bytes, ..header.clone() });
    }

    fn save(&mut self, header: &ImageHeader) {
        if header.torn {
            self.seals.clear();
        }
        self.resize(header.size_bytes);
        self.header = header.clone();
    }

    /// The device has that size, durably. What is new is zero, whatever lay there when the device was longer once.
    pub fn resize(&mut self, size_bytes: u64) {
        if size_bytes > self.header.size_bytes {
            let (had, count) = (self.count(), (size_bytes / BLOCK) as usize);
            self.stable.truncate(had);
            self.cached.truncate(had);
            self.stable.resize(count, 0);
            self.cached.resize(count, vec![]);
            self.seals.retain(|extent, _| extent * EXTENT_BYTES < had as u64 * BLOCK);
        }
        self.header.size_bytes = size_bytes;
    }

    /// Seals an extent: in order with marks and headers, so at once.
    pub fn seal(&mut self, extent: u64, hash: [u8; 32]) {
        self.seals.insert(extent, hash);
    }

    /// What a look at the platter finds.
    pub fn examine(&self, extent: u64) -> Found {
        let hash = self.hash(extent);
        let seal = match self.seals.get(&extent) {
            None => Seal::Absent,
            Some(sealed) if *sealed == hash => Seal::Whole,
            Some(_) => Seal::Broken,
        };
        Found { hash: Some(hash), seal }
    }

    /// A block that lies on the platter only turns into something else; gives what it was.
    pub fn rot(&mut self, block: usize, tag: u64) -> Option<u64> {
        let on_platter = block < self.count() && self.cached[block].is_empty();
        on_platter.then(|| std::mem::replace(&mut self.stable[block], tag))
    }

    /// The process is gone; with `power` the page cache too.
    pub fn crash(&mut self, power: bool, dice: &mut impl Chance) {
        for job in std::mem::take(&mut self.jobs).into_values() {
            match job {
                Job::Store { op, tags, .. } => {
                    for (at, block) in blocks(&op).enumerate() {
                        if dice.permille(500) {
                            self.cached[block].push(if op.kind == OpKind::Write { tags[at] } else { 0 });
                        }
                    }
                }
                Job::Sync { header: Some(header), .. } if dice.permille(500) => {
                    self.note(&header);
                }
                Job::Save { header, note } => {
                    let most = note.len();
                    let first: Vec<u64> = note.into_iter().filter(|_| dice.permille(500)).collect();
                    // what is noted comes before the header
                    if first.len() == most && dice.permille(500) {
                        self.save(&header);
                    }
                    self.noted.extend(first);
                }
                Job::Mark { mark, unmark, note, forget } => {
                    self.seals.retain(|extent, _| !mark.contains(extent));
                    self.marked.extend(mark.into_iter().filter(|_| dice.permille(500)));
                    self.marked.retain(|extent| !unmark.contains(extent) || dice.permille(500));
                    self.noted.extend(note.into_iter().filter(|_| dice.permille(500)));
                    self.noted.retain(|extent| !forget.contains(extent) || dice.permille(500));
                }
                _ => {}
            }
        }
        if power {
            self.seals.retain(|_, _| dice.permille(700));
            for (stable, cached) in self.stable.iter_mut().zip(&mut self.cached) {
                cached.push(*stable);
                *stable = dice.pick(cached).unwrap_or_default();
                cached.clear();
            }
        }
    }
}
