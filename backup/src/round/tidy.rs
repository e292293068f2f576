//! Old snapshots go: the head is signed anew without what that frees, which is announced to the vault by a signed list.

use super::head::next;
use super::{Round, RoundError, close};
use crate::restic::{Keep, ResticError};
use crate::vault::{BlobName, Kind, Says, Visit};
use jiff::Timestamp;
use thermidor_model::backup::Record;
use thermidor_model::name::UnixMs;

impl Round<'_> {
    /// Forgets old snapshots: restic says which blobs that frees, a head without them is signed, the vault is told by a signed
    /// list, and deletes them once the agreed time has passed. Where somebody has made a snapshot meanwhile nothing is announced, and the next time
    /// does it.
    pub async fn tidy(&self, keep: &Keep, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = self.forget(keep, &mut record, &now).await;
        close(record, was, done, now())
    }

    async fn forget(
        &self,
        keep: &Keep,
        record: &mut Record,
        now: &impl Fn() -> UnixMs,
    ) -> Result<(), RoundError> {
        let (repository, folder) = (self.repository(None)?, self.folder()?);
        let at = i64::try_from(now()).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let at = at.ok_or_else(|| ResticError::Unreadable("the clock".into()))?;
        let forget = match self.restic.forget(&repository, keep, at).await {
            Err(ResticError::Locked(_)) => {
                self.restic.unlock(&repository).await?;
                self.restic.forget(&repository, keep, at).await?
            }
            forget => forget?,
        };
        if let Some(forget) = forget {
            let mut visit = self.visit().await?;
            if !forget.holds(&visit.list(&folder, now()).await?) {
                return Ok(());
            }
            self.let_go(&mut visit, forget.blobs, record, now).await?;
        }
        record.tidied = Some(now());
        Ok(())
    }

    /// Signs the head without these blobs, then announces their deletion. The head goes first: whoever loses its power after
    /// it has left a vault that shows more than it must, not less.
    pub(super) async fn let_go(
        &self,
        visit: &mut Visit,
        blobs: Vec<(Kind, BlobName)>,
        record: &mut Record,
        now: &impl Fn() -> UnixMs,
    ) -> Result<(), RoundError> {
        let folder = self.folder()?;
        let known = self.known(visit, &folder, record).await?.unwrap_or_default();
        let last = record.head.as_ref().map(|mark| mark.number);
        let mark = self.sign_head(&folder, last, &known.without(&blobs), &blobs, now).await?;
        self.keep_stock(|stock| {
            stock.forget(&blobs);
            stock.signed(mark.number);
        });
        let number = next(Some(mark.number), now());
        record.head = Some(mark);
        let list = self.signed(&folder, number, Says::Delete(blobs))?;
        Ok(self.visit().await?.announce(&list).await?)
    }
}
