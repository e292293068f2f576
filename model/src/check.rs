//! The invariants that a home's state can break by itself; tests ask after every command.

use crate::state::{EVENTS_MAX, Phase, Role, STATE_VERSION, State, TOKENS_MAX};

impl State {
    /// Lists broken invariants; an empty list is a sound state.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut claim = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        claim(self.version == STATE_VERSION, format!("version {}", self.version));
        claim(self.events.len() <= EVENTS_MAX, format!("{} events", self.events.len()));
        claim(self.tokens.len() <= TOKENS_MAX, format!("{} tokens", self.tokens.len()));
        for (id, member) in &self.members {
            claim(*id < self.next_node, format!("member {id} was never given out"));
            let twins = self.members.values().filter(|m| m.name == member.name).count();
            claim(twins == 1, format!("{twins} members are named {}", member.name));
        }
        let has_before = self.secrets.contains_key(crate::friends::KIT_BEFORE_SECRET);
        claim(
            self.kit_change.is_some() == has_before,
            "a kit before without its words, or the other way".into(),
        );
        if let Some(change) = &self.kit_change {
            claim(!change.waiting.is_empty(), "nobody holds to the kit before".into());
            let known = change.waiting.keys().all(|home| self.friends.contains_key(home));
            claim(known, "a kit is to be confirmed by who is no friend".into());
            claim(self.kit.as_ref().is_some_and(|kit| kit.key != change.before.key), "no new kit".into());
        }
        let keys = &self.keys;
        claim(
            keys.members.keys().chain(&keys.holders).all(|id| self.members.contains_key(id)),
            "keys of somebody who is no member".into(),
        );
        claim(
            keys.sealed_under <= keys.number,
            format!("sealed under {} of {}", keys.sealed_under, keys.number),
        );
        claim(
            self.secrets.values().all(|s| s.key <= keys.number),
            "a secret is sealed under a key to come".into(),
        );
        for (name, service) in &self.services {
            if let Some(active) = service.active {
                let radiator = self.members.get(&active).is_some_and(|m| m.role == Role::Radiator);
                claim(radiator, format!("{name}: active {active} is no radiator of this home"));
            } else {
                claim(service.phase == Phase::Run, format!("{name}: nobody is active, yet it is stopping"));
            }
            for (volume_name, volume) in self.volumes_of(name) {
                claim(
                    volume.active == service.active,
                    format!(
                        "{volume_name}: active {:?}, but {name}'s is {:?}",
                        volume.active, service.active
                    ),
                );
            }
        }
        let runs = |s: &crate::state::Service| s.active.is_some() && s.phase == Phase::Run;
        claim(
            self.stands_down().is_none() || !self.services.values().any(runs),
            "a service is to run in a home that was recovered elsewhere".into(),
        );
        for (name, volume) in &self.volumes {
            claim(
                volume.in_sync.iter().all(|n| volume.replicas.contains_key(n)),
                format!("{name}: in sync without a replica"),
            );
            claim(
                volume.replicas.keys().all(|n| self.members.contains_key(n)),
                format!("{name}: a replica on no member"),
            );
            claim(
                volume.replicas.is_empty() || !volume.in_sync.is_empty(),
                format!("{name}: nobody is in sync"),
            );
            if let Some(active) = volume.active {
                claim(volume.in_sync.contains(&active), format!("{name}: active {active} is not in sync"));
            }
            let twins = self.volumes.values().filter(|v| v.port == volume.port).count();
            claim(twins == 1, format!("{name}: port {} is taken twice", volume.port));
        }
        for (name, restore) in &self.restores {
            claim(self.services.contains_key(name), format!("{name} is restored and no service"));
            claim(restore.number <= self.restores_begun, format!("{name}: a restore that never began"));
        }
        if let Some(holder) = self.address.holder {
            claim(self.members.contains_key(&holder), format!("address: holder {holder} is no member"));
        }
        broken
    }
}
