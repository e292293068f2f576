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
    /// Why replicas are shorter than their volumes are to be.
    pub short: BTreeMap<VolumeName, String>,
    /// What the guard fenced.
    pub fenced: BTreeMap<ServiceName, u64>,
    /// What is to be said of the room on the disk.
    pub space_trouble: Option<String>,
    /// Why the guard does not answer, if it does not.
    pub guard_trouble: Option<String>,
    /// Probes of what runs here as active.
    pub probes: BTreeMap<ServiceName, Health>,
    /// Services that are being stopped on purpose.
    pub stopping: BTreeSet<ServiceName>,
    /// What the last steps failed at.
    pub step_troubles: BTreeMap<ServiceName, String>,
    /// Friends that have sent nothing for long to the vault that is active here, in words.
    pub quiet_friends: Vec<String>,
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
    /// Wakes whoever asks the guard how things stand: the lease page says something new.
    pub leases_changed: Arc<Notify>,
    /// Counts how often the containers were seen to change.
    pub containers_changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            found: Arc::default(),
            wake: Arc::default(),
            report_now: Arc::default(),
            leases_changed: Arc::default(),
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
            let after = seen.get(service).map(|a| &a.found);
            if has_ended(&before.found, after) && !self.stopping.contains(service) {
                let detail = after.map_or("its container is gone".into(), last_words);
                let epoch = after.map_or(before.found.epoch, |a| a.epoch);
                note_end(&mut self.ends, service, epoch, detail, now);
            }
        }
        self.containers = seen;
        self.engine_trouble = None;
    }

    /// Notes that the engine can't start it: it has ended as surely as one that ends at once, so that it
    /// rests longer each time and then goes elsewhere.
    pub fn start_refused(&mut self, service: &ServiceName, epoch: u64, why: String, now: Instant) {
        note_end(&mut self.ends, service, epoch, why, now);
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

    /// When the first of the services that rest may be started again.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.ends.values().map(|e| e.rest_until).filter(|until| *until > now).min()
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
        let mut words: Vec<String> = self
            .engine_trouble
            .iter()
            .chain(&self.guard_trouble)
            .chain(&self.space_trouble)
            .cloned()
            .collect();
        words.extend(self.short.iter().map(|(volume, why)| format!("volume {volume}: {why}")));
        words.extend(self.step_troubles.iter().map(|(service, why)| format!("{service}: {why}")));
        words.extend(self.quiet_friends.iter().cloned());
        words
    }
}

/// Whether it ended between two looks, also if it both started and ended there.
fn has_ended(before: &docker::Found, after: Option<&docker::Found>) -> bool {
    match after {
        None => before.running,
        Some(after) => {
            let started_since = after.started_at.is_some() && after.started_at != before.started_at;
            !after.running && (before.running || started_since)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceName {
        ServiceName::new("lamp").unwrap()
    }

    fn seen(running: bool, started_at: Option<&str>) -> BTreeMap<ServiceName, Seen> {
        let found = docker::Found {
            service: service(),
            id: "1".into(),
            epoch: 4,
            plan_hash: String::new(),
            running,
            pid: None,
            exit_code: started_at.filter(|_| !running).map(|_| 3),
            oom: false,
            started_at: started_at.map(str::to_owned),
            healthy: None,
            address: None,
            error: String::new(),
        };
        [(service(), Seen { found, current: true, ip: None })].into()
    }

    fn ended_count(found: &Found, now: Instant) -> u32 {
        found.instance(&service(), now).map_or(0, |i| i.ended_count)
    }

    #[test]
    fn one_that_ends_before_anybody_looks_has_ended_all_the_same_and_rests_longer_each_time() {
        let (mut found, now) = (Found::default(), Instant::now());
        found.take_containers(seen(false, None), now);
        assert_eq!(ended_count(&found, now), 0, "made, not started yet");
        found.take_containers(seen(false, Some("08:00")), now);
        assert_eq!(ended_count(&found, now), 1);
        found.take_containers(seen(false, Some("08:00")), now);
        assert_eq!(ended_count(&found, now), 1, "the same end");
        found.take_containers(seen(true, Some("08:01")), now);
        found.take_containers(seen(false, Some("08:01")), now);
        assert_eq!(ended_count(&found, now), 2);
        assert_eq!(found.instance(&service(), now).unwrap().detail, "ended with code 3");
        let resting = |after: Duration| !found.actual(BTreeMap::new(), now + after).resting.is_empty();
        assert!(resting(REST_FIRST) && !resting(REST_FIRST * 2));
    }

    #[test]
    fn one_that_the_engine_cannot_start_rests_and_counts_as_ended() {
        let (mut found, now) = (Found::default(), Instant::now());
        found.take_containers(seen(false, None), now);
        for _ in 0..2 {
            found.start_refused(&service(), 4, "Docker refused to start lamp".into(), now);
        }
        let instance = found.instance(&service(), now).unwrap();
        assert_eq!((instance.ended_count, instance.detail.as_str()), (2, "Docker refused to start lamp"));
        assert!(!found.actual(BTreeMap::new(), now).resting.is_empty());
    }

    #[test]
    fn one_that_is_stopped_on_purpose_or_was_found_ended_has_not_died() {
        let (mut found, now) = (Found::default(), Instant::now());
        found.take_containers(seen(false, Some("08:00")), now);
        assert_eq!(ended_count(&found, now), 0, "it ended before this daemon looked");
        found.take_containers(seen(true, Some("08:01")), now);
        found.stopping.insert(service());
        found.take_containers(seen(false, Some("08:01")), now);
        assert_eq!(ended_count(&found, now), 0);
    }
}
