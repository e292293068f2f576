//! The simulated home: what it consists of, and the order in which things happen.

use crate::Dice;
use crate::client::Client;
use crate::disk::{BLOCK, Disk};
use crate::raft::Raft;
use crate::rot::Rot;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use thermidor_model::NodeId;
use thermidor_model::command::Command;
use thermidor_model::replication::{Active, Answer, EXTENT_BYTES, Event, Follower, Frame, Limits, Rules};
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
    noted_max: 4,
    copies_max: 2,
    catch_up_percent: 50,
    hashes_max: 3,
};

#[derive(Debug)]
pub enum Machine {
    Down,
    Follower(Box<Follower>),
    Active(Box<Active>),
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub disk: Option<Disk>,
    pub machine: Machine,
    /// Raised with every start of the process.
    pub life: u64,
    pub view: Option<Rc<Volume>>,
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
    pub attached: bool,
    /// Its disk has no room for a longer image until then.
    pub short_until: u64,
}

pub type Packet = Option<(Frame, Vec<u64>)>;

#[derive(Debug)]
pub struct Pipe {
    /// Queued at the sender; `None` ends the session.
    pub queued: VecDeque<Packet>,
    pub travelling: VecDeque<Packet>,
    pub last_us: u64,
}

#[derive(Debug)]
pub struct Connection {
    pub ends: [(NodeId, u64); 2],
    pub pipes: [Pipe; 2],
    pub delay_us: u64,
    /// The active has closed it.
    pub closed: bool,
}

#[derive(Debug)]
pub enum Happening {
    Transmit { session: u64, way: usize },
    Arrive { session: u64, way: usize },
    Connect { node: NodeId, life: u64, to: NodeId },
    Disk { node: NodeId, life: u64, token: u64 },
    View { node: NodeId, volume: Rc<Volume> },
    Answer { node: NodeId, life: u64, answer: Answer },
    Apply { node: NodeId, life: u64, command: Box<Command>, silent: bool },
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
    /// Of the largest device that there will be.
    pub size_bytes: u64,
    pub rules: Rules,
    pub rot: Rot,
    pub connections: BTreeMap<u64, Connection>,
    agenda: BTreeMap<(u64, u64), Happening>,
    counter: u64,
    pub trace: bool,
    /// The epoch whose active is asked to detach.
    pub detaching: u64,
    pub activated_us: u64,
    pub repaired: bool,
    broken: Option<String>,
}

pub fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
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
        let most_bytes =
            if seed % 4 == 1 || seed % 8 == 7 { size_bytes + 3 * EXTENT_BYTES } else { size_bytes };
        let blocks = |bytes: u64| (bytes / BLOCK) as usize;
        let client = Client::of_a_growing_device(blocks(size_bytes), blocks(most_bytes));
        let mut world = Self {
            faults_until_us: dice.range(300, 1500) * MS,
            dice,
            now_us: 1_000_000,
            raft,
            nodes: BTreeMap::new(),
            client,
            cut_until: BTreeMap::new(),
            calm: false,
            disk_errors: 0,
            takeovers: 0,
            size_bytes: most_bytes,
            rules,
            rot: Rot::new(seed % 4 == 3),
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
    pub fn frozen(&self, what: &Happening) -> Option<u64> {
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

    pub fn happen(&mut self, what: Happening) {
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
                    self.tell_active(node, Event::Answered(answer));
                }
            }
            Happening::Apply { node, life, command, silent } => self.apply(node, life, *command, silent),
            Happening::Tick { node } => self.tick(node),
            Happening::Ask => self.ask(),
            Happening::Plan => self.plan(),
            Happening::Fault => self.fault(),
            Happening::Start { node } => self.start(node),
        }
    }
}

impl Node {
    /// For a run that did not heal.
    pub fn describe(&self) -> String {
        match &self.machine {
            Machine::Down => format!("{}: down", self.id),
            Machine::Follower(f) => format!("{}: {f:?}", self.id),
            Machine::Active(a) => {
                format!("{}: epoch {} fenced {} {:#?}", self.id, a.epoch(), self.fenced, a.progress())
            }
        }
    }

    pub fn new(id: NodeId) -> Self {
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
            short_until: 0,
        }
    }
}
