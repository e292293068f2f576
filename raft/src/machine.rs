//! The state machine's shell: applies entries to the model's `State`, publishes it, and keeps
//! a snapshot file. What an entry means is decided in `thermidor_model`, nowhere here.

use crate::reserve::Reserve;
use crate::types::C;
use crate::{codec, disk};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thermidor_model::state::STATE_VERSION;
use thermidor_model::{Outcome, State};
use tokio::sync::watch;

/// A snapshot as sent and stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) applied: Option<LogIdOf<C>>,
    pub(crate) membership: StoredMembershipOf<C>,
    pub(crate) state: Arc<State>,
}

impl Stored {
    pub(crate) fn empty() -> Self {
        Self {
            applied: None,
            membership: StoredMembershipOf::<C>::default(),
            state: Arc::new(State::default()),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let stored: Self = codec::decode(bytes)?;
        if stored.state.version > STATE_VERSION {
            return Err(io::Error::other(format!(
                "the home's state has version {}, this program knows {STATE_VERSION}: install the newer thermidor",
                stored.state.version
            )));
        }
        Ok(stored)
    }

    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        disk::read_if_there(path)?.map_or_else(|| Ok(Self::empty()), |bytes| Self::from_bytes(&bytes))
    }

    /// One entry's effect. The state is copied at most once while nobody else has let go of it.
    pub(crate) fn apply(&mut self, entry: EntryOf<C>) -> Outcome {
        self.applied = Some(entry.log_id());
        match entry.payload {
            EntryPayload::Blank => Outcome::Done,
            EntryPayload::Normal(proposal) => Arc::make_mut(&mut self.state).apply(&proposal),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembershipOf::<C>::new(Some(entry.log_id), membership);
                Outcome::Done
            }
        }
    }

    fn meta(&self) -> SnapshotMetaOf<C> {
        SnapshotMetaOf::<C> { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// The state machine. Clones share it.
#[derive(Clone)]
pub struct Machine {
    held: Arc<Mutex<Stored>>,
    /// Up to where the file reaches; held while it is written.
    saved: Arc<Mutex<Option<LogIdOf<C>>>>,
    file: PathBuf,
    reserve: Reserve,
    published: Arc<watch::Sender<Arc<State>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// Starts from the snapshot file, or empty. The log after it is applied by openraft.
    /// On a full disk snapshots spend the reserve.
    pub fn open(file: PathBuf, reserve: Reserve) -> io::Result<Self> {
        let stored = Stored::read(&file)?;
        let (published, _) = watch::channel(stored.state.clone());
        Ok(Self {
            saved: Arc::new(Mutex::new(stored.applied)),
            held: Arc::new(Mutex::new(stored)),
            file,
            reserve,
            published: Arc::new(published),
        })
    }

    /// The applied state, as it changes.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.published.subscribe()
    }

    /// Writes a snapshot unless a newer one is there already.
    fn save(&self, applied: Option<LogIdOf<C>>, bytes: &[u8]) -> io::Result<()> {
        let mut saved = lock(&self.saved);
        if *saved > applied {
            return Ok(());
        }
        self.reserve.spend(|| disk::write_whole(&self.file, bytes))?;
        *saved = applied;
        Ok(())
    }
}

impl RaftSnapshotBuilder<C> for Machine {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, Bytes>, io::Error> {
        let stored = lock(&self.held).clone();
        let machine = self.clone();
        let building = tokio::task::spawn_blocking(move || {
            let bytes = codec::encode(&stored)?;
            machine.save(stored.applied, &bytes)?;
            Ok(SnapshotOf::<C, Bytes> { meta: stored.meta(), snapshot: Bytes::from(bytes) })
        });
        building.await.map_err(io::Error::other)?
    }
}

impl RaftStateMachine<C> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<C>>, StoredMembershipOf<C>), io::Error> {
        let held = lock(&self.held);
        Ok((held.applied, held.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = lock(&self.held).apply(entry);
            if let Some(responder) = responder {
                answers.push((responder, outcome));
            }
        }
        // Published before it is answered: who has the answer sees its effect in the state.
        let state = lock(&self.held).state.clone();
        self.published.send_if_modified(|shown| {
            let changed = !Arc::ptr_eq(shown, &state);
            *shown = state;
            changed
        });
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<C>, bytes: Bytes) -> Result<(), io::Error> {
        let machine = self.clone();
        let installing = tokio::task::spawn_blocking(move || {
            let stored = Stored::from_bytes(&bytes)?;
            machine.save(stored.applied, &bytes)?;
            Ok::<_, io::Error>(stored)
        });
        let stored = installing.await.map_err(io::Error::other)??;
        self.published.send_replace(stored.state.clone());
        *lock(&self.held) = stored;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<C, Bytes>>, io::Error> {
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let Some(bytes) = disk::read_if_there(&file)? else { return Ok(None) };
            let stored = Stored::from_bytes(&bytes)?;
            Ok(Some(SnapshotOf::<C, Bytes> { meta: stored.meta(), snapshot: Bytes::from(bytes) }))
        });
        reading.await.map_err(io::Error::other)?
    }
}
