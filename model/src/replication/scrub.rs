//! Bit rot: what replicas find of an extent, which of them is right, and how far a pass over the volume is.
//! Pure; the active's part is in `active/scrub`, the replica's in `follower/examine`.

use super::frame::EXTENT_BYTES;
use crate::name::{NodeId, UnixMs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Findings kept by extent; more are only counted.
pub const OPEN_MAX: usize = 64;
/// Latest repairs kept with their extents.
pub const REPAIRS_MAX: usize = 8;

/// Whether an extent is as it was when all replicas were last found alike, no write having come since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Seal {
    /// It was written since, or never examined.
    Absent,
    /// It is.
    Whole,
    /// It is not, though nobody wrote it: these bytes rotted.
    Broken,
}

/// What a replica finds of an extent on its disk, page cache aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Found {
    /// BLAKE3; `None`: the disk could not read it.
    pub hash: Option<[u8; 32]>,
    /// Its seal.
    pub seal: Seal,
}

/// Which replicas are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All hold the same.
    Alike([u8; 32]),
    /// These do not hold what is right.
    Wrong {
        /// BLAKE3 of what is right.
        good: [u8; 32],
        /// Who does not hold it.
        wrong: BTreeSet<NodeId>,
    },
    /// Nobody can tell.
    Undecided,
}

/// Judges what was found of one extent at one position of the stream.
///
/// A value under a broken seal is wrong wherever it is found: whoever holds it too copied it. Of what is left, one
/// under a whole seal is right; else what more than half of all hold; else what all readable ones hold. Evidence
/// that contradicts itself decides nothing.
pub fn judge(found: &BTreeMap<NodeId, Found>) -> Verdict {
    let held = |found: &Found, seal| found.hash.filter(|_| found.seal == seal);
    let rotten: BTreeSet<[u8; 32]> = found.values().filter_map(|f| held(f, Seal::Broken)).collect();
    let trusted: Vec<[u8; 32]> =
        found.values().filter_map(|f| f.hash).filter(|hash| !rotten.contains(hash)).collect();
    let values: BTreeSet<[u8; 32]> = trusted.iter().copied().collect();
    let only = |values: &BTreeSet<[u8; 32]>| values.first().copied().filter(|_| values.len() == 1);
    if trusted.len() == found.len()
        && let Some(hash) = only(&values)
    {
        return Verdict::Alike(hash);
    }
    let sealed = found.values().filter_map(|f| held(f, Seal::Whole)).filter(|hash| !rotten.contains(hash));
    let sealed: BTreeSet<[u8; 32]> = sealed.collect();
    let most = |hash: &&[u8; 32]| trusted.iter().filter(|t| t == hash).count() * 2 > found.len();
    let by_number = values.iter().find(most).copied().or_else(|| only(&values));
    let good = match (only(&sealed), by_number) {
        (Some(sealed), Some(most)) if sealed != most => None,
        (None, _) if !sealed.is_empty() => None,
        (sealed, most) => sealed.or(most),
    };
    let Some(good) = good else { return Verdict::Undecided };
    let wrong = found.iter().filter(|(_, f)| f.hash != Some(good)).map(|(node, _)| *node).collect();
    Verdict::Wrong { good, wrong }
}

/// How fast a volume is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    /// A pass begins so long after the one before it began, ms.
    pub pass_every_ms: u64,
    /// Between two extents of a pass that nobody asked for, ms.
    pub extent_every_ms: u64,
    /// Writers are busy for so long after each change, ms.
    pub quiet_ms: u64,
    /// Busy writers are given way to for so long, then one extent is examined all the same, ms.
    pub patience_ms: u64,
    /// Extents examined at once in a pass that was asked for.
    pub at_once: usize,
    /// How far it is, is noted after so many extents ...
    pub note_extents: u64,
    /// ... or so long, ms.
    pub note_ms: u64,
}

impl Default for Pace {
    /// A pass a week, at most 10 MiB/s of each disk.
    fn default() -> Self {
        Self {
            pass_every_ms: 7 * 24 * 3600 * 1000,
            extent_every_ms: 100,
            quiet_ms: 500,
            patience_ms: 5_000,
            at_once: 4,
            note_extents: 256,
            note_ms: 60_000,
        }
    }
}

/// An extent on which the replicas were left different.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// When, Unix ms.
    pub at_ms: UnixMs,
    /// Who holds the same, group by group.
    pub groups: Vec<Vec<NodeId>>,
    /// Whose disk could not read it.
    pub unreadable: Vec<NodeId>,
    /// Nobody can tell which is right; otherwise it is known, and the repair did not last.
    pub undecided: bool,
}

impl Finding {
    /// From what was found.
    pub fn new(at_ms: UnixMs, found: &BTreeMap<NodeId, Found>, undecided: bool) -> Self {
        let mut groups: BTreeMap<[u8; 32], Vec<NodeId>> = BTreeMap::new();
        let mut unreadable = vec![];
        for (node, found) in found {
            match found.hash {
                Some(hash) => groups.entry(hash).or_default().push(*node),
                None => unreadable.push(*node),
            }
        }
        Self { at_ms, groups: groups.into_values().collect(), unreadable, undecided }
    }

    /// For people; `name` says what a radiator is called.
    pub fn words(&self, extent: u64, name: impl Fn(NodeId) -> String) -> String {
        let list = |nodes: &[NodeId]| nodes.iter().map(|n| name(*n)).collect::<Vec<_>>().join(" and ");
        let mut parts: Vec<String> = self.groups.iter().map(|group| list(group)).collect();
        if !self.unreadable.is_empty() {
            parts.push(format!("{} (cannot be read)", list(&self.unreadable)));
        }
        let parts = match &parts[..] {
            [one] => format!("{one}: it changed without being written"),
            _ => format!("differs: {}", parts.join(" against ")),
        };
        let end = match self.undecided {
            true => "nobody can tell which is right, nothing was changed",
            false => "the repair did not last",
        };
        format!("{} {parts}; {end}", place(extent))
    }
}

/// A repair that lasted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Repair {
    /// When, Unix ms.
    pub at_ms: UnixMs,
    /// Which extent.
    pub extent: u64,
    /// Whose copy was wrong.
    pub wrong: Vec<NodeId>,
}

impl Repair {
    /// For people.
    pub fn words(&self, name: impl Fn(NodeId) -> String) -> String {
        let wrong: Vec<String> = self.wrong.iter().map(|n| name(*n)).collect();
        format!(
            "{} was wrong on {} and was repaired from another replica",
            place(self.extent),
            wrong.join(", ")
        )
    }
}

/// Where an extent lies in the device, for people.
pub fn place(extent: u64) -> String {
    format!("MiB {}", (extent * EXTENT_BYTES) >> 20)
}

/// How far the examination of a volume is: kept by every replica, so that whoever is active next goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Number of the present or last pass; 0: none began yet.
    pub pass: u64,
    /// It is under way.
    pub running: bool,
    /// A person asked for it: it goes at full speed.
    pub asked: bool,
    /// The extent that comes next.
    pub next: u64,
    /// Extents of the volume.
    pub extents: u64,
    /// When it began, Unix ms.
    pub began_ms: UnixMs,
    /// When the last whole pass ended, Unix ms; 0: none did.
    pub ended_ms: UnixMs,
    /// Whose replicas were compared throughout it.
    pub compared: BTreeSet<NodeId>,
    /// Extents repaired in this pass.
    pub repaired: u64,
    /// Extents ever repaired.
    pub repaired_ever: u64,
    /// The latest repairs.
    pub repairs: Vec<Repair>,
    /// Extents on which replicas differ still.
    pub open: BTreeMap<u64, Finding>,
    /// More of them than are kept, in this pass.
    pub open_more: u64,
}

impl Record {
    /// Whether every extent that was looked at is alike now.
    pub fn alike(&self) -> bool {
        self.open.is_empty() && self.open_more == 0
    }

    pub(super) fn note_repair(&mut self, repair: Repair) {
        self.repaired += 1;
        self.repaired_ever += 1;
        self.repairs.push(repair);
        let surplus = self.repairs.len().saturating_sub(REPAIRS_MAX);
        self.repairs.drain(..surplus);
    }

    pub(super) fn note_open(&mut self, extent: u64, finding: Finding) {
        if self.open.len() < OPEN_MAX || self.open.contains_key(&extent) {
            self.open.insert(extent, finding);
        } else {
            self.open_more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];
    const C: [u8; 32] = [3; 32];

    fn all(found: &[(Option<[u8; 32]>, Seal)]) -> BTreeMap<NodeId, Found> {
        let found = found.iter().enumerate();
        found.map(|(at, (hash, seal))| (at as NodeId + 1, Found { hash: *hash, seal: *seal })).collect()
    }

    fn good(found: &[(Option<[u8; 32]>, Seal)]) -> Option<[u8; 32]> {
        match judge(&all(found)) {
            Verdict::Wrong { good, .. } => Some(good),
            _ => None,
        }
    }

    use Seal::{Absent, Broken, Whole};

    #[test]
    fn alike_is_alike_and_the_majority_of_three_is_right() {
        assert_eq!(judge(&all(&[(Some(A), Absent), (Some(A), Whole)])), Verdict::Alike(A));
        let found = all(&[(Some(A), Absent), (Some(B), Absent), (Some(A), Absent)]);
        assert_eq!(judge(&found), Verdict::Wrong { good: A, wrong: [2].into() });
        assert_eq!(good(&[(Some(A), Absent), (Some(B), Absent), (Some(C), Absent)]), None);
        assert_eq!(good(&[(Some(A), Absent), (Some(A), Absent), (Some(B), Absent), (Some(B), Absent)]), None);
    }

    #[test]
    fn two_that_differ_are_undecided_unless_one_cannot_be_read_or_a_seal_tells() {
        assert_eq!(judge(&all(&[(Some(A), Absent), (Some(B), Absent)])), Verdict::Undecided);
        assert_eq!(good(&[(Some(A), Absent), (None, Absent)]), Some(A));
        assert_eq!(good(&[(Some(A), Absent), (Some(B), Broken)]), Some(A));
        assert_eq!(good(&[(Some(A), Whole), (Some(B), Absent)]), Some(A));
        assert_eq!(judge(&all(&[(None, Absent), (None, Absent)])), Verdict::Undecided);
        assert_eq!(good(&[(Some(A), Absent), (Some(B), Absent), (None, Absent)]), None);
    }

    #[test]
    fn what_rotted_and_was_copied_does_not_win_by_number() {
        assert_eq!(good(&[(Some(A), Broken), (Some(A), Absent), (Some(B), Whole)]), Some(B));
        assert_eq!(good(&[(Some(A), Broken), (Some(A), Absent), (Some(B), Absent)]), Some(B));
        assert_eq!(judge(&all(&[(Some(A), Broken), (Some(A), Absent)])), Verdict::Undecided);
        assert_eq!(
            judge(&all(&[(Some(A), Broken)])),
            Verdict::Undecided,
            "a lone replica cannot be repaired"
        );
    }

    #[test]
    fn evidence_that_contradicts_itself_decides_nothing() {
        assert_eq!(good(&[(Some(A), Absent), (Some(A), Absent), (Some(B), Whole)]), None);
        assert_eq!(good(&[(Some(A), Whole), (Some(B), Whole)]), None);
    }

    #[test]
    fn a_finding_names_the_radiators_and_the_place() {
        let name = |node: NodeId| ["salon", "bureau", "cave"][node as usize - 1].to_string();
        let finding = Finding::new(0, &all(&[(Some(A), Absent), (Some(B), Absent), (None, Absent)]), true);
        assert_eq!(
            finding.words(17, name),
            "MiB 17 differs: salon against bureau against cave (cannot be read); \
             nobody can tell which is right, nothing was changed"
        );
        let repair = Repair { at_ms: 0, extent: 3, wrong: vec![2] };
        assert_eq!(repair.words(name), "MiB 3 was wrong on bureau and was repaired from another replica");
    }
}
