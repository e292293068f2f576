//! A repository changes hands from one kit of the home to the next: the new one's password is added while the old one opens it,
//! the head is signed anew, and once the friend believes in the new kit every other key is let go of.

use super::{Round, RoundError, close};
use crate::kit::Kit;
use crate::restic::{Repository, ResticError};
use crate::vault::{BlobName, Head, Kind, VisitError};
use thermidor_model::backup::Record;
use thermidor_model::name::UnixMs;

impl Round<'_> {
    /// Has this round's kit open the repository that `before` opens. Says whether there is one.
    pub async fn admit(&self, before: &Kit) -> Result<bool, RoundError> {
        let repository = self.repository(None)?;
        match self.restic.keys(&repository).await {
            Ok(_) => return Ok(true),
            Err(ResticError::Missing) => return Ok(false),
            Err(ResticError::WrongPassword) => {}
            Err(e) => return Err(e.into()),
        }
        let opened = self.opened_by(before)?;
        match self.restic.add_key(&opened, &repository.key).await {
            Err(ResticError::Locked(_)) => {
                self.restic.unlock(&opened).await?;
                self.restic.add_key(&opened, &repository.key).await?;
            }
            added => added?,
        }
        // What opens nothing must not be relied on.
        self.restic.keys(&repository).await?;
        Ok(true)
    }

    /// Signs with this round's kit what `before` has signed last, and then lets go of every key but this kit's. What is
    /// missing is told as in any round. A vault that takes no list of deletions just now is no failure: the names stay
    /// in the record, and the next backup sends the list.
    pub async fn take_over(&self, before: &Kit, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = async {
            self.sign_again(before, &mut record, &now).await?;
            record.old_keys = self.other_keys(now()).await?.iter().map(ToString::to_string).collect();
            Ok(())
        };
        match done.await {
            // What failed before is no better for it: the next backup says so.
            Ok(()) => self.let_go_of_old_keys(&record, now).await,
            Err(error) => close(record, was, Err(error), now()),
        }
    }

    /// Announces the deletion of the keys that the record still names. One that the vault does not show any more is gone.
    pub async fn let_go_of_old_keys(&self, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        if was.old_keys.is_empty() {
            return was.clone();
        }
        let mut record = was.clone();
        if let Err(why) = self.announce_keys(&mut record, &now).await {
            tracing::warn!(subject = %self.subject, friend = %self.vault, "old keys are not let go of yet: {why}");
        }
        record
    }

    fn opened_by(&self, kit: &Kit) -> Result<Repository, RoundError> {
        let key = kit.repository(&self.vault).map_err(|_| RoundError::Kit)?;
        Ok(Repository { key, ..self.repository(None)? })
    }

    /// The head that the vault shows is the one noted, whichever of the two kits has signed it; from then on it bears this
    /// kit's signature.
    async fn sign_again(
        &self,
        before: &Kit,
        record: &mut Record,
        now: &impl Fn() -> UnixMs,
    ) -> Result<(), RoundError> {
        if record.head.is_none() {
            return Ok(());
        }
        let folder = self.folder()?;
        let mut visit = self.visit().await?;
        let known = match self.known(&mut visit, &folder, record).await {
            Ok(_) => return Ok(()),
            Err(RoundError::Visit(VisitError::Forged(_))) => {
                self.known_by(&mut visit, &folder, record, &before.signer()?.public()).await?
            }
            Err(e) => return Err(e),
        };
        let last = record.head.as_ref().map(|mark| mark.number);
        record.head = Some(self.sign_head(&folder, last, &known.unwrap_or_default(), &[], now).await?);
        Ok(())
    }

    /// Every key that the vault shows but the one which this round's kit opens.
    async fn other_keys(&self, now: UnixMs) -> Result<Vec<BlobName>, RoundError> {
        let keys = self.restic.keys(&self.repository(None)?).await?;
        let ours = keys.into_iter().find(|key| key.current).ok_or(RoundError::Kit)?;
        let listed = self.visit().await?.list(&self.folder()?, now).await?;
        Ok(keys_of(&listed).filter(|name| !ours.is(name)).copied().collect())
    }

    async fn announce_keys(&self, record: &mut Record, now: &impl Fn() -> UnixMs) -> Result<(), RoundError> {
        let mut visit = self.visit().await?;
        let listed = visit.list(&self.folder()?, now()).await?;
        let gone = keys_of(&listed).filter(|name| record.old_keys.contains(&name.to_string()));
        let gone: Vec<_> = gone.map(|name| (Kind::Keys, *name)).collect();
        if !gone.is_empty() {
            self.let_go(&mut visit, gone, record, now).await?;
        }
        record.old_keys.clear();
        Ok(())
    }
}

fn keys_of(listed: &Head) -> impl Iterator<Item = &BlobName> {
    listed.blobs.get(&Kind::Keys).into_iter().flatten()
}
