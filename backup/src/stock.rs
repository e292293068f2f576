//! Retention challenges that wait for their turn: drawn while packs went by, kept in one file on the radiator that backs
//! up, and used once. In no replicated state and no export: what comes back from a copy could be asked twice.

use crate::vault::{BlobName, Challenge, Head, Kind};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// How many are kept of one subject at one friend's: some 100 KB.
pub const STOCK_MAX: usize = 256;
/// How many are asked at once, and what part of the stock at most: it never runs out between two backups.
const ASKED_MAX: usize = 8;
const ASKED_PART: usize = 8;
/// The file's form.
const VERSION: u8 = 1;

/// The challenges of one subject at one friend's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stock {
    version: u8,
    /// The number of the signed head up to which deletions that were agreed are taken account of.
    head: u64,
    /// Packs that went by so far: each of them is kept with the same probability.
    seen: u64,
    challenges: Vec<Challenge>,
}

impl Default for Stock {
    fn default() -> Self {
        Self { version: VERSION, head: 0, seen: 0, challenges: Vec::new() }
    }
}

impl Stock {
    /// Reads the file; none is an empty stock, and so is one that can't be read: what was asked is asked no more.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(stock) if stock.version == VERSION => Ok(stock),
            Ok(Self { version, .. }) => {
                tracing::warn!(path = %path.display(), version, "another program's challenges are thrown away");
                Ok(Self::default())
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "challenges that can't be read are thrown away");
                Ok(Self::default())
            }
        }
    }

    /// Writes the file, durably, for root alone.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let half = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        File::open(folder)?.sync_all()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.challenges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.challenges.is_empty()
    }

    /// The number of the signed head up to which deletions are taken account of.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Takes one more. Of more than there is room for each has had the same chance to stay, whatever its pack's age.
    pub fn add(&mut self, challenge: Challenge, random: &mut impl Rng) {
        self.seen += 1;
        if self.challenges.len() < STOCK_MAX {
            return self.challenges.push(challenge);
        }
        let place = random.random_range(0..self.seen);
        if let Some(there) = usize::try_from(place).ok().and_then(|place| self.challenges.get_mut(place)) {
            *there = challenge;
        }
    }

    /// Takes some out, to be asked. They are not there any more: the caller writes the file before it asks.
    pub fn take(&mut self, random: &mut impl Rng) -> Vec<Challenge> {
        self.challenges.shuffle(random);
        let count = self.challenges.len().div_ceil(ASKED_PART).min(ASKED_MAX);
        self.challenges.split_off(self.challenges.len() - count)
    }

    /// Takes back what was not asked after all.
    pub fn give_back(&mut self, unasked: impl IntoIterator<Item = Challenge>) {
        self.challenges.extend(unasked);
        self.challenges.truncate(STOCK_MAX);
    }

    /// Lets go of what the home itself has had deleted: its signed head of that number has it no more.
    pub fn reconcile(&mut self, number: u64, head: &Head) {
        let none = BTreeSet::new();
        self.challenges.retain(|challenge| {
            head.blobs.get(&challenge.question.kind).unwrap_or(&none).contains(&challenge.question.name)
        });
        self.head = number;
    }

    /// Lets go of what was just announced for deletion.
    pub fn forget(&mut self, announced: &[(Kind, BlobName)]) {
        let gone: BTreeSet<_> = announced.iter().collect();
        self.challenges.retain(|c| !gone.contains(&(c.question.kind, c.question.name)));
    }

    /// A head was signed of which all deletions are known here.
    pub fn signed(&mut self, number: u64) {
        self.head = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(n: u64) -> Challenge {
        Challenge::draw(Kind::Data, &n.to_le_bytes(), &mut rand::rng())
    }

    fn name(n: u64) -> BlobName {
        BlobName::of(&n.to_le_bytes())
    }

    fn full(count: u64) -> Stock {
        let mut stock = Stock::default();
        (0..count).for_each(|n| stock.add(challenge(n), &mut rand::rng()));
        stock
    }

    #[test]
    fn what_is_taken_is_not_there_again_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("challenges").join("mail-alice.json");
        let mut stock = full(100);
        let mut asked = BTreeSet::new();
        while !stock.is_empty() {
            let taken = stock.take(&mut rand::rng());
            assert!((1..=ASKED_MAX).contains(&taken.len()));
            for challenge in taken {
                assert!(asked.insert(challenge.question.name), "one was taken twice");
            }
            stock.write(&path).unwrap();
            assert_eq!(Stock::read(&path).unwrap(), stock);
            stock = Stock::read(&path).unwrap();
        }
        assert_eq!(asked.len(), 100);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn packs_of_any_age_stay_with_the_same_chance_and_no_more_than_agreed() {
        let many = 16 * STOCK_MAX as u64;
        let stock = full(many);
        assert_eq!(stock.len(), STOCK_MAX);
        let old: BTreeSet<_> = (0..many / 2).map(name).collect();
        let of_old = stock.challenges.iter().filter(|c| old.contains(&c.question.name)).count();
        // Half of them, by more than eight standard deviations either way.
        assert!((STOCK_MAX / 4..=STOCK_MAX * 3 / 4).contains(&of_old), "{of_old}");
    }

    #[test]
    fn what_the_home_has_had_deleted_is_asked_about_no_more() {
        let mut stock = full(10);
        stock.forget(&[(Kind::Data, name(3)), (Kind::Index, name(4))]);
        assert_eq!(stock.len(), 9);
        let head = Head::of(0, (0..8).map(|n| (Kind::Data, name(n))));
        stock.reconcile(77, &head);
        assert_eq!((stock.len(), stock.head()), (7, 77));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_empty_stock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it");
        assert!(Stock::read(&path).unwrap().is_empty());
        fs::write(&path, "{").unwrap();
        assert!(Stock::read(&path).unwrap().is_empty());
        let later = Stock { version: 9, ..full(1) };
        later.write(&path).unwrap();
        assert!(Stock::read(&path).unwrap().is_empty());
    }
}
