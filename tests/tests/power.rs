//! Power that fails and comes back: what the kernel had not brought to a disk is lost with it, and at
//! boot a container engine may be faster than we are.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

const LAMP: &str = "  lamp:\n    image: thermidor/record:1\n    command: [\"sleep\", \"infinity\"]\n";
/// Our units, without the engine.
const OURS: [&str; 3] = ["guard", "ingress", "run"];

fn wait(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Containers of the home that run there.
fn running(radiator: &Radiator) -> Result<String> {
    Ok(radiator.run("docker", &["ps", "--filter", "label=thermidor.home", "--format", "{{.Names}}"])?)
}

/// Each radiator has a disk that forgets what was not made to reach it.
#[test]
fn radiators_unplugged_with_lost_page_caches_have_everything_acknowledged() {
    let mut home = RecordHome::form_on("blackout", &|o| o.disk_mib = Some(480), &[]).unwrap();
    // Something was in the cache, and is gone: else the rest would show nothing.
    let lost = |home: &RecordHome| -> Result<()> {
        let active = home.active()?;
        home.radiator(&active)?.run("sh", &["-c", "echo unwritten >$THERMIDOR_DATA/unwritten"])?;
        home.radiator(&active)?.power_off()?;
        home.home.wait(30, "a take-over", |s| s.runs_on(SERVICE).is_some_and(|r| r != active))?;
        wait(2);
        home.radiator(&active)?.power_on()?;
        let gone = "[ -s $THERMIDOR_DATA/unwritten ] || echo lost";
        let left = home.radiator(&active)?.run("sh", &["-c", gone])?;
        ensure!(left.trim() == "lost", "the page cache was kept");
        Ok(())
    };
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    home.through(lost).unwrap();

    let blackout = |home: &RecordHome| -> Result<()> {
        for name in RADIATORS {
            home.radiator(name)?.power_off()?;
        }
        wait(1);
        for name in RADIATORS {
            home.radiator(name)?.power_on()?;
        }
        Ok(())
    };
    home.through(blackout).unwrap();
    home.replicas_alike().unwrap();
}

/// The engine is up first and starts what somebody told it to start always.
#[test]
fn what_an_engine_starts_at_boot_without_a_lease_is_killed_and_has_written_nothing() {
    let mut home = RecordHome::form("boot").unwrap();
    home.declare(LAMP).unwrap();
    let status = home.home.wait(60, "the lamp", |s| s.runs_on("lamp").is_some()).unwrap();
    let rebooted = status.runs_on("lamp").unwrap().to_owned();
    home.home.type_here(&["move", SERVICE, &rebooted]).unwrap();
    home.home.wait(60, "both services on one radiator", |s| s.runs_on(SERVICE) == Some(&rebooted)).unwrap();
    home.sit_away_from(&[&rebooted]).unwrap();
    let boot = |home: &RecordHome| -> Result<()> {
        let radiator = home.radiator(&rebooted)?;
        let always = ["update", "--restart=always", "thermidor.maison.lamp", "thermidor.maison.record"];
        radiator.run("docker", &always)?;
        for unit in OURS {
            radiator.unit(unit, |u| u.down9())?;
        }
        radiator.power_off()?;
        let elsewhere = |s: &thermidor_supervisor::demo::home::Status| {
            [SERVICE, "lamp"].iter().all(|name| s.runs_on(name).is_some_and(|r| r != rebooted))
        };
        let status = home.home.wait(60, "both to be taken over", elsewhere)?;
        let epoch = status.service("lamp").context("the lamp")?.epoch;

        radiator.power_on()?;
        radiator.engine_ready()?;
        let both = || Ok(running(radiator).is_ok_and(|names| names.contains("lamp")).then_some(()));
        until(Duration::from_secs(60), "the engine to start the lamp by itself", both)?;
        let record = radiator
            .run("docker", &["inspect", "--format", "{{.RestartCount}}", "thermidor.maison.record"])?;
        println!("the engine started the record {} times", record.trim());
        let left = radiator.run("sh", &["-c", "ls -A $THERMIDOR_DATA/volumes/record/mnt"])?;
        ensure!(left.trim().is_empty(), "it wrote below the mountpoint: {left}");

        for unit in OURS {
            radiator.unit(unit, |u| u.up())?;
        }
        let none = || Ok(running(radiator).is_ok_and(|names| names.trim().is_empty()).then_some(()));
        until(Duration::from_secs(60), "what has no lease to be killed", none)?;
        wait(3);
        ensure!(running(radiator)?.trim().is_empty(), "it came back");
        let status = home.home.wait(30, "the lamp", |s| s.runs_on("lamp").is_some())?;
        ensure!(status.service("lamp").is_some_and(|s| s.epoch == epoch), "the other lamp was not disturbed");
        Ok(())
    };
    home.through(boot).unwrap();
}
