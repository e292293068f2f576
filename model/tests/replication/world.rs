//! The simulated home: radiators, disks, connections and time.

use crate::Dice;
use crate::client::Client;
use crate::disk::{BLOCK, Disk, Job, blocks};
use crate::raft::{Raft, volume_name};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thermidor_model::NodeId;
use thermidor_model::command::Command;
use thermidor_model::replication::{
    Active, Answer, Effect, Event, Follower, FollowerEffect, FollowerEvent, Frame, Image, ImageHeader,
    Limits, LocalEffect, LocalEvent, OpKind, Rules,
};
use thermidor_model::state::Volume;

pub const MS: u64 = 1000;
pub const LEASE_MS: u64 = 150;
pub const MARGIN_MS: u64 = 10;

/// Small bounds, so that all of them are met.
pub const LIMITS: Limits = Limits {
    replica_timeout_ms: 100,
    flush_timeout_ms: 800,
    propose_again_ms: 30,
    ring_bytes: 10 * BLOCK,
    window_bytes: 8 * BLOCK,
    marked_max: 3,
    copies_max: 2,
    hashes_max: 3,
};

#[derive(Debug)]
pub enum Machine {
    Down,
    Follower(Follower),
    Active(Box<Active>),
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub disk: Option<Disk>,
    pub machine: Machine,
    /// Raised with every start of the process.
    pub life: u64,
    pub view: Option<Volume>,
    pub lease: (u64, u64),
    pub frozen_until: u64,
    /// Hears nothing of Raft until then.
    pub isolated_until: u64,
    pub slow_until: u64,
    pub next_handle: u64,
    pub buffers: BTreeMap<u64, Vec<u64>>,
    pub requests: BTreeMap<u64, Vec<u64>>,
    pub payloads: BTreeMap<u64, Vec<u64>>,
    pub fenced: bool,
    /// The process is to run.
    pub up: bool,
    attached: bool,
}

type Packet = Option<(Frame, Vec<u64>)>;

#[derive(Debug)]
struct Pipe {
    /// Queued at the sender; `None` ends the session.
    queued: VecDeque<Packet>,
    travelling: VecDeque<Packet>,
    last_us: u64,
}

#[derive(Debug)]
struct Connection {
    ends: [(NodeId, u64); 2],
    pipes: [Pipe; 2],
    delay_us: u64,
}

#[derive(Debug)]
pub enum Happening {
    Transmit { session: u64, way: usize },
    Arrive { session: u64, way: usize },
    Connect { node: NodeId, life: u64, to: NodeId },
    Disk { node: NodeId, life: u64, token: u64 },
    View { node: NodeId, volume: Volume },
    Answer { node: NodeId, life: u64, answer: Answer },
    Apply { node: NodeId, life: u64, command: Command, silent: bool },
    Tick { node: NodeId },
    Ask,
    Plan,
    Fault,
    Start { node: NodeId },
}

pub struct World {
    pub dice: Dice,
    pub now_us: u64,
    pub raft: Raft,
    pub nodes: BTreeMap<NodeId, Node>,
    pub client: Client,
    pub cut_until: BTreeMap<(NodeId, NodeId), u64>,
    pub faults_until_us: u64,
    pub calm: bool,
    pub disk_errors: u64,
    pub takeovers: u64,
    pub size_bytes: u64,
    rules: Rules,
    connections: BTreeMap<u64, Connection>,
    agenda: BTreeMap<(u64, u64), Happening>,
    counter: u64,
    pub trace: bool,
    /// The epoch whose active is asked to detach.
    pub detaching: u64,
    pub activated_us: u64,
    pub repaired: bool,
    broken: Option<String>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(seed: u64, rules: Rules, trace: bool) -> Self {
        let mut dice = Dice(seed);
        let radiators = dice.range(3, 6);
        let replicas = dice.range(2, radiators + 1);
        let extents = dice.range(4, 9);
        let size_bytes = extents * 4 * BLOCK - dice.range(0, 2) * BLOCK;
        let raft = Raft::new(radiators, replicas, size_bytes);
        let client = Client::new((size_bytes / BLOCK) as usize);
        let mut world = Self {
            faults_until_us: dice.range(500, 2500) * MS,
            dice,
            now_us: 1_000_000,
            raft,
            nodes: BTreeMap::new(),
            client,
            cut_until: BTreeMap::new(),
            calm: false,
            disk_errors: 0,
            takeovers: 0,
            size_bytes,
            rules,
            connections: BTreeMap::new(),
            agenda: BTreeMap::new(),
            counter: 0,
            trace,
            detaching: 0,
            activated_us: 0,
            repaired: false,
            broken: None,
        };
        world.faults_until_us += world.now_us;
        for id in 1..=radiators {
            world.nodes.insert(id, Node::new(id));
            world.after(0, 5, Happening::Tick { node: id });
        }
        world.announce();
        for happening in [Happening::Plan, Happening::Ask, Happening::Fault] {
            world.after(10, 20, happening);
        }
        world
    }

    pub fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3} ms  {}", (self.now_us - 1_000_000) as f64 / 1000.0, text());
        }
    }

    pub fn violate(&mut self, text: String) {
        self.note(|| format!("VIOLATION {text}"));
        self.broken.get_or_insert(text);
    }

    pub fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn at(&mut self, us: u64, what: Happening) {
        let number = self.count();
        self.agenda.insert((us, number), what);
    }

    /// Between so many and so many milliseconds from now.
    pub fn after(&mut self, low_ms: u64, high_ms: u64, what: Happening) {
        let us = self.now_us + self.dice.range(low_ms * MS, high_ms * MS + 1);
        self.at(us, what);
    }

    /// Runs until healed; an error is a broken invariant.
    pub fn run(&mut self) -> Result<(), String> {
        let end_us = self.faults_until_us + 20_000 * MS;
        while let Some(((us, _), what)) = self.agenda.pop_first() {
            self.now_us = self.now_us.max(us);
            if !self.calm && self.now_us >= self.faults_until_us {
                self.calm_down();
            }
            self.happen(what);
            self.check_single_active();
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
            if self.calm && self.healed() {
                return Ok(());
            }
            if self.now_us > end_us {
                return Err(format!("invariant 9: not healed: {}", self.why_not_healed()));
            }
        }
        Err("nothing happens any more".into())
    }

    /// Whom it happens to, if that one is frozen: later.
    fn frozen(&self, what: &Happening) -> Option<u64> {
        let node = match what {
            Happening::Disk { node, .. }
            | Happening::View { node, .. }
            | Happening::Answer { node, .. }
            | Happening::Connect { node, .. }
            | Happening::Tick { node } => *node,
            Happening::Transmit { session, way } => self.connections.get(session)?.ends[*way].0,
            Happening::Arrive { session, way } => self.connections.get(session)?.ends[1 - *way].0,
            _ => return None,
        };
        Some(self.nodes[&node].frozen_until).filter(|until| *until > self.now_us)
    }

    fn happen(&mut self, what: Happening) {
        if let Some(until) = self.frozen(&what) {
            return self.at(until, what);
        }
        match what {
            Happening::Transmit { session, way } => self.transmit(session, way),
            Happening::Arrive { session, way } => self.arrive(session, way),
            Happening::Connect { node, life, to } => self.connect(node, life, to),
            Happening::Disk { node, life, token } => self.disk_done(node, life, token),
            Happening::View { node, volume } => self.viewed(node, volume),
            Happening::Answer { node, life, answer } => {
                if self.node(node).life == life {
                    self.note(|| format!("{node} hears {answer:?}"));
                    self.to_active(node, Event::Answered(answer));
                }
            }
            Happening::Apply { node, life, command, silent } => self.apply(node, life, command, silent),
            Happening::Tick { node } => self.tick(node),
            Happening::Ask => self.ask(),
            Happening::Plan => self.plan(),
            Happening::Fault => self.fault(),
            Happening::Start { node } => self.start(node),
        }
    }

    // ---- machines

    fn start(&mut self, id: NodeId) {
        if self.nodes[&id].up {
            return;
        }
        self.node(id).up = true;
        self.note(|| format!("{id} starts"));
        self.renew_machine(id);
    }

    /// What the applied state wants of a radiator that has no machine, or an idle one.
    pub fn renew_machine(&mut self, id: NodeId) {
        let (rules, now_ms, size_bytes) = (self.rules, self.now_us / MS, self.size_bytes);
        let now_us = self.now_us;
        let node = self.node(id);
        let Some(view) = node.view.clone().filter(|_| node.up) else { return };
        let leased = node.lease.0 == view.epoch && node.lease.1 > now_us;
        let Some(replica) = view.replicas.get(&id).copied() else { return };
        let mut image = match std::mem::replace(&mut node.machine, Machine::Down) {
            Machine::Active(active) if node.fenced && active.is_idle() => Some(active.into_image()),
            Machine::Active(active) => {
                node.machine = Machine::Active(active);
                return;
            }
            Machine::Follower(mut follower) => {
                let known = follower.header().replica == replica;
                let wanted = leased && view.active == Some(id) && view.epoch > follower.header().promised;
                if known && !(wanted && !follower.header().failed && !follower.header().torn) {
                    node.machine = Machine::Follower(follower);
                    return;
                }
                let effects = follower.retire();
                let idle = follower.is_idle();
                if !idle {
                    node.machine = Machine::Follower(follower);
                    return self.follower_effects(id, effects);
                }
                node.machine = Machine::Down;
                self.follower_effects(id, effects);
                Some(follower.into_image())
            }
            Machine::Down => None,
        };
        let node = self.node(id);
        if node.disk.as_ref().is_none_or(|disk| disk.header.replica != replica) {
            node.disk = Some(Disk::new(ImageHeader::new(volume_name(), replica, size_bytes)));
            image = None;
        }
        let Some(disk) = &node.disk else { return };
        // a live process knows what it wrote; a fresh one reads the disk
        let image: Image = image.unwrap_or_else(|| disk.image());
        node.fenced = false;
        node.attached = false;
        node.life += 1;
        node.payloads.clear();
        node.buffers.clear();
        node.requests.clear();
        let (life, until_ms) = (node.life, node.lease.1 / MS);
        if view.active == Some(id) && leased {
            let started =
                Active::with_rules(id, &volume_name(), &view, image.clone(), until_ms, LIMITS, rules, now_ms);
            match started {
                Ok((active, effects)) => {
                    self.node(id).machine = Machine::Active(Box::new(active));
                    self.takeovers += 1;
                    self.note(|| format!("{id} is active in epoch {} marks {:?}", view.epoch, image.marked));
                    self.active_effects(id, effects);
                    for to in view.replicas.keys().filter(|to| **to != id) {
                        self.after(0, 10, Happening::Connect { node: id, life, to: *to });
                    }
                    return;
                }
                Err(why) => self.note(|| format!("{id} cannot serve: {why}")),
            }
        }
        self.node(id).machine = Machine::Follower(Follower::with_rules(image, LIMITS, rules));
    }

    pub fn to_active(&mut self, id: NodeId, event: Event) {
        let now_ms = self.now_us / MS;
        if let Machine::Active(active) = &mut self.node(id).machine {
            let effects = active.handle(now_ms, event);
            self.active_effects(id, effects);
        }
    }

    fn to_follower(&mut self, id: NodeId, event: FollowerEvent) {
        let now_ms = self.now_us / MS;
        if let Machine::Follower(follower) = &mut self.node(id).machine {
            let effects = follower.handle(now_ms, event);
            self.follower_effects(id, effects);
        }
    }

    fn tick(&mut self, id: NodeId) {
        self.after(8, 12, Happening::Tick { node: id });
        self.renew_lease(id);
        self.to_active(id, Event::Tick);
        self.renew_machine(id);
        let active = matches!(&self.nodes[&id].machine, Machine::Active(a) if a.serving(self.now_us / MS));
        let started =
            active && self.nodes[&id].disk.as_ref().is_some_and(|d| d.header.promised == self.epoch_of(id));
        if started && !self.nodes[&id].attached {
            self.node(id).attached = true;
            let epoch = self.epoch_of(id);
            let disk = self.nodes[&id].disk.as_ref().unwrap();
            if let Err(broken) = self.client.attach(id, epoch, |block| disk.read(block)) {
                self.violate(broken);
            }
        }
    }

    pub fn epoch_of(&self, id: NodeId) -> u64 {
        match &self.nodes[&id].machine {
            Machine::Active(active) => active.epoch(),
            _ => 0,
        }
    }

    fn viewed(&mut self, id: NodeId, volume: Volume) {
        if self.nodes[&id].isolated_until > self.now_us {
            let until = self.nodes[&id].isolated_until;
            return self.at(until, Happening::View { node: id, volume });
        }
        let newer = |old: &Volume| (old.epoch, old.set_version) > (volume.epoch, volume.set_version);
        if self.nodes[&id].view.as_ref().is_some_and(newer) {
            return;
        }
        self.node(id).view = Some(volume.clone());
        let life = self.node(id).life;
        if let Machine::Active(_) = self.node(id).machine {
            for to in volume.replicas.keys().filter(|to| **to != id) {
                self.after(0, 10, Happening::Connect { node: id, life, to: *to });
            }
        }
        self.to_active(id, Event::Config(volume));
        self.renew_machine(id);
    }

    // ---- effects

    fn active_effects(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Local(local) => self.local(id, local, true),
                Effect::Number { request, seq } => {
                    if let Some(tags) = self.node(id).requests.remove(&request) {
                        self.node(id).buffers.insert(seq, tags);
                    }
                }
                Effect::Forget { up_to } => {
                    let buffers = &mut self.node(id).buffers;
                    *buffers = buffers.split_off(&(up_to + 1));
                }
                Effect::Send { session, frame, .. } => {
                    let payload = match &frame {
                        Frame::Op { seq, op } if op.kind == OpKind::Write => {
                            match self.node(id).buffers.get(seq) {
                                Some(tags) => tags.clone(),
                                None => return self.violate(format!("{id} sends {seq} but forgot it")),
                            }
                        }
                        _ => vec![],
                    };
                    self.queue(session, 0, Some((frame, payload)));
                }
                Effect::Close { session, why, replica } => {
                    self.note(|| format!("{id} closes {session} to {replica}: {why}"));
                    self.queue(session, 0, None);
                    let life = self.node(id).life;
                    self.after(10, 60, Happening::Connect { node: id, life, to: replica });
                }
                Effect::Compare { replica, session, hashes } => {
                    self.job(id, Job::Compare { replica, session, hashes });
                }
                Effect::Reply { request, ok } => self.reply(id, request, ok),
                Effect::Propose(command) => self.propose(id, command),
                Effect::Fenced { why } => {
                    self.note(|| format!("{id} is fenced: {why}"));
                    self.fenced(id);
                }
                Effect::Detached => self.detached(id),
            }
        }
    }

    fn follower_effects(&mut self, id: NodeId, effects: Vec<FollowerEffect>) {
        for effect in effects {
            match effect {
                FollowerEffect::Local(local) => self.local(id, local, false),
                FollowerEffect::Send { session, frame } => self.queue(session, 1, Some((frame, vec![]))),
                FollowerEffect::Hash { session, extents } => self.job(id, Job::Hash { session, extents }),
                FollowerEffect::Close { session, why } => {
                    self.note(|| format!("{id} closes {session}: {why:?}"));
                    self.queue(session, 1, None);
                }
                FollowerEffect::Failed { error } => self.note(|| format!("{id}'s disk failed: {error}")),
            }
        }
    }

    fn local(&mut self, id: NodeId, effect: LocalEffect, active: bool) {
        let job = match effect {
            LocalEffect::Store { id: number, op } => {
                let node = self.node(id);
                let tags =
                    if active { node.buffers.get(&number).cloned() } else { node.payloads.remove(&number) };
                match tags {
                    Some(tags) if op.kind != OpKind::Write || tags.len() == blocks(&op).len() => {
                        Job::Store { id: number, op, tags }
                    }
                    None if op.kind != OpKind::Write => Job::Store { id: number, op, tags: vec![] },
                    other => return self.violate(format!("{id} has {other:?} for {number} {op:?}")),
                }
            }
            LocalEffect::Mark { mark, unmark } => Job::Mark { mark, unmark },
            LocalEffect::Sync { id, header } => Job::Sync { id, header, seen: vec![] },
            LocalEffect::SaveHeader(header) => Job::Save(header),
        };
        self.job(id, job);
    }

    fn job(&mut self, id: NodeId, job: Job) {
        let token = self.count();
        let (now, low, high) = match &job {
            Job::Store { .. } => (self.now_us, 20, 800),
            Job::Sync { .. } => (self.now_us, 200, 8000),
            _ => (self.now_us, 100, 3000),
        };
        let node = self.node(id);
        let factor = if node.slow_until > now { 20 } else { 1 };
        let life = node.life;
        if let Some(disk) = &mut node.disk {
            disk.begin(token, job);
        }
        let us = now + self.dice.range(low * factor, high * factor);
        self.at(us, Happening::Disk { node: id, life, token });
    }

    fn disk_done(&mut self, id: NodeId, life: u64, token: u64) {
        let node = self.node(id);
        let Some(disk) = node.disk.as_mut().filter(|_| node.life == life) else { return };
        let bad = disk.bad;
        let job = if bad { None } else { disk.finish(token) };
        let event = match job {
            None if bad => LocalEvent::Failed { error: "EIO".into() },
            None => return,
            Some(Job::Store { id, .. }) => LocalEvent::Stored { id },
            Some(Job::Sync { id, .. }) => LocalEvent::Synced { id },
            Some(Job::Mark { .. }) => LocalEvent::Marked,
            Some(Job::Save(_)) => LocalEvent::HeaderSaved,
            Some(Job::Hash { session, extents }) => {
                let hashes = extents.into_iter().map(|x| (x, disk.hash(x))).collect();
                return self.to_follower(id, FollowerEvent::Hashed { session, hashes });
            }
            Some(Job::Compare { replica, session, hashes }) => {
                let differing = hashes.into_iter().filter(|(x, hash)| disk.hash(*x) != *hash);
                let differing = differing.map(|(x, _)| x).collect();
                return self.to_active(id, Event::Compared { replica, session, differing });
            }
        };
        match self.node(id).machine {
            Machine::Active(_) => self.to_active(id, Event::Local(event)),
            _ => self.to_follower(id, FollowerEvent::Local(event)),
        }
    }

    // ---- connections

    fn connect(&mut self, id: NodeId, life: u64, to: NodeId) {
        if self.nodes[&id].life != life || self.nodes[&id].fenced || !self.nodes.contains_key(&to) {
            return;
        }
        let up = matches!(self.nodes[&to].machine, Machine::Follower(_));
        let cut = self.cut_until.get(&pair(id, to)).is_some_and(|until| *until > self.now_us);
        let standing = self.connections.values().any(|c| c.ends == [(id, life), (to, self.nodes[&to].life)]);
        if standing {
            return;
        }
        if !up || cut {
            return self.after(10, 40, Happening::Connect { node: id, life, to });
        }
        let session = self.count();
        let pipe = || Pipe { queued: VecDeque::new(), travelling: VecDeque::new(), last_us: 0 };
        let ends = [(id, life), (to, self.nodes[&to].life)];
        let delay_us = if self.dice.permille(100) { self.dice.range(1, 80) * MS } else { 300 };
        self.connections.insert(session, Connection { ends, pipes: [pipe(), pipe()], delay_us });
        self.to_active(id, Event::Connected { replica: to, session });
    }

    fn queue(&mut self, session: u64, way: usize, packet: Packet) {
        let wait = self.dice.range(0, 500);
        let Some(connection) = self.connections.get_mut(&session) else { return };
        connection.pipes[way].queued.push_back(packet);
        let us = self.now_us + wait;
        self.at(us, Happening::Transmit { session, way });
    }

    fn transmit(&mut self, session: u64, way: usize) {
        let jitter = self.dice.range(0, 1500);
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let (id, life) = connection.ends[way];
        let Some(mut packet) = connection.pipes[way].queued.pop_front() else { return };
        if self.nodes[&id].life != life {
            packet = None;
        }
        if let Some((Frame::Copy { extent, hole, .. }, payload)) = &mut packet {
            *payload = self.nodes[&id].disk.as_ref().map(|d| d.extent(*extent)).unwrap_or_default();
            *hole = payload.iter().all(|tag| *tag == 0);
        }
        let pipe = &mut connection.pipes[way];
        pipe.last_us = pipe.last_us.max(self.now_us + connection.delay_us + jitter);
        pipe.travelling.push_back(packet);
        let us = pipe.last_us;
        self.at(us, Happening::Arrive { session, way });
    }

    fn arrive(&mut self, session: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let [(from, _), (to, life)] =
            if way == 0 { connection.ends } else { [connection.ends[1], connection.ends[0]] };
        if let Some(until) = self.cut_until.get(&pair(from, to)).copied().filter(|until| *until > self.now_us)
        {
            let us = until + self.dice.range(0, 20 * MS);
            return self.at(us, Happening::Arrive { session, way });
        }
        let Some(packet) = connection.pipes[way].travelling.pop_front() else { return };
        let alive = self.nodes[&to].life == life;
        match packet {
            _ if !alive => {}
            None => self.ended(session, way, to, from),
            Some((frame, payload)) if way == 0 => {
                let node = self.node(to);
                node.next_handle += 1;
                let handle = node.next_handle;
                if frame.payload() > 0 {
                    node.payloads.insert(handle, payload);
                }
                self.to_follower(to, FollowerEvent::Frame { session, handle, frame });
            }
            Some((frame, _)) => self.to_active(to, Event::Frame { replica: from, session, frame }),
        }
    }

    fn ended(&mut self, session: u64, way: usize, to: NodeId, from: NodeId) {
        if way == 0 {
            self.to_follower(to, FollowerEvent::Closed { session });
        } else {
            self.to_active(to, Event::Closed { replica: from, session });
            let life = self.node(to).life;
            self.connections.remove(&session);
            self.after(5, 40, Happening::Connect { node: to, life, to: from });
        }
    }

    /// All sessions of a radiator end; the other ends hear of it after what is under way.
    pub fn hang_up(&mut self, id: NodeId) {
        let sessions: Vec<(u64, usize)> = self
            .connections
            .iter()
            .flat_map(|(s, c)| (0..2).filter(|way| c.ends[*way].0 == id).map(|way| (*s, way)))
            .collect();
        for (session, way) in sessions {
            if let Some(connection) = self.connections.get_mut(&session) {
                connection.pipes[way].queued.clear();
            }
            self.queue(session, way, None);
        }
    }

    fn ask(&mut self) {
        self.after(1, 12, Happening::Ask);
        let Some((id, epoch)) = self.client.at else { return };
        if self.epoch_of(id) != epoch || self.nodes[&id].frozen_until > self.now_us {
            return;
        }
        let block = (self.dice.next() % (self.size_bytes / BLOCK)) as usize;
        if matches!(&self.nodes[&id].machine, Machine::Active(a) if a.serving(self.now_us / MS)) {
            let found = self.nodes[&id].disk.as_ref().map_or(0, |d| d.read(block));
            if let Err(broken) = self.client.read(block, found) {
                self.violate(broken);
            }
        }
        if self.detaching == epoch {
            return;
        }
        let calm = self.calm;
        if calm && self.now_us > self.faults_until_us + 300 * MS && !self.client.idle() {
            return;
        }
        let mut dice = self.dice.clone();
        let asked = self.client.ask(&mut dice, calm && self.now_us > self.faults_until_us + 300 * MS);
        self.dice = dice;
        if let Some((request, op, tag)) = asked {
            if let thermidor_model::replication::DeviceOp::Change(change) = op {
                self.node(id).requests.insert(request, vec![tag; blocks(&change).len()]);
            }
            self.note(|| format!("client asks {request} {op:?} tag {tag}"));
            self.to_active(id, Event::Device { request, op });
        }
    }

    fn reply(&mut self, id: NodeId, request: u64, ok: bool) {
        let epoch = self.epoch_of(id);
        if ok && self.raft.volume().epoch != epoch {
            return self
                .violate(format!("invariant 1: {id} answers in epoch {epoch} though a newer has begun"));
        }
        if self.client.at != Some((id, epoch)) || !self.client.answered(request, ok) {
            return;
        }
        self.note(|| format!("flush {request} answered"));
        let members: BTreeSet<NodeId> = self.raft.volume().in_sync.clone();
        let count = (self.size_bytes / BLOCK) as usize;
        let wrong = members.iter().find_map(|member| {
            let disk = self.nodes[member].disk.as_ref()?;
            let bad = |block: &usize| disk.could_be(*block).any(|tag| !self.client.allows(*block, tag));
            let block = (0..count).find(bad)?;
            let could_be: Vec<u64> = disk.could_be(block).collect();
            let may_hold = self.client.may_hold(block);
            Some(format!(
                "invariant 3: flush {request} answered, yet block {block} on {member} could be {could_be:?}, not {may_hold:?}"
            ))
        });
        if let Some(text) = wrong {
            self.violate(text);
        }
    }
}

impl Node {
    fn new(id: NodeId) -> Self {
        Self {
            id,
            disk: None,
            machine: Machine::Down,
            life: 0,
            view: None,
            lease: (0, 0),
            frozen_until: 0,
            isolated_until: 0,
            slow_until: 0,
            next_handle: 0,
            buffers: BTreeMap::new(),
            requests: BTreeMap::new(),
            payloads: BTreeMap::new(),
            fenced: false,
            up: true,
            attached: false,
        }
    }
}
