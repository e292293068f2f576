//! What this radiator tells the leader, twice a second and when something happened.

use super::climate::{Climate, Reading};
use super::leader::now;
use super::{Context, within};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_model::observe::{Readiness, Report};
use thermidor_model::{NodeId, ServiceName, State};
use thermidor_raft::Leadership;
use tokio::sync::watch;

/// How long a report may be under way.
const REPORT_MAX: Duration = Duration::from_millis(800);

/// How soon a report that nobody took is made anew.
const AGAIN: Duration = Duration::from_millis(100);

/// Reports for as long as the daemon lives.
pub async fn run(context: Context, mut climate: Climate) {
    let every = Duration::from_millis(context.node.state().borrow().timing.report_ms);
    let mut leadership = context.node.leadership();
    loop {
        let state = context.node.state().borrow().clone();
        let reading = climate.read(&state, now()).await;
        let report = draw(&context, &state, reading);
        let told = leadership.borrow_and_update().leader;
        // A fresh leader knows nothing, and places nothing here before it has heard from us: what is under
        // way to the one before it is given up.
        let delivered = tokio::select! {
            delivered = deliver(&context, report) => delivered,
            () = another_leads(&mut leadership, told) => continue,
        };
        let pause = match delivered {
            Ok(()) => every,
            Err(e) => {
                tracing::debug!("no leader took the report: {e}");
                AGAIN
            }
        };
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            _ = context.shared.report_now.notified() => tokio::time::sleep(Duration::from_millis(20)).await,
            () = another_leads(&mut leadership, told) => {}
        }
    }
}

/// Ends when somebody other than `told` leads.
async fn another_leads(leadership: &mut watch::Receiver<Leadership>, told: Option<NodeId>) {
    let another = |l: &Leadership| l.leader.is_some() && l.leader != told;
    if leadership.wait_for(another).await.is_err() {
        // The daemon is ending.
        std::future::pending::<()>().await;
    }
}

fn draw(context: &Context, state: &State, climate: Reading) -> Report {
    let found = context.shared.lock();
    let at = Instant::now();
    let declared = || state.services.keys();
    let images: BTreeMap<ServiceName, Readiness> = declared()
        .map(|s| {
            (
                s.clone(),
                found.readiness.get(s).cloned().unwrap_or(Readiness::Preparing("not looked at".into())),
            )
        })
        .collect();
    let mut troubles = found.troubles();
    troubles.extend(climate.troubles);
    Report {
        node: context.node.id(),
        demand_w: climate.demand_w,
        temperature_c: climate.temperature_c,
        target_c: climate.target_c,
        power_w: climate.power_w,
        service_w: climate.service_w,
        memory_free_bytes: climate.memory_free_bytes,
        cores: climate.cores,
        images,
        instances: declared().filter_map(|s| Some((s.clone(), found.instance(s, at)?))).collect(),
        replicas: found.replicas.clone(),
        probes: found.probes.iter().filter_map(|(s, h)| Some((s.clone(), h.report(at)?))).collect(),
        troubles,
    }
}

async fn deliver(context: &Context, report: Report) -> anyhow::Result<()> {
    if context.leader.report(report.clone()).is_ok() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&report)?;
    context.node.call_leader("report", bytes.into(), within(REPORT_MAX)).await?;
    Ok(())
}
