//! The processes on each radiator: which machine runs, and its effects on its disk.

use crate::disk::{BLOCK, Disk, Job, blocks};
use crate::world::{Happening, LIMITS, MS, Machine, World};
use std::rc::Rc;
use thermidor_model::NodeId;
use thermidor_model::replication::{
    Active, Effect, Event, Follower, FollowerEffect, FollowerEvent, Frame, Image, ImageHeader, LocalEffect,
    LocalEvent, OpKind,
};
use thermidor_model::state::Volume;
use thermidor_model::testing::box_volume;

impl World {
    // ---- machines

    pub fn start(&mut self, id: NodeId) {
        if self.nodes[&id].up {
            return;
        }
        self.node(id).up = true;
        self.note(|| format!("{id} starts"));
        self.renew_machine(id);
    }

    /// What the applied state wants of a radiator that has no machine, or an idle one.
    pub fn renew_machine(&mut self, id: NodeId) {
        let (rules, now_ms) = (self.rules, self.now_us / MS);
        let now_us = self.now_us;
        let node = self.node(id);
        if matches!(&node.machine, Machine::Active(_) if !node.fenced) {
            return;
        }
        let Some(view) = node.view.clone().filter(|_| node.up) else { return };
        let leased = node.lease.0 == view.epoch && node.lease.1 > now_us;
        let Some(replica) = view.replicas.get(&id).copied() else { return };
        let mut image = match std::mem::replace(&mut node.machine, Machine::Down) {
            Machine::Active(active) if node.fenced && active.is_idle() => Some(active.into_image()),
            Machine::Active(active) => {
                node.machine = Machine::Active(active);
                return;
            }
            Machine::Follower(mut follower) => {
                let known = follower.header().replica == replica;
                let wanted = leased && view.active == Some(id) && view.epoch > follower.header().promised;
                if known && !(wanted && !follower.header().failed && !follower.header().torn) {
                    node.machine = Machine::Follower(follower);
                    return;
                }
                let effects = follower.retire();
                let idle = follower.is_idle();
                if !idle {
                    node.machine = Machine::Follower(follower);
                    return self.follower_effects(id, effects);
                }
                node.machine = Machine::Down;
                self.follower_effects(id, effects);
                Some(follower.into_image())
            }
            Machine::Down => None,
        };
        let node = self.node(id);
        if node.disk.as_ref().is_none_or(|disk| disk.header.replica != replica) {
            node.disk = Some(Disk::new(ImageHeader::new(box_volume(), replica, view.size_bytes)));
            image = None;
        }
        let Some(disk) = &node.disk else { return };
        // a live process knows what it wrote; a fresh one reads the disk
        let mut image: Image = image.unwrap_or_else(|| disk.image());
        node.fenced = false;
        node.attached = false;
        node.life += 1;
        node.payloads.clear();
        node.buffers.clear();
        node.requests.clear();
        let (life, until_ms) = (node.life, node.lease.1 / MS);
        if view.active == Some(id) && leased {
            self.lengthen(id, &mut image);
            let started =
                Active::with_rules(id, &box_volume(), &view, image.clone(), until_ms, LIMITS, rules, now_ms);
            match started {
                Ok((active, effects)) => {
                    self.node(id).machine = Machine::Active(Box::new(active));
                    self.takeovers += 1;
                    self.note(|| format!("{id} is active in epoch {} marks {:?}", view.epoch, image.marked));
                    self.active_effects(id, effects);
                    self.begin_to_scrub(id);
                    for to in view.replicas.keys().filter(|to| **to != id) {
                        self.after(0, 10, Happening::Connect { node: id, life, to: *to });
                    }
                    return;
                }
                Err(why) => self.note(|| format!("{id} cannot serve: {why}")),
            }
        }
        self.node(id).machine = Machine::Follower(Box::new(Follower::with_rules(image, LIMITS, rules)));
    }

    pub fn tell_active(&mut self, id: NodeId, event: Event) {
        let now_ms = self.now_us / MS;
        if let Machine::Active(active) = &mut self.node(id).machine {
            let effects = active.handle(now_ms, event);
            self.active_effects(id, effects);
        }
    }

    pub fn tell_follower(&mut self, id: NodeId, event: FollowerEvent) {
        let now_ms = self.now_us / MS;
        if let Machine::Follower(follower) = &mut self.node(id).machine {
            let effects = follower.handle(now_ms, event);
            self.follower_effects(id, effects);
        }
    }

    pub fn tick(&mut self, id: NodeId) {
        self.after(8, 12, Happening::Tick { node: id });
        self.renew_lease(id);
        self.tell_active(id, Event::Tick);
        self.renew_machine(id);
        self.grow_device(id);
        let active = matches!(&self.nodes[&id].machine, Machine::Active(a) if a.serving(self.now_us / MS));
        let started =
            active && self.nodes[&id].disk.as_ref().is_some_and(|d| d.header.promised == self.epoch_of(id));
        if started && !self.nodes[&id].attached {
            self.node(id).attached = true;
            let epoch = self.epoch_of(id);
            let disk = self.nodes[&id].disk.as_ref().unwrap();
            self.client.resized((disk.header.size_bytes / BLOCK) as usize);
            let rot = &self.rot;
            if let Err(broken) = self.client.attach(id, epoch, |block| rot.was(disk.read(block))) {
                self.violate(broken);
            }
        }
    }

    pub fn epoch_of(&self, id: NodeId) -> u64 {
        match &self.nodes[&id].machine {
            Machine::Active(active) => active.epoch(),
            _ => 0,
        }
    }

    pub fn viewed(&mut self, id: NodeId, volume: Rc<Volume>) {
        if self.nodes[&id].isolated_until > self.now_us {
            let until = self.nodes[&id].isolated_until;
            return self.at(until, Happening::View { node: id, volume });
        }
        // A volume only becomes longer, and its set's version does not tell.
        let age = |of: &Rc<Volume>| (of.epoch, of.set_version, of.size_bytes);
        let newer = |old: &Rc<Volume>| age(old) > age(&volume);
        if self.nodes[&id].view.as_ref().is_some_and(newer) {
            return;
        }
        self.node(id).view = Some(volume.clone());
        let life = self.node(id).life;
        if let Machine::Active(_) = self.node(id).machine {
            for to in volume.replicas.keys().filter(|to| **to != id) {
                self.after(0, 10, Happening::Connect { node: id, life, to: *to });
            }
        }
        if let Machine::Active(_) = self.node(id).machine {
            self.tell_active(id, Event::Config(Volume::clone(&volume)));
        }
        self.renew_machine(id);
    }

    // ---- effects

    pub fn active_effects(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Local(local) => self.local(id, local, true),
                Effect::Number { request, seq } => {
                    if let Some(tags) = self.node(id).requests.remove(&request) {
                        self.numbered(id, request, &tags);
                        self.node(id).buffers.insert(seq, tags);
                    }
                }
                Effect::Forget { up_to } => {
                    let buffers = &mut self.node(id).buffers;
                    *buffers = buffers.split_off(&(up_to + 1));
                }
                Effect::Send { session, frame, .. } => {
                    let payload = match &frame {
                        Frame::Op { seq, op } if op.kind == OpKind::Write => {
                            match self.node(id).buffers.get(seq) {
                                Some(tags) => tags.clone(),
                                None => return self.violate(format!("{id} sends {seq} but forgot it")),
                            }
                        }
                        _ => vec![],
                    };
                    self.queue(session, 0, Some((frame, payload)));
                }
                Effect::Close { session, why, replica } => {
                    self.note(|| format!("{id} closes {session} to {replica}: {why}"));
                    self.queue(session, 0, None);
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.closed = true;
                    }
                    let life = self.node(id).life;
                    self.after(10, 60, Happening::Connect { node: id, life, to: replica });
                }
                Effect::Compare { replica, session, hashes } => {
                    self.job(id, Job::Compare { replica, session, hashes });
                }
                Effect::ReadExtent { extent } => self.job(id, Job::Read { extent }),
                Effect::Differs { extent, found } => self.differs(id, extent, &found),
                Effect::Reply { request, ok } => self.reply(id, request, ok),
                Effect::Propose(command) => self.propose(id, command),
                Effect::Fenced { why } => {
                    self.note(|| format!("{id} is fenced: {why}"));
                    self.fenced(id);
                }
                Effect::Detached => self.detached(id),
            }
        }
    }

    pub fn follower_effects(&mut self, id: NodeId, effects: Vec<FollowerEffect>) {
        for effect in effects {
            match effect {
                FollowerEffect::Local(local) => self.local(id, local, false),
                FollowerEffect::Send { session, frame } => self.queue(session, 1, Some((frame, vec![]))),
                FollowerEffect::Hash { session, extents } => self.job(id, Job::Hash { session, extents }),
                FollowerEffect::Close { session, why } => {
                    self.note(|| format!("{id} closes {session}: {why:?}"));
                    self.queue(session, 1, None);
                }
                FollowerEffect::Failed { error } => self.note(|| format!("{id}'s disk failed: {error}")),
            }
        }
    }

    pub fn local(&mut self, id: NodeId, effect: LocalEffect, active: bool) {
        let job = match effect {
            LocalEffect::Store { id: number, op } => {
                let node = self.node(id);
                let tags =
                    if active { node.buffers.get(&number).cloned() } else { node.payloads.remove(&number) };
                match tags {
                    Some(tags) if op.kind != OpKind::Write || tags.len() == blocks(&op).len() => {
                        Job::Store { id: number, op, tags }
                    }
                    None if op.kind != OpKind::Write => Job::Store { id: number, op, tags: vec![] },
                    other => return self.violate(format!("{id} has {other:?} for {number} {op:?}")),
                }
            }
            LocalEffect::Mark { mark, unmark, note, forget } => Job::Mark { mark, unmark, note, forget },
            LocalEffect::Sync { id, header } => Job::Sync { id, header, seen: vec![] },
            LocalEffect::SaveHeader { header, note } => Job::Save { header, note },
            LocalEffect::Examine { id, extent } => Job::Examine { id, extent },
            LocalEffect::Seal { extent, hash } => {
                if let Some(disk) = &mut self.node(id).disk {
                    disk.seal(extent, hash);
                }
                return;
            }
            LocalEffect::Note(record) => {
                if let Some(disk) = &mut self.node(id).disk {
                    disk.record = record;
                }
                return;
            }
        };
        self.job(id, job);
    }

    pub fn job(&mut self, id: NodeId, job: Job) {
        let token = self.count();
        if let (Job::Store { op, .. }, Some(disk)) = (&job, &self.nodes[&id].disk)
            && op.offset + op.len > disk.header.size_bytes
        {
            let has = disk.header.size_bytes;
            return self.violate(format!("{id} is to store {op:?}, and its image has {has} bytes"));
        }
        let (now, low, high) = match &job {
            Job::Store { .. } => (self.now_us, 20, 800),
            Job::Sync { .. } => (self.now_us, 200, 8000),
            _ => (self.now_us, 100, 3000),
        };
        let node = self.node(id);
        let factor = if node.slow_until > now { 20 } else { 1 };
        let life = node.life;
        if let Some(disk) = &mut node.disk {
            disk.begin(token, job);
        }
        let us = now + self.dice.range(low * factor, high * factor);
        self.at(us, Happening::Disk { node: id, life, token });
    }

    pub fn disk_done(&mut self, id: NodeId, life: u64, token: u64) {
        let node = self.node(id);
        let Some(disk) = node.disk.as_mut().filter(|_| node.life == life) else { return };
        let bad = disk.bad;
        let job = if bad { None } else { disk.finish(token) };
        let event = match job {
            None if bad => LocalEvent::Failed { error: "EIO".into() },
            None => return,
            Some(Job::Store { id: number, op, .. }) => {
                self.check_member(id, blocks(&op));
                LocalEvent::Stored { id: number }
            }
            Some(Job::Sync { id, .. }) => LocalEvent::Synced { id },
            Some(Job::Mark { .. }) => LocalEvent::Marked,
            Some(Job::Save { .. }) => LocalEvent::HeaderSaved,
            Some(Job::Examine { id: number, extent }) => {
                LocalEvent::Examined { id: number, found: disk.examine(extent) }
            }
            Some(Job::Read { extent }) => {
                let tags = disk.extent(extent);
                return self.fetched(id, id, extent, tags);
            }
            Some(Job::Hash { session, extents }) => {
                let hashes = extents.into_iter().map(|x| (x, disk.hash(x))).collect();
                return self.tell_follower(id, FollowerEvent::Hashed { session, hashes });
            }
            Some(Job::Compare { replica, session, hashes }) => {
                let differing = hashes.into_iter().filter(|(x, hash)| disk.hash(*x) != *hash);
                let differing = differing.map(|(x, _)| x).collect();
                return self.tell_active(id, Event::Compared { replica, session, differing });
            }
        };
        match self.node(id).machine {
            Machine::Active(_) => self.tell_active(id, Event::Local(event)),
            _ => self.tell_follower(id, FollowerEvent::Local(event)),
        }
    }
}
