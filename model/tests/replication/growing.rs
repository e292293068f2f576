//! One scenario per sentence on a device that grows.

use crate::bench::{Bench, EPOCH, SIZE, config, image};
use crate::one_replica::{Replica, local, sent};
use thermidor_model::command::Command;
use thermidor_model::replication::{
    Answer, EXTENT_BYTES, Effect, Event, FollowerEvent, Frame, Grade, LocalEffect, LocalEvent, Op, OpKind,
    Refusal,
};
use thermidor_model::state::Volume;

const NOT_YET: [bool; 0] = [];
const LONGER: u64 = 2 * SIZE;
const BEYOND: u64 = SIZE / EXTENT_BYTES;

fn write(extent: u64) -> Op {
    Op { kind: OpKind::Write, offset: extent * EXTENT_BYTES, len: 4096 }
}

fn grow(size_bytes: u64) -> Frame {
    Frame::Grow { size_bytes }
}

#[test]
fn what_is_flushed_beyond_the_old_end_is_on_every_member() {
    let mut bench = Bench::of_three();
    // The record wants it first; what is served is as long as the image here.
    bench.hear(Event::Config(Volume { size_bytes: LONGER, ..bench.config.clone() }));
    bench.hear(Event::Connected { replica: 2, session: 2 });
    assert!(matches!(bench.sent(2).last(), Some(Frame::Hello { size_bytes: SIZE, .. })));
    bench.connect(2, image(2, &[]));
    bench.acknowledge(2);
    bench.effects.clear();
    bench.hear(Event::Grow { size_bytes: LONGER });
    for node in [2, 3] {
        assert_eq!(bench.sent(node), [grow(LONGER)], "in the stream: nobody is dropped for it");
    }
    bench.write(BEYOND);
    let flush = bench.flush();
    bench.acknowledge(2);
    assert_eq!(bench.replies(flush), NOT_YET, "3 has not said that it has it");
    bench.say(3, Frame::Refused(Refusal::Foreign("no room".into())));
    for _ in 0..2 {
        bench.wait(300);
        bench.acknowledge(2);
    }
    assert_eq!(bench.replies(flush), NOT_YET, "3 is still a member");
    let dropped = |command: &Command| matches!(command, Command::DropFromSet { node: 3, .. });
    assert!(bench.proposed().iter().all(dropped) && !bench.proposed().is_empty(), "{:?}", bench.proposed());
    bench.hear(Event::Answered(Answer::Set(11)));
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn a_replica_that_was_away_hears_of_it_when_it_is_greeted() {
    let mut bench = Bench::of_three();
    bench.close(3);
    bench.hear(Event::Grow { size_bytes: LONGER });
    bench.write(BEYOND);
    bench.effects.clear();
    let mut back = image(3, &[]);
    (back.header.size_bytes, back.header.promised) = (LONGER, EPOCH);
    bench.connect(3, back);
    assert!(matches!(bench.sent(3)[0], Frame::Hello { size_bytes: LONGER, .. }));
    assert!(bench.copied(3).contains(&BEYOND), "{:?}", bench.sent(3));
}

#[test]
fn nothing_is_stored_before_the_image_is_durably_as_long() {
    let mut replica = Replica::following(image(2, &[]), false);
    replica.follower.handle(0, FollowerEvent::Room { size_bytes: LONGER });
    let effects = replica.hear(1, grow(LONGER));
    let [LocalEffect::SaveHeader { header, .. }] = &local(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(header.size_bytes, LONGER);
    let begun = replica.hear(1, Frame::Op { seq: 2, op: write(BEYOND) });
    assert_eq!(local(&begun), [], "neither marked nor stored");
    let effects = replica.disk(LocalEvent::HeaderSaved);
    assert!(matches!(local(&effects)[..], [LocalEffect::Mark { .. }]), "{effects:?}");
    let effects = replica.disk(LocalEvent::Marked);
    assert!(matches!(local(&effects)[..], [LocalEffect::Store { .. }]), "{effects:?}");
    // The same on the active.
    let mut bench = Bench::of_three();
    bench.hear(Event::Grow { size_bytes: LONGER });
    bench.write(BEYOND);
    let at = |wanted: fn(&Effect) -> bool| bench.effects.iter().position(wanted).unwrap();
    let saved = at(
        |e| matches!(e, Effect::Local(LocalEffect::SaveHeader { header, .. }) if header.size_bytes == LONGER),
    );
    assert!(saved < at(|e| matches!(e, Effect::Local(LocalEffect::Store { .. }))));
}

#[test]
fn a_replica_without_room_refuses_and_follows_once_there_is_some() {
    let mut replica = Replica::following(image(2, &[]), false);
    let effects = replica.hear(1, grow(LONGER));
    let [Frame::Refused(Refusal::Foreign(words))] = &sent(&effects)[..] else { panic!("{effects:?}") };
    assert!(words.contains("can't become as long"), "{words}");
    let effects = replica.hello_of(2, EPOCH, LONGER);
    assert!(matches!(sent(&effects)[..], [Frame::Refused(Refusal::Foreign(_))]), "{effects:?}");
    replica.follower.handle(0, FollowerEvent::Room { size_bytes: LONGER });
    let effects = replica.hello_of(3, EPOCH, LONGER);
    assert!(sent(&effects).is_empty(), "not before the image is as long: {effects:?}");
    let effects = replica.disk(LocalEvent::HeaderSaved);
    let [Frame::Present { header, .. }] = &sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(header.size_bytes, LONGER);
}

#[test]
fn a_take_over_by_a_replica_that_has_not_grown_cuts_the_others_off_where_it_ends() {
    let mut long = image(2, &[3, BEYOND + 1]);
    long.header.size_bytes = LONGER;
    let mut replica = Replica::new(long);
    let effects = replica.hello_of(1, EPOCH, SIZE);
    let [LocalEffect::SaveHeader { header, .. }] = &local(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((header.size_bytes, header.promised), (SIZE, EPOCH));
    let effects = replica.disk(LocalEvent::HeaderSaved);
    let [Frame::Present { marked, noted, .. }] = &sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(marked, &[3], "what lies beyond is gone");
    assert_eq!(noted.within(LONGER / EXTENT_BYTES).collect::<Vec<_>>(), [3]);
    replica.hear(1, Frame::Begin { torn: false });
    // Within an epoch no device becomes shorter: that is an old greeting.
    replica.follower.handle(0, FollowerEvent::Room { size_bytes: LONGER });
    replica.hear(1, grow(LONGER));
    replica.disk(LocalEvent::HeaderSaved);
    let effects = replica.hello_of(2, EPOCH, SIZE);
    assert!(matches!(sent(&effects)[..], [Frame::Refused(Refusal::Foreign(_))]), "{effects:?}");
    assert_eq!(replica.follower.header().size_bytes, LONGER);
}

#[test]
fn what_is_beyond_the_end_of_the_active_is_neither_compared_nor_copied() {
    let mut bench = Bench::of_three();
    bench.close(2);
    bench.effects.clear();
    let mut long = image(2, &[2, BEYOND + 1]);
    long.header.promised = EPOCH;
    bench.connect(2, long);
    let asked = bench.sent(2).into_iter().find_map(|frame| match frame {
        Frame::AskHashes { extents } => Some(extents),
        _ => None,
    });
    assert_eq!(asked, Some(vec![2]));
}

#[test]
fn a_comparison_that_is_under_way_goes_on_to_the_new_end() {
    let size_bytes = 100 * EXTENT_BYTES;
    let mut mine = image(1, &[]);
    mine.header.size_bytes = size_bytes;
    let record = Volume { size_bytes, ..config(&[1, 2], &[1]) };
    let mut bench = Bench::try_new(record, mine).unwrap();
    let mut stranger = image(2, &[]);
    (stranger.header.line, stranger.header.epoch, stranger.header.size_bytes) = (77, 1, size_bytes);
    bench.connect(2, stranger);
    let progress = bench.active.progress()[&2].clone();
    assert_eq!((progress.grade, progress.extents_left), (Some(Grade::Compare), 100));
    let all = 130;
    bench.hear(Event::Grow { size_bytes: all * EXTENT_BYTES });
    let mut asked = 0;
    for _ in 0..10 {
        let last = bench.sent(2).into_iter().rev().find_map(|frame| match frame {
            Frame::AskHashes { extents } => Some(extents),
            _ => None,
        });
        asked = last.unwrap().last().copied().unwrap() + 1;
        bench.hear(Event::Compared { replica: 2, session: 2, differing: vec![] });
    }
    assert_eq!(asked, all);
    assert_eq!(bench.active.progress()[&2].extents_left, 0);
}
