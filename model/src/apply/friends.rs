//! Friends come by a code, count once a person has compared the words, and go; the kit; what became of backups.

use super::{Applied, invalid, stale};
use crate::backup::{Record, Subject};
use crate::command::Outcome;
use crate::friends::{
    ADDRESSES_MAX, Friend, FriendIdentity, KIT_SECRET, KitRecord, KitSplit, PairingInvitation,
};
use crate::name::{HomeName, UnixMs};
use crate::state::{Sealed, State, Weight};

impl State {
    pub(super) fn invite_friend(&mut self, at: UnixMs, invitation: &PairingInvitation) -> Applied {
        if invitation.expires_ms <= at {
            return invalid("a code that has ended already can't be given out");
        }
        if invitation.sealed.key != self.keys.sealed_under {
            return stale("the home key has been changed meanwhile: run `thermidor friend invite` again");
        }
        // A code before it is void: one is open at a time.
        self.pairing = Some(invitation.clone());
        Ok(Outcome::Done)
    }

    /// Refused unless this is the first guess: whoever is answered `Done` may look at it.
    pub(super) fn burn_pairing(&mut self, at: UnixMs, id: u64) -> Applied {
        match &mut self.pairing {
            Some(open) if open.id == id && !open.burnt && open.expires_ms > at => {
                open.burnt = true;
                Ok(Outcome::Done)
            }
            _ => stale("the code is used, void or too old"),
        }
    }

    pub(super) fn meet_friend(
        &mut self,
        at: UnixMs,
        home: &HomeName,
        identity: &FriendIdentity,
        words: &[String; 4],
    ) -> Applied {
        if self.home.as_ref() == Some(home) {
            return invalid(format!("both homes are called {home}: a friend needs another name"));
        }
        if identity.addresses.len() > ADDRESSES_MAX {
            return invalid(format!("{home} tells more than {ADDRESSES_MAX} addresses"));
        }
        let twin = self.friends.iter().find(|(name, friend)| {
            *name != home
                && (friend.identity.key == identity.key || friend.identity.transport == identity.transport)
        });
        if let Some((name, _)) = twin {
            return invalid(format!(
                "{home} shows the key of {name}: run `thermidor friend rm {name}` first"
            ));
        }
        if let Some(known) = self.friends.get(home).filter(|known| known.is_confirmed()) {
            let is_same =
                known.identity.key == identity.key && known.identity.transport == identity.transport;
            if !is_same {
                return invalid(format!(
                    "{home} is a friend already, with another key: run `thermidor friend rm {home}` first if its \
                     kit was changed"
                ));
            }
        }
        let (identity, words) = (identity.clone(), words.clone());
        let met = words.join(" ");
        let friend = Friend { identity, words, confirmed_ms: None, claims: None, kit_claims: Vec::new() };
        self.friends.insert(home.clone(), friend);
        self.tell(
            at,
            Weight::Mail,
            &format!("friend/{home}"),
            format!(
                "{home} was paired: run `thermidor friend confirm {home}` once its person reads the same words: {met}"
            ),
        );
        Ok(Outcome::Done)
    }

    pub(super) fn confirm_friend(&mut self, at: UnixMs, home: &HomeName, words: &[String; 4]) -> Applied {
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        if friend.words != *words {
            return stale(format!("{home} was paired anew meanwhile, with other words"));
        }
        if friend.is_confirmed() {
            return Ok(Outcome::Done);
        }
        friend.confirmed_ms = Some(at);
        // What the vault has not deleted yet of an earlier time is kept.
        self.parted.remove(home);
        self.tell(at, Weight::Mail, &format!("friend/{home}"), format!("{home} is a friend from now on"));
        Ok(Outcome::Done)
    }

    /// The vault deletes what the home kept once it is lent nothing any more.
    pub(super) fn remove_friend(&mut self, at: UnixMs, home: &HomeName, delete_data: bool) -> Applied {
        let was_friend = self.friends.remove(home).is_some();
        if delete_data && self.parted.insert(home.clone(), at).is_none() {
            let text = format!("what {home} kept here is deleted, as a person has said");
            self.tell(at, Weight::Mail, &format!("parted/{home}"), text);
        }
        if !was_friend {
            return if delete_data { Ok(Outcome::Done) } else { unknown(home) };
        }
        for records in self.backups.values_mut() {
            records.remove(home);
        }
        self.backups.retain(|_, records| !records.is_empty());
        self.tell(at, Weight::Mail, &format!("friend/{home}"), format!("{home} is no friend any more"));
        self.kit_waits_no_more(at, home);
        Ok(Outcome::Done)
    }

    pub(super) fn readdress_friend(&mut self, home: &HomeName, addresses: &[String]) -> Applied {
        if addresses.len() > ADDRESSES_MAX {
            return invalid(format!("{home} tells more than {ADDRESSES_MAX} addresses"));
        }
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        friend.identity.addresses = addresses.to_vec();
        Ok(Outcome::Done)
    }

    /// A friend says to be of a higher generation: told once, believed when a person has asked.
    pub(super) fn hear_generation(&mut self, at: UnixMs, home: &HomeName, generation: u64) -> Applied {
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        if generation <= friend.identity.generation || friend.claims.is_some_and(|known| known >= generation)
        {
            return Ok(Outcome::Done);
        }
        friend.claims = Some(generation);
        let text = format!(
            "{home} says that it was recovered or rescued (generation {generation}): it may read what it left here and \
             write nothing; ask its person, not by mail, then run `thermidor friend confirm {home}`"
        );
        self.tell(at, Weight::Mail, &format!("friend/{home}"), text);
        Ok(Outcome::Done)
    }

    pub(super) fn confirm_generation(&mut self, at: UnixMs, home: &HomeName, generation: u64) -> Applied {
        let Some(friend) = self.friends.get_mut(home) else { return unknown(home) };
        if friend.claims != Some(generation) {
            return stale(format!("{home} does not say to be of generation {generation}"));
        }
        friend.identity.generation = generation;
        friend.claims = None;
        let text = format!("{home} is believed to be of generation {generation}");
        self.tell(at, Weight::Mail, &format!("friend/{home}"), text);
        Ok(Outcome::Done)
    }

    /// `was` is the key of the kit that this one replaces; a kit that another radiator has drawn meanwhile stays.
    pub(super) fn set_kit(
        &mut self,
        at: UnixMs,
        was: Option<crate::friends::PublicKey>,
        record: &KitRecord,
        sealed: &Sealed,
    ) -> Applied {
        if self.kit.as_ref().map(|kit| kit.key) != was {
            return stale("the home has another kit by now");
        }
        if self.kit_change.is_some() {
            return invalid("a kit is being replaced: see `thermidor kit show`");
        }
        if sealed.key != self.keys.sealed_under {
            return stale("the home key has been changed meanwhile");
        }
        let is_new = was != Some(record.key);
        if is_new && was.is_some() {
            let text =
                "the recovery kit was changed: papers printed before are void, friends must be paired anew";
            self.tell(at, Weight::Mail, "kit", text.into());
        }
        self.kit = Some(record.clone());
        self.secrets.insert(KIT_SECRET.into(), sealed.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn note_kit(
        &mut self,
        printed_ms: Option<UnixMs>,
        rehearsed_ms: Option<UnixMs>,
        split: Option<KitSplit>,
    ) -> Applied {
        let Some(kit) = &mut self.kit else { return stale("the home has no kit") };
        kit.printed_ms = kit.printed_ms.max(printed_ms);
        kit.rehearsed_ms = kit.rehearsed_ms.max(rehearsed_ms);
        kit.split = [kit.split, split].into_iter().flatten().max_by_key(|split| split.at_ms);
        Ok(Outcome::Done)
    }

    pub(super) fn note_backup(
        &mut self,
        at: UnixMs,
        subject: &Subject,
        friend: &HomeName,
        was: &Record,
        record: &Record,
    ) -> Applied {
        if !self.friends.contains_key(friend) {
            return unknown(friend);
        }
        let known = self.backups.get(subject).and_then(|records| records.get(friend));
        if known.cloned().unwrap_or_default() != *was {
            return stale(format!("another radiator has told of {subject} at {friend}'s meanwhile"));
        }
        // A person hears of the first failure that does not pass by itself, and that it is over.
        let needs = |record: &Record| {
            record.failure.as_ref().filter(|f| f.passes == crate::backup::Passes::ByAPerson).cloned()
        };
        let key = format!("backup/{subject}/{friend}");
        match (needs(was), needs(record)) {
            (None, Some(failure)) => {
                let text = format!("the backup of {subject} to {friend} fails: {}", failure.why);
                self.tell(at, Weight::Mail, &key, text);
            }
            (Some(_), None) if record.failure.is_none() => {
                self.tell(
                    at,
                    Weight::Mail,
                    &key,
                    format!("the backup of {subject} to {friend} goes well again"),
                );
            }
            _ => {}
        }
        self.backups.entry(subject.clone()).or_default().insert(friend.clone(), record.clone());
        Ok(Outcome::Done)
    }
}

pub(super) fn unknown(home: &HomeName) -> Applied {
    invalid(format!("there is no friend {home}: `thermidor friend ls` lists them"))
}
