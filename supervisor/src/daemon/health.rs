//! What a series of probes says of one instance. Pure: time comes in as an argument. A failure
//! counts once a second look has seen it too, and a service that has just started is given time.

use std::time::{Duration, Instant};
use thermidor_model::observe::{ProbeLeg, ProbeReport};
use thermidor_services::docker;
use thermidor_services::probe::Probed;

/// How soon a failure is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How often a service that has not answered since its start is asked, at first and at most.
const START_LOOK: Duration = Duration::from_secs(1);
const START_LOOK_MAX: Duration = Duration::from_secs(60);

/// How often a sick service is asked at least, to see it well again.
const SICK_LOOK_MAX: Duration = Duration::from_secs(60);

/// How a service is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two probes of a healthy service.
    pub every: Duration,
    /// How long it may take to answer for the first time after a start.
    pub patience: Duration,
}

/// The health of one instance.
#[derive(Debug, Clone)]
pub struct Health {
    /// Which instance: its epoch and when its container was started.
    instance: (u64, Option<String>),
    rhythm: Rhythm,
    started: Instant,
    next: Instant,
    failed: u32,
    healthy: Option<bool>,
    last: Option<(Instant, Probed)>,
}

impl Health {
    /// An instance that was never looked at: is looked at now.
    pub fn new(found: &docker::Found, rhythm: Rhythm, now: Instant) -> Self {
        let instance = (found.epoch, found.started_at.clone());
        Self { instance, rhythm, started: now, next: now, failed: 0, healthy: None, last: None }
    }

    /// Whether it is about this instance.
    pub fn is_of(&self, found: &docker::Found) -> bool {
        self.instance == (found.epoch, found.started_at.clone())
    }

    /// Takes another rhythm over.
    pub fn follow(&mut self, rhythm: Rhythm, now: Instant) {
        if self.rhythm != rhythm {
            self.next = self.next.min(now + rhythm.every);
            self.rhythm = rhythm;
        }
    }

    /// Whether it is time to look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Takes what a probe said.
    pub fn take(&mut self, probed: Probed, now: Instant) {
        let age = now.duration_since(self.started);
        let wait = match probed.healthy {
            Some(true) => {
                self.failed = 0;
                self.healthy = Some(true);
                self.rhythm.every
            }
            // That it can't be told says nothing about the service.
            None => SECOND_LOOK,
            Some(false) if self.healthy.is_none() && age < self.rhythm.patience => {
                (age / 4).clamp(START_LOOK, START_LOOK_MAX)
            }
            Some(false) => {
                self.failed += 1;
                if self.failed >= 2 {
                    self.healthy = Some(false);
                }
                if self.failed >= 2 { self.rhythm.every.min(SICK_LOOK_MAX) } else { SECOND_LOOK }
            }
        };
        self.next = now + wait;
        self.last = Some((now, probed));
    }

    /// What is known of it.
    pub fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    /// What went wrong the last time.
    pub fn trouble(&self) -> Option<String> {
        self.last.as_ref().map(|(_, probed)| probed.trouble.clone()).filter(|t| !t.is_empty())
    }

    /// For the leader; `None` before the first probe ended.
    pub fn report(&self, now: Instant) -> Option<ProbeReport> {
        let (at, probed) = self.last.as_ref()?;
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let legs = probed.legs.iter().map(|l| ProbeLeg { name: l.name.into(), took_ms: ms(l.took) });
        Some(ProbeReport {
            healthy: self.healthy,
            age_ms: ms(now.duration_since(*at)),
            trouble: probed.trouble.clone(),
            legs: legs.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(epoch: u64) -> docker::Found {
        docker::Found {
            service: thermidor_model::testing::mail(),
            id: "id".into(),
            epoch,
            plan_hash: String::new(),
            running: true,
            pid: Some(7),
            exit_code: None,
            oom: false,
            started_at: Some("then".into()),
            healthy: None,
            address: None,
            error: String::new(),
        }
    }

    fn said(healthy: Option<bool>) -> Probed {
        let trouble = if healthy == Some(false) { "delivery: no answer in 30 s" } else { "" };
        Probed { healthy, legs: vec![], trouble: trouble.into() }
    }

    const RHYTHM: Rhythm = Rhythm { every: Duration::from_secs(300), patience: Duration::from_secs(120) };

    #[test]
    fn one_failure_is_looked_at_again_before_it_counts() {
        let now = Instant::now();
        let mut health = Health::new(&found(3), RHYTHM, now);
        assert!(health.is_due(now) && health.report(now).is_none(), "at once after a start");
        health.take(said(Some(true)), now);
        assert!(!health.is_due(now + SECOND_LOOK) && health.is_due(now + RHYTHM.every));
        health.take(said(Some(false)), now);
        assert_eq!(health.healthy(), Some(true));
        assert_eq!(health.trouble().unwrap(), "delivery: no answer in 30 s", "but it is shown");
        assert!(health.is_due(now + SECOND_LOOK));
        health.take(said(None), now);
        assert_eq!(health.healthy(), Some(true), "what can't be told is no failure");
        health.take(said(Some(false)), now);
        assert_eq!(health.healthy(), Some(false));
        health.take(said(Some(true)), now);
        assert_eq!((health.healthy(), health.trouble()), (Some(true), None));
        health.take(said(Some(false)), now);
        assert_eq!(health.healthy(), Some(true), "counted anew");
    }

    #[test]
    fn a_slow_start_is_waited_for_and_only_then_called_sick() {
        let begun = Instant::now();
        let mut health = Health::new(&found(3), RHYTHM, begun);
        let mut at = begun;
        while at < begun + RHYTHM.patience {
            health.take(said(Some(false)), at);
            assert_eq!(health.healthy(), None);
            assert!(health.is_due(at + START_LOOK_MAX));
            at += Duration::from_secs(7);
        }
        for _ in 0..2 {
            health.take(said(Some(false)), at);
        }
        assert_eq!(health.healthy(), Some(false));
        assert!(health.is_due(at + SICK_LOOK_MAX), "a sick one is asked more often");
    }

    #[test]
    fn another_instance_is_another_matter_and_a_shorter_rhythm_holds_at_once() {
        let now = Instant::now();
        let mut health = Health::new(&found(3), RHYTHM, now);
        assert!(health.is_of(&found(3)) && !health.is_of(&found(4)));
        let restarted = docker::Found { started_at: Some("later".into()), ..found(3) };
        assert!(!health.is_of(&restarted));
        health.take(said(Some(true)), now);
        health.follow(Rhythm { every: Duration::from_secs(10), ..RHYTHM }, now);
        assert!(health.is_due(now + Duration::from_secs(10)));
        assert_eq!(health.report(now + Duration::from_secs(9)).unwrap().age_ms, 9000);
    }
}
