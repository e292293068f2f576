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

/// How often the loop looks, at least.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    loop {
        let soon = waits.is_some_and(|since| since.elapsed() < LEASE_SOON);
        tokio::select! {
            _ = tokio::time::sleep(if soon { LEASE_EVERY } else { LOOK_EVERY }) => {}
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
        let steps = next_steps(&context, &home, now);
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

fn next_steps(context: &Context, state: &State, now: Instant) -> BTreeMap<ServiceName, Step> {
    let leases = held_leases(context.page.as_ref(), state);
    let mut found = context.shared.lock();
    for (name, service) in &state.services {
        found.placed_anew(name, service.epoch);
    }
    let actual = found.actual(leases, now);
    let steps = reconcile(state, context.node.id(), &actual);
    // Whatever a step failed at is over where nothing is left to do.
    found.step_troubles.retain(|service, _| !matches!(steps.get(service), None | Some(Step::Rest(_))));
    steps
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
