//! A kit takes another's place: who holds to which, when the old one is forgotten, and which of a friend's own new kits is
//! believed.

use crate::friends::{
    FriendIdentity, KIT_BEFORE_SECRET, KIT_CLAIMS_MAX, KIT_SECRET, KitClaim, KitRecord, PublicKey,
};
use crate::name::HomeName;
use crate::state::{Sealed, State, Weight};
use crate::testing::joined;
use crate::{Command, Outcome, Proposal};

fn home(name: &str) -> HomeName {
    HomeName::new(name).unwrap()
}

fn sealed(byte: u8) -> Sealed {
    Sealed { nonce: [0; 12], bytes: vec![byte], key: 0 }
}

fn words(word: &str) -> [String; 4] {
    std::array::from_fn(|n| format!("{word}{n}"))
}

fn record(n: u8) -> KitRecord {
    KitRecord {
        made_ms: n.into(),
        printed_ms: None,
        rehearsed_ms: None,
        split: None,
        key: PublicKey([n; 32]),
    }
}

fn apply(state: &mut State, command: Command) -> Outcome {
    let before = state.clone();
    let outcome = state.apply(&Proposal { at_ms: 50, command });
    if matches!(outcome, Outcome::Refused(_)) {
        assert_eq!(before, *state, "a refusal changed something");
    }
    assert_eq!(state.check(), Vec::<String>::new());
    let json = serde_json::to_string(state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), *state);
    outcome
}

fn done(state: &mut State, command: Command) {
    assert_eq!(apply(state, command), Outcome::Done);
}

fn refused(state: &mut State, command: Command, why: &str) {
    match apply(state, command) {
        Outcome::Refused(refusal) => assert!(refusal.to_string().contains(why), "{refusal}"),
        other => panic!("{other:?} instead of: {why}"),
    }
}

fn set(n: u8) -> Command {
    Command::SetKit { was: None, record: record(n), sealed: sealed(n) }
}

fn replace(was: u8, n: u8, friends: &[&str]) -> Command {
    let waiting = friends.iter().map(|name| (home(name), words(name))).collect();
    let was = PublicKey([was; 32]);
    Command::ReplaceKit { was, record: record(n), sealed: sealed(n), before: Box::new(sealed(99)), waiting }
}

fn took(friend: &str, n: u8) -> Command {
    Command::TookKit { friend: home(friend), key: PublicKey([n; 32]) }
}

fn claim(n: u8, word: &str) -> KitClaim {
    KitClaim { key: PublicKey([n; 32]), transport: PublicKey([n + 100; 32]), words: words(word), heard_ms: 0 }
}

fn hear(claim: KitClaim) -> Command {
    Command::HearKit { home: home("alice"), claim }
}

fn confirm(word: &str) -> Command {
    Command::ConfirmKit { home: home("alice"), words: words(word) }
}

/// A home with a kit, and alice and carol as friends.
fn with_friends() -> State {
    let mut state = joined(1);
    done(&mut state, set(1));
    for (n, name) in [(30, "alice"), (40, "carol")] {
        let identity = FriendIdentity {
            key: PublicKey([n; 32]),
            transport: PublicKey([n + 100; 32]),
            generation: 1,
            addresses: vec!["friend.example".into()],
        };
        done(&mut state, Command::MeetFriend { home: home(name), identity, words: words(name) });
        done(&mut state, Command::ConfirmFriend { home: home(name), words: words(name) });
    }
    state
}

fn told(state: &State) -> &str {
    let last = state.events.back().unwrap();
    assert_eq!(last.weight, Weight::Mail);
    &last.text
}

#[test]
fn the_kit_before_stays_until_the_last_friend_has_taken_the_new_one() {
    let mut state = with_friends();
    done(&mut state, replace(1, 2, &["alice", "carol"]));
    assert!(told(&state).contains("still opens what lies at alice, carol"), "{}", told(&state));
    assert_eq!(
        (state.kit.as_ref().unwrap().key, state.secrets[KIT_SECRET].bytes[0]),
        (PublicKey([2; 32]), 2)
    );
    assert_eq!(state.secrets[KIT_BEFORE_SECRET].bytes, [99]);
    refused(&mut state, replace(2, 3, &["alice", "carol"]), "alice, carol must confirm that first");
    refused(&mut state, took("alice", 1), "no such kit");
    refused(
        &mut state,
        Command::AnnouncedKit { friend: home("alice"), key: PublicKey([1; 32]) },
        "no such kit",
    );
    let announced = Command::AnnouncedKit { friend: home("alice"), key: PublicKey([2; 32]) };
    done(&mut state, announced.clone());
    let waits = &state.kit_change.as_ref().unwrap().waiting;
    assert_eq!((waits[&home("alice")].announced_ms, waits[&home("carol")].announced_ms), (Some(50), None));
    done(&mut state, took("alice", 2));
    assert!(!state.holds_to_kit_before(&home("alice")) && state.holds_to_kit_before(&home("carol")));
    refused(&mut state, announced, "no such kit");
    refused(&mut state, took("alice", 2), "no such kit");
    done(&mut state, took("carol", 2));
    assert!(state.kit_change.is_none() && !state.secrets.contains_key(KIT_BEFORE_SECRET));
    assert!(told(&state).contains("destroy it"), "{}", told(&state));
    done(&mut state, replace(2, 3, &["alice", "carol"]));
}

#[test]
fn a_friend_that_is_removed_holds_to_no_kit() {
    let mut state = with_friends();
    done(&mut state, replace(1, 2, &["alice", "carol"]));
    done(&mut state, took("alice", 2));
    done(&mut state, Command::RemoveFriend { home: home("carol"), delete_data: false });
    assert!(state.kit_change.is_none() && !state.secrets.contains_key(KIT_BEFORE_SECRET));
}

#[test]
fn a_kit_without_friends_is_replaced_at_once() {
    let mut state = joined(1);
    refused(&mut state, replace(1, 2, &[]), "`thermidor kit print` makes one");
    done(&mut state, set(1));
    done(&mut state, replace(1, 2, &[]));
    assert!(state.kit_change.is_none() && !state.secrets.contains_key(KIT_BEFORE_SECRET));
    assert_eq!(state.kit.as_ref().unwrap().made_ms, 2);
}

#[test]
fn a_replacement_names_what_it_was_computed_from() {
    let mut state = with_friends();
    refused(&mut state, replace(9, 2, &["alice", "carol"]), "another kit by now");
    refused(&mut state, replace(1, 1, &["alice", "carol"]), "the kit which the home has");
    refused(&mut state, replace(1, 2, &["alice"]), "come or gone");
    let mut older = replace(1, 2, &["alice", "carol"]);
    let Command::ReplaceKit { before, .. } = &mut older else { unreachable!() };
    before.key = 7;
    refused(&mut state, older, "home key has been changed");
    let person = Command::SetSecret { name: KIT_BEFORE_SECRET.into(), sealed: Some(sealed(1)) };
    refused(&mut state, person, "recovery kit");
    done(&mut state, replace(1, 2, &["alice", "carol"]));
    let again = Command::SetKit { was: Some(PublicKey([2; 32])), record: record(3), sealed: sealed(3) };
    refused(&mut state, again, "being replaced");
    let mut elsewhere = with_friends();
    let (generation, from) = (2, home("alice"));
    done(&mut elsewhere, Command::StandDown { generation, since_ms: 1, from });
    refused(&mut elsewhere, replace(1, 2, &["alice", "carol"]), "recovered elsewhere");
}

#[test]
fn who_holds_to_the_kit_before_is_left_nothing_of_the_new_one() {
    let mut state = with_friends();
    let before = state.clone();
    done(&mut state, replace(1, 2, &["alice", "carol"]));
    let left = state.with_kit_before(sealed(1));
    assert_eq!((&left.kit, &left.secrets, &left.kit_change), (&before.kit, &before.secrets, &None));
    assert_eq!(left.check(), Vec::<String>::new());
    assert_eq!(before.with_kit_before(sealed(5)), before, "no kit is being replaced");
}

#[test]
fn a_friends_new_kit_is_told_and_nothing_changes_before_a_person_confirms_it() {
    let mut state = with_friends();
    let known = state.friends[&home("alice")].identity.clone();
    for _ in 0..2 {
        done(&mut state, hear(claim(31, "new")));
    }
    let alice = &state.friends[&home("alice")];
    assert_eq!((&alice.identity, alice.kit_claims.len(), alice.kit_claims[0].heard_ms), (&known, 1, 50));
    assert!(told(&state).contains("new0 new1 new2 new3"), "{}", told(&state));
    refused(&mut state, confirm("other"), "no kit with those words");
    done(&mut state, confirm("new"));
    let alice = &state.friends[&home("alice")];
    assert_eq!((alice.identity.key, alice.identity.transport), (PublicKey([31; 32]), PublicKey([131; 32])));
    assert!(alice.kit_claims.is_empty() && alice.is_confirmed());
    // What was on its way still says it once more.
    done(&mut state, hear(claim(31, "new")));
    assert!(state.friends[&home("alice")].kit_claims.is_empty());
    let nobody = Command::HearKit { home: home("dave"), claim: claim(31, "new") };
    refused(&mut state, nobody, "thermidor friend ls");
    refused(
        &mut state,
        Command::ConfirmKit { home: home("dave"), words: words("new") },
        "thermidor friend ls",
    );
}

#[test]
fn a_second_kit_that_says_otherwise_is_told_and_replaces_none() {
    let mut state = with_friends();
    done(&mut state, hear(claim(31, "first")));
    done(&mut state, hear(claim(32, "second")));
    assert!(told(&state).contains("found the old paper") && told(&state).contains("second0"));
    assert_eq!(state.friends[&home("alice")].kit_claims.len(), 2);
    done(&mut state, hear(claim(33, "second")));
    refused(&mut state, confirm("second"), "pair anew");
    done(&mut state, hear(claim(34, "fourth")));
    assert_eq!(state.friends[&home("alice")].kit_claims.len(), KIT_CLAIMS_MAX);
    refused(&mut state, hear(claim(35, "fifth")), "more than 4");
    done(&mut state, confirm("first"));
    assert_eq!(state.friends[&home("alice")].identity.key, PublicKey([31; 32]));
    // One that takes another friend's place is refused.
    done(&mut state, hear(claim(40, "carols")));
    refused(&mut state, confirm("carols"), "shows the key of carol");
}

#[test]
fn a_home_of_an_earlier_program_knows_no_such_thing() {
    let state = with_friends();
    let json = serde_json::to_value(&state).unwrap();
    assert!(json.get("kit_change").is_none() && json["friends"]["alice"].get("kit_claims").is_none());
    assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
}
