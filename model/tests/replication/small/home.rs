//! What the small home agrees on and each radiator does about it: requests, set changes, leases, roles.

use super::*;

impl Small {
    pub(super) fn has_news(&self, id: NodeId) -> bool {
        let version = self.raft.volume().set_version;
        let node = &self.nodes[&id];
        matches!(node.machine, Machine::Active(_)) && !node.fenced && node.view != version
    }

    /// Whom an active could connect to and has no session with.
    pub(super) fn missing(&self) -> Vec<(NodeId, NodeId)> {
        let volume = self.raft.volume();
        let mut missing = Vec::new();
        for (from, node) in &self.nodes {
            if !matches!(node.machine, Machine::Active(_)) || node.fenced {
                continue;
            }
            for to in volume.replicas.keys().filter(|to| *to != from) {
                let up = matches!(self.nodes[to].machine, Machine::Follower(_));
                if up && !self.sessions.values().any(|s| s.ends == [*from, *to] && s.open[0]) {
                    missing.push((*from, *to));
                }
            }
        }
        missing
    }

    pub(super) fn can_ask(&self) -> bool {
        let free = match self.script.get(self.asked) {
            None => false,
            Some(DeviceOp::Flush) => true,
            Some(DeviceOp::Change(op)) => !blocks(op).any(|block| self.client.running(block)),
        };
        free && self.client.at.is_some()
    }

    // ---- the client and Raft

    pub(super) fn ask(&mut self) {
        let Some((id, _)) = self.client.at else { return };
        let (request, op, tag) = Rc::make_mut(&mut self.client).asks(self.script[self.asked]);
        self.asked += 1;
        if let DeviceOp::Change(change) = op {
            self.node(id).requests.insert(request, vec![tag; blocks(&change).len()]);
        }
        self.tell_active(id, Event::Device { request, op });
    }

    pub(super) fn reply(&mut self, id: NodeId, request: u64, ok: bool) {
        let epoch = self.epoch_of(id);
        if ok && self.raft.volume().epoch != epoch {
            return self.violate(format!("invariant 1: {id} answers in epoch {epoch}, a newer has begun"));
        }
        if self.client.at == Some((id, epoch)) && Rc::make_mut(&mut self.client).answered(request, ok) {
            self.check_members();
        }
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = Rc::make_mut(&mut self.raft).apply(command);
        self.check_members();
        outcome
    }

    pub(super) fn answer(&mut self, flight: usize) {
        let Flight { node, epoch, command, .. } = self.flights.remove(flight);
        let answer = match self.apply(command) {
            Outcome::Set(version) => Answer::Set(version),
            _ => Answer::Refused,
        };
        self.hear_answer(node, epoch, answer);
    }

    pub(super) fn hear_answer(&mut self, node: NodeId, epoch: u64, answer: Answer) {
        if self.epoch_of(node) == epoch {
            self.tell_active(node, Event::Answered(answer));
        }
    }

    pub(super) fn view(&mut self, id: NodeId) {
        let volume = self.raft.volume().clone();
        self.node(id).view = volume.set_version;
        self.tell_active(id, Event::Config(volume));
    }

    pub fn activate(&mut self, to: NodeId) {
        let command = self.take_over_by(to);
        // never before the lease has ended
        self.now_ms = self.now_ms.max(self.lease_until_ms + 1);
        self.lease_until_ms = self.now_ms + 1_000_000;
        self.apply(command);
        Rc::make_mut(&mut self.client).detach();
        self.tell_active(to, Event::Tick);
        self.renew(to);
    }

    /// The leader's command, as computed from the present set.
    pub fn take_over_by(&self, to: NodeId) -> Command {
        let volume = self.raft.volume();
        let why = match volume.active {
            None => Why::Start,
            Some(id) if id == to => Why::Again,
            Some(_) => Why::Failover,
        };
        let sets = [(box_volume(), volume.set_version)].into();
        let epoch_was = self.epoch_of_service();
        Command::Activate { service: mail(), epoch_was, to, sets, why, reason: String::new() }
    }

    pub(super) fn epoch_of(&self, id: NodeId) -> u64 {
        match &self.nodes[&id].machine {
            Machine::Active(active) => active.epoch(),
            Machine::Follower(_) => 0,
        }
    }

    pub(super) fn wait(&mut self) {
        self.now_ms += WAIT_MS;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in nodes {
            self.tell_active(id, Event::Tick);
        }
    }

    // ---- machines

    /// The machine that the applied state wants, once the present one is idle.
    pub(super) fn renew(&mut self, id: NodeId) {
        let volume = self.raft.volume().clone();
        let node = self.node(id);
        let image = match &mut node.machine {
            Machine::Active(active) if node.fenced && active.is_idle() => active.clone().into_image(),
            Machine::Active(_) => return,
            Machine::Follower(follower) => {
                let header = follower.header();
                let fit = !header.torn && !header.failed && volume.epoch > header.promised;
                if volume.active != Some(id) || !fit {
                    return;
                }
                let effects = follower.retire();
                let image = follower.is_idle().then(|| follower.clone().into_image());
                self.follower_effects(id, effects);
                match image {
                    Some(image) => image,
                    None => return,
                }
            }
        };
        let (rules, now_ms, until_ms) = (self.rules, self.now_ms, self.lease_until_ms);
        let node = self.node(id);
        (node.fenced, node.attached) = (false, false);
        node.payloads.clear();
        node.requests.clear();
        let name = box_volume();
        match Active::with_rules(id, &name, &volume, image.clone(), until_ms, LIMITS, rules, now_ms) {
            Ok((active, effects)) => {
                node.machine = Machine::Active(active);
                node.view = volume.set_version;
                self.active_effects(id, effects);
                for (from, to) in self.missing().into_iter().filter(|(from, _)| *from == id) {
                    self.connect(from, to);
                }
            }
            Err(_) => node.machine = Machine::Follower(Follower::with_rules(image, LIMITS, rules)),
        }
    }
}
