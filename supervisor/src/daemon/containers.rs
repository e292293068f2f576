//! This radiator's containers: whether each is ready, and what it does.

use super::found::Seen;
use super::{Context, within};
use crate::clock::unix_ms;
use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use thermidor_model::observe::Readiness;
use thermidor_services::docker::{ContainerEvent, EngineError, cgroup_of};
use tracing::{debug, info, warn};

/// How often the engine is asked, beside its events and whenever something else is declared.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The same while it does not answer.
const TROUBLE_EVERY: Duration = Duration::from_millis(500);

/// Between two looks for the sake of what is applied: a busy home applies hundreds of commands a second.
const APPLIED_EVERY: Duration = Duration::from_millis(200);

/// After an event the engine is asked at once, and once more: it may tell before it has noted.
const ECHO: Duration = Duration::from_millis(200);

/// So far back the engine is asked what has happened, when its events are followed anew, s.
const EVENTS_BACK_S: u64 = 1;

/// How long after an image could not be had it is tried again.
const IMAGE_AGAIN: Duration = Duration::from_secs(10);

/// How soon the engine is asked again that did not answer, or had something else to do first.
const ENGINE_AGAIN: Duration = Duration::from_millis(500);

/// How long to wait before the engine's events are asked for anew.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);

impl Context {
    /// Has the image here and the container created.
    pub async fn prepare(&self, service: &ServiceName) -> anyhow::Result<()> {
        let ready = match self.plans().get(service) {
            Some(Ok(plan)) => {
                self.note_readiness(service, Readiness::Preparing("its image is being made ready".into()));
                self.engine.prepare(plan).await
            }
            Some(Err(why)) => Readiness::Failed(why.clone()),
            None => Readiness::Failed("it is not declared".into()),
        };
        self.note_readiness(service, ready.clone());
        self.refresh().await;
        if let Readiness::Preparing(_) = ready {
            tokio::time::sleep(ENGINE_AGAIN).await;
        }
        if let Readiness::Failed(why) = ready {
            let mut state = self.node.state();
            state.borrow_and_update();
            // What is declared may be mended meanwhile.
            tokio::select! {
                _ = tokio::time::sleep(IMAGE_AGAIN) => {}
                _ = state.changed() => {}
            }
            bail!("{why}");
        }
        Ok(())
    }

    fn note_readiness(&self, service: &ServiceName, ready: Readiness) {
        let before = self.shared.lock().readiness.insert(service.clone(), ready.clone());
        if before.as_ref() != Some(&ready) {
            debug!(%service, ?ready, "readiness");
            self.shared.report_now.notify_one();
        }
    }

    /// Asks the engine what is there.
    pub async fn refresh(&self) {
        let plans = self.plans();
        let listed = match self.engine.list().await {
            Ok(listed) => listed,
            Err(e) => {
                let before = self.shared.lock().engine_trouble.replace(e.to_string());
                if before.is_none() {
                    self.shared.wake.notify_one();
                }
                return;
            }
        };
        let seen: BTreeMap<ServiceName, Seen> = listed
            .into_iter()
            .map(|found| {
                let current = match plans.get(&found.service) {
                    Some(Ok(plan)) => plan.hash() == found.plan_hash,
                    // What it is to be can't be said (a secret is missing): that ends nothing that runs.
                    Some(Err(_)) => found.running,
                    None => false,
                };
                let ip = found.address;
                (found.service.clone(), Seen { found, current, ip })
            })
            .collect();
        let mut found = self.shared.lock();
        for (service, ready) in &seen {
            match plans.get(service) {
                Some(Err(why)) => found.readiness.insert(service.clone(), Readiness::Failed(why.clone())),
                _ if ready.current => found.readiness.insert(service.clone(), Readiness::Ready),
                _ => None,
            };
        }
        let told = |s: &BTreeMap<ServiceName, Seen>| {
            let told =
                |(n, s): (&ServiceName, &Seen)| (n.clone(), s.found.running, s.found.epoch, s.current, s.ip);
            s.iter().map(told).collect::<Vec<_>>()
        };
        let news = told(&found.containers) != told(&seen) || found.engine_trouble.is_some();
        found.take_containers(seen, Instant::now());
        drop(found);
        if news {
            self.shared.containers_changed.send_modify(|n| *n += 1);
            self.shared.wake.notify_one();
            self.shared.report_now.notify_one();
        }
    }

    /// Where the ingress reaches a service that runs here.
    pub fn backend(&self, service: &ServiceName) -> Option<IpAddr> {
        let found = self.shared.lock();
        found.containers.get(service).filter(|s| s.found.running).and_then(|s| s.ip)
    }

    /// Tells the guard which container is about to start in this epoch.
    pub async fn guard_foresees(&self, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
        let id = self.shared.lock().containers.get(service).map(|s| s.found.id.clone());
        self.guard.starting(service, epoch, id.context("it has no container here")?).await
    }

    /// Tells the guard where it runs now: what to kill when the lease of this epoch ends.
    pub async fn guard_expects(&self, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
        let pid = {
            let found = self.shared.lock();
            found
                .containers
                .get(service)
                .filter(|s| s.found.running && s.found.epoch == epoch)
                .and_then(|s| s.found.pid)
        };
        let pid = pid.context("it ended at once")?;
        let cgroup = cgroup_of(pid).with_context(|| format!("control group of process {pid}"))?;
        self.guard.expect(service, epoch, cgroup.folder().to_path_buf(), Some(pid)).await
    }
}

/// Looks for as long as the daemon lives: at the engine's events, when something else is declared, and now and
/// then anyway.
pub async fn run(context: Context) {
    adopt(&context).await;
    tokio::spawn(follow_events(context.clone()));
    let mut state = context.node.state();
    loop {
        state.borrow_and_update();
        context.refresh().await;
        remove_strays(&context).await;
        let troubled = context.shared.lock().engine_trouble.is_some();
        let pause = if troubled { TROUBLE_EVERY } else { LOOK_EVERY };
        tokio::time::sleep(APPLIED_EVERY).await;
        tokio::select! {
            _ = tokio::time::sleep(pause - APPLIED_EVERY) => {}
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Containers that run from before this daemon: told to the guard again.
async fn adopt(context: &Context) {
    context.refresh().await;
    let running: Vec<(ServiceName, u64)> = {
        let found = context.shared.lock();
        found
            .containers
            .iter()
            .filter(|(_, s)| s.found.running)
            .map(|(n, s)| (n.clone(), s.found.epoch))
            .collect()
    };
    for (service, epoch) in running {
        match context.guard_expects(&service, epoch).await {
            Ok(()) => info!(%service, epoch, "runs from before, and is taken over"),
            Err(e) => warn!(%service, epoch, "runs from before, but may not: {e:#}"),
        }
    }
}

async fn follow_events(context: Context) {
    loop {
        // What happens between this look and the engine's taking of our question is told again.
        let since_s = (unix_ms() / 1000).saturating_sub(EVENTS_BACK_S);
        context.refresh().await;
        match context.engine.events(since_s).await {
            Ok(events) => {
                let why = look_after_each(&context, events).await;
                debug!("the engine's events broke off: {why}");
                // Perhaps it is gone, and what it ran with it.
                context.refresh().await;
            }
            Err(e) => debug!("no events of the engine: {e}"),
        }
        tokio::time::sleep(EVENTS_AGAIN).await;
    }
}

/// Asks the engine after each event at once, and once more a moment later. Returns why there are no more.
async fn look_after_each(
    context: &Context,
    events: impl Stream<Item = Result<ContainerEvent, EngineError>>,
) -> String {
    let mut events = pin!(events);
    let mut echo: Option<tokio::time::Instant> = None;
    loop {
        let at = echo.unwrap_or_else(|| within(ECHO));
        tokio::select! {
            event = events.next() => {
                match event {
                    Some(Ok(event)) => debug!(service = %event.service, action = %event.action, "engine"),
                    Some(Err(e)) => return e.to_string(),
                    None => return "the engine closed them".into(),
                }
                echo = Some(within(ECHO));
            }
            () = tokio::time::sleep_until(at), if echo.is_some() => echo = None,
        }
        context.refresh().await;
    }
}

/// Containers of services that are declared no more, once they are stopped.
async fn remove_strays(context: &Context) {
    let state = context.node.state().borrow().clone();
    let strays: BTreeSet<ServiceName> = {
        let found = context.shared.lock();
        let stray = |n: &ServiceName, s: &Seen| !s.found.running && !state.services.contains_key(n);
        found.containers.iter().filter(|(n, s)| stray(n, s)).map(|(n, _)| n.clone()).collect()
    };
    for service in strays {
        match context.engine.remove(&service).await {
            Ok(()) => info!(%service, "its container was removed: it is declared no more"),
            Err(e) => warn!(%service, "its container is not removed: {e}"),
        }
    }
}
