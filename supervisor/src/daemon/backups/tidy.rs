//! What this radiator alone keeps of friends that are none any more is thrown away: challenges that wait to be asked, and
//! what was noted here of pairs.

use super::Context;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use thermidor_model::name::HomeName;
use thermidor_model::state::State;

impl Context {
    /// Throws away what is of no friend. `tidied` is for whom that was done last: nothing is looked at again before there
    /// are other friends, or work has ended that may have left something.
    pub(super) fn tidy(&self, state: &State, tidied: &mut Option<BTreeSet<HomeName>>) {
        // A radiator that has not heard of its home yet knows of no friends.
        if state.home.is_none() {
            return;
        }
        let friends: BTreeSet<HomeName> = state.friends.keys().cloned().collect();
        if tidied.as_ref() == Some(&friends) {
            return;
        }
        {
            let mut inner = self.backups.lock();
            inner.ordered.retain(|(_, friend), _| friends.contains(friend));
            inner.ended.retain(|(_, friend), _| friends.contains(friend));
        }
        let folder = self.paths.data.join("backup").join("challenges");
        match forget_all_but(&folder, &friends) {
            Ok(()) => *tidied = Some(friends),
            Err(e) => tracing::warn!("challenges for removed friends are still there: {e}"),
        }
    }
}

/// Removes the folders of all that are not among `friends`.
fn forget_all_but(folder: &Path, friends: &BTreeSet<HomeName>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| HomeName::new(name).ok());
        if name.is_none_or(|name| !friends.contains(&name)) {
            tracing::info!("what {} was to be asked is thrown away: it is no friend", entry.path().display());
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::challenges;
    use super::*;
    use thermidor_model::backup::Subject;

    #[test]
    fn challenges_go_with_the_friend_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let home = |name: &str| HomeName::new(name).unwrap();
        let folder = dir.path().join("backup/challenges");
        forget_all_but(&folder, &BTreeSet::new()).unwrap();
        let files = ["alice", "bob"].map(|name| challenges(dir.path(), &Subject::HomeItself, &home(name)));
        for file in &files {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "{}").unwrap();
        }
        forget_all_but(&folder, &[home("alice"), home("carol")].into()).unwrap();
        assert!(files[0].exists() && !files[1].parent().unwrap().exists());
        forget_all_but(&folder, &BTreeSet::new()).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
