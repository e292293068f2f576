//! Time that goes wrong: a wall clock set by an hour, and orders that are carried out when the epoch
//! they were decided in is over.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;
use thermidor_model::command::Why;
use thermidor_model::{Command, NodeId, Outcome, Refusal, ReplicaId, ServiceName, State, VolumeName};
use thermidor_raft::HomeClient;
use thermidor_services::volume::control::{ControlError, VolumeControl};
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_supervisor::guard::{Call, GuardClient, Reply};
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

/// Where a radiator's wall clock is set, as the radiator sees it.
const CLOCK: &str = "/run/clock";
const HOUR_MS: u64 = 3_600_000;

/// The library that sets the wall clock for one process, and leaves the others alone.
fn clock_library() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = found.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime: scripts/setup installs it")
}

fn state_of(radiator: &Radiator) -> State {
    client::ask_for(&radiator.paths().unwrap(), &Request::State).unwrap()
}

/// How far a radiator's daemon is ahead of our clock, ms: by when the token it gives out ends.
fn ahead_ms(home: &RecordHome, radiator: &str) -> Result<i64> {
    let before = state_of(home.radiator(radiator)?);
    home.home.type_on(radiator, &["invite", "--ttl", "2h"])?;
    let after = state_of(home.radiator(radiator)?);
    let fresh = after.tokens.iter().find(|(hash, _)| !before.tokens.contains_key(*hash));
    let expires_ms = fresh.context("a new token")?.1.expires_ms;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    Ok(i64::try_from(expires_ms)? - i64::try_from(now)? - 2 * HOUR_MS as i64)
}

#[test]
fn a_wall_clock_set_by_an_hour_moves_nothing_and_ends_no_connection() {
    let library = clock_library().to_string_lossy().into_owned();
    let clocks = |options: &mut thermidor_supervisor::demo::lab::Options| {
        let env = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", CLOCK),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_NO_CACHE", "1"),
        ];
        options.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    };
    let mut home = RecordHome::form_on("clocks", &clocks, &[]).unwrap();
    let before = home.home.wait(10, "the service", |s| s.runs_on(SERVICE).is_some()).unwrap();
    let (active, epoch) = (home.active().unwrap(), before.service(SERVICE).unwrap().epoch);
    let leader = home.leader().unwrap();
    for (set, hours) in [("+3600", 1), ("-3600", -1), ("+0", 0)] {
        let step = |home: &RecordHome| -> Result<()> {
            for name in [&leader, &active] {
                std::fs::write(home.radiator(name)?.seen(CLOCK.as_ref())?, format!("{set}\n"))?;
            }
            std::thread::sleep(Duration::from_secs(4));
            let ahead_ms = ahead_ms(home, &leader)?;
            println!("{leader} is ahead by {ahead_ms} ms");
            ensure!(
                (ahead_ms - hours * HOUR_MS as i64).abs() < 600_000,
                "the clock was not set: {ahead_ms} ms"
            );
            Ok(())
        };
        let delivered = home.through(step).unwrap();
        assert!(delivered.resent.is_empty(), "no connection was lost: {delivered:?}");
        let now = home.home.wait(10, "the service", |s| s.runs_on(SERVICE).is_some()).unwrap();
        let service = now.service(SERVICE).unwrap();
        assert_eq!((service.active.as_ref(), service.epoch), (Some(&active), epoch), "set {set}: no move");
    }
    // Decisions are as good as before: a plug pulled under a clock that is an hour late.
    std::fs::write(home.radiator(&leader).unwrap().seen(CLOCK.as_ref()).unwrap(), "-3600\n").unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let pull = |home: &RecordHome| -> Result<()> {
        home.radiator(&active)?.power_off()?;
        home.home.wait(30, "a take-over", |s| s.runs_on(SERVICE).is_some_and(|r| r != active))?;
        Ok(home.radiator(&active)?.power_on()?)
    };
    home.through(pull).unwrap();
}

fn record() -> (ServiceName, VolumeName) {
    (ServiceName::new(SERVICE).unwrap(), VolumeName::new(SERVICE).unwrap())
}

/// Every order that a leader or a radiator may have decided on, as computed from that state.
fn orders(then: &State) -> Vec<Command> {
    let (service, volume) = record();
    let (s, v) = (&then.services[&service], &then.volumes[&volume]);
    let active = s.active.unwrap();
    let other = *v.in_sync.iter().find(|n| **n != active).unwrap();
    let (epoch_was, set_was, epoch) = (s.epoch, v.set_version, v.epoch);
    let reason = "decided long ago".to_owned();
    let sets = [(volume.clone(), set_was)].into();
    vec![
        Command::Activate {
            service: service.clone(),
            epoch_was,
            to: active,
            sets,
            why: Why::Failover,
            reason: reason.clone(),
        },
        Command::Stop { service: service.clone(), epoch_was, next: Some(active), reason },
        Command::Stopped { service: service.clone(), epoch_was, node: active },
        Command::Avoid { service, epoch_was, node: other, until_ms: u64::MAX },
        Command::AddReplica { volume: volume.clone(), set_was, node: other, id: ReplicaId(7) },
        Command::RemoveReplica { volume: volume.clone(), set_was, node: other },
        Command::JoinSet { volume: volume.clone(), epoch, set_was, node: other, id: v.replicas[&other] },
        Command::DropFromSet { volume: volume.clone(), epoch, set_was, node: other },
        Command::Promote { volume, epoch, set_was, node: other },
        Command::HoldAddress { epoch_was: then.address.epoch, to: Some(other) },
        Command::Declare {
            revision_was: then.declared.as_ref().map_or(0, |d| d.revision),
            text: then.declared.as_ref().map(|d| d.text.clone()).unwrap_or_default(),
            spec: Box::new(then.spec().unwrap().clone()),
            keep_overrides: false,
            contexts: [].into(),
        },
    ]
}

/// Proposes to the home as a member's process does.
fn propose(radiator: &Radiator, commands: Vec<Command>) -> Result<Vec<(Command, Outcome)>> {
    let data = radiator.paths()?.data;
    radiator.on_network(|| -> Result<Vec<_>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = HomeClient::open(&data)?;
            let mut outcomes = Vec::new();
            for command in commands {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                outcomes.push((command.clone(), client.propose(command, deadline).await?));
            }
            Ok(outcomes)
        })
    })?
}

/// What a radiator's own processes answer to orders of an epoch that is over.
fn told_late(radiator: &Radiator, epoch: u64, volume_epoch: u64) -> Result<()> {
    let run = radiator.paths()?.run;
    let (service, volume) = record();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let attached = VolumeControl::new(&run, volume).attach(volume_epoch, epoch).await;
        let refused = matches!(&attached, Err(ControlError::Refused { .. }));
        ensure!(refused, "the volume's process was told to attach: {attached:?}");
        let mut guard = GuardClient::connect(&run).await?;
        let cgroup = PathBuf::from("/sys/fs/cgroup/unified/thermidor-lab/none/containers/none");
        let late = guard.call(&Call::Register { service: service.clone(), epoch, cgroup, pid: None }).await?;
        ensure!(
            matches!(&late, Reply::Refused { why } if why.contains("not held here")),
            "the guard: {late:?}"
        );
        // Whether it says so or not: a lease of another epoch is not given back by this.
        guard.call(&Call::Release { service, epoch }).await?;
        guard.call(&Call::ReleaseAddress { epoch: 0 }).await?;
        Ok(())
    })
}

/// But for what the notifier writes down by itself.
fn settled(mut state: State) -> State {
    state.notified = 0;
    state
}

#[test]
fn what_was_decided_in_an_epoch_that_is_over_is_refused_and_changes_nothing() {
    let mut home = RecordHome::form("late").unwrap();
    let active = home.active().unwrap();
    let other = *RADIATORS.iter().find(|r| **r != active).unwrap();
    let then = state_of(home.radiator(&active).unwrap());
    let (service, volume) = record();
    // Everything has moved on since: epochs by a move, the set by a radiator's absence, YAML by an apply.
    let on = |home: &RecordHome| -> Result<()> {
        home.home.type_here(&["move", SERVICE, other])?;
        home.home.wait(60, "the move", |s: &Status| s.runs_on(SERVICE) == Some(other))?;
        home.declare("  lamp:\n    image: thermidor/record:1\n    command: [\"sleep\", \"infinity\"]\n")?;
        home.home.wait(60, "the lamp", |s: &Status| s.runs_on("lamp").is_some())?;
        let moved = |s: &Status| s.holder() == Some(other);
        home.home.wait(60, "the address to follow", moved)?;
        Ok(())
    };
    home.through(on).unwrap();
    home.sit_away_from(&[&active]).unwrap();
    let absent = |home: &RecordHome| -> Result<()> {
        home.radiator(&active)?.power_off()?;
        home.home.wait(30, "its absence", |s: &Status| !s.in_sync(&active))?;
        Ok(home.radiator(&active)?.power_on()?)
    };
    home.through(absent).unwrap();

    let late = |home: &RecordHome| -> Result<()> {
        // The floating address and the sets are at rest.
        std::thread::sleep(Duration::from_secs(8));
        let before = state_of(home.radiator(other)?);
        for name in [active.as_str(), other] {
            told_late(home.radiator(name)?, then.services[&service].epoch, then.volumes[&volume].epoch)?;
        }
        for (command, outcome) in propose(home.radiator(&active)?, orders(&then))? {
            println!("{outcome:?}");
            ensure!(matches!(outcome, Outcome::Refused(Refusal::Stale(_))), "{command:?}: {outcome:?}");
        }
        let after = state_of(home.radiator(other)?);
        ensure!(settled(before.clone()) == settled(after.clone()), "it changed: {before:?} {after:?}");
        Ok(())
    };
    let delivered = home.through(late).unwrap();
    assert!(delivered.resent.is_empty(), "nobody noticed: {delivered:?}");
    let here: NodeId = state_of(home.radiator(other).unwrap()).services[&service].active.unwrap();
    assert_ne!(Some(here), then.services[&service].active);
}
