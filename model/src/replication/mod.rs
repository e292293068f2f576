//! The replication protocol of one volume, as state machines without I/O: an event goes in, a list
//! of effects comes out. No clock, no files, no sockets: time comes in as milliseconds.
//!
//! [`Active`] runs on the radiator that exports the device, [`Follower`] on every other replica.
//! The volume process is their shell: one owner loop feeds events and carries out effects **in the
//! order in which they were returned**; completions come back as events, in any order unless said
//! otherwise. The payload bytes never pass through here:
//!
//! - On the active a device request is known by `request`. [`Effect::Number`] gives it its number;
//!   from then on its bytes are known by that number, in `Send` (a [`Frame::Op`]) and `Store`.
//!   Keep the buffer until [`Effect::Forget`] (what a sender has queued keeps its own reference).
//! - On a follower the shell gives every received frame a growing `handle`; its payload is known by it.
//!
//! ## What the shell promises
//! 1. Frames to one session leave in the order of their `Send` effects, on one reliable stream. A
//!    [`Frame::Copy`] carries the extent's bytes, read from the local image when the sender gets to
//!    it, not before the effect was returned. If the extent is a hole it may set `hole` and send none.
//! 2. `Store`s may run at once, for those that overlap are never outstanding together. `Stored`
//!    means a later read or `fdatasync` sees the bytes.
//! 3. `Mark` and `SaveHeader` are durable when answered, what `SaveHeader` notes before the header; one of
//!    each at most is outstanding. `Sync` may
//!    write the given header first (its position is durable already) and is one `fdatasync`.
//! 4. A local error of any kind is [`LocalEvent::Failed`], once is enough; nothing is tried again.
//! 5. Session ids are never reused within a process. After `Close` or `Closed` nothing of that session
//!    is sent or delivered any more. The active connects again on its own, with back-off.
//! 6. Every event carries the CLOCK_BOOTTIME milliseconds at which it was taken from the queue; a
//!    `Tick` comes at least every 50 ms. Reads go to the local image, allowed while
//!    [`Active::serving`] says so.
//! 7. Who is to be examined for bit rot is told [`Event::Scrub`] once, after the start. A [`Frame::Extent`] carries
//!    its bytes as a `Copy` does; the active's shell brings them as [`Event::Fetched`] and keeps them like a
//!    request's payload.
//! 8. `SaveHeader` makes the image as long as the header says, before it is answered; what is new is zero, whatever
//!    the file held beyond its end. Before a replica's shell brings a `Hello` or `Grow` of a longer device it says
//!    with [`FollowerEvent::Room`] whether the image can become so; the active's shell looks before
//!    [`Event::Grow`].
//! 9. To change roles, wait for `is_idle`, then take `into_image` and start the other machine from it.
//!
//! ```text
//! Active::start(me: NodeId, volume: &VolumeName, config: &Volume, image: Image, lease_until_ms: u64,
//!               limits: Limits, now_ms: u64) -> Result<(Active, Vec<Effect>), CannotServe>
//! Active::handle(&mut self, now_ms: u64, event: Event) -> Vec<Effect>
//! Active::serving(&self, now_ms: u64) -> bool            reads allowed, not fenced
//! Active::progress(&self) -> BTreeMap<NodeId, Progress>  for status
//! Active::is_idle(&self) -> bool, into_image(self) -> Image
//! Follower::start(image: Image, limits: Limits) -> Follower
//! Follower::handle(&mut self, now_ms: u64, event: FollowerEvent) -> Vec<FollowerEffect>
//! Follower::retire(&mut self) -> Vec<FollowerEffect>     closes the session, for a change of roles
//! Follower::header(&self) -> &ImageHeader, is_idle(&self) -> bool, into_image(self) -> Image
//! ```

mod active;
mod follower;
mod frame;
mod local;
pub mod scrub;

pub use active::{Active, Answer, CannotServe, DeviceOp, Effect, Event, Fetched, Grade, Progress};
pub use follower::{Follower, FollowerEffect, FollowerEvent};
pub use frame::{
    EXTENT_BYTES, Extents, Frame, Image, ImageHeader, Op, OpKind, Refusal, SIZE_MAX_BYTES, WIRE_VERSION,
};
pub use local::{LocalEffect, LocalEvent};

/// Bounds of the protocol. Every queue and wait has its bound here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// A member of the in-sync set that was not heard for so long is dropped from it, ms.
    pub replica_timeout_ms: u64,
    /// A member that owes a flush for so long is dropped although it is heard, ms; a session on which
    /// nothing came for so long is closed.
    pub flush_timeout_ms: u64,
    /// A proposal whose answer is missing or unknown is made again after so long, ms.
    pub propose_again_ms: u64,
    /// Recent writes kept for replicas that come back, bytes.
    pub ring_bytes: u64,
    /// Sent to one replica and not yet stored there, bytes. In sync: the device waits; else: it falls behind.
    pub window_bytes: u64,
    /// Extents that may stay marked; what was written longest ago and is clean is unmarked beyond it.
    /// At twice as many dirty ones the device waits for a flush.
    pub marked_max: usize,
    /// Extents that may stay in the map although every replica holds them; so many are compared for nothing
    /// when a replica returns, and as many are written again without a durable write for the map.
    pub noted_max: usize,
    /// Extents copied to one replica at a time.
    pub copies_max: usize,
    /// The share of the bytes sent to a replica that its catch-up may take while the device is being written,
    /// percent below 100; beside an idle device it takes what it can.
    pub catch_up_percent: u64,
    /// Extents asked about in one [`Frame::AskHashes`].
    pub hashes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            replica_timeout_ms: 500,
            flush_timeout_ms: 5_000,
            propose_again_ms: 200,
            ring_bytes: 16 << 20,
            window_bytes: 8 << 20,
            marked_max: 128,
            noted_max: 256,
            copies_max: 4,
            catch_up_percent: 50,
            hashes_max: 64,
        }
    }
}

/// The protocol's rules, each of which a test switches off to see that the simulator notices.
/// Everything but such a test uses [`Rules::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// A silent member is dropped through Raft before a flush is answered without it.
    pub drop_through_raft: bool,
    /// A replica refuses an epoch older than one it has seen.
    pub refuse_old_epoch: bool,
    /// A replica that comes back resumes from what it made durable, not from what it received.
    pub resume_from_durable: bool,
    /// A new epoch copies the extents marked on any replica before a flush is answered.
    pub copy_tail: bool,
    /// What `apply` answered counts, not that the proposal was committed.
    pub act_on_applied: bool,
    /// A flush waits for every member of the in-sync set.
    pub wait_for_all: bool,
    /// An addition whose outcome is unknown counts as in.
    pub unknown_counts_as_in: bool,
    /// An extent is durably marked before the first write to it; off: never.
    pub mark_first: bool,
    /// Only a map of the active's own line is trusted.
    pub same_line: bool,
    /// Whoever takes the active's line takes its map too: what was written under another active while it
    /// was away itself.
    pub take_map: bool,
    /// An extent stays in the map until every replica holds it, the missing ones too; off: every member.
    pub note_for_all: bool,
    /// A replica looks at an extent at its place in the stream, not when it is asked.
    pub look_in_order: bool,
    /// No write to an extent is begun while it is repaired.
    pub hold_repaired: bool,
    /// At a new epoch a replica lets go of what it holds beyond the end of the active's device.
    pub cut_beyond: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            drop_through_raft: true,
            refuse_old_epoch: true,
            resume_from_durable: true,
            copy_tail: true,
            act_on_applied: true,
            wait_for_all: true,
            unknown_counts_as_in: true,
            mark_first: true,
            same_line: true,
            take_map: true,
            note_for_all: true,
            look_in_order: true,
            hold_repaired: true,
            cut_beyond: true,
        }
    }
}
