//! A home that gets smaller and grows again: radiators switched off for the summer, one that is silent
//! for long, one that was away for long.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use std::time::Duration;
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::paths::Paths;
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

/// More entries than a log keeps behind its snapshot.
const ENTRIES: usize = 5_600;
/// Commands under way at once.
const PARALLEL: usize = 16;

fn others(home: &RecordHome, than: &str) -> Vec<&'static str> {
    assert!(home.radiator(than).is_ok());
    RADIATORS.into_iter().filter(|r| *r != than).collect()
}

fn votes(status: &Status, name: &str) -> bool {
    status.member(name).is_some_and(|m| m.votes)
}

#[test]
fn a_home_shrinks_to_one_radiator_and_grows_back_serving_all_the_while() {
    let mut home = RecordHome::form("shrink").unwrap();
    let stays = home.active().unwrap();
    let go = others(&home, &stays);
    home.sit_away_from(&go).unwrap();
    let shrink = |home: &RecordHome| -> Result<()> {
        for name in &go {
            home.home.type_here(&["off", name, "--power-off"])?;
            let free = |s: &Status| !votes(s, name) && s.runs_on(SERVICE) == Some(&stays);
            let status = home.home.wait(60, &format!("{name} to have nothing to do"), free)?;
            ensure!(status.voters() != 2, "a home never has two voters: {status:?}");
            home.radiator(name)?.power_off()?;
            std::thread::sleep(Duration::from_secs(3));
        }
        let status =
            home.home.wait(30, "a home of one", |s| s.voters() == 1 && s.runs_on(SERVICE).is_some())?;
        ensure!(!status.warnings.is_empty(), "it is said that nothing takes over: {status:?}");
        home.audit()?;
        for name in go.iter().rev() {
            home.radiator(name)?.power_on()?;
            home.home.type_here(&["on", name])?;
            home.home.wait(60, &format!("{name} to be on"), |s| s.in_sync(name))?;
        }
        Ok(())
    };
    let delivered = home.through(shrink).unwrap();
    assert!(delivered.resent.is_empty(), "no connection was lost: {delivered:?}");
    assert_eq!(home.active().unwrap(), stays);
}

/// Makes the log long enough to be cut.
fn fill_log(paths: &Paths) -> Result<()> {
    let put = || -> Result<()> {
        for _ in 0..ENTRIES / PARALLEL {
            client::ask(paths, &Request::Put { value: "x".repeat(100) })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(put)).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

#[test]
fn a_silent_voter_is_replaced_and_whoever_was_away_for_long_comes_back_by_snapshot() {
    let mut home = RecordHome::form_on("forget", &|_| {}, &["--forget-after", "8s"]).unwrap();
    home.home.lab.add_witness("grenier").unwrap();
    home.home.join("grenier", &["--witness"]).unwrap();
    home.home.start_units("grenier", false).unwrap();
    let active = home.active().unwrap();
    let silent = others(&home, &active)[0];
    home.sit_away_from(&[silent]).unwrap();
    let silence = |home: &RecordHome| -> Result<()> {
        let four = |s: &Status| s.member("grenier").is_some_and(|m| m.state == "on") && s.voters() == 3;
        let status = home.home.wait(30, "a witness that does not vote yet", four)?;
        ensure!(!votes(&status, "grenier") && votes(&status, silent), "{status:?}");
        home.radiator(silent)?.power_off()?;
        let replaced = |s: &Status| votes(s, "grenier") && !votes(s, silent) && s.voters() == 3;
        home.home.wait(60, "the silent voter to be replaced", replaced)?;
        let snapshot = home.radiator(silent)?.dir().join("data/raft/snapshot");
        ensure!(!snapshot.exists(), "its log alone was enough so far");
        fill_log(&home.radiator(&active)?.paths()?)?;
        home.radiator(silent)?.power_on()?;
        home.home.wait(60, "it to be back", |s| s.in_sync(silent))?;
        let came = || Ok(snapshot.exists().then_some(()));
        until(Duration::from_secs(30), "the snapshot that brought it back", came)?;
        // Its vote comes back with the place that is free for it.
        home.home.type_here(&["leave", "grenier"])?;
        home.radiator("grenier")?.power_off()?;
        Ok(())
    };
    home.through(silence).unwrap();
}
