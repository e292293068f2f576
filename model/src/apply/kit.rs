//! Another kit takes the place of one: each friend holds to the one before until its person has confirmed the new one. And
//! the other way round: what a friend says of its own new kit is a claim until a person here has asked.

use super::friends::unknown;
use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::friends::{
    KIT_BEFORE_SECRET, KIT_CLAIMS_MAX, KIT_SECRET, KitChange, KitClaim, KitRecord, KitWaits, PublicKey,
};
use crate::name::{HomeName, UnixMs};
use crate::state::{Sealed, State, Weight};
use std::collections::BTreeMap;

impl State {
    /// Whether a friend still holds to the kit before.
    pub fn holds_to_kit_before(&self, friend: &HomeName) -> bool {
        self.kit_change.as_ref().is_some_and(|change| change.waiting.contains_key(friend))
    }

    /// The state as whoever holds to the kit before may have it: with that kit, sealed as [`KIT_SECRET`], and without a word
    /// of the new one. For whoever has the old paper can read what is left there.
    pub fn with_kit_before(&self, sealed: Sealed) -> Self {
        let mut state = self.clone();
        if let Some(change) = state.kit_change.take() {
            state.kit = Some(change.before);
            state.secrets.insert(KIT_SECRET.into(), sealed);
            state.secrets.remove(KIT_BEFORE_SECRET);
        }
        state
    }

    pub(super) fn replace_kit(
        &mut self,
        at: UnixMs,
        was: PublicKey,
        record: &KitRecord,
        sealed: &Sealed,
        before: &Sealed,
        waiting: &BTreeMap<HomeName, [String; 4]>,
    ) -> Applied {
        let Some(kit) = &self.kit else {
            return invalid(
                "there is no recovery kit yet that could be replaced: `thermidor kit print` makes one",
            );
        };
        if self.stands_down().is_some() {
            return invalid("this home was recovered elsewhere: the kit is replaced there");
        }
        if let Some(change) = &self.kit_change {
            let who = names(&change.waiting);
            return invalid(format!(
                "the kit was replaced already, and {who} must confirm that first: see `thermidor kit show`"
            ));
        }
        if kit.key != was {
            return stale("the home has another kit by now");
        }
        if record.key == was {
            return invalid("that is the kit which the home has");
        }
        if [sealed, before].iter().any(|sealed| sealed.key != self.keys.sealed_under) {
            return stale("the home key has been changed meanwhile");
        }
        if !waiting.keys().eq(self.friends.keys()) {
            return stale("a friend has come or gone meanwhile");
        }
        let before_record = kit.clone();
        self.kit = Some(record.clone());
        self.secrets.insert(KIT_SECRET.into(), sealed.clone());
        let mut text =
            "the recovery kit was replaced: print the new one with `thermidor kit print`".to_string();
        if waiting.is_empty() {
            text += "; the old paper opens nothing any more";
        } else {
            let waits = |words: &[String; 4]| KitWaits { words: words.clone(), announced_ms: None };
            let waiting = waiting.iter().map(|(home, words)| (home.clone(), waits(words))).collect();
            text += &format!(
                "; the old paper still opens what lies at {}, until its person has confirmed: see `thermidor kit show`",
                names(&waiting)
            );
            self.secrets.insert(KIT_BEFORE_SECRET.into(), before.clone());
            self.kit_change = Some(KitChange { begun_ms: at, before: before_record, waiting });
        }
        self.tell(at, Weight::Mail, "kit", text);
        Ok(Outcome::Done)
    }

    pub(super) fn announced_kit(&mut self, at: UnixMs, friend: &HomeName, key: PublicKey) -> Applied {
        let now = self.kit.as_ref().map(|kit| kit.key);
        let waits = self.kit_change.as_mut().and_then(|change| change.waiting.get_mut(friend));
        let Some(waits) = waits.filter(|_| now == Some(key)) else {
            return stale(format!("{friend} waits for no such kit"));
        };
        waits.announced_ms.get_or_insert(at);
        Ok(Outcome::Done)
    }

    pub(super) fn took_kit(&mut self, at: UnixMs, friend: &HomeName, key: PublicKey) -> Applied {
        if !self.holds_to_kit_before(friend) || self.kit.as_ref().map(|kit| kit.key) != Some(key) {
            return stale(format!("{friend} waits for no such kit"));
        }
        let text =
            format!("{friend} has confirmed the new recovery kit, and refuses the old one from now on");
        self.tell(at, Weight::Mail, &format!("kit/{friend}"), text);
        self.kit_waits_no_more(at, friend);
        Ok(Outcome::Done)
    }

    /// A friend holds to the kit before no longer, or is none any more. After the last one that kit is forgotten.
    pub(super) fn kit_waits_no_more(&mut self, at: UnixMs, friend: &HomeName) {
        let Some(change) = &mut self.kit_change else { return };
        change.waiting.remove(friend);
        if change.waiting.is_empty() {
            self.kit_change = None;
            self.secrets.remove(KIT_BEFORE_SECRET);
            let text =
                "no friend holds to the old recovery kit any more: its paper opens nothing, destroy it";
            self.tell(at, Weight::Mail, "kit", text.into());
        }
    }

    /// A friend says to have another kit: told, and believed when a person has asked. A second one that says otherwise
    /// stands beside the first.
    pub(super) fn hear_kit(&mut self, at: UnixMs, home: &HomeName, claim: &KitClaim) -> Applied {
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        let is_same = |known: &KitClaim| known.key == claim.key && known.transport == claim.transport;
        if friend.identity.key == claim.key || friend.kit_claims.iter().any(is_same) {
            return Ok(Outcome::Done);
        }
        if friend.kit_claims.len() >= KIT_CLAIMS_MAX {
            return invalid(format!(
                "{home} says to have more than {KIT_CLAIMS_MAX} other kits: ask its person, then `thermidor friend rm \
                 {home}` in both homes and pair anew"
            ));
        }
        let others = friend.kit_claims.len();
        friend.kit_claims.push(KitClaim { heard_ms: at, ..claim.clone() });
        let words = claim.words.join(" ");
        let text = if others == 0 {
            format!(
                "{home} says that its recovery kit was replaced: its person must read these words: {words}. Ask, not by \
                 mail, then run `thermidor friend confirm {home}`; until then nothing changes"
            )
        } else {
            format!(
                "{home} says once more that its recovery kit was replaced, and means another one than before ({words}): \
                 one of them is somebody's who has found the old paper. Ask its person which words are read there, not by \
                 mail, then run `thermidor friend confirm {home}`; until then nothing changes"
            )
        };
        self.tell(at, Weight::Mail, &format!("friend/{home}/kit/{others}"), text);
        Ok(Outcome::Done)
    }

    pub(super) fn confirm_kit(&mut self, at: UnixMs, home: &HomeName, words: &[String; 4]) -> Applied {
        let Some(friend) = self.friends.get(home) else { return unknown(home) };
        let meant: Vec<&KitClaim> = friend.kit_claims.iter().filter(|claim| claim.words == *words).collect();
        let claim = match meant[..] {
            [] => return stale(format!("{home} says to have no kit with those words")),
            [claim] => claim.clone(),
            [..] => {
                return invalid(format!(
                    "{home} says to have two other kits with the same words, which somebody has brought about: \
                     `thermidor friend rm {home}` in both homes and pair anew"
                ));
            }
        };
        let twin = self.friends.iter().find(|(name, friend)| {
            *name != home
                && (friend.identity.key == claim.key || friend.identity.transport == claim.transport)
        });
        if let Some((name, _)) = twin {
            return invalid(format!(
                "{home} shows the key of {name}: run `thermidor friend rm {name}` first"
            ));
        }
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        friend.identity.key = claim.key;
        friend.identity.transport = claim.transport;
        friend.kit_claims.clear();
        let text =
            format!("{home} has another recovery kit, which is believed from now on; the old one is refused");
        self.tell(at, Weight::Mail, &format!("friend/{home}"), text);
        Ok(Outcome::Done)
    }
}

fn names(waiting: &BTreeMap<HomeName, KitWaits>) -> String {
    waiting.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
