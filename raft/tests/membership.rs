//! Who belongs and who votes: tokens, witnesses, shrinking and growing, leaving, being away, rescue.

mod harness;

use harness::*;
use openraft::storage::RaftLogStorage;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use thermidor_model::state::Role;
use thermidor_model::{Command, Outcome};
use thermidor_raft::log_store::LogStore;
use thermidor_raft::{
    CallError, InitOptions, JoinError, MembershipError, Node, ProposeError, RescueError, RescueOptions,
    Reserve, init, rescue,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_machine_in_once() {
    let home = found(None).await;
    let token = home.node.invite(Duration::from_secs(600)).await.unwrap();
    let (dir, _) = try_join(&token.text(), "bureau", false).await.unwrap();

    let reused = try_join(&token.text(), "chambre", false).await.unwrap_err();
    assert!(matches!(&reused, JoinError::Refused(why) if why.contains("used")), "{reused}");

    let short = home.node.invite(Duration::from_millis(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let expired = try_join(&short.text(), "chambre", false).await.unwrap_err();
    assert!(matches!(&expired, JoinError::Refused(why) if why.contains("expired")), "{expired}");

    // A secret made up, under the right fingerprint.
    let forged = home.node.invite(Duration::from_secs(600)).await.unwrap().text();
    let fields: Vec<&str> = forged.split('/').collect();
    let body = format!("{}/{}/{}/{}/{}", fields[0], fields[1], fields[2], "0".repeat(40), fields[4]);
    let check = blake3::hash(body.as_bytes()).to_hex()[..8].to_string();
    let error = try_join(&format!("{body}/{check}"), "chambre", false).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("not known")), "{error}");

    // A token of another home, with our address in it.
    let elsewhere = found(None).await;
    let other = elsewhere.node.invite(Duration::from_secs(600)).await.unwrap().text();
    let fields: Vec<&str> = other.split('/').collect();
    let body = format!("{}/{}/{}/{}/{}", fields[0], fields[1], fields[2], fields[3], home.node.address());
    let check = blake3::hash(body.as_bytes()).to_hex()[..8].to_string();
    let error = try_join(&format!("{body}/{check}"), "chambre", false).await.unwrap_err();
    assert!(error.to_string().contains("not the home"), "{error}");

    let token = home.node.invite(Duration::from_secs(600)).await.unwrap().text();
    assert!(matches!(try_join(&token[1..], "chambre", false).await, Err(JoinError::Token(_))));
    // A directory that belongs to a member is left alone.
    let again = thermidor_raft::JoinOptions {
        data: dir.path().join("data"),
        token,
        name: name("chambre"),
        listen: any(),
        advertise: None,
        witness: false,
    };
    assert!(matches!(thermidor_raft::join(&again).await, Err(JoinError::Already(_))));
    let options = InitOptions {
        data: home.data(),
        home: state(&home.node).home.clone().unwrap(),
        radiator: name("autre"),
        listen: any(),
        advertise: None,
        timing: timing(),
    };
    assert!(init(&options).is_err());
    assert_eq!(state(&home.node).members.len(), 2, "only bureau came in");
    home.node.shutdown().await;
    elsewhere.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_join_is_repeated_with_a_new_token() {
    let home = found(None).await;
    let token = home.node.invite(Duration::from_secs(600)).await.unwrap();
    let (dir, first) = try_join(&token.text(), "bureau", false).await.unwrap();
    // It crashes before it has stored anything.
    drop(dir);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let machine = add(&home.node, "bureau", false, None).await;
    assert!(machine.node.id() > first, "numbers are never given out twice");
    let state_now = state(&home.node);
    assert!(!state_now.members.contains_key(&first) && state_now.members.contains_key(&machine.node.id()));
    done(&machine.node, tell("here")).await;

    // One that lives is not put out by a newcomer of the same name.
    let token = home.node.invite(Duration::from_secs(600)).await.unwrap();
    let error = try_join(&token.text(), "bureau", false).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("named bureau already")), "{error}");
    shut_all(vec![machine, home]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_votes_and_holds_no_keys() {
    let home = found(None).await;
    let bureau = add(&home.node, "bureau", false, None).await;
    let witness = add(&home.node, "temoin", true, None).await;
    home.node.set_voters([1, 2, 3].into(), deadline()).await.unwrap();
    assert!(witness.node.identity().home_key.is_none() && !witness.node.identity().may_issue());
    assert!(witness.node.identity().authority().is_err());
    for file in ["home.key", "authority.key"] {
        assert!(!witness.data().join("identity").join(file).exists());
        assert!(bureau.data().join("identity").join(file).exists());
    }
    let sealed = home.node.identity().home_key.as_ref().unwrap().seal("a", b"b").unwrap();
    let opened = bureau.node.identity().home_key.as_ref().unwrap().open("a", &sealed).unwrap();
    assert_eq!(opened.as_slice(), b"b");
    // Its vote carries the home after the leader went.
    eventually("its state is here", || state(&witness.node).members.len() == 3).await;
    assert_eq!(state(&witness.node).members[&3].role, Role::Witness);
    home.node.shutdown().await;
    let new = leader(&[&bureau.node, &witness.node]).await;
    done(new, tell("with the witness")).await;
    // The witness may lead; an invitation then names radiators.
    let token = witness.node.invite(Duration::from_secs(600)).await.unwrap();
    assert!(!token.addresses.contains(&witness.node.address()));
    shut_all(vec![bureau, witness]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_shrinks_to_one_and_grows_back_serving_all_the_while() {
    let mut machines = three(None).await;
    let first = machines[0].node.clone();
    if !first.leadership().borrow().is_me {
        let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
        leader(&nodes).await.transfer_leader(1, deadline()).await.unwrap();
        eventually("salon leads", || first.leadership().borrow().is_me).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let writer = {
        let (node, stop, served) = (first.clone(), stop.clone(), served.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let outcome = node.propose(tell("serving"), deadline()).await;
                assert!(outcome.is_ok(), "{outcome:?}");
                served.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    assert_eq!(first.set_voters([1, 2].into(), deadline()).await, Err(MembershipError::Pair));
    assert_eq!(first.set_voters([].into(), deadline()).await, Err(MembershipError::Nobody));
    assert_eq!(first.set_voters([1, 2, 9].into(), deadline()).await, Err(MembershipError::NoMember(9)));
    // 3 -> 1 voter; one machine goes, the other too.
    first.set_voters([1].into(), deadline()).await.unwrap();
    let third = machines.pop().unwrap();
    let second = machines.pop().unwrap();
    third.node.shutdown().await;
    let before = served.load(Ordering::Relaxed);
    eventually("served with two", || served.load(Ordering::Relaxed) > before + 10).await;
    second.node.shutdown().await;
    let before = served.load(Ordering::Relaxed);
    eventually("served alone", || served.load(Ordering::Relaxed) > before + 10).await;
    // Who was heard a moment ago counts as present.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let soon = tokio::time::Instant::now() + Duration::from_secs(1);
    let absent = first.set_voters([1, 2, 3].into(), soon).await;
    let away = matches!(absent, Err(MembershipError::Behind(_) | MembershipError::Late));
    assert!(away, "who is away can't vote: {absent:?}");
    assert_eq!(first.leadership().borrow().voters, [1].into());

    let second = start_at(second.dir.path().join("data"), second.node.address(), None).await;
    let third = start_at(third.dir.path().join("data"), third.node.address(), None).await;
    first.set_voters([1, 2, 3].into(), deadline()).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    eventually("three vote", || third.leadership().borrow().voters.len() == 3).await;
    same_states(&[&first, &second, &third]).await;
    for node in [first, second, third] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_vote_moves_to_the_other_radiator() {
    let home = found(None).await;
    let bureau = add(&home.node, "bureau", false, None).await;
    home.node.set_voters([2].into(), deadline()).await.unwrap();
    eventually("bureau leads", || bureau.node.leadership().borrow().is_me).await;
    // What was under way when the vote moved may be unknown, and then it is said so.
    let mut through = home.node.propose(tell("through the new leader"), deadline()).await;
    if matches!(through, Err(ProposeError::Unknown(_))) {
        through = home.node.propose(tell("through the new leader"), deadline()).await;
    }
    assert_eq!(through, Ok(Outcome::Done));
    home.node.shutdown().await;
    done(&bureau.node, tell("alone")).await;
    bureau.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_is_refused_and_knows_it() {
    let mut machines = three(None).await;
    let fourth = add(&machines[0].node, "cuisine", false, None).await;
    machines.push(fourth);
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let lead = leader(&nodes[..3]).await;
    done(&machines[3].node, tell("while it belongs")).await;
    assert!(matches!(lead.leave(4, [1, 2, 4].into(), deadline()).await, Err(MembershipError::Refused(_))));
    lead.leave(4, [1, 2, 3].into(), deadline()).await.unwrap();
    let gone = &machines[3].node;
    eventually("it is out of the state", || !state(lead).members.contains_key(&4)).await;
    let call = gone.call(lead.id(), "echo", "x".into(), Duration::from_secs(5)).await;
    assert!(matches!(call, Err(CallError::Failed(_))), "{call:?}");
    eventually("it knows", || gone.standing().borrow().expelled).await;
    assert!(gone.propose(tell("from outside"), deadline()).await.is_err());
    assert!(!told(&state(lead)).contains("from outside"));
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_receives_a_snapshot() {
    let mut machines = three(Some(50)).await;
    let away = machines.pop().unwrap();
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let address = away.node.address();
    away.node.shutdown().await;
    let lead = leader(&nodes).await;
    let long = "a sentence that makes the state larger than one piece ".repeat(60);
    for round in 0..400 {
        done(lead, tell(format!("{round} {long}"))).await;
    }
    let back = start_at(away.dir.path().join("data"), address, Some(50)).await;
    let mut all = nodes.clone();
    all.push(&back);
    same_states(&all).await;
    // Its log begins behind what the snapshot holds; and it comes back from that snapshot.
    back.shutdown().await;
    let data = away.dir.path().join("data");
    let log = LogStore::open(&data.join("raft/log.redb"), &Reserve::open(&data).unwrap()).unwrap();
    let cut = log.clone().get_log_state().await.unwrap().last_purged_log_id;
    assert!(cut.is_some_and(|id| id.index() > 300), "{cut:?}");
    log.close();
    let back = start_at(away.dir.path().join("data"), address, Some(50)).await;
    eventually("as before", || state(&back) == state(lead)).await;
    back.shutdown().await;
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescued_radiator_is_the_home_and_the_old_ones_hear_of_it() {
    let machines = three(None).await;
    done(&machines[0].node, tell("before")).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    same_states(&nodes).await;
    let addresses: Vec<_> = machines.iter().map(|m| m.node.address()).collect();
    let dirs: Vec<_> = {
        let mut dirs = Vec::new();
        for machine in machines {
            machine.node.shutdown().await;
            dirs.push(machine.dir);
        }
        dirs
    };
    let data = dirs[2].path().join("data");
    let unconfirmed = rescue(&RescueOptions { data: data.clone(), confirmed: false }).await.unwrap_err();
    assert!(matches!(&unconfirmed, RescueError::Unconfirmed(who) if who.contains("salon")), "{unconfirmed}");
    let report = rescue(&RescueOptions { data: data.clone(), confirmed: true }).await.unwrap();
    assert_eq!(report.generation, 2);
    assert_eq!(report.gone, ["salon", "bureau"]);

    let rescued = start_at(data.clone(), addresses[2], None).await;
    done(&rescued, tell("after")).await;
    assert_eq!(rescued.identity().generation, 2);
    let told_all = told(&state(&rescued));
    assert!(told_all.is_superset(&BTreeSet::from(["before".to_string(), "after".to_string()])));
    assert_eq!(state(&rescued).members.len(), 1);

    // One of the old ones was not unplugged: it hears of it and is not listened to.
    let old = start_at(dirs[0].path().join("data"), addresses[0], None).await;
    let call = old.call(3, "echo", "x".into(), Duration::from_secs(5)).await;
    assert!(call.is_err());
    eventually("it hears the higher generation", || old.standing().borrow().heard_generation == 2).await;
    old.shutdown().await;
    // A machine joins the rescued home, and it restarts.
    let new = add(&rescued, "entree", false, None).await;
    assert_eq!(new.node.identity().generation, 2);
    done(&new.node, tell("grown")).await;
    rescued.shutdown().await;
    let rescued = start_at(data, addresses[2], None).await;
    eventually("all of it", || told(&state(&rescued)).contains("grown")).await;
    rescued.shutdown().await;
    new.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_commands_change_nothing() {
    let home = found(None).await;
    let before = state(&home.node);
    let outcome = home.node.propose(Command::Leave { node: 1 }, deadline()).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused(_)));
    assert_eq!(state(&home.node), before);
    home.node.shutdown().await;
}
