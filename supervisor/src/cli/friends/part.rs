//! `friend rm`: what is lost by it on either side, and what becomes of what the other home kept here.

use super::super::apply::confirmed;
use super::super::show::{bytes, local_time, print_line};
use super::{friends, time};
use crate::api::friends::{FriendLine, FriendList, LeftLine};
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use thermidor_model::name::HomeName;

pub(super) fn main(paths: &Paths, home: &HomeName, delete_data: bool, yes: bool) -> Result<(), Refused> {
    let list = friends(paths, true)?;
    let parting = Parting::of(&list, home, delete_data)?;
    if !yes {
        for line in parting.lost(list.vault_trouble.as_deref()) {
            print_line(&line);
        }
        if !confirmed(parting.question())? {
            let flag = if delete_data { " --delete-data" } else { "" };
            return Err(Refused::because(format!(
                "nothing was changed; `thermidor friend rm {home}{flag} --yes` does it"
            )));
        }
    }
    client::ask(paths, &Request::RemoveFriend { home: home.clone(), delete_data })?;
    print_line(&parting.done());
    Ok(())
}

/// How `friend ls` shows a home that was removed.
pub(super) fn row(line: &LeftLine) -> [String; 7] {
    let state = if line.deleting {
        "removed; what it kept is being deleted".to_owned()
    } else {
        format!("removed; what it kept is still here: `thermidor friend rm {} --delete-data`", line.home)
    };
    let none = || "-".to_owned();
    [line.home.clone(), state, none(), line.used_bytes.map_or_else(none, bytes), none(), none(), none()]
}

/// Which home is parted with, and how.
enum Parting<'a> {
    Friend(&'a FriendLine, bool),
    /// No friend any more: only what it left is deleted.
    Left(&'a LeftLine),
}

impl<'a> Parting<'a> {
    fn of(list: &'a FriendList, home: &HomeName, delete_data: bool) -> Result<Self, Refused> {
        if let Some(line) = list.items.iter().find(|line| line.home == home.as_str()) {
            return Ok(Self::Friend(line, delete_data));
        }
        let unknown = || {
            let trouble = list.vault_trouble.as_deref().map(|why| format!("; {why}")).unwrap_or_default();
            Refused::because(format!("{home} is no friend: `thermidor friend ls` lists them{trouble}"))
        };
        let left = list.left.iter().find(|line| line.home == home.as_str()).ok_or_else(unknown)?;
        if !delete_data {
            return Err(Refused::because(format!(
                "{home} is no friend any more; what it kept here ({}) goes with `thermidor friend rm {home} --delete-data`",
                left.used_bytes.map_or_else(|| "the vault does not tell how much".into(), bytes)
            )));
        }
        Ok(Self::Left(left))
    }

    /// What can't be had back afterwards.
    fn lost(&self, vault_trouble: Option<&str>) -> Vec<String> {
        match self {
            Self::Friend(line, delete_data) => vec![ours(line), theirs(line, *delete_data, vault_trouble)],
            Self::Left(line) => {
                let much =
                    line.used_bytes.map_or_else(|| "What".to_owned(), |used| format!("{} that", bytes(used)));
                vec![format!("{much} {} kept here is deleted for good.", line.home)]
            }
        }
    }

    fn question(&self) -> &'static str {
        match self {
            Self::Friend(_, false) => "Be friends no longer?",
            Self::Friend(_, true) => "Be friends no longer, and delete that?",
            Self::Left(_) => "Delete it?",
        }
    }

    fn done(&self) -> String {
        let (home, deleted) = match self {
            Self::Friend(line, deleted) => (&line.home, *deleted),
            Self::Left(line) => (&line.home, true),
        };
        let mut text = match self {
            Self::Friend(..) => {
                format!("{home} is no friend any more. Take it out of every `backup: to:` in home.yaml.")
            }
            Self::Left(_) => String::new(),
        };
        if deleted {
            text.push_str(&format!(
                " The vault deletes what {home} kept; `thermidor friend ls` shows what is left of it."
            ));
        } else {
            text.push_str(&format!(
                " What it kept here, if anything, stays; `thermidor friend rm {home} --delete-data` deletes it."
            ));
        }
        text.trim_start().to_owned()
    }
}

fn ours(line: &FriendLine) -> String {
    match line.newest_there_ms {
        Some(at) => format!(
            "This home's backups at {}, the last of {}, can't be read or added to any more.",
            line.home,
            local_time(at)
        ),
        None => format!("This home has no backup at {}.", line.home),
    }
}

fn theirs(line: &FriendLine, delete_data: bool, vault_trouble: Option<&str>) -> String {
    let home = &line.home;
    let becomes = if delete_data {
        "it is deleted for good, and can't be had back by pairing again"
    } else {
        "it can't read it any more; it stays on this home's disks until you say --delete-data, and is found again if the two \
         pair anew"
    };
    match line.used_bytes {
        Some(0) => format!("{home} keeps nothing here."),
        Some(used) => {
            format!(
                "{home} keeps {} here (last backup {}): {becomes}.",
                bytes(used),
                time(line.newest_here_ms)
            )
        }
        None => {
            let why = vault_trouble.map(|why| format!(" ({why})")).unwrap_or_default();
            format!("What {home} keeps here, if anything, is not known{why}: {becomes}.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn friend(used_bytes: Option<u64>) -> FriendLine {
        FriendLine {
            home: "alice".into(),
            confirmed: true,
            generation: 1,
            used_bytes,
            ..FriendLine::default()
        }
    }

    fn list() -> FriendList {
        let left = |home: &str, used_bytes, deleting| LeftLine { home: home.into(), used_bytes, deleting };
        FriendList {
            items: vec![friend(Some(3 << 30))],
            invitation: None,
            vault_trouble: None,
            left: vec![left("bob", Some(2 << 30), false), left("carol", None, true)],
        }
    }

    fn home(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    #[test]
    fn what_becomes_of_a_friends_data_is_said_before_and_after() {
        let list = list();
        let kept = Parting::of(&list, &home("alice"), false).unwrap();
        let lost = kept.lost(None).join("\n");
        assert!(
            lost.contains("alice keeps 3.0 GiB here") && lost.contains("stays on this home's disks"),
            "{lost}"
        );
        assert!(
            kept.done().contains("`thermidor friend rm alice --delete-data` deletes it"),
            "{}",
            kept.done()
        );
        let deleted = Parting::of(&list, &home("alice"), true).unwrap();
        let lost = deleted.lost(None).join("\n");
        assert!(lost.contains("alice keeps 3.0 GiB here") && lost.contains("deleted for good"), "{lost}");
        assert_eq!(deleted.question(), "Be friends no longer, and delete that?");
        assert!(deleted.done().contains("The vault deletes what alice kept"), "{}", deleted.done());
        let unknown = theirs(&friend(None), true, Some("vault runs nowhere"));
        assert!(unknown.contains("not known (vault runs nowhere): it is deleted"), "{unknown}");
        assert_eq!(theirs(&friend(Some(0)), true, None), "alice keeps nothing here.");
    }

    #[test]
    fn one_that_was_removed_before_is_parted_with_only_by_deleting_what_it_left() {
        let list = list();
        let why = Parting::of(&list, &home("bob"), false).err().unwrap().text;
        assert!(why.contains("(2.0 GiB)") && why.contains("friend rm bob --delete-data"), "{why}");
        let left = Parting::of(&list, &home("bob"), true).unwrap();
        assert_eq!(left.lost(None), ["2.0 GiB that bob kept here is deleted for good."]);
        assert!(left.done().starts_with("The vault deletes what bob kept"), "{}", left.done());
        let why = Parting::of(&list, &home("dora"), true).err().unwrap().text;
        assert!(why.contains("dora is no friend"), "{why}");
        let rows: Vec<_> = list.left.iter().map(row).collect();
        assert!(rows[0][1].contains("friend rm bob --delete-data") && rows[0][3] == "2.0 GiB", "{rows:?}");
        assert_eq!(
            (rows[1][1].as_str(), rows[1][3].as_str()),
            ("removed; what it kept is being deleted", "-")
        );
    }
}
