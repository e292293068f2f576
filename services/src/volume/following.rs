//! A replica at work: the owner of the protocol's follower. Frames and the disk's answers are brought to it one at a time,
//! and nothing else touches the machine.

use super::disk::Disk;
use super::entrance::Entrance;
use super::roles::chain;
use super::session::Session;
use super::wire::Outgoing;
use crate::lease_page::boottime_ns;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thermidor_model::replication::{Follower, FollowerEffect, FollowerEvent, Frame, Limits, Refusal};

const TICK: Duration = Duration::from_millis(20);
/// How long a machine may take to come to rest when its role ends.
const REST_MAX: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const REST_LOOK: Duration = Duration::from_millis(1);

/// What comes to the owner.
pub enum Arrived {
    /// A session was accepted from this member; its first frame will be a `Hello`.
    Accepted {
        /// Never used before.
        session: u64,
        /// For answering.
        writer: Session,
    },
    /// A frame came.
    Frame {
        /// On which session.
        session: u64,
        /// What it says.
        frame: Frame,
        /// Its payload.
        payload: Bytes,
    },
    /// Something else for the machine.
    Event(FollowerEvent),
}

/// What others may see of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Epoch of the image.
    pub epoch: u64,
    /// An active's session stands.
    pub heard: bool,
    /// A catch-up is under way.
    pub torn: bool,
    /// Set once the disk failed.
    pub failed: Option<String>,
    /// The stream it follows, once that has begun.
    pub stream: Option<Stream>,
    /// Why the image could not be made as long as the active's device.
    pub short: Option<String>,
    /// Frames received, of all streams.
    pub frames: u64,
    /// How often all this was shown: a look after the next one shows everything stored before this one.
    pub shows: u64,
}

/// Where a replica is in the stream of its active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// The session.
    pub session: u64,
    /// The active's epoch.
    pub epoch: u64,
    /// Raised with each beginning, for a session may begin anew.
    begins: u64,
    /// Nothing is missing before what was received last: a flush since the beginning is durable here.
    pub whole: bool,
    /// The last operation received.
    pub received: u64,
    /// Everything up to here is durable.
    pub durable: u64,
    /// The first flush since the beginning.
    first_flush: Option<u64>,
}

impl Stream {
    /// Whether it is the same, without a new beginning.
    pub fn is_of(&self, other: &Self) -> bool {
        (self.session, self.epoch, self.begins) == (other.session, other.epoch, other.begins)
    }

    /// The stream after a frame of it.
    fn after(mut self, frame: &Frame) -> Self {
        match frame {
            Frame::Begin { .. } => {
                self.begins += 1;
                (self.whole, self.first_flush) = (false, None);
            }
            Frame::Op { seq, .. } | Frame::Copy { seq, .. } => self.received = self.received.max(*seq),
            // An active sends none before it has sent all that this replica lacked.
            Frame::Flush { seq, .. } => {
                self.first_flush.get_or_insert(*seq);
            }
            _ => {}
        }
        self
    }

    /// The stream when so much of that epoch is durable.
    fn at(mut self, epoch: u64, durable: u64) -> Self {
        self.durable = if epoch == self.epoch { durable } else { 0 };
        self.whole = self.first_flush.is_some_and(|flush| self.durable >= flush);
        self
    }
}

/// The running role.
#[derive(Debug)]
pub struct Following {
    entrance: Entrance<Owner>,
    /// Ends the role where it is dropped.
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
    view: Arc<Mutex<View>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Following {
    /// Starts to follow with an image.
    pub fn start(disk: Arc<Disk>, limits: Limits) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let view = Arc::<Mutex<View>>::default();
        let entrance = Entrance::new(|entrance| Owner {
            machine: Follower::start(disk.image().state(), limits),
            disk,
            entrance,
            sessions: BTreeMap::new(),
            payloads: HashMap::new(),
            handles: 0,
            view: view.clone(),
            stream: None,
            told: None,
            stopping: None,
        });
        let ticked = entrance.clone();
        let thread =
            std::thread::Builder::new().name("volume-follow".into()).spawn(move || run(&ticked, &stopped))?;
        Ok(Self { entrance, stop, thread, view })
    }

    /// The way to its owner.
    pub(super) fn entrance(&self) -> Entrance<Owner> {
        self.entrance.clone()
    }

    /// What it looks like now.
    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Ends the role once the machine is at rest. Blocks for a few disk writes.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the replica's loop panicked");
        }
    }
}

/// Ticks for as long as the role lasts.
fn run(entrance: &Entrance<Owner>, stopped: &Receiver<()>) {
    loop {
        let stop = match stopped.recv_timeout(TICK) {
            Err(RecvTimeoutError::Disconnected) => true,
            Ok(()) | Err(RecvTimeoutError::Timeout) => false,
        };
        let ended = entrance.end_if(|owner| {
            if stop && owner.stopping.is_none() {
                owner.retire();
            }
            owner.handle(FollowerEvent::Tick);
            owner.show();
            owner.is_over()
        });
        if ended.is_some() {
            return;
        }
        if stop {
            std::thread::sleep(REST_LOOK);
        }
    }
}

/// Around the protocol's follower.
#[derive(Debug)]
pub(super) struct Owner {
    machine: Follower,
    disk: Arc<Disk>,
    /// For answers that come later.
    entrance: Entrance<Owner>,
    sessions: BTreeMap<u64, Session>,
    /// By handle: of which session, and the bytes.
    payloads: HashMap<u64, (u64, Bytes)>,
    handles: u64,
    view: Arc<Mutex<View>>,
    stream: Option<Stream>,
    /// Why the last session was refused: said once, not at every attempt.
    told: Option<Refusal>,
    /// Since when the role is to end.
    stopping: Option<Instant>,
}

impl Owner {
    fn retire(&mut self) {
        let effects = self.machine.retire();
        self.carry_all_out(effects, VecDeque::new());
        self.sessions.clear();
        self.stopping = Some(Instant::now());
    }

    fn is_over(&self) -> bool {
        match self.stopping {
            Some(_) if self.machine.is_idle() => true,
            Some(since) if since.elapsed() > REST_MAX => {
                tracing::error!("the replica did not come to rest: its disk hangs");
                true
            }
            _ => false,
        }
    }

    pub(super) fn take(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Accepted { session, writer } if self.stopping.is_none() => {
                self.sessions.insert(session, writer);
            }
            Arrived::Frame { session, frame, payload } if self.sessions.contains_key(&session) => {
                self.note(session, &frame);
                self.look_for_room(&frame);
                self.handles += 1;
                let handle = self.handles;
                if !payload.is_empty() {
                    self.payloads.insert(handle, (session, payload));
                }
                self.handle(FollowerEvent::Frame { session, handle, frame });
            }
            Arrived::Event(FollowerEvent::Closed { session }) => {
                if self.sessions.remove(&session).is_some() {
                    self.stream = self.stream.filter(|s| s.session != session);
                    self.handle(FollowerEvent::Closed { session });
                    self.payloads.retain(|_, (of, _)| *of != session);
                }
            }
            Arrived::Event(event) => self.handle(event),
            // Of a session that has ended, or too late.
            Arrived::Accepted { .. } | Arrived::Frame { .. } => {}
        }
        self.show();
    }

    fn handle(&mut self, event: FollowerEvent) {
        self.carry_all_out(vec![], VecDeque::from([event]));
    }

    /// Carries effects out, and lets the machine take the events that come of it at once.
    fn carry_all_out(&mut self, effects: Vec<FollowerEffect>, mut events: VecDeque<FollowerEvent>) {
        for effect in effects {
            self.carry_out(effect, &mut events);
        }
        while let Some(event) = events.pop_front() {
            for effect in self.machine.handle(boottime_ns() / 1_000_000, event) {
                self.carry_out(effect, &mut events);
            }
        }
    }

    fn carry_out(&mut self, effect: FollowerEffect, events: &mut VecDeque<FollowerEvent>) {
        match effect {
            FollowerEffect::Local(local) => {
                use thermidor_model::replication::LocalEffect::Store;
                let payload = match &local {
                    Store { id, .. } => self.payloads.remove(id).map(|(_, bytes)| bytes),
                    _ => None,
                };
                let entrance = self.entrance.clone();
                let answer = move |event| bring(&entrance, FollowerEvent::Local(event));
                let done = self.disk.carry_out(local, &payload.unwrap_or_default(), answer);
                events.extend(done.map(FollowerEvent::Local));
            }
            FollowerEffect::Send { session, frame } => {
                let sent = self
                    .sessions
                    .get(&session)
                    .is_some_and(|s| s.send(Outgoing { frame, payload: Bytes::new() }));
                if !sent && self.sessions.remove(&session).is_some() {
                    events.push_back(FollowerEvent::Closed { session });
                }
            }
            FollowerEffect::Hash { session, extents } => {
                let entrance = self.entrance.clone();
                self.disk.hash(extents, move |hashes| {
                    let event = match hashes {
                        Ok(hashes) => FollowerEvent::Hashed { session, hashes },
                        Err(e) => FollowerEvent::Local(failed(&e)),
                    };
                    bring(&entrance, event);
                });
            }
            FollowerEffect::Close { session, why } => {
                if let Some(why) =
                    why.filter(|why| self.told.replace(why.clone()).is_none_or(|told| told != *why))
                {
                    tracing::info!(session, %why, "a session of an active is refused");
                }
                self.sessions.remove(&session);
                self.payloads.retain(|_, (of, _)| *of != session);
            }
            FollowerEffect::Failed { error } => {
                tracing::error!(%error, "this replica is given up");
                lock(&self.view).failed = Some(error);
            }
        }
    }

    /// Follows the stream along, for whoever wants a moment of it. A session begins with its `Hello`.
    fn note(&mut self, session: u64, frame: &Frame) {
        if let Frame::Hello { epoch, .. } = frame {
            let (epoch, begins, whole) = (*epoch, 0, false);
            let (received, durable, first_flush) = (0, 0, None);
            self.stream = Some(Stream { session, epoch, begins, whole, received, durable, first_flush });
        } else {
            self.stream = self.stream.map(|s| if s.session == session { s.after(frame) } else { s });
        }
    }

    /// Before the machine hears of a longer device it learns whether the image can become so.
    fn look_for_room(&mut self, frame: &Frame) {
        let header = self.machine.header();
        let size_bytes = match frame {
            Frame::Hello { epoch, replica, size_bytes, .. }
                if *replica == header.replica && *epoch >= header.promised =>
            {
                *size_bytes
            }
            Frame::Grow { size_bytes } => *size_bytes,
            _ => return,
        };
        let may =
            if size_bytes > header.size_bytes { self.disk.image().may_become(size_bytes) } else { Ok(()) };
        lock(&self.view).short = may.as_ref().err().map(|e| chain(e));
        match may {
            Ok(()) => self.handle(FollowerEvent::Room { size_bytes }),
            Err(e) => tracing::warn!(error = %chain(&e), "this replica can't follow the volume"),
        }
    }

    fn show(&self) {
        let header = self.machine.header();
        let mut view = lock(&self.view);
        view.epoch = header.epoch;
        view.torn = header.torn;
        view.heard = self.machine.following();
        view.stream = self.stream.filter(|_| view.heard).map(|s| s.at(header.epoch, header.durable_seq));
        view.frames = self.handles;
        view.shows += 1;
    }
}

/// An error of the disk as the protocol takes it.
pub fn failed(error: &io::Error) -> thermidor_model::replication::LocalEvent {
    thermidor_model::replication::LocalEvent::Failed { error: super::disk::fault(error) }
}

fn bring(entrance: &Entrance<Owner>, event: FollowerEvent) {
    // After the role's end nobody needs the answer.
    if entrance.bring(Arrived::Event(event), Owner::take).is_err() {
        tracing::debug!("an answer came after the replica's role had ended");
    }
}
