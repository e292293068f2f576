//! What friends keep of a service, and which snapshot is meant.

use crate::daemon::Context;
use crate::daemon::way::Door;
use anyhow::{Context as _, bail};
use thermidor_backup::restic::{Repository, Restic, ResticError, Restore, Settings, Snapshot};
use thermidor_backup::schedule::{Passes, passes};
use thermidor_backup::vault::Folder;
use thermidor_model::name::{HomeName, UnixMs};
use thermidor_model::restore::RestoreWish;
use thermidor_model::{ServiceName, State};

/// A snapshot that was found, and the way to it.
pub struct Offer {
    /// Whose vault it is in.
    pub vault: HomeName,
    /// Which it is.
    pub snapshot: Snapshot,
    repository: Repository,
    door: Door,
    restic: Restic,
}

impl Context {
    /// Looks for what is wished: at the friend that is named, else at all of them for the newest. Snapshots made at
    /// `before` or later don't count: those of a home that has nothing yet would hold nothing. Each
    /// `purpose` has a cache of its own.
    pub(super) async fn find_offer(
        &self,
        state: &State,
        service: &ServiceName,
        wish: &RestoreWish,
        before: Option<UnixMs>,
        purpose: &str,
    ) -> anyhow::Result<Offer> {
        let friends: Vec<HomeName> = match &wish.from {
            Some(friend) => vec![friend.clone()],
            None => {
                let lenders = state.friends.iter().filter(|(_, friend)| friend.lends());
                lenders.map(|(name, _)| name.clone()).collect()
            }
        };
        if friends.is_empty() {
            bail!("this home has no friend who keeps anything: `thermidor friend ls` lists them");
        }
        let asked = friends.iter().map(|friend| self.ask_friend(service, friend, wish, before, purpose));
        let mut troubles = Vec::new();
        let mut best: Option<Offer> = None;
        for (friend, found) in friends.iter().zip(futures::future::join_all(asked).await) {
            match found {
                Ok(offer) if best.as_ref().is_none_or(|b| b.snapshot.time < offer.snapshot.time) => {
                    best = Some(offer)
                }
                Ok(_) => {}
                Err(e) => troubles.push(format!("{friend}: {e:#}")),
            }
        }
        best.with_context(|| format!("nothing of {service} can be had; {}", troubles.join("; ")))
    }

    async fn ask_friend(
        &self,
        service: &ServiceName,
        friend: &HomeName,
        wish: &RestoreWish,
        before: Option<UnixMs>,
        purpose: &str,
    ) -> anyhow::Result<Offer> {
        let door = self.door_to(friend).await?;
        let repository = Repository {
            at: door.at(),
            home: door.home.clone(),
            folder: Folder::new(service.as_str())
                .with_context(|| format!("{service} is no folder of a vault"))?,
            password: None,
            key: door.kit.repository(friend)?,
            as_of: wish.as_of_s,
        };
        // Its own for each: one that is ended in the middle leaves nobody else's cache half written.
        let cache = self.paths.data.join("restore").join(format!("{purpose}-{service}-{friend}"));
        std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let restic = Restic::find(Settings::new(cache)).await?;
        let snapshots = restic.snapshots(&repository).await;
        let snapshots = snapshots.map_err(|e| blame(&door, e))?;
        let snapshot = choose(snapshots, wish.snapshot.as_deref(), before);
        let snapshot = snapshot.with_context(|| match &wish.snapshot {
            Some(id) => format!("keeps no snapshot {id} of {service}: `thermidor backup ls` lists them"),
            None => format!("keeps no backup of {service}"),
        })?;
        Ok(Offer { vault: friend.clone(), snapshot, repository, door, restic })
    }
}

/// The newest that is meant.
fn choose(snapshots: Vec<Snapshot>, id: Option<&str>, before: Option<UnixMs>) -> Option<Snapshot> {
    let early =
        |s: &Snapshot| before.is_none_or(|b| s.time.as_millisecond() < i64::try_from(b).unwrap_or(i64::MAX));
    let meant = |s: &Snapshot| match id {
        Some(id) => s.id.as_str().starts_with(id),
        None => early(s),
    };
    snapshots.into_iter().filter(meant).max_by_key(|s| s.time)
}

impl Offer {
    /// How much is at a path of the snapshot.
    pub async fn measure(&self, path: &str) -> anyhow::Result<thermidor_backup::restic::Measured> {
        let measured = self.restic.measure(&self.repository, &self.snapshot.id, Some(path)).await;
        measured.map_err(|e| blame(&self.door, e))
    }

    /// Brings a path of the snapshot into a folder, and compares what was written.
    pub async fn bring(&self, path: &str, target: &std::path::Path) -> anyhow::Result<()> {
        let restore = Restore {
            snapshot: self.snapshot.id.clone(),
            target: target.to_owned(),
            only: Some(path.to_owned()),
            verify: true,
        };
        self.restic.restore(&self.repository, &restore).await.map_err(|e| blame(&self.door, e))
    }
}

/// What restic calls unreachable, in the words of whoever was dialled. A connection that broke has nothing to do with a
/// disk that is full.
fn blame(door: &Door, error: ResticError) -> anyhow::Error {
    let trouble = if passes(&error) == Passes::ByItself { door.trouble() } else { None };
    trouble.map_or_else(|| error.into(), anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, time: &str) -> Snapshot {
        serde_json::from_value(serde_json::json!({ "id": id.repeat(8), "time": time, "hostname": "maison" }))
            .unwrap()
    }

    #[test]
    fn the_newest_is_meant_unless_one_is_named_or_it_is_of_a_home_without_data() {
        let all = || {
            vec![
                snapshot("a", "2026-11-25T10:00:00Z"),
                snapshot("c", "2026-11-27T10:00:00+01:00"),
                snapshot("b", "2026-11-26T10:00:00Z"),
            ]
        };
        let id = |s: Option<Snapshot>| s.map(|s| s.id.as_str()[..1].to_owned());
        assert_eq!(id(choose(all(), None, None)), Some("c".into()));
        assert_eq!(id(choose(all(), Some("aaaaaaaa"), None)), Some("a".into()));
        assert_eq!(id(choose(all(), Some("0123abcd"), None)), None);
        let fire = "2026-11-26T20:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
        assert_eq!(id(choose(all(), None, Some(fire))), Some("b".into()));
        assert_eq!(
            id(choose(all(), Some("cccccccc"), Some(fire))),
            Some("c".into()),
            "a person may know better"
        );
        assert_eq!(id(choose(vec![], None, None)), None);
    }
}
