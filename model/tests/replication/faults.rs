//! What goes wrong, what the leader does about it, and what must hold all the same.

use crate::disk::{BLOCK, Disk};
use crate::world::{Happening, LEASE_MS, MARGIN_MS, MS, Machine, Node, World};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use thermidor_model::NodeId;
use thermidor_model::command::{Command, Outcome, Why};
use thermidor_model::replication::{Answer, EXTENT_BYTES, Event};
use thermidor_model::testing::{box_volume, mail};

impl World {
    // ---- Raft

    /// Everybody learns of the applied state, each in its own time.
    pub fn announce(&mut self) {
        let volume = Rc::new(self.raft.volume().clone());
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let high = if self.dice.permille(100) { 300 } else { 15 };
            self.after(0, high, Happening::View { node, volume: volume.clone() });
        }
    }

    pub fn propose(&mut self, id: NodeId, command: Command) {
        self.note(|| format!("{id} proposes {command:?}"));
        let command = Box::new(command);
        let life = self.node(id).life;
        let isolated = self.nodes[&id].isolated_until;
        let lost = !self.calm && self.dice.permille(80);
        let late = !self.calm && self.dice.permille(100);
        if isolated > self.now_us || lost || late {
            let wait = self.dice.range(1, 1000) * MS;
            if !lost && self.dice.permille(700) {
                let us = isolated.max(self.now_us) + wait;
                self.at(us, Happening::Apply { node: id, life, command, silent: true });
            }
            self.after(30, 150, Happening::Answer { node: id, life, answer: Answer::Unknown });
        } else {
            self.after(0, 12, Happening::Apply { node: id, life, command, silent: false });
        }
    }

    pub fn apply(&mut self, node: NodeId, life: u64, command: Command, silent: bool) {
        let outcome = self.raft.apply(command.clone());
        self.note(|| format!("applied {command:?}: {outcome:?} -> {:?}", self.raft.volume().in_sync));
        self.check_members();
        self.announce();
        if silent {
            return;
        }
        let answer = match outcome {
            _ if !self.calm && self.dice.permille(100) => Answer::Unknown,
            Outcome::Set(version) => Answer::Set(version),
            _ => Answer::Refused,
        };
        self.after(0, 12, Happening::Answer { node, life, answer });
    }

    pub fn renew_lease(&mut self, id: NodeId) {
        let (epoch, active) = (self.raft.volume().epoch, self.raft.volume().active);
        let until = self.now_us + LEASE_MS * MS;
        let now_us = self.now_us;
        let lost = !self.calm && self.dice.permille(100);
        let node = self.node(id);
        let known = node.view.as_ref().is_some_and(|view| view.epoch == epoch);
        let usable = match &node.machine {
            Machine::Active(active) => active.epoch() == epoch && !node.fenced,
            // whose disk has failed gives its lease back
            Machine::Follower(follower) => {
                let header = follower.header();
                header.promised < epoch && !header.failed
            }
            Machine::Down => node.life == 0,
        };
        if active != Some(id) || node.isolated_until > now_us || !node.up || !known || !usable || lost {
            return;
        }
        node.lease = (epoch, until);
        self.raft.lease_until_us = self.raft.lease_until_us.max(until);
        self.tell_active(id, Event::Lease { until_ms: until / MS });
    }

    /// The leader's planner.
    pub fn plan(&mut self) {
        self.after(10, 30, Happening::Plan);
        let volume = self.raft.volume().clone();
        let usable: Vec<NodeId> = volume
            .in_sync
            .iter()
            .filter(|id| {
                let node = &self.nodes[id];
                node.up && node.isolated_until <= self.now_us && node.disk.as_ref().is_none_or(|d| !d.bad)
            })
            .copied()
            .collect();
        let ended = self.now_us > self.raft.lease_until_us + MARGIN_MS * MS;
        let why = match volume.active {
            None => Some(Why::Start),
            Some(id) => {
                let node = &self.nodes[&id];
                let serves =
                    matches!(&node.machine, Machine::Active(a) if a.epoch() == volume.epoch && !node.fenced);
                let returned =
                    matches!(&node.machine, Machine::Active(a) if a.epoch() == volume.epoch && node.fenced);
                let waits = self.now_us < self.activated_us + 120 * MS;
                let over = ended || returned;
                (!serves && !waits && over).then_some(Why::Failover)
            }
        };
        if let (Some(why), Some(to)) = (why, self.dice.pick(&usable)) {
            self.activate(to, why);
        }
        self.replace_bad_disks();
    }

    fn activate(&mut self, to: NodeId, why: Why) {
        let volume = self.raft.volume();
        let sets = [(box_volume(), volume.set_version)].into();
        let epoch_was = self.raft.state.services[&mail()].epoch;
        let why = if volume.active == Some(to) { Why::Again } else { why };
        let command = Command::Activate { service: mail(), epoch_was, to, sets, why, reason: String::new() };
        let outcome = self.raft.apply(command);
        self.note(|| format!("{to} is to be active ({why:?}): {outcome:?}"));
        self.activated_us = self.now_us;
        self.announce();
    }

    fn replace_bad_disks(&mut self) {
        let volume = self.raft.volume().clone();
        let bad = |id: &NodeId| self.nodes[id].disk.as_ref().is_some_and(|d| d.bad);
        if let Some(id) = volume.replicas.keys().find(|id| bad(id) && !volume.in_sync.contains(id)).copied() {
            if let Some(disk) = &mut self.node(id).disk {
                disk.bad = false;
            }
            self.raft.remove_replica(id);
            self.raft.add_replica(id);
            self.note(|| format!("{id} gets a new disk"));
            self.announce();
        } else if self.calm && volume.in_sync.iter().all(bad) {
            // nobody else has the data: it can only wait until that disk works again
            self.repaired = true;
            for id in volume.in_sync {
                // first the crash, which may still write the header as failed
                self.crash(id, false, 50);
                if let Some(disk) = &mut self.node(id).disk {
                    (disk.bad, disk.header.failed) = (false, false);
                }
            }
        }
    }

    pub fn fenced(&mut self, id: NodeId) {
        let epoch = self.epoch_of(id);
        self.node(id).fenced = true;
        if self.client.at == Some((id, epoch)) {
            self.client.detach();
        }
        self.hang_up(id);
    }

    pub fn detached(&mut self, id: NodeId) {
        let life = self.node(id).life;
        let epoch_was = self.raft.state.services[&mail()].epoch;
        self.note(|| format!("{id} has detached"));
        self.fenced(id);
        if self.epoch_of(id) == epoch_was {
            let command = Box::new(Command::Stopped { service: mail(), epoch_was, node: id });
            self.after(0, 20, Happening::Apply { node: id, life, command, silent: true });
        }
    }

    // ---- faults

    pub fn crash(&mut self, id: NodeId, power: bool, back_ms: u64) {
        if !self.nodes[&id].up {
            return;
        }
        self.note(|| format!("{id} {}", if power { "loses power" } else { "is killed" }));
        let epoch = self.epoch_of(id);
        if self.client.at == Some((id, epoch)) {
            self.client.detach();
        }
        let mut dice = self.dice.clone();
        let node = self.node(id);
        node.up = false;
        node.life += 1;
        node.machine = Machine::Down;
        node.lease = (0, 0);
        if let Some(disk) = &mut node.disk {
            disk.crash(power, &mut dice);
            if dice.permille(60) {
                disk.lose_map();
            }
        }
        self.dice = dice;
        self.check_member(id, 0..(self.size_bytes / BLOCK) as usize);
        self.hang_up(id);
        self.after(back_ms / 2, back_ms, Happening::Start { node: id });
    }

    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.after(10, 160, Happening::Fault);
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let Some(id) = self.dice.pick(&nodes) else { return };
        let long = [30, 120, 400, 900][self.dice.range(0, 4) as usize];
        let until = self.now_us + self.dice.range(5, long) * MS;
        let volume = self.raft.volume().clone();
        self.rot_something(id);
        self.grow_something(id);
        match self.dice.range(0, 20) {
            0..=3 => self.crash(id, true, long),
            4 => self.crash(id, false, long),
            5..=8 => {
                let Some(other) = self.dice.pick(&nodes) else { return };
                self.note(|| format!("{id} and {other} are cut until {}", until / MS - 1000));
                self.cut_until.insert((id.min(other), id.max(other)), until);
            }
            9 | 10 => {
                self.note(|| format!("{id} is isolated from Raft until {}", until / MS - 1000));
                self.node(id).isolated_until = until;
            }
            11 | 12 => {
                self.note(|| format!("{id} is frozen until {}", until / MS - 1000));
                self.node(id).frozen_until = until;
            }
            13 => self.node(id).slow_until = until,
            14 | 15 => self.change_replicas(id),
            16 if self.disk_errors == 0 && volume.in_sync.len() >= 2 && volume.in_sync.contains(&id) => {
                self.disk_errors += 1;
                self.note(|| format!("{id}'s disk fails"));
                if let Some(disk) = &mut self.node(id).disk {
                    disk.bad = true;
                }
            }
            17 => {
                for id in nodes {
                    let back_ms = self.dice.range(20, 400);
                    self.crash(id, true, back_ms);
                }
            }
            18 | 19 => self.move_away(),
            _ => {}
        }
    }

    fn change_replicas(&mut self, id: NodeId) {
        let volume = self.raft.volume().clone();
        if !volume.replicas.contains_key(&id) {
            self.note(|| format!("{id} gets a replica"));
            self.raft.add_replica(id);
        } else if !volume.in_sync.contains(&id) || (self.disk_errors == 0 && self.dice.permille(200)) {
            self.note(|| format!("{id} loses its replica"));
            self.raft.remove_replica(id);
        }
        self.announce();
    }

    fn move_away(&mut self) {
        let epoch_was = self.raft.state.services[&mail()].epoch;
        let Some(id) = self.raft.volume().active else { return };
        if self.epoch_of(id) != epoch_was
            || self.detaching == epoch_was
            || self.client.at != Some((id, epoch_was))
        {
            return;
        }
        let stop = Command::Stop { service: mail(), epoch_was, next: None, reason: String::new() };
        self.raft.apply(stop);
        self.note(|| format!("{id} is to hand over"));
        self.detaching = epoch_was;
        self.tell_active(id, Event::Detach);
    }

    pub fn calm_down(&mut self) {
        self.calm = true;
        self.note(|| "faults end".into());
        self.cut_until.clear();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in nodes {
            let node = self.node(id);
            (node.isolated_until, node.frozen_until, node.slow_until) = (0, 0, 0);
            node.short_until = 0;
            self.after(0, 20, Happening::Start { node: id });
        }
        self.announce();
    }

    // ---- what must hold

    pub fn check_single_active(&mut self) {
        let now_ms = self.now_us / MS;
        let serving = |node: &&Node| matches!(&node.machine, Machine::Active(a) if a.serving(now_ms));
        if self.nodes.values().filter(serving).count() > 1 {
            let active: Vec<NodeId> = self.nodes.values().filter(serving).map(|n| n.id).collect();
            self.violate(format!("invariant 1: {active:?} serve at once"));
        }
    }

    /// No member of the in-sync set could lose what was flushed, if it lost power now.
    pub fn check_members(&mut self) {
        self.check_maps();
        let members: Vec<NodeId> = self.raft.volume().in_sync.iter().copied().collect();
        for member in members {
            self.check_member(member, 0..(self.size_bytes / BLOCK) as usize);
        }
    }

    /// Whatever a loss of power left of them, two images of a line are equal where neither's map says otherwise.
    fn check_maps(&mut self) {
        let replicas = &self.raft.volume().replicas;
        let disk = |(id, replica): (&NodeId, _)| {
            self.nodes[id].disk.as_ref().filter(|d| d.header.replica == replica)
        };
        let disks: Vec<(NodeId, &Disk)> =
            replicas.iter().filter_map(|(id, replica)| Some((*id, disk((id, *replica))?))).collect();
        let kept = |disk: &Disk| disk.header.line != 0 && !disk.header.failed;
        let mut wrong = None;
        for (at, (one, disk)) in disks.iter().enumerate().filter(|(_, (_, disk))| kept(disk)) {
            for (other, other_disk) in disks[at + 1..]
                .iter()
                .filter(|(_, other)| kept(other) && other.header.line == disk.header.line)
            {
                let differs = (0..(self.size_bytes / BLOCK) as usize).find(|block| {
                    let extent = *block as u64 * BLOCK / EXTENT_BYTES;
                    // What rotted is for the search to find; no map knows of it.
                    let could_be = disk.could_be(*block).chain(other_disk.could_be(*block));
                    let held: BTreeSet<u64> = could_be.map(|tag| self.rot.was(tag)).collect();
                    held.len() > 1 && !disk.either_notes(other_disk, extent)
                });
                wrong = wrong
                    .or(differs.map(|block| format!("the maps of {one} and {other} miss block {block}")));
            }
        }
        if let Some(text) = wrong {
            self.violate(text);
        }
    }

    /// The same of some blocks of one radiator, if it is a member.
    pub fn check_member(&mut self, id: NodeId, mut within: Range<usize>) {
        let volume = self.raft.volume();
        let Some(disk) = self.nodes[&id]
            .disk
            .as_ref()
            .filter(|d| volume.in_sync.contains(&id) && volume.replicas.get(&id) == Some(&d.header.replica))
        else {
            return;
        };
        let allows = |block, tag| self.client.allows(block, self.rot.was(tag));
        let bad = |block: &usize| disk.could_be(*block).any(|tag| !allows(*block, tag));
        if let Some(block) = within.find(bad) {
            let could_be: Vec<u64> = disk.could_be(block).collect();
            let may_hold = self.client.may_hold(block);
            self.violate(format!(
                "invariant 2: block {block} on {id}, a member, could be {could_be:?}, not {may_hold:?}"
            ));
        }
    }

    pub fn healed(&mut self) -> bool {
        self.now_us > self.faults_until_us + 250 * MS
            && self.client.idle()
            && self.client.at.is_some()
            && self.is_whole()
    }

    /// Whether every replica is in sync and equal, and the device attached.
    fn is_whole(&self) -> bool {
        let volume = self.raft.volume();
        volume.in_sync.len() == volume.replicas.len() && self.why_not_healed().is_empty()
    }

    pub fn why_not_healed(&self) -> String {
        let volume = self.raft.volume();
        let replicas: BTreeSet<NodeId> = volume.replicas.keys().copied().collect();
        if volume.in_sync != replicas {
            let machines: Vec<String> = self.nodes.values().map(|n| n.describe()).collect();
            return format!(
                "in sync {:?} of {replicas:?}, active {:?}\n{}",
                volume.in_sync,
                volume.active,
                machines.join("\n")
            );
        }
        let Some(active) = volume.active.filter(|a| self.client.at == Some((*a, volume.epoch))) else {
            return format!("active {:?}, client at {:?}", volume.active, self.client.at);
        };
        let Some(truth) = &self.nodes[&active].disk else { return "no disk".into() };
        for id in &replicas {
            let Some(disk) = &self.nodes[id].disk else { return format!("{id} has no disk") };
            if disk.header.size_bytes != volume.size_bytes {
                return format!("{id} has {} bytes, not {}", disk.header.size_bytes, volume.size_bytes);
            }
            for extent in 0..self.size_bytes.div_ceil(thermidor_model::replication::EXTENT_BYTES) {
                if disk.extent(extent) != truth.extent(extent) && !self.is_told(active, extent) {
                    return format!("extent {extent} differs on {id} from the active's on {active}");
                }
            }
        }
        String::new()
    }
}
