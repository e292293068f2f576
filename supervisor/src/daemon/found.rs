//! What is found on this radiator, gathered by whoever looks and read by the owner loop.

use super::health::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermidor_model::observe::{Instance, Readiness, ReplicaReport};
use thermidor_model::reconcile::{Actual, Container, Device};
use thermidor_model::{ServiceName, VolumeName};
use thermidor_services::docker;
use tokio::sync::{Notify, watch};

/// First and longest rest before a container that ended by itself is started again.
const REST_FIRST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(30);

/// How long a container must have run for its earlier ends to be forgotten.
const STEADY: Duration = Duration::from_secs(60);

/// A service's container as last seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the engine says.
    pub found: docker::Found,
    /// Made for what is declared now.
    pub current: bool,
    /// Its address on the engine's network while it runs.
    pub ip: Option<std::net::IpAddr>,
}

/// How a service has been ending by itself here.
#[derive(Debug, Clone)]
struct Ends {
    epoch: u64,
    count: u32,
    rest_until: Instant,
    last: Instant,
    detail: String,
}

/// Everything that is known of this radiator.
#[derive(Debug, Default)]
pub struct Found {
    /// Containers.
    pub containers: BTreeMap<ServiceName, Seen>,
    /// Why the engine does not answer, if it does not.
    pub engine_trouble: Option<String>,
    /// Whether each service could start here.
    pub readiness: BTreeMap<ServiceName, Readiness>,
    /// Devices.
    pub devices: BTreeMap<VolumeName, Device>,
    /// Replicas, for the report.
    pub replicas: BTreeMap<VolumeName, ReplicaReport>,
    /// What the guard fenced.
    pub fenced: BTreeMap<ServiceName, u64>,
    /// Why the guard does not answer, if it does not.
    pub guard_trouble: Option<String>,
    /// Probes of what runs here as active.
    pub probes: BTreeMap<ServiceName, Health>,
    /// Services that are being stopped on purpose.
    pub stopping: BTreeSet<ServiceName>,
    /// What the last steps failed at.
    pub step_troubles: BTreeMap<ServiceName, String>,
    ends: BTreeMap<ServiceName, Ends>,
}

/// Shared between the tasks of one daemon; each holds it for a moment only.
#[derive(Clone)]
pub struct Shared {
    found: Arc<Mutex<Found>>,
    /// Wakes the owner loop.
    pub wake: Arc<Notify>,
    /// Has a report sent now.
    pub report_now: Arc<Notify>,
    /// Counts how often the containers were seen to change.
    pub containers_changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            found: Arc::default(),
            wake: Arc::default(),
            report_now: Arc::default(),
            containers_changed: watch::Sender::new(0),
        }
    }
}

impl Shared {
    /// Looks at it, or notes something.
    pub fn lock(&self) -> MutexGuard<'_, Found> {
        // Every writer leaves it whole, so a panic elsewhere does not spoil it.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    /// Takes what the engine lists; notes which containers ended by themselves since.
    pub fn take_containers(&mut self, seen: BTreeMap<ServiceName, Seen>, now: Instant) {
        for (service, before) in &self.containers {
            let after = seen.get(service);
            let ended = before.found.running && !after.is_some_and(|a| a.found.running);
            if ended && !self.stopping.contains(service) {
                let detail = after.map_or("its container is gone".into(), |a| last_words(&a.found));
                note_end(&mut self.ends, service, before.found.epoch, detail, now);
            }
        }
        self.containers = seen;
        self.engine_trouble = None;
    }

    /// Forgets how a service ended here: it was placed anew.
    pub fn placed_anew(&mut self, service: &ServiceName, epoch: u64) {
        if self.ends.get(service).is_some_and(|e| e.epoch != epoch) {
            self.ends.remove(service);
        }
    }

    /// What reconcile looks at.
    pub fn actual(&self, leases: BTreeMap<ServiceName, u64>, now: Instant) -> Actual {
        let container =
            |s: &Seen| Container { running: s.found.running, epoch: s.found.epoch, current: s.current };
        Actual {
            containers: self.containers.iter().map(|(n, s)| (n.clone(), container(s))).collect(),
            engine_answers: self.engine_trouble.is_none(),
            devices: self.devices.clone(),
            leases,
            fenced: self.fenced.clone(),
            resting: self.ends.iter().filter(|(_, e)| e.rest_until > now).map(|(n, _)| n.clone()).collect(),
        }
    }

    /// A service's instance for the report.
    pub fn instance(&self, service: &ServiceName, now: Instant) -> Option<Instance> {
        let seen = self.containers.get(service)?;
        let ends = self.ends.get(service).filter(|e| e.epoch == seen.found.epoch || !seen.found.running);
        let steady = ends.is_some_and(|e| seen.found.running && now.duration_since(e.last) > STEADY);
        let health = self.probes.get(service).filter(|h| seen.found.running && h.is_of(&seen.found));
        let trouble = self.step_troubles.get(service);
        let detail = ends.map(|e| e.detail.clone()).or(health.and_then(Health::trouble)).or(trouble.cloned());
        Some(Instance {
            epoch: seen.found.epoch,
            running: seen.found.running,
            healthy: health.and_then(Health::healthy),
            ended_count: ends.filter(|_| !steady).map_or(0, |e| e.count),
            detail: detail.unwrap_or_default(),
        })
    }

    /// What is wrong here, in words.
    pub fn troubles(&self) -> Vec<String> {
        let mut words: Vec<String> = self.engine_trouble.iter().chain(&self.guard_trouble).cloned().collect();
        words.extend(self.step_troubles.iter().map(|(service, why)| format!("{service}: {why}")));
        words
    }
}

fn note_end(
    ends: &mut BTreeMap<ServiceName, Ends>,
    service: &ServiceName,
    epoch: u64,
    detail: String,
    now: Instant,
) {
    let known = ends.get(service).filter(|e| e.epoch == epoch && now.duration_since(e.last) < STEADY * 5);
    let count = known.map_or(1, |e| e.count + 1);
    let rest = REST_FIRST.saturating_mul(1 << count.min(10).saturating_sub(1)).min(REST_MAX);
    ends.insert(service.clone(), Ends { epoch, count, rest_until: now + rest, last: now, detail });
}

fn last_words(found: &docker::Found) -> String {
    match (found.oom, found.exit_code) {
        (true, _) => "out of memory: raise mem_limit".into(),
        (_, Some(code)) => format!("ended with code {code}"),
        (_, None) => "ended".into(),
    }
}
