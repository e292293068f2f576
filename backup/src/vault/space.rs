//! The space lent to one friend: its folder, what was agreed, what it keeps, and what waits for deletion.

use super::KitSaid;
use super::blob::{Found, Item, Kind};
use super::books::{Books, is_shown};
use super::disk::Disk;
use super::hours::Bucket;
use super::path::{Folder, View};
use super::refusal::Refusal;
use super::room::Room;
use super::terms::Terms;
use super::waiting::Waiting;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;
use thermidor_model::name::HomeName;
use tokio::sync::Semaphore;

/// Uploads of one friend that are written at once; more wait their turn.
const UPLOADS_MAX: usize = 16;
/// Connections of one friend whom the transport has proved.
const CONNECTIONS_MAX: usize = 64;
/// Repositories of one friend.
const FOLDERS_MAX: usize = 64;

/// What changes while the vault runs. Held for moments only, never over anything that waits.
#[derive(Debug, Default)]
pub(super) struct State {
    pub books: Books,
    pub waiting: Waiting,
    /// When the newest snapshot came, in ms since the Unix epoch; 0 is never.
    pub newest: u64,
    /// The other kit that the friend last said to have.
    pub kit_said: Option<KitSaid>,
    /// Keys that are part of the past though they came later: what the kit that is believed now found and signed when it took
    /// the place of another. Nobody could read the past otherwise whose kit was replaced since.
    pub past_keys: BTreeSet<Item>,
}

#[derive(Debug)]
pub(super) struct Space {
    pub friend: HomeName,
    pub disk: Disk,
    terms: RwLock<Arc<Terms>>,
    state: Mutex<State>,
    /// Whoever changes what waits for deletion does so one after the other.
    pub turn: Mutex<()>,
    pub uploads: Semaphore,
    pub connections: Semaphore,
    up: Mutex<Bucket>,
    down: Mutex<Bucket>,
    begun: Instant,
}

/// Takes a lock; what it guards is whole after each statement, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Space {
    /// Opens a friend's folder, counts what it holds and throws away what a crash left.
    pub fn open(root: PathBuf, friend: HomeName, terms: Terms, uptime: u64) -> io::Result<Self> {
        let disk = Disk::open(root)?;
        let mut state = State::default();
        for folder in disk.folders()? {
            for kind in Kind::ALL {
                disk.list(&folder, kind, &mut |_, found| {
                    state.books.found(found.size, found.arrived, kind == Kind::Locks);
                    if kind == Kind::Snapshots {
                        state.newest = state.newest.max(found.arrived);
                    }
                    Ok(())
                })?;
            }
            state.past_keys.extend(super::statements::past_keys(&disk, &folder)?);
            if let Some(found) = disk.look(&Item { folder, blob: None })? {
                state.books.found(found.size, found.arrived, false);
            }
        }
        state.waiting = Waiting::load(&disk, &mut state.books, uptime)?;
        Ok(Self {
            friend,
            disk,
            terms: RwLock::new(Arc::new(terms)),
            state: Mutex::new(state),
            turn: Mutex::new(()),
            uploads: Semaphore::new(UPLOADS_MAX),
            connections: Semaphore::new(CONNECTIONS_MAX),
            up: Mutex::default(),
            down: Mutex::default(),
            begun: Instant::now(),
        })
    }

    /// What was agreed.
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other terms from now on.
    pub fn agree(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// What changes while the vault runs.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether an item that was found is part of a view.
    pub fn shows(&self, item: &Item, found: Found, view: View) -> bool {
        if view != View::Live && item.is_lock() {
            return false;
        }
        let state = self.state();
        let hidden = state.waiting.since(item);
        is_shown(found.arrived, hidden, view)
            || state.past_keys.contains(item) && is_shown(found.arrived, hidden, View::Live)
    }

    /// What room is left.
    pub fn room(&self) -> Result<Room, Refusal> {
        let free = self.disk.free()?;
        Ok(Room { quota: self.terms().quota, used: self.state().books.used, free })
    }

    /// Makes a repository.
    pub fn create(&self, folder: &Folder) -> Result<(), Refusal> {
        let folders = self.disk.folders()?;
        if !folders.contains(folder) && folders.len() >= FOLDERS_MAX {
            return Err(Refusal::Forbidden("there are 64 repositories already"));
        }
        Ok(self.disk.create(folder)?)
    }

    /// Deletes an item where that is allowed; nothing happens if there is none.
    pub fn delete(&self, item: &Item) -> Result<(), Refusal> {
        if self.terms().append_only && !item.is_lock() {
            return Err(Refusal::Forbidden("this vault is append-only: send a signed deletion list"));
        }
        let _turn = lock(&self.turn);
        let Some(found) = self.disk.look(item)? else { return Ok(()) };
        if self.state().waiting.since(item).is_none() && self.disk.remove(item)? {
            self.state().books.removed(found.size, item.is_lock());
        }
        Ok(())
    }

    /// How long bytes that came in must be waited for, in µs.
    pub fn wait_up(&self, bytes: usize) -> u64 {
        self.wait(&self.up, bytes, self.terms().hours.up)
    }

    /// How long bytes that are to go out must wait, in µs.
    pub fn wait_down(&self, bytes: usize) -> u64 {
        self.wait(&self.down, bytes, self.terms().hours.down)
    }

    fn wait(&self, bucket: &Mutex<Bucket>, bytes: usize, rate: Option<u64>) -> u64 {
        let now = self.begun.elapsed().as_micros() as u64;
        rate.map_or(0, |rate| lock(bucket).take(bytes as u64, rate, now))
    }
}
