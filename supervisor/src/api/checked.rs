//! How far the comparison of a volume's replicas is, and what it found, as people and programs see it.

use serde::{Deserialize, Serialize};
use thermidor_model::name::UnixMs;
use thermidor_model::replication::scrub::{Record, place};
use thermidor_model::state::{State, Volume};

/// The search for bit rot in one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Number of the present or last pass; 0: none yet.
    pub pass: u64,
    /// It is under way.
    pub running: bool,
    /// A person asked for it.
    pub asked: bool,
    /// Extents (MiB) looked at ...
    pub done: u64,
    /// ... of so many.
    pub of: u64,
    /// When it began, Unix ms.
    pub began_ms: UnixMs,
    /// When the last whole pass ended, Unix ms; 0: none did.
    pub ended_ms: UnixMs,
    /// Radiators whose replicas were not compared in it.
    pub left_out: Vec<String>,
    /// Extents repaired in it.
    pub repaired: u64,
    /// Extents ever repaired.
    pub repaired_ever: u64,
    /// The latest repairs, in words.
    pub repairs: Vec<String>,
    /// What differs still, in words.
    pub differences: Vec<String>,
}

impl Checked {
    /// From what the active knows.
    pub fn of(state: &State, volume: &Volume, record: &Record) -> Self {
        let name = |node| state.name_of(node);
        let mut differences: Vec<String> = record.open.iter().map(|(x, f)| f.words(*x, name)).collect();
        if record.open_more > 0 {
            differences.push(format!("{} more extents differ", record.open_more));
        }
        let left_out = volume.replicas.keys().filter(|node| !record.compared.contains(node));
        Self {
            pass: record.pass,
            running: record.running,
            asked: record.asked,
            done: record.next.min(record.extents),
            of: record.extents,
            began_ms: record.began_ms,
            ended_ms: record.ended_ms,
            left_out: left_out.map(|node| name(*node)).collect(),
            repaired: record.repaired,
            repaired_ever: record.repaired_ever,
            repairs: record.repairs.iter().map(|r| r.words(name)).collect(),
            differences,
        }
    }

    /// Whether all replicas were compared and hold the same now.
    pub fn alike(&self) -> bool {
        self.differences.is_empty() && self.left_out.is_empty()
    }

    /// How far it is, for people.
    pub fn progress(&self) -> String {
        format!("{} of {}", place(self.done), self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::replication::scrub::{Finding, Found, Seal};
    use thermidor_model::testing::{box_volume, serving_home};

    #[test]
    fn radiators_are_named_and_only_a_whole_comparison_without_a_difference_is_alike() {
        let state = serving_home(3, 1);
        let volume = &state.volumes[&box_volume()];
        let mut record =
            Record { pass: 1, extents: 8, next: 3, compared: [1, 2, 3].into(), ..Record::default() };
        let checked = Checked::of(&state, volume, &record);
        assert!(checked.alike() && checked.progress() == "MiB 3 of 8", "{checked:?}");
        record.compared.remove(&2);
        assert_eq!(Checked::of(&state, volume, &record).left_out, ["bureau"]);
        record.compared.insert(2);
        let found = |hash| Found { hash: Some([hash; 32]), seal: Seal::Absent };
        let finding = Finding::new(0, &[(1, found(1)), (2, found(2))].into(), true);
        record.open.insert(5, finding);
        let checked = Checked::of(&state, volume, &record);
        assert!(!checked.alike());
        assert!(checked.differences[0].starts_with("MiB 5 differs: salon against bureau"), "{checked:?}");
    }
}
