//! One subject at one friend's: what the vault shows is compared with what was left there, a snapshot is made, what the
//! vault lists then is signed, a part is read back. What comes of it is a `Record`, also where it went wrong.

mod error;

pub use error::RoundError;

use crate::kit::Kit;
use crate::restic::{
    Backup, Keep, Progress, Repository, Restic, ResticError, Restore, Secret, SnapshotId, Source,
};
use crate::restore;
use crate::vault::{
    Finding, Folder, Head, Kind, Lack, NotBelieved, Says, Signed, Statement, VERSION, Visit, VisitError,
};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use thermidor_model::backup::{Failure, HeadMark, Record, Subject};
use thermidor_model::name::{HomeName, NodeId, UnixMs};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How much is read back after a backup, in MiB.
const PROVE_MIB: u32 = 32;
/// How long the vault may take for each answer beside restic's.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a head is numbered anew where another radiator has sent one meanwhile.
const NUMBERS_MAX: u32 = 3;

/// Who backs up what, and where the friend's vault is reached on this machine.
pub struct Round<'a> {
    /// The program.
    pub restic: &'a Restic,
    /// The loopback end of the way to the vault.
    pub at: SocketAddr,
    /// Keys.
    pub kit: &'a Kit,
    /// This home, as the friend knows it.
    pub home: HomeName,
    /// Its generation.
    pub generation: u64,
    /// Whose vault it is.
    pub vault: HomeName,
    /// What is backed up.
    pub subject: Subject,
}

/// What a restore aside brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drilled {
    /// Files, all of them compared with what the repository says of them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Round<'_> {
    /// The subject's repository in this vault, as of now or of a time in s since the Unix epoch.
    pub fn repository(&self, as_of: Option<u64>) -> Result<Repository, RoundError> {
        let key: Secret = self.kit.repository(&self.vault).map_err(|_| RoundError::Kit)?;
        let folder = self.folder()?;
        Ok(Repository { at: self.at, home: self.home.clone(), folder, password: None, key, as_of })
    }

    fn folder(&self) -> Result<Folder, RoundError> {
        let name = self.subject.as_str();
        Folder::new(name).ok_or_else(|| RoundError::Folder(name.to_owned()))
    }

    /// Backs a folder up that was frozen at `taken`, and proves it; `was` is what is known so far, `now` the clock.
    pub async fn back_up(
        &self,
        dir: &Path,
        taken: UnixMs,
        was: &Record,
        me: NodeId,
        now: impl Fn() -> UnixMs,
        progress: &watch::Sender<Progress>,
    ) -> Record {
        let mut record = was.clone();
        let done = self.make(dir, taken, &mut record, &now, progress).await;
        let done = match done {
            Ok(()) => {
                record.by = Some(me);
                self.read_back(&mut record).await
            }
            failed => failed,
        };
        close(record, was, self.explained(done).await, now())
    }

    /// Reads a part of the last snapshot back, after it was seen that the vault still shows it.
    pub async fn prove(&self, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = self.compare_and_read_back(&mut record, now()).await;
        close(record, was, self.explained(done).await, now())
    }

    /// An earlier state proves itself as well as the last one does: what was left there is compared first.
    async fn compare_and_read_back(&self, record: &mut Record, now: UnixMs) -> Result<(), RoundError> {
        self.compare(&self.folder()?, record, now).await?;
        self.read_back(record).await
    }

    /// restic is told by a number that there is no room; the vault says in which way.
    async fn explained(&self, done: Result<(), RoundError>) -> Result<(), RoundError> {
        let Err(RoundError::Restic(ResticError::NoRoom)) = done else { return done };
        let room = match self.visit().await {
            Ok(mut visit) => visit.room().await,
            Err(e) => return done.inspect_err(|_| tracing::debug!("nor can it be asked why: {e}")),
        };
        let vault = self.vault.clone();
        match room.map(|room| (room.lack(), room)) {
            Ok((Some(Lack::Quota), room)) => Err(RoundError::QuotaUsed { vault, room }),
            Ok((Some(Lack::Disk), room)) => Err(RoundError::DiskThere { vault, room }),
            Ok((None, _)) => done,
            Err(e) => done.inspect_err(|_| tracing::debug!("it does not say why: {e}")),
        }
    }

    /// Restores the last snapshot into an empty folder, each byte compared, and counts what is there. Refused before
    /// anything is brought if it does not fit into so many bytes.
    pub async fn restore_aside(&self, dir: &Path, free: u64, was: &Record) -> Result<Drilled, RoundError> {
        let snapshot = was.snapshot.as_deref().and_then(SnapshotId::new);
        let snapshot = snapshot.ok_or(RoundError::Restic(ResticError::NoSnapshot))?;
        let repository = self.repository(None)?;
        let measured = self.restic.measure(&repository, &snapshot, None).await?;
        restore::enough(&measured, free).map_err(RoundError::NoRoom)?;
        let wanted = Restore { snapshot, target: dir.to_owned(), only: None, verify: true };
        self.restic.restore(&repository, &wanted).await?;
        let place = dir.to_owned();
        let counted = tokio::task::spawn_blocking(move || count(&place)).await;
        let failed = |e| RoundError::Restic(ResticError::Io(dir.to_owned(), e));
        counted.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)
    }

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
            let number = next(record.head.as_ref(), now());
            let announced = visit.announce(&self.signed(&folder, number, Says::Delete(forget.blobs))?).await;
            // What was repacked is there in any case: the head is signed anew before anything is made of a refusal.
            let known = HeadMark { number, hash: String::new() };
            record.head = Some(self.sign_head(&folder, Some(&known), now).await?);
            announced?;
        }
        record.tidied = Some(now());
        Ok(())
    }

    async fn make(
        &self,
        dir: &Path,
        taken: UnixMs,
        record: &mut Record,
        now: &impl Fn() -> UnixMs,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), RoundError> {
        let (repository, folder) = (self.repository(None)?, self.folder()?);
        self.compare(&folder, record, now()).await?;
        let parent = record.snapshot.as_deref().and_then(SnapshotId::new);
        let source =
            Source { dir: dir.to_owned(), home: self.home.clone(), tag: self.subject.to_string(), parent };
        let made = match self.snapshot(&repository, &source, progress).await {
            Err(ResticError::Missing) if record.head.is_none() => {
                self.restic.init(&repository).await?;
                self.snapshot(&repository, &source, progress).await?
            }
            Err(ResticError::NoSnapshot) => {
                self.snapshot(&repository, &Source { parent: None, ..source }, progress).await?
            }
            made => made?,
        };
        record.made = Some(taken);
        record.snapshot = Some(made.snapshot.to_string());
        record.head = Some(self.sign_head(&folder, record.head.as_ref(), now).await?);
        Ok(())
    }

    /// Makes one. Locks that are in the way and of which nobody lives any more are removed: restic leaves them to whoever
    /// comes next, and never looks by itself how old they are.
    async fn snapshot(
        &self,
        repository: &Repository,
        source: &Source,
        progress: &watch::Sender<Progress>,
    ) -> Result<Backup, ResticError> {
        match self.restic.backup(repository, source, progress).await {
            Err(ResticError::Locked(_)) => {
                self.restic.unlock(repository).await?;
                self.restic.backup(repository, source, progress).await
            }
            made => made,
        }
    }

    async fn visit(&self) -> Result<Visit, RoundError> {
        let stream = TcpStream::connect(self.at).await.map_err(RoundError::Shut)?;
        Ok(Visit::begin(stream, self.home.clone(), self.vault.clone(), None, PATIENCE).await?)
    }

    /// Whether all that was there after the last backup is there still.
    async fn compare(&self, folder: &Folder, record: &Record, now: UnixMs) -> Result<(), RoundError> {
        let Some(known) = &record.head else { return Ok(()) };
        let key = self.kit.signer()?.public();
        let mut visit = self.visit().await?;
        let findings = match visit.head(folder, &key).await? {
            None => vec![Finding::HeadMissing],
            Some((shown, _)) if shown < known.number => {
                vec![Finding::HeadOlder { shown, known: known.number }]
            }
            Some((number, head)) if !is_ours(known, number, &head, record)? => {
                vec![Finding::HeadOther(number)]
            }
            Some((_, head)) => head.compare(&visit.list(folder, now).await?),
        };
        if findings.is_empty() {
            Ok(())
        } else {
            Err(RoundError::Lost { vault: self.vault.clone(), findings })
        }
    }

    async fn sign_head(
        &self,
        folder: &Folder,
        known: Option<&HeadMark>,
        now: &impl Fn() -> UnixMs,
    ) -> Result<HeadMark, RoundError> {
        let mut visit = self.visit().await?;
        let head = visit.list(folder, now()).await?;
        let hash = hash(&head)?;
        // Numbers rise for all that is said to this vault, whichever radiator says it: the clock's are as good as any.
        let mut number = next(known, now());
        for again in 1.. {
            let signed = self.signed(folder, number, Says::Head(head.clone()))?;
            match visit.send_head(folder, &signed).await {
                Ok(()) => break,
                Err(VisitError::Refused { .. }) if again < NUMBERS_MAX => {
                    visit = self.visit().await?;
                    number = (number + 1).max(now());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(HeadMark { number, hash })
    }

    fn signed(&self, folder: &Folder, number: u64, says: Says) -> Result<Signed, RoundError> {
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

    async fn read_back(&self, record: &mut Record) -> Result<(), RoundError> {
        let repository = self.repository(None)?;
        let checked = match self.restic.check(&repository, PROVE_MIB).await {
            Err(ResticError::Locked(_)) => {
                self.restic.unlock(&repository).await?;
                self.restic.check(&repository, PROVE_MIB).await
            }
            checked => checked,
        };
        checked?;
        record.proven = record.made;
        Ok(())
    }
}

/// The number of the next statement.
fn next(known: Option<&HeadMark>, now: UnixMs) -> u64 {
    known.map_or(0, |known| known.number + 1).max(now)
}

/// A record with what came of it: nothing good is forgotten for a failure, and a failure is over once all went well.
fn close(mut record: Record, was: &Record, done: Result<(), RoundError>, now: UnixMs) -> Record {
    record.failure = match done {
        Ok(()) => None,
        Err(error) => Some(Failure::next(was.failure.as_ref(), now, error.passes(), error.to_string())),
    };
    record
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

/// What lies below a folder. Blocks on the disk.
fn count(dir: &Path) -> std::io::Result<Drilled> {
    let mut drilled = Drilled::default();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.is_file() {
                drilled.files += 1;
                drilled.bytes += about.len();
            }
        }
    }
    Ok(drilled)
}
