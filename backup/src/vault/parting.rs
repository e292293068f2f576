//! What homes kept here to which nothing is lent any more: it is counted, and deleted once a person has said so. First it
//! is moved out of the way by a rename, then removed file by file; a crash between is made up for at the next sweep.

use super::Vault;
use super::disk::{make_dir, sync_dir};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use thermidor_model::name::HomeName;

/// The folder of what is only to be removed any more: FRIEND.NUMBER.
const GONE: &str = "gone";

/// Why nothing of a home is deleted.
#[derive(Debug, thiserror::Error)]
pub enum NotParted {
    /// It is a friend.
    #[error("space is lent to this home: nothing of a friend's is deleted here")]
    Lent,
    /// The disk.
    #[error("what it kept can't be moved out of the way")]
    Io(#[from] io::Error),
}

impl Vault {
    /// Moves what a home kept out of the way, durably; from then on it is gone for everybody, and `sweep` gives its room
    /// back. Says whether there was anything. Refused where space is lent to it; blocks on the disk.
    pub fn part_with(&self, friend: &HomeName) -> Result<bool, NotParted> {
        // Nobody lends to it meanwhile.
        let spaces = self.0.spaces.write().unwrap_or_else(PoisonError::into_inner);
        if spaces.contains_key(friend) {
            return Err(NotParted::Lent);
        }
        let friends = self.0.root.join("friends");
        let kept = friends.join(friend.as_str());
        if !is_there(&kept)? {
            return Ok(false);
        }
        let gone = self.0.root.join(GONE);
        make_dir(&gone)?;
        let mut number = 0u64;
        let mut place = gone.join(format!("{friend}.{number}"));
        while is_there(&place)? {
            number += 1;
            place = gone.join(format!("{friend}.{number}"));
        }
        fs::rename(&kept, &place)?;
        sync_dir(&gone)?;
        sync_dir(&friends)?;
        Ok(true)
    }

    /// Removes some files of what was moved out of the way, `files` at most; says whether nothing is left of it. Blocks on
    /// the disk.
    pub fn sweep(&self, files: usize) -> io::Result<bool> {
        let gone = self.0.root.join(GONE);
        if !is_there(&gone)? {
            return Ok(true);
        }
        let mut left = files;
        for entry in fs::read_dir(&gone)? {
            if !remove_some(&entry?.path(), &mut left)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes that lie here of homes to which nothing is lent, being deleted or not. Looks at every file.
    pub fn left(&self) -> io::Result<BTreeMap<HomeName, u64>> {
        let mut left = BTreeMap::new();
        for folder in ["friends", GONE] {
            let entries = match fs::read_dir(self.0.root.join(folder)) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_str().and_then(|name| HomeName::new(name.split('.').next()?).ok());
                let Some(name) = name.filter(|name| folder == GONE || self.usage(name).is_none()) else {
                    continue;
                };
                *left.entry(name).or_default() += bytes_in(&entry.path())?;
            }
        }
        Ok(left)
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes what lies there as long as there are `files` left to be removed; says whether all of it is gone. Follows no
/// link.
fn remove_some(path: &Path, files: &mut usize) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_dir() {
        if *files == 0 {
            return Ok(false);
        }
        *files -= 1;
        return fs::remove_file(path).map(|()| true);
    }
    for entry in fs::read_dir(path)? {
        if !remove_some(&entry?.path(), files)? {
            return Ok(false);
        }
    }
    fs::remove_dir(path).map(|()| true)
}

/// Bytes of all files below; what goes meanwhile counts for nothing.
fn bytes_in(path: &Path) -> io::Result<u64> {
    let passed = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(e) };
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(e) => return passed(e),
    };
    if !about.is_dir() {
        return Ok(about.len());
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) => return passed(e),
    };
    let mut bytes = 0;
    for entry in entries {
        bytes += bytes_in(&entry?.path())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Terms};
    use super::*;
    use std::path::PathBuf;

    fn home(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    fn open(root: &Path) -> Vault {
        Vault::open(root, Settings::new(home("alice"))).unwrap()
    }

    /// Seven files of three bytes each, as if bob had left them.
    fn keep(vault: &Vault, root: &Path) -> PathBuf {
        vault.lend(&home("bob"), Terms::new(1 << 20)).unwrap();
        let data = fill(root);
        vault.close(&home("bob"));
        data
    }

    fn fill(root: &Path) -> PathBuf {
        let data = root.join("friends/bob/repo/data");
        fs::create_dir_all(data.join("00")).unwrap();
        for n in 0..7 {
            fs::write(data.join("00").join(n.to_string()), "abc").unwrap();
        }
        data
    }

    fn left(vault: &Vault) -> Vec<(String, u64)> {
        vault.left().unwrap().into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect()
    }

    #[test]
    fn what_a_home_kept_is_counted_until_it_is_deleted_and_deleted_only_by_order() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        assert_eq!(left(&vault), []);
        let data = keep(&vault, dir.path());
        assert_eq!(left(&vault), [("bob".into(), 21)]);
        assert!(vault.sweep(100).unwrap() && data.join("00/3").exists(), "nobody has ordered it");
        assert!(vault.part_with(&home("bob")).unwrap());
        assert!(!dir.path().join("friends/bob").exists());
        assert_eq!(left(&vault), [("bob".into(), 21)], "it takes room until it is swept");
        assert!(!vault.part_with(&home("bob")).unwrap(), "there is nothing any more");
        assert!(vault.sweep(100).unwrap());
        assert_eq!(left(&vault), []);
    }

    #[test]
    fn nothing_of_a_friend_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        vault.lend(&home("bob"), Terms::new(1 << 20)).unwrap();
        let data = fill(dir.path());
        assert!(matches!(vault.part_with(&home("bob")), Err(NotParted::Lent)));
        assert!(data.join("00/3").exists());
        assert_eq!(left(&vault), []);
    }

    #[test]
    fn a_deletion_that_a_crash_broke_off_anywhere_is_finished_by_the_next() {
        // 0 files and more until nothing is left: each is a crash there.
        for files in 0..=7 {
            let dir = tempfile::tempdir().unwrap();
            let vault = open(dir.path());
            keep(&vault, dir.path());
            assert!(vault.part_with(&home("bob")).unwrap());
            assert_eq!(vault.sweep(files).unwrap(), files == 7, "{files}");
            assert_eq!(left(&vault).iter().map(|(_, bytes)| bytes).sum::<u64>(), 21 - 3 * files as u64);
            drop(vault);
            let vault = open(dir.path());
            // The same home is back meanwhile, and is parted with again.
            keep(&vault, dir.path());
            assert!(vault.sweep(100).unwrap());
            assert_eq!(left(&vault), [("bob".into(), 21)], "what is new is not touched");
            assert!(vault.part_with(&home("bob")).unwrap() && vault.sweep(100).unwrap());
            assert_eq!(left(&vault), []);
        }
    }

    #[test]
    fn the_same_home_parted_with_twice_before_a_sweep_goes_twice() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        for _ in 0..2 {
            keep(&vault, dir.path());
            assert!(vault.part_with(&home("bob")).unwrap());
        }
        assert_eq!(left(&vault), [("bob".into(), 42)]);
        assert!(vault.sweep(100).unwrap());
        assert_eq!(left(&vault), []);
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        let data = keep(&vault, dir.path());
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("mine"), "x").unwrap();
        std::os::unix::fs::symlink(&elsewhere, data.join("link")).unwrap();
        assert!(vault.part_with(&home("bob")).unwrap() && vault.sweep(100).unwrap());
        assert!(elsewhere.join("mine").exists());
    }
}
