//! The replica's side: refuses what is old or foreign, stores in order, makes durable, acknowledges.

mod examine;

use super::frame::{EXTENT_BYTES, Extents, Frame, Image, ImageHeader, Op, OpKind, Refusal, WIRE_VERSION};
use super::local::{Local, LocalEffect, LocalEvent, UNKNOWN};
use super::{Limits, Rules};
use std::collections::VecDeque;

/// What happened at a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerEvent {
    /// A frame came from an active. The first of a session is its `Hello`.
    Frame {
        /// On which session; newer sessions have higher numbers.
        session: u64,
        /// Grows with every frame of this process; names the payload in `Store`.
        handle: u64,
        /// What it says.
        frame: Frame,
    },
    /// A session ended.
    Closed {
        /// Which.
        session: u64,
    },
    /// The local image answered.
    Local(LocalEvent),
    /// Answers [`FollowerEffect::Hash`].
    Hashed {
        /// For which session.
        session: u64,
        /// BLAKE3 of each extent asked for.
        hashes: Vec<(u64, [u8; 32])>,
    },
    /// The disk has room for an image of that size, or had when it was looked at.
    Room {
        /// Of the device, bytes.
        size_bytes: u64,
    },
    /// Time has passed.
    Tick,
}

/// What the replica's shell is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FollowerEffect {
    /// Something with the local image.
    Local(LocalEffect),
    /// Send a frame to the active.
    Send {
        /// On which session.
        session: u64,
        /// What.
        frame: Frame,
    },
    /// Hash these extents of the local image; answered by [`FollowerEvent::Hashed`].
    Hash {
        /// For which session.
        session: u64,
        /// Which.
        extents: Vec<u64>,
    },
    /// End a session, after what was sent on it; forget its payloads that are not in a `Store`.
    Close {
        /// Which.
        session: u64,
        /// Why, if it was refused.
        why: Option<Refusal>,
    },
    /// Once: the disk failed; the image is durably marked if it still could be.
    Failed {
        /// For people.
        error: String,
    },
}

/// An ack goes out unasked after so many stored frames ...
const ACK_FRAMES: u64 = 32;
/// ... or so many stored bytes.
const ACK_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Hash)]
struct Session {
    id: u64,
    epoch: u64,
    presented: bool,
    begun: bool,
    marking: bool,
    /// Raised by every `Begin`: a sync asked for before it settles nothing.
    begins: u64,
    /// Handles in the order received; those at the front are not stored yet.
    unstored: VecDeque<(u64, u64)>,
    stored_early: std::collections::BTreeSet<u64>,
    frames: u64,
    unacked: (u64, u64),
    flushes: VecDeque<(u64, u64)>,
    /// The active's line and map, to be taken when the image has settled.
    map: Option<(u64, Extents)>,
    /// A flush behind everything that is durable everywhere: once it is durable here too no mark is needed.
    sweep_at: u64,
    asked: VecDeque<(u64, Vec<u64>)>,
    /// Looks under way: their number by handle.
    examining: std::collections::BTreeMap<u64, u64>,
    /// Extents to be sent, once everything before is stored.
    fetches: VecDeque<(u64, u64)>,
    last_handle: u64,
}

/// One replica that is not the active.
#[derive(Debug, Clone, Hash)]
pub struct Follower {
    local: Local,
    rules: Rules,
    session: Option<Session>,
    /// The header on disk holds a position of the session's epoch.
    positioned: bool,
    /// The image may become so long, bytes.
    room_bytes: u64,
    out: Vec<FollowerEffect>,
}

impl Follower {
    /// From an image as found on disk, or as left by the other machine.
    pub fn start(image: Image, limits: Limits) -> Self {
        Self::with_rules(image, limits, Rules::default())
    }

    /// For tests that break a rule.
    pub fn with_rules(image: Image, limits: Limits, rules: Rules) -> Self {
        Self {
            local: Local::new(image, UNKNOWN, &limits, &rules),
            rules,
            session: None,
            positioned: false,
            room_bytes: 0,
            out: Vec::new(),
        }
    }

    /// The header; its position may be ahead of the one on disk.
    pub fn header(&self) -> &ImageHeader {
        &self.local.header
    }

    /// Whether an active streams to it.
    pub fn following(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.begun)
    }

    /// Whether nothing is under way at the image.
    pub fn is_idle(&self) -> bool {
        self.local.is_idle()
    }

    /// Ends the session, so that [`Follower::is_idle`] comes true; for a change of roles.
    pub fn retire(&mut self) -> Vec<FollowerEffect> {
        if let Some(session) = self.session.take() {
            self.out.push(FollowerEffect::Close { session: session.id, why: None });
        }
        self.local.drop_queued();
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// The image as the next machine finds it. Only when idle.
    pub fn into_image(self) -> Image {
        self.local.into_image()
    }

    /// One step. `_now_ms`: taken for symmetry with the active; a replica waits for nothing.
    pub fn handle(&mut self, _now_ms: u64, event: FollowerEvent) -> Vec<FollowerEffect> {
        match event {
            FollowerEvent::Frame { session, handle, frame } => self.frame(session, handle, frame),
            FollowerEvent::Closed { session } => {
                if self.session.as_ref().is_some_and(|s| s.id == session) {
                    self.session = None;
                    self.local.drop_queued();
                }
            }
            FollowerEvent::Local(LocalEvent::Failed { error }) => self.fail(error),
            FollowerEvent::Local(event) => self.answered(&event),
            FollowerEvent::Hashed { session, hashes } => self.send(session, Frame::Hashes { hashes }),
            FollowerEvent::Room { size_bytes } => self.room_bytes = size_bytes,
            FollowerEvent::Tick => {}
        }
        self.pump();
        std::mem::take(&mut self.out)
    }

    fn send(&mut self, session: u64, frame: Frame) {
        if self.session.as_ref().is_some_and(|s| s.id == session) {
            self.out.push(FollowerEffect::Send { session, frame });
        }
    }

    fn refuse(&mut self, session: u64, why: Refusal) {
        self.out.push(FollowerEffect::Send { session, frame: Frame::Refused(why.clone()) });
        self.out.push(FollowerEffect::Close { session, why: Some(why) });
        if self.session.as_ref().is_some_and(|s| s.id == session) {
            self.session = None;
            self.local.drop_queued();
        }
    }

    fn fail(&mut self, error: String) {
        if !self.local.failed() {
            return;
        }
        if let Some(session) = self.session.take() {
            let frame = Frame::Failed { error: error.clone() };
            self.out.push(FollowerEffect::Send { session: session.id, frame });
            self.out.push(FollowerEffect::Close { session: session.id, why: Some(Refusal::Failed) });
        }
        self.out.push(FollowerEffect::Failed { error });
    }

    fn frame(&mut self, session: u64, handle: u64, frame: Frame) {
        if let Frame::Hello { version, ref volume, epoch, replica, size_bytes, .. } = frame {
            let header = &self.local.header;
            let foreign = if version != WIRE_VERSION {
                Some(format!("version {version} instead of {WIRE_VERSION}"))
            } else if *volume != header.volume || replica != header.replica {
                Some(format!(
                    "this is replica {} of {}, not {replica} of {volume}",
                    header.replica, header.volume
                ))
            } else if size_bytes > header.size_bytes.max(self.room_bytes) {
                Some(self.too_short(size_bytes))
            } else if size_bytes < header.size_bytes && epoch == header.promised {
                // a device does not become shorter within an epoch
                Some(format!("the device had {} bytes already, not {size_bytes}", header.size_bytes))
            } else {
                None
            };
            let why = match foreign {
                Some(text) => Some(Refusal::Foreign(text)),
                None if header.failed => Some(Refusal::Failed),
                None if epoch < header.promised && self.rules.refuse_old_epoch => {
                    Some(Refusal::OldEpoch(header.promised))
                }
                None => None,
            };
            return match why {
                Some(why) => self.refuse(session, why),
                None => self.hello(session, epoch, size_bytes),
            };
        }
        match &self.session {
            Some(s) if s.id == session && matches!(frame, Frame::Grow { .. }) => self.grow(session, &frame),
            Some(s) if s.id == session && s.presented => self.stream(handle, frame),
            Some(s) if s.id == session => self.refuse(session, Refusal::Unexpected(kind(&frame).into())),
            _ if !self.rules.refuse_old_epoch => self.stream_unasked(handle, &frame),
            _ => {}
        }
    }

    fn too_short(&self, size_bytes: u64) -> String {
        let has = self.local.header.size_bytes;
        format!("the image has {has} bytes and can't become as long as the device, {size_bytes}")
    }

    /// The image becomes as long as the device, before anything that comes after this is stored.
    fn grow(&mut self, session: u64, frame: &Frame) {
        let Frame::Grow { size_bytes } = *frame else { return };
        let has = self.local.header.size_bytes;
        if size_bytes > has.max(self.room_bytes) {
            return self.refuse(session, Refusal::Foreign(self.too_short(size_bytes)));
        }
        if size_bytes > has {
            self.local.resize(size_bytes);
        }
    }

    fn hello(&mut self, id: u64, epoch: u64, size_bytes: u64) {
        if let Some(old) = self.session.take() {
            self.out.push(FollowerEffect::Close { session: old.id, why: None });
        }
        self.local.drop_queued();
        if epoch != self.local.header.promised {
            self.local.header.promised = epoch;
            self.local.begin_epoch();
            self.local.save_header();
        }
        // A shorter device is that of a new epoch: what lies beyond its end no flush of an earlier one has covered.
        if size_bytes != self.local.header.size_bytes
            && (size_bytes > self.local.header.size_bytes || self.rules.cut_beyond)
        {
            self.local.resize(size_bytes);
        }
        self.positioned = false;
        self.session = Some(Session {
            id,
            epoch,
            presented: false,
            begun: false,
            marking: true,
            begins: 0,
            unstored: VecDeque::new(),
            stored_early: std::collections::BTreeSet::new(),
            frames: 0,
            unacked: (0, 0),
            flushes: VecDeque::new(),
            map: None,
            sweep_at: 0,
            asked: VecDeque::new(),
            examining: std::collections::BTreeMap::new(),
            fetches: VecDeque::new(),
            last_handle: 0,
        });
    }

    /// What a replica that took old epochs would do; only with that rule off.
    fn stream_unasked(&mut self, handle: u64, frame: &Frame) {
        if let (Frame::Op { seq, op }, Some(_)) = (frame, &self.session) {
            self.local.store(handle, *seq, *op, true);
        }
    }

    fn stream(&mut self, handle: u64, frame: Frame) {
        let Some(session) = &mut self.session else { return };
        let id = session.id;
        match frame {
            Frame::Begin { torn } => {
                session.begun = true;
                session.begins += 1;
                session.marking = !torn;
                if torn && !self.local.header.torn {
                    self.local.header.torn = true;
                    self.local.save_header();
                }
                let header = &self.local.header;
                self.positioned = !torn && header.epoch == session.epoch && !header.torn;
            }
            Frame::Ping => self.ack(),
            _ if !session.begun => self.refuse(id, Refusal::Unexpected(kind(&frame).into())),
            Frame::Op { seq, op } => self.store(handle, seq, op),
            Frame::Copy { seq, extent, len, hole } => {
                let kind = if hole { OpKind::Zero } else { OpKind::Write };
                self.store(handle, seq, Op { kind, offset: extent * EXTENT_BYTES, len });
            }
            Frame::Map { line, noted } => session.map = Some((line, noted)),
            Frame::Flush { seq, all_durable, everywhere } => {
                session.marking = true;
                session.flushes.push_back((seq, session.begins));
                if all_durable + 1 == seq {
                    session.sweep_at = seq;
                }
                self.local.clean = self.local.clean.max(all_durable);
                self.local.everywhere = self.local.everywhere.max(everywhere);
                self.local.sync(seq);
            }
            Frame::AskHashes { extents } => session.asked.push_back((session.last_handle, extents)),
            Frame::Examine { seq, extent } => self.examine(handle, seq, extent),
            Frame::Seal { extent, hash } => self.local.seal(extent, hash),
            Frame::Fetch { extent } => self.fetch(extent),
            Frame::Progress(record) => self.out.push(FollowerEffect::Local(LocalEffect::Note(record))),
            other => self.refuse(id, Refusal::Unexpected(kind(&other).into())),
        }
    }

    fn store(&mut self, handle: u64, seq: u64, op: Op) {
        let size = self.local.header.size_bytes;
        let Some(session) = &mut self.session else { return };
        if op.len == 0 || op.offset.checked_add(op.len).is_none_or(|end| end > size) {
            let id = session.id;
            return self.refuse(id, Refusal::Unexpected("operation outside of the volume".into()));
        }
        session.last_handle = handle;
        session.unstored.push_back((handle, op.payload()));
        self.local.store(handle, seq, op, session.marking);
    }

    fn answered(&mut self, event: &LocalEvent) {
        let synced = self.local.answered(event);
        if let LocalEvent::Examined { id, found } = event {
            return self.examined(*id, *found);
        }
        let Some(session) = &mut self.session else { return };
        if let LocalEvent::Stored { id } = event {
            session.stored_early.insert(*id);
            while let Some((handle, bytes)) = session.unstored.front().copied() {
                if !session.stored_early.remove(&handle) {
                    break;
                }
                session.unstored.pop_front();
                session.frames += 1;
                session.unacked = (session.unacked.0 + 1, session.unacked.1 + bytes);
            }
            if session.unacked.0 >= ACK_FRAMES || session.unacked.1 >= ACK_BYTES {
                self.ack();
            }
        } else if let Some(seq) = synced {
            let mut begins = None;
            while session.flushes.front().is_some_and(|(flush, _)| *flush <= seq) {
                begins = session.flushes.pop_front().map(|(_, begins)| begins);
            }
            if begins == Some(session.begins) {
                self.settle(seq);
            }
        } else if *event == LocalEvent::HeaderSaved && self.local.header_saved() {
            let header = &self.local.header;
            let positioned = session.begun && header.epoch == session.epoch && !header.torn;
            if positioned && !self.positioned {
                self.positioned = true;
                self.ack();
            }
        }
    }

    /// Everything up to `seq` is durable: the image is as the active's was.
    fn settle(&mut self, seq: u64) {
        let Some(session) = &mut self.session else { return };
        let epoch = session.epoch;
        let map = session.map.take();
        let torn = self.local.header.torn;
        let swept = session.sweep_at == seq;
        self.local.retouch(torn, seq);
        self.local.durable = self.local.durable.max(seq);
        if swept {
            self.local.sweep();
        }
        let taught = map.is_some();
        if let Some((line, noted)) = map {
            let noted = if self.rules.take_map { noted } else { Extents::default() };
            self.local.adopt(line, &noted, seq);
        }
        let header = &mut self.local.header;
        if torn || taught || header.epoch != epoch {
            let known = if header.epoch == epoch { header.durable_seq } else { 0 };
            (header.epoch, header.durable_seq, header.torn) = (epoch, seq.max(known), false);
            self.local.save_header();
        } else {
            header.durable_seq = header.durable_seq.max(seq);
            self.ack();
        }
    }

    fn ack(&mut self) {
        let durable = if self.positioned { self.local.header.durable_seq } else { 0 };
        let Some(session) = &mut self.session else { return };
        session.unacked = (0, 0);
        let (id, frames) = (session.id, session.frames);
        self.send(id, Frame::Ack { frames, durable });
    }

    fn pump(&mut self) {
        let mut out = Vec::new();
        self.local.pump(&mut out);
        self.out.extend(out.into_iter().map(FollowerEffect::Local));
        self.send_fetched();
        let idle = self.local.is_idle();
        let Some(session) = &mut self.session else { return };
        let id = session.id;
        if !session.presented && idle {
            session.presented = true;
            let (marked, noted) = (self.local.marks().collect(), self.local.map().collect());
            self.send(id, Frame::Present { header: self.local.header.clone(), marked, noted });
        } else if session.asked.front().is_some_and(|(after, _)| self.local.stored_up_to(*after))
            && let Some((_, extents)) = session.asked.pop_front()
        {
            self.out.push(FollowerEffect::Hash { session: id, extents });
        }
    }
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello { .. } => "Hello",
        Frame::Present { .. } => "Present",
        Frame::Refused(_) => "Refused",
        Frame::Begin { .. } => "Begin",
        Frame::Op { .. } => "Op",
        Frame::Copy { .. } => "Copy",
        Frame::Flush { .. } => "Flush",
        Frame::Map { .. } => "Map",
        Frame::AskHashes { .. } => "AskHashes",
        Frame::Hashes { .. } => "Hashes",
        Frame::Ack { .. } => "Ack",
        Frame::Ping => "Ping",
        Frame::Failed { .. } => "Failed",
        Frame::Examine { .. } => "Examine",
        Frame::Examined { .. } => "Examined",
        Frame::Seal { .. } => "Seal",
        Frame::Fetch { .. } => "Fetch",
        Frame::Extent { .. } => "Extent",
        Frame::Progress(_) => "Progress",
        Frame::Grow { .. } => "Grow",
    }
}
