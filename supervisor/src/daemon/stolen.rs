//! `leave --stolen`: the radiator out of the home, then other keys than those on its disk.

use super::orders::{ORDER_MAX, member, value};
use super::{Context, within};
use crate::api::Refused;
use crate::api::view::{Stolen, VERSION, without_keys};
use serde_json::Value;
use std::time::Duration;
use thermidor_model::state::Role;
use thermidor_model::{Command, NodeId, Outcome, Proposal, RadiatorName, State};

/// How long whoever asks waits for the secrets to be sealed anew; it goes on by itself.
const SEALED_MAX: Duration = Duration::from_secs(20);

impl Context {
    /// Refused as a whole where a later step would be; interrupted, it can be run again.
    pub(super) async fn leave_stolen(
        &self,
        state: &State,
        radiator: &RadiatorName,
    ) -> Result<Value, Refused> {
        let identity = self.node.identity();
        if identity.own.role == Role::Witness {
            return Err(Refused::because(
                "the new keys are made on a radiator, and this is a witness: run it there",
            ));
        }
        let thief_has = stolen_member(state, radiator)?;
        if thief_has == Some(self.node.id()) {
            return Err(Refused::because(format!(
                "this is {radiator}: run it on a radiator that you still have"
            )));
        }
        rehearse(state, thief_has)?;
        let secrets = state.secrets.keys().cloned().collect();
        if let Some(node) = thief_has {
            self.leave(node).await?;
        }
        let changed = self.node.change_keys(within(ORDER_MAX)).await;
        let number = changed.map_err(|e| {
            Refused::because(format!(
                "{radiator} is out of the home, but its keys are not changed yet: {e}. \
                 Run `thermidor leave {radiator} --stolen` again"
            ))
        })?;
        let mut applied = self.node.state();
        let sealed = applied.wait_for(|s| s.keys.number >= number && !s.keys.changing());
        let sealed_anew = tokio::time::timeout(SEALED_MAX, sealed).await.is_ok_and(|s| s.is_ok());
        let waits_for = without_keys(&self.node.state().borrow());
        value(&Stolen { version: VERSION, secrets, waits_for, sealed_anew })
    }
}

/// The member that was stolen; `None`: it has left already, and the keys are still to be changed.
fn stolen_member(state: &State, radiator: &RadiatorName) -> Result<Option<NodeId>, Refused> {
    let left = format!("{radiator} left the home");
    match state.node(radiator) {
        None if state.events.iter().any(|event| event.text == left) => Ok(None),
        _ => member(state, radiator).map(Some),
    }
}

/// Whether both steps would be taken.
fn rehearse(state: &State, thief_has: Option<NodeId>) -> Result<(), Refused> {
    let mut after = state.clone();
    let change = Command::ChangeKeys {
        number_was: state.keys.number,
        authority_pem: state.authority_pem.clone(),
        home_key_hash: String::new(),
    };
    let leave = thief_has.map(|node| Command::Leave { node });
    for command in leave.into_iter().chain([change]) {
        if let Outcome::Refused(why) = after.apply(&Proposal { at_ms: 0, command }) {
            return Err(Refused::because(why.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::joined;

    #[test]
    fn nothing_is_begun_that_could_not_be_finished() {
        let mut state = joined(3);
        let [bureau, cave, nobody] = ["bureau", "cave", "nobody"].map(|n| RadiatorName::new(n).unwrap());
        assert!(stolen_member(&state, &nobody).unwrap_err().text.contains("thermidor radiator ls"));
        assert_eq!(stolen_member(&state, &bureau).unwrap(), Some(2));
        let unknown = rehearse(&state, Some(2)).unwrap_err();
        assert!(unknown.text.contains("switch it on"), "{unknown}");
        for node in [1, 3] {
            let pin = Command::PinKey { node, key: format!("key {node}") };
            state.apply(&Proposal { at_ms: 0, command: pin });
        }
        rehearse(&state, Some(2)).unwrap();
        // Somebody ran a plain `leave` first.
        state.apply(&Proposal { at_ms: 0, command: Command::Leave { node: 2 } });
        assert_eq!(stolen_member(&state, &bureau).unwrap(), None);
        assert_eq!(stolen_member(&state, &cave).unwrap(), Some(3));
        rehearse(&state, None).unwrap();
    }
}
