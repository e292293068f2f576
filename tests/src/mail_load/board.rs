//! What the clients share: the model, the account of what they did, and a gate at which they wait while
//! somebody compares.

use super::model::{Model, Operation, Outcome};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many operations came to which end.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// By the operation's name: acknowledged, refused, unknown.
    pub operations: BTreeMap<&'static str, [u64; 3]>,
    /// Sessions that could not be opened.
    pub not_opened: u64,
    /// Numbers that an `OK` did not know: a message got another number meanwhile.
    pub numbers_void: u64,
    /// What servers said who refused, and how often.
    pub refusals: BTreeMap<String, u64>,
    /// Longest time without any acknowledgement while clients were at work.
    pub longest_wait: Duration,
    last: Option<Instant>,
}

impl Account {
    /// Notes a refusal, without the times in it.
    pub fn refused(&mut self, why: &str) {
        let said = why.split(" (0.").next().unwrap_or(why);
        let said = said.rsplit_once(" [2").map_or(said, |(said, _)| said);
        *self.refusals.entry(said.to_owned()).or_default() += 1;
    }

    /// Operations acknowledged in all.
    pub fn acknowledged(&self) -> u64 {
        self.operations.values().map(|ends| ends[0]).sum()
    }
}

/// What the clients share.
#[derive(Debug)]
pub struct Shared {
    /// What is known of every message.
    pub model: Model,
    /// What was done.
    pub account: Account,
    paused: bool,
    over: bool,
    at_work: usize,
}

/// The board.
#[derive(Debug)]
pub struct Board {
    shared: Mutex<Shared>,
    changed: Condvar,
    began: Instant,
}

impl Default for Board {
    fn default() -> Self {
        let shared = Shared {
            model: Model::default(),
            account: Account::default(),
            paused: true,
            over: false,
            at_work: 0,
        };
        Self { shared: Mutex::new(shared), changed: Condvar::new(), began: Instant::now() }
    }
}

impl Board {
    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is shared.
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at the gate, then begins an operation; false once all is over.
    pub fn begin(&self) -> bool {
        let mut shared = self.lock();
        while shared.paused && !shared.over {
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        if !shared.over {
            shared.at_work += 1;
        }
        !shared.over
    }

    /// Ends what [`Board::begin`] began.
    pub fn end(&self) {
        self.lock().at_work -= 1;
        self.changed.notify_all();
    }

    /// Takes the outcome of an operation into model and account.
    pub fn record(&self, id: &str, done: &Operation, outcome: Outcome, uid: Option<u32>) {
        let now = self.now();
        let mut shared = self.lock();
        shared.model.record(id, done, outcome, uid, now);
        let name = match done {
            Operation::Send => "send",
            Operation::Append(..) => "append",
            Operation::Store(..) => "store",
            Operation::Move(..) => "move",
            Operation::Copy(..) => "copy",
            Operation::Expunge(..) => "expunge",
        };
        let account = &mut shared.account;
        account.operations.entry(name).or_default()[outcome as usize] += 1;
        if outcome == Outcome::Acknowledged {
            let waited = account.last.replace(Instant::now()).map(|last| last.elapsed());
            account.longest_wait = account.longest_wait.max(waited.unwrap_or_default());
        }
    }

    /// Lets the clients go on.
    pub fn resume(&self) {
        let mut shared = self.lock();
        shared.paused = false;
        shared.account.last = Some(Instant::now());
        drop(shared);
        self.changed.notify_all();
    }

    /// Lets the clients end what they are at and waits for them, so long; says whether all did.
    pub fn pause(&self, limit: Duration) -> bool {
        let mut shared = self.lock();
        shared.paused = true;
        let waiting = |shared: &mut Shared| shared.at_work > 0;
        let waited = self.changed.wait_timeout_while(shared, limit, waiting);
        shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        shared.at_work == 0
    }

    /// Lets the clients end for good.
    pub fn finish(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }
}
