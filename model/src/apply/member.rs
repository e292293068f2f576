//! Who belongs to the home: founding, invitations, joining, leaving, off and on, generations.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{HomeName, NodeId, RadiatorName, UnixMs};
use crate::state::{Invitation, Member, Off, Phase, Role, State, TOKENS_MAX, Weight};
use crate::timing::Timing;
use std::net::SocketAddr;

impl State {
    pub(super) fn found(
        &mut self,
        at: UnixMs,
        home: &HomeName,
        radiator: &RadiatorName,
        address: SocketAddr,
        authority_pem: &str,
        timing: Timing,
    ) -> Applied {
        if let Some(already) = &self.home {
            return invalid(format!("this is the home {already} already"));
        }
        self.home = Some(home.clone());
        self.authority_pem = authority_pem.to_string();
        self.timing = timing;
        let node = self.next_node;
        self.next_node += 1;
        let member = Member { name: radiator.clone(), address, role: Role::Radiator, off: None };
        self.members.insert(node, member);
        self.tell(at, Weight::Note, "home", format!("{home} was founded by {radiator}"));
        Ok(Outcome::Joined(node))
    }

    pub(super) fn invite(&mut self, at: UnixMs, token_hash: &str, expires_ms: UnixMs) -> Applied {
        let open = self.tokens.values().filter(|t| t.expires_ms > at).count();
        if open >= TOKENS_MAX {
            return invalid(format!("{open} invitations are open: wait until one is used or expires"));
        }
        self.tokens.retain(|_, t| t.expires_ms > at);
        self.tokens.insert(token_hash.to_string(), Invitation { expires_ms });
        Ok(Outcome::Done)
    }

    pub(super) fn join(
        &mut self,
        at: UnixMs,
        token_hash: &str,
        name: &RadiatorName,
        address: SocketAddr,
        role: Role,
    ) -> Applied {
        let Some(invitation) = self.tokens.get(token_hash) else {
            return invalid(
                "this token is not known: it was used, or was never given out. Ask for a new one with `thermidor invite`",
            );
        };
        if invitation.expires_ms <= at {
            return invalid("this token has expired. Ask for a new one with `thermidor invite`");
        }
        if let Some((id, _)) = self.members.iter().find(|(_, m)| m.name == *name) {
            return invalid(format!(
                "member {id} is named {name} already: choose another name, or run `thermidor leave {name}` on a member first"
            ));
        }
        if let Some((_, twin)) = self.members.iter().find(|(_, m)| m.address == address) {
            return invalid(format!("{} is at {address} already", twin.name));
        }
        self.tokens.remove(token_hash);
        let node = self.next_node;
        self.next_node += 1;
        self.members.insert(node, Member { name: name.clone(), address, role, off: None });
        let what = match role {
            Role::Radiator => "joined",
            Role::Witness => "joined as a witness",
        };
        self.tell(at, Weight::Note, "home", format!("{name} {what}"));
        Ok(Outcome::Joined(node))
    }

    /// What would be lost if a member went: the volumes it alone holds in sync.
    fn held_alone_by(&self, node: NodeId) -> Vec<String> {
        let alone = |v: &crate::state::Volume| v.in_sync.contains(&node) && v.in_sync.len() == 1;
        self.volumes.iter().filter(|(_, v)| alone(v)).map(|(n, _)| n.to_string()).collect()
    }

    pub(super) fn leave(&mut self, at: UnixMs, node: NodeId) -> Applied {
        let Some(member) = self.members.get(&node) else {
            return invalid(format!("there is no member {node}: `thermidor radiator ls` lists them"));
        };
        let name = member.name.clone();
        if self.members.len() == 1 {
            return invalid(format!("{name} is the last member: a home can't be left empty"));
        }
        let alone = self.held_alone_by(node);
        if !alone.is_empty() {
            return invalid(format!(
                "{name} alone holds {}: wait until another radiator is in sync (`thermidor volume ls`)",
                alone.join(", ")
            ));
        }
        if let Some((service, _)) = self.services.iter().find(|(_, s)| s.active == Some(node)) {
            return invalid(format!("{service} is active on {name}: run `thermidor off {name}` first"));
        }
        for volume in self.volumes.values_mut() {
            volume.replicas.remove(&node);
            if volume.in_sync.remove(&node) {
                volume.set_version += 1;
            }
        }
        for service in self.services.values_mut() {
            service.avoid.remove(&node);
            service.wish = service.wish.filter(|to| *to != node);
        }
        if self.address.holder == Some(node) {
            self.address.holder = None;
        }
        self.members.remove(&node);
        self.forget_keys();
        self.forget_removals();
        self.tell(at, Weight::Mail, "home", format!("{name} left the home"));
        Ok(Outcome::Done)
    }

    pub(super) fn readdress(&mut self, node: NodeId, address: SocketAddr) -> Applied {
        if let Some((_, twin)) = self.members.iter().find(|(id, m)| **id != node && m.address == address) {
            return invalid(format!("{} is at {address} already", twin.name));
        }
        match self.members.get_mut(&node) {
            Some(member) => member.address = address,
            None => return invalid(format!("there is no member {node}")),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn raise_generation(&mut self, at: UnixMs, generation_was: u64, remain: &[NodeId]) -> Applied {
        if generation_was != self.generation {
            return stale(format!("generation is {} by now", self.generation));
        }
        if remain.is_empty() || remain.iter().any(|n| !self.members.contains_key(n)) {
            return invalid("a home needs at least one of its members to remain");
        }
        self.generation += 1;
        self.generation_ms = at;
        let gone: Vec<NodeId> = self.members.keys().filter(|n| !remain.contains(n)).copied().collect();
        for node in gone {
            // A member that alone holds a volume stays known, powered off: status says who holds the data.
            if self.held_alone_by(node).is_empty() {
                for volume in self.volumes.values_mut() {
                    volume.replicas.remove(&node);
                    if volume.in_sync.remove(&node) {
                        volume.set_version += 1;
                    }
                    if volume.active == Some(node) {
                        volume.active = None;
                    }
                }
                self.members.remove(&node);
            } else if let Some(member) = self.members.get_mut(&node) {
                member.off = Some(Off { until_ms: None, power_off: true });
                for volume in self.volumes.values_mut().filter(|v| v.active == Some(node)) {
                    volume.active = None;
                }
            }
            for service in self.services.values_mut().filter(|s| s.active == Some(node)) {
                service.active = None;
                service.phase = Phase::Run;
            }
            if self.address.holder == Some(node) {
                self.address.holder = None;
            }
        }
        self.forget_keys();
        // A volume's active follows its service's, also where only one of them was on a member that went.
        for volume in self.volumes.values_mut() {
            if self.services.get(&volume.service).is_some_and(|s| s.active.is_none()) {
                volume.active = None;
            }
        }
        let generation = self.generation;
        self.tell(at, Weight::Mail, "home", format!("rescued: generation {generation} of this home"));
        Ok(Outcome::Done)
    }

    pub(super) fn off(&mut self, at: UnixMs, node: NodeId, off: Off) -> Applied {
        let Some(member) = self.members.get(&node) else {
            return invalid(format!("there is no member {node}: `thermidor radiator ls` lists them"));
        };
        let name = member.name.clone();
        if off.until_ms.is_some_and(|until| until <= at) {
            return invalid(format!("{name} can't be off until a time that has passed"));
        }
        let others_on =
            self.members.iter().any(|(id, m)| *id != node && m.off.is_none() && m.role == Role::Radiator);
        if member.role == Role::Radiator && !others_on && !self.services.is_empty() {
            return invalid(format!(
                "{name} is the last radiator that is on: the services need one. Run `thermidor on` for another first"
            ));
        }
        let alone = self.held_alone_by(node);
        if !alone.is_empty() {
            return invalid(format!(
                "{name} alone holds {}: wait until another radiator is in sync (`thermidor volume ls`)",
                alone.join(", ")
            ));
        }
        if let Some(member) = self.members.get_mut(&node) {
            member.off = Some(off);
        }
        self.tell(at, Weight::Note, &format!("off/{name}"), format!("{name} is off"));
        Ok(Outcome::Done)
    }

    pub(super) fn on(&mut self, at: UnixMs, node: NodeId) -> Applied {
        let Some(member) = self.members.get_mut(&node) else {
            return invalid(format!("there is no member {node}: `thermidor radiator ls` lists them"));
        };
        if member.off.take().is_some() {
            let name = member.name.clone();
            self.tell(at, Weight::Note, &format!("off/{name}"), format!("{name} is on again"));
        }
        Ok(Outcome::Done)
    }
}
