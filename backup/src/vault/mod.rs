//! The vault: restic's REST protocol over folders that are lent to friends. One listener's connections are handed to
//! `Vault::serve`, with what the transport knows about who calls.

mod blob;
mod books;
mod caller;
mod challenge;
mod disk;
mod head;
mod hours;
mod incoming;
mod not_taken;
mod outgoing;
mod parting;
pub(crate) mod path;
mod patience;
mod refusal;
mod room;
mod server;
mod signed;
mod space;
mod statements;
mod terms;
mod visit;
mod waiting;

pub use blob::{BlobName, Kind};
pub use books::{Full, LOCKS_MAX};
pub use caller::Caller;
pub(crate) use challenge::Drawing;
pub use challenge::{Answer, Challenge, Outcome, Question, RANGE_MAX};
pub use head::{Finding, Head, compare_heads};
pub use hours::{Hours, Window};
pub use not_taken::NotTaken;
pub use parting::NotParted;
pub use path::Folder;
pub use room::{Lack, Room};
pub use signed::{HomeKey, NotBelieved, Says, Signed, Signer, Statement, VERSION};
pub use terms::{Password, Terms};
pub use visit::{Visit, VisitError};
pub use waiting::{LIST_MAX, List};

use crate::kit_change::NewKeys;
use hours::Bucket;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::tz::TimeZone;
use patience::Patient;
use rustix::fs::FlockOperation;
use space::Space;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thermidor_model::name::HomeName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Connections of callers not known yet that are served at once; more wait.
const CONNECTIONS_MAX: usize = 256;
/// What a connection may buffer of a head or a body, in bytes.
const BUFFER_MAX: usize = 64 << 10;
/// How long a connection may be idle. restic's own clients give up theirs after 90 s.
const IDLE: Duration = Duration::from_secs(120);

/// Tells a time in ms; that of the day counts from the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a vault is run.
#[derive(Clone)]
pub struct Settings {
    /// The home whose vault it is: what friends sign names it.
    pub name: HomeName,
    /// How long nothing may come of a body, and nothing be taken of an answer.
    pub silence: Duration,
    /// Bytes a second that all friends together may send; `None` is without limit.
    pub up: Option<u64>,
    /// The time.
    pub clock: Clock,
    /// Time that passes, in ms from whenever: nobody sets this one.
    pub uptime: Clock,
    /// Where the agreed hours are meant.
    pub zone: TimeZone,
}

impl Settings {
    /// The system's clock and zone, a minute of silence, no limit.
    pub fn new(name: HomeName) -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_millis() as u64);
        let begun = Instant::now();
        Self {
            name,
            silence: Duration::from_secs(60),
            up: None,
            clock: Arc::new(now),
            uptime: Arc::new(move || begun.elapsed().as_millis() as u64),
            zone: TimeZone::system(),
        }
    }
}

/// Why a vault can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is served by another process")]
    Taken(PathBuf),
    /// The folder can't be used.
    #[error("{0} can't be used")]
    Io(PathBuf, #[source] io::Error),
}

/// What a friend keeps here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes kept.
    pub used: u64,
    /// Bytes agreed.
    pub quota: u64,
    /// Bytes that wait for deletion.
    pub waiting: u64,
    /// When the newest snapshot came, in ms since the Unix epoch.
    pub newest: Option<u64>,
}

/// Another kit that a friend says to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KitSaid {
    /// The signing key by which it was known when it said so.
    pub by: HomeKey,
    /// The keys that it says to have instead.
    pub new: NewKeys,
}

struct Inner {
    root: PathBuf,
    settings: Settings,
    spaces: RwLock<BTreeMap<HomeName, Arc<Space>>>,
    connections: Semaphore,
    up: Mutex<Bucket>,
    begun: Instant,
    /// Held as long as the vault lives.
    _lock: File,
}

/// The space lent to friends, and its server. Clones are the same vault.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

impl Vault {
    /// Opens the folder, which no other process may be serving. Blocks on the disk.
    pub fn open(root: &Path, settings: Settings) -> Result<Self, OpenError> {
        let failed = |e| OpenError::Io(root.to_owned(), e);
        fs::create_dir_all(root.join("friends")).map_err(failed)?;
        let lock = File::create(root.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Taken(root.to_owned())),
            Err(e) => return Err(failed(e.into())),
        }
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            settings,
            spaces: RwLock::default(),
            connections: Semaphore::new(CONNECTIONS_MAX),
            up: Mutex::default(),
            begun: Instant::now(),
            _lock: lock,
        })))
    }

    /// Lends space to a friend, or changes the terms. Counts what is there and throws away what a crash left
    /// half-written; blocks on the disk.
    pub fn lend(&self, friend: &HomeName, terms: Terms) -> Result<(), OpenError> {
        let mut spaces = self.0.spaces.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = spaces.get(friend) {
            space.agree(terms);
            return Ok(());
        }
        let root = self.0.root.join("friends").join(friend.as_str());
        let space = Space::open(root.clone(), friend.clone(), terms, self.uptime())
            .map_err(|e| OpenError::Io(root, e))?;
        spaces.insert(friend.clone(), Arc::new(space));
        Ok(())
    }

    /// Serves a friend no longer, from the next request on. What it keeps stays on disk.
    pub fn close(&self, friend: &HomeName) {
        self.0.spaces.write().unwrap_or_else(PoisonError::into_inner).remove(friend);
    }

    /// What a friend keeps; `None` if no space is lent to it.
    pub fn usage(&self, friend: &HomeName) -> Option<Usage> {
        let space = self.space(friend.as_str())?;
        let quota = space.terms().quota;
        let state = space.state();
        let newest = (state.newest > 0).then_some(state.newest);
        Some(Usage { used: state.books.used, quota, waiting: state.books.waiting, newest })
    }

    /// The deletions that a friend has announced and that are not carried out yet.
    pub fn deletions(&self, friend: &HomeName) -> Vec<List> {
        self.space(friend.as_str())
            .map_or(Vec::new(), |s| s.state().waiting.lists.values().cloned().collect())
    }

    /// The keys of another kit that a friend says to have, signed with the one that is known; `None`: it said no such thing
    /// since the start, or that kit is the known one by now.
    pub fn kit_said(&self, friend: &HomeName) -> Option<NewKeys> {
        let space = self.space(friend.as_str())?;
        let known = space.terms().key;
        let said = space.state().kit_said;
        said.filter(|said| Some(said.by) == known).map(|said| said.new)
    }

    /// The word by which the generation of a friend that is believed calls itself the only one. Blocks on the disk.
    pub fn generation_word(&self, friend: &HomeName) -> Option<Signed> {
        let record = self.space(friend.as_str())?.generation();
        match record {
            Ok(record) => serde_json::from_slice(&record)
                .map_err(
                    |error| tracing::warn!(%friend, %error, "the word about its generation can't be read"),
                )
                .ok(),
            Err(refusal::Refusal::NotFound) => None,
            Err(error) => {
                tracing::warn!(%friend, %error, "the word about its generation can't be read");
                None
            }
        }
    }

    /// Carries out the deletions that are due; answers those that are done, or why not, by friend. To be called every
    /// few minutes; blocks on the disk.
    pub fn tend(&self) -> Vec<(HomeName, io::Result<Vec<List>>)> {
        let spaces: Vec<_> = {
            let spaces = self.0.spaces.read().unwrap_or_else(PoisonError::into_inner);
            spaces.values().cloned().collect()
        };
        let uptime = self.uptime();
        spaces.iter().map(|space| (space.friend.clone(), space.tend(uptime))).collect()
    }

    /// Serves one connection until it ends.
    pub async fn serve<IO>(&self, io: IO, caller: Caller)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // One friend's many connections leave the others theirs.
        let known = match &caller {
            Caller::Proved(friend) | Caller::ProvedToRead(friend) => self.space(friend.as_str()),
            Caller::ByPassword => None,
        };
        let places = known.as_ref().map_or(&self.0.connections, |space| &space.connections);
        let Ok(_place) = places.acquire().await else { return };
        let service = service_fn(|request| {
            let answer = server::answer(self.clone(), caller.clone(), request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let io = TokioIo::new(Patient::new(io, self.0.settings.silence));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(BUFFER_MAX)
            .half_close(true)
            .serve_connection(io, service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection broke");
        }
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn space(&self, friend: &str) -> Option<Arc<Space>> {
        self.0.spaces.read().unwrap_or_else(PoisonError::into_inner).get(friend).cloned()
    }

    /// Whether that space is still lent: a friend may have been removed while it was sending.
    fn lends(&self, space: &Arc<Space>) -> bool {
        self.space(space.friend.as_str()).is_some_and(|now| Arc::ptr_eq(&now, space))
    }

    fn now(&self) -> u64 {
        (self.0.settings.clock)()
    }

    fn uptime(&self) -> u64 {
        (self.0.settings.uptime)()
    }

    /// The minute of the day.
    fn minute(&self) -> u16 {
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        let Ok(now) = jiff::Timestamp::from_millisecond(now) else { return 0 };
        let now = now.to_zoned(self.0.settings.zone.clone());
        now.hour() as u16 * 60 + now.minute() as u16
    }

    fn wait_up(&self, bytes: usize) -> u64 {
        let now = self.0.begun.elapsed().as_micros() as u64;
        self.0.settings.up.map_or(0, |rate| space::lock(&self.0.up).take(bytes as u64, rate, now))
    }
}
