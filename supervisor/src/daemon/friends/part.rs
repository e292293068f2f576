//! Homes that are no friends any more: what they left in the vault is told, and deleted by order.

use super::super::Context;
use super::vault_of;
use crate::api::Refused;
use crate::api::friends::LeftLine;
use std::collections::{BTreeMap, BTreeSet};
use thermidor_backup::vault_process::Status;
use thermidor_model::Command;
use thermidor_model::name::HomeName;
use thermidor_model::state::State;

impl Context {
    /// The command that parts with a home. One that is no friend must have left something, as far as the vault tells:
    /// a name that was mistyped deletes nothing later.
    pub(in crate::daemon) async fn part_with(
        &self,
        state: &State,
        home: HomeName,
        delete_data: bool,
    ) -> Result<Command, Refused> {
        if state.friends.contains_key(&home) || !delete_data {
            // Where nothing is lent there is nothing to delete, now or later.
            let delete_data = delete_data && vault_of(state).is_some();
            return Ok(Command::RemoveFriend { home, delete_data });
        }
        match self.vault_status(state).await {
            Some(Ok(status)) => {
                known_to(&status, &home).map_err(Refused::because)?;
                Ok(Command::RemoveFriend { home, delete_data })
            }
            Some(Err(why)) => Err(Refused::because(format!(
                "{home} is no friend, and whether it left anything here is not known: {why}"
            ))),
            None => Err(Refused::because(format!("{home} is no friend, and this home has no vault"))),
        }
    }
}

/// Whether a home that is no friend left anything in the vault; `Err` says what else.
fn known_to(status: &Status, home: &HomeName) -> Result<(), String> {
    match &status.left {
        Some(left) if left.contains_key(home) => Ok(()),
        Some(_) => {
            Err(format!("{home} is no friend and left nothing here: `thermidor friend ls` shows who did"))
        }
        None => Err(
            "the vault counts what removed friends kept, or is of an earlier version: try again in a moment"
                .into(),
        ),
    }
}

/// What removed friends left, as the vault tells; of those that are to be deleted it is told also while it is silent.
pub(super) fn left(state: &State, status: Option<&Status>) -> Vec<LeftLine> {
    let told: BTreeMap<&HomeName, u64> = status
        .and_then(|status| status.left.as_ref())
        .map(|left| left.iter().map(|(home, bytes)| (home, *bytes)).collect())
        .unwrap_or_default();
    let counted = status.is_some_and(|status| status.left.is_some());
    let ordered = state.parted.keys().filter(|_| !counted && vault_of(state).is_some());
    let homes: BTreeSet<&HomeName> = told.keys().copied().chain(ordered).collect();
    let line = |home: &HomeName| LeftLine {
        home: home.to_string(),
        used_bytes: told.get(home).copied(),
        deleting: state.parted.contains_key(home),
    };
    homes.into_iter().filter(|home| !lent(state, home)).map(line).collect()
}

fn lent(state: &State, home: &HomeName) -> bool {
    state.friends.get(home).is_some_and(|friend| friend.is_confirmed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    fn status(left: Option<&[(&str, u64)]>) -> Status {
        let left = left.map(|left| left.iter().map(|(name, bytes)| (home(name), *bytes)).collect());
        Status { version: Status::VERSION, friends: BTreeMap::new(), left }
    }

    #[test]
    fn what_is_left_is_told_and_whether_it_is_being_deleted() {
        let mut state = State::default();
        state.parted.insert(home("bob"), 5);
        let line = |name: &str, used_bytes, deleting| LeftLine { home: name.into(), used_bytes, deleting };
        let told = status(Some(&[("alice", 3), ("bob", 4)]));
        assert_eq!(left(&state, Some(&told)), [line("alice", Some(3), false), line("bob", Some(4), true)]);
        assert_eq!(left(&state, Some(&status(Some(&[])))), [], "the vault has deleted it");
        // Without a vault nothing was ever kept.
        assert_eq!(left(&state, None), []);
    }

    #[test]
    fn only_what_was_left_here_is_deleted_of_one_that_is_no_friend() {
        let told = status(Some(&[("alice", 0)]));
        assert_eq!(known_to(&told, &home("alice")), Ok(()));
        assert!(known_to(&told, &home("alcie")).unwrap_err().contains("left nothing here"));
        assert!(known_to(&status(None), &home("alice")).unwrap_err().contains("try again"));
    }
}
