//! Cut and frozen radiators: at most one serves, nothing acknowledged is lost, and the home heals
//! once the fault lifts.

#![forbid(unsafe_code)]

use anyhow::Result;
use std::time::Duration;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::record::{RADIATORS, RecordHome};

fn is_record(words: &[String]) -> bool {
    words.iter().any(|word| word == "/usr/local/bin/record")
}

fn wait(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

#[test]
fn the_active_cut_off_hands_over_and_what_it_had_acknowledged_is_there() {
    let mut home = RecordHome::form("cut-active").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let cut = |home: &RecordHome| -> Result<()> {
        home.home.lab.cut_all(&active)?;
        home.home.wait(30, "a take-over", |s| s.runs_on("record").is_some_and(|r| r != active))?;
        wait(3);
        Ok(home.home.lab.heal()?)
    };
    let delivered = home.through(cut).unwrap();
    println!("active cut off: longest gap {} ms", delivered.longest_gap_ms);
    // Having been fenced there does not keep it away for ever.
    let back = |home: &RecordHome| -> Result<()> {
        home.home.type_here(&["move", "record", &active])?;
        home.home.wait(30, "the way back", |s| s.runs_on("record") == Some(&active))?;
        Ok(())
    };
    home.through(back).unwrap();
}

#[test]
fn one_way_cuts_and_a_cut_leader_heal() {
    let mut home = RecordHome::form("cut-ways").unwrap();
    let active = home.active().unwrap();
    let others: Vec<&str> = RADIATORS.into_iter().filter(|r| *r != active).collect();
    home.sit_away_from(&[&active]).unwrap();
    for outwards in [true, false] {
        let cut = |home: &RecordHome| -> Result<()> {
            for other in &others {
                let (from, to) = if outwards { (active.as_str(), *other) } else { (*other, active.as_str()) };
                home.home.lab.cut_way(from, to)?;
            }
            wait(5);
            Ok(home.home.lab.heal()?)
        };
        home.through(cut).unwrap();
    }
    let leader = home.leader().unwrap();
    home.sit_away_from(&[&leader]).unwrap();
    let cut = |home: &RecordHome| -> Result<()> {
        home.home.lab.cut_all(&leader)?;
        wait(5);
        Ok(home.home.lab.heal()?)
    };
    home.through(cut).unwrap();
}

#[test]
fn a_cut_that_heals_within_the_lease_moves_nothing() {
    let mut home = RecordHome::form("cut-short").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let blink = |home: &RecordHome| -> Result<()> {
        home.home.lab.cut_all(&active)?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(home.home.lab.heal()?)
    };
    home.through(blink).unwrap();
    assert_eq!(home.active().unwrap(), active);
}

/// Frozen for less than an election takes a leader leads on; whom no answer reaches gives way while the cut lasts.
#[test]
fn a_leader_bears_a_short_freeze_and_gives_way_to_a_one_way_cut() {
    let mut home = RecordHome::form("mute").unwrap();
    let bears = |home: &RecordHome| -> Result<()> {
        let mut borne = 0;
        for _ in 0..6 {
            let leader = home.leader()?;
            home.radiator(&leader)?.freeze()?;
            std::thread::sleep(Duration::from_millis(330));
            home.radiator(&leader)?.thaw()?;
            wait(2);
            borne += u32::from(home.leader()? == leader);
        }
        // On a busy machine some are longer than they should be.
        anyhow::ensure!(borne > 0, "every freeze was followed by an election");
        Ok(())
    };
    home.through(bears).unwrap();
    let leader = home.leader().unwrap();
    home.sit_away_from(&[&leader]).unwrap();
    let cut = |home: &RecordHome| -> Result<()> {
        for other in RADIATORS.into_iter().filter(|r| *r != leader) {
            home.home.lab.cut_way(other, &leader)?;
        }
        let another = |s: &Status| s.leader.as_deref().is_some_and(|l| l != leader);
        home.home.wait(20, "another leader while the cut lasts", another)?;
        Ok(home.home.lab.heal()?)
    };
    home.through(cut).unwrap();
}

/// The lines sent through the frozen radiator's own address tell whether it serves after it wakes:
/// what it acknowledged then would be in nobody's list. Its replica tells whether it wrote.
#[test]
fn a_frozen_active_writes_and_serves_nothing_after_it_wakes() {
    let mut home = RecordHome::form("freeze").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let direct = format!("{}:7000", home.radiator(&active).unwrap().address());
    let client = home.writer(&direct, "direct").unwrap();
    let before = home.radiator(&active).unwrap().pids_where(is_record);
    let freeze = |home: &RecordHome| -> Result<()> {
        home.radiator(&active)?.freeze()?;
        home.home.wait(30, "a take-over", |s| s.runs_on("record").is_some_and(|r| r != active))?;
        wait(10);
        home.radiator(&active)?.thaw()?;
        let ended = || {
            let now = home.home.lab.radiator(&active)?.pids_where(is_record);
            Ok(before.iter().all(|pid| !now.contains(pid)).then_some(()))
        };
        Ok(until(Duration::from_secs(20), "the old instance to be killed", ended)?)
    };
    home.through(freeze).unwrap();
    let delivered: Delivered = client.stop().unwrap();
    assert!(delivered.acknowledged.len() > 50 && delivered.refused.is_empty(), "{delivered:?}");
    home.remember(&delivered);
    home.audit().unwrap();
    home.replicas_alike().unwrap();
}

/// Stops the active's guard for so long while lines are written; what was acknowledged is there afterwards.
fn freeze_guard(name: &str, time: Duration) -> Delivered {
    let mut home = RecordHome::form(name).unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let freeze = |home: &RecordHome| -> Result<()> {
        let guard = home.radiator(&active)?;
        guard.unit("guard", |u| u.signal(rustix::process::Signal::STOP))?;
        std::thread::sleep(time);
        guard.unit("guard", |u| u.signal(rustix::process::Signal::CONT))?;
        Ok(())
    };
    home.through(freeze).unwrap()
}

#[test]
fn a_frozen_guard_ends_the_service_there_and_nothing_is_lost() {
    freeze_guard("freeze-guard", Duration::from_secs(10));
}

/// Long enough for every lease to end, too short for anybody else to seem better: service and address
/// come back to the same radiator, the address in a new epoch.
#[test]
fn a_guard_frozen_for_a_moment_gets_service_and_address_again() {
    let delivered = freeze_guard("blink-guard", Duration::from_millis(1_300));
    println!("guard frozen for 1.3 s: longest gap {} ms", delivered.longest_gap_ms);
}
