//! The local image as both machines use it: extents are marked and noted before they are written, what
//! overlaps is written in order, and a sync waits for the writes it covers.

use super::frame::{EXTENT_BYTES, Extents, Image, ImageHeader, Op, OpKind};
use super::scrub::{Found, Record};
use super::{Limits, Rules};
use std::collections::btree_map::Entry;
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
        /// To be put into the map, durable before the answer.
        note: Vec<u64>,
        /// To be taken out of the map, durable at any time.
        forget: Vec<u64>,
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
    SaveHeader {
        /// The header.
        header: ImageHeader,
        /// To be put into the map, durable before the header is.
        note: Vec<u64>,
    },
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
    note: bool,
    /// The extent's bytes are looked at, not changed.
    examine: bool,
}

/// A `Mark` under way.
#[derive(Debug, Clone, Default, Hash)]
struct Marking {
    marks: BTreeMap<u64, u64>,
    notes: BTreeMap<u64, u64>,
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
    /// Everything up to this number is durable on every replica, the missing ones included.
    pub everywhere: u64,
    marked_max: usize,
    noted_max: usize,
    mark_first: bool,
    /// Extents by the number of their last write.
    marked: BTreeMap<u64, u64>,
    noted: BTreeMap<u64, u64>,
    to_mark: BTreeMap<u64, u64>,
    to_note: BTreeMap<u64, u64>,
    marking: Option<Marking>,
    /// To be noted with the next header.
    adopted: Vec<u64>,
    /// Up to which number what is durable everywhere was looked for in the map.
    looked: u64,
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
    /// The next header is of a shorter device.
    shrink: bool,
    written: Option<(u64, u64)>,
}

impl Local {
    pub fn new(image: Image, touched: u64, limits: &Limits, rules: &Rules) -> Self {
        Self {
            header: image.header,
            clean: 0,
            durable: 0,
            everywhere: 0,
            marked_max: limits.marked_max,
            noted_max: limits.noted_max,
            mark_first: rules.mark_first,
            marked: image.marked.into_iter().map(|extent| (extent, touched)).collect(),
            noted: image.noted.into_iter().map(|extent| (extent, touched)).collect(),
            to_mark: BTreeMap::new(),
            to_note: BTreeMap::new(),
            marking: None,
            adopted: Vec::new(),
            looked: 0,
            queue: VecDeque::new(),
            outstanding: BTreeMap::new(),
            examining: BTreeMap::new(),
            seals: Vec::new(),
            syncs: VecDeque::new(),
            syncing: None,
            sweep: false,
            save: false,
            saving: false,
            shrink: false,
            written: None,
        }
    }

    /// Queues a change. `mark`: its extents must be marked before. They are noted before anyway, unless the
    /// map says nothing yet.
    pub fn store(&mut self, id: u64, seq: u64, op: Op, mark: bool) {
        let mark = mark && self.mark_first;
        let note = mark || self.mark_first && self.header.line != 0;
        for extent in op.extents() {
            let marking = self.marking.as_mut();
            let (marks, notes) = marking.map_or((None, None), |m| (Some(&mut m.marks), Some(&mut m.notes)));
            if mark && !touch(&mut self.marked, marks, extent, seq) {
                self.to_mark.insert(extent, seq);
            }
            if note && !touch(&mut self.noted, notes, extent, seq) {
                self.to_note.insert(extent, seq);
            }
        }
        self.queue.push_back(Queued { id, op, mark, note, examine: false });
    }

    /// The image is as the active's was at `seq`: with the header its map becomes one of that line, and has
    /// what the active's map has.
    pub fn adopt(&mut self, line: u64, noted: &Extents, seq: u64) {
        self.header.line = line;
        for extent in noted.within(self.header.size_bytes.div_ceil(EXTENT_BYTES)) {
            if let Entry::Vacant(new) = self.noted.entry(extent) {
                new.insert(seq);
                self.adopted.push(extent);
            }
        }
    }

    /// The map, with what is under way to it.
    pub fn map(&self) -> impl Iterator<Item = u64> + '_ {
        let under_way = self.marking.iter().flat_map(|m| m.notes.keys()).chain(self.to_note.keys());
        self.noted.keys().chain(under_way).copied()
    }

    /// The device has another size from now on; no store is begun before that is durable. What a shorter one
    /// does not have any more has neither mark nor note.
    pub fn resize(&mut self, size_bytes: u64) {
        self.shrink = size_bytes < self.header.size_bytes;
        self.header.size_bytes = size_bytes;
        let extents = size_bytes.div_ceil(EXTENT_BYTES);
        let known = [&mut self.marked, &mut self.noted, &mut self.to_mark, &mut self.to_note];
        let under_way = self.marking.iter_mut().flat_map(|m| [&mut m.marks, &mut m.notes]);
        known.into_iter().chain(under_way).for_each(|of| of.retain(|extent, _| *extent < extents));
        self.adopted.retain(|extent| *extent < extents);
        self.save_header();
    }

    /// Numbers begin anew: what is known of those before is forgotten.
    pub fn begin_epoch(&mut self) {
        (self.clean, self.durable, self.everywhere, self.looked) = (0, 0, 0, 0);
        self.retouch(true, UNKNOWN);
    }

    /// Queues a look at an extent: it comes after the changes before it, and before those after it.
    pub fn examine(&mut self, id: u64, extent: u64) {
        let op = Op { kind: OpKind::Zero, offset: extent * EXTENT_BYTES, len: EXTENT_BYTES };
        self.queue.push_back(Queued { id, op, mark: false, note: false, examine: true });
    }

    /// Seals an extent, unless a change of it is under way or may not be durable everywhere.
    pub fn seal(&mut self, extent: u64, hash: [u8; 32]) {
        let marking = self.marking.as_ref().is_some_and(|m| m.marks.contains_key(&extent));
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
        self.to_note.clear();
    }

    /// All marks there are, those under way included.
    pub fn marks(&self) -> impl Iterator<Item = u64> + '_ {
        self.marked.keys().chain(self.marking.iter().flat_map(|m| m.marks.keys())).copied()
    }

    /// Gives marks and notes of unknown touch a number, or all of them that have a lower one (UNKNOWN: forget
    /// the numbers). A higher one stays: it is of a change that this position does not cover.
    pub fn retouch(&mut self, all: bool, seq: u64) {
        let under_way =
            self.marking.iter_mut().flat_map(|m| m.marks.values_mut().chain(m.notes.values_mut()));
        for touched in self.marked.values_mut().chain(self.noted.values_mut()).chain(under_way) {
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
                    self.marked.extend(marking.marks);
                    self.noted.extend(marking.notes);
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
        self.adopted.clear();
        self.sweep = false;
        self.saving = false;
        self.save = first;
        first
    }

    /// What can begin now.
    pub fn pump(&mut self, out: &mut Vec<LocalEffect>) {
        // before any mark: whoever breaks a seal later breaks this one
        out.extend(self.seals.drain(..).map(|(extent, hash)| LocalEffect::Seal { extent, hash }));
        // what lies beyond the new end of a shorter device is over before that is
        let over = self.outstanding.is_empty() && self.examining.is_empty();
        if self.save && !self.saving && (over || !self.shrink) {
            (self.save, self.shrink) = (false, false);
            self.saving = true;
            self.written = Some((self.header.epoch, self.header.durable_seq));
            let note = std::mem::take(&mut self.adopted);
            out.push(LocalEffect::SaveHeader { header: self.header.clone(), note });
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
        // what is queued here was perhaps made durable everywhere else already, but it needs its mark
        let clean = self.clean.min(self.durable);
        let everywhere = self.everywhere.min(self.durable);
        let long = self.noted.len() + self.to_note.len() > self.noted_max && everywhere > self.looked;
        let nothing_to_do = self.to_mark.is_empty() && self.to_note.is_empty() && !self.sweep && !long;
        if nothing_to_do || self.marking.is_some() || !self.header_saved() {
            return;
        }
        let marks = std::mem::take(&mut self.to_mark);
        let notes = std::mem::take(&mut self.to_note);
        let sweep = std::mem::take(&mut self.sweep);
        let kept = |max: usize| if sweep { 0 } else { max };
        let unmark = take_old(&mut self.marked, marks.len(), kept(self.marked_max), clean);
        let mut forget = Vec::new();
        // a look through the whole map, which may be long while a replica is away
        if sweep || long {
            self.looked = everywhere;
            forget = take_old(&mut self.noted, notes.len(), kept(self.noted_max), everywhere);
        }
        let keys = |extents: &BTreeMap<u64, u64>| extents.keys().copied().collect::<Vec<_>>();
        let (mark, note) = (keys(&marks), keys(&notes));
        if [&mark, &unmark, &note, &forget].iter().any(|extents| !extents.is_empty()) {
            out.push(LocalEffect::Mark { mark, unmark, note, forget });
            self.marking = Some(Marking { marks, notes });
        }
    }

    fn head_is_free(&self) -> bool {
        self.queue.front().is_some_and(|q| {
            let marked = !q.mark || q.op.extents().all(|x| self.marked.contains_key(&x));
            let noted = !q.note || q.op.extents().all(|x| self.noted.contains_key(&x));
            let mut begun = self.outstanding.values().chain(self.examining.values().filter(|_| !q.examine));
            marked && noted && !begun.any(|op| op.overlaps(&q.op))
        })
    }

    /// The image as the next machine finds it.
    pub fn into_image(self) -> Image {
        let (marked, noted) = (self.marks().collect(), self.map().collect());
        Image { header: self.header, marked, noted }
    }
}

/// Gives an extent the number of its last write, wherever it is known; says whether it is.
fn touch(
    known: &mut BTreeMap<u64, u64>,
    under_way: Option<&mut BTreeMap<u64, u64>>,
    extent: u64,
    seq: u64,
) -> bool {
    let touched = known.get_mut(&extent).or_else(|| under_way.and_then(|more| more.get_mut(&extent)));
    touched.map(|touched| *touched = seq).is_some()
}

/// Takes out what is over `kept` with so many to come: the oldest, and nothing later than `clean`.
fn take_old(known: &mut BTreeMap<u64, u64>, coming: usize, kept: usize, clean: u64) -> Vec<u64> {
    let over = (known.len() + coming).saturating_sub(kept);
    if over == 0 {
        return Vec::new();
    }
    let mut old: Vec<(u64, u64)> = known
        .iter()
        .filter(|(_, touched)| **touched <= clean)
        .map(|(extent, touched)| (*touched, *extent))
        .collect();
    old.sort_unstable();
    let old: Vec<u64> = old.into_iter().take(over).map(|(_, extent)| extent).collect();
    for extent in &old {
        known.remove(extent);
    }
    old
}
