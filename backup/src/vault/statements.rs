//! What the vault does with a home's signed words: it checks them, writes them down before anything else happens, and
//! carries deletions out when their time has come. Every step can be done again after a crash.

use super::KitSaid;
use super::blob::{BlobName, Item, Kind};
use super::books::is_shown;
use super::disk::Disk;
use super::not_taken::NotTaken;
use super::path::{Folder, View};
use super::refusal::Refusal;
use super::signed::{Says, Signed, Statement};
use super::space::{Space, lock};
use super::waiting::{LIST_MAX, Last, List, Waiting, Weight, weigh};
use crate::kit_change::Announcement;
use std::collections::BTreeSet;
use std::io;
use thermidor_model::name::HomeName;

impl Space {
    /// Takes a deletion list, or takes one back. The times are that of the day and the uptime, in ms.
    pub fn hear(&self, signed: Signed, vault: &HomeName, now: u64, uptime: u64) -> Result<(), Refusal> {
        let _turn = lock(&self.turn);
        let statement = self.believe(&signed, vault)?;
        let folder = folder_of(&statement)?;
        let last = self.fresh(&signed, &statement)?;
        match &statement.says {
            Says::Delete(named) => {
                if self.state().waiting.lists.contains_key(&statement.number) {
                    return Ok(()); // a retry
                }
                let list = self.list(&statement, &folder, named, signed, now)?;
                self.note(last)?;
                self.disk.write_record(&list.record(), &json(&list)?)?;
                let (blobs, bytes, number) = (list.blobs.len(), list.bytes(), list.number);
                let mut state = self.state();
                let state = &mut *state;
                state.waiting.add(list, &mut state.books);
                state.waiting.since.insert(number, uptime);
                tracing::warn!(friend = %self.friend, %folder, number, blobs, bytes, "announced for deletion");
            }
            Says::Cancel(number) => {
                self.note(last)?;
                let record = self.state().waiting.lists.get(number).map(List::record);
                if let Some(record) = record {
                    self.disk.remove_record(&record)?;
                    let mut state = self.state();
                    let state = &mut *state;
                    state.waiting.cancel(*number, &mut state.books);
                    tracing::warn!(friend = %self.friend, number, "a deletion was taken back");
                }
            }
            Says::Head(_) | Says::Mine { .. } | Says::Kit { .. } => return Err(NotTaken::Misplaced.into()),
        }
        Ok(())
    }

    /// Keeps the signed head of a repository.
    pub fn hear_head(&self, signed: Signed, folder: &Folder, vault: &HomeName) -> Result<(), Refusal> {
        let _turn = lock(&self.turn);
        let statement = self.believe(&signed, vault)?;
        let Says::Head(head) = &statement.says else { return Err(NotTaken::Misplaced.into()) };
        if folder_of(&statement)? != *folder {
            return Err(NotTaken::Misplaced.into());
        }
        if !self.disk.holds(folder) {
            return Err(Refusal::NotFound);
        }
        let last = self.fresh(&signed, &statement)?;
        self.note(last)?;
        if self.is_by_another_kit(folder)? {
            let keys = head.blobs.get(&Kind::Keys).cloned().unwrap_or_default();
            self.disk.write_record(&past_keys_record(folder), &json(&keys)?)?;
            let mut state = self.state();
            state.past_keys.retain(|item| item.folder != *folder);
            state.past_keys.extend(keys_of(folder, keys));
        }
        Ok(self.disk.write_record(&head_record(folder), &json(&signed)?)?)
    }

    /// Whether the head that was kept last was signed with a kit that is believed no longer.
    fn is_by_another_kit(&self, folder: &Folder) -> Result<bool, Refusal> {
        let Some(kept) = self.disk.read_record(&head_record(folder))? else { return Ok(false) };
        let kept: Signed = serde_json::from_slice(&kept).map_err(io::Error::other)?;
        Ok(kept.open(&self.terms().key.ok_or(NotTaken::NoKey)?).is_err())
    }

    /// The signed head that was kept last.
    pub fn head(&self, folder: &Folder) -> Result<Vec<u8>, Refusal> {
        self.disk.read_record(&head_record(folder))?.ok_or(Refusal::NotFound)
    }

    /// Keeps the word that the believed generation is the home's own, for whoever comes as an earlier one. It says what a
    /// person here has confirmed, so it may be said again at any time and needs no number.
    pub fn hear_generation(&self, signed: &Signed, vault: &HomeName) -> Result<(), Refusal> {
        let _turn = lock(&self.turn);
        let statement = self.believe(signed, vault)?;
        if !matches!(statement.says, Says::Mine { .. }) || folder_of(&statement)? != Folder::ROOT {
            return Err(NotTaken::Misplaced.into());
        }
        Ok(self.disk.write_record(GENERATION, &json(signed)?)?)
    }

    /// That word, if one was left here.
    pub fn generation(&self) -> Result<Vec<u8>, Refusal> {
        self.disk.read_record(GENERATION)?.ok_or(Refusal::NotFound)
    }

    /// Hears that the home's kit was replaced: a claim, kept until a person here has asked, and in memory only, for it is
    /// said again until then.
    pub fn hear_kit(&self, said: &Announcement, vault: &HomeName) -> Result<(), Refusal> {
        let statement = self.believe(&said.old, vault)?;
        if folder_of(&statement)? != Folder::ROOT {
            return Err(NotTaken::Misplaced.into());
        }
        let new = said.new_keys(&statement).map_err(NotTaken::from)?.ok_or(NotTaken::Misplaced)?;
        self.state().kit_said = self.terms().key.map(|by| KitSaid { by, new });
        tracing::warn!(friend = %self.friend, "says that its recovery kit was replaced");
        Ok(())
    }

    /// All deletions that wait, in JSON.
    pub fn announced(&self) -> Result<Vec<u8>, Refusal> {
        Ok(json(&self.state().waiting.lists.values().collect::<Vec<_>>())?)
    }

    /// A blob was sent again: it waits for its deletion no longer.
    pub fn keep_after_all(&self, item: &Item) -> Result<(), Refusal> {
        if self.state().waiting.since(item).is_none() {
            return Ok(());
        }
        let _turn = lock(&self.turn);
        let Some(mut list) = self.state().waiting.list_of(item).cloned() else { return Ok(()) };
        // It may have gone between the comparison and this turn.
        let size = self.disk.look(item)?.ok_or(Refusal::NotFound)?.size;
        let terms = self.terms();
        let mut state = self.state();
        state.books.clone().reserve(size, false, terms.quota)?;
        drop(state);
        list.blobs.retain(|(kind, name, _)| item.blob != Some((*kind, *name)));
        self.disk.write_record(&list.record(), &json(&list)?)?;
        state = self.state();
        let state = &mut *state;
        state.waiting.cancel(list.number, &mut state.books);
        state.waiting.add(list, &mut state.books);
        Ok(())
    }

    /// Counts the waiting up to an uptime in ms and carries out what is due; answers the lists that are done.
    pub fn tend(&self, uptime: u64) -> io::Result<Vec<List>> {
        let _turn = lock(&self.turn);
        let keep = self.terms().keep;
        let grown = self.state().waiting.count(uptime);
        let (due, waiting): (Vec<List>, Vec<List>) =
            self.state().waiting.lists.values().cloned().partition(|list| list.is_due(keep));
        for list in waiting.iter().filter(|list| grown.contains(&list.number)) {
            self.disk.write_record(&list.record(), &json(list)?)?;
        }
        for list in &due {
            for (item, size) in list.items() {
                self.disk.remove(&item)?;
                let mut state = self.state();
                let state = &mut *state;
                state.waiting.gone(&item, size, &mut state.books);
            }
            self.disk.remove_record(&list.record())?;
            self.state().waiting.lists.remove(&list.number);
            tracing::warn!(friend = %self.friend, number = list.number, blobs = list.blobs.len(), "deleted");
        }
        Ok(due)
    }

    /// Whether a key remains that opens the repository once those blobs are gone.
    fn keeps_a_key(&self, folder: &Folder, gone: &[(Kind, BlobName, u64)]) -> io::Result<bool> {
        let mut remains = false;
        self.disk.list(folder, Kind::Keys, &mut |name, _| {
            let item = Item { folder: folder.clone(), blob: Some((Kind::Keys, name)) };
            let goes = gone.iter().any(|(kind, blob, _)| *kind == Kind::Keys && *blob == name);
            remains |= !goes && self.state().waiting.since(&item).is_none();
            Ok(())
        })?;
        Ok(remains)
    }

    fn believe(&self, signed: &Signed, vault: &HomeName) -> Result<Statement, NotTaken> {
        let terms = self.terms();
        let statement = signed.open(&terms.key.ok_or(NotTaken::NoKey)?)?;
        if statement.home != self.friend || statement.vault != *vault {
            let (home, vault) = (statement.home.to_string(), statement.vault.to_string());
            return Err(NotTaken::Elsewhere { home, vault });
        }
        if statement.generation != terms.generation {
            return Err(NotTaken::Generation { given: statement.generation, believed: terms.generation });
        }
        Ok(statement)
    }

    /// Whether it is the next word, or the last one said again because its answer was lost.
    fn fresh(&self, signed: &Signed, statement: &Statement) -> Result<Last, NotTaken> {
        let hash = *blake3::hash(signed.statement.as_bytes()).as_bytes();
        let given = Last { number: statement.number, hash };
        let last = self.state().waiting.last;
        if given.number > last.number || given == last {
            return Ok(given);
        }
        Err(NotTaken::Stale { given: given.number, last: last.number })
    }

    fn note(&self, last: Last) -> Result<(), Refusal> {
        self.disk.write_record(Waiting::LAST, &json(&last)?)?;
        self.state().waiting.last = last;
        Ok(())
    }

    fn list(
        &self,
        statement: &Statement,
        folder: &Folder,
        named: &[(Kind, BlobName)],
        signed: Signed,
        now: u64,
    ) -> Result<List, Refusal> {
        if named.len() > LIST_MAX {
            return Err(NotTaken::TooMany.into());
        }
        if named.iter().any(|(kind, _)| *kind == Kind::Locks) {
            return Err(NotTaken::Locks.into());
        }
        let named: BTreeSet<_> = named.iter().copied().collect();
        let mut weight = Weight::default();
        let mut blobs = Vec::new();
        for (kind, name) in named {
            let item = Item { folder: folder.clone(), blob: Some((kind, name)) };
            let Some(found) = self.disk.look(&item)? else { continue };
            if self.state().waiting.since(&item).is_some() {
                continue;
            }
            weight.bytes += found.size;
            weight.snapshots += u64::from(kind == Kind::Snapshots);
            blobs.push((kind, name, found.size));
        }
        if blobs.is_empty() {
            return Err(NotTaken::Nothing.into());
        }
        self.disk.list(folder, Kind::Snapshots, &mut |name, found| {
            let item = Item { folder: folder.clone(), blob: Some((Kind::Snapshots, name)) };
            let hidden = self.state().waiting.since(&item);
            weight.snapshots_all += u64::from(is_shown(found.arrived, hidden, View::Live));
            Ok(())
        })?;
        if blobs.iter().any(|(kind, _, _)| *kind == Kind::Keys) && !self.keeps_a_key(folder, &blobs)? {
            return Err(NotTaken::EveryKey.into());
        }
        let mut state = self.state();
        weigh(weight, &state.books, &self.terms())?;
        let announced = state.books.arrival(now);
        let folder = folder.as_str().to_owned();
        let (version, number) = (List::VERSION, statement.number);
        Ok(List { version, number, announced, waited: 0, folder, blobs, signed })
    }
}

fn folder_of(statement: &Statement) -> Result<Folder, NotTaken> {
    if statement.folder.is_empty() {
        return Ok(Folder::ROOT);
    }
    Folder::new(&statement.folder).ok_or(NotTaken::Misplaced)
}

/// The record of the word that a generation is the home's own.
const GENERATION: &str = "generation";

fn head_record(folder: &Folder) -> String {
    format!("head-{folder}")
}

fn past_keys_record(folder: &Folder) -> String {
    format!("past-keys-{folder}")
}

/// The keys of a folder that are part of its past though they came later.
pub(super) fn past_keys(disk: &Disk, folder: &Folder) -> io::Result<impl Iterator<Item = Item> + use<>> {
    let kept = disk.read_record(&past_keys_record(folder))?;
    let keys = kept.map_or(Ok(BTreeSet::new()), |kept| serde_json::from_slice(&kept))?;
    Ok(keys_of(folder, keys))
}

fn keys_of(folder: &Folder, keys: BTreeSet<BlobName>) -> impl Iterator<Item = Item> + use<> {
    let folder = folder.clone();
    keys.into_iter().map(move |name| Item { folder: folder.clone(), blob: Some((Kind::Keys, name)) })
}

fn json(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}
