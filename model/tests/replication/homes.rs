//! One scenario per sentence of DESIGN.md's "Volumes" that speaks of a whole home: the machines of all
//! radiators, their disks and Raft, driven by hand.

use crate::disk::BLOCK;
use crate::small::{Action, Budget, Small};
use thermidor_model::command::{Command, Outcome};
use thermidor_model::replication::{DeviceOp, Op, OpKind, Rules};
use thermidor_model::testing::{box_volume, mail};
use thermidor_model::{NodeId, ReplicaId};

const FLUSH: DeviceOp = DeviceOp::Flush;

fn write(block: u64) -> DeviceOp {
    DeviceOp::Change(Op { kind: OpKind::Write, offset: block * BLOCK, len: BLOCK })
}

fn home(replicas: u64, script: &[DeviceOp]) -> Small {
    Small::new(replicas, replicas, script, Budget::default(), Rules::default())
}

fn in_sync(home: &Small) -> Vec<NodeId> {
    home.volume().in_sync.iter().copied().collect()
}

/// So many requests are made and everything goes its way.
fn ask(home: &mut Small, count: usize) {
    for _ in 0..count {
        home.act(Action::Ask);
        home.settle();
    }
}

#[test]
fn a_stale_take_over_decided_from_an_old_set_is_refused() {
    let mut home = home(3, &[write(0), FLUSH]);
    let stale = home.take_over_by(3);
    home.lose(3);
    assert_eq!(in_sync(&home), [1, 2]);
    ask(&mut home, 2);
    let epoch = home.volume().epoch;
    assert!(matches!(home.apply(stale), Outcome::Refused(_)), "3 lacks what was flushed since");
    let fresh = home.take_over_by(3);
    assert!(matches!(home.apply(fresh), Outcome::Refused(_)), "and is no member");
    assert_eq!((home.volume().epoch, home.volume().active), (epoch, Some(1)));
    assert_eq!(home.heal(), Ok(()));
}

#[test]
fn three_replicas_rebooted_after_power_loss_with_different_unflushed_tails_become_equal() {
    let kept: [&[usize]; 4] = [&[], &[0], &[4], &[0, 4]];
    let mut differed = 0;
    for (first, second, third, to) in
        (0..4 * 4 * 4 * 3).map(|n| (n % 4, n / 4 % 4, n / 16 % 4, (n / 64 + 1) as NodeId))
    {
        let mut home = home(3, &[write(0), write(4), FLUSH]);
        ask(&mut home, 2);
        for (id, kept) in [(1, kept[first]), (2, kept[second]), (3, kept[third])] {
            home.crash_keeping(id, kept);
        }
        let tails = [1, 2, 3].map(|id| [home.disk(id).read(0), home.disk(id).read(4)]);
        differed += u32::from(tails[0] != tails[1] || tails[1] != tails[2]);
        home.activate(to);
        let chosen = tails[to as usize - 1];
        assert_eq!(home.heal(), Ok(()), "{tails:?}, {to} takes over");
        for id in 1..=3 {
            assert_eq!([home.disk(id).read(0), home.disk(id).read(4)], chosen, "as {to} found it");
        }
    }
    assert_eq!(differed, (64 - 4) * 3, "the tails were to differ");
}

#[test]
fn a_disk_exchanged_during_a_power_cut_is_no_member() {
    let mut home = home(3, &[write(0), FLUSH, write(1), FLUSH]);
    ask(&mut home, 2);
    home.crash_keeping(3, &[]);
    home.exchange_disk(3, ReplicaId(999));
    home.lose(3);
    assert_eq!(in_sync(&home), [1, 2], "it cannot prove that it is the member");
    ask(&mut home, 2);
    assert_eq!(home.flushes(), 2);
    home.remove_replica(3);
    home.make_replica(3);
    assert_eq!(home.heal(), Ok(()));
    assert_eq!(in_sync(&home), [1, 2, 3]);
}

#[test]
fn a_take_over_by_an_exchanged_disk_serves_nobody_and_another_member_has_all() {
    let mut home = home(3, &[write(0), FLUSH, write(1), FLUSH]);
    ask(&mut home, 2);
    home.crash_keeping(3, &[]);
    home.exchange_disk(3, ReplicaId(999));
    home.activate(3);
    home.settle();
    assert_eq!(home.attached(), None, "it cannot prove id and epoch");
    home.activate(2);
    home.settle();
    assert_eq!(home.attached(), Some(2));
    let in_sync = &home.volume().in_sync;
    assert!(in_sync.contains(&2) && !in_sync.contains(&3), "{in_sync:?}: the failover took 3 out");
    home.remove_replica(3);
    home.make_replica(3);
    assert_eq!(home.heal(), Ok(()));
}

#[test]
fn a_local_io_error_on_the_active_hands_over_and_its_disk_is_never_again_a_member() {
    let mut home = home(3, &[write(0), FLUSH, write(1), FLUSH]);
    ask(&mut home, 2);
    home.fail_disk(1);
    home.settle();
    assert!(home.disk(1).header.failed, "durably");
    assert_eq!(home.attached(), None);
    home.activate(2);
    home.settle();
    assert_eq!((home.attached(), in_sync(&home)), (Some(2), vec![2, 3]));
    ask(&mut home, 2);
    assert_eq!(home.flushes(), 2, "2 and 3 have it");
    home.allow(Budget { connects: 1, ..Budget::default() });
    while let Some(connect) = home.actions().into_iter().find(|a| matches!(a, Action::Connect { to: 1, .. }))
    {
        home.act(connect);
        home.settle();
    }
    assert_eq!(in_sync(&home), [2, 3], "it stays out");
    home.remove_replica(1);
    home.make_replica(1);
    assert_eq!(home.heal(), Ok(()));
}

#[test]
fn the_last_in_sync_member_gone_an_older_one_is_promoted_and_the_newer_one_kept_aside() {
    let mut home = home(2, &[write(0), FLUSH, write(1), FLUSH]);
    ask(&mut home, 2);
    home.lose(2);
    assert_eq!(in_sync(&home), [1]);
    ask(&mut home, 2);
    let newer = home.disk(1).read(1);
    assert_eq!(home.flushes(), 2);
    // by itself nothing happens: 2 is not in the set
    let take_over = home.take_over_by(2);
    assert!(matches!(home.apply(take_over), Outcome::Refused(_)));
    let epoch_was = home.epoch_of_service();
    home.apply(Command::Stop { service: mail(), epoch_was, next: None, reason: String::new() });
    home.apply(Command::Stopped { service: mail(), epoch_was, node: 1 });
    let (epoch, set_was) = (home.volume().epoch, home.volume().set_version);
    home.accept_loss(2);
    let promoted = home.apply(Command::Promote { volume: box_volume(), epoch, set_was, node: 2 });
    assert!(matches!(promoted, Outcome::Set(_)), "{promoted:?}");
    home.activate(2);
    assert_eq!(home.heal(), Ok(()));
    let replicas: Vec<NodeId> = home.volume().replicas.keys().copied().collect();
    assert_eq!(replicas, [2], "what 1 holds is of another line");
    assert_eq!(home.disk(1).read(1), newer, "and nobody overwrote it");
    home.make_replica(1);
    assert_eq!(home.heal(), Ok(()));
    assert_eq!(in_sync(&home), [1, 2]);
    assert_ne!(home.disk(1).read(1), newer);
}

#[test]
fn a_degraded_volume_stays_attached_and_heals_by_itself() {
    let mut home = home(2, &[write(0), FLUSH, write(1), FLUSH]);
    ask(&mut home, 2);
    home.lose(2);
    let degraded = |home: &Small| (home.volume().in_sync.len() as u32) < home.volume().durability;
    assert!(degraded(&home), "with on_degraded: stop the container rests from here on");
    assert_eq!(home.attached(), Some(1), "the volume does not");
    home.allow(Budget { connects: 1, ..Budget::default() });
    home.act(Action::Connect { from: 1, to: 2 });
    home.settle();
    assert!(!degraded(&home), "no request and no person was needed");
    ask(&mut home, 2);
    assert_eq!(home.flushes(), 2);
    assert_eq!(home.heal(), Ok(()));
}

#[test]
fn a_zombie_of_an_older_epoch_gets_no_acknowledgement() {
    let mut home = home(3, &[write(0), FLUSH]);
    home.act(Action::Ask);
    home.act(Action::Ask);
    home.activate(2);
    home.settle();
    assert_eq!(home.attached(), Some(2));
    assert_eq!(home.flushes(), 0, "the flush asked of 1 was never answered");
    assert_eq!(home.heal(), Ok(()));
}
