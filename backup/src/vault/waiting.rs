//! Delayed deletion. A home says, signed with its key, what may go; the vault writes that down, shows it to whoever
//! asks, hides the blobs from the live view and keeps them for the agreed time. Until then any later signed word
//! takes it back, and the repository can be read as it stood before.

use super::blob::{BlobName, Item, Kind};
use super::books::Books;
use super::disk::Disk;
use super::not_taken::NotTaken;
use super::path::Folder;
use super::signed::Signed;
use super::terms::Terms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;

/// Blobs one list may name; a home with more sends several.
pub const LIST_MAX: usize = 100_000;

/// How much waiting a crash may forget, in ms: written seldom is kinder to the disk.
const NOTED_EVERY: u64 = 3600 * 1000;

/// What a list would do, in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of what it names and is here.
    pub bytes: u64,
    /// Snapshots it names and that are shown.
    pub snapshots: u64,
    /// Snapshots that are shown in that folder.
    pub snapshots_all: u64,
}

/// Whether a list may be taken, by what was agreed.
pub fn weigh(weight: Weight, books: &Books, terms: &Terms) -> Result<(), NotTaken> {
    if weight.snapshots > 0 && weight.snapshots >= weight.snapshots_all {
        return Err(NotTaken::EverySnapshot);
    }
    let wanted = books.waiting.saturating_add(weight.bytes);
    let all = books.used.saturating_add(books.waiting);
    if u128::from(wanted) * 100 > u128::from(all) * u128::from(terms.share_percent) {
        return Err(NotTaken::Share { wanted, all, share: terms.share_percent });
    }
    if wanted > terms.reserve {
        return Err(NotTaken::Reserve { wanted, reserve: terms.reserve });
    }
    Ok(())
}

/// A deletion list that was taken and is not carried out yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The form of this record.
    pub version: u8,
    /// The number of the statement.
    pub number: u64,
    /// When it was taken, in ms since the Unix epoch.
    pub announced: u64,
    /// How long it has waited while the vault was up, in ms. No clock that somebody sets makes this longer.
    pub waited: u64,
    /// The folder it speaks of.
    pub folder: String,
    /// What waits, with its size in bytes.
    pub blobs: Vec<(Kind, BlobName, u64)>,
    /// The home's own words.
    pub signed: Signed,
}

impl List {
    /// The record's form.
    pub(super) const VERSION: u8 = 1;

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, _, size)| size).sum()
    }

    /// Whether it has waited for the agreed time.
    pub fn is_due(&self, keep: Duration) -> bool {
        u128::from(self.waited) >= keep.as_millis()
    }

    pub(super) fn record(&self) -> String {
        format!("list-{:020}", self.number)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (Item, u64)> + '_ {
        let folder = if self.folder.is_empty() { Some(Folder::ROOT) } else { Folder::new(&self.folder) };
        let item = |folder: &Folder, kind, name| Item { folder: folder.clone(), blob: Some((kind, name)) };
        self.blobs
            .iter()
            .filter_map(move |(kind, name, size)| Some((item(folder.as_ref()?, *kind, *name), *size)))
    }
}

/// The last statement that was taken: a retry of it is the same, anything not after it is stale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Last {
    pub number: u64,
    pub hash: [u8; 32],
}

/// All lists of one friend.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub lists: BTreeMap<u64, List>,
    pub last: Last,
    /// The uptime up to which the lists' waiting has been counted, in ms; of a list that came since, from when.
    pub counted: u64,
    pub since: BTreeMap<u64, u64>,
    hidden: HashMap<Item, (u64, u64)>,
}

impl Waiting {
    pub(super) const LAST: &str = "last";

    /// What is on disk, and what that means for the books.
    pub fn load(disk: &Disk, books: &mut Books, uptime: u64) -> io::Result<Self> {
        let mut waiting = Self { counted: uptime, ..Self::default() };
        if let Some(record) = disk.read_record(Self::LAST)? {
            waiting.last = serde_json::from_slice(&record)?;
        }
        for name in disk.records("list-")? {
            let Some(record) = disk.read_record(&name)? else { continue };
            let mut list: List = serde_json::from_slice(&record)?;
            // What a broken-off deletion has removed is gone.
            let gone: HashSet<_> = list
                .items()
                .filter_map(|(item, _)| match disk.look(&item) {
                    Ok(None) => Some(Ok(item.blob)),
                    Ok(Some(_)) => None,
                    Err(e) => Some(Err(e)),
                })
                .collect::<io::Result<_>>()?;
            list.blobs.retain(|(kind, name, _)| !gone.contains(&Some((*kind, *name))));
            waiting.add(list, books);
        }
        Ok(waiting)
    }

    /// Since when an item is hidden, in ms since the Unix epoch.
    pub fn since(&self, item: &Item) -> Option<u64> {
        self.hidden.get(item).map(|(since, _)| *since)
    }

    /// The list that an item waits in.
    pub fn list_of(&self, item: &Item) -> Option<&List> {
        self.hidden.get(item).and_then(|(_, number)| self.lists.get(number))
    }

    /// Takes a list.
    pub fn add(&mut self, list: List, books: &mut Books) {
        books.latest = books.latest.max(list.announced);
        for (item, size) in list.items() {
            books.hide(size);
            self.hidden.insert(item, (list.announced, list.number));
        }
        self.lists.insert(list.number, list);
    }

    /// Drops a list; what it names is shown again.
    pub fn cancel(&mut self, number: u64, books: &mut Books) {
        let Some(list) = self.lists.remove(&number) else { return };
        for (item, size) in list.items() {
            self.hidden.remove(&item);
            books.show(size);
        }
    }

    /// Counts the waiting up to an uptime in ms; answers the numbers of lists whose waiting grew by a whole hour.
    pub fn count(&mut self, uptime: u64) -> Vec<u64> {
        let before = std::mem::replace(&mut self.counted, uptime);
        let since = std::mem::take(&mut self.since);
        let mut grown = Vec::new();
        for (number, list) in &mut self.lists {
            let hours = list.waited / NOTED_EVERY;
            let begun = since.get(number).copied().unwrap_or(before);
            list.waited = list.waited.saturating_add(uptime.saturating_sub(begun));
            if list.waited / NOTED_EVERY > hours {
                grown.push(*number);
            }
        }
        grown
    }

    /// An item waits no longer, for it is gone.
    pub fn gone(&mut self, item: &Item, size: u64, books: &mut Books) {
        if self.hidden.remove(item).is_some() {
            books.waiting = books.waiting.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(used: u64, waiting: u64) -> Books {
        Books { used, waiting, ..Books::default() }
    }

    #[test]
    fn no_more_than_the_agreed_share_waits_at_once() {
        let mut terms = Terms::new(10_000);
        terms.share_percent = 30;
        let of = |bytes| Weight { bytes, ..Weight::default() };
        assert_eq!(weigh(of(300), &books(1000, 0), &terms), Ok(()));
        assert_eq!(
            weigh(of(301), &books(1000, 0), &terms),
            Err(NotTaken::Share { wanted: 301, all: 1000, share: 30 })
        );
        // In slices it is no more either.
        assert_eq!(
            weigh(of(1), &books(700, 299), &terms),
            Err(NotTaken::Share { wanted: 300, all: 999, share: 30 })
        );
        assert_eq!(weigh(of(0), &books(700, 300), &terms), Ok(()));
        assert!(weigh(of(u64::MAX), &books(700, 300), &terms).is_err());
    }

    #[test]
    fn what_waits_fits_the_reserve() {
        let mut terms = Terms::new(10_000);
        terms.reserve = 100;
        let weight = Weight { bytes: 60, ..Weight::default() };
        assert_eq!(weigh(weight, &books(1000, 40), &terms), Ok(()));
        assert_eq!(
            weigh(weight, &books(1000, 41), &terms),
            Err(NotTaken::Reserve { wanted: 101, reserve: 100 })
        );
    }

    #[test]
    fn one_snapshot_always_remains() {
        let terms = Terms::new(10_000);
        let of = |snapshots| Weight { bytes: 1, snapshots, snapshots_all: 3 };
        assert_eq!(weigh(of(2), &books(1000, 0), &terms), Ok(()));
        assert_eq!(weigh(of(3), &books(1000, 0), &terms), Err(NotTaken::EverySnapshot));
    }
}
