//! By which keys members know one another, and the change of the home's keys after a theft: the new ones are
//! there, each member has its part on its disk, the secrets are sealed anew.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{NodeId, UnixMs};
use crate::state::{Keys, Role, Sealed, State, Weight};
use std::collections::BTreeMap;

impl Keys {
    /// Whether a change is under way: secrets are still sealed under older keys.
    pub fn changing(&self) -> bool {
        self.sealed_under < self.number
    }
}

impl State {
    /// Radiators that have not got the present keys yet.
    pub fn without_keys(&self) -> Vec<NodeId> {
        let radiators = self.members.iter().filter(|(_, m)| m.role == Role::Radiator);
        radiators.map(|(id, _)| *id).filter(|id| !self.keys.holders.contains(id)).collect()
    }

    /// Whether enough radiators hold the present home key for secrets to be sealed under it: two, or the
    /// only one.
    pub fn keys_are_safe(&self) -> bool {
        let radiators = self.members.values().filter(|m| m.role == Role::Radiator).count();
        let holding = radiators - self.without_keys().len();
        holding >= radiators.min(2)
    }

    pub(super) fn pin_key(&mut self, node: NodeId, key: &str) -> Applied {
        if !self.members.contains_key(&node) {
            return invalid(format!("there is no member {node}"));
        }
        match self.keys.members.get(&node) {
            Some(known) if known != key => invalid(format!("{} is known by another key", self.name_of(node))),
            Some(_) => Ok(Outcome::Done),
            None => {
                self.keys.members.insert(node, key.to_string());
                Ok(Outcome::Done)
            }
        }
    }

    pub(super) fn change_keys(
        &mut self,
        at: UnixMs,
        number_was: u64,
        authority_pem: &str,
        home_key_hash: &str,
    ) -> Applied {
        if number_was != self.keys.number {
            return stale(format!("the home's keys are number {} by now", self.keys.number));
        }
        // Without a key of its own it could only prove itself by the authority that the thief has.
        let unknown = self.members.iter().filter(|(id, _)| !self.keys.members.contains_key(id));
        let unknown: Vec<String> = unknown.map(|(_, m)| m.name.to_string()).collect();
        if !unknown.is_empty() {
            return invalid(format!(
                "the home does not know the key of {} yet: switch it on, or run `thermidor leave {}`",
                unknown.join(", "),
                unknown[0]
            ));
        }
        self.authority_pem = authority_pem.to_string();
        self.keys.number += 1;
        self.keys.home_key_hash = home_key_hash.to_string();
        self.keys.holders.clear();
        self.tokens.clear();
        self.pairing = None;
        let text = "the home has a new authority and a new home key; invitations given out before are void";
        self.tell(at, Weight::Mail, "home", text.to_string());
        Ok(Outcome::Done)
    }

    pub(super) fn holds_keys(&mut self, node: NodeId, number: u64) -> Applied {
        if number != self.keys.number {
            return stale(format!("the home's keys are number {} by now", self.keys.number));
        }
        if !self.members.contains_key(&node) {
            return invalid(format!("there is no member {node}"));
        }
        self.keys.holders.insert(node);
        Ok(Outcome::Done)
    }

    pub(super) fn reseal(
        &mut self,
        at: UnixMs,
        number: u64,
        secrets_was: &BTreeMap<String, Sealed>,
        secrets: &BTreeMap<String, Sealed>,
    ) -> Applied {
        if number != self.keys.number || !self.keys.changing() {
            return stale(format!("the secrets are sealed under key {} by now", self.keys.sealed_under));
        }
        if *secrets_was != self.secrets {
            return stale("a secret has changed");
        }
        if !self.keys_are_safe() {
            return invalid("only one radiator holds the new home key yet");
        }
        if !secrets.keys().eq(secrets_was.keys()) || secrets.values().any(|s| s.key > number) {
            return invalid("other secrets than there are");
        }
        self.secrets = secrets.clone();
        self.keys.sealed_under = number;
        self.tell(at, Weight::Note, "home", "the secrets are sealed under the new home key".to_string());
        Ok(Outcome::Done)
    }

    /// Who is no member any more is known by no key.
    pub(super) fn forget_keys(&mut self) {
        let members = &self.members;
        self.keys.members.retain(|id, _| members.contains_key(id));
        self.keys.holders.retain(|id| members.contains_key(id));
    }
}
