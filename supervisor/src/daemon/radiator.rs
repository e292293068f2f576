//! This radiator's loop: desired from the applied state, actual from engine and volumes, one step
//! for each service. A step runs beside the loop, so that a slow stop of one service keeps nobody else waiting.

use super::worker;
use super::{Context, Page};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_model::reconcile::{Step, WAITS_FOR_LEASE, reconcile};
use thermidor_model::{ServiceName, State};
use thermidor_services::lease_page::boottime_ns;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// How often the lease page is looked at: nobody tells that it changed.
const PAGE_EVERY: Duration = Duration::from_millis(100);

/// How often the loop looks at everything when nothing has happened.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it looks while a service waits for its lease, which is about to come, and for how long.
const LEASE_EVERY: Duration = Duration::from_millis(10);
const LEASE_SOON: Duration = Duration::from_secs(2);

/// How long a service rests after a step of it failed.
const FAILED_REST: Duration = Duration::from_millis(500);

/// Room for ends of steps: each service has one step under way.
const DONE_MAX: usize = 256;

/// Reconciles for as long as the daemon lives.
pub async fn run(context: Context) {
    let (done, mut ended) = mpsc::channel::<(ServiceName, bool)>(DONE_MAX);
    let mut busy: BTreeMap<ServiceName, Option<Instant>> = BTreeMap::new();
    let mut state = context.node.state();
    let mut waits: Option<Instant> = None;
    let mut looked = Looked::default();
    loop {
        let soon = waits.is_some_and(|since| since.elapsed() < LEASE_SOON);
        tokio::select! {
            _ = tokio::time::sleep(if soon { LEASE_EVERY } else { PAGE_EVERY }) => {
                let leases = held_leases(&context.page, &state.borrow());
                if !soon && busy.is_empty() && !looked.is_due(&leases) {
                    continue;
                }
            }
            _ = context.shared.wake.notified() => {}
            changed = state.changed() => if changed.is_err() { return },
            Some((service, well)) = ended.recv() => {
                match well {
                    true => busy.remove(&service),
                    false => busy.insert(service, Some(Instant::now() + FAILED_REST)),
                };
            }
        }
        let now = Instant::now();
        busy.retain(|_, rest| rest.is_none_or(|until| until > now));
        let home = state.borrow_and_update().clone();
        let leases = held_leases(&context.page, &home);
        if looked.note(&leases, now) {
            context.shared.leases_changed.notify_one();
        }
        let (steps, rests) = next_steps(&context, &home, leases, now);
        looked.again = rests;
        waits = match steps.values().any(|s| *s == Step::Rest(WAITS_FOR_LEASE)) {
            true => Some(waits.unwrap_or(now)),
            false => None,
        };
        for (service, step) in steps {
            if busy.contains_key(&service) {
                continue;
            }
            let Some(step) = under_way(&service, step) else { continue };
            busy.insert(service.clone(), None);
            let (context, done) = (context.clone(), done.clone());
            tokio::spawn(async move {
                let well = worker::carry_out(&context, &service, &step).await;
                context.note_step(&service, &step, well.as_ref().err());
                // The loop outlives every step; where it is gone the daemon is ending.
                let _ended_daemon = done.send((service, well.is_ok())).await;
            });
        }
    }
}

/// What the last look saw, and when it is over.
#[derive(Default)]
struct Looked {
    leases: BTreeMap<ServiceName, u64>,
    at: Option<Instant>,
    /// When the next service has rested for long enough.
    again: Option<Instant>,
}

impl Looked {
    /// Whether leases have come or gone since, or it is time to look anyway.
    fn is_due(&self, leases: &BTreeMap<ServiceName, u64>) -> bool {
        let now = Instant::now();
        let old = self.at.is_none_or(|at| now.duration_since(at) >= LOOK_EVERY);
        old || self.leases != *leases || self.again.is_some_and(|again| now >= again)
    }

    /// Keeps what is seen now; whether the leases are others than before.
    fn note(&mut self, leases: &BTreeMap<ServiceName, u64>, now: Instant) -> bool {
        self.at = Some(now);
        let news = self.leases != *leases;
        if news {
            self.leases = leases.clone();
        }
        news
    }
}

/// What each service needs next, and when the first that rests has rested for long enough.
fn next_steps(
    context: &Context,
    state: &State,
    leases: BTreeMap<ServiceName, u64>,
    now: Instant,
) -> (BTreeMap<ServiceName, Step>, Option<Instant>) {
    let mut found = context.shared.lock();
    for (name, service) in &state.services {
        found.placed_anew(name, service.epoch);
    }
    let actual = found.actual(leases, now);
    let steps = reconcile(state, context.node.id(), &actual);
    // Whatever a step failed at is over where nothing is left to do.
    found.step_troubles.retain(|service, _| !matches!(steps.get(service), None | Some(Step::Rest(_))));
    (steps, found.rests_until(now))
}

fn held_leases(page: &Page, state: &State) -> BTreeMap<ServiceName, u64> {
    let now = boottime_ns();
    state.services.keys().filter_map(|s| Some((s.clone(), page.held(s.as_str(), now)?.epoch))).collect()
}

/// A step that does something.
fn under_way(service: &ServiceName, step: Step) -> Option<Step> {
    match step {
        Step::Rest(_) => None,
        step => {
            debug!(%service, ?step, "next");
            Some(step)
        }
    }
}

impl Context {
    /// Keeps what a step failed at for the report, and says it once.
    fn note_step(&self, service: &ServiceName, step: &Step, failed: Option<&anyhow::Error>) {
        let mut found = self.shared.lock();
        match failed {
            None => {
                found.step_troubles.remove(service);
            }
            Some(why) => {
                let text = format!("{why:#}");
                if found.step_troubles.get(service) != Some(&text) {
                    warn!(%service, ?step, "{text}");
                }
                found.step_troubles.insert(service.clone(), text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_when_a_lease_comes_or_goes_when_a_rest_is_over_and_now_and_then() {
        let now = Instant::now();
        let held: BTreeMap<ServiceName, u64> = [("lamp".parse().unwrap(), 4)].into();
        let mut looked = Looked::default();
        assert!(looked.is_due(&held), "nobody has looked yet");
        assert!(looked.note(&held, now) && !looked.note(&held, now), "told once");
        assert!(!looked.is_due(&held));
        assert!(looked.is_due(&BTreeMap::new()), "it was lost");
        let newer = held.keys().map(|service| (service.clone(), 5)).collect();
        assert!(looked.is_due(&newer));
        looked.again = Some(now);
        assert!(looked.is_due(&held), "one has rested for long enough");
        looked.again = None;
        if let Some(long_ago) = now.checked_sub(LOOK_EVERY) {
            looked.at = Some(long_ago);
            assert!(looked.is_due(&held));
        }
    }
}
