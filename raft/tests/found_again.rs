//! A home whose every disk is gone comes back from its export; the old members, should they not be gone, hear of it.

mod harness;

use harness::*;
use std::time::Duration;
use thermidor_model::state::{Sealed, State};
use thermidor_model::{Command, Outcome};
use thermidor_raft::{IdentityError, KeptKeys, RecoverError, RecoverOptions, found_again};

struct Exported {
    state: State,
    keys: KeptKeys,
}

/// A home of three with a secret, as its export has it, and its machines.
async fn exported() -> (Exported, Vec<Machine>) {
    let machines = three(None).await;
    let home = &machines[0].node;
    let sealed = home.identity().seal(0, "mail/marie", b"hunter2").unwrap();
    done(home, Command::SetSecret { name: "mail/marie".into(), sealed: Some(sealed) }).await;
    done(home, tell("before the fire")).await;
    eventually("all members' keys are known", || state(home).keys.members.len() == 3).await;
    let state = (*state(home)).clone();
    let keys = home.identity().keep(&state).unwrap();
    (Exported { state, keys }, machines)
}

fn options(exported: &Exported, data: std::path::PathBuf, address: std::net::SocketAddr) -> RecoverOptions {
    let Exported { state, keys } = exported;
    RecoverOptions { data, state: state.clone(), keys: keys.clone(), radiator: name("neuf"), address }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_machine_becomes_the_home_and_the_old_ones_hear_of_it() {
    let (exported, machines) = exported().await;
    let addresses: Vec<_> = machines.iter().map(|m| m.node.address()).collect();
    let mut dirs = Vec::new();
    for machine in machines {
        machine.node.shutdown().await;
        dirs.push(machine.dir);
    }
    // The new machine has the address of one that burnt.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let begins = found_again(options(&exported, data.clone(), addresses[2])).await.unwrap();
    assert_eq!(begins.generation, 2);
    let again = found_again(options(&exported, data.clone(), addresses[2])).await;
    assert!(matches!(again, Err(RecoverError::Already(_))));

    let recovered = start_at(data.clone(), addresses[2], None).await;
    done(&recovered, tell("after the fire")).await;
    let now = state(&recovered);
    assert_eq!(now.check(), Vec::<String>::new());
    assert_eq!((now.generation, now.members.len()), (2, 1));
    assert_eq!(recovered.identity().generation, 2);
    assert!(told(&now).contains("before the fire") && told(&now).contains("after the fire"));
    let opened = recovered.identity().open("mail/marie", &now.secrets["mail/marie"]).unwrap();
    assert_eq!(opened.as_slice(), b"hunter2");

    // One of the old ones was not unplugged, and looks for the member that had this address.
    let old = start_at(dirs[0].path().join("data"), addresses[0], None).await;
    let call = old.call(3, "echo", "x".into(), Duration::from_secs(5)).await;
    assert!(call.is_err(), "{call:?}");
    eventually("it hears the higher generation", || old.standing().borrow().heard_generation == 2).await;
    old.shutdown().await;

    // A machine joins, and the recovered one restarts from its disk.
    let new = add(&recovered, "entree", false, None).await;
    assert!(new.node.id() > recovered.id());
    done(&new.node, tell("grown")).await;
    recovered.shutdown().await;
    let recovered = start_at(data, addresses[2], None).await;
    eventually("all of it", || told(&state(&recovered)).contains("grown")).await;
    // And it can be exported and recovered again.
    let keys = recovered.identity().keep(&state(&recovered)).unwrap();
    let exported = Exported { state: (*state(&recovered)).clone(), keys };
    let other = dir.path().join("other");
    assert_eq!(found_again(options(&exported, other, addresses[0])).await.unwrap().generation, 3);
    recovered.shutdown().await;
    new.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_added_after_the_export_hears_of_it_too() {
    let (exported, mut machines) = exported().await;
    let late = add(&machines[0].node, "cuisine", false, None).await;
    let home = machines[0].node.clone();
    eventually("its key is known", || state(&home).keys.members.contains_key(&late.node.id())).await;
    eventually("it knows all of it", || state(&late.node) == state(&home)).await;
    let (gone, stays) = (machines.remove(1), machines);
    let address = gone.node.address();
    gone.node.shutdown().await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    found_again(options(&exported, data.clone(), address)).await.unwrap();
    let recovered = start_at(data, address, None).await;
    // Whoever leads looks for the member that was there; so does each that leads next.
    for old in stays.iter().chain([&late]) {
        let call = old.node.call(2, "echo", "x".into(), Duration::from_secs(5)).await;
        assert!(call.is_err(), "{call:?}");
        eventually("it hears", || old.node.standing().borrow().heard_generation == 2).await;
    }
    recovered.shutdown().await;
    late.node.shutdown().await;
    shut_all(stays).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_the_homes_found_nothing() {
    let (exported, machines) = exported().await;
    shut_all(machines).await;
    let elsewhere = found(None).await;
    let theirs = elsewhere.node.identity().keep(&state(&elsewhere.node)).unwrap();
    elsewhere.node.shutdown().await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let refused = async |change: &dyn Fn(&mut RecoverOptions)| {
        let mut options = options(&exported, data.clone(), "127.0.0.1:7470".parse().unwrap());
        change(&mut options);
        let refused = found_again(options).await.unwrap_err();
        assert!(!data.join("identity").exists(), "{refused}");
        refused
    };
    let error = refused(&|o| o.keys = theirs.clone()).await;
    assert!(matches!(&error, RecoverError::Identity(IdentityError::Damaged("authority.key", _))), "{error}");
    let error = refused(&|o| o.keys.home_keys.clear()).await;
    assert!(matches!(&error, RecoverError::Identity(IdentityError::NotYet(0))), "{error}");
    // A secret under a key that the export does not have.
    let error = refused(&|o| {
        o.state.keys.number = 1;
        o.state.secrets.insert("x".into(), Sealed { nonce: [0; 12], bytes: vec![], key: 1 });
    })
    .await;
    assert!(matches!(&error, RecoverError::Identity(IdentityError::NotYet(1))), "{error}");
    let error = refused(&|o| o.address = "0.0.0.0:7470".parse().unwrap()).await;
    assert!(matches!(error, RecoverError::Address), "{error}");
    let error = refused(&|o| o.state.home = None).await;
    assert!(matches!(error, RecoverError::NoHome), "{error}");
    // What an interrupted one left is no hindrance.
    std::fs::create_dir_all(data.join("raft")).unwrap();
    std::fs::write(data.join("raft/log.redb"), "half").unwrap();
    let options = options(&exported, data.clone(), any_port());
    found_again(options).await.unwrap();
    let node = start(data, None).await;
    assert_eq!(done(&node, tell("here")).await, Outcome::Done);
    node.shutdown().await;
}

fn any_port() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}
