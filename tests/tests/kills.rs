//! kill -9 of each process of a radiator, alone and all together: nothing acknowledged is lost,
//! and the home heals by itself.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::held::Loop;
use thermidor_supervisor::guard::REGISTRY_FILE;
use thermidor_tests::record::{RADIATORS, RecordHome};
use thermidor_tests::withheld::Door;

fn kill(pids: &[u32]) -> Result<()> {
    ensure!(!pids.is_empty(), "there is nothing to kill");
    for pid in pids {
        let pid = Pid::from_raw(i32::try_from(*pid)?).ok_or_else(|| anyhow::anyhow!("pid 0"))?;
        match kill_process(pid, Signal::KILL) {
            // It went with another: a container ends with its first process.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn kill_unit(radiator: &Radiator, unit: &str) -> Result<()> {
    ensure!(radiator.unit(unit, |u| u.kill9())?, "{unit} did not run");
    Ok(())
}

fn container(radiator: &Radiator) -> Vec<u32> {
    radiator.pids_where(|words| words.iter().any(|word| word == "/usr/local/bin/record"))
}

/// The daemon may be gone for a while: the service goes on where it is, and no connection ends.
#[test]
fn the_actives_daemon_killed_interrupts_nothing() {
    let mut home = RecordHome::form("kill-daemon").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let delivered = home.through(|home| kill_unit(home.radiator(&active)?, "run")).unwrap();
    assert_eq!(home.active().unwrap(), active, "no move");
    assert!(delivered.resent.is_empty(), "no connection was lost: {delivered:?}");
}

#[test]
fn any_other_process_of_the_active_killed_loses_nothing() {
    let mut home = RecordHome::form("kill-active").unwrap();
    for part in ["guard", "ingress", "volume-process", "container"] {
        let active = home.active().unwrap();
        home.sit_away_from(&[&active]).unwrap();
        let told = home.through(|home| {
            let radiator = home.radiator(&active)?;
            match part {
                "volume-process" => kill(&radiator.pids_of(part)),
                "container" => kill(&container(radiator)),
                unit => kill_unit(radiator, unit),
            }
        });
        let delivered: Delivered = told.unwrap_or_else(|error| panic!("{part} killed: {error:#}"));
        println!("{part} killed on {active}: longest gap {} ms", delivered.longest_gap_ms);
    }
}

#[test]
fn all_processes_of_the_active_killed_at_once_lose_nothing() {
    let mut home = RecordHome::form("kill-all").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let all = |home: &RecordHome| {
        let radiator = home.radiator(&active)?;
        let mut pids = container(radiator);
        for verb in ["run", "guard", "ingress", "volume-process"] {
            pids.extend(radiator.pids_of(verb));
        }
        kill(&pids)
    };
    home.through(all).unwrap();
    let pids: Vec<u32> = home.home.lab.radiators().iter().flat_map(|r| r.pids_where(|_| true)).collect();
    let loops = Loop::of(&pids).unwrap();
    assert_eq!(loops.len(), 1, "one is active: {loops:?}");
    drop(home);
    assert!(!loops.iter().any(Loop::is_attached), "the lab leaves {loops:?}");
}

#[test]
fn leader_and_standbys_killed_stall_the_service_at_most() {
    let mut home = RecordHome::form("kill-standby").unwrap();
    let active = home.active().unwrap();
    let leader = home.leader().unwrap();
    home.sit_away_from(&[&leader]).unwrap();
    home.through(|home| kill_unit(home.radiator(&leader)?, "run")).unwrap();
    for standby in RADIATORS.iter().filter(|r| **r != active) {
        home.sit_away_from(&[standby]).unwrap();
        let everything = |home: &RecordHome| {
            let radiator = home.radiator(standby)?;
            radiator.power_off()?;
            std::thread::sleep(std::time::Duration::from_secs(2));
            Ok(radiator.power_on()?)
        };
        let delivered = home.through(everything).unwrap();
        println!("standby {standby} unplugged: longest stall {} ms", delivered.longest_gap_ms);
        assert_eq!(home.active().unwrap(), active, "a standby's loss moves nothing");
    }
}

/// The engine has started the container and its answer never comes, so the daemon can't say where it
/// runs; the daemon then is frozen, and the lease lost: only the guard is left to end it.
#[test]
fn a_lease_lost_between_start_and_registration_ends_the_container() {
    let mut home = RecordHome::form("kill-starting").unwrap();
    let active = home.active().unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let limit = Duration::from_secs(30);
    let fault = |home: &RecordHome| {
        let radiator = home.radiator(&active)?;
        let door = Door::before(radiator)?;
        kill(&container(radiator))?;
        let started = || Ok((door.starts() > 0 && !container(radiator).is_empty()).then_some(()));
        until(limit, "the container to be started again", started)?;
        let known = std::fs::read_to_string(radiator.paths()?.run.join(REGISTRY_FILE))?;
        ensure!(known.contains("\"container\"") && !known.contains("\"cgroup\""), "not registered: {known}");
        ensure!(radiator.unit("run", |u| u.signal(Signal::STOP))?, "the daemon did not run");
        home.home.lab.cut_all(&active)?;
        let cut = Instant::now();
        let over = || Ok(container(radiator).is_empty().then_some(()));
        let killed = until(Duration::from_secs(5), "the guard to end the container", over);
        println!("ended {} ms after the cut, {} starts unanswered", cut.elapsed().as_millis(), door.starts());
        ensure!(radiator.unit("run", |u| u.signal(Signal::CONT))?, "the daemon is gone");
        drop(door);
        home.home.lab.heal()?;
        killed.context("its lease is lost")
    };
    home.through(fault).unwrap();
}
