//! The active's owner: device requests, frames, the disk's answers and Raft's are brought to it one at a time, and
//! nothing else touches the machine.

use super::active::{Arrived, Done, Fault, Right, View, bring, lock, tell};
use super::disk::Disk;
use super::entrance::Entrance;
use super::following::failed;
use super::session::Session;
use super::wire::Outgoing;
use super::{Propose, Unknown};
use crate::lease_page::boottime_ns;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thermidor_model::replication::scrub::{Pace, Record};
use thermidor_model::replication::{self, Answer, DeviceOp, Effect, Event, Frame, LocalEffect};
use thermidor_model::{Command, NodeId, Outcome};

const TICK: Duration = Duration::from_millis(20);
/// So long a change stays without a flush at most: nobody else may ask for one on a volume at rest, and a standby's
/// snapshot waits for it.
const UNFLUSHED_MAX: Duration = Duration::from_secs(2);
/// A proposal without an answer for so long is unknown.
const PROPOSE_MAX: Duration = Duration::from_secs(2);
/// How long a machine may take to come to rest when its role ends.
const REST_MAX: Duration = Duration::from_secs(10);

/// Around the protocol's active.
pub(super) struct Owner {
    pub(super) machine: replication::Active,
    pub(super) disk: Arc<Disk>,
    /// For answers that come later.
    pub(super) entrance: Entrance<Owner>,
    /// For what must not be waited for.
    pub(super) queue: SyncSender<Arrived>,
    pub(super) right: Right,
    pub(super) revoked: bool,
    /// Since when the role is to end.
    pub(super) stopping: Option<Instant>,
    pub(super) fenced: Arc<AtomicBool>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) propose: Propose,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) pace: Pace,
    pub(super) node: NodeId,
    pub(super) requests: u64,
    /// Since when a change has been waiting for a flush.
    pub(super) unflushed: Option<Instant>,
    /// Requests not answered yet.
    pub(super) waiting: HashMap<u64, (Bytes, Done)>,
    /// Payloads by the operation's number, until they are forgotten.
    pub(super) payloads: BTreeMap<u64, Bytes>,
    pub(super) sessions: BTreeMap<(NodeId, u64), Session>,
    /// Why the last session to each replica was ended: said once, not at every attempt.
    pub(super) told: BTreeMap<NodeId, String>,
}

/// Ticks, and brings what nobody may wait to bring, for as long as the role lasts.
pub(super) fn run(entrance: &Entrance<Owner>, arrivals: &Receiver<Arrived>, record: Record) {
    let begin = |owner: &mut Owner, record| {
        owner.begin_to_scrub(record);
        owner.show();
    };
    if entrance.bring(record, begin).is_err() {
        return;
    }
    let mut ticked = Instant::now();
    loop {
        let arrived = match arrivals.recv_timeout(TICK) {
            Ok(arrived) => Some(arrived),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Arrived::Stop),
        };
        let ended = entrance.end_if(|owner| {
            match arrived {
                Some(arrived) => owner.take(arrived),
                None => owner.look_at_the_lease(),
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                owner.handle([Event::Tick]);
                owner.flush_what_nobody_flushes();
                owner.show();
            }
            owner.is_over()
        });
        if let Some(owner) = ended {
            return owner.end();
        }
    }
}

impl Owner {
    /// Carries out what the machine began with.
    pub(super) fn begin(&mut self, effects: Vec<Effect>) {
        let mut events = VecDeque::new();
        for effect in effects {
            self.carry_out(effect, &mut events);
        }
        self.handle(events);
        self.show();
    }

    fn is_over(&self) -> bool {
        match self.stopping {
            Some(_) if self.machine.is_idle() => true,
            Some(since) if since.elapsed() > REST_MAX => {
                tracing::error!("the active did not come to rest: its disk hangs");
                true
            }
            _ => false,
        }
    }

    fn end(mut self) {
        self.fenced.store(true, Ordering::Release);
        for (_, (_, done)) in self.waiting.drain() {
            done(Err(Fault::Failed));
        }
    }

    fn look_at_the_lease(&mut self) {
        self.handle([Event::Lease { until_ms: if self.revoked { 0 } else { self.right.until_ms() } }]);
    }

    pub(super) fn take(&mut self, arrived: Arrived) {
        self.look_at_the_lease();
        match arrived {
            Arrived::Device { op, payload, done } => self.ask(op, payload, done),
            Arrived::Connected { replica, session, writer } if self.stopping.is_none() => {
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
            Arrived::Fetched { from, extent, payload } => self.fetched(from, extent, payload),
            Arrived::Event(event) => self.handle([event]),
            Arrived::Fence(why) => self.revoke(&why),
            Arrived::Stop => {
                for (replica, session) in std::mem::take(&mut self.sessions).into_keys() {
                    self.handle([Event::Closed { replica, session }]);
                }
                self.stopping.get_or_insert_with(Instant::now);
            }
            Arrived::Connected { .. } => {}
        }
    }

    fn ask(&mut self, op: DeviceOp, payload: Bytes, done: Done) {
        match op {
            DeviceOp::Change(_) => self.unflushed = self.unflushed.or_else(|| Some(Instant::now())),
            DeviceOp::Flush => self.unflushed = None,
        }
        let request = self.await_answer(payload, done);
        self.handle([Event::Device { request, op }]);
    }

    /// Keeps what a request brings until it is answered; its number.
    pub(super) fn await_answer(&mut self, payload: Bytes, done: Done) -> u64 {
        self.requests += 1;
        self.waiting.insert(self.requests, (payload, done));
        self.requests
    }

    fn flush_what_nobody_flushes(&mut self) {
        if self.stopping.is_none() && self.unflushed.is_some_and(|since| since.elapsed() > UNFLUSHED_MAX) {
            // Nobody waits for its answer.
            self.ask(DeviceOp::Flush, Bytes::new(), Box::new(drop));
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

    pub(super) fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
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
                if self.told.insert(replica, why.clone()).is_none_or(|told| told != why) {
                    tracing::info!(replica, session, why, "a session is ended");
                }
                self.sessions.remove(&(replica, session));
            }
            Effect::Compare { replica, session, hashes } => {
                let entrance = self.entrance.clone();
                self.disk.hash(hashes.iter().map(|(extent, _)| *extent).collect(), move |ours| {
                    let event = match ours {
                        Ok(ours) => {
                            let differ = ours.iter().zip(&hashes).filter(|(a, b)| a.1 != b.1);
                            let differing = differ.map(|(a, _)| a.0).collect();
                            Event::Compared { replica, session, differing }
                        }
                        Err(e) => Event::Local(failed(&e)),
                    };
                    bring(&entrance, Arrived::Event(event));
                });
            }
            Effect::ReadExtent { extent } => self.read_extent(extent),
            Effect::Differs { extent, found } => tracing::warn!(extent, ?found, "the replicas differ"),
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
        let entrance = self.entrance.clone();
        let answer = move |event| bring(&entrance, Arrived::Event(Event::Local(event)));
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
        view.in_sync.clone_from(self.machine.in_sync());
        let examination = self.machine.examination();
        if view.examination.as_ref() != Some(examination) {
            view.examination = Some(examination.clone());
        }
        view.beats += 1;
    }
}

/// From within, where nobody may wait for the queue: if that is full, the next request's answer finds the lease over just
/// the same.
fn tell_later(queue: &SyncSender<Arrived>, arrived: Arrived) {
    if queue.try_send(arrived).is_err() {
        tracing::debug!("the active's queue is full");
    }
}
