//! The active's lease has ended: the same radiator again if it is there and well, else another.
//! Heat ranks the others, but nothing here waits for it.

use super::service::{Case, Decided};
use super::view::within;
use super::{AGAIN_MIN_MS, GONE_MS, START_GRACE_MS};
use crate::command::{Command, Why};
use crate::name::NodeId;
use crate::state::Phase;

/// Decides for a service whose active surely holds no lease. An empty sentence: it stays down.
pub(super) fn lost(case: &Case<'_>, active: NodeId) -> Decided {
    let view = case.view;
    let (name, here) = (case.name, view.name(active));
    let here_is_lively = view.lively(active);
    if let Phase::Stop { next } = case.service.phase {
        if here_is_lively && view.broken_volume(name, active).is_none() {
            return (vec![], format!("{name} is stopping in {here}"));
        }
        let to = next.filter(|n| case.feasible(*n)).or_else(|| other(case, active));
        return to.map_or_else(|| gone(case, active), |to| failover(case, active, to));
    }
    if !here_is_lively {
        return other(case, active).map_or_else(|| gone(case, active), |to| failover(case, active, to));
    }
    if within(view.now, case.service.since_ms, START_GRACE_MS) {
        return (vec![], format!("{name} is being started in {here}"));
    }
    let able = case.feasible(active);
    let steady = !within(view.now, case.service.since_ms, AGAIN_MIN_MS);
    if able && steady && !case.must_leave(active) {
        return again(case, active);
    }
    match (case.better_than(active), other(case, active)) {
        (Some(to), _) => failover(case, active, to),
        (None, _) if able => again(case, active),
        (None, Some(to)) => failover(case, active, to),
        (None, None) => Decided::default(),
    }
}

/// The best other radiator; one that was heard just now before one that may have gone as well.
fn other(case: &Case<'_>, active: NodeId) -> Option<NodeId> {
    let lively = case.others(active).find(|r| case.view.lively(r.node));
    lively.or_else(|| case.others(active).next()).map(|r| r.node)
}

/// Nobody can take over. Once the active is silent for long its name is taken away, as if it had said itself that it
/// stopped: whoever holds the data starts the service when it returns, or a person promotes an older replica.
fn gone(case: &Case<'_>, active: NodeId) -> Decided {
    let (view, name) = (case.view, case.name);
    if view.silence(active).min(view.observed.leading_ms) < GONE_MS {
        return Decided::default();
    }
    let (service, epoch_was) = (name.clone(), case.service.epoch);
    let command = match case.service.phase {
        Phase::Run => {
            let here = view.name(active);
            let reason = format!("{name} is active nowhere: {here} is silent, and nobody can take over");
            Command::Stop { service, epoch_was, next: None, reason }
        }
        Phase::Stop { .. } => Command::Stopped { service, epoch_was, node: active },
    };
    (vec![command], String::new())
}

fn again(case: &Case<'_>, active: NodeId) -> Decided {
    let text = format!("{} starts in {} again: it had lost its lease", case.name, case.view.name(active));
    case.activate(active, Why::Again, text)
}

fn failover(case: &Case<'_>, from: NodeId, to: NodeId) -> Decided {
    let (view, name) = (case.view, case.name);
    let here = view.name(from);
    let why = if view.lively(from) { Why::Unfit } else { Why::Failover };
    let because = match view.broken_volume(name, from) {
        _ if !view.lively(from) => format!("{here} is silent"),
        Some(broken) => format!("in {here} {broken}"),
        None => format!("{here} lost its lease and can't have it again"),
    };
    case.activate(to, why, format!("{name} is taken over by {}: {because}", view.name(to)))
}
