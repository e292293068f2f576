//! The head of a repository: what its home knows is in it after a backup, signed and kept on both sides. A friend who
//! serves an older state, or drops a snapshot that restic would not miss, is found out by comparing.

use super::blob::{BlobName, Kind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// When the home looked, in ms since the Unix epoch.
    pub taken: u64,
    /// Names by kind, without locks.
    pub blobs: BTreeMap<Kind, BTreeSet<BlobName>>,
}

/// What a vault shows beside what its home knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The vault keeps no head although one was sent.
    HeadMissing,
    /// The vault's head is older than the one that was sent last: the repository was rolled back.
    HeadOlder {
        /// The number of the statement it shows.
        shown: u64,
        /// The number of the last one.
        known: u64,
    },
    /// Under one number there are two heads: somebody else signs with this home's key.
    HeadOther(u64),
    /// Blobs that were there are not.
    Missing {
        /// Of which kind.
        kind: Kind,
        /// Their names.
        names: BTreeSet<BlobName>,
    },
    /// A pack was asked about, or read, and is not what was left there.
    Changed(BlobName),
    /// A pack was asked about, or was to be read, and the vault said something else instead.
    Withheld(BlobName, String),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HeadMissing => f.write_str("the vault has lost the head of the repository"),
            Self::HeadOlder { shown, known } => {
                write!(f, "the vault shows head {shown} and {known} was sent: it was rolled back")
            }
            Self::HeadOther(number) => write!(f, "head {number} is not the one that was sent"),
            Self::Missing { kind, names } => {
                write!(f, "{} of {} are missing", names.len(), kind.as_str())
            }
            Self::Changed(name) => write!(f, "pack {} is not what was sent", name.short()),
            Self::Withheld(name, why) => {
                write!(f, "pack {} is not shown when it is asked for ({why})", name.short())
            }
        }
    }
}

impl Head {
    /// Takes note of a listing.
    pub fn of(taken: u64, listed: impl IntoIterator<Item = (Kind, BlobName)>) -> Self {
        let mut head = Self { taken, ..Self::default() };
        for (kind, name) in listed.into_iter().filter(|(kind, _)| *kind != Kind::Locks) {
            head.blobs.entry(kind).or_default().insert(name);
        }
        head
    }

    /// What has gone since, by what is listed now.
    pub fn compare(&self, listed: &Head) -> Vec<Finding> {
        let none = BTreeSet::new();
        let missing = self.blobs.iter().map(|(&kind, known)| {
            let shown = listed.blobs.get(&kind).unwrap_or(&none);
            Finding::Missing { kind, names: known.difference(shown).copied().collect() }
        });
        missing.filter(|f| !matches!(f, Finding::Missing { names, .. } if names.is_empty())).collect()
    }

    /// The head without what the home itself has announced for deletion.
    pub fn without(mut self, deleted: &[(Kind, BlobName)]) -> Self {
        for (kind, name) in deleted {
            if let Some(names) = self.blobs.get_mut(kind) {
                names.remove(name);
            }
        }
        self
    }
}

/// Compares the head that a vault shows with the last one that was sent: numbers first, words second.
pub fn compare_heads(known: (u64, &Head), shown: Option<(u64, &Head)>) -> Option<Finding> {
    match shown {
        None => Some(Finding::HeadMissing),
        Some((number, _)) if number < known.0 => Some(Finding::HeadOlder { shown: number, known: known.0 }),
        Some((number, head)) if number == known.0 && head != known.1 => Some(Finding::HeadOther(number)),
        Some((number, _)) if number > known.0 => Some(Finding::HeadOther(number)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> BlobName {
        BlobName::of(&[n])
    }

    #[test]
    fn what_was_dropped_is_named() {
        let all = [(Kind::Snapshots, name(1)), (Kind::Snapshots, name(2)), (Kind::Data, name(3))];
        let head = Head::of(0, all);
        assert_eq!(head.compare(&Head::of(9, all)), []);
        let more = Head::of(9, all.into_iter().chain([(Kind::Data, name(4)), (Kind::Locks, name(5))]));
        assert_eq!(head.compare(&more), []);
        let less = Head::of(9, [all[0], all[2]]);
        let names = [name(2)].into();
        assert_eq!(head.compare(&less), [Finding::Missing { kind: Kind::Snapshots, names }]);
        assert_eq!(head.without(&[(Kind::Snapshots, name(2))]).compare(&less), []);
    }

    #[test]
    fn a_head_that_is_older_or_another_is_noticed() {
        let known = Head::of(5, [(Kind::Data, name(1))]);
        let other = Head::of(5, [(Kind::Data, name(2))]);
        assert_eq!(compare_heads((7, &known), Some((7, &known))), None);
        assert_eq!(compare_heads((7, &known), None), Some(Finding::HeadMissing));
        assert_eq!(
            compare_heads((7, &known), Some((6, &other))),
            Some(Finding::HeadOlder { shown: 6, known: 7 })
        );
        assert_eq!(compare_heads((7, &known), Some((7, &other))), Some(Finding::HeadOther(7)));
        assert_eq!(compare_heads((7, &known), Some((8, &other))), Some(Finding::HeadOther(8)));
    }
}
