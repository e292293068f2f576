//! Who votes in homes of one to seven members.

use super::*;
use crate::state::Off;
use crate::testing::{join, joined, mail};

fn home(radiators: usize, witness: bool) -> (State, Observed) {
    let mut state = joined(radiators);
    if witness {
        join(&mut state, "witness", Role::Witness);
    }
    let silent_ms = state.members.keys().map(|n| (*n, 0)).collect();
    let observed =
        Observed { leader: 1, silent_ms, voters: [1].into(), leading_ms: 1_000_000, ..Observed::default() };
    (state, observed)
}

fn ask(state: &State, observed: &Observed) -> Vec<NodeId> {
    voters(state, observed, &Timing::default()).into_iter().collect()
}

#[test]
fn no_home_has_two_voters() {
    for radiators in 1..=8 {
        for witness in [false, true] {
            let (state, observed) = home(radiators, witness);
            let count = ask(&state, &observed).len();
            let members = radiators + usize::from(witness);
            let expected = [1, 1, 3, 3, 5, 5, 5, 5, 5][members - 1];
            assert_eq!(count, expected, "{radiators} radiators, witness: {witness}");
        }
    }
}

#[test]
fn of_two_the_actives_radiator_votes() {
    let (mut state, observed) = home(2, false);
    assert_eq!(ask(&state, &observed), vec![1]);
    let service = crate::state::Service {
        epoch: 1,
        active: Some(2),
        phase: crate::state::Phase::Run,
        since_ms: 0,
        wish: None,
        moved_ms: vec![],
        avoid: Default::default(),
        moving: None,
    };
    state.services.insert(mail(), service);
    assert_eq!(ask(&state, &observed), vec![2]);
    let mut silent = observed.clone();
    silent.silent_ms.insert(2, 3_000);
    assert_eq!(ask(&state, &silent), vec![1], "who is not heard is not given the only vote");
    let said = words(&state, &observed).unwrap();
    assert!(said.starts_with("one more loss stops the home: add a witness"), "{said}");
}

#[test]
fn a_radiator_with_a_witness_votes_alone() {
    let (state, observed) = home(1, true);
    assert_eq!(ask(&state, &observed), vec![1]);
}

#[test]
fn the_long_silent_lose_their_vote_while_three_remain_and_get_it_back() {
    let (state, mut observed) = home(4, false);
    observed.voters = [1, 2, 3].into();
    assert_eq!(ask(&state, &observed), vec![1, 2, 3], "present voters stay");
    observed.silent_ms.insert(3, 500_000);
    assert_eq!(ask(&state, &observed), vec![1, 2, 3], "not yet");
    observed.silent_ms.insert(3, 700_000);
    assert_eq!(ask(&state, &observed), vec![1, 2, 4]);
    observed.voters = [1, 2, 4].into();
    observed.silent_ms.insert(4, 700_000);
    assert_eq!(ask(&state, &observed), vec![1, 2, 4], "three must remain");
    observed.silent_ms.insert(3, 0);
    assert_eq!(ask(&state, &observed), vec![1, 2, 3], "who returned votes again");
}

#[test]
fn who_was_never_heard_is_not_made_a_voter_and_no_majority_is_unheard() {
    let (state, mut observed) = home(3, false);
    observed.silent_ms.remove(&3);
    assert_eq!(ask(&state, &observed), vec![1]);
    observed.voters = [1, 2, 3].into();
    observed.silent_ms = [(2, 5_000), (3, 5_000)].into();
    assert_eq!(ask(&state, &observed), vec![1, 2, 3], "as it is");
}

#[test]
fn power_off_gives_up_the_vote() {
    let (mut state, mut observed) = home(3, true);
    observed.voters = [1, 2, 3].into();
    state.members.get_mut(&2).unwrap().off = Some(Off { until_ms: None, power_off: false });
    assert_eq!(ask(&state, &observed), vec![1, 2, 3], "off alone keeps it");
    state.members.get_mut(&2).unwrap().off = Some(Off { until_ms: None, power_off: true });
    assert_eq!(ask(&state, &observed), vec![1, 3, 4]);
}

#[test]
fn the_words_for_status() {
    let (state, mut observed) = home(3, false);
    observed.voters = [1, 2, 3].into();
    assert_eq!(words(&state, &observed), None);
    observed.silent_ms.insert(2, 60_000);
    assert_eq!(words(&state, &observed).unwrap(), "one more loss stops the home: bureau is silent");
    let (state, observed) = home(1, false);
    assert!(words(&state, &observed).unwrap().starts_with("this home is one radiator"));
}

#[test]
fn a_leader_whose_majority_is_silent_has_no_quorum() {
    let (_, mut observed) = home(3, false);
    assert!(has_quorum(&observed), "a home of one voter that leads");
    observed.voters = [1, 2, 3].into();
    assert!(has_quorum(&observed));
    observed.silent_ms.insert(2, HEARD_MS + 1);
    assert!(has_quorum(&observed), "two of three");
    observed.silent_ms.insert(3, HEARD_MS + 1);
    assert!(!has_quorum(&observed), "one of three");
}
