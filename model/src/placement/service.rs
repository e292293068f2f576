//! Starts, moves and stays of each service. What a lost lease leads to is in `takeover`.

use super::feasible::feasible;
use super::rank::{rank, ranks, worth_on};
use super::view::{View, within};
use super::{AVOID_MS, Action, ENDED_MAX, Plan, RankedRadiator, Reason, takeover, words};
use crate::command::{Command, Why};
use crate::name::{NodeId, ServiceName};
use crate::observe::Lease;
use crate::outlived::Outlived;
use crate::spec::ServiceSpec;
use crate::state::{Phase, Service};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// After so long a leader no longer waits for reports of radiators before heat may move a
/// service: whoever has not been heard by then is away, ms.
const HEAT_WAIT_MS: u64 = 30_000;

/// One service under decision.
pub(super) struct Case<'a> {
    pub view: &'a View<'a>,
    pub name: &'a ServiceName,
    pub service: &'a Service,
    pub spec: &'a ServiceSpec,
    pub ranks: Vec<RankedRadiator>,
}

/// What is decided for one service.
pub(super) type Decided = (Vec<Command>, String);

impl Case<'_> {
    /// The best radiators where it could run, but one.
    pub fn others(&self, but: NodeId) -> impl Iterator<Item = &RankedRadiator> {
        self.ranks.iter().filter(move |r| r.rank.is_some() && r.node != but)
    }

    /// Whether a radiator is to be left if anything else will do.
    pub fn must_leave(&self, node: NodeId) -> bool {
        self.ranks.iter().any(|r| r.node == node && r.rank.as_ref().is_some_and(|rank| rank.must_leave))
    }

    pub fn feasible(&self, node: NodeId) -> bool {
        feasible(self.view, self.name, self.spec, node).is_ok()
    }

    /// The best radiator other than one that need not be left at once.
    pub fn better_than(&self, node: NodeId) -> Option<NodeId> {
        self.others(node).find(|r| !self.must_leave(r.node)).map(|r| r.node)
    }

    pub fn activate(&self, to: NodeId, why: Why, reason: String) -> Decided {
        let sets = self.view.state.volumes_of(self.name).map(|(n, v)| (n.clone(), v.set_version)).collect();
        let command = Command::Activate {
            service: self.name.clone(),
            epoch_was: self.service.epoch,
            to,
            sets,
            why,
            reason: reason.clone(),
        };
        (vec![command], reason)
    }

    fn stop(&self, next: NodeId, reason: String) -> Decided {
        let command = Command::Stop {
            service: self.name.clone(),
            epoch_was: self.service.epoch,
            next: Some(next),
            reason: reason.clone(),
        };
        (vec![command], reason)
    }

    fn stays(&self, node: NodeId, because: String) -> Decided {
        (vec![], format!("{} stays in {}: {because}", self.name, self.view.name(node)))
    }

    fn radiator(&self, node: NodeId) -> String {
        self.view.name(node)
    }
}

/// Decides for every service, in the order of their names.
pub(super) fn reconcile(view: &View<'_>, plan: &mut Plan) {
    let mut moving = view.state.services.values().any(|s| s.moving.is_some());
    for (name, service) in &view.state.services {
        let Some(spec) = view.spec.services.get(name) else {
            removed(view, name, service, plan);
            continue;
        };
        let case = Case { view, name, service, spec, ranks: ranks(view, name, spec) };
        let lease = view.observed.leases.get(name).copied().unwrap_or_default();
        let (commands, sentence) = match (service.active, lease) {
            (None, _) => start(&case),
            (Some(active), Lease::Ended) => takeover::lost(&case, active),
            (Some(active), Lease::MayBeHeld) => running(&case, active, moving),
        };
        moving |= commands.iter().any(|c| matches!(c, Command::Stop { .. }));
        let reason = if sentence.is_empty() {
            words::stays_down(view, name, case.ranks)
        } else {
            Reason { sentence, ranks: case.ranks }
        };
        plan.actions.extend(commands.into_iter().map(Action::Propose));
        plan.reasons.insert(name.clone(), reason);
    }
}

/// A service that is declared no more stops by itself where it is; where that radiator is gone
/// its end is told in its place, once its lease has surely ended.
fn removed(view: &View<'_>, name: &ServiceName, service: &Service, plan: &mut Plan) {
    let Some(active) = service.active else { return };
    end_where_it_is(view, name, service, active, plan);
    let sentence = format!("{name} was removed and is stopping in {}", view.name(active));
    plan.reasons.insert(name.clone(), Reason { sentence, ranks: vec![] });
}

fn end_where_it_is(view: &View<'_>, name: &ServiceName, service: &Service, active: NodeId, plan: &mut Plan) {
    let ended = view.observed.leases.get(name) == Some(&Lease::Ended);
    if ended && !view.lively(active) {
        let command = Command::Stopped { service: name.clone(), epoch_was: service.epoch, node: active };
        plan.actions.push(Action::Propose(command));
    }
}

/// The home was recovered elsewhere: everything stops where it is, the address is let go, nothing starts. Volumes stay as
/// they are.
pub(super) fn stand_down(view: &View<'_>, outlived: &Outlived, plan: &mut Plan) {
    for (name, service) in &view.state.services {
        let generation = outlived.generation;
        let sentence = match service.active {
            Some(active) => {
                end_where_it_is(view, name, service, active, plan);
                let here = view.name(active);
                format!("{name} is stopping in {here}: generation {generation} of this home lives elsewhere")
            }
            None => format!("{name} stays down: generation {generation} of this home lives elsewhere"),
        };
        plan.reasons.insert(name.clone(), Reason { sentence, ranks: vec![] });
    }
    let address = &view.state.address;
    if address.holder.is_some() {
        let nobody = Command::HoldAddress { epoch_was: address.epoch, to: None };
        plan.actions.push(Action::Propose(nobody));
    }
}

/// Nobody is active: the wish, else where a move was going, else the best radiator.
fn start(case: &Case<'_>) -> Decided {
    let name = case.name;
    let mut forgotten = vec![];
    if let Some(wish) = case.service.wish {
        let to = case.radiator(wish);
        match feasible(case.view, name, case.spec, wish) {
            Ok(()) => return case.activate(wish, Why::Planned, format!("{name} starts in {to}, as wished")),
            Err(obstacle) => {
                forgotten.push(forget(case, wish, format!("{name} does not go to {to}: {}", obstacle.words)))
            }
        }
    }
    let going =
        case.service.moving.and_then(|m| m.to).filter(|to| case.feasible(*to) && !case.must_leave(*to));
    let (mut commands, sentence) = match (going, case.ranks.first().filter(|r| r.rank.is_some())) {
        (Some(to), _) => {
            let heat = words::heat(case.view, name, to);
            case.activate(to, why_moving(case), format!("{name} starts in {}: it {heat}", case.radiator(to)))
        }
        (None, Some(_)) if case.service.epoch == 0 && !case.view.settled() => {
            (vec![], format!("{name} waits to hear all radiators before its first start"))
        }
        (None, Some(best)) => {
            let why = if case.service.moving.is_some() { Why::Planned } else { Why::Start };
            let heat = words::heat(case.view, name, best.node);
            let heat =
                heat.strip_prefix("its heat").map_or(format!("it {heat}"), |rest| format!("its heat{rest}"));
            case.activate(best.node, why, format!("{name} starts in {}: {heat}", best.name))
        }
        (None, None) => (vec![], String::new()),
    };
    commands.splice(0..0, forgotten);
    (commands, sentence)
}

/// Why a move that has stopped the service goes on: one that left a radiator where it could
/// not stay is no heat move, whatever the stop knew.
fn why_moving(case: &Case<'_>) -> Why {
    let left = case.service.moving.filter(|m| m.why == Why::Heat).map(|m| m.from);
    match left.and_then(|from| rank(case.view, case.name, case.spec, from)) {
        Some(rank) if !rank.must_leave => Why::Heat,
        _ => Why::Planned,
    }
}

/// The active may hold its lease: it stays, or is asked to stop for a move.
fn running(case: &Case<'_>, active: NodeId, moving: bool) -> Decided {
    let name = case.name;
    if let Phase::Stop { next } = case.service.phase {
        let then = next.map_or(String::new(), |n| format!(", then it goes to {}", case.radiator(n)));
        return (vec![], format!("{name} is stopping in {}{then}", case.radiator(active)));
    }
    let Some(report) = case.view.report(active) else {
        return case.stays(active, "its daemon is silent, but its lease goes on or may do so".into());
    };
    let instance = report.instances.get(name).filter(|i| i.epoch == case.service.epoch);
    if let Some(i) = instance.filter(|i| i.ended_count >= ENDED_MAX && i.healthy != Some(true)) {
        return dies(case, active, &i.detail);
    }
    if let Some(decided) = wished(case, active) {
        return decided;
    }
    if case.must_leave(active) {
        let now = words::standing(case.view, name, active);
        return match case.better_than(active) {
            Some(to) => {
                let (from, to_name) = (case.radiator(active), case.radiator(to));
                case.stop(
                    to,
                    format!("{name} leaves {from} for {to_name}: {from} {}", must_words(case, active)),
                )
            }
            None => case.stays(
                active,
                format!(
                    "it {now}, but nothing else will do ({})",
                    words::obstacles(&case.ranks, Some(active))
                ),
            ),
        };
    }
    heat(case, active, moving)
}

fn must_words(case: &Case<'_>, node: NodeId) -> String {
    let Some(member) = case.view.state.members.get(&node) else { return "left the home".into() };
    if member.off.is_some() {
        return "is off".into();
    }
    if let Some(broken) = case.view.broken_volume(case.name, node) {
        return format!("has a broken disk ({broken})");
    }
    match case.view.forbidden(case.spec, member) {
        Some(why) => format!("may not run it: {why}"),
        None => "is avoided, it kept ending there".into(),
    }
}

/// It keeps ending here: elsewhere, if there is an elsewhere, else it is said.
fn dies(case: &Case<'_>, active: NodeId, detail: &str) -> Decided {
    let name = case.name;
    let here = case.radiator(active);
    let Some(to) = case.better_than(active) else {
        let why = words::obstacles(&case.ranks, Some(active));
        return case.stays(active, format!("it keeps ending ({detail}), and nowhere else will do ({why})"));
    };
    let avoid = Command::Avoid {
        service: name.clone(),
        epoch_was: case.service.epoch,
        node: active,
        until_ms: case.view.now.unix_ms + AVOID_MS,
    };
    let text =
        format!("{name} leaves {here} for {}: it keeps ending in {here} ({detail})", case.radiator(to));
    let (stop, sentence) = case.stop(to, text);
    (std::iter::once(avoid).chain(stop).collect(), sentence)
}

/// A person's wish: done, waited for while that may help, or given up.
fn wished(case: &Case<'_>, active: NodeId) -> Option<Decided> {
    let name = case.name;
    let wish = case.service.wish?;
    let to = case.radiator(wish);
    if wish == active {
        let done = Command::ForgetWish { service: name.clone(), to: wish, why: None };
        return Some((vec![done], format!("{name} stays in {to}, as wished")));
    }
    let give_up = |why: &str| {
        let words = format!("{name} does not go to {to}: {why}");
        (vec![forget(case, wish, words.clone())], words)
    };
    Some(match feasible(case.view, name, case.spec, wish) {
        Ok(()) if case.must_leave(wish) => give_up(&must_words(case, wish)),
        Ok(()) => case.stop(wish, format!("{name} moves from {} to {to}, as wished", case.radiator(active))),
        Err(obstacle) if obstacle.passing => {
            (vec![], format!("{name} goes to {to} as wished, but has to wait: {}", obstacle.words))
        }
        Err(obstacle) => give_up(&obstacle.words),
    })
}

/// Gives a wish up, and says so to the person who waits for it.
fn forget(case: &Case<'_>, to: NodeId, why: String) -> Command {
    Command::ForgetWish { service: case.name.clone(), to, why: Some(why) }
}

/// Nothing compels it: heat decides, if a move gains more than it costs.
fn heat(case: &Case<'_>, active: NodeId, moving: bool) -> Decided {
    let (view, name, policy) = (case.view, case.name, &case.view.spec.placement);
    let Some(here_w) = worth_on(view, name, active) else {
        return case.stays(active, "its heat is not known".into());
    };
    let known = |r: &&RankedRadiator| worth_on(view, name, r.node).is_some();
    let best = case.others(active).filter(|r| !case.must_leave(r.node)).find(known);
    let Some(best) = best else {
        let why = words::obstacles(&case.ranks, Some(active));
        return case.stays(active, format!("it {}; {why}", words::heat(view, name, active)));
    };
    let gain_w = worth_on(view, name, best.node).unwrap_or(here_w) - here_w;
    if gain_w.round() <= 0.0 {
        let heat = words::heat(view, name, active);
        return case.stays(active, format!("it {heat}, nothing is better"));
    }
    let more = words::more(view, name, best.node, gain_w);
    if gain_w < policy.move_gain_w {
        return case
            .stays(active, format!("{more}, under the {} W it takes to move", policy.move_gain_w.round()));
    }
    if !view.heard_all() && view.observed.leading_ms < HEAT_WAIT_MS {
        return case.stays(active, format!("{more}, but not all radiators are heard yet"));
    }
    let stay_ms = policy.minimum_stay_s * 1000;
    if within(view.now, case.service.since_ms, stay_ms) {
        return case
            .stays(active, format!("{more}, but it stays at least {} after a start", words::span(stay_ms)));
    }
    let today = case.service.moved_ms.iter().filter(|at| within(view.now, **at, DAY_MS)).count();
    if today >= policy.moves_per_day as usize {
        return case.stays(active, format!("{more}, but heat moved it {today} times in 24 hours already"));
    }
    if moving {
        return case.stays(active, format!("{more}, but another service is moving"));
    }
    case.stop(best.node, format!("{name} moves from {} to {}: {more}", case.radiator(active), best.name))
}
