//! Who uses the device, like ext4: writes, flushes, and after each take-over reads everything back.
//! It knows what each block may hold, so that it notices anything lost, old or foreign.

use crate::Dice;
use crate::disk::{BLOCK, blocks};
use std::collections::{BTreeMap, BTreeSet};
use thermidor_model::NodeId;
use thermidor_model::replication::{DeviceOp, Op, OpKind};

#[derive(Debug, Clone, Hash)]
enum Asked {
    Change {
        op: Op,
        tag: u64,
    },
    /// What every block held when the flush was asked, and the changes that were not answered then.
    Flush {
        held: Vec<u64>,
        running: BTreeSet<u64>,
    },
}

#[derive(Debug, Clone, Hash)]
pub struct Client {
    /// Of the device as it is now.
    blocks: usize,
    /// What the device said a block holds; changes when a write is answered.
    holds: Vec<u64>,
    /// Every value a block may hold after a crash: the flushed one, and those written since, each with
    /// the request that wrote it.
    may_hold: Vec<Vec<(u64, u64)>>,
    asked: BTreeMap<u64, Asked>,
    next_request: u64,
    next_tag: u64,
    /// Where the device is attached, and in which epoch.
    pub at: Option<(NodeId, u64)>,
    pub flushes: u64,
}

impl Client {
    pub fn new(blocks: usize) -> Self {
        Self::of_a_growing_device(blocks, blocks)
    }

    /// Of a device that may become so long.
    pub fn of_a_growing_device(blocks: usize, most: usize) -> Self {
        Self {
            blocks,
            holds: vec![0; most],
            may_hold: vec![vec![(0, 0)]; most],
            asked: BTreeMap::new(),
            next_request: 1,
            next_tag: 1,
            at: None,
            flushes: 0,
        }
    }

    /// The device came up: the journal is replayed, everything is read.
    pub fn attach(&mut self, node: NodeId, epoch: u64, read: impl Fn(usize) -> u64) -> Result<(), String> {
        self.at = Some((node, epoch));
        self.asked.clear();
        for block in 0..self.holds.len() {
            let found = read(block);
            if !self.allows(block, found) {
                return Err(format!(
                    "invariant 2: after take-over by {node} block {block} holds {found}, not one of {:?}",
                    self.may_hold[block]
                ));
            }
            self.holds[block] = found;
        }
        Ok(())
    }

    /// The device is so long from now on. Where it ends what was there is zero: that was seen when it was attached.
    pub fn resized(&mut self, blocks: usize) {
        self.blocks = blocks;
    }

    /// What is there is all there is.
    pub fn believe(&mut self, held: Vec<u64>) {
        self.may_hold = held.iter().map(|tag| vec![(0, *tag)]).collect();
        self.holds = held;
        self.detach();
    }

    /// Whether a crash at this moment may leave that value.
    pub fn allows(&self, block: usize, tag: u64) -> bool {
        self.may_hold[block].iter().any(|(_, may)| *may == tag)
    }

    pub fn may_hold(&self, block: usize) -> &[(u64, u64)] {
        &self.may_hold[block]
    }

    pub fn detach(&mut self) {
        self.at = None;
        self.asked.clear();
    }

    pub fn running(&self, block: usize) -> bool {
        self.asked.values().any(|a| matches!(a, Asked::Change { op, .. } if blocks(op).contains(&block)))
    }

    /// A read must see what was answered.
    pub fn read(&self, block: usize, found: u64) -> Result<(), String> {
        if self.running(block) || found == self.holds[block] {
            return Ok(());
        }
        Err(format!("block {block} reads {found} instead of {}", self.holds[block]))
    }

    pub fn idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// The next request, with the tag of its blocks.
    pub fn ask(&mut self, dice: &mut Dice, only_flush: bool) -> Option<(u64, DeviceOp, u64)> {
        if self.asked.len() >= 12 {
            return None;
        }
        if only_flush || dice.permille(180) {
            return Some(self.asks(DeviceOp::Flush));
        }
        // mostly a hot place, like a journal
        let first = if dice.permille(600) { dice.range(0, 6) } else { dice.range(0, self.blocks as u64) };
        let count = dice.range(1, 4).min(self.blocks as u64 - first);
        if (first..first + count).any(|block| self.running(block as usize)) {
            return None;
        }
        let kind = match dice.range(0, 10) {
            0 => OpKind::Discard,
            1 => OpKind::Zero,
            _ => OpKind::Write,
        };
        Some(self.asks(DeviceOp::Change(Op { kind, offset: first * BLOCK, len: count * BLOCK })))
    }

    /// Asks for this, with the next number.
    pub fn asks(&mut self, device: DeviceOp) -> (u64, DeviceOp, u64) {
        let request = self.next_request;
        self.next_request += 1;
        let DeviceOp::Change(op) = device else {
            let changes = self.asked.iter().filter(|(_, a)| matches!(a, Asked::Change { .. }));
            let running = changes.map(|(request, _)| *request).collect();
            self.asked.insert(request, Asked::Flush { held: self.holds.clone(), running });
            return (request, device, 0);
        };
        let tag = if op.kind == OpKind::Write { self.next_tag } else { 0 };
        self.next_tag += 1;
        for block in blocks(&op) {
            self.may_hold[block].push((request, tag));
        }
        self.asked.insert(request, Asked::Change { op, tag });
        (request, device, tag)
    }

    /// The device answered; says whether that was a flush done.
    pub fn answered(&mut self, request: u64, ok: bool) -> bool {
        match self.asked.remove(&request) {
            Some(Asked::Change { op, tag }) if ok => {
                blocks(&op).for_each(|block| self.holds[block] = tag);
                false
            }
            Some(Asked::Flush { held, running }) if ok => {
                self.flushes += 1;
                for (block, may_hold) in self.may_hold.iter_mut().enumerate() {
                    may_hold.retain(|(by, _)| *by > request || running.contains(by));
                    may_hold.insert(0, (0, held[block]));
                }
                true
            }
            _ => false,
        }
    }
}
