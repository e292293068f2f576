//! The signed head of a repository: how the one that the vault shows is known again, and how the next is signed.

use super::{Round, RoundError};
use crate::vault::{
    BlobName, Finding, Folder, Head, HomeKey, Kind, NotBelieved, Says, Signed, Statement, VERSION, Visit,
    VisitError,
};
use thermidor_model::backup::{HeadMark, Record};
use thermidor_model::name::UnixMs;

/// How often a head is made anew where another radiator has sent one meanwhile.
const REFUSED_MAX: u32 = 2;

impl Round<'_> {
    /// Whether all that was there after the last backup is there still, and what was in doubt is whole; answers the head
    /// that was signed last.
    pub(super) async fn compare(
        &self,
        folder: &Folder,
        record: &mut Record,
        now: UnixMs,
    ) -> Result<Option<Head>, RoundError> {
        if record.head.is_none() {
            return Ok(None);
        }
        let mut visit = self.visit().await?;
        let Some(known) = self.known(&mut visit, folder, record).await? else { return Ok(None) };
        self.none_lost(known.compare(&visit.list(folder, now).await?))?;
        self.look_again(&mut visit, folder, record, &known).await?;
        Ok(Some(known))
    }

    /// The head that was signed last, as the vault shows it and the home's own state confirms it. A later one of ours is
    /// noted with all else: what is made after it may have no head for a while, and it is what holds good till then.
    pub(crate) async fn known(
        &self,
        visit: &mut Visit,
        folder: &Folder,
        record: &mut Record,
    ) -> Result<Option<Head>, RoundError> {
        self.known_by(visit, folder, record, &self.kit.signer()?.public()).await
    }

    /// The same, where it was signed with that key of the home's.
    pub(super) async fn known_by(
        &self,
        visit: &mut Visit,
        folder: &Folder,
        record: &mut Record,
        key: &HomeKey,
    ) -> Result<Option<Head>, RoundError> {
        let Some(noted) = &record.head else { return Ok(None) };
        let finding = match visit.head(folder, key).await? {
            None => Finding::HeadMissing,
            Some((shown, _)) if shown < noted.number => Finding::HeadOlder { shown, known: noted.number },
            Some((number, head)) if is_ours(noted, number, &head, record)? => {
                record.head = Some(HeadMark { number, hash: hash(&head)? });
                return Ok(Some(head));
            }
            Some((number, _)) => Finding::HeadOther(number),
        };
        Err(self.lost(vec![finding]))
    }

    /// Signs what the vault lists less what is let go of, under a number above `last`. `expected` must be there: nothing
    /// else is missing from a signed head.
    pub(super) async fn sign_head(
        &self,
        folder: &Folder,
        last: Option<u64>,
        expected: &Head,
        let_go: &[(Kind, BlobName)],
        now: &impl Fn() -> UnixMs,
    ) -> Result<HeadMark, RoundError> {
        // Numbers rise for all that is said to this vault, whichever radiator says it: the clock's are as good as any.
        let mut number = next(last, now());
        let mut refused = 0;
        loop {
            let mut visit = self.visit().await?;
            let head = visit.list(folder, now()).await?.without(let_go);
            self.none_lost(expected.compare(&head))?;
            let hash = hash(&head)?;
            let signed = self.signed(folder, number, Says::Head(head))?;
            match visit.send_head(folder, &signed).await {
                Ok(()) => return Ok(HeadMark { number, hash }),
                // Another radiator was faster, and may have brought something: it is looked at anew.
                Err(VisitError::Refused { .. }) if refused < REFUSED_MAX => {
                    refused += 1;
                    number = (number + 1).max(now());
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub(super) fn signed(&self, folder: &Folder, number: u64, says: Says) -> Result<Signed, RoundError> {
        Ok(self.kit.signer()?.sign(&Statement {
            version: VERSION,
            home: self.home.clone(),
            vault: self.vault.clone(),
            generation: self.generation,
            number,
            folder: folder.as_str().to_owned(),
            says,
        })?)
    }

    pub(crate) fn lost(&self, findings: Vec<Finding>) -> RoundError {
        RoundError::Lost { vault: self.vault.clone(), findings }
    }

    pub(crate) fn none_lost(&self, findings: Vec<Finding>) -> Result<(), RoundError> {
        if findings.is_empty() { Ok(()) } else { Err(self.lost(findings)) }
    }
}

/// The number of the next statement.
pub(super) fn next(last: Option<u64>, now: UnixMs) -> u64 {
    last.map_or(0, |last| last + 1).max(now)
}

/// Whether a head is one that this home may have left there: the last that it noted, or a later one that bears its key
/// too and holds the last snapshot that was noted. Such a one is left behind by a radiator that lost its power, or was
/// overtaken by another, between the signature and the note.
fn is_ours(known: &HeadMark, number: u64, head: &Head, record: &Record) -> Result<bool, NotBelieved> {
    if number == known.number {
        return Ok(hash(head)? == known.hash);
    }
    let snapshots = head.blobs.get(&Kind::Snapshots);
    let holds = |last: &String| {
        snapshots.is_some_and(|all| all.iter().any(|name| name.to_string().starts_with(last.as_str())))
    };
    Ok(record.snapshot.as_ref().is_none_or(holds))
}

fn hash(head: &Head) -> Result<String, NotBelieved> {
    // Maps and sets are written in their order, so that equal heads have one text.
    let text = serde_json::to_vec(head).map_err(|e| NotBelieved::Unreadable(e.to_string()))?;
    Ok(blake3::hash(&text).to_hex().to_string())
}
