//! Between backups a vault is asked about random ranges of packs of any age. Each question is taken out of the stock before
//! it is put, so none is put twice; what is answered wrongly, or not at all, is in doubt until the pack was seen whole.

use crate::round::{Round, RoundError, close, none_lost};
use crate::stock::Stock;
use crate::vault::{BlobName, Finding, Folder, Head, Kind, Outcome, Visit};
use std::collections::BTreeSet;
use thermidor_model::backup::{Asked, DOUBTS_MAX, Record};
use thermidor_model::name::UnixMs;

impl Round<'_> {
    /// Asks about some of what was left there; `was` is what is known so far, `now` the clock.
    pub async fn ask(&self, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = self.put_questions(&mut record, now()).await;
        close(record, was, done, now())
    }

    async fn put_questions(&self, record: &mut Record, now: UnixMs) -> Result<(), RoundError> {
        let Some(mark) = record.head.clone() else { return Ok(()) };
        let folder = self.folder()?;
        let unusable = |e| RoundError::Stock(self.challenges.clone(), e);
        let mut stock = Stock::read(&self.challenges).map_err(unusable)?;
        let mut visit = self.visit().await?;
        let in_doubt = record.asked.as_ref().is_some_and(|asked| !asked.doubtful.is_empty());
        if stock.head() != mark.number || in_doubt {
            // Another radiator has signed since, and may have had packs deleted.
            if let Some(head) = self.known(&mut visit, &folder, record).await? {
                stock.reconcile(mark.number, &head);
                self.look_again(&mut visit, &folder, record, &head).await?;
            }
        }
        let mut taken = stock.take(&mut rand::rng()).into_iter();
        stock.write(&self.challenges).map_err(unusable)?;
        let asked = record.asked.get_or_insert_default();
        let mut findings = Vec::new();
        while let Some(challenge) = taken.next() {
            let outcome = match visit.challenge(&folder, &challenge).await {
                Ok(outcome) => outcome,
                Err(e) => {
                    // Nobody has seen the rest.
                    stock.give_back(taken);
                    stock.write(&self.challenges).map_err(unusable)?;
                    none_lost(findings)?;
                    return Err(e.into());
                }
            };
            asked.ranges += 1;
            match outcome {
                Outcome::Kept => asked.kept += 1,
                Outcome::Wrong(name) => doubt(asked, name, Finding::Changed(name), &mut findings),
                Outcome::Unanswered(name, why) => {
                    doubt(asked, name, Finding::Withheld(name, why), &mut findings);
                }
            }
        }
        asked.at = now;
        none_lost(findings)
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
            return Err(RoundError::Lost(vec![finding]));
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

fn doubt(asked: &mut Asked, name: BlobName, finding: Finding, findings: &mut Vec<Finding>) {
    if asked.doubtful.len() < DOUBTS_MAX {
        asked.doubtful.insert(name.to_string());
    }
    findings.push(finding);
}
