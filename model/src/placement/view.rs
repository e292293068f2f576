//! The state and what was observed, asked in the planner's words.

use super::Now;
use crate::name::{NodeId, ServiceName, UnixMs};
use crate::observe::{Observed, ReplicaState, Report};
use crate::spec::{HomeSpec, RecipeSpec, ServiceSpec};
use crate::state::{Member, Role, State};

/// What the planner looks at.
pub(super) struct View<'a> {
    pub state: &'a State,
    pub observed: &'a Observed,
    pub now: Now,
    pub spec: &'a HomeSpec,
}

/// Whether less than `span_ms` has passed since `since`. A time that lies ahead (somebody set
/// the clock) counts as long ago, so that no wait can last longer than its span.
pub(super) fn within(now: Now, since: UnixMs, span_ms: u64) -> bool {
    now.unix_ms.checked_sub(since).is_some_and(|passed| passed < span_ms)
}

/// Milliseconds since a member was heard; one not heard by this leader is silent since it began.
pub(crate) fn silence_ms(observed: &Observed, node: NodeId) -> u64 {
    if node == observed.leader {
        return 0;
    }
    observed.silent_ms.get(&node).copied().unwrap_or(observed.leading_ms.max(1) + 3_600_000)
}

impl<'a> View<'a> {
    /// All radiators of the home that joined.
    pub fn radiators(&self) -> impl Iterator<Item = (NodeId, &'a Member)> + use<'a> {
        self.state.members.iter().filter(|(_, m)| m.role == Role::Radiator).map(|(id, m)| (*id, m))
    }

    /// A member's name.
    pub fn name(&self, node: NodeId) -> String {
        self.state.name_of(node)
    }

    /// The last report, if it is recent.
    pub fn report(&self, node: NodeId) -> Option<&'a Report> {
        self.observed.reports.get(&node)
    }

    /// Reported, and heard within two report periods.
    pub fn heard(&self, node: NodeId) -> bool {
        self.report(node).is_some() && self.silence(node) <= 2 * self.state.timing.report_ms
    }

    /// Heard so lately that its silence can't be why a lease ended.
    pub fn lively(&self, node: NodeId) -> bool {
        self.silence(node) <= self.state.timing.lease_ms / 2
    }

    pub fn silence(&self, node: NodeId) -> u64 {
        silence_ms(self.observed, node)
    }

    /// Whether all radiators that are on have reported.
    pub fn heard_all(&self) -> bool {
        self.radiators().filter(|(_, m)| m.off.is_none()).all(|(id, _)| self.report(id).is_some())
    }

    /// Whether the first choice of a place need not wait for more reports.
    pub fn settled(&self) -> bool {
        self.heard_all() || self.observed.leading_ms >= super::FIRST_START_WAIT_MS
    }

    /// Why a service may never run on a radiator, if so.
    pub fn forbidden(&self, spec: &ServiceSpec, member: &Member) -> Option<String> {
        if !self.spec.radiators.contains_key(&member.name) {
            return Some("it is not in home.yaml".into());
        }
        if spec.place.never.contains(&member.name) {
            return Some("`place: never` names it".into());
        }
        if !spec.place.only.is_empty() && !spec.place.only.contains(&member.name) {
            return Some("`place: only` does not name it".into());
        }
        None
    }

    /// The first of the service's volumes whose replica on a radiator is broken, and how.
    pub fn broken_volume(&self, service: &ServiceName, node: NodeId) -> Option<String> {
        let report = self.report(node)?;
        self.state.volumes_of(service).find_map(|(name, _)| match report.replicas.get(name)?.state {
            ReplicaState::Failed(ref why) => Some(format!("{name} is broken there: {why}")),
            _ => None,
        })
    }

    /// The service whose place the vote of a pair and the floating address follow: mail first,
    /// then by name, among those that answer on ports.
    pub fn principal(&self) -> Option<&'a ServiceName> {
        principal(self.spec)
    }
}

/// See [`View::principal`].
pub(crate) fn principal(spec: &HomeSpec) -> Option<&ServiceName> {
    let is_mail = |s: &ServiceSpec| matches!(s.recipe, Some(RecipeSpec::Mail(_)));
    let answers = |s: &ServiceSpec| s.recipe.is_some() || !s.ports.is_empty();
    spec.services
        .iter()
        .filter(|(_, s)| answers(s))
        .min_by_key(|(name, s)| (!is_mail(s), *name))
        .map(|(name, _)| name)
}
