//! What goes wrong on one machine: a container that dies at once, a container engine that is killed,
//! a disk that is full. It is said in words, nothing acknowledged is lost, and it heals.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::radiator::ENGINE;
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

/// A service that ends with code 3 as soon as it has begun, and one that does not.
const DIES: &str = "  lamp:\n    image: thermidor/record:1\n    command: [\"sh\", \"-c\", \"exit 3\"]\n";
const LIVES: &str = "  lamp:\n    image: thermidor/record:1\n    command: [\"sleep\", \"infinity\"]\n";

/// When the engine started the lamp's container on a radiator, ns.
fn starts(home: &RecordHome, radiator: &str) -> Result<Vec<u128>> {
    let events = home.radiator(radiator)?.run(
        "sh",
        &[
            "-c",
            "docker events --since 24h --until $(date +%s) --filter event=start \
             --filter container=thermidor.maison.lamp --format '{{.TimeNano}}'",
        ],
    )?;
    events.lines().map(|line| Ok(line.trim().parse()?)).collect()
}

#[test]
fn a_container_that_dies_at_once_rests_goes_elsewhere_and_is_told_of() {
    let mut home = RecordHome::form("dies").unwrap();
    let dies = |home: &RecordHome| -> Result<()> {
        home.declare(DIES)?;
        let said = |s: &Status| {
            let lamp = s.service("lamp").map(|l| l.reason.clone()).unwrap_or_default();
            lamp.contains("it keeps ending (ended with code 3), and nowhere else will do")
        };
        home.home.wait(180, "the lamp to have died everywhere", said)?;
        let explained = home.home.type_here(&["explain", "lamp"])?;
        ensure!(explained.contains("kept ending there: kept away for"), "{explained}");
        let events = home.home.type_here(&["events"])?;
        let left = |name: &&str| events.contains(&format!("it keeps ending in {name} (ended with code 3)"));
        ensure!(RADIATORS.iter().filter(|name| left(name)).count() == 2, "it left two radiators: {events}");
        for name in RADIATORS {
            let at = starts(home, name)?;
            let rests: Vec<u128> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
            ensure!(rests.len() >= 3, "{name} tried it {} times", at.len());
            // Later ones may be of another placing.
            // What the engine takes to start it comes on top, and is not always the same.
            const LEAST_MS: [u128; 3] = [500, 1000, 2000];
            ensure!(
                rests.iter().zip(LEAST_MS).all(|(rest, least)| *rest >= least * 1_000_000),
                "{name} rests longer each time: {rests:?}"
            );
        }
        // Mended by whoever declared it; nothing else is to be done.
        home.declare(LIVES)?;
        home.home.wait(60, "the mended lamp", |s| s.runs_on("lamp").is_some())?;
        Ok(())
    };
    let delivered = home.through(dies).unwrap();
    assert!(delivered.resent.is_empty(), "the other service took no notice: {delivered:?}");
}

#[test]
fn an_engine_that_is_killed_is_told_of_and_moves_nothing() {
    let mut home = RecordHome::form("engine").unwrap();
    let before = home.home.wait(10, "the service", |s| s.runs_on(SERVICE).is_some()).unwrap();
    let epoch = before.service(SERVICE).unwrap().epoch;
    let active = home.active().unwrap();
    let standby = *RADIATORS.iter().find(|r| **r != active).unwrap();
    home.sit_away_from(&[&active, standby]).unwrap();
    let gone = |home: &RecordHome| -> Result<()> {
        for name in [active.as_str(), standby] {
            home.radiator(name)?.unit(ENGINE, |u| u.down9())?;
        }
        let told = |s: &Status| {
            let says = |r: &str| {
                s.member(r)
                    .is_some_and(|m| m.troubles.iter().any(|t| t.contains("engine") || t.contains("Docker")))
            };
            says(&active) && says(standby)
        };
        home.home.wait(30, "the engine's absence to be told", told)?;
        let now = home.home.wait(10, "the service", |s| s.service(SERVICE).is_some())?;
        let service = now.service(SERVICE).context("the service")?;
        ensure!(
            service.active.as_deref() == Some(&active) && service.epoch == epoch,
            "it moved: {service:?}"
        );
        for name in [active.as_str(), standby] {
            home.radiator(name)?.unit(ENGINE, |u| u.up())?;
            home.radiator(name)?.engine_ready()?;
        }
        let calm = |s: &Status| s.radiators.iter().all(|m| m.troubles.is_empty());
        home.home.wait(60, "all troubles to end", calm)?;
        Ok(())
    };
    let delivered = home.through(gone).unwrap();
    println!("engine killed: longest gap {} ms", delivered.longest_gap_ms);
    assert_eq!(home.active().unwrap(), active, "an engine's restart moves nothing");
}

#[test]
fn a_full_disk_of_the_active_is_told_of_loses_nothing_and_heals_when_there_is_space() {
    let mut home = RecordHome::form_on("full", &|o| o.disk_mib = Some(480), &[]).unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let full = |home: &RecordHome| -> Result<()> {
        let radiator = home.radiator(&active)?;
        // dd ends when nothing more fits: that is its purpose here. The file system frees a block here and there,
        // which are taken too.
        let fill = "dd if=/dev/zero of=$THERMIDOR_DATA/ballast bs=1M oflag=append conv=notrunc 2>&1; \
                    dd if=/dev/zero of=$THERMIDOR_DATA/ballast bs=512 oflag=append conv=notrunc 2>&1 || :";
        // What the service writes in blocks that are its already goes on: it is given more to write than those.
        let more = format!(
            "docker exec thermidor.maison.{SERVICE} dd if=/dev/zero of=/data/more bs=64k count=400 conv=fsync 2>&1 || :"
        );
        let elsewhere = || {
            radiator.run("sh", &["-c", fill])?;
            radiator.run("sh", &["-c", &more])?;
            let Some(status) = home.home.status()? else { return Ok(None) };
            let said = |s: &Status| {
                s.member(&active).is_some_and(|m| m.troubles.iter().any(|t| t.contains("the disk is full")))
            };
            let moved = status.runs_on(SERVICE).is_some_and(|on| on != active);
            Ok((said(&status) && moved).then_some(status))
        };
        let status =
            until(Duration::from_secs(120), "words of the full disk and the service elsewhere", elsewhere)?;
        let member = status.member(&active).context("the radiator")?;
        println!("{:?}", member.troubles);
        // Its log lives on what was kept back: the radiator is heard, and votes.
        ensure!(member.state == "on", "it fell silent: {member:?}");
        std::thread::sleep(Duration::from_secs(5));
        radiator.run("sh", &["-c", "rm -f $THERMIDOR_DATA/ballast"])?;
        home.home.wait(60, "all troubles to end", |s| s.radiators.iter().all(|m| m.troubles.is_empty()))?;
        Ok(())
    };
    home.through(full).unwrap();
    // What was given up takes no room from what was made in its place.
    until(Duration::from_secs(30), "the old image to be gone", || {
        let look = format!("ls $THERMIDOR_DATA/volumes/{SERVICE}");
        let kept = home.radiator(&active).unwrap().run("sh", &["-c", &look])?;
        Ok((!kept.contains(".aside")).then_some(()))
    })
    .unwrap();
    home.replicas_alike().unwrap();
}

/// A service that would rather not run than have fewer copies than three.
const LEDGER: &str = "  ledger:\n    image: thermidor/record:1\n    ports: [ \"7001:7000\" ]\n    \
     volumes: [ \"ledger:/data\" ]\n    stop_grace_period: 2s\n";
const WHOLE_OR_STOPPED: &str = "  ledger: { size: 64m, replicas: 3, durability: 3, on_degraded: stop }\n";

#[test]
fn a_service_whose_degraded_volume_is_to_stop_it_stops_says_why_and_heals_by_itself() {
    let mut home = RecordHome::form("degraded").unwrap();
    home.declare_with(LEDGER, WHOLE_OR_STOPPED).unwrap();
    let whole = |s: &Status| s.runs_on("ledger").is_some() && RADIATORS.iter().all(|r| s.in_sync(r));
    let status = home.home.wait(90, "the ledger, in sync everywhere", whole).unwrap();
    let busy = [status.runs_on("ledger"), status.runs_on(SERVICE)];
    let standby = *RADIATORS.iter().find(|r| !busy.contains(&Some(**r))).unwrap();
    home.sit_away_from(&[standby]).unwrap();
    let lost = |home: &RecordHome| -> Result<()> {
        home.radiator(standby)?.power_off()?;
        let stopped = |s: &Status| s.service("ledger").is_some_and(|l| l.state == "waits");
        let status = home.home.wait(60, "the ledger to stop", stopped)?;
        println!("{:?}", status.service("ledger"));
        let said = home.home.type_here(&["status"])?;
        ensure!(
            said.contains("ledger waits until it is whole (on_degraded: stop)"),
            "nobody says why: {said}"
        );
        home.radiator(standby)?.power_on()?;
        home.home.wait(90, "the ledger to run again", whole)?;
        Ok(())
    };
    let delivered = home.through(lost).unwrap();
    println!("longest gap of the service beside it: {} ms", delivered.longest_gap_ms);
    assert!(delivered.resent.is_empty(), "the service beside it went on: {delivered:?}");
}
