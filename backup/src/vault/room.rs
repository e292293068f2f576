//! What room a friend has here: asked when something was refused for lack of it, since restic hears a number only.

use serde::{Deserialize, Serialize};

/// The most that restic sends at once, bytes: a pack as large as can be set.
const PACK_MAX: u64 = 128 << 20;

/// What room a friend has in a vault, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// What is lent.
    pub quota: u64,
    /// What is kept of that.
    pub used: u64,
    /// What is free on the disk under it.
    pub free: u64,
}

/// What is in the way of more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// No more is lent.
    Quota,
    /// The disk has no more.
    Disk,
}

impl Room {
    /// What refused the last upload, as far as that can be seen afterwards: whichever leaves less. `None`: there is
    /// room for whatever restic sends.
    pub fn lack(&self) -> Option<Lack> {
        let lent = self.quota.saturating_sub(self.used);
        match lent.min(self.free) {
            left if left > PACK_MAX => None,
            _ if self.free < lent => Some(Lack::Disk),
            _ => Some(Lack::Quota),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_less_is_in_the_way() {
        let mib = |quota: u64, used: u64, free: u64| Room {
            quota: quota << 20,
            used: used << 20,
            free: free << 20,
        };
        assert_eq!(mib(64, 60, 500).lack(), Some(Lack::Quota));
        assert_eq!(mib(2, 0, 500).lack(), Some(Lack::Quota), "one pack is more than is lent");
        assert_eq!(mib(64, 60, 1).lack(), Some(Lack::Disk));
        assert_eq!(mib(64, 70, 0).lack(), Some(Lack::Quota), "it was lowered below what is kept");
        assert_eq!(mib(1000, 0, 500).lack(), None, "something else was refused");
    }
}
