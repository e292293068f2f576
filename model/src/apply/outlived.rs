//! A later generation of the home is heard of, and all services stop; or a person has it go on.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{HomeName, UnixMs};
use crate::outlived::Outlived;
use crate::state::{Phase, State, Weight};

impl State {
    /// Whoever proposes this has seen the signature. Said again it changes nothing.
    pub(super) fn stand_down(
        &mut self,
        at: UnixMs,
        generation: u64,
        since_ms: UnixMs,
        from: &HomeName,
    ) -> Applied {
        if generation <= self.generation {
            return stale(format!("this home is of generation {} itself", self.generation));
        }
        if self.outlived.as_ref().is_some_and(|known| known.generation >= generation) {
            return Ok(Outcome::Done);
        }
        let outlived =
            Outlived { generation, since_ms, from: from.clone(), heard_ms: at, overruled_ms: None };
        for service in self.services.values_mut() {
            service.wish = None;
            service.moving = None;
            if service.active.is_some() {
                service.phase = Phase::Stop { next: None };
            }
        }
        let home = self.home.as_ref().map_or_else(|| "this home".into(), ToString::to_string);
        let text = format!(
            "{}: its services are stopped here, its data stay; {}",
            outlived.what(&home),
            outlived.next()
        );
        self.outlived = Some(outlived);
        self.tell(at, Weight::Mail, "outlived", text);
        Ok(Outcome::Done)
    }

    /// A person says that the later generation is a thief's.
    pub(super) fn overrule(&mut self, at: UnixMs, generation: u64) -> Applied {
        let Some(known) = &mut self.outlived else {
            return invalid("this home has heard of no later generation: nothing is stopped");
        };
        if known.generation != generation {
            return stale(format!("generation {} was heard of by now", known.generation));
        }
        if known.overruled_ms.is_none() {
            known.overruled_ms = Some(at);
            let text = format!(
                "a person has this home go on beside generation {generation}: friends that believe in that one take \
                 nothing from here any more, and whoever has the recovery kit can read every backup"
            );
            self.tell(at, Weight::Mail, "outlived", text);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{Command, Outcome, Why};
    use crate::name::HomeName;
    use crate::state::{Phase, State};
    use crate::testing::{box_volume, done, home_spec, mail, serving_home};
    use crate::{Proposal, testing};

    fn word(generation: u64) -> Command {
        Command::StandDown { generation, since_ms: 77, from: HomeName::new("alpes").unwrap() }
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        let before = state.clone();
        let outcome = state.apply(&Proposal { at_ms: 1_000_000, command });
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(before, *state, "a refusal changed something");
        }
        assert_eq!(state.check(), Vec::<String>::new());
        outcome
    }

    fn activate(state: &State) -> Command {
        let sets = [(box_volume(), state.volumes[&box_volume()].set_version)].into();
        let (service, reason) = (mail(), "mail starts".into());
        Command::Activate {
            service,
            epoch_was: state.services[&mail()].epoch,
            to: 1,
            sets,
            why: Why::Start,
            reason,
        }
    }

    #[test]
    fn a_home_that_was_recovered_elsewhere_stops_everything_and_keeps_its_data() {
        let mut state = serving_home(3, 2);
        let volumes = state.volumes.clone();
        done(&mut state, Command::Wish { service: mail(), to: 3 });
        done(&mut state, word(2));
        let service = &state.services[&mail()];
        assert_eq!((service.active, service.phase), (Some(2), Phase::Stop { next: None }));
        assert_eq!((service.wish, service.moving), (None, None));
        assert_eq!(state.volumes, volumes, "nothing of the data is touched");
        let told = state.events.back().unwrap();
        assert!(
            told.text.starts_with("maison was recovered or rescued elsewhere as generation 2"),
            "{told:?}"
        );
        assert!(told.text.contains("thermidor resume --kit-was-stolen"), "{told:?}");
        // Said again by this friend or another: nothing changes.
        let before = state.clone();
        assert_eq!(apply(&mut state, word(2)), Outcome::Done);
        assert_eq!(state, before);
        let epoch_was = state.services[&mail()].epoch;
        done(&mut state, Command::Stopped { service: mail(), epoch_was, node: 2 });
        assert_eq!(state.services[&mail()].active, None);
        assert_eq!(state.volumes[&box_volume()].in_sync, volumes[&box_volume()].in_sync);
    }

    #[test]
    fn nothing_is_placed_declared_or_restored_any_more_also_from_a_snapshot() {
        let mut state = serving_home(3, 2);
        done(&mut state, word(2));
        let epoch_was = state.services[&mail()].epoch;
        done(&mut state, Command::Stopped { service: mail(), epoch_was, node: 2 });
        let text = serde_json::to_string(&state).unwrap();
        let mut after: State = serde_json::from_str(&text).unwrap();
        assert_eq!(after, state);
        for command in [
            activate(&after),
            Command::Wish { service: mail(), to: 1 },
            testing::declare(&after, home_spec(3)),
            Command::HoldAddress { epoch_was: after.address.epoch, to: Some(1) },
        ] {
            match apply(&mut after, command.clone()) {
                Outcome::Refused(why) => assert!(why.to_string().contains("generation 2"), "{why}"),
                other => panic!("{command:?}: {other:?}"),
            }
        }
        let nobody = Command::HoldAddress { epoch_was: after.address.epoch, to: None };
        assert_eq!(apply(&mut after, nobody), Outcome::Done);
    }

    #[test]
    fn its_own_generation_or_an_earlier_one_stops_nobody() {
        let mut state = serving_home(3, 2);
        for generation in [0, 1] {
            assert!(matches!(apply(&mut state, word(generation)), Outcome::Refused(_)));
        }
        // The word that stopped the one before it, played to the home that came after.
        done(&mut state, Command::RaiseGeneration { generation_was: 1, remain: vec![1, 2, 3] });
        assert!(matches!(apply(&mut state, word(2)), Outcome::Refused(_)));
        assert_eq!(state.stands_down(), None);
        assert_eq!(apply(&mut state, word(3)), Outcome::Done);
    }

    #[test]
    fn a_state_of_an_earlier_program_has_heard_of_none() {
        let state = serving_home(2, 1);
        let mut value = serde_json::to_value(&state).unwrap();
        let fields = value.as_object_mut().unwrap();
        assert!(fields.remove("outlived").is_some() && fields.remove("generation_ms").is_some());
        assert_eq!(serde_json::from_value::<State>(value).unwrap(), state);
    }

    #[test]
    fn a_person_has_it_go_on_and_only_a_still_later_generation_stops_it_again() {
        let mut state = serving_home(3, 2);
        assert!(matches!(apply(&mut state, Command::Overrule { generation: 2 }), Outcome::Refused(_)));
        done(&mut state, word(2));
        let epoch_was = state.services[&mail()].epoch;
        done(&mut state, Command::Stopped { service: mail(), epoch_was, node: 2 });
        assert!(matches!(apply(&mut state, Command::Overrule { generation: 3 }), Outcome::Refused(_)));
        done(&mut state, Command::Overrule { generation: 2 });
        let again = activate(&state);
        done(&mut state, again);
        // The same word again, from whichever friend.
        assert_eq!(apply(&mut state, word(2)), Outcome::Done);
        assert_eq!(state.services[&mail()].phase, Phase::Run);
        done(&mut state, word(3));
        assert_eq!(state.services[&mail()].phase, Phase::Stop { next: None });
    }
}
