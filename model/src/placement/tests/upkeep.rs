//! Replicas, the address, voters and `off --until`.

use super::fixture::*;
use crate::command::Command;
use crate::name::ReplicaId;
use crate::observe::Lease;
use crate::placement::{Action, replica_id};
use crate::state::Off;

#[test]
fn a_broken_replica_is_dropped_taken_out_and_made_anew() {
    let mut home = Home::running_in(SALON);
    let old = home.state.volumes[&maildir()].replicas[&CAVE];
    home.broken.insert(CAVE);
    home.observe();
    let volume = home.state.volumes[&maildir()].clone();
    let drop = Command::DropFromSet {
        volume: maildir(),
        epoch: volume.epoch,
        set_was: volume.set_version,
        node: CAVE,
    };
    assert_eq!(home.commands(), vec![drop.clone()]);
    home.apply(drop);
    let remove = Command::RemoveReplica { volume: maildir(), set_was: volume.set_version + 1, node: CAVE };
    assert_eq!(home.commands(), vec![remove.clone()]);
    home.apply(remove);
    assert_eq!(home.commands(), vec![], "not at once: a broken disk must not fill the log");
    home.broken.clear();
    home.now_ms += 11_000;
    home.observed.reports.clear();
    home.observe();
    let id = replica_id(&home.state, &maildir(), CAVE, volume.set_version + 2);
    assert_ne!(id, old);
    assert_eq!(
        home.commands(),
        vec![Command::AddReplica { volume: maildir(), set_was: volume.set_version + 2, node: CAVE, id }]
    );
}

#[test]
fn the_last_good_replica_is_never_thrown_away() {
    let mut home = Home::running_in(SALON);
    home.apply(home.stop(BUREAU, "so"));
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: SALON });
    home.broken = [SALON, BUREAU, CAVE].into();
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert!(
        home.sentence().contains("bureau: maildir is broken there: image missing"),
        "{}",
        home.sentence()
    );
}

#[test]
fn the_actives_broken_disk_makes_it_hand_over() {
    let mut home = Home::running_in(SALON);
    home.broken.insert(SALON);
    home.observe();
    let reason =
        "mail leaves salon for bureau: salon has a broken disk (maildir is broken there: image missing)";
    assert_eq!(home.commands(), vec![home.stop(BUREAU, reason)]);
    home.run(1_000);
    assert_eq!(home.active(), Some(BUREAU));
    assert!(home.state.services[&mail()].moved_ms.is_empty(), "that was no heat move");
}

#[test]
fn a_volume_gets_a_replica_where_one_left_and_none_too_many() {
    let mut home = Home::declared(|spec| spec.volumes.get_mut(&maildir()).unwrap().replicas = 2);
    home.demand_w.insert(BUREAU, 50.0);
    home.run(5_000);
    let holders: Vec<u64> = home.state.volumes[&maildir()].replicas.keys().copied().collect();
    assert_eq!(holders, vec![SALON, BUREAU]);
    home.apply(Command::Leave { node: SALON });
    home.observed.leader = BUREAU;
    home.alive = [BUREAU, CAVE].into();
    home.run(12_000);
    let holders: Vec<u64> = home.state.volumes[&maildir()].in_sync.iter().copied().collect();
    assert_eq!(holders, vec![BUREAU, CAVE]);
    let mut spec = home_spec();
    spec.volumes.get_mut(&maildir()).unwrap().replicas = 1;
    spec.volumes.get_mut(&maildir()).unwrap().durability = 1;
    home.declare(spec);
    home.run(12_000);
    let volume = &home.state.volumes[&maildir()];
    assert_eq!(volume.replicas.keys().copied().collect::<Vec<_>>(), vec![BUREAU], "the active's stays");
}

#[test]
fn a_replica_long_silent_is_replaced_while_it_is_away() {
    let mut home = Home::declared(|spec| spec.volumes.get_mut(&maildir()).unwrap().replicas = 2);
    home.demand_w.insert(SALON, 50.0);
    home.run(5_000);
    assert!(!home.state.volumes[&maildir()].replicas.contains_key(&CAVE));
    home.alive.remove(&BUREAU);
    home.run(20_000);
    assert!(!home.state.volumes[&maildir()].replicas.contains_key(&CAVE), "it may be back soon");
    home.now_ms += 700_000;
    home.observed.leading_ms += 700_000;
    home.observed.silent_ms.insert(BUREAU, 700_000);
    home.run(2_000);
    assert!(home.state.volumes[&maildir()].in_sync.contains(&CAVE));
    home.alive.insert(BUREAU);
    home.run(15_000);
    assert_eq!(
        home.state.volumes[&maildir()].replicas.len(),
        2,
        "back, it is one too many or takes the place"
    );
}

#[test]
fn identities_differ_by_volume_member_and_version() {
    let home = Home::declared(|_| {});
    let id = |node, version| replica_id(&home.state, &maildir(), node, version);
    assert_eq!(id(1, 0), id(1, 0));
    let mut ids: Vec<ReplicaId> = vec![id(1, 0), id(2, 0), id(1, 1)];
    ids.push(replica_id(&home.state, &crate::name::VolumeName::new("other").unwrap(), 1, 0));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn at_a_failover_the_address_goes_where_the_first_service_goes() {
    let mut home = Home::running_in(SALON);
    assert_eq!(home.state.address.holder, Some(SALON));
    // The lowest number that is alive is not the one that takes over.
    home.unplug_salon();
    home.observed.address_lease = Lease::Ended;
    let to = home.commands().into_iter().find_map(|c| match c {
        Command::HoldAddress { to, .. } => Some(to),
        _ => None,
    });
    assert_eq!(to, Some(Some(CAVE)));
}

#[test]
fn a_holder_that_lost_the_address_for_a_moment_gets_it_back_in_a_new_epoch() {
    let mut home = Home::running_in(SALON);
    let epoch_was = home.state.address.epoch;
    home.observed.address_lease = Lease::Ended;
    assert_eq!(home.commands(), vec![Command::HoldAddress { epoch_was, to: Some(SALON) }]);
}

#[test]
fn the_address_changes_hands_only_when_its_lease_has_ended() {
    let mut home = Home::running_in(SALON);
    assert_eq!(home.state.address.holder, Some(SALON), "with the first service");
    home.apply(home.stop(BUREAU, "so"));
    home.run(1_000);
    assert_eq!((home.active(), home.state.address.holder), (Some(BUREAU), Some(SALON)), "it stays");
    home.observed.address_lease = Lease::Ended;
    let epoch_was = home.state.address.epoch;
    let hold = |to| Command::HoldAddress { epoch_was, to };
    assert_eq!(home.commands(), vec![hold(Some(BUREAU))]);
    home.observed.address_lease = Lease::MayBeHeld;
    home.apply(Command::Off { node: SALON, off: Off { until_ms: None, power_off: false } });
    assert_eq!(home.commands(), vec![hold(None)], "one that goes off gives it back");
    let mut spec = home_spec();
    spec.address = None;
    home.declare(spec);
    assert_eq!(home.commands(), vec![hold(None)], "no address, no holder");
}

#[test]
fn off_ends_by_itself() {
    let mut home = Home::running_in(SALON);
    let until_ms = Some(home.now_ms + 60_000);
    home.apply(Command::Off { node: CAVE, off: Off { until_ms, power_off: false } });
    assert_eq!(home.commands(), vec![]);
    home.now_ms += 60_000;
    assert_eq!(home.commands(), vec![Command::On { node: CAVE }]);
}

#[test]
fn power_off_gives_up_the_vote_after_the_services_left_and_leadership_before() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Off { node: SALON, off: Off { until_ms: None, power_off: true } });
    home.observe();
    assert!(matches!(
        home.plan().actions[..],
        [Action::Propose(Command::Stop { next: Some(BUREAU), .. }), ..]
    ));
    assert!(!home.plan().actions.iter().any(|a| !matches!(a, Action::Propose(_))));
    home.apply(home.stop(BUREAU, "so"));
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: SALON });
    let start = home.commands().into_iter().find(|c| matches!(c, Command::Activate { .. })).unwrap();
    home.apply(start);
    home.observe();
    // Two members are left: the active's radiator alone votes.
    assert_eq!(home.plan().actions[0], Action::TransferLeader(BUREAU));
    home.observed.leader = BUREAU;
    assert_eq!(home.plan().actions[0], Action::SetVoters([BUREAU].into()));
}
