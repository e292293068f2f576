//! One subject at one friend's: what the vault shows is compared with what was left there, a snapshot is made, what the
//! vault lists then is signed, a part is read back. What comes of it is a `Record`, also where it went wrong.

mod aside;
mod error;
mod handover;
mod head;
mod tidy;

pub use aside::Drilled;
pub use error::RoundError;

use crate::kit::Kit;
use crate::restic::{Backup, Progress, Repository, Restic, ResticError, Secret, SnapshotId, Source, Watch};
use crate::stock::Stock;
use crate::vault::{Folder, Lack, Visit};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::backup::{Failure, Record, Subject};
use thermidor_model::name::{HomeName, NodeId, UnixMs};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How much is read back after a backup, in MiB.
const PROVE_MIB: u32 = 32;
/// How long the vault may take for each answer beside restic's.
const PATIENCE: Duration = Duration::from_secs(60);

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
        close(record, was, self.explained(done).await, now())
    }

    /// Reads a part of the last snapshot back, after it was seen that the vault still shows it, and whole packs that are
    /// in doubt.
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
        let made = match self.snapshot(seen, &source, progress).await {
            Err(ResticError::Missing) if record.head.is_none() => {
                self.restic.init(&repository).await?;
                self.snapshot(seen, &source, progress).await?
            }
            Err(ResticError::NoSnapshot) => {
                self.snapshot(seen, &Source { parent: None, ..source }, progress).await?
            }
            made => made?,
        };
        record.made = Some(taken);
        record.snapshot = Some(made.snapshot.to_string());
        let number = record.head.as_ref().map(|mark| mark.number);
        let mark = self.sign_head(&folder, number, &known.unwrap_or_default(), &[], now).await?;
        let mut stock = watch.stock();
        stock.signed(mark.number);
        self.keep_stock(|there| *there = stock);
        record.head = Some(mark);
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

    pub(crate) async fn visit(&self) -> Result<Visit, RoundError> {
        let stream = TcpStream::connect(self.at).await.map_err(RoundError::Shut)?;
        Ok(Visit::begin(stream, self.home.clone(), self.vault.clone(), None, PATIENCE).await?)
    }

    async fn read_back(&self, record: &mut Record) -> Result<(), RoundError> {
        let watch = Watch::begin(&self.repository(None)?, self.stock()).await?;
        let seen = watch.repository();
        let checked = match self.restic.check(seen, PROVE_MIB).await {
            Err(ResticError::Locked(_)) => {
                self.restic.unlock(seen).await?;
                self.restic.check(seen, PROVE_MIB).await
            }
            checked => checked,
        };
        checked?;
        // Packs of any age were read and are what their names say.
        self.keep_stock(|there| *there = watch.stock());
        record.proven = record.made;
        Ok(())
    }
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
