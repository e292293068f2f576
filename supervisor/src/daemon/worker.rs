//! Carries one step out. Makes no choices: what to do and in which epoch was decided before.

use super::{Context, within};
use anyhow::{Context as _, bail};
use std::time::{Duration, Instant};
use thermidor_model::reconcile::Step;
use thermidor_model::{Command, Outcome, Refusal, ServiceName};
use thermidor_services::docker::{EngineError, cgroup_of};
use thermidor_services::fence;
use thermidor_services::lease_page::boottime_ns;

/// How long the home may take to agree on something.
const PROPOSE_MAX: Duration = Duration::from_secs(2);

/// How long emptying a control group may take before the engine is asked to kill.
const KILL_MAX: Duration = Duration::from_millis(500);

/// How long an end may take to be told by the engine once the process is gone, and how often it is asked.
const ENGINE_TELLS_MAX: Duration = Duration::from_secs(1);
const ENGINE_TELLS_EVERY: Duration = Duration::from_millis(20);

/// How long a radiator waits after it gave a lease back before it looks at it again.
const GIVE_BACK_REST: Duration = Duration::from_millis(200);

/// Does it; an error leaves the radiator as it is found the next time.
pub async fn carry_out(context: &Context, service: &ServiceName, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Rest(_) => {}
        Step::Prepare => context.prepare(service).await?,
        Step::Attach { epoch, volumes } => {
            for (volume, volume_epoch) in volumes {
                match context.volumes.attach(volume, *volume_epoch, *epoch).await {
                    // Its process knows better than we do: a crash after it was attached.
                    Err(e) if e.is_spent_epoch() => {
                        return give_back(context, service, *epoch).await;
                    }
                    attached => attached.with_context(|| format!("attaching {volume}"))?,
                }
            }
        }
        Step::Start { epoch } => start(context, service, *epoch).await?,
        Step::Stop { epoch } => stop(context, service, *epoch).await?,
        Step::Kill => kill(context, service).await?,
        Step::Detach { volumes, force } => {
            for volume in volumes {
                let detached = context.volumes.detach(volume, *force).await;
                detached.with_context(|| format!("detaching {volume}"))?;
            }
        }
        Step::TellStopped { epoch } => {
            context.guard.release(service, *epoch).await.context("giving the lease back")?;
            let node = context.node.id();
            propose(context, Command::Stopped { service: service.clone(), epoch_was: *epoch, node }).await?;
        }
        Step::GiveBack { epoch } => give_back(context, service, *epoch).await?,
    }
    context.shared.wake.notify_one();
    Ok(())
}

async fn give_back(context: &Context, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
    context.guard.release(service, epoch).await.context("giving the lease back")?;
    // The leader hears of it with the guard's next request.
    tokio::time::sleep(GIVE_BACK_REST).await;
    Ok(())
}

async fn start(context: &Context, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
    context.shared.lock().stopping.remove(service);
    // Told before: should the lease end from now on, the guard kills whatever comes of the start.
    context.guard_foresees(service, epoch).await.context("the guard does not watch it")?;
    let started = context.engine.start(service, epoch).await;
    context.refresh().await;
    if let Err(refused @ EngineError::Refused { .. }) = &started {
        let mut found = context.shared.lock();
        found.start_refused(service, epoch, refused.to_string(), Instant::now());
    }
    started.context("starting")?;
    let expected = context.guard_expects(service, epoch).await;
    if expected.is_err() && !ended_by_itself(context, service, epoch).await {
        // The lease ended while it was started: nobody else would end it now.
        kill(context, service).await?;
    }
    expected.context("the guard does not watch it")
}

/// Whether what was just started is over without our doing. The engine tells it later than the kernel, and an end
/// that we seem to have had a hand in is not counted: so it is waited for, unless the lease is lost.
async fn ended_by_itself(context: &Context, service: &ServiceName, epoch: u64) -> bool {
    let until = Instant::now() + ENGINE_TELLS_MAX;
    loop {
        context.refresh().await;
        if !context.shared.lock().containers.get(service).is_some_and(|c| c.found.running) {
            return true;
        }
        let held = context.page.held(service.as_str(), boottime_ns());
        if held.is_none_or(|h| h.epoch != epoch) || Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(ENGINE_TELLS_EVERY).await;
    }
}

async fn stop(context: &Context, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
    let state = context.node.state().borrow().clone();
    let spec = state.spec().and_then(|s| s.services.get(service));
    let grace = Duration::from_secs(spec.map_or(10, |s| s.stop_grace_s));
    context.shared.lock().stopping.insert(service.clone());
    tracing::info!(%service, epoch, "stops, within {} s", grace.as_secs());
    let stopped = context.engine.stop(service, grace).await;
    context.refresh().await;
    stopped.context("stopping")
}

async fn kill(context: &Context, service: &ServiceName) -> anyhow::Result<()> {
    context.shared.lock().stopping.insert(service.clone());
    let pid = context.shared.lock().containers.get(service).and_then(|c| c.found.pid);
    // Through its cgroup first: the engine may hang, a process that writes must not wait for it.
    if let Some(pid) = pid {
        let fenced =
            tokio::task::spawn_blocking(move || anyhow::Ok(fence::kill(cgroup_of(pid)?.folder(), KILL_MAX)?));
        if let Err(e) = fenced.await? {
            tracing::warn!(%service, "through its cgroup: {e:#}");
        }
    }
    let killed = context.engine.kill(service).await;
    context.refresh().await;
    killed.context("killing")
}

async fn propose(context: &Context, command: Command) -> anyhow::Result<()> {
    match context.node.propose(command, within(PROPOSE_MAX)).await? {
        // Told already, or overtaken: what is applied here next says which.
        Outcome::Refused(Refusal::Stale(why)) => {
            tracing::debug!("{why}");
            Ok(())
        }
        Outcome::Refused(refusal) => bail!("{refusal}"),
        _ => Ok(()),
    }
}
