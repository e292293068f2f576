//! Faults of every kind under continuous SMTP and IMAP load: whatever a client was told is done is done.
//! One seed is one series of faults.
//!
//! `SEED=n` replays that one; `KILLS=200` is the long form, `MINUTES=30` its limit (`make soak`).

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thermidor_tests::mail_load::last_words::last_words;
use thermidor_tests::mail_load::{Plan, run};

/// Of the short form, unless told otherwise.
const SEED: u64 = 1;
const FAULTS: u64 = 8;
const LIMIT: Duration = Duration::from_secs(45);
/// Every replica is checked after so many faults.
const CHECK_EVERY: u64 = 20;

fn setting(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?)),
        _ => Ok(None),
    }
}

/// The short form has always the same faults, the long one others each time, unless it is told which.
fn plan() -> Result<Plan> {
    let kills = setting("KILLS")?;
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(SEED, |now| now.as_secs());
    let seed = setting("SEED")?.unwrap_or_else(|| kills.map_or(SEED, |_| drawn()));
    let limit = match (setting("MINUTES")?, kills) {
        (Some(minutes), _) => Duration::from_secs(minutes * 60),
        (None, Some(_)) => Duration::MAX,
        (None, None) => LIMIT,
    };
    Ok(Plan {
        name: "mail-kills",
        seed,
        faults: kills.unwrap_or(FAULTS),
        limit,
        check_every: CHECK_EVERY,
        keep: kills.is_some(),
    })
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails_under_load() {
    let summary = run(&plan().unwrap()).unwrap();
    println!("{summary}");
    assert!(summary.findings.is_empty(), "{} findings: {:?}", summary.findings.len(), summary.findings);
    assert!(summary.checked > 0 && summary.acknowledged() > 100, "hardly anything was done: {summary}");
}

#[test]
fn the_last_thing_acknowledged_before_a_plug_is_pulled_is_there() {
    let found = last_words("last-words").unwrap();
    assert!(found.is_empty(), "{found:?}");
}
