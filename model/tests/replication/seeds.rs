//! Many seeds, and for each rule switched off: the simulator notices.

use crate::world::World;
use thermidor_model::replication::Rules;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn whatever_breaks_nothing_flushed_is_lost_and_the_home_heals() {
    if let Some(seed) = number("SEED") {
        let result = World::new(seed, Rules::default(), true).run();
        assert_eq!(result, Ok(()), "seed {seed}");
        return;
    }
    let seeds = number("SEEDS").unwrap_or(2000);
    let (mut flushes, mut takeovers, mut repaired) = (0, 0, 0);
    for seed in 0..seeds {
        let mut world = World::new(seed, Rules::default(), false);
        if let Err(broken) = world.run() {
            panic!(
                "seed {seed}: {broken}\nreplay: SEED={seed} cargo test --test replication whatever -- --nocapture"
            );
        }
        flushes += world.client.flushes;
        takeovers += world.takeovers;
        repaired += u64::from(world.repaired);
    }
    println!("{seeds} seeds: {flushes} flushes, {takeovers} take-overs, {repaired} waited for a lost disk");
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
fn without_marking_first_it_is_noticed() {
    noticed(Rules { mark_first: false, ..Rules::default() }, 1000);
}
