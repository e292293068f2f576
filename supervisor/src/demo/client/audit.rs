//! Whether everything that was acknowledged is there.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The outcome of an audit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// How many were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged and not there: lost.
    pub missing: Vec<String>,
    /// How many are there more than once; allowed, since an acknowledgement may be lost.
    pub duplicates: usize,
    /// How many are there in all, duplicates included.
    pub present: usize,
}

/// Compares what was acknowledged with what is there.
pub fn audit(acknowledged: &[String], present: &[String]) -> Audit {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for name in present {
        *times.entry(name).or_default() += 1;
    }
    Audit {
        acknowledged: acknowledged.len(),
        missing: acknowledged.iter().filter(|n| !times.contains_key(n.as_str())).cloned().collect(),
        duplicates: times.values().filter(|n| **n > 1).count(),
        present: present.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_duplicates_are_counted() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let found = audit(&names(&["a", "b", "c"]), &names(&["a", "a", "c", "never-acknowledged"]));
        assert_eq!(found.missing, ["b"]);
        assert_eq!((found.acknowledged, found.present, found.duplicates), (3, 4, 1));
    }
}
