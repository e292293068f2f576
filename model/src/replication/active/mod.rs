//! The active's side: numbers the device's operations, streams them, answers flushes, and keeps
//! the in-sync set true through Raft.

mod catch_up;
mod device;
mod event;
mod growth;
mod peer;
mod scrub;
mod set;

pub use event::{Answer, CannotServe, DeviceOp, Effect, Event, Fetched, Grade, Progress};

use super::frame::{Frame, Image, Op};
use super::local::{Local, LocalEvent};
use super::{Limits, Rules};
use crate::name::{NodeId, VolumeName};
use crate::state::Volume;
use device::Flush;
use peer::Peer;
use scrub::Scrub;
use set::Proposed;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

/// So many pings go out in a replica timeout.
const PINGS: u64 = 5;

/// The number of the tail: what every epoch begins with, the marked extents as its first operation.
const TAIL: u64 = 1;

/// After so long without a change the device counts as idle, ms.
const IDLE_MS: u64 = 50;

/// The active of one volume, for one epoch.
#[derive(Debug, Clone, Hash)]
pub struct Active {
    me: NodeId,
    volume: VolumeName,
    limits: Limits,
    rules: Rules,
    config: Volume,
    local: Local,
    /// The last number given.
    seq: u64,
    /// The last change of each extent, in this epoch.
    last_change: BTreeMap<u64, u64>,
    /// The last change of any.
    changed: u64,
    /// When that was.
    changed_ms: u64,
    ring: VecDeque<(u64, Op)>,
    ring_bytes: u64,
    /// The ring holds every change after this number.
    ring_after: u64,
    waiting: VecDeque<(u64, DeviceOp)>,
    /// Changes that the kernel waits for: their request by number.
    unanswered: BTreeMap<u64, u64>,
    flushes: VecDeque<Flush>,
    /// Durable here.
    local_durable: u64,
    /// Durable on every member that counted, ever growing.
    all_durable: u64,
    peers: BTreeMap<NodeId, Peer>,
    /// No change of this extent is begun, so that it can be copied.
    held: Option<u64>,
    proposed: Option<Proposed>,
    propose_after_ms: u64,
    /// An addition whose outcome is not known: who, and from which set version.
    maybe_in: Option<(NodeId, u64)>,
    lease_until_ms: u64,
    fenced: bool,
    started: bool,
    detaching: bool,
    /// The last flush before detaching is under way: everything is durable everywhere.
    swept: bool,
    now_ms: u64,
    pinged_ms: u64,
    scrub: Scrub,
    out: Outbox,
}

/// Effects on their way out. Empty between two steps, so they are no part of the state that a search of
/// all states tells apart.
#[derive(Debug, Clone, Default)]
struct Outbox(Vec<Effect>);

impl Hash for Outbox {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Outbox {
    fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    fn extend(&mut self, effects: impl IntoIterator<Item = Effect>) {
        self.0.extend(effects);
    }

    fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.0)
    }
}

impl Active {
    /// Begins an epoch on this radiator's image.
    pub fn start(
        me: NodeId,
        volume: &VolumeName,
        config: &Volume,
        image: Image,
        lease_until_ms: u64,
        limits: Limits,
        now_ms: u64,
    ) -> Result<(Self, Vec<Effect>), CannotServe> {
        Self::with_rules(me, volume, config, image, lease_until_ms, limits, Rules::default(), now_ms)
    }

    /// For tests that break a rule.
    #[allow(clippy::too_many_arguments)] // everything an epoch begins from
    pub fn with_rules(
        me: NodeId,
        volume: &VolumeName,
        config: &Volume,
        image: Image,
        lease_until_ms: u64,
        limits: Limits,
        rules: Rules,
        now_ms: u64,
    ) -> Result<(Self, Vec<Effect>), CannotServe> {
        let header = &image.header;
        if config.active != Some(me) || !config.in_sync.contains(&me) {
            return Err(CannotServe::NotActive);
        }
        let expected = config.replicas.get(&me);
        if expected != Some(&header.replica) || header.volume != *volume {
            return Err(CannotServe::Foreign {
                found: format!("{} of {}", header.replica, header.volume),
                expected: expected.map_or_else(|| "none".into(), |id| format!("{id} of {volume}")),
            });
        }
        if header.failed {
            return Err(CannotServe::Failed);
        }
        if header.torn {
            return Err(CannotServe::Torn);
        }
        if header.promised >= config.epoch {
            return Err(CannotServe::EpochUsed { epoch: config.epoch, promised: header.promised });
        }
        let last_change = image.marked.iter().map(|extent| (*extent, TAIL)).collect();
        let mut local = Local::new(image, TAIL, &limits, &rules);
        (local.header.promised, local.header.epoch) = (config.epoch, config.epoch);
        if local.header.line == 0 {
            // blank, or its map was lost: what is written counts from here, for whoever settles from now on
            local.header.line = config.epoch;
        }
        local.header.durable_seq = 0;
        local.save_header();
        let mut active = Self {
            me,
            volume: volume.clone(),
            limits,
            rules,
            // What is served is as long as the image here; the record may want more already.
            config: Volume { size_bytes: local.header.size_bytes, ..config.clone() },
            local,
            seq: TAIL,
            last_change,
            changed: TAIL,
            changed_ms: now_ms.saturating_sub(IDLE_MS),
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_after: TAIL,
            waiting: VecDeque::new(),
            unanswered: BTreeMap::new(),
            flushes: VecDeque::new(),
            local_durable: 0,
            all_durable: 0,
            peers: BTreeMap::new(),
            held: None,
            proposed: None,
            propose_after_ms: now_ms,
            maybe_in: None,
            lease_until_ms,
            fenced: false,
            started: false,
            detaching: false,
            swept: false,
            now_ms,
            pinged_ms: now_ms,
            scrub: Scrub::default(),
            out: Outbox::default(),
        };
        active.renew_peers();
        for node in config.in_sync.iter() {
            if let Some(peer) = active.peers.get_mut(node) {
                peer.base_in_set = true;
            }
        }
        active.pump();
        let effects = active.out.take();
        Ok((active, effects))
    }

    /// Whether reads may be answered and the device is not failed.
    pub fn serving(&self, now_ms: u64) -> bool {
        !self.fenced && now_ms < self.lease_until_ms
    }

    /// Whether nothing is under way at the image.
    pub fn is_idle(&self) -> bool {
        self.local.is_idle()
    }

    /// The image as the next machine finds it. Only when fenced or detached, and idle.
    pub fn into_image(self) -> Image {
        self.local.into_image()
    }

    /// The epoch it serves in.
    pub fn epoch(&self) -> u64 {
        self.config.epoch
    }

    /// Who is in sync, as this active knows it.
    pub fn in_sync(&self) -> &BTreeSet<NodeId> {
        &self.config.in_sync
    }

    /// How far each other replica is.
    pub fn progress(&self) -> BTreeMap<NodeId, Progress> {
        let extents = self.extents();
        let of = |(node, peer): (&NodeId, &Peer)| {
            let stream = peer.stream.as_ref();
            let speed = stream.map(|s| s.speed(extents, self.now_ms));
            let (extents_total, bytes_per_s, seconds_left) = speed.unwrap_or_default();
            let progress = Progress {
                extents_total,
                extents_copied: stream.map_or(0, |s| s.copied),
                bytes_per_s,
                seconds_left,
                connected: peer.stream.is_some(),
                counted: self.counted(*node),
                extents_left: peer.stream.as_ref().map_or(0, |s| s.left(extents)),
                grade: peer.stream.as_ref().and_then(|s| s.grade),
                durable_seq: peer.durable,
            };
            (*node, progress)
        };
        self.peers.iter().map(of).collect()
    }

    /// One step.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        self.now_ms = self.now_ms.max(now_ms);
        if let Event::Lease { until_ms } = event {
            self.lease_until_ms = until_ms;
        }
        if self.now_ms >= self.lease_until_ms {
            self.fence("the lease ended".into());
        }
        match event {
            Event::Device { request, op } => self.waiting.push_back((request, op)),
            Event::Local(LocalEvent::Failed { error }) => self.disk_failed(error),
            Event::Local(LocalEvent::Examined { id, found }) => {
                self.answered_locally(&LocalEvent::Examined { id, found });
                self.examined(self.me, id, found);
            }
            Event::Local(event) => self.answered_locally(&event),
            Event::Connected { replica, session } => self.connected(replica, session),
            Event::Frame { replica, session, frame } => self.frame(replica, session, frame),
            Event::Closed { replica, session } => self.closed(replica, session),
            Event::Compared { replica, session, differing } => self.compared(replica, session, &differing),
            Event::Config(volume) => self.configured(volume),
            Event::Grow { size_bytes } => self.grow(size_bytes),
            Event::Answered(answer) => self.answered(&answer),
            Event::Detach => self.detach(),
            Event::Scrub { record, pace, wall_ms } => self.begin_to_scrub(record, pace, wall_ms),
            Event::Check => self.check_asked(),
            Event::Fetched(fetched) => self.fetched(fetched),
            Event::Lease { .. } | Event::Tick => {}
        }
        self.pump();
        self.out.take()
    }

    /// Everything that can go on now.
    fn pump(&mut self) {
        if !self.started && !self.fenced && self.local.header_saved() {
            self.started = true;
            self.greet_all();
        }
        if self.fenced {
            self.refuse_all();
        } else if self.started {
            self.ping();
            self.pump_peers();
            self.pump_device();
            self.pump_flushes();
            self.pump_set();
            self.pump_scrub();
        }
        let mut out = Vec::new();
        self.local.pump(&mut out);
        self.out.extend(out.into_iter().map(Effect::Local));
    }

    fn extents(&self) -> u64 {
        self.config.size_bytes.div_ceil(super::EXTENT_BYTES)
    }

    fn send(&mut self, replica: NodeId, session: u64, frame: Frame) {
        self.out.push(Effect::Send { replica, session, frame });
    }

    fn ping(&mut self) {
        if self.now_ms < self.pinged_ms + self.limits.replica_timeout_ms / PINGS {
            return;
        }
        self.pinged_ms = self.now_ms;
        let mut to = Vec::new();
        let mut dead = Vec::new();
        for (node, peer) in &self.peers {
            let Some(session) = peer.session else { continue };
            if self.now_ms >= peer.alive_ms + self.limits.flush_timeout_ms {
                dead.push(*node);
            } else if peer.stream.is_some() {
                to.push((*node, session));
            }
        }
        for node in dead {
            self.close(node, "nothing comes from it");
        }
        for (node, session) in to {
            self.send(node, session, Frame::Ping);
        }
    }

    /// The device fails from now on; sticky.
    fn fence(&mut self, why: String) {
        if !self.fenced {
            self.fenced = true;
            self.local.drop_queued();
            self.out.push(Effect::Fenced { why });
        }
    }

    fn disk_failed(&mut self, error: String) {
        self.fence(format!("the disk here failed: {error}"));
        self.local.failed();
    }
}
