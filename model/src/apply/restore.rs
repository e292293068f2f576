//! How a restore goes on: a stage follows from the one before, and only from that.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{ServiceName, UnixMs};
use crate::restore::{Restore, RestoreOrder, RestoreStage, RestoreWish};
use crate::state::{State, Weight};

impl State {
    pub(super) fn restore(&mut self, at: UnixMs, service: &ServiceName, order: &RestoreOrder) -> Applied {
        match order {
            RestoreOrder::Begin { wish } => self.begin_restore(at, service, wish),
            RestoreOrder::Cancel => self.cancel_restore(at, service),
            RestoreOrder::Undo => self.decide_on_restored(service, RestoreStage::Undoing),
            RestoreOrder::Keep => self.decide_on_restored(service, RestoreStage::Cleaning),
            RestoreOrder::Done { number, stage, earlier } => {
                self.restore_stage_done(at, service, *number, *stage, *earlier)
            }
            RestoreOrder::Trouble { number, why } => match self.restores.get_mut(service) {
                Some(restore) if restore.number == *number => {
                    restore.trouble.clone_from(why);
                    Ok(Outcome::Done)
                }
                _ => stale(format!("that restore of {service} is over")),
            },
        }
    }

    fn begin_restore(&mut self, at: UnixMs, service: &ServiceName, wish: &RestoreWish) -> Applied {
        if !self.spec().is_some_and(|s| s.services.contains_key(service)) {
            return invalid(format!("there is no service {service}: `thermidor service ls` lists them"));
        }
        if self.volumes_of(service).next().is_none() {
            return invalid(format!("{service} has no volume: there is nothing to restore"));
        }
        let held = match self.restores.get(service).map(|r| r.stage) {
            None => false,
            Some(RestoreStage::Filling { held }) => held,
            Some(RestoreStage::Swapped) => {
                return invalid(format!(
                    "the files from before the last restore of {service} are still there: \
                     `thermidor restore {service} --keep` removes them, `--undo` puts them back"
                ));
            }
            Some(_) => {
                return invalid(format!("a restore of {service} is under way: watch `thermidor status`"));
            }
        };
        if held && wish.path.is_some() {
            return invalid(format!(
                "{service} has nothing yet that could be merged: restore all of it first"
            ));
        }
        self.restores_begun += 1;
        let restore = Restore {
            number: self.restores_begun,
            wish: wish.clone(),
            stage: RestoreStage::Filling { held },
            turn: 0,
            begun_ms: at,
            trouble: String::new(),
        };
        self.restores.insert(service.clone(), restore);
        let from = wish.from.as_ref().map_or_else(|| "a friend".into(), ToString::to_string);
        self.tell(
            at,
            Weight::Note,
            &format!("restore/{service}"),
            format!("{service} is restored from {from}"),
        );
        Ok(Outcome::Done)
    }

    fn cancel_restore(&mut self, at: UnixMs, service: &ServiceName) -> Applied {
        match self.restores.get(service).map(|r| r.stage) {
            Some(stage) if stage.is_before_the_swap() => {
                self.restores.remove(service);
                let text = format!("the restore of {service} was given up; nothing of it was changed");
                self.tell(at, Weight::Note, &format!("restore/{service}"), text);
                Ok(Outcome::Done)
            }
            Some(_) => invalid(format!(
                "the restore of {service} has gone too far to be given up: once it is done, \
                 `thermidor restore {service} --undo` puts the earlier files back"
            )),
            None => invalid(format!("no restore of {service} is under way")),
        }
    }

    /// Only what was swapped can be kept or undone.
    fn decide_on_restored(&mut self, service: &ServiceName, next: RestoreStage) -> Applied {
        match self.restores.get_mut(service) {
            Some(restore) if restore.stage == RestoreStage::Swapped => {
                restore.stage = next;
                restore.turn += u32::from(next == RestoreStage::Undoing);
                Ok(Outcome::Done)
            }
            Some(_) => invalid(format!("a restore of {service} is under way: watch `thermidor status`")),
            None => invalid(format!("no files from before a restore of {service} are kept")),
        }
    }

    fn restore_stage_done(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        number: u64,
        stage: RestoreStage,
        earlier: bool,
    ) -> Applied {
        let Some(restore) = self.restores.get_mut(service).filter(|r| r.number == number && r.stage == stage)
        else {
            return stale(format!("that restore of {service} is somewhere else by now"));
        };
        let merges = restore.wish.path.is_some();
        restore.trouble.clear();
        let (next, words) = match stage {
            RestoreStage::Filling { .. } if merges => (Some(RestoreStage::Merging), None),
            RestoreStage::Filling { .. } => (Some(RestoreStage::Swapping), None),
            RestoreStage::Merging => (Some(RestoreStage::Cleaning), Some("what was restored is merged in")),
            RestoreStage::Swapping if earlier => (
                Some(RestoreStage::Swapped),
                Some(
                    "it is restored; its earlier files are kept until `restore --keep`, or back with `--undo`",
                ),
            ),
            RestoreStage::Swapping => (Some(RestoreStage::Cleaning), Some("it is restored")),
            RestoreStage::Undoing => (Some(RestoreStage::Swapped), Some("its earlier files are back")),
            RestoreStage::Swapped => return stale("nothing is to be done until a person decides"),
            RestoreStage::Cleaning => (None, None),
        };
        match next {
            Some(next) => restore.stage = next,
            None => drop(self.restores.remove(service)),
        }
        if let Some(words) = words {
            self.tell(at, Weight::Mail, &format!("restore/{service}"), format!("{service}: {words}"));
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Proposal;
    use crate::command::Command;
    use crate::testing::{done, mail, serving_home};

    fn wish(path: Option<&str>) -> RestoreWish {
        RestoreWish { from: None, snapshot: None, as_of_s: None, path: path.map(str::to_owned) }
    }

    fn order(state: &mut State, order: RestoreOrder) -> Outcome {
        let before = state.clone();
        let command = Command::Restore { service: mail(), order };
        let outcome = state.apply(&Proposal { at_ms: 1_000_000, command });
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(before, *state, "a refusal changed something");
        }
        assert_eq!(state.check(), Vec::<String>::new());
        outcome
    }

    fn stage(state: &State) -> Option<RestoreStage> {
        state.restores.get(&mail()).map(|r| r.stage)
    }

    fn ended(state: &mut State, number: u64, earlier: bool) {
        let at = stage(state).unwrap();
        done(
            state,
            Command::Restore { service: mail(), order: RestoreOrder::Done { number, stage: at, earlier } },
        );
    }

    fn refused(outcome: Outcome, words: &str) {
        match outcome {
            Outcome::Refused(why) => assert!(why.to_string().contains(words), "{why}"),
            other => panic!("{other:?} instead of {words}"),
        }
    }

    #[test]
    fn a_restore_fills_swaps_and_waits_for_a_person() {
        let mut state = serving_home(3, 1);
        order(&mut state, RestoreOrder::Begin { wish: wish(None) });
        assert_eq!(state.held_by_restore(&mail()), None, "the service runs while the files are brought");
        ended(&mut state, 1, false);
        assert_eq!(stage(&state), Some(RestoreStage::Swapping));
        assert!(state.held_by_restore(&mail()).is_some());
        refused(order(&mut state, RestoreOrder::Cancel), "gone too far");
        refused(order(&mut state, RestoreOrder::Begin { wish: wish(None) }), "under way");
        refused(order(&mut state, RestoreOrder::Keep), "under way");
        ended(&mut state, 1, true);
        assert_eq!((stage(&state), state.held_by_restore(&mail())), (Some(RestoreStage::Swapped), None));
        refused(order(&mut state, RestoreOrder::Begin { wish: wish(None) }), "--keep");
        order(&mut state, RestoreOrder::Undo);
        assert!(state.held_by_restore(&mail()).is_some());
        assert_eq!(state.restores[&mail()].turn, 1);
        ended(&mut state, 1, true);
        assert_eq!(stage(&state), Some(RestoreStage::Swapped), "what was undone lies beside now");
        order(&mut state, RestoreOrder::Keep);
        assert_eq!(stage(&state), Some(RestoreStage::Cleaning));
        ended(&mut state, 1, false);
        assert_eq!(stage(&state), None);
        order(&mut state, RestoreOrder::Begin { wish: wish(None) });
        assert_eq!(state.restores[&mail()].number, 2);
    }

    #[test]
    fn one_that_has_changed_nothing_can_be_given_up_or_replaced() {
        let mut state = serving_home(3, 1);
        refused(order(&mut state, RestoreOrder::Cancel), "no restore");
        refused(order(&mut state, RestoreOrder::Undo), "no files from before");
        order(&mut state, RestoreOrder::Begin { wish: wish(None) });
        order(&mut state, RestoreOrder::Trouble { number: 1, why: "alice does not answer".into() });
        assert_eq!(state.restores[&mail()].trouble, "alice does not answer");
        order(&mut state, RestoreOrder::Begin { wish: wish(Some("box/marie")) });
        assert_eq!(state.restores[&mail()].number, 2);
        // Whoever still works on the first is not heard any more.
        let late =
            RestoreOrder::Done { number: 1, stage: RestoreStage::Filling { held: false }, earlier: false };
        refused(order(&mut state, late), "somewhere else");
        refused(order(&mut state, RestoreOrder::Trouble { number: 1, why: "late".into() }), "over");
        order(&mut state, RestoreOrder::Cancel);
        assert_eq!(stage(&state), None);
    }

    #[test]
    fn a_merge_never_holds_the_service() {
        let mut state = serving_home(3, 1);
        order(&mut state, RestoreOrder::Begin { wish: wish(Some("box/marie")) });
        for expected in [RestoreStage::Merging, RestoreStage::Cleaning] {
            ended(&mut state, 1, false);
            assert_eq!((stage(&state), state.held_by_restore(&mail())), (Some(expected), None));
        }
        ended(&mut state, 1, false);
        assert_eq!(stage(&state), None);
    }

    #[test]
    fn a_recovered_service_is_held_from_the_start_and_whoever_gives_up_starts_it_empty() {
        let mut state = serving_home(3, 1);
        order(&mut state, RestoreOrder::Begin { wish: wish(None) });
        state.restores.get_mut(&mail()).unwrap().stage = RestoreStage::Filling { held: true };
        refused(order(&mut state, RestoreOrder::Begin { wish: wish(Some("box/x")) }), "nothing yet");
        let other = RestoreWish { snapshot: Some("0123abcd".into()), ..wish(None) };
        order(&mut state, RestoreOrder::Begin { wish: other });
        assert!(state.held_by_restore(&mail()).is_some(), "another snapshot, and still held");
        let mut filled = state.clone();
        ended(&mut filled, 2, false);
        ended(&mut filled, 2, false);
        assert_eq!(
            stage(&filled),
            Some(RestoreStage::Cleaning),
            "nothing was there before that could be kept"
        );
        order(&mut state, RestoreOrder::Cancel);
        assert_eq!(state.held_by_restore(&mail()), None);
    }

    #[test]
    fn nothing_is_restored_that_has_no_data_or_is_no_service() {
        let mut state = serving_home(3, 1);
        state.volumes.clear();
        refused(order(&mut state, RestoreOrder::Begin { wish: wish(None) }), "no volume");
        let service = ServiceName::new("lamp").unwrap();
        let command = Command::Restore { service, order: RestoreOrder::Begin { wish: wish(None) } };
        refused(state.apply(&Proposal { at_ms: 1, command }), "no service lamp");
    }
}
