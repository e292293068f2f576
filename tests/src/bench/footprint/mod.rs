//! `footprint`: what a radiator's daemon, guard and ingress take, idle and loaded, and whether a busy
//! machine is taken for a dead one.

mod storm;
pub mod usage;

use super::figures::{Bound, Figure};
use super::{Ground, Group, setting};
use crate::record::RecordHome;
use anyhow::Result;
use std::time::Duration;
use thermidor_supervisor::demo::lab::Guest;
use usage::Usage;

/// The group.
pub const GROUP: Group = Group {
    name: "footprint",
    about: "what daemon, guard and ingress of a radiator take, and whether a busy home fails over",
    figures: &["idle_rss", "loaded_rss", "idle_cpu", "idle_disk_writes", "false_failovers", "storm_gap"],
    run: measure,
};

/// After the home has formed, before it counts as idle.
const SETTLE: Duration = Duration::from_secs(15);
/// How long it is watched idle, s; `THERMIDOR_BENCH_IDLE_S` overrides it.
const IDLE_S: u64 = 60;
/// How long it is watched loaded.
const LOADED: Duration = Duration::from_secs(30);
/// How long it storms, s; `THERMIDOR_BENCH_STORM_S` overrides it.
const STORM_S: u64 = 300;

fn measure(ground: &Ground) -> Result<Vec<Figure>> {
    let mut home = RecordHome::form("bench-footprint")?;
    std::thread::sleep(SETTLE);
    let window = Duration::from_secs(setting("THERMIDOR_BENCH_IDLE_S", IDLE_S)?);
    let idle = usage::watch(home.home.lab.radiators(), window)?;
    say(ground, &home, "idle", &idle);
    let loaded = loaded(&mut home)?;
    say(ground, &home, "loaded", &loaded);
    let time = Duration::from_secs(setting("THERMIDOR_BENCH_STORM_S", STORM_S)?);
    let storm = storm::weather(ground, &mut home, time)?;

    // Of three radiators the one that takes the most: the leader, or the active.
    let most = |name, unit, usages: &[Usage], what: fn(&Usage) -> f64, aim: f64| {
        let samples: Vec<f64> = usages.iter().map(what).collect();
        let value = samples.iter().copied().fold(f64::MIN, f64::max);
        Figure::new(name, unit, value, samples).aimed_at(Bound::AtMost(aim))
    };
    let false_failovers = Figure::new("false_failovers", "", storm.failovers.iter().sum(), storm.failovers);
    let storm_gap = Figure::new("storm_gap", "s", storm.gap_s, vec![storm.gap_s]);
    Ok(vec![
        most("idle_rss", "MiB", &idle, |usage| usage.memory_mib, 20.0),
        most("loaded_rss", "MiB", &loaded, |usage| usage.memory_mib, 50.0),
        most("idle_cpu", "% of a core", &idle, |usage| usage.cpu_percent, 1.0),
        most("idle_disk_writes", "KB/s", &idle, |usage| usage.written_kb_s, 10.0),
        false_failovers.required(Bound::AtMost(0.0)),
        storm_gap.aimed_at(Bound::AtMost(10.0)),
    ])
}

/// Watches while lines are written, each fsynced on all three before it is answered, and fifty new
/// connections a second come through the floating address.
fn loaded(home: &mut RecordHome) -> Result<Vec<Usage>> {
    let mut usages = Vec::new();
    let load = |home: &RecordHome| -> Result<()> {
        let to = home.to();
        let connecting = Guest::start(&home.home.lab, &["connect", "--to", &to, "--every-ms", "20"], &[])?;
        usages = usage::watch(home.home.lab.radiators(), LOADED)?;
        drop(connecting);
        Ok(())
    };
    home.through(load)?;
    Ok(usages)
}

fn say(ground: &Ground, home: &RecordHome, what: &str, usages: &[Usage]) {
    for (radiator, usage) in home.home.lab.radiators().iter().zip(usages) {
        ground.say(format!(
            "{what}: {:<8} {:>5.1} MiB, {:>5.2} % of a core, {:>6.1} KB/s written",
            radiator.name(),
            usage.memory_mib,
            usage.cpu_percent,
            usage.written_kb_s
        ));
        ground.say(format!("{what}: {:<8} own + program's memory, processor: {}", "", usage.each));
    }
}
