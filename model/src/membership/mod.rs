//! Who votes. A home never has exactly two voters: losing either would stop it, which is
//! worse than one.

use crate::name::NodeId;
use crate::observe::Observed;
use crate::placement::{principal, silence_ms};
use crate::state::{Role, State};
use crate::timing::Timing;
use std::collections::BTreeSet;

/// Voters at most: more would only make every commit wait for more disks.
pub const VOTERS_MAX: usize = 5;

/// A member heard within this time is there, ms.
pub const HEARD_MS: u64 = 2_000;

/// Who is to vote now. Of four members three vote: a fourth vote would let the home lose no
/// more members, but need three of four to agree. Present voters stay before others get the
/// vote, so that nothing changes without need.
///
/// Returns the present voters where no sound set can be had.
pub fn voters(state: &State, observed: &Observed, timing: &Timing) -> BTreeSet<NodeId> {
    let present = &observed.voters;
    let silence = |n: &NodeId| silence_ms(observed, *n);
    let heard = |n: &NodeId| silence(n) <= HEARD_MS;
    // A member that this leader has never heard has been silent for as long as it leads.
    let forgotten = |n: &NodeId| {
        let unheard = *n != observed.leader && !observed.silent_ms.contains_key(n);
        if unheard {
            observed.leading_ms > timing.forget_after_ms
        } else {
            silence(n) > timing.forget_after_ms
        }
    };
    // Who isn't a voter yet is first heard, then votes.
    let mut able: Vec<NodeId> = state
        .members
        .keys()
        .copied()
        .filter(|n| !gives_up_vote(state, *n) && (present.contains(n) || heard(n)))
        .collect();
    able.sort_by_key(|n| (forgotten(n), !present.contains(n), !heard(n), *n));
    let alive = able.iter().filter(|n| !forgotten(n)).count();
    let count = match (able.len(), alive) {
        (0, _) => return present.clone(),
        (1 | 2, _) => return pair(state, observed, &able, present),
        (_, 5..) => VOTERS_MAX,
        _ => 3,
    };
    let wanted: BTreeSet<NodeId> = able.iter().take(count).copied().collect();
    let radiator = |n: &NodeId| state.members.get(n).is_some_and(|m| m.role == Role::Radiator);
    let majority_heard = wanted.iter().filter(|n| heard(n)).count() * 2 > wanted.len();
    if majority_heard && wanted.iter().any(radiator) { wanted } else { present.clone() }
}

/// Of one or two members one votes: where the services are, so that losing the other costs nothing.
fn pair(state: &State, observed: &Observed, able: &[NodeId], present: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let heard = |n: &NodeId| silence_ms(observed, *n) <= HEARD_MS;
    let radiators: Vec<NodeId> = able
        .iter()
        .copied()
        .filter(|n| state.members.get(n).is_some_and(|m| m.role == Role::Radiator) && heard(n))
        .collect();
    let active = seat(state).filter(|n| radiators.contains(n));
    let stays = radiators.iter().copied().find(|n| present.contains(n));
    match active.or(stays).or(radiators.first().copied()) {
        Some(voter) => [voter].into(),
        None => present.clone(),
    }
}

/// Where the principal service is active, else any service.
fn seat(state: &State) -> Option<NodeId> {
    let principal = state.spec().and_then(principal).and_then(|name| state.services.get(name)?.active);
    principal.or_else(|| state.services.values().find_map(|s| s.active))
}

/// Whether a member's power is to be cut and nothing is active there any more.
fn gives_up_vote(state: &State, node: NodeId) -> bool {
    let power_off = state.members.get(&node).is_some_and(|m| m.off.is_some_and(|off| off.power_off));
    power_off && !state.services.values().any(|s| s.active == Some(node))
}

/// Whether a majority of the voters was heard lately. A leader without one decides nothing any more,
/// although nobody else has told it so.
pub fn has_quorum(observed: &Observed) -> bool {
    let heard = observed.voters.iter().filter(|n| silence_ms(observed, **n) <= HEARD_MS).count();
    heard * 2 > observed.voters.len()
}

/// What a person should know about the votes; `None`: the home bears a loss.
pub fn words(state: &State, observed: &Observed) -> Option<String> {
    let voters = &observed.voters;
    let heard = voters.iter().filter(|n| silence_ms(observed, **n) <= HEARD_MS).count();
    let needed = voters.len() / 2 + 1;
    if heard > needed {
        return None;
    }
    let silent: Vec<String> =
        voters.iter().filter(|n| silence_ms(observed, **n) > HEARD_MS).map(|n| state.name_of(*n)).collect();
    Some(match (voters.len(), state.members.len(), silent.is_empty()) {
        (1, 1, _) => {
            "this home is one radiator: nothing takes over when it goes. `thermidor invite` another".into()
        }
        (1, _, _) => {
            let voter = voters.iter().next().map(|n| state.name_of(*n)).unwrap_or_default();
            format!(
                "one more loss stops the home: add a witness (`thermidor join --witness`); only {voter} votes"
            )
        }
        (_, _, true) => "one more loss stops the home: add a witness (`thermidor join --witness`)".into(),
        _ => format!("one more loss stops the home: {} is silent", silent.join(", ")),
    })
}

#[cfg(test)]
mod tests;
