//! How a replica is brought up to date: from the ring, from the extents known to differ, or by
//! comparing all of them; the device goes on meanwhile.

use super::super::frame::{EXTENT_BYTES, Extents, Frame, ImageHeader, Op, Refusal};
use super::peer::{Peer, Stream};
use super::{Active, Effect, Grade, IDLE_MS, TAIL};
use crate::name::NodeId;
use std::collections::BTreeSet;

/// So many bytes of copies may be ahead of the device's own writes.
const CREDIT_MAX: i64 = 4 * EXTENT_BYTES as i64;

impl Active {
    /// Peers as the configuration names them; a known one with the same identity stays.
    pub(super) fn renew_peers(&mut self) {
        let replicas = self.config.replicas.clone();
        let gone: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(node, peer)| replicas.get(node) != Some(&peer.id))
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.close(node, "it is no replica of the volume any more");
            self.peers.remove(&node);
        }
        for (node, id) in replicas {
            if node != self.me {
                self.peers.entry(node).or_insert_with(|| Peer::new(id, self.now_ms));
            }
        }
    }

    pub(super) fn close(&mut self, node: NodeId, why: &str) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.stream = None;
        peer.joining = false;
        if let Some(session) = peer.session.take() {
            self.out.push(Effect::Close { replica: node, session, why: why.into() });
        }
    }

    pub(super) fn connected(&mut self, node: NodeId, session: u64) {
        if !self.peers.contains_key(&node) || self.fenced {
            self.out.push(Effect::Close { replica: node, session, why: "not wanted".into() });
            return;
        }
        self.close(node, "a newer session stands");
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.session = Some(session);
            peer.alive_ms = self.now_ms;
        }
        if self.started {
            self.greet(node);
        }
    }

    pub(super) fn closed(&mut self, node: NodeId, session: u64) {
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.session == Some(session)
        {
            peer.session = None;
            peer.stream = None;
            peer.joining = false;
        }
    }

    pub(super) fn greet_all(&mut self) {
        let nodes: Vec<_> = self.peers.keys().copied().collect();
        for node in nodes {
            self.greet(node);
        }
    }

    fn greet(&mut self, node: NodeId) {
        let Some(Peer { session: Some(session), id, .. }) = self.peers.get(&node) else { return };
        let hello = Frame::Hello {
            version: super::super::WIRE_VERSION,
            volume: self.volume.clone(),
            epoch: self.config.epoch,
            active: self.me,
            replica: *id,
            size_bytes: self.config.size_bytes,
        };
        let session = *session;
        self.send(node, session, hello);
    }

    pub(super) fn frame(&mut self, node: NodeId, session: u64, frame: Frame) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.session == Some(session)) else {
            return;
        };
        peer.alive_ms = self.now_ms;
        if peer.stream.is_some() {
            peer.heard_ms = self.now_ms;
        }
        match frame {
            Frame::Present { header, marked, noted } => {
                self.present(node, session, &header, &marked, &noted);
            }
            Frame::Ack { frames, durable } => {
                peer.durable = peer.durable.max(durable);
                if let Some(stream) = &mut peer.stream
                    && let Some(seq) = stream.stored(frames)
                {
                    peer.received = peer.received.max(seq);
                }
            }
            Frame::Hashes { hashes } => {
                if peer.stream.as_ref().is_some_and(|s| s.asked.is_some()) {
                    self.out.push(Effect::Compare { replica: node, session, hashes });
                }
            }
            Frame::Examined { seq, found } => self.examined(node, seq, found),
            // its bytes come as `Fetched`
            Frame::Extent { .. } => {}
            Frame::Refused(Refusal::OldEpoch(epoch)) if epoch > self.config.epoch => {
                self.close(node, "it has promised a newer epoch");
                self.fence(format!("epoch {epoch} has begun elsewhere"));
            }
            Frame::Refused(why) => {
                peer.failed |= why == Refusal::Failed;
                self.close(node, &why.to_string());
            }
            Frame::Failed { error } => {
                peer.failed = true;
                self.close(node, &format!("its disk failed: {error}"));
            }
            _ => self.close(node, "a frame that only an active sends"),
        }
    }

    /// A replica said what it holds: is it that member, and what does it lack?
    fn present(&mut self, node: NodeId, session: u64, header: &ImageHeader, marked: &[u64], noted: &Extents) {
        let (epoch, extents) = (self.config.epoch, self.extents());
        let in_set = self.is_member(node);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if header.failed {
            peer.failed = true;
            return self.close(node, "its disk failed");
        }
        if header.replica != peer.id || header.volume != self.volume || peer.stream.is_some() {
            return self.close(node, "the image there is not the member");
        }
        if header.promised > epoch {
            return self.fence(format!("epoch {} has begun elsewhere", header.promised));
        }
        let same_line = header.line == self.local.header.line;
        let mut stream = Stream { teach: !same_line, grade: Some(Grade::Map), ..Stream::default() };
        let mut from_ring = None;
        if header.epoch == epoch {
            let known = if self.rules.resume_from_durable { peer.durable } else { peer.received };
            let held = header.durable_seq.max(known);
            if held >= self.ring_after && !header.torn {
                from_ring = Some(held);
                stream.grade = Some(Grade::Ring);
            } else {
                stream.dirty = self.last_change.iter().filter(|(_, s)| **s > held).map(|(x, _)| *x).collect();
            }
        } else if peer.base_in_set && !header.torn {
            let tail = |seq: &u64| *seq == TAIL;
            let changed = self.last_change.iter();
            stream.dirty = changed.clone().filter(|(_, s)| !tail(s)).map(|(x, _)| *x).collect();
            if self.rules.copy_tail {
                let mine = changed.filter(|(_, s)| tail(s)).map(|(x, _)| *x);
                stream.unknown = mine.chain(marked.iter().copied()).collect();
                stream.unknown.retain(|x| *x < extents && !stream.dirty.contains(x));
            }
        } else if in_set {
            return self.close(node, "the image there is older than the member");
        } else if (same_line || !self.rules.same_line) && self.rules.copy_tail {
            let changed = self.last_change.iter().filter(|(_, s)| **s != TAIL);
            stream.dirty = changed.map(|(x, _)| *x).collect();
            let mine = self.local.map().chain(self.local.marks());
            let theirs = noted.within(extents).chain(marked.iter().copied());
            stream.unknown = mine.chain(theirs).filter(|x| !stream.dirty.contains(x)).collect();
            stream.unknown.retain(|x| *x < extents);
        } else {
            stream.grade = Some(Grade::Compare);
            stream.compare_from = Some(0);
        }
        stream.torn = !in_set && !stream.whole();
        let torn = stream.torn;
        stream.began = (self.now_ms, stream.left(extents));
        stream.credit = CREDIT_MAX;
        peer.heard_ms = self.now_ms;
        peer.stream = Some(stream);
        self.send(node, session, Frame::Begin { torn });
        if let Some(held) = from_ring {
            let missed: Vec<_> = self.ring.iter().filter(|(seq, _)| *seq > held).copied().collect();
            for (seq, op) in missed {
                self.send_change(node, seq, op);
            }
        }
    }

    /// A new change goes to a replica, or is left for its catch-up.
    pub(super) fn stream_change(&mut self, node: NodeId, seq: u64, op: Op) {
        let counted = self.counted(node);
        let window = self.limits.window_bytes;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut()) else { return };
        if op.extents().all(|extent| stream.lacks(extent)) {
            return;
        }
        if !counted && stream.in_flight > 0 && stream.in_flight + op.payload() > window {
            stream.dirty.extend(op.extents());
            if !stream.torn || stream.settle.is_some() {
                (stream.torn, stream.settle) = (true, None);
                self.send(node, session, Frame::Begin { torn: true });
            }
            return;
        }
        self.send_change(node, seq, op);
    }

    fn send_change(&mut self, node: NodeId, seq: u64, op: Op) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut()) else { return };
        stream.sent(seq, op.payload(), false);
        self.send(node, session, Frame::Op { seq, op });
    }

    pub(super) fn compared(&mut self, node: NodeId, session: u64, differing: &[u64]) {
        let last_change = &self.last_change;
        let Some(stream) = self.peers.get_mut(&node).and_then(|p| p.stream_of(session)) else { return };
        let Some((asked, seq)) = stream.asked.take() else { return };
        let changed = |x: &u64| last_change.get(x).is_some_and(|last| *last > seq);
        stream.dirty.extend(asked.into_iter().filter(|x| changed(x) || differing.contains(x)));
    }

    /// Compares and copies go on; whoever lacks nothing any more is flushed.
    pub(super) fn pump_peers(&mut self) {
        self.held = None;
        let nodes: Vec<_> = self.peers.keys().copied().collect();
        let mut settle = false;
        for node in nodes {
            self.ask(node);
            self.copy(node);
            let stream = self.peers.get(&node).and_then(|p| p.stream.as_ref());
            settle |= stream.is_some_and(|s| s.whole() && s.settle.is_none());
        }
        if settle {
            self.flush(None, false);
        }
    }

    fn ask(&mut self, node: NodeId) {
        let extents = self.extents();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut()) else { return };
        if stream.asked.is_some() {
            return;
        }
        let mut ask = BTreeSet::new();
        let mut next = || {
            if let Some(extent) = stream.unknown.pop_first() {
                return Some(extent);
            }
            let from = stream.compare_from?;
            stream.compare_from = (from + 1 < extents).then_some(from + 1);
            Some(from)
        };
        while ask.len() < self.limits.hashes_max
            && let Some(extent) = next()
        {
            if self.local.busy(extent) {
                stream.dirty.insert(extent);
            } else if !stream.dirty.contains(&extent) {
                ask.insert(extent);
            }
        }
        if !ask.is_empty() {
            stream.asked = Some((ask.clone(), self.seq));
            self.send(node, session, Frame::AskHashes { extents: ask.into_iter().collect() });
        }
    }

    /// The device's own writes go by: catch-ups may take their share beside them.
    pub(super) fn give_credit(&mut self, bytes: u64) {
        let share = self.limits.catch_up_percent.min(99);
        let credit = (bytes * share / (100 - share)) as i64;
        for stream in self.peers.values_mut().filter_map(|peer| peer.stream.as_mut()) {
            stream.credit = (stream.credit + credit).min(CREDIT_MAX);
        }
    }

    fn copy(&mut self, node: NodeId) {
        let waited_for = self.counted(node);
        // one now and then always goes, or a device that is never idle and hardly written would keep it out
        let idle = self.now_ms >= self.changed_ms + IDLE_MS;
        loop {
            let Some(peer) = self.peers.get_mut(&node) else { return };
            let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut()) else { return };
            if stream.dirty.is_empty() || stream.copying >= self.limits.copies_max {
                return;
            }
            let due = self.now_ms >= stream.copied_ms + 2 * IDLE_MS;
            if !waited_for && stream.credit < 0 && !idle && !due {
                return;
            }
            // an extent that is being written is held for the moment its writes need, or it might never be free
            let Some(extent) = stream.dirty.iter().find(|x| !self.local.busy(**x)).copied() else {
                self.held = stream.dirty.first().copied();
                return;
            };
            stream.dirty.remove(&extent);
            self.seq += 1;
            let (seq, offset) = (self.seq, extent * EXTENT_BYTES);
            let len = EXTENT_BYTES.min(self.config.size_bytes - offset);
            // what an idle device gave is not owed later
            stream.credit = (stream.credit - len as i64).max(-(EXTENT_BYTES as i64));
            (stream.copied, stream.copied_ms) = (stream.copied + 1, self.now_ms);
            stream.sent(seq, len, true);
            self.send(node, session, Frame::Copy { seq, extent, len, hole: false });
        }
    }
}
