//! Between backups a vault is asked about random ranges of packs of any age. Each question is taken out of the stock before
//! it is put, so none is put twice; what is answered wrongly, or not at all, is in doubt until the pack was seen whole.

use crate::round::{Round, RoundError, close};
use crate::stock::Stock;
use crate::vault::{BlobName, Finding, Folder, Head, Kind, Outcome, Visit};
use std::collections::BTreeSet;
use thermidor_model::backup::{DOUBTS_MAX, Record};
use thermidor_model::name::UnixMs;

impl Round<'_> {
    /// Asks about some of what was left there; `was` is what is known so far, `now` the clock.
    pub async fn ask(&self, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = self.put_questions(&mut record, now()).await;
        close(record, was, done, now())
    }

    async fn put_questions(&self, record: &mut Record, now: UnixMs) -> Result<(), RoundError> {
        let Some(mark) = &record.head else { return Ok(()) };
        let folder = self.folder()?;
        let unusable = |e| RoundError::Stock(self.challenges.clone(), e);
        let mut stock = Stock::read(&self.challenges).map_err(unusable)?;
        let mut visit = self.visit().await?;
        let in_doubt = record.asked.as_ref().is_some_and(|asked| !asked.doubtful.is_empty());
        if stock.head() != mark.number || in_doubt {
            // Another radiator has signed since, and may have had packs deleted.
            let known = self.known(&mut visit, &folder, record).await?;
            if let (Some(head), Some(mark)) = (known, &record.head) {
                stock.reconcile(mark.number, &head);
                self.look_again(&mut visit, &folder, record, &head).await?;
            }
        }
        let mut taken = stock.take(&mut rand::rng()).into_iter();
        stock.write(&self.challenges).map_err(unusable)?;
        let (mut kept, mut wrong, mut broken) = (0, Vec::new(), None);
        for challenge in taken.by_ref() {
            match visit.challenge(&folder, &challenge).await {
                Ok(Outcome::Kept) => kept += 1,
                Ok(Outcome::Wrong(name)) => wrong.push((name, Finding::Changed(name))),
                Ok(Outcome::Unanswered(name, why)) => wrong.push((name, Finding::Withheld(name, why))),
                Err(e) => {
                    broken = Some(e);
                    break;
                }
            }
        }
        self.leave_out_let_go(&folder, record, &mut wrong).await;
        let asked = record.asked.get_or_insert_default();
        asked.ranges += kept + wrong.len() as u64;
        asked.kept += kept;
        for (name, _) in &wrong {
            if asked.doubtful.len() < DOUBTS_MAX {
                asked.doubtful.insert(name.to_string());
            }
        }
        let findings = wrong.into_iter().map(|(_, finding)| finding).collect();
        if let Some(e) = broken {
            // Nobody has seen the rest.
            stock.give_back(taken);
            stock.write(&self.challenges).map_err(unusable)?;
            self.none_lost(findings)?;
            return Err(e.into());
        }
        asked.at = now;
        self.none_lost(findings)
    }

    /// A radiator may have signed a head and died before it was noted: what that one let go of is not wrong. Looked at only
    /// where something is; a vault that shows no head of ours answers for all that it was asked.
    async fn leave_out_let_go(
        &self,
        folder: &Folder,
        record: &mut Record,
        wrong: &mut Vec<(BlobName, Finding)>,
    ) {
        if wrong.is_empty() {
            return;
        }
        let shown = async {
            let mut visit = self.visit().await?;
            self.known(&mut visit, folder, record).await
        };
        match shown.await {
            Ok(Some(head)) => {
                let there = head.blobs.get(&Kind::Data);
                wrong.retain(|(name, _)| there.is_some_and(|there| there.contains(name)));
            }
            Ok(None) => {}
            Err(error) => tracing::info!(vault = %self.vault, "nor does its head excuse it: {error}"),
        }
    }

    /// Reads packs that are in doubt to their ends, until one is not what its name says. What the home has had deleted
    /// since is in doubt no more.
    pub(crate) async fn look_again(
        &self,
        visit: &mut Visit,
        folder: &Folder,
        record: &mut Record,
        head: &Head,
    ) -> Result<(), RoundError> {
        let Some(asked) = &mut record.asked else { return Ok(()) };
        let none = BTreeSet::new();
        let there = head.blobs.get(&Kind::Data).unwrap_or(&none);
        asked.doubtful.retain(|text| BlobName::read(text).is_some_and(|name| there.contains(&name)));
        while let Some(name) = asked.doubtful.first().and_then(|text| BlobName::read(text)) {
            let finding = match visit.is_whole(folder, Kind::Data, name).await {
                Ok(true) => {
                    tracing::info!(vault = %self.vault, %name, "a pack that was in doubt is whole");
                    asked.doubtful.remove(&name.to_string());
                    continue;
                }
                Ok(false) => Finding::Changed(name),
                Err(e) if e.is_an_answer() => Finding::Withheld(name, e.to_string()),
                Err(e) => return Err(e.into()),
            };
            return Err(self.lost(vec![finding]));
        }
        Ok(())
    }

    /// The stock of challenges; where it can't be read, that is told, and it begins anew.
    pub(crate) fn stock(&self) -> Stock {
        Stock::read(&self.challenges).unwrap_or_else(|error| {
            tracing::warn!(path = %self.challenges.display(), %error, "no challenges can be read");
            Stock::default()
        })
    }

    /// Changes the stock. A backup that is made is made, whether its challenges can be kept or not.
    pub(crate) fn keep_stock(&self, change: impl FnOnce(&mut Stock)) {
        let mut stock = self.stock();
        change(&mut stock);
        if let Err(error) = stock.write(&self.challenges) {
            tracing::warn!(path = %self.challenges.display(), %error, "no challenges can be kept");
        }
    }
}
