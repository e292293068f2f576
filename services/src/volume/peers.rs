//! Connections between a volume's processes: the active dials, the replicas accept. Both sides
//! prove under the home's authority which member they are.

use super::active::{self, Active};
use super::entrance::Entrance;
use super::image::Image;
use super::roles::{Process, Role, State, lock};
use super::session::{self, Ear, Session, tune};
use super::{following, leading};
use crate::link::Link;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermidor_model::NodeId;
use thermidor_model::replication::{EXTENT_BYTES, Event, FollowerEvent, Frame};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Connecting and the handshake together may take so long.
const GREET_MAX: Duration = Duration::from_secs(2);
/// Waits between attempts: at once, then doubling up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_millis(200);
/// A session that lasted for less was refused: such a replica will not be fit within a moment.
const BRIEF: Duration = Duration::from_secs(1);
/// The longest wait before one that keeps refusing is asked again.
const REFUSED_MAX: Duration = Duration::from_secs(2);

/// How often a busy port is tried again.
const LISTEN_AGAIN: Duration = Duration::from_millis(200);
/// Sessions served at once; an active needs one, and may reconnect.
const SESSIONS_MAX: usize = 16;

/// Session numbers of this process: none is used twice.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

fn next_session() -> u64 {
    SESSIONS.fetch_add(1, Ordering::Relaxed)
}

fn stranger() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the peer is not the member expected")
}

fn who(link: &Link, stream: &TlsStream<TcpStream>) -> Option<NodeId> {
    stream.get_ref().1.peer_certificates()?.first().and_then(|certificate| (link.peer_of)(certificate))
}

/// How long to wait after an attempt that came `wait` after the one before: `lasted` is for how long its session stood,
/// if it came to one.
fn back_off(wait: Duration, lasted: Option<Duration>) -> Duration {
    match lasted {
        Some(lasted) if lasted >= BRIEF => BACK_OFF_MIN,
        Some(_) => (wait * 2).min(REFUSED_MAX),
        None => (wait * 2).min(BACK_OFF_MAX),
    }
}

/// Keeps a session to one replica alive for as long as the role lasts.
pub async fn dial(link: Link, replica: NodeId, address: SocketAddr, image: Arc<Image>, active: Arc<Active>) {
    let mut wait = Duration::ZERO;
    loop {
        let lasted = match greet(&link, replica, address).await {
            Ok(stream) => {
                let began = Instant::now();
                let ear = ActivesEar { replica, session: next_session(), entrance: active.entrance() };
                match converse(stream, image.clone(), ear).await {
                    Ok(()) => tracing::debug!(replica, "a session to a replica ended"),
                    Err(e) if wait == REFUSED_MAX => tracing::debug!(replica, error = %e, "again refused"),
                    Err(e) => tracing::info!(replica, error = %e, "a session to a replica ended"),
                }
                Some(began.elapsed())
            }
            Err(e) => {
                tracing::debug!(replica, %address, error = %e, "a replica is not reached");
                None
            }
        };
        wait = back_off(wait, lasted).max(BACK_OFF_MIN);
        tokio::time::sleep(wait).await;
    }
}

async fn greet(link: &Link, replica: NodeId, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let greeted = async {
        let stream = TcpStream::connect(address).await?;
        tune(&stream)?;
        let name = link.server_name.clone();
        let stream = TlsStream::from(TlsConnector::from(link.client.clone()).connect(name, stream).await?);
        if who(link, &stream) == Some(replica) { Ok(stream) } else { Err(stranger()) }
    };
    tokio::time::timeout(GREET_MAX, greeted).await?
}

async fn converse(stream: TlsStream<TcpStream>, image: Arc<Image>, ear: impl Ear) -> io::Result<()> {
    session::start(stream, image, ear)?.ended().await
}

/// What the active hears of a replica.
struct ActivesEar {
    replica: NodeId,
    session: u64,
    entrance: Entrance<leading::Owner>,
}

impl ActivesEar {
    fn bring(&self, arrived: active::Arrived) -> bool {
        self.entrance.bring(arrived, leading::Owner::take).is_ok()
    }
}

impl Ear for ActivesEar {
    fn opened(&mut self, writer: Session) -> bool {
        self.bring(active::Arrived::Connected { replica: self.replica, session: self.session, writer })
    }

    fn frame(&mut self, frame: Frame, payload: Bytes) -> bool {
        let (replica, session) = (self.replica, self.session);
        self.bring(match frame {
            Frame::Extent { extent, len, hole } => {
                let zeros = || vec![0; len as usize].into();
                active::Arrived::Fetched {
                    from: replica,
                    extent,
                    payload: (len <= EXTENT_BYTES).then(|| if hole { zeros() } else { payload }),
                }
            }
            frame => active::Arrived::Event(Event::Frame { replica, session, frame }),
        })
    }

    fn closed(&mut self) {
        // A role that has ended knows of no session.
        let (replica, session) = (self.replica, self.session);
        self.bring(active::Arrived::Event(Event::Closed { replica, session }));
    }
}

/// What a replica hears of an active.
struct ReplicasEar {
    session: u64,
    entrance: Entrance<following::Owner>,
}

impl ReplicasEar {
    fn bring(&self, arrived: following::Arrived) -> bool {
        self.entrance.bring(arrived, following::Owner::take).is_ok()
    }
}

impl Ear for ReplicasEar {
    fn opened(&mut self, writer: Session) -> bool {
        self.bring(following::Arrived::Accepted { session: self.session, writer })
    }

    fn frame(&mut self, frame: Frame, payload: Bytes) -> bool {
        self.bring(following::Arrived::Frame { session: self.session, frame, payload })
    }

    fn closed(&mut self) {
        // A role that has ended knows of no session.
        self.bring(following::Arrived::Event(FollowerEvent::Closed { session: self.session }));
    }
}

/// Accepts a connection of a member that may be this volume's active, and serves it to its end.
pub async fn accept(
    link: Link,
    stream: TcpStream,
    may: impl Fn(NodeId) -> bool,
    image: Arc<Image>,
    entrance: Entrance<following::Owner>,
) -> io::Result<()> {
    tune(&stream)?;
    let greeted = TlsAcceptor::from(link.server.clone()).accept(stream);
    let stream = TlsStream::from(tokio::time::timeout(GREET_MAX, greeted).await??);
    if !who(&link, &stream).is_some_and(may) {
        return Err(stranger());
    }
    let shown = stream.get_ref().1.peer_certificates().map(|shown| shown.to_vec());
    let life = session::start(stream, image, ReplicasEar { session: next_session(), entrance })?;
    tokio::select! {
        ended = life.ended() => ended,
        () = link.refused(shown.as_deref()) => Err(stranger()),
    }
}

impl Process {
    /// Tells the active the record, and dials the replicas that it names.
    pub(super) fn spread(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let State { configured: Some(configured), disk: Some((_, disk)), role, .. } = &mut *state else {
            return;
        };
        let Role::Active { active, dialling, .. } = role else { return };
        active.tell(Event::Config(configured.record.clone()));
        let wanted: BTreeMap<NodeId, SocketAddr> = configured
            .record
            .replicas
            .keys()
            .filter(|node| **node != self.options.node)
            .filter_map(|node| {
                let ip = configured.members.get(node)?;
                Some((*node, SocketAddr::new(*ip, configured.record.port)))
            })
            .collect();
        dialling.retain(|node, (address, task)| {
            let keep = wanted.get(node) == Some(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, address) in wanted {
            dialling.entry(node).or_insert_with(|| {
                let (link, image) = (self.options.link.clone(), disk.image().clone());
                let task = tokio::spawn(dial(link, node, address, image, active.clone()));
                (address, task.abort_handle())
            });
        }
    }

    pub(super) fn listen(self: &Arc<Self>, port: u16) {
        let mut state = lock(&self.state);
        if state.listening.as_ref().is_some_and(|(known, _)| *known == port) {
            return;
        }
        if let Some((_, task)) = state.listening.take() {
            task.abort();
        }
        let task = tokio::spawn(self.clone().accept_all(SocketAddr::new(self.options.listen, port)));
        state.listening = Some((port, task.abort_handle()));
    }

    pub(super) async fn accept_all(self: Arc<Self>, address: SocketAddr) {
        let places = Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX));
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(e) => tracing::warn!(%address, error = %e, "can't listen for the active yet"),
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        };
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "accepting failed");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                    continue;
                }
            };
            let (entrance, image) = {
                let state = lock(&self.state);
                let State { disk: Some((_, disk)), role: Role::Following(following), .. } = &*state else {
                    continue;
                };
                (following.entrance(), disk.image().clone())
            };
            let (this, link) = (self.clone(), self.options.link.clone());
            tokio::spawn(async move {
                let may = |node| this.is_member(node);
                if let Err(e) = accept(link, stream, may, image, entrance).await {
                    tracing::info!(error = %e, "a session of an active ended");
                }
                drop(place);
            });
        }
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        node != self.options.node
            && lock(&self.state).configured.as_ref().is_some_and(|c| c.record.replicas.contains_key(&node))
    }

    pub(super) fn listen_no_more(&self) {
        if let Some((_, task)) = lock(&self.state).listening.take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_refuses_is_asked_less_and_less_and_one_that_served_at_once() {
        let ms = Duration::from_millis;
        let refused = |waits: usize| (0..waits).fold(BACK_OFF_MIN, |wait, _| back_off(wait, Some(ms(3))));
        assert_eq!((refused(1), refused(4), refused(30)), (ms(20), ms(160), REFUSED_MAX));
        let absent = (0..30).fold(BACK_OFF_MIN, |wait, _| back_off(wait, None));
        assert_eq!(absent, BACK_OFF_MAX);
        assert_eq!(back_off(REFUSED_MAX, None), BACK_OFF_MAX, "it may be restarting");
        assert_eq!(back_off(REFUSED_MAX, Some(BRIEF)), BACK_OFF_MIN);
    }
}
