//! Connections: each an ordered stream of its own pace, cut, stalled, ended; and the client's requests.

use crate::disk::{BLOCK, blocks};
use crate::world::{Connection, Happening, MS, Machine, Packet, Pipe, World, pair};
use std::collections::{BTreeSet, VecDeque};
use thermidor_model::NodeId;
use thermidor_model::replication::{DeviceOp, Event, FollowerEvent, Frame};

impl World {
    // ---- connections

    pub fn connect(&mut self, id: NodeId, life: u64, to: NodeId) {
        if self.nodes[&id].life != life || self.nodes[&id].fenced || !self.nodes.contains_key(&to) {
            return;
        }
        let up = matches!(self.nodes[&to].machine, Machine::Follower(_));
        let cut = self.cut_until.get(&pair(id, to)).is_some_and(|until| *until > self.now_us);
        let standing = self
            .connections
            .values()
            .any(|c| !c.closed && c.ends == [(id, life), (to, self.nodes[&to].life)]);
        if standing {
            return;
        }
        if !up || cut {
            return self.after(10, 40, Happening::Connect { node: id, life, to });
        }
        let session = self.count();
        let pipe = || Pipe { queued: VecDeque::new(), travelling: VecDeque::new(), last_us: 0 };
        let ends = [(id, life), (to, self.nodes[&to].life)];
        let delay_us = if self.dice.permille(100) { self.dice.range(1, 80) * MS } else { 300 };
        self.connections
            .insert(session, Connection { ends, pipes: [pipe(), pipe()], delay_us, closed: false });
        self.tell_active(id, Event::Connected { replica: to, session });
    }

    pub fn queue(&mut self, session: u64, way: usize, packet: Packet) {
        let wait = self.dice.range(0, 500);
        let Some(connection) = self.connections.get_mut(&session) else { return };
        connection.pipes[way].queued.push_back(packet);
        let us = self.now_us + wait;
        self.at(us, Happening::Transmit { session, way });
    }

    pub fn transmit(&mut self, session: u64, way: usize) {
        let jitter = self.dice.range(0, 1500);
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let (id, life) = connection.ends[way];
        let Some(mut packet) = connection.pipes[way].queued.pop_front() else { return };
        if self.nodes[&id].life != life {
            packet = None;
        }
        if let Some((Frame::Copy { extent, len, hole, .. } | Frame::Extent { extent, len, hole }, payload)) =
            &mut packet
        {
            *payload = self.nodes[&id].disk.as_ref().map(|d| d.extent(*extent)).unwrap_or_default();
            payload.resize((*len / BLOCK) as usize, 0);
            *hole = payload.iter().all(|tag| *tag == 0);
        }
        if let Some((Frame::Copy { .. }, payload)) = &packet {
            self.rot.copied(payload);
        }
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let pipe = &mut connection.pipes[way];
        pipe.last_us = pipe.last_us.max(self.now_us + connection.delay_us + jitter);
        pipe.travelling.push_back(packet);
        let us = pipe.last_us;
        self.at(us, Happening::Arrive { session, way });
    }

    pub fn arrive(&mut self, session: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        let [(from, _), (to, life)] =
            if way == 0 { connection.ends } else { [connection.ends[1], connection.ends[0]] };
        if let Some(until) = self.cut_until.get(&pair(from, to)).copied().filter(|until| *until > self.now_us)
        {
            let us = until + self.dice.range(0, 20 * MS);
            return self.at(us, Happening::Arrive { session, way });
        }
        let Some(packet) = connection.pipes[way].travelling.pop_front() else { return };
        let alive = self.nodes[&to].life == life;
        match packet {
            _ if !alive => {}
            None => self.ended(session, way, to, from),
            Some((frame, payload)) if way == 0 => {
                self.look_for_room(to, &frame);
                let node = self.node(to);
                node.next_handle += 1;
                let handle = node.next_handle;
                if frame.payload() > 0 {
                    node.payloads.insert(handle, payload);
                }
                self.tell_follower(to, FollowerEvent::Frame { session, handle, frame });
            }
            Some((Frame::Extent { extent, .. }, payload)) => self.fetched(to, from, extent, payload),
            Some((frame, _)) => self.tell_active(to, Event::Frame { replica: from, session, frame }),
        }
    }

    pub fn ended(&mut self, session: u64, way: usize, to: NodeId, from: NodeId) {
        if way == 0 {
            self.connections.remove(&session);
            self.tell_follower(to, FollowerEvent::Closed { session });
        } else {
            self.tell_active(to, Event::Closed { replica: from, session });
            let life = self.node(to).life;
            self.connections.remove(&session);
            self.after(5, 40, Happening::Connect { node: to, life, to: from });
        }
    }

    /// All sessions of a radiator end; the other ends hear of it after what is under way.
    pub fn hang_up(&mut self, id: NodeId) {
        let sessions: Vec<(u64, usize)> = self
            .connections
            .iter()
            .flat_map(|(s, c)| (0..2).filter(|way| c.ends[*way].0 == id).map(|way| (*s, way)))
            .collect();
        for (session, way) in sessions {
            if let Some(connection) = self.connections.get_mut(&session) {
                connection.pipes[way].queued.clear();
            }
            self.queue(session, way, None);
        }
    }

    pub fn ask(&mut self) {
        self.after(1, 12, Happening::Ask);
        let Some((id, epoch)) = self.client.at else { return };
        if self.epoch_of(id) != epoch || self.nodes[&id].frozen_until > self.now_us {
            return;
        }
        self.see_size(id);
        let block = (self.dice.next() % (self.size_bytes / BLOCK)) as usize;
        if matches!(&self.nodes[&id].machine, Machine::Active(a) if a.serving(self.now_us / MS)) {
            let found = self.nodes[&id].disk.as_ref().map_or(0, |d| d.read(block));
            if let Err(broken) = self.client.read(block, self.rot.was(found)) {
                self.violate(broken);
            }
        }
        if self.detaching == epoch {
            return;
        }
        let calm = self.calm;
        if calm && self.now_us > self.faults_until_us + 200 * MS && !self.client.idle() {
            return;
        }
        let mut dice = self.dice.clone();
        let asked = self.client.ask(&mut dice, calm && self.now_us > self.faults_until_us + 200 * MS);
        self.dice = dice;
        if let Some((request, op, tag)) = asked {
            if let DeviceOp::Change(change) = op {
                self.node(id).requests.insert(request, vec![tag; blocks(&change).len()]);
            }
            self.note(|| format!("client asks {request} {op:?} tag {tag}"));
            self.tell_active(id, Event::Device { request, op });
        }
    }

    pub fn reply(&mut self, id: NodeId, request: u64, ok: bool) {
        let epoch = self.epoch_of(id);
        if ok && self.raft.volume().epoch != epoch {
            return self
                .violate(format!("invariant 1: {id} answers in epoch {epoch} though a newer has begun"));
        }
        if self.client.at != Some((id, epoch)) || !self.client.answered(request, ok) {
            return;
        }
        self.note(|| format!("flush {request} answered"));
        let members: BTreeSet<NodeId> = self.raft.volume().in_sync.clone();
        let count = (self.size_bytes / BLOCK) as usize;
        let wrong = members.iter().find_map(|member| {
            let disk = self.nodes[member].disk.as_ref()?;
            let allows = |block, tag| self.client.allows(block, self.rot.was(tag));
            let bad = |block: &usize| disk.could_be(*block).any(|tag| !allows(*block, tag));
            let block = (0..count).find(bad)?;
            let could_be: Vec<u64> = disk.could_be(block).collect();
            let may_hold = self.client.may_hold(block);
            Some(format!(
                "invariant 3: flush {request} answered, yet block {block} on {member} could be {could_be:?}, not {may_hold:?}"
            ))
        });
        if let Some(text) = wrong {
            self.violate(text);
        }
    }
}
