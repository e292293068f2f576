//! The active at work: the owner loop around the protocol's active. Device requests, frames, the
//! disk's answers and Raft's come in through one queue, and nothing else touches the machine.

use super::disk::Disk;
use super::following::failed;
use super::wire::{Outgoing, Session};
use super::{Propose, Unknown};
use crate::lease_page::{LeasePage, boottime_ns};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thermidor_model::replication::{
    self, Answer, CannotServe, DeviceOp, Effect, Event, Frame, LocalEffect, Op, OpKind, Progress,
};
use thermidor_model::state::Volume;
use thermidor_model::{Command, NodeId, Outcome, VolumeName};

/// Events waiting for the owner loop. Whoever brings more waits.
const QUEUE_MAX: usize = 1024;
/// Events handled under one reading of the lease.
const BATCH_MAX: usize = 64;
const TICK: Duration = Duration::from_millis(20);
/// Payloads of requests not answered yet, bytes; the kernel's further requests wait.
const UNANSWERED_MAX_BYTES: usize = 16 << 20;
/// A proposal without an answer for so long is unknown.
const PROPOSE_MAX: Duration = Duration::from_secs(2);
/// How long a machine may take to come to rest when its role ends.
const REST_MAX: Duration = Duration::from_secs(10);

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

/// What comes to the owner loop.
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
    /// Why it was fenced.
    pub fenced: Option<String>,
    /// All is durable everywhere after a planned detachment.
    pub detached: bool,
    /// Beats of the owner loop: a number that stands still tells of a stall.
    pub beats: u64,
}

/// The running role.
pub struct Active {
    queue: SyncSender<Arrived>,
    disk: Arc<Disk>,
    right: Right,
    fenced: Arc<AtomicBool>,
    unanswered: Arc<Unanswered>,
    view: Arc<Mutex<View>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    size_bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    /// Where proposals are waited for.
    pub runtime: tokio::runtime::Handle,
}

impl Active {
    /// Starts to serve as the active of the record's epoch; an epoch can be served once.
    pub fn start(disk: Arc<Disk>, setting: Setting) -> Result<Result<Self, CannotServe>, io::Error> {
        let (queue, arrivals) = sync_channel(QUEUE_MAX);
        let state = disk.image().state();
        let size_bytes = disk.image().size_bytes();
        let now = boottime_ns() / 1_000_000;
        let Setting { node, volume, record, right, propose, limits, runtime } = setting;
        let started =
            replication::Active::start(node, &volume, &record, state, right.until_ms(), limits, now);
        let (machine, effects) = match started {
            Ok(started) => started,
            Err(cannot) => return Ok(Err(cannot)),
        };
        let active = Self {
            queue: queue.clone(),
            disk: disk.clone(),
            right: right.clone(),
            fenced: Arc::default(),
            unanswered: Arc::default(),
            view: Arc::default(),
            thread: Mutex::new(None),
            size_bytes,
        };
        let owner = Owner {
            machine,
            disk,
            queue,
            right,
            revoked: false,
            fenced: active.fenced.clone(),
            view: active.view.clone(),
            propose,
            runtime,
            requests: 0,
            waiting: HashMap::new(),
            payloads: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("volume-active".into())
            .spawn(move || owner.run(&arrivals, effects))?;
        *lock(&active.thread) = Some(thread);
        Ok(Ok(active))
    }

    /// Size of the device, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where arrivals go. Sending fails once the role has ended.
    pub fn queue(&self) -> SyncSender<Arrived> {
        self.queue.clone()
    }

    /// What it looks like now.
    pub fn view(&self) -> View {
        lock(&self.view).clone()
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

    /// Makes a range zero and gives its space back.
    pub fn punch(&self, offset: u64, length: u64, done: Done) {
        self.change(Op { kind: OpKind::Discard, offset, len: length }, &[], done);
    }

    fn change(&self, op: Op, data: &[u8], done: Done) {
        match op.offset.checked_add(op.len) {
            Some(end) if end <= self.size_bytes && op.len > 0 => {}
            Some(end) if end <= self.size_bytes => return done(Ok(())),
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
        if let Err(refused) = self.queue.send(Arrived::Device { op, payload, done })
            && let Arrived::Device { done, .. } = refused.0
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

fn tell(queue: &SyncSender<Arrived>, arrived: Arrived) {
    // After the role's end nobody needs it.
    if queue.send(arrived).is_err() {
        tracing::debug!("something came after the active's role had ended");
    }
}

struct Owner {
    machine: replication::Active,
    disk: Arc<Disk>,
    queue: SyncSender<Arrived>,
    right: Right,
    revoked: bool,
    fenced: Arc<AtomicBool>,
    view: Arc<Mutex<View>>,
    propose: Propose,
    runtime: tokio::runtime::Handle,
    requests: u64,
    /// Requests not answered yet.
    waiting: HashMap<u64, (Bytes, Done)>,
    /// Payloads by the operation's number, until they are forgotten.
    payloads: BTreeMap<u64, Bytes>,
    sessions: BTreeMap<(NodeId, u64), Session>,
}

impl Owner {
    fn run(mut self, arrivals: &Receiver<Arrived>, effects: Vec<Effect>) {
        let mut events = VecDeque::new();
        for effect in effects {
            self.carry_out(effect, &mut events);
        }
        self.handle(events);
        let mut stopping: Option<Instant> = None;
        let mut ticked = Instant::now();
        loop {
            let mut next = match arrivals.recv_timeout(TICK) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            self.handle([Event::Lease { until_ms: if self.revoked { 0 } else { self.right.until_ms() } }]);
            let mut taken = 0;
            while let Some(arrived) = next.take() {
                match arrived {
                    Arrived::Stop => {
                        for (replica, session) in std::mem::take(&mut self.sessions).into_keys() {
                            self.handle([Event::Closed { replica, session }]);
                        }
                        stopping = Some(Instant::now());
                    }
                    other => self.take(other, stopping.is_some()),
                }
                taken += 1;
                if taken < BATCH_MAX {
                    next = arrivals.try_recv().ok();
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.handle([Event::Tick]);
                self.show();
            }
            match stopping {
                Some(_) if self.machine.is_idle() => return self.end(),
                Some(since) if since.elapsed() > REST_MAX => {
                    tracing::error!("the active did not come to rest: its disk hangs");
                    return self.end();
                }
                _ => {}
            }
        }
    }

    fn end(mut self) {
        self.fenced.store(true, Ordering::Release);
        for (_, (_, done)) in self.waiting.drain() {
            done(Err(Fault::Failed));
        }
    }

    fn take(&mut self, arrived: Arrived, stopping: bool) {
        match arrived {
            Arrived::Device { op, payload, done } => {
                self.requests += 1;
                let request = self.requests;
                self.waiting.insert(request, (payload, done));
                self.handle([Event::Device { request, op }]);
            }
            Arrived::Connected { replica, session, writer } if !stopping => {
                self.sessions.insert((replica, session), writer);
                self.handle([Event::Connected { replica, session }]);
            }
            Arrived::Event(Event::Closed { replica, session }) => {
                if self.sessions.remove(&(replica, session)).is_some() {
                    self.handle([Event::Closed { replica, session }]);
                }
            }
            Arrived::Event(Event::Frame { replica, session, frame }) => {
                if self.sessions.contains_key(&(replica, session)) {
                    self.handle([Event::Frame { replica, session, frame }]);
                }
            }
            Arrived::Event(event) => self.handle([event]),
            Arrived::Fence(why) => self.revoke(&why),
            Arrived::Connected { .. } | Arrived::Stop => {}
        }
    }

    /// Takes the right away from the machine, which then fails everything.
    fn revoke(&mut self, why: &str) {
        if !self.revoked {
            tracing::warn!(why, "the device is cut off");
            self.revoked = true;
            self.fenced.store(true, Ordering::Release);
            lock(&self.view).fenced.get_or_insert_with(|| why.to_string());
            self.handle([Event::Lease { until_ms: 0 }]);
        }
    }

    fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut events: VecDeque<Event> = events.into_iter().collect();
        while let Some(event) = events.pop_front() {
            for effect in self.machine.handle(boottime_ns() / 1_000_000, event) {
                self.carry_out(effect, &mut events);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Local(local) => self.local(local, events),
            Effect::Number { request, seq } => {
                if let Some((payload, _)) = self.waiting.get_mut(&request) {
                    self.payloads.insert(seq, std::mem::take(payload));
                }
            }
            Effect::Forget { up_to } => self.payloads = self.payloads.split_off(&(up_to + 1)),
            Effect::Send { replica, session, frame } => self.send(replica, session, frame, events),
            Effect::Close { replica, session, why } => {
                tracing::info!(replica, session, why, "a session is ended");
                self.sessions.remove(&(replica, session));
            }
            Effect::Compare { replica, session, hashes } => {
                let queue = self.queue.clone();
                self.disk.hash(hashes.iter().map(|(extent, _)| *extent).collect(), move |ours| {
                    let event = match ours {
                        Ok(ours) => {
                            let differ = ours.iter().zip(&hashes).filter(|(a, b)| a.1 != b.1);
                            let differing = differ.map(|(a, _)| a.0).collect();
                            Event::Compared { replica, session, differing }
                        }
                        Err(e) => Event::Local(failed(&e)),
                    };
                    tell(&queue, Arrived::Event(event));
                });
            }
            Effect::Reply { request, ok } => self.reply(request, ok),
            Effect::Propose(command) => self.propose(command),
            Effect::Fenced { why } => {
                self.revoke(&why);
                self.sessions.clear();
            }
            Effect::Detached => lock(&self.view).detached = true,
        }
    }

    fn local(&mut self, local: LocalEffect, events: &mut VecDeque<Event>) {
        let payload = match &local {
            LocalEffect::Store { id, .. } => self.payloads.get(id).cloned().unwrap_or_default(),
            _ => Bytes::new(),
        };
        let queue = self.queue.clone();
        let answer = move |event| tell(&queue, Arrived::Event(Event::Local(event)));
        events.extend(self.disk.carry_out(local, &payload, answer).map(Event::Local));
    }

    fn send(&mut self, replica: NodeId, session: u64, frame: Frame, events: &mut VecDeque<Event>) {
        let payload = match &frame {
            Frame::Op { seq, .. } => self.payloads.get(seq).cloned().unwrap_or_default(),
            _ => Bytes::new(),
        };
        let key = (replica, session);
        let sent = self.sessions.get(&key).is_some_and(|s| s.send(Outgoing { frame, payload }));
        if !sent && self.sessions.remove(&key).is_some() {
            events.push_back(Event::Closed { replica, session });
        }
    }

    fn reply(&mut self, request: u64, ok: bool) {
        let Some((_, done)) = self.waiting.remove(&request) else { return };
        // Looked at once more: this thread may have been frozen since the batch began.
        if ok && !self.revoked && self.right.holds() {
            return done(Ok(()));
        }
        done(Err(Fault::Failed));
        if ok {
            self.fenced.store(true, Ordering::Release);
            tell_later(&self.queue, Arrived::Fence("the lease is over".into()));
        }
    }

    fn propose(&self, command: Command) {
        let (answer, queue) = ((self.propose)(command), self.queue.clone());
        self.runtime.spawn(async move {
            let answer = match tokio::time::timeout(PROPOSE_MAX, answer).await {
                Ok(Ok(Outcome::Set(version))) => Answer::Set(version),
                Ok(Ok(Outcome::Refused(why))) => {
                    tracing::info!(%why, "a change of the in-sync set was refused");
                    Answer::Refused
                }
                Ok(Ok(_)) | Ok(Err(Unknown)) | Err(_) => Answer::Unknown,
            };
            tokio::task::block_in_place(|| tell(&queue, Arrived::Event(Event::Answered(answer))));
        });
    }

    fn show(&self) {
        let mut view = lock(&self.view);
        view.progress = self.machine.progress();
        view.beats += 1;
    }
}

/// From within the owner loop, which must not wait for its own queue: if that is full, the next
/// request's answer finds the lease over just the same.
fn tell_later(queue: &SyncSender<Arrived>, arrived: Arrived) {
    if queue.try_send(arrived).is_err() {
        tracing::debug!("the active's queue is full");
    }
}
