//! The active as the kernel's side and the process see it: requests go in, and are answered by
//! whoever learns their outcome. Its owner is in `leading`.

use super::Propose;
use super::disk::Disk;
use super::entrance::Entrance;
use super::following::failed;
use super::leading::{self, Owner};
use super::session::Session;
use crate::lease_page::{LeasePage, boottime_ns};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use thermidor_model::replication::scrub::{Pace, Record};
use thermidor_model::replication::{self, CannotServe, DeviceOp, Event, Op, OpKind, Progress};
use thermidor_model::state::Volume;
use thermidor_model::{NodeId, VolumeName};

/// What was told and waits for the owner. Whoever tells more waits.
const QUEUE_MAX: usize = 1024;
/// Payloads of requests not answered yet, bytes; the kernel's further requests wait.
const UNANSWERED_MAX_BYTES: usize = 16 << 20;

/// Why the device did not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is outside of the device.
    #[error("outside of the device")]
    Refused,
    /// The device has failed, for good: lease over, disk broken, or another took over.
    #[error("the device has failed")]
    Failed,
}

/// Called once with what became of a request.
pub type Done = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// What comes to the owner.
pub enum Arrived {
    /// The kernel asks.
    Device {
        /// What.
        op: DeviceOp,
        /// The bytes of a write.
        payload: Bytes,
        /// Its answer.
        done: Done,
    },
    /// A session to a replica stands.
    Connected {
        /// On which radiator.
        replica: NodeId,
        /// Never used before.
        session: u64,
        /// For sending.
        writer: Session,
    },
    /// An extent's bytes, from a replica or from here.
    Fetched {
        /// From which radiator.
        from: NodeId,
        /// Which extent.
        extent: u64,
        /// `None`: they could not be read.
        payload: Option<Bytes>,
    },
    /// Something else for the machine.
    Event(Event),
    /// Every request fails from now on.
    Fence(String),
    /// The role ends.
    Stop,
}

/// The lease under which a device is served.
#[derive(Debug, Clone)]
pub struct Right {
    /// The guard's page.
    pub page: LeasePage,
    /// The lease's name: the service.
    pub service: String,
    /// The service's epoch.
    pub epoch: u64,
}

impl Right {
    /// Until when it is held, CLOCK_BOOTTIME ms; 0: it is not.
    pub fn until_ms(&self) -> u64 {
        self.page
            .held(&self.service, boottime_ns())
            .filter(|held| held.epoch == self.epoch)
            .map_or(0, |held| held.until_ns / 1_000_000)
    }

    /// Whether it is held now.
    pub fn holds(&self) -> bool {
        self.page.holds(&self.service, self.epoch)
    }
}

/// What others may see of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// How far each replica is.
    pub progress: BTreeMap<NodeId, Progress>,
    /// The in-sync set as the machine knows it.
    pub in_sync: BTreeSet<NodeId>,
    /// Why it was fenced.
    pub fenced: Option<String>,
    /// All is durable everywhere after a planned detachment.
    pub detached: bool,
    /// How far the search for bit rot is.
    pub examination: Option<Record>,
    /// Beats of the owner: a number that stands still tells of a stall.
    pub beats: u64,
}

/// The running role.
pub struct Active {
    entrance: Entrance<Owner>,
    /// For whoever must not wait until it is their turn.
    queue: SyncSender<Arrived>,
    disk: Arc<Disk>,
    right: Right,
    fenced: Arc<AtomicBool>,
    unanswered: Arc<Unanswered>,
    view: Arc<Mutex<View>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of requests that were taken and not answered.
#[derive(Debug, Default)]
struct Unanswered {
    bytes: Mutex<usize>,
    less: Condvar,
}

impl Unanswered {
    /// Waits until there is room; one request always fits.
    fn take(self: &Arc<Self>, bytes: usize) -> Room {
        let mut held = lock(&self.bytes);
        while *held > 0 && *held + bytes > UNANSWERED_MAX_BYTES {
            held = self.less.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held += bytes;
        Room { of: self.clone(), bytes }
    }
}

struct Room {
    of: Arc<Unanswered>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        *lock(&self.of.bytes) -= self.bytes;
        self.of.less.notify_all();
    }
}

/// What the active's loop is given.
pub struct Setting {
    /// This radiator.
    pub node: NodeId,
    /// The volume.
    pub volume: VolumeName,
    /// As the local Raft node has applied it.
    pub record: Volume,
    /// The lease.
    pub right: Right,
    /// Brings proposals to Raft.
    pub propose: Propose,
    /// Bounds of the protocol.
    pub limits: replication::Limits,
    /// How fast bit rot is searched for.
    pub pace: Pace,
    /// Where proposals are waited for.
    pub runtime: tokio::runtime::Handle,
}

impl Active {
    /// Starts to serve as the active of the record's epoch; an epoch can be served once.
    pub fn start(disk: Arc<Disk>, setting: Setting) -> Result<Result<Self, CannotServe>, io::Error> {
        let (queue, arrivals) = sync_channel(QUEUE_MAX);
        let state = disk.image().state();
        let now = boottime_ns() / 1_000_000;
        let Setting { node, volume, record, right, propose, limits, pace, runtime } = setting;
        let started =
            replication::Active::start(node, &volume, &record, state, right.until_ms(), limits, now);
        let (machine, effects) = match started {
            Ok(started) => started,
            Err(cannot) => return Ok(Err(cannot)),
        };
        let (fenced, view) = (Arc::<AtomicBool>::default(), Arc::<Mutex<View>>::default());
        let entrance = Entrance::new(|entrance| Owner {
            machine,
            disk: disk.clone(),
            entrance,
            queue: queue.clone(),
            right: right.clone(),
            revoked: false,
            stopping: None,
            fenced: fenced.clone(),
            view: view.clone(),
            propose,
            runtime,
            pace,
            node,
            requests: 0,
            unflushed: None,
            waiting: HashMap::new(),
            payloads: BTreeMap::new(),
            sessions: BTreeMap::new(),
            told: BTreeMap::new(),
        });
        let begun = entrance.bring(effects, Owner::begin);
        debug_assert!(begun.is_ok(), "nobody ends it yet");
        let active = Self {
            entrance: entrance.clone(),
            queue,
            disk: disk.clone(),
            right,
            fenced,
            unanswered: Arc::default(),
            view,
            thread: Mutex::new(None),
        };
        let thread = std::thread::Builder::new()
            .name("volume-active".into())
            .spawn(move || leading::run(&entrance, &arrivals, disk.progress()))?;
        *lock(&active.thread) = Some(thread);
        Ok(Ok(active))
    }

    /// Size of the device, bytes: the image's, which grows only after the machine has learnt of it.
    pub fn size_bytes(&self) -> u64 {
        self.disk.image().size_bytes()
    }

    /// The way to its owner.
    pub(super) fn entrance(&self) -> Entrance<Owner> {
        self.entrance.clone()
    }

    /// What it looks like now.
    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Whether what it answers now counts.
    pub fn serves(&self) -> bool {
        !self.fenced.load(Ordering::Acquire) && self.right.holds()
    }

    /// Reads; the local image holds everything that was answered.
    pub fn read(&self, into: &mut [u8], offset: u64) -> Result<(), Fault> {
        if self.fenced.load(Ordering::Acquire) {
            return Err(Fault::Failed);
        }
        if let Err(e) = self.disk.image().read(into, offset) {
            self.tell(Event::Local(failed(&e)));
            return Err(Fault::Failed);
        }
        // After the read: what is answered now must be true now.
        if self.right.holds() {
            return Ok(());
        }
        self.fence("the lease is over".into());
        Err(Fault::Failed)
    }

    /// Writes.
    pub fn write(&self, data: &[u8], offset: u64, done: Done) {
        self.change(Op { kind: OpKind::Write, offset, len: data.len() as u64 }, data, done);
    }

    /// Makes a range zero and gives its space back. Of what is a hole already nobody needs to hear: a trim of a
    /// large empty volume is nothing.
    pub fn punch(&self, offset: u64, length: u64, done: Done) {
        let (offset, length) = match self.disk.image().data_in(offset, length) {
            Ok(None) if self.serves() => return done(Ok(())),
            Ok(Some(from)) => (from, offset + length - from),
            // Refused or failed below, as any other request.
            Ok(None) | Err(_) => (offset, length),
        };
        self.change(Op { kind: OpKind::Discard, offset, len: length }, &[], done);
    }

    fn change(&self, op: Op, data: &[u8], done: Done) {
        match op.offset.checked_add(op.len) {
            Some(end) if end <= self.size_bytes() && op.len > 0 => {}
            Some(end) if end <= self.size_bytes() => return done(Ok(())),
            _ => return done(Err(Fault::Refused)),
        }
        let room = self.unanswered.take(data.len());
        let done: Done = Box::new(move |outcome| {
            drop(room);
            done(outcome);
        });
        self.ask(DeviceOp::Change(op), Bytes::copy_from_slice(data), done);
    }

    /// Makes everything answered so far durable on every member of the in-sync set.
    pub fn flush(&self, done: Done) {
        self.ask(DeviceOp::Flush, Bytes::new(), done);
    }

    fn ask(&self, op: DeviceOp, payload: Bytes, done: Done) {
        if self.fenced.load(Ordering::Acquire) {
            return done(Err(Fault::Failed));
        }
        if let Err(Arrived::Device { done, .. }) =
            self.entrance.bring(Arrived::Device { op, payload, done }, Owner::take)
        {
            done(Err(Fault::Failed));
        }
    }

    /// Tells the machine something.
    pub fn tell(&self, event: Event) {
        tell(&self.queue, Arrived::Event(event));
    }

    /// From now on every request fails.
    pub fn fence(&self, why: String) {
        if !self.fenced.swap(true, Ordering::AcqRel) {
            tell(&self.queue, Arrived::Fence(why));
        }
    }

    /// Ends the role once the machine is at rest. Blocks for a few disk writes.
    pub fn stop(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && self.queue.send(Arrived::Stop).is_ok()
            && thread.join().is_err()
        {
            tracing::error!("the active's loop panicked");
        }
    }
}

/// Brings an answer.
pub(super) fn bring(entrance: &Entrance<Owner>, arrived: Arrived) {
    // After the role's end nobody needs it.
    if entrance.bring(arrived, Owner::take).is_err() {
        tracing::debug!("something came after the active's role had ended");
    }
}

pub(super) fn tell(queue: &SyncSender<Arrived>, arrived: Arrived) {
    // After the role's end nobody needs it.
    if queue.send(arrived).is_err() {
        tracing::debug!("something came after the active's role had ended");
    }
}
