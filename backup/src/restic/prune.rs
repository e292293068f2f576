//! What may be forgotten, and which blobs of the vault that frees. Nothing is deleted here: the vault does that, after a
//! signed list and its time.

use super::Restic;
use super::child::Heard;
use super::overlay::Overlay;
use super::repository::Repository;
use super::said::{self, Snapshot, SnapshotId};
use super::trouble::ResticError;
use crate::vault::{BlobName, Head, Kind};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::ffi::OsString;

/// What is kept. Counted in days before the newest snapshot, never in snapshots: whoever forges some can't push others
/// out. 0 is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// All of the last so many days.
    pub all_days: u32,
    /// One a day of the last so many days.
    pub daily_days: u32,
    /// One a week of the last so many days.
    pub weekly_days: u32,
    /// One a month of the last so many days.
    pub monthly_days: u32,
}

impl Default for Keep {
    /// Everything for two days, then one a day for a month, one a week for a quarter, one a month for two years.
    fn default() -> Self {
        Self { all_days: 2, daily_days: 31, weekly_days: 92, monthly_days: 731 }
    }
}

/// A clock of another radiator may be ahead by this much.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);
/// How much of a pack may be of no use before what is of use is sent again, for all packs together.
const UNUSED_MAX: &str = "10%";

/// What can be deleted, to be signed and announced. It holds until somebody makes another snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// The snapshots that go.
    pub snapshots: BTreeSet<SnapshotId>,
    /// All that goes, those snapshots among it.
    pub blobs: Vec<(Kind, BlobName)>,
    /// Snapshots that were there when it was computed.
    known: BTreeSet<BlobName>,
}

impl Forget {
    /// Whether it still holds by what the vault lists now. A later snapshot may need what this would delete: whatever is
    /// computed must then be computed again.
    pub fn holds(&self, listed: &Head) -> bool {
        listed.blobs.get(&Kind::Snapshots).is_none_or(|now| now.is_subset(&self.known))
    }
}

impl Restic {
    /// Which snapshots would go, at a time by this home's clock. Changes nothing.
    pub async fn would_forget(
        &self,
        repository: &Repository,
        keep: &Keep,
        now: Timestamp,
    ) -> Result<Vec<Snapshot>, ResticError> {
        let soon = now.checked_add(AHEAD_MAX).map_err(|e| ResticError::Unreadable(e.to_string()))?;
        if let Some(forged) = self.snapshots(repository).await?.iter().find(|s| s.time > soon) {
            return Err(ResticError::Future(forged.id.to_string()));
        }
        let mut arguments =
            ["forget", "--dry-run", "--json", "--group-by=host,tags"].map(OsString::from).to_vec();
        let terms = [
            ("", keep.all_days),
            ("-daily", keep.daily_days),
            ("-weekly", keep.weekly_days),
            ("-monthly", keep.monthly_days),
        ];
        if terms.iter().all(|(_, days)| *days == 0) {
            return Ok(Vec::new());
        }
        for (which, days) in terms.iter().filter(|(_, days)| *days > 0) {
            arguments.push(format!("--keep-within{which}={days}d").into());
        }
        let ended = self.run(repository, arguments, None, |_| Heard::Kept).await?;
        said::forgotten(&ended.good(repository)?)
    }

    /// Computes what can be deleted: restic prunes a repository whose deletions are only noted. Packs of which a part is
    /// of use are packed again and sent. Nobody may back up to this repository until the list has been announced.
    pub async fn forget(
        &self,
        repository: &Repository,
        keep: &Keep,
        now: Timestamp,
    ) -> Result<Option<Forget>, ResticError> {
        let going = self.would_forget(repository, keep, now).await?;
        if going.is_empty() {
            return Ok(None);
        }
        let known = self.snapshots(repository).await?;
        let overlay = Overlay::lay(repository).await;
        let overlay = overlay.map_err(|e| ResticError::Io("the loopback interface".into(), e))?;
        let mut arguments: Vec<OsString> = vec!["forget".into(), "--prune".into()];
        arguments.push(format!("--max-unused={UNUSED_MAX}").into());
        if let Some(kib) = self.settings.up_kib {
            arguments.push(format!("--limit-upload={kib}").into());
        }
        arguments.extend(going.iter().map(|s| s.id.as_str().into()));
        let ended = self.run(&overlay.repository, arguments, None, |_| Heard::Kept).await?;
        ended.good(&overlay.repository)?;
        let name = |s: &Snapshot| {
            BlobName::read(s.id.as_str()).ok_or_else(|| ResticError::Unreadable(format!("snapshot {}", s.id)))
        };
        let blobs: Vec<_> = overlay.deleted().into_iter().collect();
        let expected = going.iter().map(name).collect::<Result<BTreeSet<_>, _>>()?;
        let noted =
            blobs.iter().filter(|(kind, _)| *kind == Kind::Snapshots).map(|(_, name)| *name).collect();
        if expected != noted {
            return Err(ResticError::Unreadable("it forgot other snapshots than it was told to".into()));
        }
        let known = known.iter().map(name).collect::<Result<_, _>>()?;
        Ok(Some(Forget { snapshots: going.into_iter().map(|s| s.id).collect(), blobs, known }))
    }
}
