//! The activity log and the dirty-extent map as they lie on the disk: a bit per extent in each. Which
//! extents are in them, and when, is the protocol's decision.

use std::collections::BTreeSet;
use std::ops::Range;

/// The bits, as they are on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    bytes: Vec<u8>,
    extents: u64,
}

impl Marks {
    /// Marks over so many extents, as read from the disk; missing bytes are no marks.
    pub fn new(mut bytes: Vec<u8>, extents: u64) -> Self {
        bytes.resize(extents.div_ceil(8) as usize, 0);
        Self { bytes, extents }
    }

    /// Changes bits and answers which bytes are to be written; `None`: none changed.
    /// Extents outside of the device are left alone.
    pub fn change(&mut self, mark: &[u64], unmark: &[u64]) -> Option<Range<usize>> {
        let mut changed: Option<Range<usize>> = None;
        for (extents, set) in [(unmark, false), (mark, true)] {
            for extent in extents.iter().filter(|e| **e < self.extents) {
                let (at, bit) = ((extent / 8) as usize, 1 << (extent % 8));
                let Some(byte) = self.bytes.get_mut(at) else { continue };
                if (*byte & bit != 0) != set {
                    *byte ^= bit;
                    changed = Some(match changed {
                        Some(r) => r.start.min(at)..r.end.max(at + 1),
                        None => at..at + 1,
                    });
                }
            }
        }
        changed
    }

    /// Marks over more or fewer extents from now on; new ones have none.
    pub fn resize(&mut self, extents: u64) {
        // Bits beyond the end are of no extent.
        for beyond in self.extents.min(extents)..self.bytes.len() as u64 * 8 {
            if let Some(byte) = self.bytes.get_mut((beyond / 8) as usize) {
                *byte &= !(1 << (beyond % 8));
            }
        }
        self.extents = extents;
        self.bytes.resize(extents.div_ceil(8) as usize, 0);
    }

    /// All bytes, as they belong on the disk.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The marked extents.
    pub fn set(&self) -> BTreeSet<u64> {
        (0..self.extents)
            .filter(|e| self.bytes.get((e / 8) as usize).is_some_and(|b| b & (1 << (e % 8)) != 0))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_that_change_are_written() {
        let mut marks = Marks::new(vec![], 100);
        assert_eq!(marks.change(&[9, 30], &[]), Some(1..4));
        assert_eq!(marks.change(&[9], &[40]), None);
        assert_eq!(marks.change(&[10], &[9, 10]), Some(1..2));
        assert_eq!(marks.set(), BTreeSet::from([10, 30]));
        assert_eq!(marks.bytes()[..4], [0, 4, 0, 64]);
    }

    #[test]
    fn a_longer_device_has_no_new_marks() {
        let mut marks = Marks::new(vec![0xff], 5);
        marks.resize(20);
        assert_eq!(marks.set(), (0..5).collect());
        assert_eq!(marks.change(&[19], &[]), Some(2..3));
        marks.resize(3);
        assert_eq!(marks.change(&[19], &[]), None);
        marks.resize(20);
        assert_eq!(marks.set(), (0..3).collect(), "nothing of what was cut off");
    }

    #[test]
    fn marks_end_with_the_device() {
        let mut marks = Marks::new(vec![0xff; 2], 12);
        assert_eq!(marks.set().len(), 12);
        assert_eq!(marks.change(&[12, u64::MAX], &[12]), None);
    }
}
