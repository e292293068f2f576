//! Delivers numbered items over several connections and keeps account of what was
//! acknowledged. An item whose acknowledgement was lost is sent again under the same name,
//! as a mail server would: it must arrive at least once.

use super::{Stop, pause, stopped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection waits before it tries anew.
const RETRY: Duration = Duration::from_millis(100);
/// How often it is looked whether all is over.
const LOOK: Duration = Duration::from_millis(5);

/// How much is delivered, and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// How many items; without it until told to end.
    #[arg(long)]
    pub count: Option<u64>,
    /// How the items' names begin.
    #[arg(long, default_value = "item")]
    pub prefix: String,
    /// Connections at once.
    #[arg(long, default_value_t = 4)]
    pub parallel: u64,
    /// Pause between two items of a connection, ms.
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
    /// End after that long, s.
    #[arg(long, default_value_t = 300)]
    pub limit_s: u64,
}

/// Why an item was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke, or the answer was "later": try again.
    Again(String),
    /// The answer was "never".
    Refused(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Again(error.to_string())
    }
}

/// An open connection over which items are delivered.
pub trait Session {
    /// Delivers one item; `Ok` once it is acknowledged.
    fn put(&mut self, name: &str) -> Result<(), Trouble>;
}

/// What became of the items.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
    /// Names acknowledged, in that order.
    pub acknowledged: Vec<String>,
    /// Names sent more than once, since an acknowledgement may have been lost, and how often.
    pub resent: BTreeMap<String, u32>,
    /// Names refused for good, with the answer.
    pub refused: BTreeMap<String, String>,
    /// Names sent, yet never acknowledged: they may have arrived or not.
    pub unknown: Vec<String>,
    /// Connections that could not be opened, by why.
    pub not_opened: BTreeMap<String, u64>,
    /// Longest time without any acknowledgement until the last one, or until it was told to end, ms.
    pub longest_gap_ms: u64,
    /// How long it all took, ms.
    pub took_ms: u64,
}

struct Account {
    delivered: Delivered,
    last: Instant,
}

impl Account {
    fn acknowledge(&mut self, name: String) {
        self.waited(Instant::now());
        self.delivered.acknowledged.push(name);
    }

    /// Nothing came before this moment since the last.
    fn waited(&mut self, until: Instant) {
        let gap = until.saturating_duration_since(self.last).as_millis() as u64;
        self.delivered.longest_gap_ms = self.delivered.longest_gap_ms.max(gap);
        self.last = until;
    }
}

/// Delivers until the count is reached, the limit passed, or the client told to end.
pub fn run<S: Session>(load: &Load, stop: &Stop, open: impl Fn() -> Result<S, Trouble> + Sync) -> Delivered {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let account = Mutex::new(Account { delivered: Delivered::default(), last: began });
    let over = || stopped(stop) || began.elapsed() > Duration::from_secs(load.limit_s);
    std::thread::scope(|scope| {
        let worker = || work(load, stop, &open, &next, &account, &over);
        let workers: Vec<_> = (0..load.parallel.max(1)).map(|_| scope.spawn(worker)).collect();
        // Silence up to the end is silence too; who still waits then is not waited for.
        while !over() && !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::sleep(LOOK);
        }
        if over() {
            account.lock().unwrap_or_else(PoisonError::into_inner).waited(Instant::now());
        }
    });
    let mut account = account.into_inner().unwrap_or_else(PoisonError::into_inner);
    account.delivered.took_ms = began.elapsed().as_millis() as u64;
    account.delivered
}

fn work<S: Session>(
    load: &Load,
    stop: &Stop,
    open: &impl Fn() -> Result<S, Trouble>,
    next: &AtomicU64,
    account: &Mutex<Account>,
    over: &impl Fn() -> bool,
) {
    let with =
        |edit: &dyn Fn(&mut Account)| edit(&mut account.lock().unwrap_or_else(PoisonError::into_inner));
    let mut session: Option<S> = None;
    while !over() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if load.count.is_some_and(|count| number >= count) {
            return;
        }
        let name = format!("{}-{number}", load.prefix);
        let mut sent = false;
        loop {
            if over() {
                if sent {
                    with(&|a| a.delivered.unknown.push(name.clone()));
                }
                return;
            }
            let mut opened = match session.take().map_or_else(open, Ok) {
                Ok(opened) => opened,
                Err(Trouble::Again(why) | Trouble::Refused(why)) => {
                    with(&|a| *a.delivered.not_opened.entry(why.clone()).or_default() += 1);
                    pause(stop, RETRY);
                    continue;
                }
            };
            if sent {
                with(&|a| *a.delivered.resent.entry(name.clone()).or_default() += 1);
            }
            sent = true;
            match opened.put(&name) {
                Ok(()) => {
                    with(&|a| a.acknowledge(name.clone()));
                    session = Some(opened);
                    break;
                }
                Err(Trouble::Refused(why)) => {
                    with(&|a| {
                        a.delivered.refused.insert(name.clone(), why.clone());
                    });
                    break;
                }
                Err(Trouble::Again(_)) => pause(stop, RETRY),
            }
        }
        if load.pause_ms > 0 {
            pause(stop, Duration::from_millis(load.pause_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn load(count: u64) -> Load {
        Load { count: Some(count), prefix: "m".into(), parallel: 1, pause_ms: 0, limit_s: 60 }
    }

    struct Scripted<'a> {
        calls: &'a AtomicU64,
        answer: fn(u64) -> Result<(), Trouble>,
    }

    impl Session for Scripted<'_> {
        fn put(&mut self, _: &str) -> Result<(), Trouble> {
            (self.answer)(self.calls.fetch_add(1, Ordering::Relaxed))
        }
    }

    #[test]
    fn a_lost_acknowledgement_is_sent_again_under_the_same_name() {
        let calls = AtomicU64::new(0);
        let answer = |n| if n == 1 { Err(Trouble::Again("reset".into())) } else { Ok(()) };
        let report = run(&load(3), &Stop::default(), || Ok(Scripted { calls: &calls, answer }));
        assert_eq!(report.acknowledged, ["m-0", "m-1", "m-2"]);
        assert_eq!(report.resent, BTreeMap::from([("m-1".to_owned(), 1)]));
        assert!(report.refused.is_empty() && report.unknown.is_empty());
    }

    #[test]
    fn a_refusal_is_final_and_a_home_not_reached_is_counted() {
        let calls = AtomicU64::new(0);
        let answer = |n| if n == 0 { Err(Trouble::Refused("550 no".into())) } else { Ok(()) };
        let opens = AtomicU64::new(0);
        let report = run(&load(2), &Stop::default(), || match opens.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Trouble::Again("connection refused".into())),
            _ => Ok(Scripted { calls: &calls, answer }),
        });
        assert_eq!(report.acknowledged, ["m-1"]);
        assert_eq!(report.refused["m-0"], "550 no");
        assert_eq!(report.not_opened["connection refused"], 1);
    }

    #[test]
    fn a_home_that_falls_silent_for_good_is_a_gap_up_to_the_end() {
        struct Waits<'a>(&'a Stop);
        impl Session for Waits<'_> {
            fn put(&mut self, name: &str) -> Result<(), Trouble> {
                if name == "m-0" {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(60));
                self.0.store(true, Ordering::Relaxed);
                Err(Trouble::Again("gone".into()))
            }
        }
        let stop = Stop::default();
        let report = run(&load(5), &stop, || Ok(Waits(&stop)));
        assert_eq!(report.acknowledged, ["m-0"]);
        assert!(report.longest_gap_ms >= 60, "{report:?}");
    }

    #[test]
    fn what_was_sent_but_never_acknowledged_is_unknown_not_lost() {
        let stop = Stop::default();
        struct Ends<'a>(&'a Stop, Cell<bool>);
        impl Session for Ends<'_> {
            fn put(&mut self, _: &str) -> Result<(), Trouble> {
                self.1.set(true);
                self.0.store(true, Ordering::Relaxed);
                Err(Trouble::Again("gone".into()))
            }
        }
        let report = run(&load(5), &stop, || Ok(Ends(&stop, Cell::new(false))));
        assert_eq!(report.unknown, ["m-0"]);
        assert!(report.acknowledged.is_empty());
    }
}
