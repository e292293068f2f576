//! A busy, lossy, stuttering home in which nothing may fail over: no radiator is away for long.

use crate::bench::Ground;
use crate::bench::processes::Process;
use crate::record::{RADIATORS, RecordHome, SERVICE};
use anyhow::{Context, Result};
use rand::Rng;
use rustix::process::{getpriority_process, setpriority_process};
use std::path::Path;
use std::time::{Duration, Instant};
use thermidor_model::{ServiceName, State};
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::paths::Paths;

/// Busy processes for each core.
const BUSY: usize = 8;
/// Of a hundred packets sent by any radiator or the client so many are lost.
const LOST_PERCENT: u8 = 10;
/// The longest freeze, ms.
const FREEZE_MAX_MS: u64 = 400;
/// The shortest freeze, ms.
const FREEZE_MIN_MS: u64 = 50;
/// The priority of what freezes, so that the load does not make freezes longer than they should be.
const PRIORITY: i32 = -15;
/// Between two freezes.
const PAUSE: Duration = Duration::from_millis(1000);

/// What a storm did.
#[derive(Debug)]
pub struct Storm {
    /// For each freeze, how often a service or the address got another holder until the next one.
    pub failovers: Vec<f64>,
    /// Longest time without an acknowledged line, s.
    pub gap_s: f64,
}

/// Lets it storm for that long while lines are written; what was acknowledged is there.
pub fn weather(ground: &Ground, home: &mut RecordHome, time: Duration) -> Result<Storm> {
    let mut counts = Vec::new();
    let mut longest = Duration::ZERO;
    let storm = |home: &RecordHome| -> Result<()> {
        let _busy = busy(ground)?;
        for name in RADIATORS.into_iter().chain(["client"]) {
            home.home.lab.drop_percent(name, LOST_PERCENT)?;
        }
        let priority = getpriority_process(None).context("its own priority")?;
        setpriority_process(None, PRIORITY).context("raise its own priority")?;
        let end = Instant::now() + time;
        let mut before = epochs(home)?;
        while Instant::now() < end {
            longest = longest.max(freeze_one(home)?);
            std::thread::sleep(PAUSE);
            let now = epochs(home)?;
            counts.push((now - before) as f64);
            before = now;
        }
        setpriority_process(None, priority).context("lower its own priority")?;
        Ok(home.home.lab.heal()?)
    };
    let delivered = home.through(storm)?;
    ground.say(format!(
        "storm of {} s: {} freezes, the longest {} ms; {} lines acknowledged, longest gap {} ms",
        time.as_secs(),
        counts.len(),
        longest.as_millis(),
        delivered.acknowledged.len(),
        delivered.longest_gap_ms
    ));
    Ok(Storm { failovers: counts, gap_s: delivered.longest_gap_ms as f64 / 1000.0 })
}

/// Processes that do nothing, as fast as they can, each in a session of its own as containers are.
fn busy(ground: &Ground) -> Result<Vec<Process>> {
    let cores = std::thread::available_parallelism().context("count the cores")?.get();
    let log = ground.scratch.join("busy.log");
    let start = |_| Process::start(Path::new("setsid"), ["sh", "-c", "while :; do :; done"], &[], &log);
    (0..BUSY * cores).map(start).collect()
}

/// Stops everything on some radiator where it stands, for a while; returns for how long.
fn freeze_one(home: &RecordHome) -> Result<Duration> {
    let mut random = rand::rng();
    let radiator = home.radiator(RADIATORS[random.random_range(0..RADIATORS.len())])?;
    let time = Duration::from_millis(random.random_range(FREEZE_MIN_MS..=FREEZE_MAX_MS));
    let began = Instant::now();
    radiator.freeze()?;
    std::thread::sleep(time);
    radiator.thaw()?;
    Ok(began.elapsed())
}

/// How often the service and the address have got a holder so far: the sum of their epochs, as the
/// member knows that has applied the most.
fn epochs(home: &RecordHome) -> Result<u64> {
    let service = ServiceName::new(SERVICE).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut most = None;
    for radiator in home.home.lab.radiators() {
        let paths = Paths { data: radiator.dir().join("data"), run: radiator.dir().join("run") };
        let state: State = client::ask_for(&paths, &Request::State)
            .with_context(|| format!("ask {} for its state", radiator.name()))?;
        let epoch = state.services.get(&service).context("the service is declared")?.epoch;
        most = most.max(Some(epoch + state.address.epoch));
    }
    most.context("a home without radiators")
}
