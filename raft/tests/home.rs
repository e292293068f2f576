//! A home forms, agrees, restarts and survives its leader.

mod harness;

use harness::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thermidor_model::Outcome;
use thermidor_model::timing::Timing;
use thermidor_raft::{MembershipError, Node, ProposeError};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agree_and_come_back_from_disk_bit_for_bit() {
    let machines = three(None).await;
    for (number, machine) in machines.iter().enumerate() {
        for round in 0..5 {
            done(&machine.node, tell(format!("{number}/{round}"))).await;
        }
    }
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    same_states(&nodes).await;
    let before = state(&machines[0].node);
    assert_eq!(told(&before).len(), 15);

    // All of them go at once and come back.
    let mut down = Vec::new();
    for machine in machines {
        let address = machine.node.address();
        machine.node.shutdown().await;
        down.push((machine.dir, address));
    }
    let mut back = Vec::new();
    for (dir, address) in down {
        let node = start_at(dir.path().join("data"), address, None).await;
        back.push(Machine { dir, node });
    }
    let nodes: Vec<&Node> = back.iter().map(|m| &m.node).collect();
    done(leader(&nodes).await, tell("again")).await;
    same_states(&nodes).await;
    let after = state(&back[0].node);
    assert!(told(&after).is_superset(&told(&before)) && told(&after).contains("again"));
    shut_all(back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_dies_and_nothing_acknowledged_is_lost() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await;
    let stop = Arc::new(AtomicBool::new(false));
    let survivors: Vec<Node> = nodes.iter().filter(|n| n.id() != old.id()).map(|n| (*n).clone()).collect();
    let writers: Vec<_> = survivors
        .iter()
        .map(|node| {
            let (node, stop) = (node.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut acknowledged, mut unknown) = (BTreeSet::new(), 0);
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let text = format!("{}/{round}", node.id());
                    match node.propose(tell(text.clone()), deadline()).await {
                        Ok(_) => {
                            acknowledged.insert(text);
                        }
                        Err(ProposeError::Unknown(_)) => unknown += 1,
                        Err(e) => panic!("{e}"),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (acknowledged, unknown)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let died = old.id();
    old.shutdown().await;
    let rest: Vec<&Node> = survivors.iter().collect();
    let new = leader(&rest).await;
    assert_ne!(new.id(), died);
    done(new, tell("after")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::from(["after".to_string()]);
    let mut unknown = 0;
    for writer in writers {
        let (texts, lost) = writer.await.unwrap();
        acknowledged.extend(texts);
        unknown += lost;
    }
    // A writer waits for each answer: at most one command of each was under way.
    assert!(unknown <= 2, "{unknown}");
    same_states(&rest).await;
    let there = told(&state(new));
    // Only the last 500 events are kept: compare those of the time around the death.
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert!(lost.is_empty() || there.len() >= 490, "{lost:?}");
    let leadership = new.leadership().borrow().clone();
    assert!(leadership.is_me && leadership.since_boottime_ns > 0 && leadership.leader == Some(new.id()));
    for node in survivors {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_dies_under_orders_and_each_is_carried_out_once() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await;
    let survivors: Vec<&Node> = nodes.iter().copied().filter(|n| n.id() != old.id()).collect();
    // Many at once: some are under way when the leader dies.
    let people = survivors.iter().flat_map(|node| (0..8).map(|person| ((*node).clone(), person)));
    let people: Vec<_> = people
        .map(|(node, person)| {
            tokio::spawn(async move {
                for round in 0..8 {
                    let order = tell(format!("{}/{person}/{round}", node.id()));
                    node.propose_once(order, deadline()).await.expect("an outcome");
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(60)).await;
    old.shutdown().await;
    for person in people {
        person.await.unwrap();
    }
    same_states(&survivors).await;
    let there = state(survivors[0]);
    let times = there.events.iter().filter(|event| event.key == "test").count();
    assert_eq!((times, told(&there).len()), (2 * 8 * 8, 2 * 8 * 8), "{:?}", there.events);
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_learns_since_when_the_old_one_can_have_proven_nothing() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await;
    let survivors: Vec<&Node> = nodes.iter().copied().filter(|n| n.id() != old.id()).collect();
    let prover = {
        let old = old.clone();
        tokio::spawn(async move {
            let mut proven_ns = 0;
            loop {
                let asked_ns = thermidor_raft::boottime_ns();
                match old.barrier().await {
                    Ok(()) => proven_ns = asked_ns,
                    Err(_) => return proven_ns,
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    old.shutdown().await;
    let proven_ns = prover.await.unwrap();
    let new = leader(&survivors).await;
    let leadership = new.leadership().borrow().clone();
    eventually("it knows", || new.quiet_since_ns(&leadership).is_some()).await;
    let quiet_ns = new.quiet_since_ns(&leadership).unwrap();
    assert!(proven_ns > 0 && quiet_ns >= proven_ns, "{quiet_ns} is before {proven_ns}");
    let other = survivors.iter().find(|n| n.id() != new.id()).unwrap();
    assert_eq!(other.quiet_since_ns(&leadership), None, "the leader alone knows");
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged_and_it_is_said_why() {
    let mut machines = three(None).await;
    let last = machines.pop().unwrap();
    shut_all(machines).await;
    let soon = Instant::now() + Duration::from_secs(3);
    let error = last.node.propose(tell("alone"), soon).await.unwrap_err();
    assert!(matches!(error, ProposeError::NoLeader(_) | ProposeError::Unknown(_)), "{error}");
    assert!(last.node.barrier().await.is_err());
    assert!(!told(&state(&last.node)).contains("alone"));
    last.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_an_election_and_without_a_failed_write() {
    // No voter stands for election in the time that the hand-over is given, and none has been up
    // for long enough to grant a vote to one that did.
    let slow = Timing { election_min_ms: 5_000, election_max_ms: 6_000, ..timing() };
    let machines = three_with(slow, None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await;
    let to = nodes.iter().find(|n| n.id() != old.id()).unwrap();
    let term = old.leadership().borrow().term;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (node, stop) = ((*node).clone(), stop.clone());
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let outcome = node.propose(tell(format!("{}/{written}", node.id())), deadline()).await;
                    assert_eq!(outcome, Ok(Outcome::Done));
                    written += 1;
                }
                written
            })
        })
        .collect();
    eventually("all write", || told(&state(old)).len() > 20).await;
    let before_any_election = Instant::now() + Duration::from_millis(4_500);
    old.transfer_leader(to.id(), before_any_election).await.unwrap();
    eventually("it leads", || to.leadership().borrow().is_me).await;
    to.barrier().await.unwrap();
    let leadership = to.leadership().borrow().clone();
    assert_eq!((leadership.term, leadership.by_election), (term + 1, false));
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    // What the planner does next where the old leader shall not vote any more.
    assert_eq!(
        old.set_voters([to.id()].into(), deadline()).await,
        Err(MembershipError::NotLeader(Some(to.id())))
    );
    to.set_voters([to.id()].into(), deadline()).await.unwrap();
    done(old, tell("after")).await;
    same_states(&nodes).await;
    assert_eq!(to.leadership().borrow().term, term + 1);
    shut_all(machines).await;
}
