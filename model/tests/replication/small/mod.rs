//! The small home that is searched through: two or three radiators, a short script of requests and a
//! budget of faults. Every order in which things can happen is one path of [`Small::actions`].

mod home;
mod machines;
mod network;

use crate::Chance;
use crate::client::Client;
use crate::disk::{BLOCK, Disk, Job, blocks};
use crate::raft::Raft;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use thermidor_model::command::{Command, Outcome, Why};
use thermidor_model::replication::{
    Active, Answer, DeviceOp, Effect, Event, Follower, FollowerEffect, FollowerEvent, Frame, Grade,
    ImageHeader, Limits, LocalEffect, LocalEvent, OpKind, Rules,
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
    noted_max: 0,
    copies_max: 2,
    catch_up_percent: 50,
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
#[expect(
    clippy::large_enum_variant,
    reason = "cloned millions of times, and boxes would be allocated each time"
)]
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

    /// How an active brings a replica up to date.
    pub fn grade(&self, active: NodeId, replica: NodeId) -> Option<Grade> {
        match &self.nodes[&active].machine {
            Machine::Active(active) => active.progress().get(&replica)?.grade,
            Machine::Follower(_) => None,
        }
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
}
