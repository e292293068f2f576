//! One scenario per sentence of DESIGN.md's "Volumes", on the replica's side.

use crate::bench::{EPOCH, id_of, image, write};
use crate::one_replica::{Replica, local, sent};
use thermidor_model::replication::{EXTENT_BYTES, Follower, Frame, Limits, LocalEffect, LocalEvent, Refusal};

#[test]
fn an_epoch_is_promised_durably_before_it_is_answered_and_an_older_one_refused() {
    let mut replica = Replica::new(image(2, &[4]));
    let effects = replica.hello(1, EPOCH);
    assert!(sent(&effects).is_empty());
    assert!(
        matches!(&local(&effects)[..], [LocalEffect::SaveHeader { header: h, .. }] if h.promised == EPOCH)
    );
    let effects = replica.disk(LocalEvent::HeaderSaved);
    assert!(matches!(&sent(&effects)[..], [Frame::Present { marked, .. }] if *marked == [4]));
    let effects = replica.hello(2, EPOCH - 1);
    assert_eq!(sent(&effects), [Frame::Refused(Refusal::OldEpoch(EPOCH))]);
    assert!(replica.follower.header().promised == EPOCH);
}

#[test]
fn a_missing_or_foreign_image_refuses() {
    let mut foreign = image(2, &[]);
    foreign.header.replica = id_of(7);
    let effects = Replica::new(foreign).hello(1, EPOCH);
    assert!(matches!(sent(&effects)[..], [Frame::Refused(Refusal::Foreign(_))]));
}

#[test]
fn an_extent_is_durably_marked_before_the_first_write_to_it() {
    let mut replica = Replica::following(image(2, &[]), false);
    let effects = replica.hear(1, Frame::Op { seq: 2, op: write(3) });
    assert_eq!(
        local(&effects),
        [LocalEffect::Mark { mark: vec![3], unmark: vec![], note: vec![3], forget: vec![] }]
    );
    let effects = replica.disk(LocalEvent::Marked);
    assert_eq!(local(&effects), [LocalEffect::Store { id: replica.handle, op: write(3) }]);
    let effects = replica.hear(1, Frame::Op { seq: 3, op: write(4) });
    assert!(matches!(&local(&effects)[..], [LocalEffect::Mark { mark, .. }] if *mark == [4]));
}

#[test]
fn marks_go_when_everybody_has_everything_and_only_then() {
    let mut replica = Replica::following(image(2, &[]), false);
    replica.hear(1, Frame::Op { seq: 2, op: write(3) });
    replica.disk(LocalEvent::Marked);
    let id = replica.handle;
    replica.disk(LocalEvent::Stored { id });
    // The others may not have it yet.
    replica.hear(1, Frame::Flush { seq: 3, all_durable: 1, everywhere: 0 });
    replica.disk(LocalEvent::Synced { id: 3 });
    replica.disk(LocalEvent::HeaderSaved);
    assert!(replica.follower.is_idle(), "no mark is under way");
    // They have, but something came after it.
    replica.hear(1, Frame::Op { seq: 4, op: write(5) });
    replica.disk(LocalEvent::Marked);
    let id = replica.handle;
    replica.disk(LocalEvent::Stored { id });
    replica.hear(1, Frame::Flush { seq: 5, all_durable: 3, everywhere: 0 });
    let effects = replica.disk(LocalEvent::Synced { id: 5 });
    assert!(local(&effects).iter().all(|e| !matches!(e, LocalEffect::Mark { .. })), "{effects:?}");
    // They have everything.
    let before = replica.hear(1, Frame::Flush { seq: 6, all_durable: 5, everywhere: 0 });
    assert!(
        local(&before).iter().all(|e| !matches!(e, LocalEffect::Mark { .. })),
        "not before it is durable here"
    );
    let effects = replica.disk(LocalEvent::Synced { id: 6 });
    assert!(
        local(&effects).iter().any(|e| matches!(e, LocalEffect::Mark { unmark, .. } if *unmark == [3, 5])),
        "{effects:?}"
    );
    replica.disk(LocalEvent::Marked);
    replica.disk(LocalEvent::HeaderSaved);
    assert!(replica.follower.is_idle());
    assert!(replica.follower.into_image().marked.is_empty());
}

#[test]
fn what_overlaps_is_written_in_order() {
    let mut replica = Replica::following(image(2, &[]), false);
    replica.hear(1, Frame::Op { seq: 2, op: write(3) });
    let first = replica.handle;
    replica.disk(LocalEvent::Marked);
    assert!(local(&replica.hear(1, Frame::Op { seq: 3, op: write(3) })).is_empty());
    let effects = replica.disk(LocalEvent::Stored { id: first });
    assert_eq!(local(&effects), [LocalEffect::Store { id: first + 1, op: write(3) }]);
}

#[test]
fn a_flush_is_acknowledged_only_with_data_and_position_durable() {
    let mut replica = Replica::following(image(2, &[]), false);
    replica.hear(1, Frame::Op { seq: 2, op: write(3) });
    let id = replica.handle;
    replica.disk(LocalEvent::Marked);
    assert!(
        local(&replica.hear(1, Frame::Flush { seq: 3, all_durable: 0, everywhere: 0 })).is_empty(),
        "the write comes first"
    );
    let effects = replica.disk(LocalEvent::Stored { id });
    assert!(matches!(local(&effects)[..], [LocalEffect::Sync { id: 3, .. }]));
    let effects = replica.disk(LocalEvent::Synced { id: 3 });
    assert!(sent(&effects).is_empty());
    assert!(
        matches!(&local(&effects)[..], [LocalEffect::SaveHeader { header: h, .. }] if (h.epoch, h.durable_seq) == (EPOCH, 3))
    );
    let effects = replica.disk(LocalEvent::HeaderSaved);
    assert_eq!(sent(&effects), [Frame::Ack { frames: 1, durable: 3 }]);
}

#[test]
fn a_catch_up_from_another_moment_says_torn_until_it_has_settled() {
    let mut replica = Replica::following(image(2, &[]), true);
    assert!(replica.follower.header().torn);
    let copy = Frame::Copy { seq: 2, extent: 1, len: EXTENT_BYTES, hole: false };
    assert!(local(&replica.hear(1, copy)).is_empty(), "torn is durable first");
    let effects = replica.disk(LocalEvent::HeaderSaved);
    let noted = LocalEffect::Mark { mark: vec![], unmark: vec![], note: vec![1], forget: vec![] };
    assert_eq!(local(&effects), [noted], "it is noted, but not marked");
    let effects = replica.disk(LocalEvent::Marked);
    assert!(matches!(local(&effects)[..], [LocalEffect::Store { .. }]));
    let id = replica.handle;
    replica.disk(LocalEvent::Stored { id });
    replica.hear(1, Frame::Flush { seq: 3, all_durable: 0, everywhere: 0 });
    replica.disk(LocalEvent::Synced { id: 3 });
    replica.disk(LocalEvent::HeaderSaved);
    assert!(!replica.follower.header().torn);
}

#[test]
fn what_was_written_after_the_settling_flush_was_asked_keeps_its_mark() {
    let limits = Limits { marked_max: 1, ..Limits::default() };
    let mut replica = Replica { follower: Follower::start(image(2, &[3]), limits), handle: 0 };
    replica.hello(1, EPOCH);
    replica.disk(LocalEvent::HeaderSaved);
    replica.hear(1, Frame::Begin { torn: true });
    replica.disk(LocalEvent::HeaderSaved);
    replica.hear(1, Frame::Flush { seq: 5, all_durable: 0, everywhere: 0 });
    replica.hear(1, Frame::Op { seq: 6, op: write(3) });
    replica.disk(LocalEvent::Synced { id: 5 });
    replica.disk(LocalEvent::HeaderSaved);
    assert!(!replica.follower.header().torn);
    replica.hear(1, Frame::Flush { seq: 7, all_durable: 5, everywhere: 0 });
    let effects = replica.hear(1, Frame::Op { seq: 8, op: write(4) });
    assert_eq!(
        local(&effects),
        [LocalEffect::Mark { mark: vec![4], unmark: vec![], note: vec![4], forget: vec![] }],
        "6 is not durable"
    );
}

#[test]
fn an_io_error_marks_it_durably_failed_and_it_serves_nobody_any_more() {
    let mut replica = Replica::following(image(2, &[]), false);
    let effects = replica.disk(LocalEvent::Failed { error: "EIO".into() });
    assert!(matches!(sent(&effects)[..], [Frame::Failed { .. }]));
    assert!(matches!(&local(&effects)[..], [LocalEffect::SaveHeader { header: h, .. }] if h.failed));
    assert_eq!(sent(&replica.hello(2, EPOCH)), [Frame::Refused(Refusal::Failed)]);
}

#[test]
fn a_frame_out_of_place_or_out_of_bounds_is_refused() {
    let mut replica = Replica::new(image(2, &[]));
    replica.hello(1, EPOCH);
    let effects = replica.hear(1, Frame::Op { seq: 2, op: write(0) });
    assert!(matches!(sent(&effects)[..], [Frame::Refused(Refusal::Unexpected(_))]));
    let mut replica = Replica::following(image(2, &[]), false);
    let effects = replica.hear(1, Frame::Op { seq: 2, op: write(16) });
    assert!(matches!(sent(&effects)[..], [Frame::Refused(Refusal::Unexpected(_))]));
}

#[test]
fn frames_survive_their_encoding() {
    let frames = [
        Frame::Present {
            header: image(2, &[]).header,
            marked: vec![1, 2],
            noted: [3, 70].into_iter().collect(),
        },
        Frame::Op { seq: 7, op: write(1) },
        Frame::Hashes { hashes: vec![(1, [9; 32])] },
        Frame::Refused(Refusal::OldEpoch(3)),
    ];
    for frame in frames {
        let bytes = postcard::to_stdvec(&frame).unwrap();
        assert_eq!(postcard::from_bytes::<Frame>(&bytes), Ok(frame));
    }
}
