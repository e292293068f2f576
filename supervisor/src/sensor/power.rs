//! What a radiator's computing takes, in watts: from the processor's own energy counters
//! (RAPL), else from the share of its cores that is busy times the power that was declared.
//! All of it becomes heat.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;

/// Clock ticks of `/proc/stat` per second: fixed at 100 for user space on Linux.
const TICKS_PER_S: f64 = 100.0;

/// Why the power is not known.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// A counter can't be read.
    #[error("{path} can't be read")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A counter holds no number.
    #[error("{path} holds no number: `{text}`")]
    Garbage {
        /// Which.
        path: String,
        /// What it holds instead.
        text: String,
    },
}

fn read(path: &Path) -> Result<String, PowerError> {
    std::fs::read_to_string(path)
        .map_err(|source| PowerError::Read { path: path.display().to_string(), source })
}

fn read_number(path: &Path) -> Result<u64, PowerError> {
    let text = read(path)?;
    let garbage = |_| PowerError::Garbage { path: path.display().to_string(), text: text.trim().to_string() };
    text.trim().parse().map_err(garbage)
}

/// One processor package's energy counter.
#[derive(Debug)]
struct Zone {
    counter: PathBuf,
    wraps_at_uj: u64,
}

/// The processor packages' energy counters.
#[derive(Debug)]
pub struct Rapl(Vec<Zone>);

impl Rapl {
    /// Finds the packages under a sysfs root (`/sys`); `None` where there are none, or they
    /// can't be read (they are root's).
    pub fn find(sysfs: &Path) -> Option<Self> {
        let entries = std::fs::read_dir(sysfs.join("class/powercap")).ok()?;
        let mut zones: Vec<Zone> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.strip_prefix("intel-rapl:")?;
                // `intel-rapl:0:1` is a part of package 0 and counted in it.
                name.parse::<u32>().ok()?;
                let counter = path.join("energy_uj");
                read_number(&counter).ok()?;
                Some(Zone { wraps_at_uj: read_number(&path.join("max_energy_range_uj")).ok()?, counter })
            })
            .collect();
        zones.sort_by(|a, b| a.counter.cmp(&b.counter));
        (!zones.is_empty()).then_some(Self(zones))
    }

    fn counters(&self) -> Result<Vec<u64>, PowerError> {
        self.0.iter().map(|zone| read_number(&zone.counter)).collect()
    }

    /// Energy between two looks, J.
    fn joules(&self, before: &[u64], after: &[u64]) -> f64 {
        let spent = |((zone, b), a): ((&Zone, &u64), &u64)| {
            if a >= b { a - b } else { (zone.wraps_at_uj.saturating_sub(*b)).saturating_add(*a) }
        };
        self.0.iter().zip(before).zip(after).map(spent).map(|uj| uj as f64 / 1e6).sum()
    }
}

/// The machine's power between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Power {
    /// W
    pub watts: f64,
    /// Time that all cores together were busy.
    pub busy: Duration,
    /// Whether it was measured by energy counters; else it was computed from the busy time.
    pub measured: bool,
}

/// Measures a radiator's power.
#[derive(Debug)]
pub struct PowerMeter {
    rapl: Option<Rapl>,
    procfs: PathBuf,
    shared: bool,
    last: Option<Look>,
    last_cpu: Option<(Instant, BTreeMap<ServiceName, Duration>)>,
}

/// What a radiator's computing takes, and what it has left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// W
    pub power_w: f64,
    /// Of that, by service, W.
    pub service_w: BTreeMap<ServiceName, f64>,
    /// Bytes.
    pub memory_free_bytes: u64,
    /// Cores.
    pub cores: u32,
    /// What could not be measured, in words.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    counters: Vec<u64>,
    ticks: Ticks,
}

impl PowerMeter {
    /// Looks under `sysfs` and `procfs`, which are `/sys` and `/proc` but in tests.
    pub fn new(sysfs: &Path, procfs: &Path) -> Self {
        let rapl = Rapl::find(sysfs);
        Self { rapl, procfs: procfs.to_path_buf(), shared: false, last: None, last_cpu: None }
    }

    /// For the machine that this runs on.
    pub fn of_this_machine() -> Self {
        Self::new(Path::new("/sys"), Path::new("/proc"))
    }

    /// Whether other radiators share this machine (a demo): then only the own services' processor
    /// time counts, else each room would be warmed by all of them.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Power and services' shares since the last call, from the services' processor time so far.
    pub fn measure(&mut self, declared_w: f64, cpu: &BTreeMap<ServiceName, Duration>) -> Measured {
        self.measure_at(Instant::now(), declared_w, cpu)
    }

    pub(super) fn measure_at(
        &mut self,
        now: Instant,
        declared_w: f64,
        cpu: &BTreeMap<ServiceName, Duration>,
    ) -> Measured {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let mut measured = Measured { cores, ..Measured::default() };
        match memory_free_bytes(&self.procfs.join("meminfo")) {
            Ok(bytes) => measured.memory_free_bytes = bytes,
            Err(why) => measured.trouble = Some(why.to_string()),
        }
        let before = self.last_cpu.replace((now, cpu.clone()));
        let (since, before) = before.unwrap_or((now, BTreeMap::new()));
        // A container that was not there before, or began anew, has no share yet.
        let took = |(name, time): (&ServiceName, &Duration)| {
            Some((name.clone(), time.checked_sub(*before.get(name)?).unwrap_or_default()))
        };
        let took: BTreeMap<ServiceName, Duration> = cpu.iter().filter_map(took).collect();
        if self.shared {
            let busy: Duration = took.values().sum();
            measured.power_w = cpu_watts(declared_w, busy, now.saturating_duration_since(since), cores);
            measured.service_w = service_watts(measured.power_w, busy, &took);
            return measured;
        }
        match self.sample(declared_w, now) {
            Ok(Some(power)) => {
                measured.power_w = power.watts;
                measured.service_w = service_watts(power.watts, power.busy, &took);
            }
            Ok(None) => {}
            Err(why) => measured.trouble = Some(why.to_string()),
        }
        measured
    }

    /// The power since the last call; `None` at the first.
    pub fn sample(&mut self, declared_w: f64, now: Instant) -> Result<Option<Power>, PowerError> {
        let counters = self.rapl.as_ref().map_or(Ok(vec![]), Rapl::counters)?;
        let look = Look { at: now, counters, ticks: Ticks::read(&self.procfs.join("stat"))? };
        let before = self.last.replace(look);
        let (Some(before), Some(after)) = (before, &self.last) else { return Ok(None) };
        let seconds = now.saturating_duration_since(before.at).as_secs_f64();
        let (busy, all) = after.ticks.since(&before.ticks);
        if seconds <= 0.0 || all == 0 {
            return Ok(None);
        }
        let busy_time = Duration::from_secs_f64(busy as f64 / TICKS_PER_S);
        Ok(Some(match &self.rapl {
            Some(rapl) => {
                let watts = rapl.joules(&before.counters, &after.counters) / seconds;
                Power { watts, busy: busy_time, measured: true }
            }
            None => {
                let watts = declared_w * busy as f64 / all as f64;
                Power { watts, busy: busy_time, measured: false }
            }
        }))
    }
}

fn memory_free_bytes(path: &Path) -> Result<u64, PowerError> {
    let text = read(path)?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.split_whitespace().next());
    let kib: Option<u64> = kib.and_then(|k| k.parse().ok());
    let garbage = || PowerError::Garbage { path: path.display().to_string(), text: "no MemAvailable".into() };
    kib.map(|k| k * 1024).ok_or_else(garbage)
}

#[derive(Debug, Clone, Copy)]
struct Ticks {
    busy: u64,
    idle: u64,
}

impl Ticks {
    fn read(path: &Path) -> Result<Self, PowerError> {
        let text = read(path)?;
        let garbage = || PowerError::Garbage {
            path: path.display().to_string(),
            text: text.lines().next().unwrap_or_default().to_string(),
        };
        let line = text.lines().find_map(|l| l.strip_prefix("cpu ")).ok_or_else(garbage)?;
        let fields: Result<Vec<u64>, _> = line.split_whitespace().take(8).map(str::parse).collect();
        // user nice system idle iowait irq softirq steal; steal is somebody else's heat.
        match fields.map_err(|_| garbage())?[..] {
            [user, nice, system, idle, iowait, irq, softirq, ..] => {
                Ok(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait })
            }
            _ => Err(garbage()),
        }
    }

    /// Busy and all ticks since an earlier look.
    fn since(&self, before: &Self) -> (u64, u64) {
        let busy = self.busy.saturating_sub(before.busy);
        (busy, busy + self.idle.saturating_sub(before.idle))
    }
}

/// Watts of processor time where there is no counter: the share of all cores times full power.
/// Radiators that share one machine (a demo) take the time of their own services only.
pub fn cpu_watts(declared_w: f64, cpu: Duration, elapsed: Duration, cores: u32) -> f64 {
    let available = elapsed.as_secs_f64() * f64::from(cores.max(1));
    if available <= 0.0 { 0.0 } else { declared_w * (cpu.as_secs_f64() / available).min(1.0) }
}

/// Shares a machine's watts among its services by the processor time that each took while all
/// cores together were busy for `busy`. What is left over is the machine's own.
pub fn service_watts(
    watts: f64,
    busy: Duration,
    cpu: &BTreeMap<ServiceName, Duration>,
) -> BTreeMap<ServiceName, f64> {
    // Both clocks tick apart: services can seem to take a little more than there was.
    let all = busy.max(cpu.values().sum()).as_secs_f64();
    let share = |time: &Duration| if all > 0.0 { watts * time.as_secs_f64() / all } else { 0.0 };
    cpu.iter().map(|(name, time)| (name.clone(), share(time))).collect()
}
