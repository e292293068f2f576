//! One lane to one member: a connection over which many requests are in flight at once, made anew
//! by itself. Lanes are separate connections, so that a snapshot never holds up a heartbeat.

use crate::identity::{peer_of, server_name};
use crate::wire::{FRAME_MAX, Frame, framing};
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests waiting to be written on one connection; beyond it callers are refused.
const QUEUE_MAX: usize = 1024;
/// Requests in flight on one connection; beyond it callers are refused.
const FLIGHT_MAX: usize = 4096;
/// A dial (TCP and TLS) takes no longer: a first SYN lost in a cut must not cost its second-long retry.
const DIAL_MAX: Duration = Duration::from_millis(400);
/// A call waits no longer for a connection, so that its caller may look for another leader meanwhile.
const REACH_MAX: Duration = Duration::from_millis(500);
/// Between the beginnings of two dials of an unreachable member.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(25);
/// The same, after several failures.
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(200);
/// When another dial is begun beside one that is not through: of its few packets one may be lost, and TCP
/// waits 200 ms (for a first SYN a second) before it sends one again.
const DIAL_BESIDE: Duration = Duration::from_millis(80);
/// Dials beside one another.
const DIALS_MAX: u32 = 3;
/// How often a connection with requests in flight is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_millis(100);
/// How soon a request without an answer is followed by a ping, and how often. Without a packet behind it a lost one
/// is missed only after 200 ms; with one, at once (RFC 8985), on the way there and, by the pong, back.
const NUDGE_EVERY: Duration = Duration::from_millis(25);
/// Pings that follow one request; later ones only ask for a sign of life.
const NUDGES_MAX: u32 = 20;
/// A connection that has answered nothing for so long, while another to the same member answers, is stuck behind a
/// lost packet; ms.
const STUCK_MS: u64 = 75;
/// Both may have been silent, and the other one's answer be read first: it is stuck if it still is after this long, ms.
const STUCK_STILL_MS: u64 = 40;
/// TCP gives up on unacknowledged bytes after this long.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Heartbeats and votes.
    Beat,
    /// Log entries.
    Log,
    /// Snapshots.
    Snapshot,
    /// Proposals and the daemon's own requests.
    App,
}

impl Lane {
    /// A connection silent for so long while asked for a sign of life is given up.
    fn silence_max(self) -> Duration {
        Duration::from_millis(if self == Self::Beat { 500 } else { 1000 })
    }

    /// After how long what may be asked twice is asked again over another connection. What is to be written takes
    /// its time on a slow disk; all else is answered in a few ms.
    pub(crate) fn hedge_after(self) -> Duration {
        Duration::from_millis(match self {
            Self::Beat | Self::App => 15,
            Self::Log | Self::Snapshot => 150,
        })
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// It never left: surely not done.
    #[error("not reached: {0}")]
    NotSent(String),
    /// It left and nothing came back: done or not, nobody knows.
    #[error("no answer: {0}")]
    Lost(String),
    /// The member answered that it failed.
    #[error("{0}")]
    Failed(String),
    /// Surely not done: it is not the leader.
    #[error("not the leader")]
    NotLeader(Option<NodeId>),
    /// Surely not done: this member has left the home.
    #[error("this member has left the home")]
    Expelled,
}

/// Where to dial and as whom.
pub(crate) struct Dial {
    pub(crate) target: NodeId,
    pub(crate) lane: Lane,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) generation: u64,
    /// Looked up anew for every dial.
    pub(crate) address: Box<dyn Fn() -> Option<SocketAddr> + Send + Sync>,
    /// Told of a higher generation.
    pub(crate) heard_generation: Box<dyn Fn(u64) + Send + Sync>,
}

type Pending = Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, LineError>>>>;

/// A live connection.
struct Link {
    target: NodeId,
    queue: mpsc::Sender<Bytes>,
    pending: Arc<Pending>,
    closed: CancellationToken,
    next: AtomicU64,
    /// When the connection was last nudged, ms since `opened`.
    nudged: AtomicU64,
    silence: Arc<Silence>,
}

/// Since when a connection has answered nothing of what it was asked. Times are ms since `opened`, and more than 0.
struct Silence {
    opened: Instant,
    /// 0: all is answered.
    since: AtomicU64,
    /// When another connection was first seen to answer meanwhile.
    suspected: AtomicU64,
}

impl Silence {
    fn new() -> Self {
        Self { opened: Instant::now(), since: AtomicU64::new(0), suspected: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn asked(&self) {
        // Err: it has been silent for longer.
        let _ = self.since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn answered(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Another connection to the same member has just answered. Whether this one is stuck.
    fn overtaken(&self, now: u64) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 || now < since + STUCK_MS {
            return false;
        }
        let suspected = self.suspected.load(Ordering::Relaxed);
        if suspected < since {
            self.suspected.store(now, Ordering::Relaxed);
            return false;
        }
        now >= suspected + STUCK_STILL_MS
    }
}

impl Link {
    /// Sends a ping behind a request that waits, one for all requests that do.
    fn nudge(&self) {
        self.silence.asked();
        let now = self.silence.now();
        let pause = NUDGE_EVERY.as_millis() as u64;
        let due = |last: u64| (last + pause <= now).then_some(now);
        if self.nudged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
            && self.queue.try_send(Frame::Ping.encode()).is_err()
        {
            tracing::debug!("no room for a ping");
        }
    }
}

/// What the dialling task last achieved.
#[derive(Clone)]
enum Seen {
    Nothing,
    Up(Arc<Link>),
    Down(String),
}

/// A lane to a member. Its task ends when the last clone goes.
#[derive(Clone)]
pub(crate) struct Line {
    seen: watch::Receiver<Seen>,
    wanted: Arc<Notify>,
    _stop: Arc<DropGuard>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a request from the pending ones when its caller stops waiting.
struct Waiting<'a> {
    link: &'a Link,
    id: u64,
    verb: &'a str,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if lock(&self.link.pending).remove(&self.id).is_some() {
            let ms = self.since.elapsed().as_millis() as u64;
            tracing::debug!(
                member = self.link.target,
                verb = self.verb,
                ms,
                "no answer is waited for any longer"
            );
        }
    }
}

impl Line {
    pub(crate) fn open(dial: Dial) -> Self {
        let stop = CancellationToken::new();
        let wanted = Arc::new(Notify::new());
        let (tell, seen) = watch::channel(Seen::Nothing);
        let task = keep_dialled(dial, tell, wanted.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(task));
        Self { seen, wanted, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The connection that is live now.
    fn live(&self) -> Option<Arc<Link>> {
        match &*self.seen.borrow() {
            Seen::Up(link) if !link.closed.is_cancelled() => Some(link.clone()),
            _ => None,
        }
    }

    /// Whether there is a live connection.
    pub(crate) fn is_up(&self) -> bool {
        self.live().is_some()
    }

    /// Another line to the same member has just answered: if this one is stuck, it is given up and dialled anew.
    pub(crate) fn was_overtaken(&self) {
        if let Some(link) = self.live()
            && link.silence.overtaken(link.silence.now())
        {
            tracing::debug!(member = link.target, "a connection is stuck and given up");
            link.closed.cancel();
            self.wanted.notify_one();
        }
    }

    /// A live connection, waiting for one until the deadline.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, LineError> {
        let mut seen = self.seen.clone();
        let mut last = String::from("dialling takes too long");
        let wait = async {
            loop {
                match seen.borrow_and_update().clone() {
                    Seen::Up(link) if !link.closed.is_cancelled() => return Some(link),
                    Seen::Down(why) => last = why,
                    Seen::Up(_) | Seen::Nothing => {}
                }
                self.wanted.notify_one();
                if seen.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(LineError::NotSent("this member is shutting down".into())),
            Err(_) => Err(LineError::NotSent(last)),
        }
    }

    /// Sends a request and waits for its answer, until the deadline at most.
    pub(crate) async fn call(&self, verb: &str, body: Bytes, deadline: Instant) -> Result<Bytes, LineError> {
        let link = self.link(deadline.min(Instant::now() + REACH_MAX)).await?;
        let id = link.next.fetch_add(1, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX);
        let frame = Frame::Request { id, deadline_ms, verb: verb.to_string(), body }.encode();
        if frame.len() > FRAME_MAX {
            return Err(LineError::NotSent(format!("{} bytes are more than a frame takes", frame.len())));
        }
        let (tell, answer) = oneshot::channel();
        {
            let mut pending = lock(&link.pending);
            if pending.len() >= FLIGHT_MAX {
                return Err(LineError::NotSent(format!("{FLIGHT_MAX} requests are in flight")));
            }
            pending.insert(id, tell);
        }
        link.silence.asked();
        let _waiting = Waiting { link: &link, id, verb, since: Instant::now() };
        match timeout(deadline.saturating_duration_since(Instant::now()), link.queue.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(LineError::NotSent("the connection has closed".into())),
            Err(_) => return Err(LineError::NotSent("the connection takes no more".into())),
        }
        // The connection may have closed between our look and our entry: then nobody would tell us.
        if link.closed.is_cancelled() {
            return Err(LineError::Lost("the connection closed".into()));
        }
        match tokio::time::timeout_at(deadline, nudging(&link, answer)).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(LineError::Lost("the connection closed".into())),
            Err(_) => Err(LineError::Lost("not answered in time".into())),
        }
    }
}

/// Waits for an answer, and lets pings follow the request meanwhile.
async fn nudging<T>(link: &Link, answer: oneshot::Receiver<T>) -> Result<T, oneshot::error::RecvError> {
    tokio::pin!(answer);
    for _ in 0..NUDGES_MAX {
        if let Ok(answered) = timeout(NUDGE_EVERY, &mut answer).await {
            return answered;
        }
        link.nudge();
    }
    answer.await
}

/// Dials, and dials once more beside it when that takes long; the first that is through is taken.
async fn connect(dial: &Dial) -> Result<TlsStream<TcpStream>, String> {
    let one = |after: Duration| async move {
        sleep(after).await;
        dial_once(dial).await
    };
    let mut dials: FuturesUnordered<_> = (0..DIALS_MAX).map(|n| one(DIAL_BESIDE * n)).collect();
    // A refusal is an answer too: asking again at once would bring the same.
    dials.next().await.unwrap_or_else(|| Err("not dialled".into()))
}

/// Dials when somebody wants to call, and again when the connection ended.
async fn keep_dialled(dial: Dial, tell: watch::Sender<Seen>, wanted: Arc<Notify>) {
    let mut pause = DIAL_PAUSE_MIN;
    loop {
        wanted.notified().await;
        let begun = Instant::now();
        match timeout(DIAL_MAX, connect(&dial))
            .await
            .unwrap_or_else(|_| Err("dialling takes too long".into()))
        {
            Ok(stream) => {
                pause = DIAL_PAUSE_MIN;
                let link = carry(stream, dial.target, dial.lane);
                tell.send_replace(Seen::Up(link.clone()));
                link.closed.cancelled().await;
                tell.send_replace(Seen::Down("the connection closed".into()));
                sleep_until(begun + DIAL_PAUSE_MIN).await;
            }
            Err(why) => {
                tracing::debug!(member = dial.target, lane = ?dial.lane, why, "not reached");
                tell.send_replace(Seen::Down(why));
                sleep_until(begun + pause).await;
                pause = (pause * 2).min(DIAL_PAUSE_MAX);
            }
        }
    }
}

/// Socket settings of both ends.
pub(crate) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    // Few packets are on their way at any time: the pause before a repetition does not double.
    socket.set_tcp_thin_linear_timeouts(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

async fn dial_once(dial: &Dial) -> Result<TlsStream<TcpStream>, String> {
    let address = (dial.address)().ok_or("its address is not known")?;
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    tune(&stream).map_err(|e| format!("{address}: {e}"))?;
    let tls = TlsConnector::from(dial.tls.clone());
    let stream = tls.connect(server_name(), stream).await.map_err(|e| format!("{address}: {e}"))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let (node, generation) =
        certificate.and_then(peer_of).ok_or_else(|| format!("{address} is no member of this home"))?;
    if generation > dial.generation {
        (dial.heard_generation)(generation);
    }
    if generation != dial.generation {
        return Err(format!("{address} is of generation {generation}, this member of {}", dial.generation));
    }
    if node != dial.target {
        return Err(format!("{address} is member {node}, not {}", dial.target));
    }
    Ok(stream)
}

/// Starts the two tasks of a connection.
fn carry(stream: TlsStream<TcpStream>, target: NodeId, lane: Lane) -> Arc<Link> {
    let (read, write) = tokio::io::split(stream);
    let (queue, frames) = mpsc::channel(QUEUE_MAX);
    let closed = CancellationToken::new();
    let pending = Arc::new(Pending::default());
    let silence = Arc::new(Silence::new());
    let link = Link {
        target,
        queue: queue.clone(),
        pending: pending.clone(),
        closed: closed.clone(),
        next: AtomicU64::new(1),
        nudged: AtomicU64::new(0),
        silence: silence.clone(),
    };
    let ending = closed.clone();
    tokio::spawn(async move {
        let outcome = closed.run_until_cancelled(write_frames(write, frames)).await;
        if let Some(Err(e)) = outcome {
            tracing::debug!(member = target, ?lane, error = %e, "a connection can't be written");
        }
        closed.cancel();
    });
    tokio::spawn(async move {
        let reading = read_answers(read, &pending, &queue, &silence, lane.silence_max());
        if let Some(why) = ending.run_until_cancelled(reading).await {
            tracing::debug!(member = target, ?lane, why, "a connection ended");
        }
        ending.cancel();
        // Dropping the senders tells every caller that its answer is lost.
        lock(&pending).clear();
    });
    Arc::new(link)
}

/// Writes what is queued, flushing once the queue is empty.
pub(crate) async fn write_frames<W: tokio::io::AsyncWrite>(
    write: WriteHalf<W>,
    mut frames: mpsc::Receiver<Bytes>,
) -> std::io::Result<()> {
    let mut out = FramedWrite::new(write, framing(FRAME_MAX));
    while let Some(frame) = frames.recv().await {
        out.feed(frame).await?;
        while let Ok(more) = frames.try_recv() {
            out.feed(more).await?;
        }
        SinkExt::<Bytes>::flush(&mut out).await?;
    }
    Ok(())
}

/// The next of the moments at which every connection of this process looks: a process at rest wakes once for all.
fn next_on_the_grid() -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    let past = first.elapsed().as_nanos() / PING_EVERY.as_nanos();
    first + PING_EVERY * u32::try_from(past + 1).unwrap_or(u32::MAX)
}

async fn read_answers(
    read: ReadHalf<TlsStream<TcpStream>>,
    pending: &Pending,
    queue: &mpsc::Sender<Bytes>,
    silence: &Silence,
    silence_max: Duration,
) -> String {
    let mut frames = FramedRead::new(read, framing(FRAME_MAX));
    let mut heard = Instant::now();
    let mut tick = tokio::time::interval_at(next_on_the_grid(), PING_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            frame = frames.next() => {
                heard = Instant::now();
                silence.answered();
                let frame = match frame {
                    None => return "closed by the other end".into(),
                    Some(Err(e)) => return e.to_string(),
                    Some(Ok(bytes)) => match Frame::decode(bytes.freeze()) {
                        Ok(frame) => frame,
                        Err(e) => return e.to_string(),
                    },
                };
                let (id, result) = match frame {
                    Frame::Answer { id, body } => (id, Ok(body)),
                    Frame::Failure { id, text } => (id, Err(LineError::Failed(text))),
                    Frame::NotLeader { id, leader } => (id, Err(LineError::NotLeader(leader))),
                    Frame::Expelled { id } => (id, Err(LineError::Expelled)),
                    Frame::Pong => continue,
                    Frame::Ping | Frame::Request { .. } => return "it asks where it should answer".into(),
                };
                if let Some(caller) = lock(pending).remove(&id) {
                    // Err: the caller has stopped waiting meanwhile.
                    drop(caller.send(result));
                }
            }
            _ = tick.tick() => {
                if lock(pending).is_empty() {
                    heard = heard.max(Instant::now().checked_sub(PING_EVERY).unwrap_or(heard));
                } else if heard.elapsed() > silence_max {
                    return format!("silent for {} ms", heard.elapsed().as_millis());
                } else if queue.try_send(Frame::Ping.encode()).is_err() {
                    tracing::debug!("no room for a ping");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_stuck_when_another_answers_twice_while_it_is_silent() {
        let silence = Silence::new();
        assert!(!silence.overtaken(10_000), "it was asked nothing");
        silence.since.store(100, Ordering::Relaxed);
        assert!(!silence.overtaken(174), "it may be on its way");
        assert!(!silence.overtaken(175), "its answer may be the next that is read");
        assert!(!silence.overtaken(214));
        assert!(silence.overtaken(215));
        silence.answered();
        assert!(!silence.overtaken(300));
        silence.since.store(300, Ordering::Relaxed);
        assert!(!silence.overtaken(400), "an earlier suspicion does not count");
        assert!(silence.overtaken(440));
    }

    #[test]
    fn what_was_asked_first_and_has_no_answer_counts() {
        let silence = Silence::new();
        silence.asked();
        let since = silence.since.load(Ordering::Relaxed);
        assert_ne!(since, 0);
        std::thread::sleep(Duration::from_millis(5));
        silence.asked();
        assert_eq!(silence.since.load(Ordering::Relaxed), since);
    }
}
