//! The radiators' machines: what they hear, what they want done, their disks and crashes.

use super::*;

impl Small {
    pub(super) fn tell_active(&mut self, id: NodeId, event: Event) {
        let now_ms = self.now_ms;
        let node = self.node(id);
        let Machine::Active(active) = &mut node.machine else { return };
        let effects = active.handle(now_ms, event);
        self.active_effects(id, effects);
        self.attach(id);
        if self.nodes[&id].fenced {
            self.renew(id);
        }
    }

    /// The device comes up: everything is read back.
    pub(super) fn attach(&mut self, id: NodeId) {
        let (epoch, now_ms) = (self.epoch_of(id), self.now_ms);
        let node = &self.nodes[&id];
        let serves = matches!(&node.machine, Machine::Active(active) if active.serving(now_ms));
        if !serves || node.attached || node.fenced || node.disk.header.promised != epoch {
            return;
        }
        let disk = node.disk.clone();
        self.node(id).attached = true;
        if let Err(broken) = Rc::make_mut(&mut self.client).attach(id, epoch, |block| disk.read(block)) {
            self.violate(broken);
        }
    }

    pub(super) fn tell_follower(&mut self, id: NodeId, event: FollowerEvent) {
        let now_ms = self.now_ms;
        let Machine::Follower(follower) = &mut self.node(id).machine else { return };
        let effects = follower.handle(now_ms, event);
        self.follower_effects(id, effects);
        self.renew(id);
    }

    pub(super) fn active_effects(&mut self, id: NodeId, effects: Vec<Effect>) {
        let mut compared = Vec::new();
        for effect in effects {
            match effect {
                Effect::Local(local) => self.local(id, local, true),
                Effect::Number { request, seq } => {
                    if let Some(tags) = self.node(id).requests.remove(&request) {
                        self.node(id).payloads.insert(seq, tags);
                    }
                }
                Effect::Forget { up_to } => {
                    let payloads = &mut self.node(id).payloads;
                    *payloads = payloads.split_off(&(up_to + 1));
                }
                Effect::Send { session, frame, .. } => self.send(id, session, frame),
                Effect::Close { session, .. } => self.hang_up(session, 0),
                Effect::Compare { replica, session, hashes } => {
                    let disk = &self.nodes[&id].disk;
                    let differing = hashes.into_iter().filter(|(x, hash)| disk.hash(*x) != *hash);
                    let differing = differing.map(|(x, _)| x).collect();
                    compared.push(Event::Compared { replica, session, differing });
                }
                Effect::ReadExtent { .. } | Effect::Differs { .. } => {
                    self.violate("nobody asked for a search for bit rot".into());
                }
                Effect::Reply { request, ok } => self.reply(id, request, ok),
                Effect::Propose(command) => {
                    let epoch = self.epoch_of(id);
                    self.flights.push(Flight { node: id, epoch, command, silent: false });
                }
                Effect::Fenced { .. } | Effect::Detached => {
                    self.node(id).fenced = true;
                    if self.client.at.is_some_and(|(at, _)| at == id) {
                        Rc::make_mut(&mut self.client).detach();
                    }
                    self.hang_up_all(id);
                }
            }
        }
        for event in compared {
            self.tell_active(id, event);
        }
    }

    pub(super) fn follower_effects(&mut self, id: NodeId, effects: Vec<FollowerEffect>) {
        let mut hashed = Vec::new();
        for effect in effects {
            match effect {
                FollowerEffect::Local(local) => self.local(id, local, false),
                FollowerEffect::Send { session, frame } => self.queue(session, 1, Some((frame, vec![]))),
                FollowerEffect::Hash { session, extents } => {
                    let disk = &self.nodes[&id].disk;
                    let hashes = extents.into_iter().map(|x| (x, disk.hash(x))).collect();
                    hashed.push(FollowerEvent::Hashed { session, hashes });
                }
                FollowerEffect::Close { session, .. } => self.hang_up(session, 1),
                FollowerEffect::Failed { error } => self.violate(format!("{id}'s disk failed: {error}")),
            }
        }
        for event in hashed {
            self.tell_follower(id, event);
        }
    }

    // ---- disks

    pub(super) fn local(&mut self, id: NodeId, effect: LocalEffect, active: bool) {
        let node = self.node(id);
        let job = match effect {
            LocalEffect::Store { id: number, op } => {
                let payload = match op.kind {
                    OpKind::Write if active => node.payloads.get(&number).cloned(),
                    OpKind::Write => node.payloads.remove(&number),
                    _ => Some(vec![]),
                };
                match payload {
                    Some(tags) => Job::Store { id: number, op, tags },
                    None => return self.violate(format!("{id} has no payload for {number} {op:?}")),
                }
            }
            LocalEffect::Mark { mark, unmark, note, forget } => Job::Mark { mark, unmark, note, forget },
            LocalEffect::Sync { id, header } => Job::Sync { id, header, seen: vec![] },
            LocalEffect::SaveHeader { header, note } => Job::Save { header, note },
            LocalEffect::Examine { .. } | LocalEffect::Seal { .. } | LocalEffect::Note(_) => {
                return self.violate("nobody asked for a search for bit rot".into());
            }
        };
        node.tokens += 1;
        node.disk.begin(node.tokens, job);
    }

    pub(super) fn disk_done(&mut self, id: NodeId, token: u64) {
        let event = match self.node(id).disk.finish(token) {
            Some(Job::Store { id: number, op, .. }) => {
                self.check_member(id, blocks(&op));
                LocalEvent::Stored { id: number }
            }
            Some(Job::Sync { id, .. }) => LocalEvent::Synced { id },
            Some(Job::Mark { .. }) => LocalEvent::Marked,
            Some(Job::Save { .. }) => LocalEvent::HeaderSaved,
            Some(_) | None => return,
        };
        match self.nodes[&id].machine {
            Machine::Active(_) => self.tell_active(id, Event::Local(event)),
            Machine::Follower(_) => self.tell_follower(id, FollowerEvent::Local(event)),
        }
    }

    /// How many outcomes a loss of power has there; the last factor: whether what it sent still travels.
    pub(super) fn outcomes(&self, id: NodeId) -> u64 {
        let mut outcomes = Outcomes { left: 0, all: 1 };
        self.nodes[&id].disk.clone().crash(true, &mut outcomes);
        let travels =
            self.sessions.values().any(|s| (0..2).any(|way| s.ends[way] == id && !s.pipes[way].is_empty()));
        outcomes.all * if travels { 2 } else { 1 }
    }

    /// It comes back at once: what happens to it later is the same as coming back later.
    pub(super) fn crash(&mut self, id: NodeId, outcome: u64) {
        let mut outcomes = Outcomes { left: outcome, all: 1 };
        let rules = self.rules;
        let node = self.node(id);
        node.disk.crash(true, &mut outcomes);
        let lost = outcomes.left % 2 == 1;
        node.machine = Machine::Follower(Follower::with_rules(node.disk.image(), LIMITS, rules));
        (node.fenced, node.attached) = (false, false);
        node.payloads.clear();
        node.requests.clear();
        self.check_members();
        if self.client.at.is_some_and(|(at, _)| at == id) {
            Rc::make_mut(&mut self.client).detach();
        }
        for flight in self.flights.iter_mut().filter(|f| f.node == id) {
            flight.silent = true;
        }
        if lost {
            let numbers: Vec<u64> = self.sessions.keys().copied().collect();
            for number in numbers {
                let session = self.session(number);
                for way in (0..2).filter(|way| session.ends[*way] == id).collect::<Vec<_>>() {
                    session.pipes[way].clear();
                }
            }
        }
        self.hang_up_all(id);
        self.renew(id);
    }
}
