//! Connections between radiators, and what must hold at every member and at the end.

use super::*;

impl Small {
    pub(super) fn connect(&mut self, from: NodeId, to: NodeId) {
        self.made += 1;
        let number = self.made;
        let session = Session {
            number,
            ends: [from, to],
            open: [true, true],
            pipes: [VecDeque::new(), VecDeque::new()],
        };
        self.sessions.insert(number, Rc::new(session));
        self.tell_active(from, Event::Connected { replica: to, session: number });
    }

    pub(super) fn send(&mut self, id: NodeId, session: u64, mut frame: Frame) {
        let node = &self.nodes[&id];
        let payload = match &mut frame {
            Frame::Op { seq, op } if op.kind == OpKind::Write => match node.payloads.get(seq) {
                Some(tags) => tags.clone(),
                None => return self.violate(format!("{id} sends {seq} but forgot it")),
            },
            Frame::Copy { extent, hole, .. } => {
                let tags = node.disk.extent(*extent);
                *hole = tags.iter().all(|tag| *tag == 0);
                tags
            }
            _ => vec![],
        };
        self.queue(session, 0, Some((frame, payload)));
    }

    pub(super) fn queue(&mut self, session: u64, way: usize, packet: Packet) {
        if self.sessions.get(&session).is_some_and(|s| s.open[way]) {
            self.session(session).pipes[way].push_back(packet);
        }
    }

    /// One end closes; what it sent before still travels. A replica that has closed still meets what the
    /// active had sent: more than a shell lets through, so that an old epoch is refused by its rule alone.
    pub(super) fn hang_up(&mut self, session: u64, end: usize) {
        if self.sessions.get(&session).is_some_and(|s| s.open[end]) {
            self.queue(session, end, None);
            let session = self.session(session);
            session.open[end] = false;
            if end == 0 {
                session.pipes[1].clear();
            }
        }
    }

    pub(super) fn hang_up_all(&mut self, id: NodeId) {
        let sessions = self.sessions.iter();
        let mine = sessions.flat_map(|(n, s)| (0..2).filter(|end| s.ends[*end] == id).map(|end| (*n, end)));
        for (session, end) in mine.collect::<Vec<_>>() {
            self.hang_up(session, end);
        }
    }

    pub(super) fn deliver(&mut self, number: u64, way: usize) {
        let session = self.session(number);
        let Some(packet) = session.pipes[way].pop_front() else { return };
        let [from, to] = if way == 0 { session.ends } else { [session.ends[1], session.ends[0]] };
        let open = session.open[1 - way];
        if packet.is_none() {
            session.pipes[way].clear();
            session.pipes[1 - way].clear();
            session.open[1 - way] = false;
            if session.open == [false, false] || session.pipes.iter().all(VecDeque::is_empty) {
                self.sessions.remove(&number);
            }
        }
        match packet {
            None if !open => {}
            Some(_) if !open && way == 1 => {}
            None if way == 0 => self.tell_follower(to, FollowerEvent::Closed { session: number }),
            None => self.tell_active(to, Event::Closed { replica: from, session: number }),
            Some((frame, payload)) if way == 0 => {
                let node = self.node(to);
                node.handles += 1;
                let handle = node.handles;
                if frame.payload() > 0 {
                    node.payloads.insert(handle, payload);
                }
                self.tell_follower(to, FollowerEvent::Frame { session: number, handle, frame });
            }
            Some((frame, _)) => {
                self.tell_active(to, Event::Frame { replica: from, session: number, frame });
            }
        }
    }

    // ---- what must hold

    pub(super) fn check_members(&mut self) {
        let members: Vec<NodeId> = self.raft.volume().in_sync.iter().copied().collect();
        let count = (self.raft.volume().size_bytes / BLOCK) as usize;
        for member in members {
            self.check_member(member, 0..count);
        }
    }

    /// No member could lose what was flushed, if it lost power now.
    pub(super) fn check_member(&mut self, id: NodeId, mut within: std::ops::Range<usize>) {
        let disk = &self.nodes[&id].disk;
        let bad = |block: &usize| disk.could_be(*block).any(|tag| !self.client.allows(*block, tag));
        let volume = self.raft.volume();
        if volume.in_sync.contains(&id)
            && volume.replicas.get(&id) == Some(&disk.header.replica)
            && let Some(block) = within.find(bad)
        {
            let could_be: Vec<u64> = disk.could_be(block).collect();
            let may_hold = self.client.may_hold(block).to_vec();
            self.violate(format!(
                "invariant 2: block {block} on {id} could be {could_be:?}, not {may_hold:?}"
            ));
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        let volume = self.raft.volume();
        let Some(active) = volume.active.filter(|a| self.client.at == Some((*a, volume.epoch))) else {
            return false;
        };
        let truth = &self.nodes[&active].disk;
        let equal = |id: &NodeId| (0..2).all(|x| self.nodes[id].disk.extent(x) == truth.extent(x));
        volume.in_sync.len() == volume.replicas.len()
            && volume.replicas.keys().all(equal)
            && self.client.idle()
            && self.asked == self.script.len()
    }

    /// Faults have ended and everything goes its way: all replicas become equal, all requests are
    /// answered.
    pub fn heal(&mut self) -> Result<(), String> {
        self.budget = Budget { connects: 100, ..Budget::default() };
        let mut waits = 0;
        for _ in 0..5000 {
            if let Some(broken) = &self.broken {
                return Err(broken.clone());
            }
            let volume = self.raft.volume();
            let serving =
                volume.active.is_some_and(|id| self.epoch_of(id) == volume.epoch && !self.nodes[&id].fenced);
            let actions = self.actions();
            if let Some(action) = actions.first() {
                self.act(*action);
            } else if self.is_whole() {
                return Ok(());
            } else if !serving
                && waits % 4 == 3
                && let Some(node) = volume.in_sync.first().copied()
            {
                waits += 1;
                self.activate(node);
            } else if waits < 60 {
                waits += 1;
                self.wait();
            } else {
                break;
            }
        }
        let volume = self.raft.volume();
        let at = self.client.at;
        Err(format!("invariant 9: in sync {:?}, attached {at:?}, asked {}", volume.in_sync, self.asked))
    }
}
