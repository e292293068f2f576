//! Raft's log and vote on redb. One thread writes, one fsync makes a whole batch last;
//! reads are answered from memory, where the (compacted) log is held as well.

use crate::codec;
use crate::reserve::{Backend, Reserve};
use crate::types::C;
use openraft::OptionalSend;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("marks");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Jobs waiting for the writer: beyond it appends wait (a disk slower than the network).
const JOBS_MAX: usize = 4096;
/// Jobs made durable by one fsync.
const BATCH_MAX: usize = 1024;
/// Page cache of redb, bytes: the log is read from our own memory.
const CACHE_BYTES: usize = 1 << 20;

/// Tells the caller that its job lasts.
type Done = oneshot::Sender<io::Result<()>>;

enum Job {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<C>),
    Vote(Vec<u8>, Done),
    Truncate { from: u64, done: Done },
    Purge { up_to: u64, mark: Vec<u8>, done: Done },
    Close,
}

#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, EntryOf<C>>,
    vote: Option<VoteOf<C>>,
    committed: Option<LogIdOf<C>>,
    purged: Option<LogIdOf<C>>,
}

/// The log. Clones are readers of the same one.
#[derive(Clone)]
pub struct LogStore {
    memory: Arc<Mutex<Memory>>,
    jobs: mpsc::SyncSender<Job>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    commits: Arc<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl LogStore {
    /// Opens or makes the log, and starts its writer. On a full disk it spends the reserve.
    pub fn open(path: &Path, reserve: &Reserve) -> io::Result<Self> {
        let backend = Backend::open(path, reserve.clone()).map_err(other)?;
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(other)?;
        let memory = Arc::new(Mutex::new(read_all(&database)?));
        let (jobs, queue) = mpsc::sync_channel(JOBS_MAX);
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer { database, memory: memory.clone(), commits: commits.clone(), committed: None };
        let thread = std::thread::Builder::new().name("raft-log".into()).spawn(move || writer.run(&queue))?;
        Ok(Self { memory, jobs, writer: Arc::new(Mutex::new(Some(thread))), commits })
    }

    /// How many times the disk was written durably since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Ends the writer and lets go of the file, which redb locks. Blocks for one batch at most.
    pub fn close(&self) {
        if self.jobs.send(Job::Close).is_ok()
            && let Some(thread) = lock(&self.writer).take()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer had panicked");
        }
    }

    /// Hands a job to the writer without holding up the runtime where its queue is full.
    async fn hand_over(&self, job: Job) -> io::Result<()> {
        let gone = || io::Error::other("the log's writer has ended");
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(gone()),
            Err(mpsc::TrySendError::Full(job)) => {
                let jobs = self.jobs.clone();
                let sent = tokio::task::spawn_blocking(move || jobs.send(job).map_err(|_| ()));
                sent.await.map_err(other)?.map_err(|()| gone())
            }
        }
    }

    async fn write(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.hand_over(job(done)).await?;
        answer.await.map_err(other)?
    }

    /// Every entry held, oldest first; for `rescue`.
    pub(crate) fn entries(&self) -> Vec<EntryOf<C>> {
        lock(&self.memory).entries.values().cloned().collect()
    }
}

/// Reads a whole log into memory; snapshots keep it short.
fn read_all(database: &Database) -> io::Result<Memory> {
    let transaction = database.begin_write().map_err(other)?;
    transaction.open_table(ENTRIES).map_err(other)?;
    transaction.open_table(MARKS).map_err(other)?;
    transaction.commit().map_err(other)?;

    let mut memory = Memory::default();
    let reading = database.begin_read().map_err(other)?;
    let marks = reading.open_table(MARKS).map_err(other)?;
    if let Some(bytes) = marks.get(VOTE).map_err(other)? {
        memory.vote = codec::decode(bytes.value())?;
    }
    if let Some(bytes) = marks.get(COMMITTED).map_err(other)? {
        memory.committed = codec::decode(bytes.value())?;
    }
    if let Some(bytes) = marks.get(PURGED).map_err(other)? {
        memory.purged = codec::decode(bytes.value())?;
    }
    for row in reading.open_table(ENTRIES).map_err(other)?.iter().map_err(other)? {
        let (index, bytes) = row.map_err(other)?;
        memory.entries.insert(index.value(), codec::decode(bytes.value())?);
    }
    Ok(memory)
}

struct Writer {
    database: Database,
    memory: Arc<Mutex<Memory>>,
    commits: Arc<AtomicU64>,
    /// The commit mark as last written.
    committed: Option<LogIdOf<C>>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            let last = batch.iter().position(|job| matches!(job, Job::Close));
            batch.truncate(last.unwrap_or(batch.len()));
            if !batch.is_empty() {
                let result = self.commit(&batch).map_err(|e| {
                    tracing::error!(error = %e, "the log can't be written");
                    (e.kind(), e.to_string())
                });
                self.commits.fetch_add(1, Ordering::Relaxed);
                for job in batch {
                    let result = result.clone().map_err(|(kind, text)| io::Error::new(kind, text));
                    match job {
                        Job::Append(_, flushed) => flushed.io_completed(result),
                        Job::Vote(_, done) | Job::Truncate { done, .. } | Job::Purge { done, .. } => {
                            // The caller may have been shut down while it waited.
                            drop(done.send(result));
                        }
                        Job::Close => {}
                    }
                }
            }
            if last.is_some() {
                return;
            }
        }
    }

    fn commit(&mut self, batch: &[Job]) -> io::Result<()> {
        let mut transaction = self.database.begin_write().map_err(other)?;
        transaction.set_durability(Durability::Immediate).map_err(other)?;
        let committed = lock(&self.memory).committed;
        {
            let mut entries = transaction.open_table(ENTRIES).map_err(other)?;
            let mut marks = transaction.open_table(MARKS).map_err(other)?;
            for job in batch {
                match job {
                    Job::Append(rows, _) => {
                        for (index, bytes) in rows {
                            entries.insert(index, bytes.as_slice()).map_err(other)?;
                        }
                    }
                    Job::Vote(bytes, _) => {
                        marks.insert(VOTE, bytes.as_slice()).map_err(other)?;
                    }
                    Job::Truncate { from, .. } => {
                        entries.retain_in(*from.., |_, _| false).map_err(other)?;
                    }
                    Job::Purge { up_to, mark, .. } => {
                        entries.retain_in(..=*up_to, |_, _| false).map_err(other)?;
                        marks.insert(PURGED, mark.as_slice()).map_err(other)?;
                    }
                    Job::Close => {}
                }
            }
            // The commit mark is a hint for the next start; it rides along and never causes a write.
            if committed != self.committed {
                marks.insert(COMMITTED, codec::encode(&committed)?.as_slice()).map_err(other)?;
            }
        }
        transaction.commit().map_err(other)?;
        self.committed = committed;
        Ok(())
    }
}

fn bytes_of<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    Ok(codec::encode(value)?)
}

impl RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<C>>, io::Error> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(lock(&self.memory).entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        Ok(lock(&self.memory).vote)
    }
}

impl RaftLogStorage<C> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let memory = lock(&self.memory);
        let last = memory.entries.values().next_back().map(RaftEntry::log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let bytes = bytes_of(&Some(*vote))?;
        self.write(|done| Job::Vote(bytes, done)).await?;
        lock(&self.memory).vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        lock(&self.memory).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        Ok(lock(&self.memory).committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        let mut kept = Vec::new();
        for entry in entries {
            rows.push((entry.index(), bytes_of(&entry)?));
            kept.push((entry.index(), entry));
        }
        // Readable on return; durable when `flushed` is told.
        lock(&self.memory).entries.extend(kept);
        self.hand_over(Job::Append(rows, flushed)).await
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index() + 1);
        lock(&self.memory).entries.split_off(&from);
        self.write(|done| Job::Truncate { from, done }).await
    }

    async fn purge(&mut self, id: LogIdOf<C>) -> Result<(), io::Error> {
        let up_to = id.index();
        {
            let mut memory = lock(&self.memory);
            memory.entries = memory.entries.split_off(&(up_to + 1));
            memory.purged = Some(id);
        }
        let mark = bytes_of(&Some(id))?;
        self.write(|done| Job::Purge { up_to, mark, done }).await
    }
}
