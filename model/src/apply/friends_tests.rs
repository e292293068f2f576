//! Who is a friend, and from when on; whose word about a backup counts.

use crate::backup::{Failure, Passes, Record, Subject};
use crate::friends::{FriendIdentity, KIT_SECRET, KitRecord, KitSplit, PairingInvitation, PublicKey};
use crate::name::HomeName;
use crate::state::{Sealed, State, Weight};
use crate::testing::{joined, mail};
use crate::{Command, Outcome, Proposal};

fn home(name: &str) -> HomeName {
    HomeName::new(name).unwrap()
}

fn sealed() -> Sealed {
    Sealed { nonce: [0; 12], bytes: vec![1], key: 0 }
}

fn identity(n: u8) -> FriendIdentity {
    FriendIdentity {
        key: PublicKey([n; 32]),
        transport: PublicKey([n + 100; 32]),
        generation: 1,
        addresses: vec!["alice.example:7746".into()],
    }
}

fn words() -> [String; 4] {
    ["one", "two", "three", "four"].map(String::from)
}

fn apply(state: &mut State, at_ms: u64, command: Command) -> Outcome {
    let before = state.clone();
    let outcome = state.apply(&Proposal { at_ms, command });
    if matches!(outcome, Outcome::Refused(_)) {
        assert_eq!(before, *state, "a refusal changed something");
    }
    assert_eq!(state.check(), Vec::<String>::new());
    outcome
}

fn done(state: &mut State, command: Command) {
    assert_eq!(apply(state, 1000, command), Outcome::Done);
}

fn refused(state: &mut State, at_ms: u64, command: Command, because: &str) {
    match apply(state, at_ms, command) {
        Outcome::Refused(why) => assert!(why.to_string().contains(because), "{why}"),
        other => panic!("{other:?} instead of a refusal: {because}"),
    }
}

fn meet(name: &str, n: u8) -> Command {
    Command::MeetFriend { home: home(name), identity: identity(n), words: words() }
}

fn with_alice() -> State {
    let mut state = joined(1);
    done(&mut state, meet("alice", 1));
    done(&mut state, Command::ConfirmFriend { home: home("alice"), words: words() });
    state
}

#[test]
fn a_code_is_good_for_one_guess_in_time_and_a_new_one_voids_it() {
    let mut state = joined(1);
    let invite = |id| Command::InviteFriend {
        invitation: PairingInvitation { id, sealed: sealed(), expires_ms: 2000, burnt: false },
    };
    refused(&mut state, 2000, invite(7), "ended already");
    done(&mut state, invite(7));
    refused(&mut state, 2000, Command::BurnPairing { id: 7 }, "too old");
    done(&mut state, invite(8));
    refused(&mut state, 1000, Command::BurnPairing { id: 7 }, "void");
    done(&mut state, Command::BurnPairing { id: 8 });
    refused(&mut state, 1000, Command::BurnPairing { id: 8 }, "used");
}

#[test]
fn a_friend_counts_once_the_words_it_has_now_were_compared() {
    let mut state = joined(1);
    refused(&mut state, 1, meet("maison", 1), "both homes are called maison");
    done(&mut state, meet("alice", 1));
    assert!(!state.friends[&home("alice")].is_confirmed());
    let others = ["a", "b", "c", "d"].map(String::from);
    refused(&mut state, 1, Command::ConfirmFriend { home: home("alice"), words: others }, "other words");
    done(&mut state, Command::ConfirmFriend { home: home("alice"), words: words() });
    assert!(state.friends[&home("alice")].is_confirmed());
    refused(&mut state, 1, meet("alice", 2), "with another key");
    refused(&mut state, 1, meet("carol", 1), "shows the key of alice");
    // Pairing anew with the same keys, for a new address: to be compared again.
    done(&mut state, meet("alice", 1));
    assert!(!state.friends[&home("alice")].is_confirmed());
}

#[test]
fn who_is_removed_takes_its_records_along_and_may_come_back_with_other_keys() {
    let mut state = with_alice();
    let record = Record { made: Some(5), ..Record::default() };
    done(&mut state, note(&Record::default(), &record));
    done(&mut state, remove("alice", false));
    assert!(state.friends.is_empty() && state.backups.is_empty() && state.parted.is_empty());
    refused(&mut state, 1, remove("alice", false), "thermidor friend ls");
    done(&mut state, meet("alice", 2));
}

fn remove(name: &str, delete_data: bool) -> Command {
    Command::RemoveFriend { home: home(name), delete_data }
}

#[test]
fn what_a_removed_friend_kept_is_deleted_by_order_unless_it_is_a_friend_again() {
    let mut state = with_alice();
    done(&mut state, remove("alice", true));
    assert!(state.friends.is_empty() && state.parted.contains_key(&home("alice")));
    let told =
        |state: &State| state.events.iter().filter(|e| e.text.contains("kept here is deleted")).count();
    assert_eq!(told(&state), 1);
    done(&mut state, remove("alice", true));
    assert_eq!(told(&state), 1, "said once");
    // Met and not yet compared: the order stands.
    done(&mut state, meet("alice", 1));
    assert!(state.parted.contains_key(&home("alice")));
    done(&mut state, Command::ConfirmFriend { home: home("alice"), words: words() });
    assert!(state.parted.is_empty());
    // One that was removed before anybody could say it.
    done(&mut state, remove("alice", false));
    done(&mut state, remove("alice", true));
    assert!(state.parted.contains_key(&home("alice")));
    let earlier = serde_json::json!({ "RemoveFriend": { "home": "alice" } });
    assert_eq!(serde_json::from_value::<Command>(earlier).unwrap(), remove("alice", false));
}

#[test]
fn a_higher_generation_is_told_once_and_believed_when_a_person_says_so() {
    let mut state = with_alice();
    let mails = |state: &State| state.events.iter().filter(|e| e.weight == Weight::Mail).count();
    let before = mails(&state);
    for _ in 0..2 {
        done(&mut state, Command::HearGeneration { home: home("alice"), generation: 3 });
    }
    assert_eq!(mails(&state), before + 1);
    assert_eq!(state.friends[&home("alice")].identity.generation, 1);
    refused(&mut state, 1, Command::ConfirmGeneration { home: home("alice"), generation: 4 }, "does not say");
    done(&mut state, Command::ConfirmGeneration { home: home("alice"), generation: 3 });
    let alice = &state.friends[&home("alice")];
    assert_eq!((alice.identity.generation, alice.claims), (3, None));
}

fn note(was: &Record, record: &Record) -> Command {
    let (was, record) = (Box::new(was.clone()), Box::new(record.clone()));
    Command::NoteBackup { subject: Subject::Service(mail()), friend: home("alice"), was, record }
}

#[test]
fn a_note_on_a_backup_names_what_it_was_computed_from() {
    let mut state = with_alice();
    let first = Record { made: Some(5), ..Record::default() };
    done(&mut state, note(&Record::default(), &first));
    refused(&mut state, 1, note(&Record::default(), &first), "meanwhile");
    let failure = Failure::next(None, 9, Passes::ByAPerson, "the vault is full".into());
    let failed = Record { failure: Some(failure), ..first.clone() };
    done(&mut state, note(&first, &failed));
    assert!(state.events.back().unwrap().text.ends_with("fails: the vault is full"));
    done(&mut state, note(&failed, &first));
    assert!(state.events.back().unwrap().text.ends_with("goes well again"));
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
}

#[test]
fn a_kit_is_set_once_and_no_person_sets_its_secret() {
    let mut state = joined(1);
    let record = |n| KitRecord {
        made_ms: 1,
        printed_ms: None,
        rehearsed_ms: None,
        key: PublicKey([n; 32]),
        split: None,
    };
    let note = |printed_ms, split| Command::NoteKit { printed_ms, rehearsed_ms: None, split };
    let set = |was: Option<u8>, n| Command::SetKit {
        was: was.map(|n| PublicKey([n; 32])),
        record: record(n),
        sealed: sealed(),
    };
    refused(&mut state, 1, note(Some(1), None), "no kit");
    done(&mut state, set(None, 1));
    refused(&mut state, 1, set(None, 2), "another kit");
    let person = Command::SetSecret { name: KIT_SECRET.into(), sealed: None };
    refused(&mut state, 1, person, "recovery kit");
    let split = |at_ms, of| KitSplit { at_ms, needed: 2, of };
    done(&mut state, note(Some(50), Some(split(60, 3))));
    done(&mut state, note(None, None));
    done(&mut state, note(Some(40), Some(split(55, 4))));
    let kit = state.kit.as_ref().unwrap();
    assert_eq!((kit.printed_ms, kit.split), (Some(50), Some(split(60, 3))), "the last of each");
    done(&mut state, set(Some(1), 2));
    assert!(state.events.back().unwrap().text.contains("friends must be paired anew"));
    assert_eq!(state.kit.as_ref().unwrap().split, None, "shares of the kit before are void with it");
    let earlier =
        serde_json::json!({ "made_ms": 1, "printed_ms": null, "rehearsed_ms": null, "key": vec![1; 32] });
    assert_eq!(
        serde_json::from_value::<KitRecord>(earlier).unwrap(),
        record(1),
        "of a program before splits"
    );
}
