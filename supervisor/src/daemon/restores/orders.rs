//! A person's orders about restores, as the home takes them.

use crate::api::{Refused, RestoreAsk};
use crate::daemon::Context;
use std::path::{Component, Path};
use thermidor_backup::restic::SnapshotId;
use thermidor_model::restore::{RestoreOrder, RestoreWish};
use thermidor_model::{Command, ServiceName, State};

impl Context {
    /// The command that an order means.
    pub fn restore_order(
        &self,
        state: &State,
        service: ServiceName,
        ask: RestoreAsk,
    ) -> Result<Command, Refused> {
        let order = match ask {
            RestoreAsk::Begin { wish } => RestoreOrder::Begin { wish: checked(state, &service, wish)? },
            RestoreAsk::Undo => RestoreOrder::Undo,
            RestoreAsk::Keep => RestoreOrder::Keep,
            RestoreAsk::Cancel => RestoreOrder::Cancel,
        };
        Ok(Command::Restore { service, order })
    }
}

/// A wish that can be understood: a friend that is known, a snapshot's name, a path in a volume of the service.
pub fn checked(state: &State, service: &ServiceName, mut wish: RestoreWish) -> Result<RestoreWish, Refused> {
    if let Some(friend) = &wish.from
        && !state.friends.get(friend).is_some_and(|f| f.is_confirmed())
    {
        return Err(Refused::because(format!("{friend} is no friend: `thermidor friend ls` lists them")));
    }
    if let Some(id) = wish.snapshot.as_deref().filter(|id| SnapshotId::new(id).is_none()) {
        return Err(Refused::because(format!(
            "`{id}` is no snapshot: give 8 to 64 of 0-9 and a-f, as `thermidor backup ls` shows them"
        )));
    }
    let Some(path) = wish.path.take() else { return Ok(wish) };
    let path = path.trim_matches('/');
    let plain =
        !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err(Refused::because(format!("`{path}` is no folder of a volume: give VOLUME/FOLDER")));
    }
    let volumes: Vec<&str> = state.volumes_of(service).map(|(name, _)| name.as_str()).collect();
    let first = path.split('/').next().unwrap_or_default();
    let named = volumes.contains(&first) && path.contains('/');
    wish.path = match (named, volumes.as_slice()) {
        (true, _) => Some(path.to_owned()),
        (false, [only]) => Some(format!("{only}/{path}")),
        (false, several) => {
            return Err(Refused::because(format!(
                "in which volume of {service} is `{path}`? Give VOLUME/FOLDER, of {}",
                several.join(", ")
            )));
        }
    };
    Ok(wish)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::{mail, serving_home};

    fn wish(path: &str) -> RestoreWish {
        RestoreWish { from: None, snapshot: None, as_of_s: None, path: Some(path.into()) }
    }

    #[test]
    fn a_path_is_one_of_a_volume_and_leads_nowhere_else() {
        let state = serving_home(3, 1);
        let path =
            |text: &str| checked(&state, &mail(), wish(text)).map(|w| w.path.unwrap()).map_err(|e| e.text);
        assert_eq!(path("box/marie"), Ok("box/marie".into()));
        assert_eq!(path("/box/marie/"), Ok("box/marie".into()));
        assert_eq!(path("marie/Maildir"), Ok("box/marie/Maildir".into()), "there is one volume only");
        for wrong in ["", "/", "box/../../etc", "..", "./marie"] {
            assert!(path(wrong).unwrap_err().contains("VOLUME/FOLDER"), "{wrong}");
        }
    }

    #[test]
    fn strangers_and_what_is_no_snapshot_are_named() {
        let state = serving_home(3, 1);
        let stranger = RestoreWish { from: Some("alice".parse().unwrap()), ..wish("box/x") };
        assert!(checked(&state, &mail(), stranger).unwrap_err().text.contains("alice is no friend"));
        let odd = RestoreWish { snapshot: Some("latest".into()), ..wish("box/x") };
        assert!(checked(&state, &mail(), odd).unwrap_err().text.contains("`latest` is no snapshot"));
    }
}
