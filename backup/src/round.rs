//! One subject at one friend's: what the vault shows is compared with what was left there, a snapshot is made, what the
//! vault lists then is signed, a part is read back. What comes of it is a `Record`, also where it went wrong.

use crate::kit::Kit;
use crate::restic::{
    Keep, Progress, Repository, Restic, ResticError, Restore, Secret, SnapshotId, Source, Watch,
};
use crate::schedule::passes;
use crate::stock::Stock;
use crate::vault::{Finding, Folder, Head, NotBelieved, Says, Signed, Statement, VERSION, Visit, VisitError};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::backup::{Failure, HeadMark, Passes, Record, Subject};
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
    /// The file in which this radiator keeps the retention challenges of this subject at this friend's.
    pub challenges: PathBuf,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// restic failed.
    #[error(transparent)]
    Restic(#[from] ResticError),
    /// The vault, asked beside restic, failed.
    #[error(transparent)]
    Visit(#[from] VisitError),
    /// No connection on this machine.
    #[error("the way to the friend is shut")]
    Shut(#[source] std::io::Error),
    /// The vault does not show what was left there. Nothing more is left there until a person has looked.
    #[error("the vault has lost something: {}; other friends' copies are not touched by that", said(.0))]
    Lost(Vec<Finding>),
    /// The kit gives no key.
    #[error("the recovery kit gives no key")]
    Kit,
    /// The head can't be signed.
    #[error(transparent)]
    Sign(#[from] NotBelieved),
    /// The file of the challenges.
    #[error("{0} can't be read or written: nothing is asked")]
    Stock(PathBuf, #[source] std::io::Error),
    /// No folder of the vault can be called so.
    #[error("no folder of a vault can be called `{0}`: give the service another name")]
    Folder(String),
}

fn said(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RoundError {
    /// How it passes.
    pub fn passes(&self) -> Passes {
        match self {
            Self::Restic(error) => passes(error),
            Self::Visit(VisitError::Refused { .. } | VisitError::Nonsense(_) | VisitError::Broken(_)) => {
                Passes::ByItself
            }
            Self::Visit(VisitError::Silent(_)) | Self::Shut(_) => Passes::ByItself,
            _ => Passes::ByAPerson,
        }
    }
}

/// What a restore that was tried came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drilled {
    /// Files, all of them compared with what the repository says of them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that lie in a Maildir: messages.
    pub messages: u64,
}

impl Round<'_> {
    /// The subject's repository in this vault, as of now or of a time in s since the Unix epoch.
    pub fn repository(&self, as_of: Option<u64>) -> Result<Repository, RoundError> {
        let key: Secret = self.kit.repository(&self.vault).map_err(|_| RoundError::Kit)?;
        let folder = self.folder()?;
        Ok(Repository { at: self.at, home: self.home.clone(), folder, password: None, key, as_of })
    }

    pub(crate) fn folder(&self) -> Result<Folder, RoundError> {
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
        close(record, was, done, now())
    }

    /// Reads a part of the last snapshot back, where that has failed before, and whole packs that are in doubt.
    pub async fn prove(&self, was: &Record, now: impl Fn() -> UnixMs) -> Record {
        let mut record = was.clone();
        let done = self.prove_whole(&mut record, now()).await;
        close(record, was, done, now())
    }

    /// Restores the last snapshot into an empty folder, each byte compared, and counts what is there.
    pub async fn drill(
        &self,
        dir: &Path,
        was: &Record,
        now: impl Fn() -> UnixMs,
    ) -> (Record, Option<Drilled>) {
        let mut record = was.clone();
        let done = self.try_restore(dir, was).await;
        let (done, drilled) = match done {
            Ok(drilled) => {
                record.drilled = Some(now());
                (Ok(()), Some(drilled))
            }
            Err(e) => (Err(e), None),
        };
        (close(record, was, done, now()), drilled)
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
        let forget = self.restic.forget(&repository, keep, at).await?;
        if let Some(forget) = forget {
            let mut visit = self.visit().await?;
            if !forget.holds(&visit.list(&folder, now()).await?) {
                return Ok(());
            }
            let known = self.known(&mut visit, &folder, record).await?.unwrap_or_default();
            let number = next(record.head.as_ref(), now());
            let says = Says::Delete(forget.blobs.clone());
            let announced = visit.announce(&self.signed(&folder, number, says)?).await;
            let expected = if announced.is_ok() { known.without(&forget.blobs) } else { known };
            // What was repacked is there in any case: the head is signed anew before anything is made of a refusal.
            let mark = HeadMark { number, hash: String::new() };
            let mark = self.sign_head(&folder, Some(&mark), &expected, now).await?;
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

    async fn make(
        &self,
        dir: &Path,
        taken: UnixMs,
        record: &mut Record,
        now: &impl Fn() -> UnixMs,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), RoundError> {
        let (repository, folder) = (self.repository(None)?, self.folder()?);
        let known = self.compare(&folder, record, now()).await?;
        let stock = match (&known, &record.head) {
            (Some(head), Some(mark)) => {
                let mut stock = self.stock();
                stock.reconcile(mark.number, head);
                stock
            }
            // A repository that begins: what was asked of one before it is of no use.
            _ => Stock::default(),
        };
        // Packs go by here while the home has them in hand: that is when it is drawn what will be asked.
        let watch = Watch::begin(&repository, stock).await?;
        let seen = watch.repository();
        let parent = record.snapshot.as_deref().and_then(SnapshotId::new);
        let source =
            Source { dir: dir.to_owned(), home: self.home.clone(), tag: self.subject.to_string(), parent };
        let made = match self.restic.backup(seen, &source, progress).await {
            Err(ResticError::Missing) if record.head.is_none() => {
                self.restic.init(&repository).await?;
                self.restic.backup(seen, &source, progress).await?
            }
            Err(ResticError::NoSnapshot) => {
                let source = Source { parent: None, ..source };
                self.restic.backup(seen, &source, progress).await?
            }
            made => made?,
        };
        record.made = Some(taken);
        record.snapshot = Some(made.snapshot.to_string());
        let known = known.unwrap_or_default();
        let mark = self.sign_head(&folder, record.head.as_ref(), &known, now).await?;
        let mut stock = watch.stock();
        stock.signed(mark.number);
        self.keep_stock(|there| *there = stock);
        record.head = Some(mark);
        Ok(())
    }

    pub(crate) async fn visit(&self) -> Result<Visit, RoundError> {
        let stream = TcpStream::connect(self.at).await.map_err(RoundError::Shut)?;
        Ok(Visit::begin(stream, self.home.clone(), self.vault.clone(), None, PATIENCE).await?)
    }

    /// Whether all that was there after the last backup is there still, and what was in doubt is whole; answers the head
    /// that was signed last.
    async fn compare(
        &self,
        folder: &Folder,
        record: &mut Record,
        now: UnixMs,
    ) -> Result<Option<Head>, RoundError> {
        let mut visit = self.visit().await?;
        let Some(known) = self.known(&mut visit, folder, record).await? else { return Ok(None) };
        none_lost(known.compare(&visit.list(folder, now).await?))?;
        self.look_again(&mut visit, folder, record, &known).await?;
        Ok(Some(known))
    }

    /// The head that was signed last, as the vault shows it and the home's own state confirms it.
    pub(crate) async fn known(
        &self,
        visit: &mut Visit,
        folder: &Folder,
        record: &Record,
    ) -> Result<Option<Head>, RoundError> {
        let Some(known) = &record.head else { return Ok(None) };
        let finding = match visit.head(folder, &self.kit.signer()?.public()).await? {
            None => Finding::HeadMissing,
            Some((shown, _)) if shown < known.number => Finding::HeadOlder { shown, known: known.number },
            Some((number, head)) if number > known.number || hash(&head)? != known.hash => {
                Finding::HeadOther(number)
            }
            Some((_, head)) => return Ok(Some(head)),
        };
        Err(RoundError::Lost(vec![finding]))
    }

    /// Signs what the vault lists. `expected` must be there: nothing that was not let go of is missing from a signed head.
    async fn sign_head(
        &self,
        folder: &Folder,
        known: Option<&HeadMark>,
        expected: &Head,
        now: &impl Fn() -> UnixMs,
    ) -> Result<HeadMark, RoundError> {
        let mut visit = self.visit().await?;
        let head = visit.list(folder, now()).await?;
        none_lost(expected.compare(&head))?;
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

    async fn prove_whole(&self, record: &mut Record, now: UnixMs) -> Result<(), RoundError> {
        if record.asked.as_ref().is_some_and(|asked| !asked.doubtful.is_empty()) {
            self.compare(&self.folder()?, record, now).await?;
        }
        self.read_back(record).await
    }

    async fn read_back(&self, record: &mut Record) -> Result<(), RoundError> {
        let watch = Watch::begin(&self.repository(None)?, self.stock()).await?;
        self.restic.check(watch.repository(), PROVE_MIB).await?;
        // Packs of any age were read and are what their names say.
        self.keep_stock(|there| *there = watch.stock());
        record.proven = record.made;
        Ok(())
    }

    async fn try_restore(&self, dir: &Path, was: &Record) -> Result<Drilled, RoundError> {
        let snapshot = was.snapshot.as_deref().and_then(SnapshotId::new);
        let snapshot = snapshot.ok_or(RoundError::Restic(ResticError::NoSnapshot))?;
        let restore = Restore { snapshot, target: dir.to_owned(), only: None, verify: true };
        self.restic.restore(&self.repository(None)?, &restore).await?;
        let place = dir.to_owned();
        let counted = tokio::task::spawn_blocking(move || count(&place)).await;
        let failed = |e| RoundError::Restic(ResticError::Io(dir.to_owned(), e));
        counted.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)
    }
}

/// The number of the next statement.
fn next(known: Option<&HeadMark>, now: UnixMs) -> u64 {
    known.map_or(0, |known| known.number + 1).max(now)
}

/// A record with what came of it: nothing good is forgotten for a failure, and a failure is over once all went well.
pub(crate) fn close(mut record: Record, was: &Record, done: Result<(), RoundError>, now: UnixMs) -> Record {
    record.failure = match done {
        // A doubt is over once the pack was seen whole, not for something else that went well.
        Ok(()) if record.asked.as_ref().is_some_and(|asked| !asked.doubtful.is_empty()) => {
            was.failure.clone()
        }
        Ok(()) => None,
        Err(error) => Some(Failure::next(was.failure.as_ref(), now, error.passes(), error.to_string())),
    };
    record
}

pub(crate) fn none_lost(findings: Vec<Finding>) -> Result<(), RoundError> {
    if findings.is_empty() { Ok(()) } else { Err(RoundError::Lost(findings)) }
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
        let holds_messages = folder.file_name().is_some_and(|name| name == "cur" || name == "new");
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.is_file() {
                drilled.files += 1;
                drilled.bytes += about.len();
                drilled.messages += u64::from(holds_messages);
            }
        }
    }
    Ok(drilled)
}
