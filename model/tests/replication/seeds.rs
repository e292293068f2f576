//! Many seeds, and for each rule switched off: the simulator notices.

use crate::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use thermidor_model::replication::Rules;

/// How many seeds `make test` runs; `make soak` runs more.
const SEEDS: u64 = 100_000;
const REPLAY: &str = "cargo test -p thermidor-model --test replication whatever -- --nocapture";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What the runs of some seeds came to.
#[derive(Debug, Default)]
struct Sum {
    flushes: u64,
    takeovers: u64,
    repaired: u64,
    rotted: u64,
    mended: u64,
    told: u64,
    copied: u64,
    /// The lowest seed that broke something, and how.
    broken: Option<(u64, String)>,
}

/// Runs seeds from a shared counter until there are none or one has broken something.
fn run_some(next: &AtomicU64, end: u64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let mut world = World::new(seed, Rules::default(), false);
        let result = catch_unwind(AssertUnwindSafe(|| world.run()));
        let result = result.unwrap_or_else(|_| Err("it panicked".into()));
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.flushes += world.client.flushes;
        sum.takeovers += world.takeovers;
        sum.repaired += u64::from(world.repaired);
        let rot = world.rot_came_to();
        sum.rotted += rot.rotted;
        sum.mended += rot.mended;
        sum.told += rot.told;
        sum.copied += rot.copied;
        if let Err(broken) = result {
            next.store(end, Ordering::Relaxed);
            if sum.broken.as_ref().is_none_or(|(known, _)| seed < *known) {
                sum.broken = Some((seed, broken));
            }
        }
    }
}

#[test]
fn whatever_breaks_nothing_flushed_is_lost_and_the_home_heals() {
    if let Some(seed) = number("SEED") {
        let result = World::new(seed, Rules::default(), true).run();
        assert_eq!(result, Ok(()), "seed {seed}");
        return;
    }
    let (from, seeds) = (number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(SEEDS));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, sum, began) = (AtomicU64::new(from), Mutex::new(Sum::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run_some(&next, from + seeds, &sum));
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, broken)) = sum.broken {
        panic!("seed {seed}: {broken}\nreplay: SEED={seed} {REPLAY}");
    }
    let Sum { flushes, takeovers, repaired, rotted, mended, told, copied, .. } = sum;
    let seconds = began.elapsed().as_secs();
    println!(
        "{seeds} seeds: {flushes} flushes, {takeovers} take-overs, {repaired} waited for a lost disk; {seconds} s"
    );
    println!(
        "{rotted} blocks rotted: {copied} were copied before they were found, {mended} extents repaired, {told} told as undecided"
    );
    assert!(mended * 20 > rotted && rotted * 2 > seeds / 4, "the search for bit rot does nothing");
    assert!(flushes > seeds * 5, "only {flushes} flushes in {seeds} seeds: the simulator does nothing");
    assert!(takeovers > seeds * 2, "only {takeovers} take-overs in {seeds} seeds");
    assert!(repaired * 20 < seeds, "{repaired} of {seeds} runs lost every in-sync disk");
}

/// Runs seeds until one breaks an invariant; says how it showed.
fn noticed(rules: Rules, within: u64) -> String {
    for seed in 0..within {
        if let Err(broken) = World::new(seed, rules, number("SEED") == Some(seed)).run() {
            println!("seed {seed}: {broken}");
            return broken;
        }
    }
    panic!("{within} seeds did not notice {rules:?}");
}

#[test]
fn without_dropping_through_raft_first_it_is_noticed() {
    noticed(Rules { drop_through_raft: false, ..Rules::default() }, 300);
}

#[test]
fn without_refusing_an_old_epoch_it_is_noticed() {
    noticed(Rules { refuse_old_epoch: false, ..Rules::default() }, 1000);
}

#[test]
fn without_minding_a_lost_page_cache_it_is_noticed() {
    noticed(Rules { resume_from_durable: false, ..Rules::default() }, 1000);
}

#[test]
fn without_the_tail_copy_it_is_noticed() {
    noticed(Rules { copy_tail: false, ..Rules::default() }, 300);
}

#[test]
fn without_waiting_for_apply_it_is_noticed() {
    noticed(Rules { act_on_applied: false, ..Rules::default() }, 2000);
}

#[test]
fn without_waiting_for_all_it_is_noticed() {
    noticed(Rules { wait_for_all: false, ..Rules::default() }, 300);
}

#[test]
fn without_counting_an_unknown_addition_it_is_noticed() {
    noticed(Rules { unknown_counts_as_in: false, ..Rules::default() }, 4000);
}

#[test]
fn without_asking_for_the_same_line_it_is_noticed() {
    noticed(Rules { same_line: false, ..Rules::default() }, 2000);
}

#[test]
fn without_what_was_written_under_another_active_it_is_noticed() {
    noticed(Rules { take_map: false, ..Rules::default() }, 2000);
}

#[test]
fn without_noting_for_the_missing_it_is_noticed() {
    noticed(Rules { note_for_all: false, ..Rules::default() }, 2000);
}

#[test]
fn without_marking_first_it_is_noticed() {
    noticed(Rules { mark_first: false, ..Rules::default() }, 1000);
}

#[test]
fn without_looking_in_the_streams_order_it_is_noticed() {
    noticed(Rules { look_in_order: false, ..Rules::default() }, 1000);
}

#[test]
fn without_letting_go_of_what_is_beyond_the_actives_end_it_is_noticed() {
    noticed(Rules { cut_beyond: false, ..Rules::default() }, 4000);
}

#[test]
fn without_holding_what_is_repaired_it_is_noticed() {
    noticed(Rules { hold_repaired: false, ..Rules::default() }, 4000);
}
