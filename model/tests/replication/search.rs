//! The small case, exhaustively: every order of a few requests, deliveries, disk jobs and faults.
//!
//! Over the machines themselves; a state is met once, by its hash. Two things happen at
//! once that in truth take time: hashing for a comparison, and the restart after a loss of power.

use crate::disk::BLOCK;
use crate::small::{Action, Budget, Small};
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;
use thermidor_model::replication::{DeviceOp, Op, OpKind, Rules};

/// How one came to a state.
#[derive(Debug)]
struct Path {
    action: Action,
    before: Option<Rc<Path>>,
}

#[derive(Debug, Default)]
struct Explored {
    states: usize,
    steps: u64,
    healed: u64,
    /// What broke, and how one gets there.
    broken: Option<(String, Vec<Action>)>,
}

/// Folded multiplication: quick, and good enough for some millions of states.
#[derive(Debug, Clone, Copy, Default)]
struct Folding(u64);

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = self.0.rotate_left(23) ^ word ^ 0xa076_1d64_78bd_642f;
        let product = u128::from(mixed) * 0xe703_7ed1_a0b4_28db_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ self.0.rotate_left(5);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn hash_of(small: &Small) -> u64 {
    let mut hasher = Folding::default();
    small.hash(&mut hasher);
    hasher.finish()
}

fn way_to(path: Option<Rc<Path>>) -> Vec<Action> {
    let mut way = Vec::new();
    let mut next = path;
    while let Some(path) = next {
        way.push(path.action);
        next = path.before.clone();
    }
    way.reverse();
    way
}

/// A state that was met, and how it was come to.
type Met = (Small, Option<Rc<Path>>);
/// States that nothing was tried in yet.
type Frontier = VecDeque<Met>;

/// Goes through all states, or until something breaks.
fn explore(begin: Small, next_of: impl Fn(&mut Frontier) -> Option<Met>) -> Explored {
    let mut explored = Explored::default();
    let mut met: HashSet<u64, BuildHasherDefault<Folding>> = HashSet::default();
    met.insert(hash_of(&begin));
    let mut frontier = Frontier::from([(begin, None)]);
    while let Some((small, path)) = next_of(&mut frontier) {
        if small.is_quiet() {
            explored.healed += 1;
            if let Err(broken) = small.clone().heal() {
                explored.broken = Some((broken, way_to(path)));
                break;
            }
        }
        let mut broken = None;
        for action in small.actions() {
            let mut next = small.clone();
            next.act(action);
            explored.steps += 1;
            let path = Some(Rc::new(Path { action, before: path.clone() }));
            if let Some(text) = next.broken() {
                broken = Some((text.clone(), way_to(path)));
                break;
            }
            if met.insert(hash_of(&next)) {
                frontier.push_back((next, path));
            }
        }
        if broken.is_some() {
            explored.broken = broken;
            break;
        }
    }
    explored.states = met.len();
    explored
}

fn write(block: u64) -> DeviceOp {
    DeviceOp::Change(Op { kind: OpKind::Write, offset: block * BLOCK, len: BLOCK })
}

fn whole(extent: u64) -> DeviceOp {
    DeviceOp::Change(Op { kind: OpKind::Write, offset: extent * 4 * BLOCK, len: 4 * BLOCK })
}

/// All of it holds; says how much that was.
fn holds(name: &str, small: Small) {
    // depth first, which keeps the least at a time
    let explored = explore(small, Frontier::pop_back);
    println!(
        "{name}: {} states, {} steps, {} quiet states healed",
        explored.states, explored.steps, explored.healed
    );
    if let Some((broken, way)) = explored.broken {
        panic!("{name}: {broken}\nafter {} steps: {way:#?}", way.len());
    }
}

/// With a rule broken, the search finds a way to lose something.
fn found(name: &str, small: Small) {
    // breadth first: with a rule broken there may be no end to what can happen
    let explored = explore(small, Frontier::pop_front);
    match explored.broken {
        Some((broken, way)) => {
            println!("{name}: found in {} states, {} steps long: {broken}", explored.states, way.len());
        }
        None => panic!("{name}: {} states, and nothing broke", explored.states),
    }
}

// ---- two replicas in sync

fn pair(script: &[DeviceOp], budget: Budget, rules: Rules) -> Small {
    Small::new(2, 2, script, budget, rules)
}
const CRASH_AND_EPOCH: Budget =
    Budget { crashes: 1, cuts: 0, epochs: 1, waits: 0, losses: 0, removals: 0, connects: 1 };
const CUT_AND_DROP: Budget =
    Budget { crashes: 0, cuts: 1, epochs: 0, waits: 2, losses: 1, removals: 0, connects: 1 };
const CRASH: Budget =
    Budget { crashes: 1, cuts: 1, epochs: 0, waits: 0, losses: 0, removals: 0, connects: 1 };

#[test]
fn two_replicas_a_crash_and_a_new_epoch() {
    let script = [write(0), DeviceOp::Flush];
    holds("two replicas, write, flush, a crash, an epoch", pair(&script, CRASH_AND_EPOCH, Rules::default()));
}

#[test]
fn two_replicas_a_cut_and_a_lost_answer() {
    let script = [write(0), DeviceOp::Flush];
    holds(
        "two replicas, write, flush, a cut, a drop, a lost answer",
        pair(&script, CUT_AND_DROP, Rules::default()),
    );
}

#[test]
fn two_replicas_a_crash_and_a_cut() {
    let script = [whole(0), write(1), DeviceOp::Flush];
    holds("two replicas, two writes, flush, a crash, a cut", pair(&script, CRASH, Rules::default()));
}

#[test]
fn a_replica_that_joins_while_the_answer_is_lost() {
    let script = [write(0), DeviceOp::Flush];
    let budget = Budget { cuts: 1, losses: 1, connects: 2, ..Budget::default() };
    holds(
        "a replica joins, write, flush, a cut, a lost answer",
        Small::new(2, 1, &script, budget, Rules::default()),
    );
}

#[test]
fn three_replicas_one_of_which_is_removed() {
    let script = [write(0), DeviceOp::Flush];
    let budget = Budget { removals: 1, ..Budget::default() };
    holds("three replicas, write, flush, a removal", Small::new(3, 3, &script, budget, Rules::default()));
}

// ---- and each rule broken

#[test]
fn the_search_finds_a_flush_answered_before_raft_dropped_the_member() {
    let rules = Rules { drop_through_raft: false, ..Rules::default() };
    found("drop_through_raft", pair(&[write(0), DeviceOp::Flush], CUT_AND_DROP, rules));
}

#[test]
fn the_search_finds_an_old_epoch_accepted() {
    let rules = Rules { refuse_old_epoch: false, ..Rules::default() };
    found("refuse_old_epoch", pair(&[write(0), DeviceOp::Flush], CRASH_AND_EPOCH, rules));
}

#[test]
fn the_search_finds_a_lost_page_cache_forgotten() {
    let rules = Rules { resume_from_durable: false, ..Rules::default() };
    found("resume_from_durable", pair(&[whole(0), DeviceOp::Flush], CRASH, rules));
}

#[test]
fn the_search_finds_the_tail_copy_skipped() {
    let rules = Rules { copy_tail: false, ..Rules::default() };
    found("copy_tail", pair(&[write(0), DeviceOp::Flush], CRASH_AND_EPOCH, rules));
}

#[test]
fn the_search_finds_an_extent_written_unmarked() {
    let rules = Rules { mark_first: false, ..Rules::default() };
    found("mark_first", pair(&[write(0), DeviceOp::Flush], CRASH_AND_EPOCH, rules));
}

#[test]
fn the_search_finds_an_answer_acted_on_before_it_was_applied() {
    let rules = Rules { act_on_applied: false, ..Rules::default() };
    let budget = Budget { waits: 2, removals: 1, ..Budget::default() };
    found("act_on_applied", Small::new(3, 3, &[write(0), DeviceOp::Flush], budget, rules));
}

#[test]
fn the_search_finds_a_flush_answered_by_some() {
    let rules = Rules { wait_for_all: false, ..Rules::default() };
    found("wait_for_all", Small::new(3, 3, &[write(0), DeviceOp::Flush], Budget::default(), rules));
}

#[test]
fn the_search_finds_an_unknown_addition_not_counted() {
    let rules = Rules { unknown_counts_as_in: false, ..Rules::default() };
    let budget = Budget { cuts: 1, losses: 1, connects: 2, ..Budget::default() };
    found("unknown_counts_as_in", Small::new(2, 1, &[write(0), DeviceOp::Flush], budget, rules));
}
