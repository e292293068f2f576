//! Every refusal changes nothing, every change leaves a sound state.

use super::*;
use crate::command::Why;
use crate::name::{NodeId, RadiatorName, ReplicaId};
use crate::spec::{HomeSpec, VolumeDriver, VolumeSpec};
use crate::state::{Off, Phase, Role, Sealed};
use crate::testing::{box_volume, declare, home_spec, joined, mail, service_on, volume_spec};
use std::collections::BTreeMap;

fn name(text: &str) -> RadiatorName {
    RadiatorName::new(text).unwrap()
}

fn at(address: u8) -> std::net::SocketAddr {
    ([10, 0, 0, address], 7470).into()
}

struct Home(State);

impl Home {
    /// Applies; checks that the state is sound and that a refusal changed nothing.
    fn apply(&mut self, command: Command) -> Outcome {
        let before = self.0.clone();
        let outcome = self.0.apply(&Proposal { at_ms: 1000, command });
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(before, self.0, "a refusal changed something");
        }
        assert_eq!(self.0.check(), Vec::<String>::new());
        outcome
    }

    fn refuses(&mut self, command: Command, words: &str) {
        match self.apply(command) {
            Outcome::Refused(why) => assert!(why.to_string().contains(words), "{why} lacks {words}"),
            other => panic!("{other:?} instead of a refusal with {words}"),
        }
    }

    fn of_three() -> Self {
        Home(joined(3))
    }

    fn with_mail() -> Self {
        let mut home = Self::of_three();
        home.declare(true, 10 << 20);
        for node in 1..=3 {
            let set_was = home.set();
            home.apply(Command::AddReplica { volume: box_volume(), set_was, node, id: ReplicaId(node) });
        }
        home
    }

    fn declare(&mut self, with_mail: bool, size_bytes: u64) -> Outcome {
        let services = if with_mail { [(mail(), service_on(box_volume()))].into() } else { BTreeMap::new() };
        let volumes = [(box_volume(), volume_spec(size_bytes, 3))].into();
        self.apply(declare(&self.0, HomeSpec { services, volumes, ..home_spec(3) }))
    }

    fn set(&self) -> u64 {
        self.0.volumes[&box_volume()].set_version
    }

    fn activate(&mut self, epoch_was: u64, to: NodeId, why: Why) -> Outcome {
        let sets = [(box_volume(), self.set())].into();
        self.apply(Command::Activate { service: mail(), epoch_was, to, sets, why, reason: "so".into() })
    }

    fn join_set(&mut self, node: NodeId) -> Outcome {
        let epoch = self.0.volumes[&box_volume()].epoch;
        let set_was = self.set();
        self.apply(Command::JoinSet { volume: box_volume(), epoch, set_was, node, id: ReplicaId(node) })
    }
}

#[test]
fn a_token_is_good_once_and_in_time() {
    let mut home = Home::of_three();
    let join = |token: &str, radiator: &str, address| Command::Join {
        token_hash: token.into(),
        name: name(radiator),
        address: at(address),
        role: Role::Radiator,
    };
    home.refuses(join("bureau", "grenier", 9), "used");
    home.refuses(join("forged", "grenier", 9), "not known");
    home.apply(Command::Invite { token_hash: "late".into(), expires_ms: 1000 });
    home.refuses(join("late", "grenier", 9), "expired");
    home.apply(Command::Invite { token_hash: "good".into(), expires_ms: 2000 });
    home.refuses(join("good", "salon", 9), "named salon already");
    home.refuses(join("good", "grenier", 1), "already");
    assert_eq!(home.apply(join("good", "grenier", 9)), Outcome::Joined(4));
}

#[test]
fn a_number_is_never_given_twice() {
    let mut home = Home::of_three();
    home.apply(Command::Leave { node: 3 });
    home.apply(Command::Invite { token_hash: "t".into(), expires_ms: 2000 });
    let back =
        Command::Join { token_hash: "t".into(), name: name("cave"), address: at(3), role: Role::Radiator };
    assert_eq!(home.apply(back), Outcome::Joined(4));
}

#[test]
fn the_first_replica_is_in_sync_and_others_have_to_catch_up() {
    let mut home = Home::with_mail();
    assert_eq!(home.0.volumes[&box_volume()].in_sync, [1].into());
    assert_eq!(
        home.activate(0, 2, Why::Start),
        Outcome::Refused(crate::Refusal::Stale("bureau is not in sync for box".into()))
    );
    assert_eq!(home.activate(0, 1, Why::Start), Outcome::Epoch(1));
    assert!(matches!(home.join_set(2), Outcome::Set(_)));
    assert_eq!(home.0.volumes[&box_volume()].in_sync, [1, 2].into());
}

#[test]
fn a_stale_take_over_or_set_change_is_refused() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.join_set(2);
    home.refuses(
        Command::Activate {
            service: mail(),
            epoch_was: 1,
            to: 2,
            sets: [(box_volume(), home.set() - 1)].into(),
            why: Why::Failover,
            reason: String::new(),
        },
        "by now",
    );
    assert_eq!(home.activate(1, 2, Why::Failover), Outcome::Epoch(2));
    home.refuses(Command::Stopped { service: mail(), epoch_was: 1, node: 1 }, "epoch 2");
    let set_was = home.set();
    home.refuses(Command::DropFromSet { volume: box_volume(), epoch: 1, set_was, node: 1 }, "epoch 2");
    home.refuses(
        Command::DropFromSet { volume: box_volume(), epoch: 2, set_was: set_was - 1, node: 1 },
        "by now",
    );
    home.refuses(Command::DropFromSet { volume: box_volume(), epoch: 2, set_was, node: 2 }, "hands over");
    home.refuses(
        Command::JoinSet { volume: box_volume(), epoch: 2, set_was, node: 3, id: ReplicaId(77) },
        "is not the one",
    );
    home.refuses(Command::RemoveReplica { volume: box_volume(), set_was, node: 2 }, "active");
}

#[test]
fn whoever_is_failed_over_leaves_the_set_unless_it_is_the_last() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.join_set(2);
    let set_was = home.set();
    assert_eq!(home.activate(1, 2, Why::Failover), Outcome::Epoch(2));
    assert_eq!(home.0.volumes[&box_volume()].in_sync, [2].into());
    assert_eq!(home.set(), set_was + 1);
    let told = home
        .0
        .events
        .iter()
        .any(|e| e.text == "salon is behind for box: 1 in sync, below its durability of 2");
    assert!(told, "{:?}", home.0.events);
    assert_eq!(home.activate(2, 2, Why::Failover), Outcome::Epoch(3), "again where it was");
    assert_eq!(home.0.volumes[&box_volume()].in_sync, [2].into());
}

#[test]
fn whoever_is_heard_but_unfit_stays_in_the_set() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.join_set(2);
    assert_eq!(home.activate(1, 2, Why::Unfit), Outcome::Epoch(2));
    assert_eq!(home.0.volumes[&box_volume()].in_sync, [1, 2].into());
}

#[test]
fn a_planned_move_stops_before_it_starts() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.join_set(2);
    assert!(matches!(home.activate(1, 2, Why::Heat), Outcome::Refused(_)));
    home.refuses(Command::Stopped { service: mail(), epoch_was: 1, node: 1 }, "is to run");
    home.apply(Command::Stop {
        service: mail(),
        epoch_was: 1,
        next: Some(2),
        reason: "bureau is cold".into(),
    });
    assert_eq!(home.0.services[&mail()].phase, Phase::Stop { next: Some(2) });
    home.refuses(Command::Stopped { service: mail(), epoch_was: 1, node: 2 }, "not active on bureau");
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: 1 });
    assert_eq!(home.activate(1, 2, Why::Heat), Outcome::Epoch(2));
    assert_eq!(home.0.services[&mail()].moved_ms, vec![1000]);
}

#[test]
fn who_alone_holds_data_can_neither_leave_nor_go_off() {
    let mut home = Home::with_mail();
    home.refuses(Command::Off { node: 1, off: Off { until_ms: None, power_off: false } }, "alone holds box");
    home.refuses(Command::Leave { node: 1 }, "alone holds box");
    home.activate(0, 1, Why::Start);
    home.join_set(2);
    home.refuses(Command::Leave { node: 1 }, "thermidor off salon");
    assert_eq!(
        home.apply(Command::Off { node: 1, off: Off { until_ms: None, power_off: false } }),
        Outcome::Done
    );
    home.apply(Command::Off { node: 3, off: Off { until_ms: None, power_off: false } });
    home.refuses(
        Command::Off { node: 2, off: Off { until_ms: None, power_off: false } },
        "last radiator that is on",
    );
}

#[test]
fn a_service_taken_out_of_the_yaml_stops_and_its_volume_is_kept() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.declare(false, 10 << 20);
    assert_eq!(home.0.services[&mail()].phase, Phase::Stop { next: None });
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: 1 });
    assert!(home.0.services.is_empty());
    assert!(home.0.volumes.contains_key(&box_volume()));
    assert!(matches!(home.declare(true, 1 << 20), Outcome::Refused(_)), "a volume can't shrink");
}

#[test]
fn rescue_raises_the_generation_and_remembers_who_holds_the_data() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    home.refuses(Command::RaiseGeneration { generation_was: 1, remain: vec![] }, "at least one");
    home.apply(Command::RaiseGeneration { generation_was: 1, remain: vec![2] });
    assert_eq!(home.0.generation, 2);
    assert_eq!(home.0.members.keys().copied().collect::<Vec<_>>(), vec![1, 2], "salon alone holds box");
    home.refuses(Command::RaiseGeneration { generation_was: 1, remain: vec![2] }, "generation is 2");
    let (epoch, set_was) = (home.0.volumes[&box_volume()].epoch, home.set());
    assert!(matches!(
        home.apply(Command::Promote { volume: box_volume(), epoch, set_was, node: 2 }),
        Outcome::Set(_)
    ));
    let replicas = &home.0.volumes[&box_volume()].replicas;
    assert_eq!(replicas.keys().copied().collect::<Vec<_>>(), [2], "salon's is of another line");
    assert_eq!(home.activate(1, 2, Why::Start), Outcome::Epoch(2));
}

#[test]
fn the_same_log_gives_the_same_state() {
    let mut home = Home::with_mail();
    home.activate(0, 1, Why::Start);
    let once = serde_json::to_vec(&home.0).unwrap();
    let mut again = Home::with_mail();
    again.activate(0, 1, Why::Start);
    assert_eq!(once, serde_json::to_vec(&again.0).unwrap());
    assert_eq!(serde_json::from_slice::<State>(&once).unwrap(), home.0);
}

#[test]
fn a_volume_is_removed_only_when_nothing_uses_it_and_each_holder_says_when_its_image_is_gone() {
    let mut home = Home::with_mail();
    let remove = || Command::RemoveVolume { volume: box_volume() };
    home.refuses(remove(), "mail uses box");
    home.refuses(
        Command::RemoveVolume { volume: crate::VolumeName::new("nope").unwrap() },
        "thermidor volume ls",
    );
    home.activate(0, 1, Why::Start);
    home.declare(false, 10 << 20);
    home.refuses(remove(), "still attached on salon");
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: 1 });
    home.0.volumes.get_mut(&box_volume()).unwrap().active = None;
    assert_eq!(home.apply(remove()), Outcome::Done);
    assert!(home.0.volumes.is_empty());
    assert_eq!(home.0.removed_images.len(), 3);
    assert_eq!(home.0.events.back().unwrap().weight, Weight::Mail, "nobody removes data in silence");

    let gone = |node| Command::ImageRemoved { volume: box_volume(), node, id: ReplicaId(node) };
    assert_eq!(home.apply(gone(1)), Outcome::Done);
    home.refuses(gone(1), "no image");
    home.refuses(Command::ImageRemoved { volume: box_volume(), node: 2, id: ReplicaId(9) }, "no image");
    // The name is free again, and the old images are still to go.
    home.declare(true, 10 << 20);
    assert_eq!(home.0.removed_images.len(), 2);
    home.apply(Command::Leave { node: 3 });
    assert_eq!(
        home.0.removed_images.iter().map(|r| r.node).collect::<Vec<_>>(),
        [2],
        "who left removes nothing"
    );
}

#[test]
fn a_shared_folder_is_in_sync_wherever_it_is_and_stays_so_when_its_active_is_lost() {
    let mut home = Home::of_three();
    let driver = VolumeDriver::Shared { path: "/mnt/ceph/box".into() };
    let spec = |driver| {
        let volume = VolumeSpec { driver, size_bytes: 0, ..volume_spec(0, 3) };
        let services = [(mail(), service_on(box_volume()))].into();
        HomeSpec { services, volumes: [(box_volume(), volume)].into(), ..home_spec(3) }
    };
    home.apply(declare(&home.0, spec(driver.clone())));
    for node in 1..=3 {
        let set_was = home.set();
        home.apply(Command::AddReplica { volume: box_volume(), set_was, node, id: ReplicaId(node) });
    }
    assert_eq!(home.0.volumes[&box_volume()].in_sync.len(), 3);
    home.activate(0, 1, Why::Start);
    home.activate(1, 2, Why::Failover);
    assert_eq!(home.0.volumes[&box_volume()].in_sync.len(), 3, "the lost one has it mounted when it returns");
    let other = declare(&home.0, spec(VolumeDriver::Local));
    home.refuses(other, "can't become on one radiator only");
    let volume = &home.0.volumes[&box_volume()];
    let promote =
        Command::Promote { volume: box_volume(), epoch: volume.epoch, set_was: volume.set_version, node: 3 };
    home.refuses(promote, "no older replica");
}

#[test]
fn the_image_of_a_replica_taken_out_behind_the_others_is_to_go_and_that_of_one_in_sync_stays() {
    let mut home = Home::with_mail();
    let remove = |home: &mut Home, node| {
        let set_was = home.set();
        home.apply(Command::RemoveReplica { volume: box_volume(), set_was, node })
    };
    assert!(matches!(remove(&mut home, 3), Outcome::Set(_)));
    let gone = |home: &Home| home.0.removed_images.iter().map(|r| (r.node, r.id)).collect::<Vec<_>>();
    assert_eq!(gone(&home), [(3, ReplicaId(3))]);
    let (epoch, set_was) = (home.0.volumes[&box_volume()].epoch, home.set());
    home.apply(Command::JoinSet { volume: box_volume(), epoch, set_was, node: 2, id: ReplicaId(2) });
    assert!(matches!(remove(&mut home, 2), Outcome::Set(_)));
    assert_eq!(gone(&home), [(3, ReplicaId(3))]);
}

fn sealed(key: u64, byte: u8) -> Sealed {
    Sealed { nonce: [0; 12], bytes: vec![byte], key }
}

fn pin(node: NodeId) -> Command {
    Command::PinKey { node, key: format!("key {node}") }
}

fn change_keys(number_was: u64) -> Command {
    let home_key_hash = format!("hash {}", number_was + 1);
    Command::ChangeKeys { number_was, authority_pem: format!("authority {}", number_was + 1), home_key_hash }
}

#[test]
fn a_member_is_known_by_one_key_for_as_long_as_it_is_a_member() {
    let mut home = Home::of_three();
    assert_eq!(home.apply(pin(2)), Outcome::Done);
    assert_eq!(home.apply(pin(2)), Outcome::Done, "again");
    home.refuses(Command::PinKey { node: 2, key: "the thief's".into() }, "another key");
    home.refuses(pin(9), "no member");
    home.apply(Command::Leave { node: 2 });
    assert!(home.0.keys.members.is_empty());
}

#[test]
fn keys_are_changed_once_every_remaining_member_is_known_by_its_own() {
    let mut home = Home::of_three();
    home.apply(Command::Invite { token_hash: "open".into(), expires_ms: 9_000 });
    home.apply(pin(1));
    home.apply(Command::Leave { node: 3 });
    home.refuses(change_keys(0), "thermidor leave bureau");
    home.apply(pin(2));
    home.refuses(change_keys(4), "number 0");
    assert_eq!(home.apply(change_keys(0)), Outcome::Done);
    assert_eq!(home.0.authority_pem, "authority 1");
    assert!(home.0.tokens.is_empty(), "what was invited under the old authority is void");
    home.refuses(change_keys(0), "number 1");
}

#[test]
fn secrets_are_sealed_anew_once_two_radiators_hold_the_new_key() {
    let mut home = Home::of_three();
    for node in 1..=3 {
        home.apply(pin(node));
    }
    home.apply(Command::SetSecret { name: "a".into(), sealed: Some(sealed(0, 1)) });
    home.apply(Command::Leave { node: 3 });
    home.apply(change_keys(0));
    assert!(home.0.keys.changing() && home.0.without_keys() == [1, 2]);
    home.refuses(Command::HoldsKeys { node: 1, number: 0 }, "number 1");
    home.refuses(Command::HoldsKeys { node: 3, number: 1 }, "no member");
    home.apply(Command::HoldsKeys { node: 1, number: 1 });
    let was = home.0.secrets.clone();
    let reseal = |secrets_was: &BTreeMap<String, Sealed>| Command::Reseal {
        number: 1,
        secrets_was: secrets_was.clone(),
        secrets: secrets_was.keys().map(|name| (name.clone(), sealed(1, 9))).collect(),
    };
    home.refuses(reseal(&was), "only one radiator");
    home.apply(Command::HoldsKeys { node: 2, number: 1 });
    // Meanwhile a secret was set, under the key in force.
    home.apply(Command::SetSecret { name: "b".into(), sealed: Some(sealed(0, 2)) });
    home.refuses(reseal(&was), "a secret has changed");
    home.refuses(Command::SetSecret { name: "b".into(), sealed: Some(sealed(1, 2)) }, "set the secret again");
    let was = home.0.secrets.clone();
    let fewer = Command::Reseal { number: 1, secrets_was: was.clone(), secrets: BTreeMap::new() };
    home.refuses(fewer, "other secrets");
    assert_eq!(home.apply(reseal(&was)), Outcome::Done);
    assert!(!home.0.keys.changing() && home.0.secrets.values().all(|s| s.key == 1));
    home.refuses(reseal(&was), "by now");
    home.refuses(Command::SetSecret { name: "b".into(), sealed: Some(sealed(0, 2)) }, "set the secret again");
}

#[test]
fn keys_that_were_lost_before_anybody_had_them_are_changed_again() {
    let mut home = Home::of_three();
    for node in 1..=3 {
        home.apply(pin(node));
    }
    home.apply(Command::SetSecret { name: "a".into(), sealed: Some(sealed(0, 1)) });
    home.apply(change_keys(0));
    home.apply(Command::HoldsKeys { node: 1, number: 1 });
    assert_eq!(home.apply(change_keys(1)), Outcome::Done);
    assert_eq!((home.0.keys.number, home.0.keys.sealed_under), (2, 0));
    assert!(home.0.keys.holders.is_empty());
}
