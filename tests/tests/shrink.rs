//! A home that gets smaller and grows again: radiators switched off for the summer, one that is silent
//! for long, one that was away for long, a majority that is gone for good.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
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

/// What runs on a radiator of this home.
fn running(home: &RecordHome, name: &str) -> Result<String> {
    let list = ["ps", "--filter", "label=thermidor.home", "--format", "{{.Names}}"];
    Ok(home.radiator(name)?.run("docker", &list)?)
}

/// A machine that starts with nothing, as a new one.
fn start_anew(home: &RecordHome, name: &str) -> Result<()> {
    let radiator = home.radiator(name)?;
    for unit in ["run", "guard", "ingress"] {
        radiator.remove_unit(unit)?;
    }
    radiator.power_off()?;
    let data = radiator.dir().join("data");
    std::fs::rename(&data, radiator.dir().join("data.away")).context("put its data aside")?;
    std::fs::create_dir(&data).context("an empty folder")?;
    radiator.power_on()?;
    radiator.engine_ready()?;
    home.home.join(name, &[])?;
    home.home.start_units(name, true)
}

#[test]
fn when_the_majority_is_gone_for_good_one_radiator_is_the_home_and_the_old_ones_must_join_again() {
    let mut home = RecordHome::form("rescue").unwrap();
    let active = home.active().unwrap();
    let alone = others(&home, &active)[0];
    let lost = others(&home, alone);
    home.sit_away_from(&lost).unwrap();
    let rescue = |home: &RecordHome| -> Result<()> {
        for name in &lost {
            home.radiator(name)?.power_off()?;
        }
        home.home.wait(30, "the majority to be missed", |s| !s.quorum)?;
        let said = home.home.refused_on(alone, &["move", SERVICE, alone])?;
        ensure!(
            said.contains("majority") || said.contains("leader") || said.contains("may have been done"),
            "{said}"
        );
        home.radiator(alone)?.unit("run", |u| u.down())??;
        let said = home.home.refused_on(alone, &["rescue"])?;
        ensure!(lost.iter().all(|name| said.contains(name)), "it names whom to unplug: {said}");
        ensure!(said.contains("--others-are-unplugged"), "it names the command: {said}");
        home.home.type_on(alone, &["rescue", "--others-are-unplugged"])?;
        home.radiator(alone)?.unit("run", |u| u.up())?;
        let saved = |s: &Status| s.generation == 2 && s.runs_on(SERVICE) == Some(alone);
        home.home.wait(60, "the home of one", saved)?;

        // An old one comes back as it was: it serves nothing, and says why.
        let old = lost[0];
        home.radiator(old)?.power_on()?;
        let log = home.radiator(old)?.dir().join("logs/run.log");
        let told = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(text.contains("the home was rescued without it").then_some(()))
        };
        until(Duration::from_secs(60), "the old member to say that it was left behind", told)?;
        home.radiator(old)?.engine_ready()?;
        ensure!(running(home, old)?.trim().is_empty(), "it serves in the old generation");
        for name in &lost {
            start_anew(home, name)?;
        }
        Ok(())
    };
    home.through(rescue).unwrap();
    home.replicas_alike().unwrap();
}
