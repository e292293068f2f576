//! The device's requests: numbered, streamed, stored here, answered.

use super::super::frame::{Frame, Op};
use super::super::local::LocalEvent;
use super::{Active, DeviceOp, Effect};

/// What an operation costs in the ring beside its payload, bytes: a discard has none.
const RING_ENTRY: u64 = 128;

/// A flush that is not answered yet.
#[derive(Debug, Clone, Hash)]
pub(super) struct Flush {
    pub seq: u64,
    /// Who waits: a request, or the machine itself.
    pub request: Option<u64>,
    /// Asked by `Detach`.
    pub detach: bool,
    pub since_ms: u64,
}

impl Active {
    /// Takes requests in order as long as nothing stands against it.
    pub(super) fn pump_device(&mut self) {
        while let Some((request, op)) = self.waiting.front().copied() {
            match op {
                DeviceOp::Flush => self.flush_asked(request),
                DeviceOp::Change(op) if self.admits(&op) => self.change(request, op),
                DeviceOp::Change(_) => break,
            }
            self.waiting.pop_front();
        }
        if !self.waiting.is_empty() && self.local.crowded() && self.flushes.is_empty() {
            self.flush(None, false);
        }
    }

    fn admits(&self, op: &Op) -> bool {
        let held = [self.held, self.scrub.held()].into_iter().flatten().any(|x| op.extents().contains(&x));
        let full = self.peers.iter().any(|(node, peer)| {
            let in_flight = peer.stream.as_ref().map_or(0, |s| s.in_flight);
            self.counted(*node) && in_flight > 0 && in_flight + op.payload() > self.limits.window_bytes
        });
        !held && !full && !self.local.crowded()
    }

    pub(super) fn change(&mut self, request: u64, op: Op) {
        self.seq += 1;
        let seq = self.seq;
        self.out.push(Effect::Number { request, seq });
        self.changed = seq;
        self.changed_ms = self.now_ms;
        self.give_credit(op.payload());
        for extent in op.extents() {
            self.last_change.insert(extent, seq);
        }
        let nodes: Vec<_> = self.peers.keys().copied().collect();
        for node in nodes {
            self.stream_change(node, seq, op);
        }
        self.ring.push_back((seq, op));
        self.ring_bytes += op.payload() + RING_ENTRY;
        self.local.store(seq, seq, op, true);
        self.unanswered.insert(seq, request);
        // what runs at once must find its payload, so it is given out before the ring forgets it
        let mut out = Vec::new();
        self.local.pump(&mut out);
        self.out.extend(out.into_iter().map(Effect::Local));
        self.forget();
    }

    /// Old changes leave the ring, once given out here.
    fn forget(&mut self) {
        let queued = self.local.first_queued().unwrap_or(u64::MAX);
        let before = self.ring_after;
        while self.ring_bytes > self.limits.ring_bytes {
            match self.ring.front() {
                Some((seq, op)) if *seq < queued => {
                    self.ring_bytes -= op.payload() + RING_ENTRY;
                    self.ring_after = *seq;
                    self.ring.pop_front();
                }
                _ => break,
            }
        }
        if self.ring_after != before {
            self.out.push(Effect::Forget { up_to: self.ring_after });
        }
    }

    fn flush_asked(&mut self, request: u64) {
        if self.flushes.is_empty() && self.changed <= self.durable_everywhere() {
            self.out.push(Effect::Reply { request, ok: true });
        } else {
            self.flush(Some(request), false);
        }
    }

    /// A flush: everywhere at once.
    pub(super) fn flush(&mut self, request: Option<u64>, detach: bool) {
        self.seq += 1;
        let seq = self.seq;
        self.flushes.push_back(Flush { seq, request, detach, since_ms: self.now_ms });
        self.local.sync(seq);
        let (all_durable, everywhere) = (self.all_durable, self.local.everywhere);
        let (mut to, mut teach) = (Vec::new(), Vec::new());
        for (node, peer) in &mut self.peers {
            if let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut())
                && stream.whole()
            {
                if stream.settle.is_none() && stream.teach {
                    teach.push((*node, session));
                }
                if stream.settle.is_none() {
                    let member = self.config.in_sync.contains(node);
                    (stream.settle, stream.settle_ms) = (Some(seq), if member { 0 } else { self.now_ms });
                }
                to.push((*node, session));
            }
        }
        for (node, session) in teach {
            let noted = self.local.map().chain(self.local.marks()).collect();
            self.send(node, session, Frame::Map { line: self.local.header.line, noted });
        }
        for (node, session) in to {
            self.send(node, session, Frame::Flush { seq, all_durable, everywhere });
        }
    }

    pub(super) fn detach(&mut self) {
        if !self.detaching && !self.fenced {
            self.detaching = true;
        }
    }

    pub(super) fn answered_locally(&mut self, event: &LocalEvent) {
        if let Some(seq) = self.local.answered(event) {
            self.local_durable = self.local_durable.max(seq);
            self.local.header.durable_seq = self.local_durable;
            self.local.durable = self.local_durable;
        }
        if let LocalEvent::Stored { id } = event
            && let Some(request) = self.unanswered.remove(id)
        {
            self.out.push(Effect::Reply { request, ok: !self.fenced });
        }
    }

    /// Durable here and on every member that counts now.
    pub(super) fn durable_everywhere(&self) -> u64 {
        let counted = self.peers.iter().filter(|(node, _)| self.counted(**node));
        let mut durable: Vec<u64> = counted.map(|(_, peer)| peer.durable).collect();
        durable.push(self.local_durable);
        durable.sort_unstable();
        let wanted = if self.rules.wait_for_all { 0 } else { (durable.len() - 1) / 2 };
        durable[wanted]
    }

    /// Answers the flushes that everybody who counts has made durable.
    pub(super) fn pump_flushes(&mut self) {
        if self.detaching && self.waiting.is_empty() && !self.flushes.iter().any(|f| f.detach) {
            self.flush(None, true);
        }
        let durable = self.durable_everywhere();
        if durable > self.all_durable {
            self.all_durable = durable;
            self.local.clean = durable;
        }
        let durable_there = self.peers.values().map(|peer| peer.durable);
        let everywhere = durable_there.fold(self.local_durable, u64::min);
        let everywhere = if self.rules.note_for_all { everywhere } else { durable };
        self.local.everywhere = self.local.everywhere.max(everywhere);
        while self.flushes.front().is_some_and(|flush| flush.seq <= durable) {
            match self.flushes.pop_front() {
                Some(Flush { request: Some(request), .. }) => {
                    self.out.push(Effect::Reply { request, ok: true });
                }
                Some(Flush { detach: true, .. }) if !self.swept => {
                    // once more, so that everybody knows that everybody has it, and lets go of the marks
                    self.swept = true;
                    self.flush(None, true);
                }
                Some(Flush { detach: true, .. }) => {
                    self.local.sweep();
                    // the lease goes back with it, so nothing is answered any more
                    self.fenced = true;
                    self.out.push(Effect::Detached);
                    return self.refuse_all();
                }
                _ => {}
            }
        }
    }

    /// EIO to everyone who waits.
    pub(super) fn refuse_all(&mut self) {
        let waiting = self.waiting.drain(..).map(|(request, _)| request);
        let flushes = self.flushes.drain(..).filter_map(|flush| flush.request);
        let changes = std::mem::take(&mut self.unanswered).into_values();
        let all: Vec<u64> = waiting.chain(flushes).chain(changes).collect();
        self.out.extend(all.into_iter().map(|request| Effect::Reply { request, ok: false }));
    }
}
