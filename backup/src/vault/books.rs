//! What a friend keeps here, in bytes, and whether more may come: counted while it streams in, so that many
//! uploads at once can't pass together what one could not. Decides only; nothing here touches a disk.

use super::path::View;

/// A place for locks beside the quota, in bytes: whoever is out of quota must still be able to restore.
pub const LOCKS_MAX: u64 = 1 << 20;

/// Why no more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The friend has used what was agreed.
    #[error("the quota of {quota} bytes is used up: {used} are kept, {coming} are on their way")]
    Quota {
        /// What was agreed.
        quota: u64,
        /// What is kept.
        used: u64,
        /// What is being sent.
        coming: u64,
    },
    /// Too many locks.
    #[error("locks may take {LOCKS_MAX} bytes: remove stale ones (`restic unlock`)")]
    Locks,
}

/// The bytes of one friend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Kept and shown.
    pub used: u64,
    /// On its way.
    pub coming: u64,
    /// Kept in locks.
    pub locks: u64,
    /// Of locks on their way.
    pub locks_coming: u64,
    /// Waiting for deletion.
    pub waiting: u64,
    /// The latest arrival, in ms since the Unix epoch.
    pub latest: u64,
}

impl Books {
    /// Takes note of what was found on disk.
    pub fn found(&mut self, size: u64, arrived: u64, is_lock: bool) {
        *if is_lock { &mut self.locks } else { &mut self.used } += size;
        if !is_lock {
            self.latest = self.latest.max(arrived);
        }
    }

    /// Makes room for bytes that are on their way.
    pub fn reserve(&mut self, bytes: u64, is_lock: bool, quota: u64) -> Result<(), Full> {
        if is_lock {
            if self.locks + self.locks_coming + bytes > LOCKS_MAX {
                return Err(Full::Locks);
            }
            self.locks_coming += bytes;
            return Ok(());
        }
        let wanted = self.used.saturating_add(self.coming).saturating_add(bytes);
        if wanted > quota {
            return Err(Full::Quota { quota, used: self.used, coming: self.coming.saturating_add(bytes) });
        }
        self.coming += bytes;
        Ok(())
    }

    /// What was on its way is kept, or was given up.
    pub fn settle(&mut self, bytes: u64, is_lock: bool, kept: bool) {
        let (coming, used) = if is_lock {
            (&mut self.locks_coming, &mut self.locks)
        } else {
            (&mut self.coming, &mut self.used)
        };
        *coming = coming.saturating_sub(bytes);
        if kept {
            *used += bytes;
        }
    }

    /// Something kept was removed.
    pub fn removed(&mut self, bytes: u64, is_lock: bool) {
        let used = if is_lock { &mut self.locks } else { &mut self.used };
        *used = used.saturating_sub(bytes);
    }

    /// Something kept waits for deletion from now on.
    pub fn hide(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.waiting += bytes;
    }

    /// Something that waited for deletion is kept after all.
    pub fn show(&mut self, bytes: u64) {
        self.waiting = self.waiting.saturating_sub(bytes);
        self.used += bytes;
    }

    /// The time of an arrival: always after the one before, whatever the clock does. So there is a view of the past
    /// between any two arrivals.
    pub fn arrival(&mut self, now: u64) -> u64 {
        self.latest = now.max(self.latest.saturating_add(1));
        self.latest
    }
}

/// Whether something that arrived at a time, and was perhaps announced for deletion at another, is part of what
/// is looked at. All in ms since the Unix epoch.
pub fn is_shown(arrived: u64, hidden: Option<u64>, view: View) -> bool {
    match view {
        View::Live => hidden.is_none(),
        View::AsOf(time) => arrived <= time && hidden.is_none_or(|hidden| time < hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_at_once_pass_no_quota_together() {
        let mut books = Books::default();
        books.found(40, 5, false);
        assert_eq!(books.reserve(30, false, 100), Ok(()));
        assert_eq!(books.reserve(30, false, 100), Ok(()));
        assert_eq!(books.reserve(1, false, 100), Err(Full::Quota { quota: 100, used: 40, coming: 61 }));
        books.settle(30, false, false);
        assert_eq!(books.reserve(30, false, 100), Ok(()));
        books.settle(30, false, true);
        books.settle(30, false, true);
        assert_eq!(books, Books { used: 100, latest: 5, ..Books::default() });
        assert!(books.reserve(u64::MAX, false, 100).is_err());
    }

    #[test]
    fn locks_have_a_place_when_the_quota_is_used_up() {
        let mut books = Books::default();
        books.found(100, 5, false);
        assert!(books.reserve(1, false, 100).is_err());
        assert_eq!(books.reserve(LOCKS_MAX, true, 100), Ok(()));
        assert_eq!(books.reserve(1, true, 100), Err(Full::Locks));
        books.settle(LOCKS_MAX, true, true);
        assert_eq!(books.reserve(1, true, 100), Err(Full::Locks));
        books.removed(LOCKS_MAX, true);
        assert_eq!(books.reserve(1, true, 100), Ok(()));
    }

    #[test]
    fn what_waits_for_deletion_leaves_the_quota() {
        let mut books = Books::default();
        books.found(100, 5, false);
        books.hide(60);
        assert_eq!((books.used, books.waiting), (40, 60));
        assert_eq!(books.reserve(60, false, 100), Ok(()));
        books.show(60);
        assert_eq!((books.used, books.waiting), (100, 0));
    }

    #[test]
    fn a_clock_set_back_makes_nothing_older() {
        let mut books = Books::default();
        assert_eq!(books.arrival(1000), 1000);
        assert_eq!(books.arrival(10), 1001);
        assert_eq!(books.arrival(1001), 1002);
        assert_eq!(books.arrival(5000), 5000);
    }

    #[test]
    fn a_view_shows_what_had_come_and_was_not_yet_hidden() {
        let cases = [
            (10, None, View::Live, true),
            (10, Some(20), View::Live, false),
            (10, None, View::AsOf(9), false),
            (10, None, View::AsOf(10), true),
            (10, Some(20), View::AsOf(19), true),
            (10, Some(20), View::AsOf(20), false),
            (10, Some(20), View::AsOf(9), false),
        ];
        for (arrived, hidden, view, shown) in cases {
            assert_eq!(is_shown(arrived, hidden, view), shown, "{arrived} {hidden:?} {view:?}");
        }
    }
}
