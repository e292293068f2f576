//! Who holds the home's floating address. A holder changes only when the old one's lease has surely
//! ended. A holder that goes off, or that the first service has left for good, is asked to give it
//! back first: clients then reach the service without a detour.

use super::Action;
use super::view::{View, within};
use crate::command::Command;
use crate::name::NodeId;
use crate::observe::Lease;
use crate::state::Phase;

/// How long a fresh leader leaves an unheld address for the first service to come up, ms.
const IDLE_WAIT_MS: u64 = 10_000;

/// How long the first service must have been where it is before the address follows it, ms.
const SETTLED_MS: u64 = 5_000;

/// Decides about the address's holder.
pub(super) fn reconcile(view: &View<'_>, actions: &mut Vec<Action>) {
    let address = &view.state.address;
    if view.spec.address.is_none() {
        if address.holder.is_some() {
            actions.push(Action::Propose(Command::HoldAddress { epoch_was: address.epoch, to: None }));
        }
        return;
    }
    let ended = view.observed.address_lease == Lease::Ended;
    let wanted = wanted(view, heir(view, actions));
    let mut hold = |to: Option<NodeId>| {
        actions.push(Action::Propose(Command::HoldAddress { epoch_was: address.epoch, to }));
    };
    match address.holder {
        None if ended && wanted.is_some() => hold(wanted),
        // Also to the same holder: an epoch that was given back is held no more.
        Some(_) if ended && wanted.is_some() => hold(wanted),
        Some(holder)
            if !ended
                && wanted.is_some_and(|w| w != holder)
                && (is_off(view, holder) || settled(view) == wanted) =>
        {
            hold(None);
        }
        _ => {}
    }
}

/// Where the first service has been for a while, and runs.
fn settled(view: &View<'_>) -> Option<NodeId> {
    let (name, service) = view.principal().and_then(|name| view.state.services.get_key_value(name))?;
    let runs =
        |node: &NodeId| view.report(*node).and_then(|r| r.instances.get(name)).is_some_and(|i| i.running);
    let steady = service.phase == Phase::Run && !within(view.now, service.since_ms, SETTLED_MS);
    service.active.filter(runs).filter(|_| steady)
}

fn is_off(view: &View<'_>, node: NodeId) -> bool {
    view.state.members.get(&node).is_some_and(|m| m.off.is_some())
}

/// Who becomes the principal service's active with this very plan.
fn heir(view: &View<'_>, actions: &[Action]) -> Option<NodeId> {
    let principal = view.principal()?;
    actions.iter().find_map(|action| match action {
        Action::Propose(Command::Activate { service, to, .. }) if service == principal => Some(*to),
        _ => None,
    })
}

/// The principal service's active, or who is about to be; else the holder; else any service's active; else, when no
/// service came up in time, any radiator: those that are on first.
fn wanted(view: &View<'_>, heir: Option<NodeId>) -> Option<NodeId> {
    let services = &view.state.services;
    let able = |node: &NodeId| view.heard(*node) && view.lively(*node);
    let principal = heir.or_else(|| view.principal().and_then(|name| services.get(name)?.active));
    let holder = view.state.address.holder.filter(|h| !is_off(view, *h));
    let patient = view.observed.leading_ms < IDLE_WAIT_MS && view.state.address.holder.is_none();
    let any = || view.radiators().map(|(id, _)| id).filter(able).min_by_key(|id| (is_off(view, *id), *id));
    principal
        .filter(able)
        .or(holder.filter(able))
        .or_else(|| services.values().filter_map(|s| s.active).find(able))
        .or_else(|| if patient { None } else { any() })
}
