//! The local image as both machines use it: extents are marked before they are written, what
//! overlaps is written in order, and a sync waits for the writes it covers.

use super::frame::{EXTENT_BYTES, Image, ImageHeader, Op, OpKind};
use super::scrub::{Found, Record};
use std::collections::{BTreeMap, VecDeque};

/// What the shell is to do with the local image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalEffect {
    /// Write, discard or zero; answered by [`LocalEvent::Stored`].
    Store {
        /// Number (active) or handle (follower) of the payload.
        id: u64,
        /// What to do.
        op: Op,
    },
    /// Durably break the seals of the extents to be marked, then durably mark and unmark; answered by
    /// [`LocalEvent::Marked`].
    Mark {
        /// To be marked, durable before the answer.
        mark: Vec<u64>,
        /// To be unmarked, durable at any time.
        unmark: Vec<u64>,
    },
    /// Write the header if one is given, then `fdatasync`; answered by [`LocalEvent::Synced`].
    Sync {
        /// Comes back in the answer.
        id: u64,
        /// The header with the position of the sync before.
        header: Option<ImageHeader>,
    },
    /// Write the header durably; answered by [`LocalEvent::HeaderSaved`]. If it is torn, every seal is durably
    /// broken before.
    SaveHeader(ImageHeader),
    /// Look at an extent as it is on the disk, page cache aside; answered by [`LocalEvent::Examined`]. No `Store`
    /// that touches it is outstanding until then. An error of the disk is an answer.
    Examine {
        /// Comes back in the answer.
        id: u64,
        /// Which extent.
        extent: u64,
    },
    /// Keep the hash of an extent that all replicas hold alike, until its seal is broken. In order with `Mark` and
    /// `SaveHeader`, durable at any time; nothing is answered.
    Seal {
        /// Which extent.
        extent: u64,
        /// BLAKE3 of it.
        hash: [u8; 32],
    },
    /// Keep how far the examination is, durable at any time; nothing is answered.
    Note(Record),
}

/// What the local image answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEvent {
    /// A `Store` is done.
    Stored {
        /// Its id.
        id: u64,
    },
    /// The `Mark` is durable.
    Marked,
    /// The `Sync` is done.
    Synced {
        /// Its id.
        id: u64,
    },
    /// The `SaveHeader` is durable.
    HeaderSaved,
    /// The `Examine` is done.
    Examined {
        /// Its id.
        id: u64,
        /// What was found.
        found: Found,
    },
    /// Any of them failed.
    Failed {
        /// The error.
        error: String,
    },
}

/// Last touch of a mark that was there at the start: unknown until the image has settled.
pub(super) const UNKNOWN: u64 = u64::MAX;

#[derive(Debug, Clone, Hash)]
struct Queued {
    id: u64,
    op: Op,
    mark: bool,
    /// The extent's bytes are looked at, not changed.
    examine: bool,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Wanted {
    seq: u64,
    after: u64,
}

/// The local image's order of things.
#[derive(Debug, Clone, Hash)]
pub(super) struct Local {
    /// As the machine sees it; what is durable may lag behind it.
    pub header: ImageHeader,
    /// Everything up to this number is durable on every in-sync member.
    pub clean: u64,
    /// Everything up to this number of the present epoch is durable here.
    pub durable: u64,
    marked_max: usize,
    mark_first: bool,
    marked: BTreeMap<u64, u64>,
    to_mark: BTreeMap<u64, u64>,
    marking: Option<BTreeMap<u64, u64>>,
    queue: VecDeque<Queued>,
    outstanding: BTreeMap<u64, Op>,
    /// Extents that are looked at, by id.
    examining: BTreeMap<u64, Op>,
    seals: Vec<(u64, [u8; 32])>,
    syncs: VecDeque<Wanted>,
    syncing: Option<u64>,
    /// Marks of what is clean are to go.
    sweep: bool,
    save: bool,
    saving: bool,
    written: Option<(u64, u64)>,
}

impl Local {
    pub fn new(image: Image, touched: u64, marked_max: usize, mark_first: bool) -> Self {
        Self {
            header: image.header,
            clean: 0,
            durable: 0,
            marked_max,
            mark_first,
            marked: image.marked.into_iter().map(|extent| (extent, touched)).collect(),
            to_mark: BTreeMap::new(),
            marking: None,
            queue: VecDeque::new(),
            outstanding: BTreeMap::new(),
            examining: BTreeMap::new(),
            seals: Vec::new(),
            syncs: VecDeque::new(),
            syncing: None,
            sweep: false,
            save: false,
            saving: false,
            written: None,
        }
    }

    /// Queues a change. `mark`: its extents must be marked before.
    pub fn store(&mut self, id: u64, seq: u64, op: Op, mark: bool) {
        let mark = mark && self.mark_first;
        if mark {
            for extent in op.extents() {
                let known = self.marked.get_mut(&extent);
                let known = known.or_else(|| self.marking.as_mut().and_then(|m| m.get_mut(&extent)));
                match known {
                    Some(touched) => *touched = seq,
                    None => {
                        self.to_mark.insert(extent, seq);
                    }
                }
            }
        }
        self.queue.push_back(Queued { id, op, mark, examine: false });
    }

    /// Queues a look at an extent: it comes after the changes before it, and before those after it.
    pub fn examine(&mut self, id: u64, extent: u64) {
        let op = Op { kind: OpKind::Zero, offset: extent * EXTENT_BYTES, len: EXTENT_BYTES };
        self.queue.push_back(Queued { id, op, mark: false, examine: true });
    }

    /// Seals an extent, unless a change of it is under way or may not be durable everywhere.
    pub fn seal(&mut self, extent: u64, hash: [u8; 32]) {
        let marking = self.marking.as_ref().is_some_and(|m| m.contains_key(&extent));
        let marked = marking || self.marked.contains_key(&extent) || self.to_mark.contains_key(&extent);
        if !marked && !self.busy(extent) && !self.header.torn && !self.header.failed {
            self.seals.push((extent, hash));
        }
    }

    /// Wants everything queued so far durable, as position `seq`.
    pub fn sync(&mut self, seq: u64) {
        let queued = self.queue.back().map(|q| q.id);
        let after = queued.or_else(|| self.outstanding.keys().next_back().copied()).unwrap_or(0);
        self.syncs.push_back(Wanted { seq, after });
    }

    /// Wants no mark left of what is durable here and on every member: the next epoch has nothing to copy then.
    pub fn sweep(&mut self) {
        self.sweep = true;
    }

    /// Wants the header durable; no store is begun before.
    pub fn save_header(&mut self) {
        self.save = true;
    }

    /// Whether the header on disk is the one here, apart from its position.
    pub fn header_saved(&self) -> bool {
        !self.save && !self.saving
    }

    /// Whether a change of the extent is not stored yet.
    pub fn busy(&self, extent: u64) -> bool {
        let touches = |op: &Op| op.extents().contains(&extent);
        self.outstanding.values().any(touches) || self.queue.iter().any(|q| touches(&q.op))
    }

    /// Whether changes up to this id are all stored.
    pub fn stored_up_to(&self, id: u64) -> bool {
        self.outstanding.keys().next().is_none_or(|first| *first > id)
            && self.queue.front().is_none_or(|first| first.id > id)
    }

    /// The first change whose `Store` was not given out yet.
    pub fn first_queued(&self) -> Option<u64> {
        self.queue.front().map(|q| q.id)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.outstanding.is_empty()
            && self.syncing.is_none()
            && self.syncs.is_empty()
            && self.marking.is_none()
            && !self.sweep
            && self.header_saved()
    }

    /// Whether so many dirty extents are marked that a flush is due.
    pub fn crowded(&self) -> bool {
        self.marked.len() + self.to_mark.len() > 2 * self.marked_max
            && self.marked.values().all(|touched| *touched > self.clean)
    }

    /// Forgets what was not begun; what is outstanding comes to its end.
    pub fn drop_queued(&mut self) {
        self.queue.clear();
        self.syncs.clear();
        self.to_mark.clear();
    }

    /// All marks there are, those under way included.
    pub fn marks(&self) -> impl Iterator<Item = u64> + '_ {
        self.marked.keys().chain(self.marking.iter().flat_map(|m| m.keys())).copied()
    }

    /// Gives marks of unknown touch a number, or all of them that have a lower one (UNKNOWN: forget the
    /// numbers). A higher one stays: it is of a change that this position does not cover.
    pub fn retouch(&mut self, all: bool, seq: u64) {
        for touched in self.marked.values_mut().chain(self.marking.iter_mut().flat_map(|m| m.values_mut())) {
            if *touched == UNKNOWN || all && *touched < seq {
                *touched = seq;
            }
        }
    }

    /// Takes an answer; a finished sync gives its position.
    pub fn answered(&mut self, event: &LocalEvent) -> Option<u64> {
        match event {
            LocalEvent::Stored { id } => {
                self.outstanding.remove(id);
            }
            LocalEvent::Marked => {
                if let Some(marking) = self.marking.take() {
                    self.marked.extend(marking);
                }
            }
            LocalEvent::Synced { id } if self.syncing == Some(*id) => {
                self.syncing = None;
                return Some(*id);
            }
            LocalEvent::HeaderSaved => self.saving = false,
            LocalEvent::Examined { id, .. } => {
                self.examining.remove(id);
            }
            LocalEvent::Synced { .. } | LocalEvent::Failed { .. } => {}
        }
        None
    }

    /// After an I/O error the header is saved once more, as failed; nothing else is expected.
    /// Says whether it is the first error.
    pub fn failed(&mut self) -> bool {
        let first = !self.header.failed;
        self.header.failed = true;
        self.drop_queued();
        self.outstanding.clear();
        self.examining.clear();
        self.seals.clear();
        self.syncing = None;
        self.marking = None;
        self.sweep = false;
        self.saving = false;
        self.save = first;
        first
    }

    /// What can begin now.
    pub fn pump(&mut self, out: &mut Vec<LocalEffect>) {
        // before any mark: whoever breaks a seal later breaks this one
        out.extend(self.seals.drain(..).map(|(extent, hash)| LocalEffect::Seal { extent, hash }));
        if self.save && !self.saving {
            self.save = false;
            self.saving = true;
            self.written = Some((self.header.epoch, self.header.durable_seq));
            out.push(LocalEffect::SaveHeader(self.header.clone()));
        }
        self.pump_marks(out);
        while self.header_saved() && self.head_is_free() {
            let Some(Queued { id, op, examine, .. }) = self.queue.pop_front() else { break };
            if examine {
                self.examining.insert(id, op);
                out.push(LocalEffect::Examine { id, extent: op.offset / EXTENT_BYTES });
                continue;
            }
            self.outstanding.insert(id, op);
            out.push(LocalEffect::Store { id, op });
        }
        if self.syncing.is_none() {
            let ready = self.syncs.iter().take_while(|w| self.stored_up_to(w.after)).count();
            let last = self.syncs.drain(..ready).next_back();
            if let Some(Wanted { seq, .. }) = last {
                self.syncing = Some(seq);
                let position = (self.header.epoch, self.header.durable_seq);
                let lags = self.header_saved() && self.written != Some(position);
                if lags {
                    self.written = Some(position);
                }
                out.push(LocalEffect::Sync { id: seq, header: lags.then(|| self.header.clone()) });
            }
        }
    }

    fn pump_marks(&mut self, out: &mut Vec<LocalEffect>) {
        let nothing_to_do = self.to_mark.is_empty() && !self.sweep;
        if nothing_to_do || self.marking.is_some() || !self.header_saved() {
            return;
        }
        let mark = std::mem::take(&mut self.to_mark);
        let sweep = std::mem::take(&mut self.sweep);
        let kept = if sweep { 0 } else { self.marked_max };
        let over = (self.marked.len() + mark.len()).saturating_sub(kept);
        // what is queued here was perhaps made durable everywhere else already, but it needs its mark
        let clean = self.clean.min(self.durable);
        let mut old: Vec<(u64, u64)> =
            self.marked.iter().filter(|(_, t)| **t <= clean).map(|(extent, t)| (*t, *extent)).collect();
        old.sort_unstable();
        let unmark: Vec<u64> = old.into_iter().take(over).map(|(_, extent)| extent).collect();
        if mark.is_empty() && unmark.is_empty() {
            return;
        }
        for extent in &unmark {
            self.marked.remove(extent);
        }
        out.push(LocalEffect::Mark { mark: mark.keys().copied().collect(), unmark });
        self.marking = Some(mark);
    }

    fn head_is_free(&self) -> bool {
        self.queue.front().is_some_and(|q| {
            let marked = !q.mark || q.op.extents().all(|x| self.marked.contains_key(&x));
            let mut begun = self.outstanding.values().chain(self.examining.values().filter(|_| !q.examine));
            marked && !begun.any(|op| op.overlaps(&q.op))
        })
    }

    /// The image as the next machine finds it.
    pub fn into_image(self) -> Image {
        let marked = self.marked.keys().copied().chain(self.marking.into_iter().flat_map(|m| m.into_keys()));
        Image { header: self.header, marked: marked.collect() }
    }
}
