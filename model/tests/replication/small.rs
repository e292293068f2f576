//! The small home that is searched through: two or three radiators, a short script of requests and a
//! budget of faults. Every order in which things can happen is one path of [`Small::actions`].

use crate::Chance;
use crate::client::Client;
use crate::disk::{BLOCK, Disk, Job, blocks};
use crate::raft::Raft;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use thermidor_model::command::{Command, Outcome, Why};
use thermidor_model::replication::{
    Active, Answer, DeviceOp, Effect, Event, Follower, FollowerEffect, FollowerEvent, Frame, ImageHeader,
    Limits, LocalEffect, LocalEvent, OpKind, Rules,
};
use thermidor_model::state::Volume;
use thermidor_model::testing::{box_volume, mail};
use thermidor_model::{NodeId, ReplicaId};

/// Two waits make a replica silent.
const WAIT_MS: u64 = 50;
const LIMITS: Limits = Limits {
    replica_timeout_ms: 2 * WAIT_MS,
    flush_timeout_ms: 100_000,
    propose_again_ms: 30,
    ring_bytes: 10 * BLOCK,
    window_bytes: 16 * BLOCK,
    marked_max: 3,
    copies_max: 2,
    hashes_max: 8,
};

/// How often each may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A radiator loses power; whatever subset of its page cache and its running disk jobs survives.
    pub crashes: u8,
    /// A connection ends with what is on it.
    pub cuts: u8,
    /// The leader makes a member active: the same one again, or another.
    pub epochs: u8,
    /// Half a replica timeout passes.
    pub waits: u8,
    /// Raft's answer does not come; the command may still be applied, at any time or never.
    pub losses: u8,
    /// The leader takes a replica out.
    pub removals: u8,
    /// Connections made after the first ones.
    pub connects: u8,
}

/// One thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Deliver { session: u64, way: usize },
    Disk { node: NodeId, token: u64 },
    Ask,
    Connect { from: NodeId, to: NodeId },
    View { node: NodeId },
    Answer { flight: usize },
    LoseAnswer { flight: usize },
    ApplyLate { flight: usize },
    Wait,
    Cut { session: u64 },
    Crash { node: NodeId, outcome: u64 },
    Activate { node: NodeId },
    Remove { node: NodeId },
}

#[derive(Debug, Clone, Hash)]
enum Machine {
    Follower(Follower),
    Active(Active),
}

#[derive(Debug, Clone, Hash)]
struct Node {
    disk: Disk,
    machine: Machine,
    fenced: bool,
    attached: bool,
    handles: u64,
    tokens: u64,
    /// Payloads: by handle on a follower; by request, then by number on the active.
    payloads: BTreeMap<u64, Vec<u64>>,
    requests: BTreeMap<u64, Vec<u64>>,
    /// The set version its active knows.
    view: u64,
}

type Packet = Option<(Frame, Vec<u64>)>;

/// The active's end is 0, the replica's 1; pipe 0 leads to the replica.
#[derive(Debug, Clone, Hash)]
struct Session {
    number: u64,
    ends: [NodeId; 2],
    open: [bool; 2],
    pipes: [VecDeque<Packet>; 2],
}

/// A command on its way to be applied.
#[derive(Debug, Clone)]
struct Flight {
    node: NodeId,
    epoch: u64,
    command: Command,
    /// Nobody waits for its answer any more.
    silent: bool,
}

#[derive(Debug, Clone)]
pub struct Small {
    nodes: BTreeMap<NodeId, Rc<Node>>,
    sessions: BTreeMap<u64, Rc<Session>>,
    made: u64,
    raft: Rc<Raft>,
    flights: Vec<Flight>,
    client: Rc<Client>,
    script: Rc<Vec<DeviceOp>>,
    asked: usize,
    now_ms: u64,
    lease_until_ms: u64,
    budget: Budget,
    rules: Rules,
    broken: Option<String>,
}

impl Hash for Small {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.nodes, &self.sessions, self.made, &self.client, self.asked).hash(state);
        (self.now_ms, self.lease_until_ms, self.budget, self.raft.volume()).hash(state);
        for flight in &self.flights {
            (flight.node, flight.epoch, flight.silent).hash(state);
            match &flight.command {
                Command::DropFromSet { set_was, node, .. } => (0, set_was, node).hash(state),
                Command::JoinSet { set_was, node, .. } => (1, set_was, node).hash(state),
                other => panic!("{other:?} is no command of an active"),
            }
        }
    }
}

/// One outcome of a crash: the digits of a number say which.
struct Outcomes {
    left: u64,
    all: u64,
}

impl Outcomes {
    fn digit(&mut self, of: u64) -> u64 {
        let digit = self.left % of;
        self.left /= of;
        self.all *= of;
        digit
    }
}

impl Chance for Outcomes {
    fn permille(&mut self, _: u64) -> bool {
        self.digit(2) == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.digit(of.len() as u64) as usize]) }
    }
}

impl Small {
    /// A home whose first `in_sync` replicas of so many have settled in an epoch; the others are blank.
    pub fn new(replicas: u64, in_sync: u64, script: &[DeviceOp], budget: Budget, rules: Rules) -> Self {
        let size_bytes = 2 * 4 * BLOCK;
        let raft = Raft::new(replicas, in_sync, size_bytes);
        let mut small = Self {
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            made: 0,
            raft: Rc::new(raft),
            flights: Vec::new(),
            client: Rc::new(Client::new((size_bytes / BLOCK) as usize)),
            script: Rc::new(script.to_vec()),
            asked: script.len(),
            now_ms: 0,
            lease_until_ms: 0,
            budget: Budget { connects: 100, ..Budget::default() },
            rules,
            broken: None,
        };
        for id in 1..=replicas {
            small.add_node(id);
        }
        small.activate(1);
        small.heal().expect("the beginning");
        for id in in_sync + 1..=replicas {
            Rc::make_mut(&mut small.raft).add_replica(id);
            small.nodes.remove(&id);
            small.add_node(id);
        }
        small.view(1);
        small.asked = 0;
        small.budget = budget;
        small.lease_until_ms = small.now_ms + 1_000_000;
        small
    }

    fn add_node(&mut self, id: NodeId) {
        let volume = self.raft.volume();
        let replica = volume.replicas.get(&id).copied().unwrap_or(ReplicaId(0));
        let disk = Disk::new(ImageHeader::new(box_volume(), replica, volume.size_bytes));
        let node = Node {
            machine: Machine::Follower(Follower::with_rules(disk.image(), LIMITS, self.rules)),
            disk,
            fenced: false,
            attached: false,
            handles: 0,
            tokens: 0,
            payloads: BTreeMap::new(),
            requests: BTreeMap::new(),
            view: 0,
        };
        self.nodes.insert(id, Rc::new(node));
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&id).expect("a node"))
    }

    fn session(&mut self, number: u64) -> &mut Session {
        Rc::make_mut(self.sessions.get_mut(&number).expect("a session"))
    }

    pub fn broken(&self) -> Option<&String> {
        self.broken.as_ref()
    }

    pub fn volume(&self) -> &Volume {
        self.raft.volume()
    }

    pub fn disk(&self, id: NodeId) -> &Disk {
        &self.nodes[&id].disk
    }

    pub fn epoch_of_service(&self) -> u64 {
        self.raft.state.services[&mail()].epoch
    }

    /// Where the device is attached.
    pub fn attached(&self) -> Option<NodeId> {
        self.client.at.map(|(id, _)| id)
    }

    pub fn flushes(&self) -> u64 {
        self.client.flushes
    }

    // ---- driven by hand

    pub fn allow(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// Everything that needs no request, no fault and no time.
    pub fn settle(&mut self) {
        let goes_on = |action: &Action| {
            matches!(
                action,
                Action::Deliver { .. } | Action::Disk { .. } | Action::View { .. } | Action::Answer { .. }
            )
        };
        while let Some(action) = self.actions().into_iter().find(goes_on) {
            self.act(action);
        }
        assert_eq!(self.broken, None);
    }

    /// The connection to a replica breaks and none comes; two waits later it is dropped.
    pub fn lose(&mut self, id: NodeId) {
        let session = self.sessions.iter().find(|(_, s)| s.ends[1] == id).map(|(number, _)| *number);
        self.allow(Budget { cuts: 1, waits: 3, ..Budget::default() });
        if let Some(session) = session {
            self.act(Action::Cut { session });
        }
        for _ in 0..3 {
            self.settle();
            self.act(Action::Wait);
        }
        self.settle();
    }

    /// A loss of power after which exactly these blocks hold what was written last.
    pub fn crash_keeping(&mut self, id: NodeId, kept: &[usize]) {
        let count = (self.raft.volume().size_bytes / BLOCK) as usize;
        let last: Vec<u64> = (0..count).map(|block| self.disk(id).read(block)).collect();
        let outcome = (0..self.outcomes(id)).find(|outcome| {
            let mut disk = self.disk(id).clone();
            disk.crash(true, &mut Outcomes { left: *outcome, all: 1 });
            (0..count).all(|block| {
                let first = self.disk(id).could_be(block).last() == Some(last[block]);
                first || (disk.read(block) == last[block]) == kept.contains(&block)
            })
        });
        self.crash(id, outcome.expect("an outcome"));
    }

    /// Its disk is another one: blank, of that identity.
    pub fn exchange_disk(&mut self, id: NodeId, replica: ReplicaId) {
        let (size_bytes, rules) = (self.raft.volume().size_bytes, self.rules);
        let node = self.node(id);
        node.disk = Disk::new(ImageHeader::new(box_volume(), replica, size_bytes));
        node.machine = Machine::Follower(Follower::with_rules(node.disk.image(), LIMITS, rules));
        self.hang_up_all(id);
    }

    /// The leader makes a replica there, on a blank disk.
    pub fn make_replica(&mut self, id: NodeId) {
        Rc::make_mut(&mut self.raft).add_replica(id);
        let replica = self.raft.volume().replicas[&id];
        self.exchange_disk(id, replica);
    }

    pub fn remove_replica(&mut self, id: NodeId) {
        Rc::make_mut(&mut self.raft).remove_replica(id);
    }

    /// The disk under the active refuses.
    pub fn fail_disk(&mut self, id: NodeId) {
        self.tell_active(id, Event::Local(LocalEvent::Failed { error: "EIO".into() }));
    }

    /// A person accepts that what this disk holds is all there is.
    pub fn accept_loss(&mut self, id: NodeId) {
        let count = (self.raft.volume().size_bytes / BLOCK) as usize;
        let held = (0..count).map(|block| self.disk(id).read(block)).collect();
        Rc::make_mut(&mut self.client).believe(held);
    }

    fn violate(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }

    // ---- what can happen

    /// Whether only new requests, faults and time could change anything.
    pub fn is_quiet(&self) -> bool {
        self.sessions.values().all(|s| s.pipes.iter().all(VecDeque::is_empty))
            && self.nodes.values().all(|n| n.disk.jobs().next().is_none())
            && self.flights.iter().all(|f| f.silent)
            && !self.nodes.keys().any(|id| self.has_news(*id))
    }

    /// Everything that can happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, session) in &self.sessions {
            let ways = (0..2).filter(|way| !session.pipes[*way].is_empty());
            actions.extend(ways.map(|way| Action::Deliver { session: *number, way }));
            if self.budget.cuts > 0 && session.open == [true, true] {
                actions.push(Action::Cut { session: *number });
            }
        }
        for (id, node) in &self.nodes {
            actions.extend(node.disk.jobs().map(|token| Action::Disk { node: *id, token }));
            if self.has_news(*id) {
                actions.push(Action::View { node: *id });
            }
            if self.budget.crashes > 0 {
                actions.extend((0..self.outcomes(*id)).map(|outcome| Action::Crash { node: *id, outcome }));
            }
        }
        if self.budget.connects > 0 {
            actions.extend(self.missing().into_iter().map(|(from, to)| Action::Connect { from, to }));
        }
        for (at, flight) in self.flights.iter().enumerate() {
            if flight.silent {
                actions.push(Action::ApplyLate { flight: at });
            } else {
                actions.push(Action::Answer { flight: at });
                if self.budget.losses > 0 {
                    actions.push(Action::LoseAnswer { flight: at });
                }
            }
        }
        if self.can_ask() {
            actions.push(Action::Ask);
        }
        if self.budget.waits > 0 {
            actions.push(Action::Wait);
        }
        let volume = self.raft.volume();
        if self.budget.epochs > 0 {
            actions.extend(volume.in_sync.iter().map(|node| Action::Activate { node: *node }));
        }
        if self.budget.removals > 0 && volume.replicas.len() > 2 {
            let others = volume.replicas.keys().filter(|node| volume.active != Some(**node));
            actions.extend(others.map(|node| Action::Remove { node: *node }));
        }
        actions
    }

    pub fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { session, way } => self.deliver(session, way),
            Action::Disk { node, token } => self.disk_done(node, token),
            Action::Ask => self.ask(),
            Action::Connect { from, to } => {
                self.budget.connects -= 1;
                self.connect(from, to);
            }
            Action::View { node } => self.view(node),
            Action::Answer { flight } => self.answer(flight),
            Action::LoseAnswer { flight } => {
                self.budget.losses -= 1;
                self.flights[flight].silent = true;
                let (node, epoch) = (self.flights[flight].node, self.flights[flight].epoch);
                self.hear_answer(node, epoch, Answer::Unknown);
            }
            Action::ApplyLate { flight } => {
                let command = self.flights.remove(flight).command;
                self.apply(command);
            }
            Action::Wait => {
                self.budget.waits -= 1;
                self.wait();
            }
            Action::Cut { session } => {
                self.budget.cuts -= 1;
                for pipe in &mut self.session(session).pipes {
                    pipe.clear();
                    pipe.push_back(None);
                }
            }
            Action::Crash { node, outcome } => {
                self.budget.crashes -= 1;
                self.crash(node, outcome);
            }
            Action::Activate { node } => {
                self.budget.epochs -= 1;
                self.activate(node);
            }
            Action::Remove { node } => {
                self.budget.removals -= 1;
                Rc::make_mut(&mut self.raft).remove_replica(node);
                self.check_members();
            }
        }
    }

    fn has_news(&self, id: NodeId) -> bool {
        let version = self.raft.volume().set_version;
        let node = &self.nodes[&id];
        matches!(node.machine, Machine::Active(_)) && !node.fenced && node.view != version
    }

    /// Whom an active could connect to and has no session with.
    fn missing(&self) -> Vec<(NodeId, NodeId)> {
        let volume = self.raft.volume();
        let mut missing = Vec::new();
        for (from, node) in &self.nodes {
            if !matches!(node.machine, Machine::Active(_)) || node.fenced {
                continue;
            }
            for to in volume.replicas.keys().filter(|to| *to != from) {
                let up = matches!(self.nodes[to].machine, Machine::Follower(_));
                if up && !self.sessions.values().any(|s| s.ends == [*from, *to] && s.open[0]) {
                    missing.push((*from, *to));
                }
            }
        }
        missing
    }

    fn can_ask(&self) -> bool {
        let free = match self.script.get(self.asked) {
            None => false,
            Some(DeviceOp::Flush) => true,
            Some(DeviceOp::Change(op)) => !blocks(op).any(|block| self.client.running(block)),
        };
        free && self.client.at.is_some()
    }

    // ---- the client and Raft

    fn ask(&mut self) {
        let Some((id, _)) = self.client.at else { return };
        let (request, op, tag) = Rc::make_mut(&mut self.client).asks(self.script[self.asked]);
        self.asked += 1;
        if let DeviceOp::Change(change) = op {
            self.node(id).requests.insert(request, vec![tag; blocks(&change).len()]);
        }
        self.tell_active(id, Event::Device { request, op });
    }

    fn reply(&mut self, id: NodeId, request: u64, ok: bool) {
        let epoch = self.epoch_of(id);
        if ok && self.raft.volume().epoch != epoch {
            return self.violate(format!("invariant 1: {id} answers in epoch {epoch}, a newer has begun"));
        }
        if self.client.at == Some((id, epoch)) && Rc::make_mut(&mut self.client).answered(request, ok) {
            self.check_members();
        }
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = Rc::make_mut(&mut self.raft).apply(command);
        self.check_members();
        outcome
    }

    fn answer(&mut self, flight: usize) {
        let Flight { node, epoch, command, .. } = self.flights.remove(flight);
        let answer = match self.apply(command) {
            Outcome::Set(version) => Answer::Set(version),
            _ => Answer::Refused,
        };
        self.hear_answer(node, epoch, answer);
    }

    fn hear_answer(&mut self, node: NodeId, epoch: u64, answer: Answer) {
        if self.epoch_of(node) == epoch {
            self.tell_active(node, Event::Answered(answer));
        }
    }

    fn view(&mut self, id: NodeId) {
        let volume = self.raft.volume().clone();
        self.node(id).view = volume.set_version;
        self.tell_active(id, Event::Config(volume));
    }

    pub fn activate(&mut self, to: NodeId) {
        let command = self.take_over_by(to);
        // never before the lease has ended
        self.now_ms = self.now_ms.max(self.lease_until_ms + 1);
        self.lease_until_ms = self.now_ms + 1_000_000;
        self.apply(command);
        Rc::make_mut(&mut self.client).detach();
        self.tell_active(to, Event::Tick);
        self.renew(to);
    }

    /// The leader's command, as computed from the present set.
    pub fn take_over_by(&self, to: NodeId) -> Command {
        let volume = self.raft.volume();
        let why = match volume.active {
            None => Why::Start,
            Some(id) if id == to => Why::Again,
            Some(_) => Why::Failover,
        };
        let sets = [(box_volume(), volume.set_version)].into();
        let epoch_was = self.epoch_of_service();
        Command::Activate { service: mail(), epoch_was, to, sets, why, reason: String::new() }
    }

    fn epoch_of(&self, id: NodeId) -> u64 {
        match &self.nodes[&id].machine {
            Machine::Active(active) => active.epoch(),
            Machine::Follower(_) => 0,
        }
    }

    fn wait(&mut self) {
        self.now_ms += WAIT_MS;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in nodes {
            self.tell_active(id, Event::Tick);
        }
    }

    // ---- machines

    /// The machine that the applied state wants, once the present one is idle.
    fn renew(&mut self, id: NodeId) {
        let volume = self.raft.volume().clone();
        let node = self.node(id);
        let image = match &mut node.machine {
            Machine::Active(active) if node.fenced && active.is_idle() => active.clone().into_image(),
            Machine::Active(_) => return,
            Machine::Follower(follower) => {
                let header = follower.header();
                let fit = !header.torn && !header.failed && volume.epoch > header.promised;
                if volume.active != Some(id) || !fit {
                    return;
                }
                let effects = follower.retire();
                let image = follower.is_idle().then(|| follower.clone().into_image());
                self.follower_effects(id, effects);
                match image {
                    Some(image) => image,
                    None => return,
                }
            }
        };
        let (rules, now_ms, until_ms) = (self.rules, self.now_ms, self.lease_until_ms);
        let node = self.node(id);
        (node.fenced, node.attached) = (false, false);
        node.payloads.clear();
        node.requests.clear();
        let name = box_volume();
        match Active::with_rules(id, &name, &volume, image.clone(), until_ms, LIMITS, rules, now_ms) {
            Ok((active, effects)) => {
                node.machine = Machine::Active(active);
                node.view = volume.set_version;
                self.active_effects(id, effects);
                for (from, to) in self.missing().into_iter().filter(|(from, _)| *from == id) {
                    self.connect(from, to);
                }
            }
            Err(_) => node.machine = Machine::Follower(Follower::with_rules(image, LIMITS, rules)),
        }
    }

    fn tell_active(&mut self, id: NodeId, event: Event) {
        let now_ms = self.now_ms;
        let node = self.node(id);
        let Machine::Active(active) = &mut node.machine else { return };
        let effects = active.handle(now_ms, event);
        self.active_effects(id, effects);
        self.attach(id);
        if self.nodes[&id].fenced {
            self.renew(id);
        }
    }

    /// The device comes up: everything is read back.
    fn attach(&mut self, id: NodeId) {
        let (epoch, now_ms) = (self.epoch_of(id), self.now_ms);
        let node = &self.nodes[&id];
        let serves = matches!(&node.machine, Machine::Active(active) if active.serving(now_ms));
        if !serves || node.attached || node.fenced || node.disk.header.promised != epoch {
            return;
        }
        let disk = node.disk.clone();
        self.node(id).attached = true;
        if let Err(broken) = Rc::make_mut(&mut self.client).attach(id, epoch, |block| disk.read(block)) {
            self.violate(broken);
        }
    }

    fn tell_follower(&mut self, id: NodeId, event: FollowerEvent) {
        let now_ms = self.now_ms;
        let Machine::Follower(follower) = &mut self.node(id).machine else { return };
        let effects = follower.handle(now_ms, event);
        self.follower_effects(id, effects);
        self.renew(id);
    }

    fn active_effects(&mut self, id: NodeId, effects: Vec<Effect>) {
        let mut compared = Vec::new();
        for effect in effects {
            match effect {
                Effect::Local(local) => self.local(id, local, true),
                Effect::Number { request, seq } => {
                    if let Some(tags) = self.node(id).requests.remove(&request) {
                        self.node(id).payloads.insert(seq, tags);
                    }
                }
                Effect::Forget { up_to } => {
                    let payloads = &mut self.node(id).payloads;
                    *payloads = payloads.split_off(&(up_to + 1));
                }
                Effect::Send { session, frame, .. } => self.send(id, session, frame),
                Effect::Close { session, .. } => self.hang_up(session, 0),
                Effect::Compare { replica, session, hashes } => {
                    let disk = &self.nodes[&id].disk;
                    let differing = hashes.into_iter().filter(|(x, hash)| disk.hash(*x) != *hash);
                    let differing = differing.map(|(x, _)| x).collect();
                    compared.push(Event::Compared { replica, session, differing });
                }
                Effect::Reply { request, ok } => self.reply(id, request, ok),
                Effect::Propose(command) => {
                    let epoch = self.epoch_of(id);
                    self.flights.push(Flight { node: id, epoch, command, silent: false });
                }
                Effect::Fenced { .. } | Effect::Detached => {
                    self.node(id).fenced = true;
                    if self.client.at.is_some_and(|(at, _)| at == id) {
                        Rc::make_mut(&mut self.client).detach();
                    }
                    self.hang_up_all(id);
                }
            }
        }
        for event in compared {
            self.tell_active(id, event);
        }
    }

    fn follower_effects(&mut self, id: NodeId, effects: Vec<FollowerEffect>) {
        let mut hashed = Vec::new();
        for effect in effects {
            match effect {
                FollowerEffect::Local(local) => self.local(id, local, false),
                FollowerEffect::Send { session, frame } => self.queue(session, 1, Some((frame, vec![]))),
                FollowerEffect::Hash { session, extents } => {
                    let disk = &self.nodes[&id].disk;
                    let hashes = extents.into_iter().map(|x| (x, disk.hash(x))).collect();
                    hashed.push(FollowerEvent::Hashed { session, hashes });
                }
                FollowerEffect::Close { session, .. } => self.hang_up(session, 1),
                FollowerEffect::Failed { error } => self.violate(format!("{id}'s disk failed: {error}")),
            }
        }
        for event in hashed {
            self.tell_follower(id, event);
        }
    }

    // ---- disks

    fn local(&mut self, id: NodeId, effect: LocalEffect, active: bool) {
        let node = self.node(id);
        let job = match effect {
            LocalEffect::Store { id: number, op } => {
                let payload = match op.kind {
                    OpKind::Write if active => node.payloads.get(&number).cloned(),
                    OpKind::Write => node.payloads.remove(&number),
                    _ => Some(vec![]),
                };
                match payload {
                    Some(tags) => Job::Store { id: number, op, tags },
                    None => return self.violate(format!("{id} has no payload for {number} {op:?}")),
                }
            }
            LocalEffect::Mark { mark, unmark } => Job::Mark { mark, unmark },
            LocalEffect::Sync { id, header } => Job::Sync { id, header, seen: vec![] },
            LocalEffect::SaveHeader(header) => Job::Save(header),
        };
        node.tokens += 1;
        node.disk.begin(node.tokens, job);
    }

    fn disk_done(&mut self, id: NodeId, token: u64) {
        let event = match self.node(id).disk.finish(token) {
            Some(Job::Store { id: number, op, .. }) => {
                self.check_member(id, blocks(&op));
                LocalEvent::Stored { id: number }
            }
            Some(Job::Sync { id, .. }) => LocalEvent::Synced { id },
            Some(Job::Mark { .. }) => LocalEvent::Marked,
            Some(Job::Save(_)) => LocalEvent::HeaderSaved,
            Some(Job::Hash { .. } | Job::Compare { .. }) | None => return,
        };
        match self.nodes[&id].machine {
            Machine::Active(_) => self.tell_active(id, Event::Local(event)),
            Machine::Follower(_) => self.tell_follower(id, FollowerEvent::Local(event)),
        }
    }

    /// How many outcomes a loss of power has there; the last factor: whether what it sent still travels.
    fn outcomes(&self, id: NodeId) -> u64 {
        let mut outcomes = Outcomes { left: 0, all: 1 };
        self.nodes[&id].disk.clone().crash(true, &mut outcomes);
        let travels =
            self.sessions.values().any(|s| (0..2).any(|way| s.ends[way] == id && !s.pipes[way].is_empty()));
        outcomes.all * if travels { 2 } else { 1 }
    }

    /// It comes back at once: what happens to it later is the same as coming back later.
    fn crash(&mut self, id: NodeId, outcome: u64) {
        let mut outcomes = Outcomes { left: outcome, all: 1 };
        let rules = self.rules;
        let node = self.node(id);
        node.disk.crash(true, &mut outcomes);
        let lost = outcomes.left % 2 == 1;
        node.machine = Machine::Follower(Follower::with_rules(node.disk.image(), LIMITS, rules));
        (node.fenced, node.attached) = (false, false);
        node.payloads.clear();
        node.requests.clear();
        self.check_members();
        if self.client.at.is_some_and(|(at, _)| at == id) {
            Rc::make_mut(&mut self.client).detach();
        }
        for flight in self.flights.iter_mut().filter(|f| f.node == id) {
            flight.silent = true;
        }
        if lost {
            let numbers: Vec<u64> = self.sessions.keys().copied().collect();
            for number in numbers {
                let session = self.session(number);
                for way in (0..2).filter(|way| session.ends[*way] == id).collect::<Vec<_>>() {
                    session.pipes[way].clear();
                }
            }
        }
        self.hang_up_all(id);
        self.renew(id);
    }

    // ---- connections

    fn connect(&mut self, from: NodeId, to: NodeId) {
        self.made += 1;
        let number = self.made;
        let session = Session {
            number,
            ends: [from, to],
            open: [true, true],
            pipes: [VecDeque::new(), VecDeque::new()],
        };
        self.sessions.insert(number, Rc::new(session));
        self.tell_active(from, Event::Connected { replica: to, session: number });
    }

    fn send(&mut self, id: NodeId, session: u64, mut frame: Frame) {
        let node = &self.nodes[&id];
        let payload = match &mut frame {
            Frame::Op { seq, op } if op.kind == OpKind::Write => match node.payloads.get(seq) {
                Some(tags) => tags.clone(),
                None => return self.violate(format!("{id} sends {seq} but forgot it")),
            },
            Frame::Copy { extent, hole, .. } => {
                let tags = node.disk.extent(*extent);
                *hole = tags.iter().all(|tag| *tag == 0);
                tags
            }
            _ => vec![],
        };
        self.queue(session, 0, Some((frame, payload)));
    }

    fn queue(&mut self, session: u64, way: usize, packet: Packet) {
        if self.sessions.get(&session).is_some_and(|s| s.open[way]) {
            self.session(session).pipes[way].push_back(packet);
        }
    }

    /// One end closes; what it sent before still travels. A replica that has closed still meets what the
    /// active had sent: more than a shell lets through, so that an old epoch is refused by its rule alone.
    fn hang_up(&mut self, session: u64, end: usize) {
        if self.sessions.get(&session).is_some_and(|s| s.open[end]) {
            self.queue(session, end, None);
            let session = self.session(session);
            session.open[end] = false;
            if end == 0 {
                session.pipes[1].clear();
            }
        }
    }

    fn hang_up_all(&mut self, id: NodeId) {
        let sessions = self.sessions.iter();
        let mine = sessions.flat_map(|(n, s)| (0..2).filter(|end| s.ends[*end] == id).map(|end| (*n, end)));
        for (session, end) in mine.collect::<Vec<_>>() {
            self.hang_up(session, end);
        }
    }

    fn deliver(&mut self, number: u64, way: usize) {
        let session = self.session(number);
        let Some(packet) = session.pipes[way].pop_front() else { return };
        let [from, to] = if way == 0 { session.ends } else { [session.ends[1], session.ends[0]] };
        let open = session.open[1 - way];
        if packet.is_none() {
            session.pipes[way].clear();
            session.pipes[1 - way].clear();
            session.open[1 - way] = false;
            if session.open == [false, false] || session.pipes.iter().all(VecDeque::is_empty) {
                self.sessions.remove(&number);
            }
        }
        match packet {
            None if !open => {}
            Some(_) if !open && way == 1 => {}
            None if way == 0 => self.tell_follower(to, FollowerEvent::Closed { session: number }),
            None => self.tell_active(to, Event::Closed { replica: from, session: number }),
            Some((frame, payload)) if way == 0 => {
                let node = self.node(to);
                node.handles += 1;
                let handle = node.handles;
                if frame.payload() > 0 {
                    node.payloads.insert(handle, payload);
                }
                self.tell_follower(to, FollowerEvent::Frame { session: number, handle, frame });
            }
            Some((frame, _)) => {
                self.tell_active(to, Event::Frame { replica: from, session: number, frame });
            }
        }
    }

    // ---- what must hold

    fn check_members(&mut self) {
        let members: Vec<NodeId> = self.raft.volume().in_sync.iter().copied().collect();
        let count = (self.raft.volume().size_bytes / BLOCK) as usize;
        for member in members {
            self.check_member(member, 0..count);
        }
    }

    /// No member could lose what was flushed, if it lost power now.
    fn check_member(&mut self, id: NodeId, mut within: std::ops::Range<usize>) {
        let disk = &self.nodes[&id].disk;
        let bad = |block: &usize| disk.could_be(*block).any(|tag| !self.client.allows(*block, tag));
        let volume = self.raft.volume();
        if volume.in_sync.contains(&id)
            && volume.replicas.get(&id) == Some(&disk.header.replica)
            && let Some(block) = within.find(bad)
        {
            let could_be: Vec<u64> = disk.could_be(block).collect();
            let may_hold = self.client.may_hold(block).to_vec();
            self.violate(format!(
                "invariant 2: block {block} on {id} could be {could_be:?}, not {may_hold:?}"
            ));
        }
    }

    fn is_whole(&self) -> bool {
        let volume = self.raft.volume();
        let Some(active) = volume.active.filter(|a| self.client.at == Some((*a, volume.epoch))) else {
            return false;
        };
        let truth = &self.nodes[&active].disk;
        let equal = |id: &NodeId| (0..2).all(|x| self.nodes[id].disk.extent(x) == truth.extent(x));
        volume.in_sync.len() == volume.replicas.len()
            && volume.replicas.keys().all(equal)
            && self.client.idle()
            && self.asked == self.script.len()
    }

    /// Faults have ended and everything goes its way: all replicas become equal, all requests are
    /// answered.
    pub fn heal(&mut self) -> Result<(), String> {
        self.budget = Budget { connects: 100, ..Budget::default() };
        let mut waits = 0;
        for _ in 0..5000 {
            if let Some(broken) = &self.broken {
                return Err(broken.clone());
            }
            let volume = self.raft.volume();
            let serving =
                volume.active.is_some_and(|id| self.epoch_of(id) == volume.epoch && !self.nodes[&id].fenced);
            let actions = self.actions();
            if let Some(action) = actions.first() {
                self.act(*action);
            } else if self.is_whole() {
                return Ok(());
            } else if !serving
                && waits % 4 == 3
                && let Some(node) = volume.in_sync.first().copied()
            {
                waits += 1;
                self.activate(node);
            } else if waits < 60 {
                waits += 1;
                self.wait();
            } else {
                break;
            }
        }
        let volume = self.raft.volume();
        let at = self.client.at;
        Err(format!("invariant 9: in sync {:?}, attached {at:?}, asked {}", volume.in_sync, self.asked))
    }
}
