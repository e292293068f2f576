//! Members as a whole: who is on again, who votes, who leads.

use super::view::silence_ms;
use super::{Action, Now};
use crate::command::Command;
use crate::membership;
use crate::observe::Observed;
use crate::state::State;

/// Radiators whose `off --until` has passed come on; voters follow [`membership::voters`].
pub(super) fn members(state: &State, observed: &Observed, now: Now, actions: &mut Vec<Action>) {
    for (node, member) in &state.members {
        if member.off.and_then(|off| off.until_ms).is_some_and(|until| until <= now.unix_ms) {
            actions.push(Action::Propose(Command::On { node: *node }));
        }
    }
    let wanted = membership::voters(state, observed, &state.timing);
    if wanted == observed.voters || wanted.is_empty() {
        return;
    }
    let heir = wanted
        .intersection(&observed.voters)
        .filter(|n| **n != observed.leader)
        .min_by_key(|n| silence_ms(observed, **n))
        .filter(|n| silence_ms(observed, **n) <= membership::HEARD_MS);
    match heir {
        Some(heir) if !wanted.contains(&observed.leader) => actions.push(Action::TransferLeader(*heir)),
        _ => actions.push(Action::SetVoters(wanted)),
    }
}
