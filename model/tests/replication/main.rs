//! The replication protocol: a scenario per rule, and a simulator in which one seed is one run.
//!
//! `SEEDS=1000000` runs more of them, `FROM=100000` begins with that one, `SEED=17` replays one with its
//! trace: `SEED=17 cargo test -p thermidor-model --test replication whatever -- --nocapture`.

mod bench;
mod client;
mod disk;
mod faults;
mod growing;
mod growth;
mod homes;
mod machines;
mod map;
mod network;
mod one_replica;
mod raft;
mod replica;
mod rot;
mod scenarios;
mod scrubbing;
mod search;
mod seeds;
mod small;
mod world;

/// Where a crash's outcome comes from.
pub trait Chance {
    /// True in so many of a thousand.
    fn permille(&mut self, of: u64) -> bool;
    /// One of these; none of nothing.
    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T>;
}

impl Chance for Dice {
    fn permille(&mut self, of: u64) -> bool {
        Dice::permille(self, of)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        Dice::pick(self, of)
    }
}

/// A small generator (splitmix64): the same seed, the same run, on every machine and version.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to, not including, `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True in so many of a thousand.
    pub fn permille(&mut self, of: u64) -> bool {
        self.next() % 1000 < of
    }

    /// One of these, each as likely; none of nothing.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[(self.next() % of.len() as u64) as usize]) }
    }
}
