//! Restores from friends. What is to be done is in the applied state; the radiator on which the service is active does
//! it, one stage after the other, and whoever is active next goes on from there.

mod offers;
mod orders;
mod progress;
mod stages;
mod to_folder;

pub use orders::checked;
pub use progress::{Bringing, answer};
pub use to_folder::to_folder;

use super::backups::retry_ms;
use super::{Context, within};
use std::collections::BTreeMap;
use std::time::Duration;
use thermidor_model::restore::{Restore, RestoreOrder, RestoreStage};
use thermidor_model::{Command, Outcome, ServiceName, State};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How often is looked whether a stage can be gone on with: volumes are attached and containers stopped meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stage that failed rests at most before it is tried again; no longer than `retry` of the backups.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the home may take to agree on how far it is.
const AGREE_MAX: Duration = Duration::from_secs(10);

/// A stage that is worked on.
struct Task {
    number: u64,
    stage: RestoreStage,
    handle: JoinHandle<()>,
}

/// Restores for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut state = context.node.state();
    let mut tasks: BTreeMap<ServiceName, Task> = BTreeMap::new();
    loop {
        let home = state.borrow_and_update().clone();
        let me = context.node.id();
        let mine = |service: &ServiceName| home.services.get(service).is_some_and(|s| s.active == Some(me));
        let wanted = |service: &ServiceName| home.restores.get(service).filter(|_| mine(service));
        let mut given_up = Vec::new();
        tasks.retain(|service, task| {
            let same = wanted(service).is_some_and(|r| r.number == task.number && r.stage == task.stage);
            if !same {
                // restic is ended with it; what it has brought is removed by whoever restores next, or below.
                task.handle.abort();
                if !home.restores.contains_key(service) && task.stage.is_before_the_swap() {
                    given_up.push(service.clone());
                }
            }
            same && !task.handle.is_finished()
        });
        for service in given_up {
            if let Err(e) = context.clean_volumes(&home, &service).await {
                warn!(%service, "what was brought for a restore that was given up is still there: {e:#}");
            }
        }
        for (service, restore) in &home.restores {
            let is_due =
                mine(service) && restore.stage != RestoreStage::Swapped && !tasks.contains_key(service);
            if !is_due || !context.is_ready(&home, service, restore.stage) {
                continue;
            }
            let (number, stage) = (restore.number, restore.stage);
            let (context, home, name, restore) =
                (context.clone(), home.clone(), service.clone(), restore.clone());
            let handle = tokio::spawn(async move { context.work_on(&home, &name, &restore).await });
            tasks.insert(service.clone(), Task { number, stage, handle });
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY), if !home.restores.is_empty() => {}
        }
    }
}

impl Context {
    /// Does a stage and has the home take note. One that fails rests, so that a friend who is away is not asked all the time.
    async fn work_on(&self, home: &State, service: &ServiceName, restore: &Restore) {
        let (number, stage) = (restore.number, restore.stage);
        let order = match self.do_stage(home, service, restore).await {
            Ok(earlier) => {
                info!(%service, ?stage, "this stage of its restore is done");
                RestoreOrder::Done { number, stage, earlier }
            }
            Err(e) => {
                let why = format!("{e:#}");
                warn!(%service, ?stage, "its restore does not get on: {why}");
                RestoreOrder::Trouble { number, why }
            }
        };
        let is_trouble = matches!(order, RestoreOrder::Trouble { .. });
        let is_known = matches!(&order, RestoreOrder::Trouble { why, .. } if *why == restore.trouble);
        if !is_known {
            self.tell_restore(service, order).await;
        }
        if is_trouble {
            tokio::time::sleep(AGAIN.min(Duration::from_millis(retry_ms(home)))).await;
        }
    }

    async fn tell_restore(&self, service: &ServiceName, order: RestoreOrder) {
        let command = Command::Restore { service: service.clone(), order };
        match self.node.propose(command, within(AGREE_MAX)).await {
            Ok(Outcome::Refused(why)) => info!(%service, "overtaken: {why}"),
            Ok(_) => {}
            // The stage is done again, which finds nothing left to do.
            Err(e) => warn!(%service, "how far its restore is can't be told: {e}"),
        }
    }
}

#[cfg(test)]
mod tests;
