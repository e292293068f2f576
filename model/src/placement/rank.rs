//! How good each radiator is for a service: a struct whose field order is the priority.

use super::feasible::feasible;
use super::view::View;
use super::{RankedRadiator, words};
use crate::name::{NodeId, RadiatorName, ServiceName};
use crate::spec::{Heats, ServiceSpec};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// Too-warm radiators of one such step are alike when nobody wants heat, W.
const TOO_WARM_STEP_W: i64 = 10;

/// A radiator's rank for a service: the least is the best. The order of the fields is their priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// It is to be left if anything else will do: it is off, or the service keeps ending on it.
    pub must_leave: bool,
    /// Unmet demand that is covered there, W.
    pub covered_w: Reverse<i64>,
    /// Demand beyond the radiator's power, W: of two that want more than they can give, the colder one.
    pub wanted_w: Reverse<i64>,
    /// When nobody wants heat: it heats air and not water.
    pub heats_air: bool,
    /// How much too warm it is, W.
    pub too_warm_w: i64,
    /// When nobody wants heat: no other service keeps this machine awake.
    pub wakes: bool,
    /// The service is not there now.
    pub elsewhere: bool,
    /// So that there is always one best.
    pub name: RadiatorName,
}

/// What heat is worth on a radiator, W: the demand left for this service, at most the
/// radiator's power; negative where it is too warm already (never for water, which keeps it).
/// `None`: its demand is not known.
pub fn worth_w(demand_w: Option<f64>, others_w: f64, power_w: f64, heats: Heats) -> Option<f64> {
    let left = demand_w? - others_w;
    let floor = if matches!(heats, Heats::Water { .. }) { 0.0 } else { f64::MIN };
    Some(left.min(power_w).max(floor))
}

/// Watts that services other than this one already give on a radiator.
fn others_w(view: &View<'_>, service: &ServiceName, node: NodeId) -> f64 {
    let Some(report) = view.report(node) else { return 0.0 };
    report
        .service_w
        .iter()
        .filter(|(name, _)| *name != service)
        .filter(|(name, _)| view.state.services.get(*name).is_some_and(|s| s.active == Some(node)))
        .map(|(_, w)| *w)
        .sum()
}

/// The worth of heat on a radiator for a service, W.
pub(super) fn worth_on(view: &View<'_>, service: &ServiceName, node: NodeId) -> Option<f64> {
    let spec = view.spec.radiators.get(&view.state.members.get(&node)?.name)?;
    let demand = view.report(node)?.demand_w.filter(|w| w.is_finite());
    worth_w(demand, others_w(view, service, node), spec.power_w, spec.heats)
}

/// Whether no radiator that is on is known to want heat, and at least one is known not to.
pub(super) fn summer(view: &View<'_>) -> bool {
    let mut known = view
        .radiators()
        .filter(|(_, m)| m.off.is_none())
        .filter_map(|(id, _)| view.report(id)?.demand_w.filter(|w| w.is_finite()))
        .peekable();
    known.peek().is_some() && known.all(|w| w <= 0.0)
}

fn whole(watts: f64) -> i64 {
    watts.round() as i64
}

/// A radiator's rank for a service, feasible or not.
pub(super) fn rank(view: &View<'_>, service: &ServiceName, spec: &ServiceSpec, node: NodeId) -> Option<Rank> {
    let member = view.state.members.get(&node)?;
    let declared = view.spec.radiators.get(&member.name);
    let present = view.state.services.get(service)?;
    let summer = summer(view);
    let worth = worth_on(view, service, node);
    let demand = view.report(node).and_then(|r| r.demand_w).filter(|w| w.is_finite());
    let left = demand.map_or(0.0, |w| w - others_w(view, service, node));
    let too_warm = whole((-worth.unwrap_or(0.0)).max(0.0));
    let avoided = present.avoid.get(&node).is_some_and(|until| *until > view.now.unix_ms);
    let awake = view.state.services.iter().any(|(name, s)| name != service && s.active == Some(node));
    Some(Rank {
        must_leave: member.off.is_some()
            || avoided
            || view.forbidden(spec, member).is_some()
            || view.broken_volume(service, node).is_some(),
        covered_w: Reverse(whole(worth.unwrap_or(0.0).max(0.0))),
        wanted_w: Reverse(whole(left.max(0.0))),
        heats_air: summer && !declared.is_some_and(|d| matches!(d.heats, Heats::Water { .. })),
        too_warm_w: if summer { too_warm / TOO_WARM_STEP_W } else { too_warm },
        wakes: summer && !awake,
        elsewhere: present.active != Some(node),
        name: member.name.clone(),
    })
}

/// Every radiator's standing for a service, the best first. The present active is ranked
/// even where nothing could be *started* there: what runs there may stay.
pub(super) fn ranks(view: &View<'_>, service: &ServiceName, spec: &ServiceSpec) -> Vec<RankedRadiator> {
    let active = view.state.services.get(service).and_then(|s| s.active);
    let mut ranks: Vec<RankedRadiator> = view
        .radiators()
        .map(|(node, member)| {
            let obstacle = feasible(view, service, spec, node).err();
            let rank = rank(view, service, spec, node).filter(|_| obstacle.is_none() || active == Some(node));
            let words = match (&rank, obstacle) {
                (None, Some(obstacle)) => obstacle.words,
                _ => words::standing(view, service, node),
            };
            RankedRadiator { node, name: member.name.clone(), rank, words }
        })
        .collect();
    ranks.sort_by(|a, b| (a.rank.is_none(), &a.rank, &a.name).cmp(&(b.rank.is_none(), &b.rank, &b.name)));
    ranks
}
