//! One active on a bench: its disk answers at once unless told not to, replicas are played by hand.

use std::collections::BTreeSet;
use thermidor_model::command::Command;
use thermidor_model::name::{NodeId, ReplicaId, ServiceName, VolumeName};
use thermidor_model::replication::{
    Active, CannotServe, DeviceOp, EXTENT_BYTES, Effect, Event, Frame, Image, ImageHeader, Limits,
    LocalEffect, LocalEvent, Op, OpKind,
};
use thermidor_model::spec::OnDegraded;
use thermidor_model::state::Volume;

pub const EPOCH: u64 = 5;
pub const SIZE: u64 = 16 * EXTENT_BYTES;

pub fn name() -> VolumeName {
    VolumeName::new("box").unwrap()
}

pub fn id_of(node: NodeId) -> ReplicaId {
    ReplicaId(100 + node)
}

pub fn config(replicas: &[NodeId], in_sync: &[NodeId]) -> Volume {
    Volume {
        service: ServiceName::new("mail").unwrap(),
        size_bytes: SIZE,
        driver: Default::default(),
        replicas_wanted: 3,
        durability: 2,
        on_degraded: OnDegraded::Continue,
        port: 7480,
        epoch: EPOCH,
        active: Some(1),
        replicas: replicas.iter().map(|node| (*node, id_of(*node))).collect(),
        in_sync: in_sync.iter().copied().collect(),
        set_version: 10,
    }
}

/// The image of a member as the epoch before left it.
pub fn image(node: NodeId, marked: &[u64]) -> Image {
    let mut header = ImageHeader::new(name(), id_of(node), SIZE);
    (header.promised, header.epoch, header.durable_seq) = (EPOCH - 1, EPOCH - 1, 40);
    header.line = 1;
    let noted = marked.iter().copied().collect();
    Image { header, marked: marked.iter().copied().collect(), noted }
}

pub fn write(block: u64) -> Op {
    Op { kind: OpKind::Write, offset: block * EXTENT_BYTES, len: 4096 }
}

pub struct Bench {
    pub active: Active,
    pub config: Volume,
    pub now_ms: u64,
    pub effects: Vec<Effect>,
    /// The disk does not answer a sync.
    pub slow: bool,
    next: u64,
}

impl Bench {
    pub fn try_new(config: Volume, image: Image) -> Result<Self, CannotServe> {
        let limits = Limits { ring_bytes: 3 * 4096, ..Limits::default() };
        let (active, effects) = Active::start(1, &name(), &config, image, 1_000_000, limits, 0)?;
        let mut bench = Self { active, config, now_ms: 0, effects: vec![], slow: false, next: 1 };
        bench.carry_out(effects);
        Ok(bench)
    }

    /// Active on 1, with members 2 and 3 connected and in sync.
    pub fn of_three() -> Self {
        let mut bench = Self::try_new(config(&[1, 2, 3], &[1, 2, 3]), image(1, &[])).unwrap();
        for node in [2, 3] {
            bench.connect(node, image(node, &[]));
            bench.acknowledge(node);
        }
        bench.acknowledge(2);
        bench.effects.clear();
        bench
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let answer = match &effect {
                Effect::Local(LocalEffect::Store { id, .. }) => LocalEvent::Stored { id: *id },
                Effect::Local(LocalEffect::Mark { .. }) => LocalEvent::Marked,
                Effect::Local(LocalEffect::Sync { id, .. }) if !self.slow => LocalEvent::Synced { id: *id },
                Effect::Local(LocalEffect::SaveHeader { .. }) => LocalEvent::HeaderSaved,
                _ => {
                    self.effects.push(effect);
                    continue;
                }
            };
            self.effects.push(effect);
            self.hear(Event::Local(answer));
        }
    }

    pub fn hear(&mut self, event: Event) {
        let effects = self.active.handle(self.now_ms, event);
        self.carry_out(effects);
    }

    pub fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.hear(Event::Tick);
    }

    pub fn ask(&mut self, op: DeviceOp) -> u64 {
        self.next += 1;
        self.hear(Event::Device { request: self.next, op });
        self.next
    }

    pub fn write(&mut self, block: u64) -> u64 {
        self.ask(DeviceOp::Change(write(block)))
    }

    pub fn flush(&mut self) -> u64 {
        self.ask(DeviceOp::Flush)
    }

    /// The session to a replica is numbered like its radiator.
    pub fn connect(&mut self, node: NodeId, image: Image) {
        self.hear(Event::Connected { replica: node, session: node });
        let (marked, noted) = (image.marked.into_iter().collect(), image.noted.into_iter().collect());
        self.say(node, Frame::Present { header: image.header, marked, noted });
    }

    pub fn close(&mut self, node: NodeId) {
        self.hear(Event::Closed { replica: node, session: node });
    }

    pub fn say(&mut self, node: NodeId, frame: Frame) {
        self.hear(Event::Frame { replica: node, session: node, frame });
    }

    /// What was sent to a replica so far.
    pub fn sent(&self, node: NodeId) -> Vec<Frame> {
        let to = |effect: &Effect| match effect {
            Effect::Send { replica, frame, .. } if *replica == node => Some(frame.clone()),
            _ => None,
        };
        self.effects.iter().filter_map(to).collect()
    }

    pub fn last_flush(&self, node: NodeId) -> u64 {
        let flush = |frame: Frame| if let Frame::Flush { seq, .. } = frame { Some(seq) } else { None };
        self.sent(node).into_iter().filter_map(flush).next_back().unwrap_or(0)
    }

    /// The replica has stored all it was sent and made it durable up to the last flush.
    pub fn acknowledge(&mut self, node: NodeId) {
        let durable = self.last_flush(node);
        self.say(node, Frame::Ack { frames: 1000, durable });
    }

    pub fn replies(&self, request: u64) -> Vec<bool> {
        let to = |effect: &Effect| match effect {
            Effect::Reply { request: r, ok } if *r == request => Some(*ok),
            _ => None,
        };
        self.effects.iter().filter_map(to).collect()
    }

    pub fn proposed(&self) -> Vec<Command> {
        let of = |effect: &Effect| {
            if let Effect::Propose(command) = effect { Some(command.clone()) } else { None }
        };
        self.effects.iter().filter_map(of).collect()
    }

    pub fn fenced(&self) -> Option<String> {
        self.effects
            .iter()
            .find_map(|e| if let Effect::Fenced { why } = e { Some(why.clone()) } else { None })
    }

    pub fn copied(&self, node: NodeId) -> BTreeSet<u64> {
        let extent = |frame: Frame| if let Frame::Copy { extent, .. } = frame { Some(extent) } else { None };
        self.sent(node).into_iter().filter_map(extent).collect()
    }
}
