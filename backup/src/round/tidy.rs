//! Old snapshots go: what that frees is announced to the vault by a signed list, and the head is signed anew.

use super::head::next;
use super::{Round, RoundError, close};
use crate::restic::{Keep, ResticError};
use crate::vault::Says;
use jiff::Timestamp;
use thermidor_model::backup::Record;
use thermidor_model::name::UnixMs;

impl Round<'_> {
    /// Forgets old snapshots: restic says which blobs that frees, the vault is told by a signed list, and deletes them once
    /// the agreed time has passed. Where somebody has made a snapshot meanwhile nothing is announced, and the next time
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
            let known = self.known(&mut visit, &folder, record).await?.unwrap_or_default();
            let number = next(record.head.as_ref().map(|mark| mark.number), now());
            let says = Says::Delete(forget.blobs.clone());
            let announced = visit.announce(&self.signed(&folder, number, says)?).await;
            let expected = if announced.is_ok() { known.without(&forget.blobs) } else { known };
            // What was repacked is there in any case: the head is signed anew before anything is made of a refusal.
            let mark = self.sign_head(&folder, Some(number), &expected, now).await?;
            let gone = if announced.is_ok() { &forget.blobs[..] } else { &[] };
            self.keep_stock(|stock| {
                stock.forget(gone);
                stock.signed(mark.number);
            });
            record.head = Some(mark);
            announced?;
        }
        record.tidied = Some(now());
        Ok(())
    }
}
