//! Catch-up in three grades: the ring after a short absence, the dirty-extent map after a long one,
//! comparison of everything when the map cannot be trusted.

use crate::bench::{Bench, EPOCH, config, image};
use crate::small::{Action, Budget, Small};
use std::collections::BTreeSet;
use thermidor_model::NodeId;
use thermidor_model::replication::{
    Answer, DeviceOp, Effect, Event, Frame, Grade, Image, LocalEffect, Op, OpKind, Rules,
};
use thermidor_model::state::Volume;

/// What of the replica differs, played by hand: everything that was written since it left.
fn compare(bench: &mut Bench, node: NodeId, differing: &[u64]) -> BTreeSet<u64> {
    let mut asked = BTreeSet::new();
    while let Some(Frame::AskHashes { extents }) = bench.sent(node).into_iter().rev().find(of_catch_up)
        && !extents.iter().all(|extent| asked.contains(extent))
    {
        asked.extend(extents.iter().copied());
        bench.say(node, Frame::Hashes { hashes: extents.iter().map(|x| (*x, [0; 32])).collect() });
        let differing = extents.into_iter().filter(|x| differing.contains(x)).collect();
        bench.hear(Event::Compared { replica: node, session: node, differing });
        bench.say(node, Frame::Ack { frames: 1000, durable: 0 });
    }
    asked
}

fn of_catch_up(frame: &Frame) -> bool {
    matches!(frame, Frame::AskHashes { .. })
}

fn grade(bench: &Bench, node: NodeId) -> Option<Grade> {
    bench.active.progress()[&node].grade
}

/// 3 is away and was dropped; what it made durable last.
fn without_three() -> (Bench, u64) {
    let mut bench = Bench::of_three();
    let durable = bench.last_flush(3);
    bench.close(3);
    bench.wait(400);
    bench.acknowledge(2);
    bench.wait(100);
    bench.hear(Event::Answered(Answer::Set(11)));
    assert!(!bench.active.in_sync().contains(&3));
    bench.effects.clear();
    (bench, durable)
}

/// 3 as it left: of the present epoch, durable up to there.
fn as_it_left(durable: u64) -> Image {
    let mut back = image(3, &[]);
    (back.header.promised, back.header.epoch, back.header.durable_seq) = (EPOCH, EPOCH, durable);
    back
}

/// The image of radiator 1 is taken over by a new epoch, as after its process was killed.
fn again(mut bench: Bench) -> Bench {
    bench.acknowledge(2);
    let epoch = EPOCH + 1;
    let next = Volume { epoch, in_sync: [1, 2].into(), set_version: 20, ..bench.config.clone() };
    bench.hear(Event::Config(next.clone()));
    assert!(bench.active.is_idle());
    let mut bench = Bench::try_new(next, bench.active.into_image()).unwrap();
    let mut second = image(2, &[]);
    (second.header.promised, second.header.epoch) = (EPOCH, EPOCH);
    bench.connect(2, second);
    compare(&mut bench, 2, &[]);
    bench.acknowledge(2);
    bench
}

#[test]
fn after_a_short_absence_a_replica_gets_what_it_missed_from_the_ring() {
    let (mut bench, durable) = without_three();
    bench.write(2);
    bench.connect(3, as_it_left(durable));
    assert_eq!(grade(&bench, 3), Some(Grade::Ring));
    let sent = bench.sent(3);
    assert!(sent.iter().any(|frame| matches!(frame, Frame::Op { .. })), "{sent:?}");
    assert!(bench.copied(3).is_empty() && !sent.iter().any(of_catch_up));
}

#[test]
fn after_a_long_absence_exactly_the_extents_written_meanwhile_are_copied() {
    let (mut bench, durable) = without_three();
    let written = [2, 5, 9, 10, 14];
    for block in written {
        bench.write(block);
    }
    bench.connect(3, as_it_left(durable));
    assert_eq!(grade(&bench, 3), Some(Grade::Map));
    bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
    bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
    assert_eq!(bench.copied(3), written.into());
    assert!(!bench.sent(3).iter().any(of_catch_up), "nothing is compared");
}

#[test]
fn the_map_survives_a_restart_of_the_active() {
    let (mut bench, durable) = without_three();
    let written = [2, 5, 9, 10, 14];
    for block in written {
        bench.write(block);
    }
    bench.flush();
    let mut bench = again(bench);
    bench.write(7);
    bench.connect(3, as_it_left(durable));
    assert_eq!(grade(&bench, 3), Some(Grade::Map));
    let asked = compare(&mut bench, 3, &written);
    assert_eq!(asked, written.into(), "only those are looked at");
    bench.wait(100);
    bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
    assert_eq!(bench.copied(3), [2, 5, 7, 9, 10, 14].into());
}

#[test]
fn what_the_returning_replica_was_written_itself_is_looked_at_too() {
    let (bench, durable) = without_three();
    let mut bench = again(bench);
    let mut back = as_it_left(durable);
    back.noted.insert(12);
    back.marked.insert(13);
    bench.connect(3, back);
    assert_eq!(compare(&mut bench, 3, &[12]), [12, 13].into());
    assert_eq!(bench.copied(3), [12].into());
}

#[test]
fn a_map_that_was_lost_means_that_everything_is_compared() {
    let all: BTreeSet<u64> = (0..16).collect();
    let (mut bench, durable) = without_three();
    bench.write(2);
    let mut bench = again(bench);
    let mut back = as_it_left(durable);
    (back.header.line, back.noted) = (0, BTreeSet::new());
    bench.connect(3, back);
    assert_eq!(grade(&bench, 3), Some(Grade::Compare));
    assert_eq!(compare(&mut bench, 3, &[2]), all);
    assert_eq!(bench.copied(3), [2].into());
    // The active's own map: it begins a line, and nobody else is of it.
    let mut lost = image(1, &[]);
    lost.header.line = 0;
    let mut bench = Bench::try_new(config(&[1, 2, 3], &[1, 2]), lost).unwrap();
    bench.connect(2, image(2, &[]));
    bench.acknowledge(2);
    let mut back = image(3, &[]);
    back.header.epoch = EPOCH - 2;
    bench.connect(3, back);
    assert_eq!(grade(&bench, 3), Some(Grade::Compare));
    assert_eq!(compare(&mut bench, 3, &[]), all);
}

#[test]
fn who_is_of_another_line_takes_the_actives_map_with_the_flush_that_settles_it() {
    let (mut bench, durable) = without_three();
    bench.write(2);
    let mut bench = again(bench);
    let mut back = as_it_left(durable);
    back.header.line = 77;
    bench.connect(3, back);
    compare(&mut bench, 3, &[2]);
    bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
    let sent = bench.sent(3);
    let [.., Frame::Map { line: 1, noted }, Frame::Flush { .. }] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(noted.within(16).collect::<Vec<_>>(), [2]);
}

#[test]
fn an_extent_leaves_the_map_once_every_replica_has_it_and_not_before() {
    let forgotten = |bench: &Bench| {
        let of = |effect: &Effect| match effect {
            Effect::Local(LocalEffect::Mark { forget, .. }) => Some(forget.clone()),
            _ => None,
        };
        bench.effects.iter().filter_map(of).flatten().collect::<BTreeSet<u64>>()
    };
    let detach = |mut bench: Bench| {
        bench.write(2);
        bench.effects.clear();
        bench.hear(Event::Detach);
        for _ in 0..3 {
            bench.acknowledge(2);
            bench.acknowledge(3);
        }
        assert!(bench.effects.contains(&Effect::Detached));
        (forgotten(&bench), bench.active.into_image().noted)
    };
    assert_eq!(detach(Bench::of_three()), ([2].into(), [].into()));
    assert_eq!(detach(without_three().0), ([].into(), [2].into()), "3 does not have it");
}

#[test]
fn whoever_takes_over_knows_what_was_written_while_another_was_away() {
    let write = |block: u64| {
        let offset = block * crate::disk::BLOCK;
        DeviceOp::Change(Op { kind: OpKind::Write, offset, len: crate::disk::BLOCK })
    };
    let script = [write(0), DeviceOp::Flush, write(4), DeviceOp::Flush];
    let mut home = Small::new(3, 3, &script, Budget::default(), Rules::default());
    let ask = |home: &mut Small| {
        for _ in 0..2 {
            home.act(Action::Ask);
            home.settle();
        }
    };
    ask(&mut home);
    home.lose(3);
    ask(&mut home);
    home.activate(2);
    home.settle();
    assert_eq!(home.attached(), Some(2));
    assert_eq!(home.grade(2, 3), Some(Grade::Map));
    home.allow(Budget { connects: 1, ..Budget::default() });
    home.act(Action::Connect { from: 2, to: 1 });
    assert_eq!(home.grade(2, 1), None, "it has not said yet what it holds");
    home.settle();
    assert_eq!(home.grade(2, 1), Some(Grade::Map), "the old active too, which the failover took out");
    assert_eq!(home.disk(3).read(4), home.disk(2).read(4));
    assert_eq!(home.heal(), Ok(()));
}

#[test]
fn a_replica_that_is_made_takes_no_part_in_the_map_until_it_has_settled() {
    let join = |home: &Small| matches!(home.grade(1, 3), Some(Grade::Compare));
    let mut home = Small::new(3, 2, &[], Budget { connects: 1, ..Budget::default() }, Rules::default());
    if let Some(connect) = home.actions().into_iter().find(|a| matches!(a, Action::Connect { to: 3, .. })) {
        home.act(connect);
    }
    home.settle();
    assert!(join(&home), "everything is compared");
    assert_eq!(home.disk(3).header.line, home.disk(1).header.line);
    assert!(home.volume().in_sync.contains(&3));
}

#[test]
fn a_catch_up_takes_its_share_while_the_device_is_written_and_all_it_can_beside_an_idle_one() {
    let (mut bench, durable) = without_three();
    for block in 0..16 {
        bench.write(block);
    }
    bench.wait(100);
    bench.write(0);
    bench.connect(3, as_it_left(durable));
    let copied = |bench: &mut Bench, bytes: u64| {
        let before = bench.copied(3).len();
        for _ in 0..10 {
            if bytes > 0 {
                let op = Op { kind: OpKind::Write, offset: 0, len: bytes };
                bench.ask(DeviceOp::Change(op));
            }
            bench.acknowledge(2);
            bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
        }
        bench.copied(3).len() - before
    };
    let ahead = copied(&mut bench, 4096) + bench.copied(3).len();
    assert!(ahead <= 10, "some may be ahead: {ahead}");
    let before = bench.copied(3).len();
    assert_eq!(copied(&mut bench, 4096), 0, "the device writes little, so little is copied");
    assert_eq!(copied(&mut bench, 1 << 19), 5, "half of what is sent is the device's");
    bench.wait(100);
    copied(&mut bench, 0);
    assert_eq!(bench.copied(3).len(), 16, "{before}: beside an idle device all goes");
}

#[test]
fn progress_says_how_much_is_done_how_fast_and_how_long_it_takes() {
    let (mut bench, durable) = without_three();
    for block in 0..16 {
        bench.write(block);
    }
    bench.wait(100);
    bench.connect(3, as_it_left(durable));
    let begun = bench.active.progress()[&3].clone();
    assert_eq!((begun.extents_total, begun.extents_left, begun.seconds_left), (16, 16, None));
    bench.wait(2000);
    bench.say(3, Frame::Ack { frames: 4, durable: 0 });
    let on = bench.active.progress()[&3].clone();
    assert_eq!((on.extents_total, on.extents_left), (16, 12));
    assert_eq!((on.bytes_per_s, on.seconds_left), (2 << 20, Some(6)));
}
