//! One scenario per sentence of DESIGN.md's "Volumes", on the active's side.

use crate::bench::{Bench, EPOCH, config, id_of, image, write};
use thermidor_model::ReplicaId;
use thermidor_model::command::Command;
use thermidor_model::replication::{
    Answer, CannotServe, DeviceOp, Effect, Event, Frame, LocalEffect, LocalEvent,
};

const NOT_YET: [bool; 0] = [];

#[test]
fn operations_are_numbered_and_streamed_at_once_in_order() {
    let mut bench = Bench::of_three();
    bench.slow = true;
    bench.write(0);
    bench.flush();
    bench.write(1);
    let numbers = |frames: Vec<Frame>| {
        let number = |frame: Frame| match frame {
            Frame::Op { seq, .. } | Frame::Flush { seq, .. } => Some(seq),
            _ => None,
        };
        frames.into_iter().filter_map(number).collect::<Vec<_>>()
    };
    let sent = numbers(bench.sent(2));
    assert_eq!(sent.len(), 3, "nothing waited for the disk");
    assert!(sent.is_sorted() && sent == numbers(bench.sent(3)));
}

#[test]
fn a_flush_is_answered_when_every_in_sync_member_has_persisted_up_to_it() {
    let mut bench = Bench::of_three();
    bench.write(0);
    let flush = bench.flush();
    bench.acknowledge(2);
    assert_eq!(bench.replies(flush), NOT_YET);
    bench.acknowledge(3);
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn a_flush_waits_for_the_local_disk_too() {
    let mut bench = Bench::of_three();
    bench.slow = true;
    bench.write(0);
    let flush = bench.flush();
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert_eq!(bench.replies(flush), NOT_YET);
    let id = bench.last_flush(2);
    bench.hear(Event::Local(LocalEvent::Synced { id }));
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn a_silent_member_is_dropped_through_raft_first_then_the_flush_is_answered() {
    let mut bench = Bench::of_three();
    bench.write(0);
    let flush = bench.flush();
    bench.wait(400);
    bench.acknowledge(2);
    bench.wait(100);
    let drop = Command::DropFromSet { volume: crate::bench::name(), epoch: EPOCH, set_was: 10, node: 3 };
    assert_eq!(bench.proposed(), [drop]);
    assert_eq!(bench.replies(flush), NOT_YET, "proposed is not applied");
    bench.hear(Event::Answered(Answer::Set(11)));
    assert_eq!(bench.replies(flush), [true]);
    assert!(!bench.active.in_sync().contains(&3));
}

#[test]
fn the_active_acts_on_the_applied_answer_not_on_commit() {
    let mut bench = Bench::of_three();
    bench.write(0);
    let flush = bench.flush();
    bench.wait(400);
    bench.acknowledge(2);
    bench.wait(100);
    bench.hear(Event::Answered(Answer::Refused));
    assert_eq!(bench.replies(flush), NOT_YET, "committed, and refused by apply");
    let mut applied = bench.config.clone();
    applied.set_version = 12;
    bench.hear(Event::Config(applied.clone()));
    assert_eq!(bench.replies(flush), NOT_YET);
    applied.set_version = 13;
    applied.in_sync.remove(&3);
    bench.hear(Event::Config(applied));
    assert_eq!(bench.replies(flush), [true]);
}

/// 2 in sync, 3 a replica that has caught up and is proposed.
fn joining() -> Bench {
    let mut bench = Bench::try_new(config(&[1, 2, 3], &[1, 2]), image(1, &[])).unwrap();
    bench.connect(2, image(2, &[]));
    bench.acknowledge(2);
    bench.connect(3, image(3, &[]));
    while let Some(Frame::AskHashes { extents }) = bench.sent(3).pop() {
        bench.say(3, Frame::Hashes { hashes: extents.into_iter().map(|x| (x, [0; 32])).collect() });
        bench.hear(Event::Compared { replica: 3, session: 3, differing: vec![] });
    }
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert!(matches!(bench.proposed()[..], [Command::JoinSet { node: 3, set_was: 10, .. }]));
    bench
}

#[test]
fn an_addition_whose_outcome_is_unknown_counts_as_in() {
    let mut bench = joining();
    bench.hear(Event::Answered(Answer::Unknown));
    bench.close(3);
    bench.write(0);
    let flush = bench.flush();
    bench.acknowledge(2);
    assert_eq!(bench.replies(flush), NOT_YET, "it may be in by now");
    bench.wait(300);
    assert!(
        matches!(bench.proposed()[..], [_, Command::JoinSet { node: 3, set_was: 10, .. }]),
        "asked again"
    );
    let mut applied = bench.config.clone();
    applied.set_version = 11;
    bench.hear(Event::Config(applied));
    assert_eq!(bench.replies(flush), [true], "another change came first: it can be in no more");
}

#[test]
fn a_member_that_joined_is_waited_for() {
    let mut bench = joining();
    bench.hear(Event::Answered(Answer::Set(11)));
    bench.write(0);
    let flush = bench.flush();
    bench.acknowledge(2);
    assert_eq!(bench.replies(flush), NOT_YET);
    bench.acknowledge(3);
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn a_new_epoch_copies_what_is_marked_on_any_replica_before_its_first_flush() {
    let mut bench = Bench::try_new(config(&[1, 2], &[1, 2]), image(1, &[3])).unwrap();
    bench.connect(2, image(2, &[7]));
    let flush = bench.flush();
    let asked = bench.sent(2).pop();
    assert_eq!(asked, Some(Frame::AskHashes { extents: vec![3, 7] }));
    assert_eq!(bench.last_flush(2), 0, "it lacks something yet");
    bench.say(2, Frame::Hashes { hashes: vec![(3, [1; 32]), (7, [1; 32])] });
    bench.hear(Event::Compared { replica: 2, session: 2, differing: vec![7] });
    assert_eq!(bench.copied(2), [7].into());
    assert_eq!(bench.replies(flush), NOT_YET);
    bench.acknowledge(2);
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn what_is_written_while_it_is_compared_is_copied() {
    let mut bench = Bench::try_new(config(&[1, 2], &[1, 2]), image(1, &[3])).unwrap();
    bench.connect(2, image(2, &[]));
    bench.write(3);
    bench.say(2, Frame::Hashes { hashes: vec![(3, [1; 32])] });
    bench.hear(Event::Compared { replica: 2, session: 2, differing: vec![] });
    assert_eq!(bench.copied(2), [3].into());
}

#[test]
fn a_foreign_image_is_not_that_member() {
    let mut bench = Bench::try_new(config(&[1, 2], &[1, 2]), image(1, &[])).unwrap();
    let mut foreign = image(2, &[]);
    foreign.header.replica = ReplicaId(9);
    bench.connect(2, foreign);
    assert!(matches!(bench.effects.last(), Some(Effect::Close { replica: 2, .. })));
    bench.wait(500);
    assert!(matches!(bench.proposed()[..], [Command::DropFromSet { node: 2, .. }]));
}

#[test]
fn a_member_with_a_disk_error_leaves_the_set() {
    let mut bench = Bench::of_three();
    bench.say(3, Frame::Failed { error: "EIO".into() });
    assert!(matches!(bench.proposed()[..], [Command::DropFromSet { node: 3, .. }]), "at once");
}

#[test]
fn a_disk_error_on_the_active_fails_everything_from_then_on_and_marks_the_image() {
    let mut bench = Bench::of_three();
    bench.slow = true;
    bench.write(0);
    let flush = bench.flush();
    bench.hear(Event::Local(LocalEvent::Failed { error: "EIO".into() }));
    assert_eq!(bench.replies(flush), [false]);
    assert!(bench.fenced().unwrap().contains("EIO"));
    let later = bench.write(1);
    assert_eq!(bench.replies(later), [false], "sticky");
    assert!(bench.active.is_idle());
    let image = bench.active.into_image();
    assert!(image.header.failed);
    let again = thermidor_model::state::Volume { epoch: EPOCH + 1, ..bench.config };
    assert_eq!(Bench::try_new(again, image).err(), Some(CannotServe::Failed));
}

#[test]
fn a_replica_that_comes_back_resumes_from_its_durable_number() {
    let mut bench = Bench::of_three();
    bench.write(0);
    bench.flush();
    bench.acknowledge(2);
    bench.acknowledge(3);
    let durable = bench.last_flush(3);
    bench.write(1);
    bench.say(3, Frame::Ack { frames: 1000, durable });
    bench.close(3);
    bench.effects.clear();
    let mut back = image(3, &[0, 1]);
    (back.header.epoch, back.header.promised, back.header.durable_seq) = (EPOCH, EPOCH, durable);
    bench.connect(3, back);
    let sent = bench.sent(3);
    assert!(
        matches!(&sent[1..], [Frame::Begin { torn: false }, Frame::Op { op, .. }, ..] if *op == write(1)),
        "{sent:?}"
    );
}

#[test]
fn one_that_the_ring_does_not_cover_gets_the_extents_while_writes_go_on_and_joins() {
    let mut bench = Bench::of_three();
    let durable = bench.last_flush(3).max(1);
    bench.close(3);
    bench.wait(400);
    bench.acknowledge(2);
    bench.wait(100);
    bench.hear(Event::Answered(Answer::Set(11)));
    for block in 0..8 {
        bench.write(block);
    }
    bench.effects.clear();
    let mut back = image(3, &[]);
    (back.header.epoch, back.header.promised, back.header.durable_seq) = (EPOCH, EPOCH, durable);
    bench.connect(3, back);
    assert!(bench.sent(3).contains(&Frame::Begin { torn: true }));
    let during = bench.write(9);
    assert_eq!(bench.replies(during), [true]);
    bench.wait(100);
    for _ in 0..4 {
        bench.say(3, Frame::Ack { frames: 1000, durable: 0 });
    }
    assert_eq!(bench.copied(3), (0..8).collect());
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert!(matches!(bench.proposed()[..], [Command::JoinSet { node: 3, set_was: 11, .. }]));
}

#[test]
fn without_its_lease_nothing_is_answered() {
    let mut bench = Bench::of_three();
    bench.hear(Event::Lease { until_ms: 700 });
    bench.write(0);
    let flush = bench.flush();
    bench.now_ms = 700;
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert_eq!(bench.replies(flush), [false]);
    assert!(!bench.active.serving(699));
}

#[test]
fn a_newer_epoch_ends_it() {
    let mut bench = Bench::of_three();
    bench.say(2, Frame::Refused(thermidor_model::replication::Refusal::OldEpoch(EPOCH + 1)));
    assert!(bench.fenced().unwrap().contains("epoch 6"));
    let mut bench = Bench::of_three();
    bench.hear(Event::Config(thermidor_model::state::Volume { epoch: EPOCH + 1, ..bench.config.clone() }));
    assert!(bench.fenced().is_some());
}

#[test]
fn who_cannot_prove_id_and_epoch_does_not_take_over() {
    let volume = config(&[1], &[1]);
    let start = |change: fn(&mut thermidor_model::replication::ImageHeader)| {
        let mut image = image(1, &[]);
        change(&mut image.header);
        Bench::try_new(config(&[1], &[1]), image).err()
    };
    assert_eq!(start(|_| {}), None);
    assert!(matches!(start(|h| h.replica = id_of(2)), Some(CannotServe::Foreign { .. })));
    assert_eq!(start(|h| h.torn = true), Some(CannotServe::Torn));
    assert_eq!(start(|h| h.promised = EPOCH), Some(CannotServe::EpochUsed { epoch: EPOCH, promised: EPOCH }));
    let nobody = thermidor_model::state::Volume { active: None, ..volume };
    assert_eq!(Bench::try_new(nobody, image(1, &[])).err(), Some(CannotServe::NotActive));
}

#[test]
fn a_volume_that_is_given_back_leaves_no_mark() {
    let mut bench = Bench::of_three();
    bench.write(3);
    bench.effects.clear();
    bench.hear(Event::Detach);
    let detached = |bench: &Bench| bench.effects.contains(&Effect::Detached);
    let asked = bench.last_flush(2);
    for node in [2, 3] {
        assert!(!detached(&bench), "{node} may not have it");
        bench.acknowledge(node);
    }
    // Everybody has it, and is told so.
    let told = Frame::Flush { seq: asked + 1, all_durable: asked, everywhere: asked };
    assert!(bench.sent(2).contains(&told) && bench.sent(3).contains(&told), "{:?}", bench.sent(2));
    assert!(!detached(&bench));
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert!(detached(&bench) && bench.active.is_idle());
    let mut unmarked = bench.effects.iter().filter_map(|e| match e {
        Effect::Local(LocalEffect::Mark { unmark, .. }) => Some(unmark.clone()),
        _ => None,
    });
    assert_eq!(unmarked.next_back(), Some(vec![3]));
    assert!(bench.active.into_image().marked.is_empty());
}

#[test]
fn a_volume_whose_last_member_falls_silent_keeps_its_marks_until_that_one_is_dropped() {
    let mut bench = Bench::of_three();
    bench.write(3);
    bench.hear(Event::Detach);
    bench.acknowledge(2);
    bench.acknowledge(3);
    bench.effects.clear();
    bench.acknowledge(2);
    bench.wait(400);
    assert!(!bench.effects.contains(&Effect::Detached));
    assert!(bench.active.is_idle());
    assert_eq!(bench.active.into_image().marked.into_iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn a_home_of_one_radiator_answers_alone() {
    let mut bench = Bench::try_new(config(&[1], &[1]), image(1, &[])).unwrap();
    bench.write(0);
    let flush = bench.flush();
    assert_eq!(bench.replies(flush), [true]);
}

#[test]
fn a_clean_flush_is_answered_at_once_but_not_while_another_runs() {
    let mut bench = Bench::of_three();
    let clean = bench.flush();
    assert_eq!(bench.replies(clean), [true]);
    bench.write(0);
    let first = bench.flush();
    let second = bench.flush();
    assert_eq!((bench.replies(first), bench.replies(second)), (NOT_YET.to_vec(), NOT_YET.to_vec()));
    bench.acknowledge(2);
    bench.acknowledge(3);
    assert_eq!((bench.replies(first), bench.replies(second)), (vec![true], vec![true]));
}

#[test]
fn a_slow_member_holds_the_device_back_and_is_not_waited_for_forever() {
    let mut bench = Bench::of_three();
    let op = thermidor_model::replication::Op { len: 1 << 20, ..write(0) };
    let all: Vec<u64> = (0..10).map(|_| bench.ask(DeviceOp::Change(op))).collect();
    bench.acknowledge(2);
    assert_eq!(bench.replies(all[9]), NOT_YET, "the window to 3 is full");
    let flush = bench.flush();
    assert_eq!(bench.replies(flush), NOT_YET);
    for _ in 0..20 {
        bench.wait(400);
        bench.acknowledge(2);
    }
    assert!(matches!(bench.proposed()[..], [Command::DropFromSet { node: 3, .. }, ..]));
    bench.hear(Event::Answered(Answer::Set(11)));
    assert_eq!(bench.replies(all[9]), [true]);
}

#[test]
fn one_that_was_dropped_for_being_slow_is_waited_for_again_only_once_it_is_prompt() {
    let mut bench = Bench::of_three();
    let before = bench.last_flush(3);
    bench.write(0);
    let flush = bench.flush();
    while bench.proposed().is_empty() {
        assert_eq!(bench.replies(flush), NOT_YET);
        bench.wait(400);
        bench.acknowledge(2);
        // it answers, but its disk does not
        bench.say(3, Frame::Ack { frames: 1000, durable: before });
    }
    assert!(matches!(bench.proposed()[..], [Command::DropFromSet { node: 3, .. }]));
    bench.hear(Event::Answered(Answer::Set(11)));
    assert_eq!(bench.replies(flush), [true]);
    let answered_without_it = |bench: &mut Bench, block| {
        bench.write(block);
        let flush = bench.flush();
        bench.acknowledge(2);
        assert_eq!(bench.replies(flush), [true], "waited for one that was dropped");
    };
    answered_without_it(&mut bench, 1);
    for block in 2..5 {
        for _ in 0..10 {
            bench.wait(400);
            bench.acknowledge(2);
            bench.say(3, Frame::Ack { frames: 1000, durable: before });
        }
        // done at last, after four seconds
        bench.acknowledge(3);
        answered_without_it(&mut bench, block);
        assert_eq!(bench.proposed().len(), 1, "{:?}", bench.proposed());
    }
    bench.acknowledge(3);
    bench.wait(10);
    bench.acknowledge(3);
    bench.acknowledge(2);
    assert!(matches!(bench.proposed()[..], [_, Command::JoinSet { node: 3, .. }]), "{:?}", bench.proposed());
}

#[test]
fn a_session_on_which_nothing_comes_is_closed() {
    let mut bench = Bench::of_three();
    bench.hear(Event::Connected { replica: 3, session: 33 });
    bench.wait(5000);
    let closed = |effect: &Effect| matches!(effect, Effect::Close { replica: 3, session: 33, .. });
    assert!(bench.effects.iter().any(closed), "it never said who it is");
}
