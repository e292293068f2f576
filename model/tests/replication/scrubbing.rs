//! One scenario per sentence on the search for bit rot.

use crate::bench::{Bench, EPOCH, SIZE, config, id_of, image, name, write};
use std::collections::BTreeMap;
use thermidor_model::NodeId;
use thermidor_model::replication::scrub::{Found, Pace, Record, Seal};
use thermidor_model::replication::{
    EXTENT_BYTES, Effect, Event, Fetched, Follower, FollowerEffect, FollowerEvent, Frame, Limits,
    LocalEffect, LocalEvent, Op, OpKind, WIRE_VERSION,
};

const GOOD: [u8; 32] = [1; 32];
const BAD: [u8; 32] = [2; 32];
const EXTENTS: u64 = SIZE / EXTENT_BYTES;
/// The number of requests that carry fetched bytes.
const REQUEST: u64 = 1 << 40;

fn found(hash: [u8; 32]) -> Found {
    Found { hash: Some(hash), seal: Seal::Absent }
}

fn go_on(bench: &mut Bench, record: Record) {
    bench.hear(Event::Scrub { record, pace: Pace::default(), wall_ms: 1_000_000_000_000 });
}

/// A home of these members, whose replicas are to be compared now.
fn asked(members: &[NodeId]) -> Bench {
    let mut bench = Bench::try_new(config(members, members), image(1, &[])).unwrap();
    for node in members.iter().filter(|node| **node != 1) {
        bench.connect(*node, image(*node, &[]));
    }
    acknowledge(&mut bench, members);
    let fresh = Record { pass: 1, began_ms: 1_000_000_000_000, ..Record::default() };
    go_on(&mut bench, fresh);
    bench.effects.clear();
    bench.hear(Event::Check);
    // Twice, so that everybody knows that everybody has everything, and lets go of the marks.
    acknowledge(&mut bench, members);
    assert!(looks(&bench).is_empty() || members.len() == 1);
    acknowledge(&mut bench, members);
    bench
}

fn acknowledge(bench: &mut Bench, members: &[NodeId]) {
    for node in members.iter().filter(|node| **node != 1) {
        bench.acknowledge(*node);
    }
}

/// What is looked at here: number and extent.
fn looks(bench: &Bench) -> Vec<(u64, u64)> {
    let look = |effect: &Effect| match effect {
        Effect::Local(LocalEffect::Examine { id, extent }) => Some((*id, *extent)),
        _ => None,
    };
    bench.effects.iter().filter_map(look).collect()
}

fn last_look(bench: &Bench, extent: u64) -> u64 {
    looks(bench).into_iter().rfind(|(_, x)| *x == extent).unwrap().0
}

/// Everybody answers the last look at an extent.
fn answer(bench: &mut Bench, extent: u64, all: &[(NodeId, Found)]) {
    let id = last_look(bench, extent);
    for (node, found) in all {
        match node {
            1 => bench.hear(Event::Local(LocalEvent::Examined { id, found: *found })),
            node => bench.say(*node, Frame::Examined { seq: id, found: *found }),
        }
    }
}

fn seals(bench: &Bench, node: NodeId) -> Vec<u64> {
    let seal = |frame: Frame| if let Frame::Seal { extent, .. } = frame { Some(extent) } else { None };
    bench.sent(node).into_iter().filter_map(seal).collect()
}

/// Every other extent is alike.
fn finish(bench: &mut Bench, nodes: &[NodeId]) {
    for _ in 0..2 * EXTENTS {
        let record = bench.active.examination();
        if !record.running {
            return;
        }
        let extents: Vec<u64> = looks(bench).into_iter().map(|(_, extent)| extent).collect();
        for extent in extents {
            let all: Vec<_> = nodes.iter().map(|node| (*node, found(GOOD))).collect();
            answer(bench, extent, &all);
        }
        bench.wait(1);
    }
    panic!("the pass does not end: {:?}", bench.active.examination());
}

fn stores(bench: &Bench) -> Vec<Op> {
    let store = |effect: &Effect| match effect {
        Effect::Local(LocalEffect::Store { op, .. }) => Some(*op),
        _ => None,
    };
    bench.effects.iter().filter_map(store).collect()
}

fn whole_extent(extent: u64) -> Op {
    Op { kind: OpKind::Write, offset: extent * EXTENT_BYTES, len: EXTENT_BYTES }
}

#[test]
fn every_member_looks_at_the_same_place_in_the_stream() {
    let mut bench = asked(&[1, 2, 3]);
    assert_eq!(looks(&bench).len(), Pace::default().at_once);
    let (seq, extent) = looks(&bench)[0];
    bench.write(extent);
    for node in [2, 3] {
        let sent = bench.sent(node);
        let at = |wanted: &dyn Fn(&Frame) -> bool| sent.iter().position(wanted).unwrap();
        let look = at(&|f| *f == Frame::Examine { seq, extent });
        assert!(look < at(&|f| matches!(f, Frame::Op { op, .. } if *op == write(extent))));
    }
    assert!(stores(&bench).is_empty(), "not before it was looked at here too");
    bench.hear(Event::Local(LocalEvent::Examined { id: seq, found: found(GOOD) }));
    assert_eq!(stores(&bench), [write(extent)]);
}

#[test]
fn what_all_hold_alike_is_sealed_unless_it_was_written_meanwhile() {
    let mut bench = asked(&[1, 2, 3]);
    bench.write(1);
    for extent in [0, 1] {
        answer(&mut bench, extent, &[(1, found(GOOD)), (2, found(GOOD)), (3, found(GOOD))]);
    }
    assert_eq!((seals(&bench, 2), seals(&bench, 3)), (vec![0], vec![0]));
    assert!(bench.effects.contains(&Effect::Local(LocalEffect::Seal { extent: 0, hash: GOOD })));
    finish(&mut bench, &[1, 2, 3]);
    let record = bench.active.examination();
    assert!(record.alike() && record.ended_ms > 0 && record.repaired == 0, "{record:?}");
    assert_eq!(record.compared, [1, 2, 3].into());
}

#[test]
fn a_wrong_copy_is_held_looked_at_again_and_written_anew_under_a_number() {
    let mut bench = asked(&[1, 2, 3]);
    let wrong = [(1, found(GOOD)), (2, found(BAD)), (3, found(GOOD))];
    answer(&mut bench, 2, &wrong);
    assert!(bench.effects.iter().any(|e| matches!(e, Effect::Differs { extent: 2, .. })));
    let first = last_look(&bench, 2);
    let during = bench.write(2);
    assert!(bench.replies(during).is_empty(), "writes to it wait");
    answer(&mut bench, 2, &wrong);
    assert!(last_look(&bench, 2) >= first);
    assert!(bench.effects.contains(&Effect::ReadExtent { extent: 2 }));
    bench.effects.clear();
    let fetched = Fetched { request: REQUEST, from: 1, extent: 2, hash: Some(GOOD) };
    bench.hear(Event::Fetched(fetched));
    assert_eq!(stores(&bench)[..2], [whole_extent(2), write(2)], "first the repair, then who waited");
    for node in [2, 3] {
        let ops = bench
            .sent(node)
            .into_iter()
            .filter_map(|f| if let Frame::Op { op, .. } = f { Some(op) } else { None });
        assert_eq!(ops.collect::<Vec<_>>(), [whole_extent(2), write(2)]);
    }
    acknowledge(&mut bench, &[1, 2, 3]);
    assert_eq!(bench.replies(during), [true]);
    answer(&mut bench, 2, &[(1, found(GOOD)), (2, found(GOOD)), (3, found(GOOD))]);
    let record = bench.active.examination();
    assert_eq!((record.repaired, record.repairs[0].wrong.clone()), (1, vec![2]));
    assert!(record.alike());
}

#[test]
fn the_actives_own_wrong_copy_is_fetched_and_only_the_right_bytes_are_taken() {
    let mut bench = asked(&[1, 2, 3]);
    let wrong = [(1, found(BAD)), (2, found(GOOD)), (3, found(GOOD))];
    answer(&mut bench, 2, &wrong);
    answer(&mut bench, 2, &wrong);
    assert!(bench.sent(2).contains(&Frame::Fetch { extent: 2 }));
    let fetched = |hash| Event::Fetched(Fetched { request: REQUEST, from: 2, extent: 2, hash });
    bench.hear(fetched(Some(BAD)));
    assert!(stores(&bench).is_empty());
    assert_eq!(bench.replies(REQUEST), [false]);
    bench.wait(1);
    answer(&mut bench, 2, &wrong);
    bench.hear(fetched(Some(GOOD)));
    assert_eq!(stores(&bench), [whole_extent(2)]);
}

#[test]
fn of_two_that_differ_nothing_is_changed_and_it_is_told() {
    let mut bench = asked(&[1, 2]);
    let differ = [(1, found(GOOD)), (2, found(BAD))];
    answer(&mut bench, 2, &differ);
    answer(&mut bench, 2, &differ);
    let record = bench.active.examination();
    assert!(record.open[&2].undecided && !record.alike());
    assert!(stores(&bench).is_empty());
    let free = bench.write(2);
    assert_eq!(bench.replies(free), [true], "nothing is held any more");
    finish(&mut bench, &[1, 2]);
    assert!(!bench.active.examination().open.is_empty(), "the pass ends, and goes on telling it");
}

#[test]
fn of_two_one_that_cannot_be_read_or_whose_seal_is_broken_is_written_anew() {
    for bad in [Found { hash: None, seal: Seal::Absent }, Found { hash: Some(BAD), seal: Seal::Broken }] {
        let mut bench = asked(&[1, 2]);
        for _ in 0..2 {
            answer(&mut bench, 2, &[(1, bad), (2, found(GOOD))]);
        }
        assert!(bench.sent(2).contains(&Frame::Fetch { extent: 2 }), "{bad:?}");
    }
}

#[test]
fn a_repair_that_does_not_last_is_given_up_and_told() {
    let mut bench = asked(&[1, 2, 3]);
    let wrong = [(1, found(GOOD)), (2, found(BAD)), (3, found(GOOD))];
    answer(&mut bench, 2, &wrong);
    for _ in 0..5 {
        answer(&mut bench, 2, &wrong);
        bench.hear(Event::Fetched(Fetched { request: REQUEST, from: 1, extent: 2, hash: Some(GOOD) }));
        acknowledge(&mut bench, &[1, 2, 3]);
    }
    let record = bench.active.examination();
    assert!(!record.open[&2].undecided && record.repaired == 0, "{record:?}");
    let free = bench.write(2);
    assert_eq!(bench.replies(free), [true]);
}

#[test]
fn a_member_lost_in_the_midst_of_it_holds_no_write_for_long() {
    let mut bench = asked(&[1, 2, 3]);
    let wrong = [(1, found(GOOD)), (2, found(BAD)), (3, found(GOOD))];
    answer(&mut bench, 2, &wrong);
    let during = bench.write(2);
    assert!(bench.replies(during).is_empty());
    bench.close(3);
    bench.hear(Event::Local(LocalEvent::Examined { id: last_look(&bench, 2), found: found(GOOD) }));
    bench.wait(1);
    assert_eq!(bench.replies(during), [true]);
}

#[test]
fn it_waits_for_writers_but_not_for_ever_and_never_begins_while_somebody_catches_up() {
    let mut bench = asked(&[1, 2]);
    finish(&mut bench, &[1, 2]);
    bench.effects.clear();
    let due = Record { pass: 2, running: true, next: 5, began_ms: 1_000_000_000_000, ..Record::default() };
    go_on(&mut bench, due.clone());
    bench.write(0);
    let began = looks(&bench).len();
    for _ in 0..30 {
        bench.wait(100);
        bench.write(0);
        bench.acknowledge(2);
    }
    assert_eq!(looks(&bench).len(), began, "a writer is busy");
    for _ in 0..30 {
        bench.wait(100);
        bench.write(0);
        bench.acknowledge(2);
    }
    assert_eq!(looks(&bench).len(), began + 1, "one extent all the same");
    assert_eq!(looks(&bench)[began].1, 5, "where it was noted");

    let mut bench = Bench::try_new(config(&[1, 2, 3], &[1, 2]), image(1, &[])).unwrap();
    bench.connect(2, image(2, &[]));
    bench.acknowledge(2);
    let mut without_map = image(3, &[]);
    without_map.header.line = 0;
    bench.connect(3, without_map);
    go_on(&mut bench, due);
    for _ in 0..3 {
        bench.wait(300);
        bench.acknowledge(2);
        bench.say(3, Frame::Ack { frames: 0, durable: 0 });
    }
    assert!(looks(&bench).is_empty(), "3 catches up");
}

#[test]
fn how_far_it_is_goes_to_every_replica_and_the_next_pass_waits_for_its_week() {
    let mut bench = asked(&[1, 2, 3]);
    finish(&mut bench, &[1, 2, 3]);
    let last = |frames: Vec<Frame>| {
        frames.into_iter().filter_map(|f| if let Frame::Progress(r) = f { Some(r) } else { None }).next_back()
    };
    let noted = last(bench.sent(3)).unwrap();
    assert_eq!(Some(noted.clone()), last(bench.sent(2)));
    assert!(!noted.running && noted.pass == 2 && noted.next == EXTENTS, "{noted:?}");
    assert!(bench.effects.contains(&Effect::Local(LocalEffect::Note(noted.clone()))));
    bench.effects.clear();
    bench.now_ms = 6 * 24 * 3600 * 1000;
    bench.hear(Event::Lease { until_ms: u64::MAX });
    assert!(looks(&bench).is_empty());
    let later = Record { began_ms: noted.began_ms - Pace::default().pass_every_ms, ..noted };
    let mut bench = Bench::try_new(config(&[1], &[1]), image(1, &[])).unwrap();
    go_on(&mut bench, later);
    bench.wait(1000);
    bench.wait(1000);
    assert_eq!(looks(&bench).len(), 1);
    assert_eq!(bench.active.examination().pass, 3);
}

#[test]
fn who_takes_the_device_away_does_not_wait_for_it() {
    let mut bench = asked(&[1, 2, 3]);
    answer(&mut bench, 2, &[(1, found(GOOD)), (2, found(BAD)), (3, found(GOOD))]);
    let during = bench.write(2);
    bench.hear(Event::Detach);
    bench.wait(1);
    assert!(stores(&bench).is_empty(), "the look comes first");
    bench.hear(Event::Local(LocalEvent::Examined { id: last_look(&bench, 2), found: found(GOOD) }));
    for _ in 0..3 {
        acknowledge(&mut bench, &[1, 2, 3]);
        bench.wait(1);
    }
    assert_eq!(bench.replies(during), [true]);
    for id in looks(&bench).into_iter().map(|(id, _)| id) {
        bench.hear(Event::Local(LocalEvent::Examined { id, found: found(GOOD) }));
    }
    acknowledge(&mut bench, &[1, 2, 3]);
    assert!(bench.effects.contains(&Effect::Detached));
    assert!(bench.active.is_idle());
    assert_eq!(bench.active.examination().next, 0, "the next active looks at what was under way");
}

#[test]
fn a_replica_looks_between_what_came_before_and_what_came_after_and_seals_only_what_is_settled() {
    let mut follower = Follower::start(image(2, &[]), Limits::default());
    let mut handle = 0;
    let mut hear = |follower: &mut Follower, frame: Frame| {
        handle += 1;
        (handle, follower.handle(0, FollowerEvent::Frame { session: 1, handle, frame }))
    };
    let local = |effects: Vec<FollowerEffect>| {
        let local =
            effects.into_iter().filter_map(|e| if let FollowerEffect::Local(l) = e { Some(l) } else { None });
        local.collect::<Vec<_>>()
    };
    let hello = Frame::Hello {
        version: WIRE_VERSION,
        volume: name(),
        epoch: EPOCH,
        active: 1,
        replica: id_of(2),
        size_bytes: SIZE,
    };
    hear(&mut follower, hello);
    follower.handle(0, FollowerEvent::Local(LocalEvent::HeaderSaved));
    hear(&mut follower, Frame::Begin { torn: false });
    let (store, _) = hear(&mut follower, Frame::Op { seq: 2, op: write(3) });
    let (look, effects) = hear(&mut follower, Frame::Examine { seq: 3, extent: 3 });
    assert!(local(effects).is_empty(), "the write before is not stored");
    let (later, _) = hear(&mut follower, Frame::Op { seq: 4, op: write(3) });
    follower.handle(0, FollowerEvent::Local(LocalEvent::Marked));
    let effects = follower.handle(0, FollowerEvent::Local(LocalEvent::Stored { id: store }));
    assert_eq!(local(effects), [LocalEffect::Examine { id: look, extent: 3 }]);
    let effects =
        follower.handle(0, FollowerEvent::Local(LocalEvent::Examined { id: look, found: found(GOOD) }));
    assert!(effects.contains(&FollowerEffect::Send {
        session: 1,
        frame: Frame::Examined { seq: 3, found: found(GOOD) }
    }));
    assert_eq!(local(effects), [LocalEffect::Store { id: later, op: write(3) }]);
    let (_, effects) = hear(&mut follower, Frame::Seal { extent: 3, hash: GOOD });
    assert!(local(effects).is_empty(), "its last write may not be durable everywhere");
    let (_, effects) = hear(&mut follower, Frame::Seal { extent: 4, hash: GOOD });
    assert_eq!(local(effects), [LocalEffect::Seal { extent: 4, hash: GOOD }]);
    let (_, effects) = hear(&mut follower, Frame::Fetch { extent: 3 });
    assert!(effects.is_empty(), "the write before is not stored");
    let effects = follower.handle(0, FollowerEvent::Local(LocalEvent::Stored { id: later }));
    let extent = Frame::Extent { extent: 3, len: EXTENT_BYTES, hole: false };
    assert!(effects.contains(&FollowerEffect::Send { session: 1, frame: extent }));
}

#[test]
fn frames_of_the_search_survive_their_encoding() {
    let open: BTreeMap<_, _> = asked(&[1]).active.examination().open.clone();
    let frames = [
        Frame::Examined { seq: 7, found: found(GOOD) },
        Frame::Extent { extent: 7, len: 5, hole: false },
        Frame::Progress(Record { pass: 3, open, ..Record::default() }),
    ];
    for frame in frames {
        let bytes = postcard::to_stdvec(&frame).unwrap();
        assert_eq!(postcard::from_bytes::<Frame>(&bytes), Ok(frame));
    }
    assert_eq!(Frame::Extent { extent: 7, len: 5, hole: false }.payload(), 5);
}
