//! The search for bit rot: extent after extent is looked at by every member at the same place in the stream, what
//! differs is looked at again with writes to it held back, and a wrong copy is written anew as a numbered
//! operation like any other.

use super::super::frame::{EXTENT_BYTES, Frame, Op, OpKind};
use super::super::local::LocalEffect;
use super::super::scrub::{Finding, Found, Pace, Record, Repair, Verdict, judge};
use super::{Active, Effect, Fetched};
use crate::name::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// How often a repair of an extent is tried before that is told.
const TRIES: u32 = 4;
/// How long the marks may take to go before a pass begins with them, ms.
const TIDY_MAX_MS: u64 = 1_000;
/// An answer that is missing for so long does not come any more, ms: a disk may try a bad sector for half a minute.
const LOOK_MAX_MS: u64 = 60_000;

/// One extent that is looked at.
#[derive(Debug, Clone, Hash)]
struct Look {
    seq: u64,
    since_ms: u64,
    /// Who has not answered yet, and on which session; 0: this radiator.
    awaited: BTreeMap<NodeId, u64>,
    found: BTreeMap<NodeId, Found>,
}

/// A wrong copy that is written anew.
#[derive(Debug, Clone, Hash)]
struct Mending {
    extent: u64,
    good: [u8; 32],
    from: NodeId,
    session: u64,
    since_ms: u64,
}

/// An extent to be looked at again.
#[derive(Debug, Clone, Default, Hash)]
struct Suspect {
    /// How often it was found different.
    tries: u32,
    /// Whose copies were written anew meanwhile.
    wrong: BTreeSet<NodeId>,
    /// When it was found so last.
    at_ms: u64,
}

/// The marks are to go before a pass.
#[derive(Debug, Clone, Copy, Hash)]
struct Tidying {
    since_ms: u64,
    /// What is waited for.
    flush: Option<u64>,
    /// It is the flush that tells everybody that everybody has everything before it.
    told: bool,
}

/// What the active knows of the search.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Scrub {
    pace: Option<Pace>,
    record: Record,
    /// Wall clock at boot, Unix ms.
    booted_ms: u64,
    looks: BTreeMap<u64, Look>,
    suspects: BTreeMap<u64, Suspect>,
    /// The suspect that is under way: no write to it is begun.
    held: Option<u64>,
    hold: bool,
    mending: Option<Mending>,
    /// When the last look began.
    looked_ms: u64,
    /// The last change of the device that was seen here, and when.
    changed: (u64, u64),
    tidying: Option<Tidying>,
    /// When how far it is was noted last, and how far it was.
    noted: (u64, u64),
}

impl Scrub {
    /// Up to here everything was looked at.
    fn surely(&self) -> u64 {
        let under_way = self.looks.keys().chain(self.suspects.keys()).copied();
        under_way.fold(self.record.next, u64::min)
    }

    /// The extent that no write may begin on.
    pub fn held(&self) -> Option<u64> {
        self.held.filter(|_| self.hold)
    }
}

impl Active {
    /// How far the search for bit rot is, and what it found.
    pub fn examination(&self) -> &Record {
        &self.scrub.record
    }

    pub(super) fn begin_to_scrub(&mut self, record: Record, pace: Pace, wall_ms: u64) {
        self.scrub.pace = Some(pace);
        self.scrub.record = record;
        self.scrub.record.extents = self.extents();
        self.scrub.booted_ms = wall_ms.saturating_sub(self.now_ms);
        self.scrub.hold = self.rules.hold_repaired;
        self.scrub.noted = (self.now_ms, self.scrub.record.next);
    }

    /// The device has grown: a pass goes on to the new end. The extent at the old one may be longer now; a look at it
    /// or a repair that is under way could mix different lengths.
    pub(super) fn look_beyond(&mut self, at_the_end: u64) {
        self.scrub.record.extents = self.extents();
        let mending = self.scrub.mending.take_if(|mending| mending.extent == at_the_end);
        if self.scrub.looks.remove(&at_the_end).is_some() || mending.is_some() {
            self.look_again(at_the_end, false, &BTreeMap::new());
        }
    }

    /// A person wants a pass now. One that was asked for before and goes on is as good.
    pub(super) fn check_asked(&mut self) {
        let record = &self.scrub.record;
        if self.scrub.pace.is_some() && !(record.running && record.asked) {
            self.begin_pass(true);
        }
    }

    fn wall_ms(&self) -> u64 {
        self.scrub.booted_ms + self.now_ms
    }

    fn begin_pass(&mut self, asked: bool) {
        let compared = self.config.replicas.keys().copied().collect();
        let (extents, began_ms, now_ms) = (self.extents(), self.wall_ms(), self.now_ms);
        let record = &mut self.scrub.record;
        record.pass += 1;
        (record.running, record.asked, record.next, record.extents) = (true, asked, 0, extents);
        (record.began_ms, record.compared, record.repaired, record.open_more) = (began_ms, compared, 0, 0);
        record.open.retain(|extent, _| *extent < extents);
        self.scrub.tidying = Some(Tidying { since_ms: now_ms, flush: None, told: false });
        self.note_progress();
    }

    /// How far it is goes to every replica.
    fn note_progress(&mut self) {
        self.scrub.noted = (self.now_ms, self.scrub.record.next);
        let mut record = self.scrub.record.clone();
        record.next = self.scrub.surely();
        self.out.push(Effect::Local(LocalEffect::Note(record.clone())));
        let to = self.peers.iter().filter(|(_, peer)| peer.stream.is_some());
        let to: Vec<_> = to.filter_map(|(node, peer)| Some((*node, peer.session?))).collect();
        for (node, session) in to {
            self.send(node, session, Frame::Progress(record.clone()));
        }
    }

    /// The other members, if each of them holds all that was numbered so far or is about to, and nobody catches up.
    fn examiners(&self) -> Option<BTreeMap<NodeId, u64>> {
        let mut examiners = BTreeMap::new();
        for (node, peer) in &self.peers {
            let whole = peer.stream.as_ref().is_none_or(|s| s.whole());
            let member = self.is_member(*node);
            if !whole || peer.joining && !member {
                return None;
            }
            if member {
                let settle = peer.stream.as_ref()?.settle?;
                examiners.insert(*node, peer.session.filter(|_| peer.durable >= settle)?);
            }
        }
        Some(examiners)
    }

    /// What can go on now.
    pub(super) fn pump_scrub(&mut self) {
        let Some(pace) = self.scrub.pace else { return };
        if self.scrub.changed.0 != self.changed {
            self.scrub.changed = (self.changed, self.now_ms);
        }
        if self.detaching {
            return self.stop_looking();
        }
        self.forget_lost_looks();
        let (record, now_ms) = (&self.scrub.record, self.wall_ms());
        // a beginning that lies ahead is of a clock that was wrong
        let due = record.pass == 0
            || now_ms >= record.began_ms.saturating_add(pace.pass_every_ms)
            || record.began_ms > now_ms;
        if !record.running && due {
            self.begin_pass(false);
        }
        if !self.scrub.record.running {
            return;
        }
        if let Some(examiners) = self.examiners()
            && self.tidy()
        {
            self.look_at_suspect(&examiners);
            while self.may_look(&pace) {
                let extent = self.scrub.record.next;
                self.scrub.record.next += 1;
                self.look(extent, &examiners);
            }
        }
        self.end_pass_or_note(&pace);
    }

    /// The next active goes on where everything was looked at.
    fn stop_looking(&mut self) {
        let next = self.scrub.surely();
        if self.scrub.pace.take().is_some() && self.scrub.record.running {
            self.scrub.record.next = next;
            self.scrub.looks.clear();
            self.scrub.suspects.clear();
            (self.scrub.held, self.scrub.mending) = (None, None);
            self.note_progress();
        }
    }

    fn may_look(&self, pace: &Pace) -> bool {
        let (scrub, now) = (&self.scrub, self.now_ms);
        if scrub.record.next >= scrub.record.extents || scrub.held.is_some() {
            return false;
        }
        if scrub.record.asked {
            return scrub.looks.len() < pace.at_once;
        }
        let busy =
            now < scrub.changed.1 + pace.quiet_ms || !self.waiting.is_empty() || !self.flushes.is_empty();
        scrub.looks.is_empty()
            && now >= scrub.looked_ms + if busy { pace.patience_ms } else { pace.extent_every_ms }
    }

    /// Before a pass the marks go, where nothing is written: only what is durable everywhere can be sealed. As when a
    /// volume is given back, the second flush tells everybody that everybody has everything.
    fn tidy(&mut self) -> bool {
        let Some(Tidying { since_ms, flush, told }) = self.scrub.tidying else { return true };
        let durable = self.all_durable;
        self.scrub.tidying = match flush {
            _ if self.now_ms > since_ms + TIDY_MAX_MS => None,
            Some(seq) if told && durable >= seq => None,
            Some(seq) if !told && durable == seq && seq == self.seq => {
                self.flush(None, false);
                self.local.sweep();
                Some(Tidying { since_ms, flush: Some(self.seq), told: true })
            }
            // something was written meanwhile, or this is the beginning
            Some(seq) if told || durable < seq => self.scrub.tidying,
            _ => {
                self.flush(None, false);
                Some(Tidying { since_ms, flush: Some(self.seq), told: false })
            }
        };
        self.scrub.tidying.is_none()
    }

    /// Everybody looks at it, each when its stream comes to this number.
    fn look(&mut self, extent: u64, examiners: &BTreeMap<NodeId, u64>) {
        self.seq += 1;
        let seq = self.seq;
        let mut awaited = examiners.clone();
        awaited.insert(self.me, 0);
        self.scrub.record.compared.retain(|node| awaited.contains_key(node));
        self.scrub.looked_ms = self.now_ms;
        self.scrub.looks.insert(extent, Look { seq, since_ms: self.now_ms, awaited, found: BTreeMap::new() });
        self.local.examine(seq, extent);
        for (node, session) in examiners {
            self.send(*node, *session, Frame::Examine { seq, extent });
        }
    }

    fn look_at_suspect(&mut self, examiners: &BTreeMap<NodeId, u64>) {
        if self.scrub.held.is_some() {
            return;
        }
        let free = |extent: &&u64| !self.scrub.looks.contains_key(extent);
        if let Some(extent) = self.scrub.suspects.keys().find(free).copied() {
            self.scrub.held = Some(extent);
            self.look(extent, examiners);
        }
    }

    /// A look or a repair of which somebody was lost, or that takes too long, is begun again later.
    fn forget_lost_looks(&mut self) {
        let (now, held, me) = (self.now_ms, self.scrub.held, self.me);
        let peers = &self.peers;
        let gone = |node: &NodeId, session: u64| {
            *node != me && peers.get(node).is_none_or(|peer| peer.session != Some(session))
        };
        // writers wait for the one that is held
        let most = self.limits.flush_timeout_ms;
        let late = |extent: u64, since: u64| {
            now >= since + if held == Some(extent) { most } else { LOOK_MAX_MS.max(most) }
        };
        let lost = |(extent, look): &(&u64, &Look)| {
            look.awaited.iter().any(|(node, session)| gone(node, *session)) || late(**extent, look.since_ms)
        };
        let lost: Vec<(u64, bool)> =
            self.scrub.looks.iter().filter(lost).map(|(x, look)| (*x, late(*x, look.since_ms))).collect();
        let mending = self.scrub.mending.take_if(|m| gone(&m.from, m.session) || late(m.extent, m.since_ms));
        for (extent, timed_out) in lost {
            if let Some(look) = self.scrub.looks.remove(&extent) {
                self.look_again(extent, timed_out, &look.found);
            }
        }
        if let Some(Mending { extent, .. }) = mending {
            self.look_again(extent, true, &BTreeMap::new());
        }
    }

    /// Once more; `failed`: not for ever.
    fn look_again(&mut self, extent: u64, failed: bool, found: &BTreeMap<NodeId, Found>) {
        self.scrub.held = self.scrub.held.filter(|held| *held != extent);
        let suspect = self.scrub.suspects.entry(extent).or_default();
        suspect.tries += u32::from(failed);
        if suspect.tries > TRIES {
            self.leave_open(extent, found, false);
        }
    }

    fn leave_open(&mut self, extent: u64, found: &BTreeMap<NodeId, Found>, undecided: bool) {
        let finding = Finding::new(self.wall_ms(), found, undecided);
        self.scrub.suspects.remove(&extent);
        self.scrub.held = self.scrub.held.filter(|held| *held != extent);
        self.scrub.record.note_open(extent, finding);
        self.note_progress();
    }

    pub(super) fn examined(&mut self, node: NodeId, seq: u64, found: Found) {
        let mut looks = self.scrub.looks.iter_mut();
        let Some((extent, look)) = looks.find(|(_, look)| look.seq == seq) else { return };
        let extent = *extent;
        if look.awaited.remove(&node).is_some() {
            look.found.insert(node, found);
        }
        if look.awaited.is_empty()
            && let Some(look) = self.scrub.looks.remove(&extent)
        {
            self.conclude(extent, look);
        }
    }

    fn conclude(&mut self, extent: u64, look: Look) {
        let verdict = judge(&look.found);
        if let Verdict::Alike(hash) = verdict {
            return self.alike(extent, look.seq, hash);
        }
        self.out.push(Effect::Differs { extent, found: look.found.clone() });
        let held = self.scrub.held == Some(extent);
        let at_ms = self.wall_ms();
        let suspect = self.scrub.suspects.entry(extent).or_default();
        suspect.tries += 1;
        suspect.at_ms = at_ms;
        if !held {
            return;
        }
        match verdict {
            Verdict::Wrong { good, wrong } if suspect.tries <= TRIES => {
                suspect.wrong.extend(&wrong);
                let here = !wrong.contains(&self.me);
                let right = look.found.keys().filter(|node| !wrong.contains(node));
                let from = if here { Some(self.me) } else { right.copied().next() };
                self.mend(extent, good, from);
            }
            Verdict::Wrong { .. } => self.leave_open(extent, &look.found, false),
            _ => self.leave_open(extent, &look.found, true),
        }
    }

    /// A good copy is asked for; the extent stays held until it is written.
    fn mend(&mut self, extent: u64, good: [u8; 32], from: Option<NodeId>) {
        let session = from.and_then(|node| self.peers.get(&node)).and_then(|peer| peer.session);
        let since_ms = self.now_ms;
        match (from, session) {
            (Some(node), _) if node == self.me => {
                self.scrub.mending = Some(Mending { extent, good, from: node, session: 0, since_ms });
                self.out.push(Effect::ReadExtent { extent });
            }
            (Some(node), Some(session)) => {
                self.scrub.mending = Some(Mending { extent, good, from: node, session, since_ms });
                self.send(node, session, Frame::Fetch { extent });
            }
            _ => self.look_again(extent, true, &BTreeMap::new()),
        }
    }

    /// The good copy is written like any other change, before whatever waits for the extent.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { request, from, extent, hash } = fetched;
        let wanted = |m: &mut Mending| m.extent == extent && m.from == from;
        let mending = self.scrub.mending.take_if(wanted).filter(|_| !self.fenced && !self.detaching);
        match mending {
            Some(mending) if hash == Some(mending.good) => {
                let offset = extent * EXTENT_BYTES;
                let len = EXTENT_BYTES.min(self.config.size_bytes - offset);
                self.scrub.held = None;
                self.change(request, Op { kind: OpKind::Write, offset, len });
                self.flush(None, false);
            }
            other => {
                self.out.push(Effect::Reply { request, ok: false });
                if other.is_some() {
                    self.look_again(extent, true, &BTreeMap::new());
                }
            }
        }
    }

    fn alike(&mut self, extent: u64, seq: u64, hash: [u8; 32]) {
        self.scrub.held = self.scrub.held.filter(|held| *held != extent);
        let unchanged = self.last_change.get(&extent).is_none_or(|last| *last <= seq);
        // With a replica missing what rotted here could be sealed, and that one return without a look at it.
        let all = self.config.replicas.keys().all(|node| self.config.in_sync.contains(node));
        if unchanged
            && all
            && let Some(examiners) = self.examiners()
        {
            self.local.seal(extent, hash);
            for (node, session) in examiners {
                self.send(node, session, Frame::Seal { extent, hash });
            }
        }
        let closed = self.scrub.record.open.remove(&extent).is_some();
        let suspect = self.scrub.suspects.remove(&extent).filter(|suspect| !suspect.wrong.is_empty());
        if let Some(Suspect { at_ms, wrong, .. }) = &suspect {
            let wrong = wrong.iter().copied().collect();
            self.scrub.record.note_repair(Repair { at_ms: *at_ms, extent, wrong });
            // its mark goes, then it is looked at once more, to be sealed
            self.scrub.tidying = Some(Tidying { since_ms: self.now_ms, flush: None, told: false });
            self.scrub.suspects.insert(extent, Suspect::default());
        }
        if closed || suspect.is_some() {
            self.note_progress();
        }
    }

    fn end_pass_or_note(&mut self, pace: &Pace) {
        let (scrub, record) = (&self.scrub, &self.scrub.record);
        let under_way = !scrub.looks.is_empty() || !scrub.suspects.is_empty() || scrub.mending.is_some();
        if record.next >= record.extents && !under_way {
            let ended_ms = self.wall_ms();
            let record = &mut self.scrub.record;
            (record.running, record.asked, record.ended_ms) = (false, false, ended_ms);
            self.note_progress();
        } else if record.next >= scrub.noted.1 + pace.note_extents
            || record.next > scrub.noted.1 && self.now_ms >= scrub.noted.0 + pace.note_ms
        {
            self.note_progress();
        }
    }
}
