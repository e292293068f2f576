//! Commands that are applied once, however often they are sent.

use super::{Applied, invalid};
use crate::command::Command;
use crate::name::UnixMs;
use crate::state::{ONCE_MAX, State};

impl State {
    /// What is refused has changed nothing: it is looked at again when it comes again.
    pub(super) fn once(&mut self, at: UnixMs, number: u64, command: &Command) -> Applied {
        if matches!(command, Command::Once { .. }) {
            return invalid("a command that is applied once is in another such");
        }
        if let Some((_, outcome)) = self.once.iter().find(|(known, _)| *known == number) {
            return Ok(outcome.clone());
        }
        let outcome = self.decide(at, command)?;
        self.once.push_back((number, outcome.clone()));
        while self.once.len() > ONCE_MAX {
            self.once.pop_front();
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Outcome, Proposal, Refusal};
    use crate::testing::joined;

    fn apply(state: &mut State, number: u64, command: Command) -> Outcome {
        state.apply(&Proposal { at_ms: 7, command: Command::Once { number, command: Box::new(command) } })
    }

    fn tell(text: &str) -> Command {
        Command::Tell { weight: crate::state::Weight::Note, key: "test".into(), text: text.into() }
    }

    fn told(state: &State) -> usize {
        state.events.iter().filter(|event| event.key == "test").count()
    }

    #[test]
    fn what_comes_again_is_answered_as_before_and_changes_nothing() {
        let mut state = joined(3);
        let invite =
            |n: u8| Command::Invite { token_hash: format!("{n:02x}").repeat(32), expires_ms: 1_000_000 };
        assert_eq!(apply(&mut state, 1, tell("once")), Outcome::Done);
        let before = state.clone();
        assert_eq!(apply(&mut state, 1, tell("once")), Outcome::Done);
        assert_eq!(state, before);
        assert_eq!(told(&state), 1);
        assert_eq!(apply(&mut state, 2, tell("another")), Outcome::Done);
        assert_eq!(told(&state), 2, "another number is another order, whatever it says");
        // A number that is known is answered, whatever else comes under it.
        assert_eq!(apply(&mut state, 2, invite(1)), Outcome::Done);
        assert!(state.tokens.is_empty());
    }

    #[test]
    fn what_was_refused_is_looked_at_again() {
        let mut state = joined(3);
        let on = |node| Command::On { node };
        let Outcome::Refused(_) = apply(&mut state, 1, on(9)) else { panic!("there is no member 9") };
        assert!(state.once.is_empty());
        let nested = Command::Once { number: 2, command: Box::new(on(1)) };
        let refused = apply(&mut state, 3, nested);
        assert!(matches!(refused, Outcome::Refused(Refusal::Invalid(_))), "{refused:?}");
    }

    #[test]
    fn a_home_that_stands_down_refuses_the_same_commands_in_it() {
        let mut state = joined(3);
        let from = crate::name::HomeName::new("alpes").unwrap();
        state.apply(&Proposal { at_ms: 0, command: Command::StandDown { generation: 2, since_ms: 0, from } });
        let hold = Command::HoldAddress { epoch_was: 0, to: Some(1) };
        let bare = state.apply(&Proposal { at_ms: 7, command: hold.clone() });
        assert!(matches!(bare, Outcome::Refused(_)), "{bare:?}");
        assert_eq!(apply(&mut state, 1, hold), bare);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut state = joined(1);
        for number in 0..=ONCE_MAX as u64 {
            apply(&mut state, number, tell("more"));
        }
        assert_eq!(state.once.len(), ONCE_MAX);
        let before = told(&state);
        apply(&mut state, ONCE_MAX as u64, tell("more"));
        assert_eq!(told(&state), before, "the last is known");
        apply(&mut state, 0, tell("more"));
        assert_eq!(told(&state), before + 1, "the first is not");
    }
}
