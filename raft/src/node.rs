//! A running member: everything in this crate put together.

use crate::barrier::Barriers;
use crate::codec;
use crate::config::{SNAPSHOT_EVERY, config};
use crate::identity::{Identity, IdentityError};
use crate::leadership::{self, Leadership};
use crate::line::{Lane, LineError};
use crate::line_pool::{Addresses, LinePool};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::network::Network;
use crate::proposing::LOOK_AGAIN;
use crate::quiet::{Quiet, Taken};
use crate::snapshot_stream::Arriving;
use crate::types::Raft;
use crate::{disk, founding, keeper, listener, members_file, quiet, rescue};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thermidor_model::{Command, NodeId, Outcome, State};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Answers a request of another member: who asks, what; bytes, or why not, in words.
pub type Handler = Arc<dyn Fn(NodeId, Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// How to start a member.
pub struct StartOptions {
    /// The data directory.
    pub data: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address to tell the others; `None`: the IP given at `init` or `join` with the listener's port.
    pub advertise: Option<SocketAddr>,
    /// What answers `call` and `call_leader` of each kind.
    pub handlers: BTreeMap<&'static str, Handler>,
    /// Log entries between two snapshots; `None`: 5000.
    pub snapshot_every: Option<u64>,
}

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity is missing or damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file or the listener.
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
    /// The home's times make no sense.
    #[error("the home's times are unsound: {0}")]
    Timing(String),
    /// openraft refuses.
    #[error("consensus does not start: {0}")]
    Raft(String),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not the leader; who is, if known.
    #[error("this member does not lead")]
    NotLeader(Option<NodeId>),
    /// Leader, but a majority does not answer.
    #[error("the home has no quorum: {0}")]
    NoQuorum(String),
    /// It was not reached, or nobody leads: surely not done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It was reached and did not answer: done or not.
    #[error("no answer: {0}")]
    Lost(String),
    /// It answered that it failed.
    #[error("{0}")]
    Failed(String),
    /// This member is shutting down.
    #[error("this member is shutting down")]
    Stopped,
}

impl From<LineError> for CallError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NotSent(why) => Self::Unreachable(why),
            LineError::Lost(why) => Self::Lost(why),
            LineError::Failed(why) => Self::Failed(why),
            LineError::NotLeader(leader) => Self::NotLeader(leader),
            e @ LineError::Expelled => Self::Failed(e.to_string()),
        }
    }
}

/// Whether this member still belongs to its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The generation of this member's certificate.
    pub generation: u64,
    /// The highest generation heard. Higher than ours: stop all services and rejoin.
    pub heard_generation: u64,
    /// This member has left the home, or was taken out: stop all services.
    pub expelled: bool,
}

pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) data: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) raft: Raft,
    pub(crate) pool: Arc<LinePool>,
    pub(crate) handlers: BTreeMap<&'static str, Handler>,
    pub(crate) arriving: Mutex<Arriving>,
    /// Members that have shown us their certificate since the start.
    pub(crate) contacted: Mutex<BTreeSet<NodeId>>,
    /// No vote is granted before: see [`Node::start`].
    pub(crate) votes_from: Instant,
    /// CLOCK_BOOTTIME, ns, at which a leader last asked this member to take over; 0: never.
    pub(crate) handed: Arc<AtomicU64>,
    /// When this member last took something from a leader.
    pub(crate) taken: Arc<Taken>,
    /// Since when earlier leaders are silent, once this leadership knows.
    pub(crate) quiet: Mutex<Quiet>,
    state: watch::Receiver<Arc<State>>,
    leadership: watch::Receiver<Leadership>,
    standing: watch::Sender<Standing>,
    barriers: Barriers,
    changing: tokio::sync::Mutex<()>,
    /// Shared by proposals under way here; a hand-over of leadership has it alone.
    proposing: tokio::sync::RwLock<()>,
    log: LogStore,
    stop: CancellationToken,
}

/// A running member. Clones are the same one.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |e| StartError::Io(what, e)
}

impl Node {
    /// Starts a member from its data directory, newly founded, newly joined or restarted.
    ///
    /// A restarted member has forgotten until when it had promised the old leader not to vote for
    /// another. So it grants no vote, and stands for none, before `election_max_ms` have passed since
    /// its start: a new leader may count on that when it counts how long ago the old one can have
    /// granted a lease.
    pub async fn start(options: StartOptions) -> Result<Self, StartError> {
        let StartOptions { data, listen, advertise, handlers, snapshot_every } = options;
        let started_ns = crate::boottime_ns();
        rescue::finish(&data).map_err(io("a rescue can't be finished"))?;
        let identity = Identity::load(&data)?;
        let listener = TcpListener::bind(listen).await.map_err(io(format!("can't listen on {listen}")))?;
        let port = listener.local_addr().map_err(io("the listener has no address"))?.port();
        let address = match advertise {
            Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), port),
            Some(address) => address,
            None => SocketAddr::new(identity.own.advertise_ip, port),
        };
        let (log, machine) = open_storage(&data).await?;

        let every = snapshot_every.unwrap_or(SNAPSHOT_EVERY);
        let timing = identity.own.timing;
        let config = config(identity.own.home.as_str(), &timing, every).map_err(StartError::Timing)?;
        let addresses = Addresses::default();
        addresses.set(members_file::read(&data).map_err(io("members.json can't be read"))?);
        let pool = LinePool::new(&identity, addresses.clone())?;
        let state = machine.state();
        let network = Network { pool: pool.clone() };
        let raft = Raft::new(identity.node(), Arc::new(config), network, log.clone(), machine)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;

        let stop = CancellationToken::new();
        let standing = Standing {
            generation: identity.generation,
            heard_generation: identity.generation,
            expelled: false,
        };
        let handed = Arc::new(AtomicU64::new(0));
        let taken = Arc::new(Taken::since(started_ns));
        let node = Self(Arc::new(Inner {
            votes_from: Instant::now() + Duration::from_millis(timing.election_max_ms),
            state: state.clone(),
            leadership: leadership::follow(&raft, handed.clone(), taken.clone(), stop.clone()),
            handed,
            taken,
            quiet: Mutex::default(),
            standing: watch::Sender::new(standing),
            barriers: Barriers::start(raft.clone(), stop.clone()),
            changing: tokio::sync::Mutex::default(),
            proposing: tokio::sync::RwLock::default(),
            arriving: Mutex::default(),
            contacted: Mutex::default(),
            data: data.clone(),
            identity,
            address,
            raft,
            pool,
            handlers,
            log,
            stop: stop.clone(),
        }));
        members_file::follow(data, addresses, state, stop.clone());
        node.spawn(listener::serve(listener, node.clone()));
        node.spawn(keeper::keep(node.clone()));
        node.spawn(quiet::follow(node.clone()));
        node.spawn(watch_standing(node.clone()));
        founding::found_if_new(&node).await?;
        node.spawn(tell_address(node.clone()));
        let electing = node.clone();
        node.spawn(async move {
            tokio::time::sleep_until(electing.0.votes_from).await;
            electing.raft().runtime_config().elect(true);
        });
        Ok(node)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.0.stop.clone().run_until_cancelled_owned(task));
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub(crate) fn pool(&self) -> &LinePool {
        &self.0.pool
    }

    pub(crate) fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.0.changing
    }

    pub(crate) fn proposing(&self) -> &tokio::sync::RwLock<()> {
        &self.0.proposing
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// This member's number.
    pub fn id(&self) -> NodeId {
        self.0.identity.node()
    }

    /// This member's identity: TLS, home key, authority.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The address told to the other members.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The applied state, as it changes.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.0.state.clone()
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Whether this member still belongs to its home, as it changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Proves that this member leads *now*: a quorum round begun after the call. Concurrent callers
    /// share rounds.
    pub async fn barrier(&self) -> Result<(), CallError> {
        self.0.barriers.pass().await
    }

    /// On the leader: milliseconds since each other member last acknowledged it. Absent: not since
    /// this leader began.
    pub fn silent_ms(&self) -> BTreeMap<NodeId, u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.iter().flatten();
        heard
            .filter(|(id, _)| **id != self.id())
            .filter_map(|(id, at)| at.map(|at| (*id, elapsed_ms(&at))))
            .collect()
    }

    /// On the leader: milliseconds since a quorum last acknowledged it.
    pub fn quorum_silent_ms(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let at = metrics.borrow_watched().last_quorum_acked?;
        Some(elapsed_ms(&at))
    }

    /// Durable writes of the log since the start: an idle home makes none.
    pub fn log_commits(&self) -> u64 {
        self.0.log.commits()
    }

    /// Asks a member's handler. At most once: it is not tried again by itself.
    pub async fn call(
        &self,
        to: NodeId,
        kind: &str,
        body: Bytes,
        time: Duration,
    ) -> Result<Bytes, CallError> {
        if to == self.id() {
            let asked = tokio::time::timeout(time, self.handle(self.id(), kind, body));
            return asked
                .await
                .map_err(|_| CallError::Lost("not answered in time".into()))?
                .map_err(Into::into);
        }
        let deadline = Instant::now() + time;
        Ok(self.pool().call(to, Lane::App, &format!("app/{kind}"), body, deadline).await?)
    }

    /// Asks the leader's handler, whoever leads. Tried again until the deadline while it surely was
    /// not handled.
    pub async fn call_leader(&self, kind: &str, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let mut leadership = self.leadership();
        let mut last = String::from("no leader is known");
        let mut hint = None;
        let mut guesses = self.guesses();
        while Instant::now() < deadline {
            let known = leadership.borrow_and_update().leader;
            let answer = match hint.take().or(known).or_else(|| guesses.next()) {
                None => Err(LineError::NotSent(last.clone())),
                Some(leader) if leader == self.id() => {
                    let handled = self.handle_as_leader(self.id(), kind, body.clone());
                    timeout_at(deadline, handled)
                        .await
                        .unwrap_or_else(|_| Err(LineError::Lost("late".into())))
                }
                Some(leader) => {
                    self.pool().call(leader, Lane::App, &format!("lead/{kind}"), body.clone(), deadline).await
                }
            };
            match answer {
                Err(LineError::NotLeader(leader)) => hint = leader.filter(|id| Some(*id) != known),
                Err(LineError::NotSent(why)) => last = why,
                answer => return Ok(answer?),
            }
            // Either way we look again.
            drop(timeout_at(deadline.min(Instant::now() + LOOK_AGAIN), leadership.changed()).await);
        }
        Err(CallError::Unreachable(last))
    }

    pub(crate) async fn handle(&self, from: NodeId, kind: &str, body: Bytes) -> Result<Bytes, LineError> {
        match self.0.handlers.get(kind) {
            Some(handler) => handler(from, body).await.map_err(LineError::Failed),
            None => Err(LineError::Failed(format!("nothing here answers `{kind}`"))),
        }
    }

    pub(crate) async fn handle_as_leader(
        &self,
        from: NodeId,
        kind: &str,
        body: Bytes,
    ) -> Result<Bytes, LineError> {
        let (leads, leader) = {
            let seen = self.0.leadership.borrow();
            (seen.is_me, seen.leader)
        };
        if leads { self.handle(from, kind, body).await } else { Err(LineError::NotLeader(leader)) }
    }

    /// Ends this member at once, as a crash would: leadership is not handed over. Returns when the
    /// data directory may be opened again.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.pool().close();
        if let Err(e) = self.raft().shutdown().await {
            tracing::warn!(error = %e, "consensus did not end well");
        }
        let log = self.0.log.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || log.close()).await {
            tracing::warn!(error = %e, "the log did not close well");
        }
    }
}

fn elapsed_ms(at: &openraft::alias::SerdeInstantOf<crate::types::C>) -> u64 {
    u64::try_from(openraft::Instant::elapsed(&at.into_inner()).as_millis()).unwrap_or(u64::MAX)
}

/// Opens log and snapshot off the runtime's threads.
async fn open_storage(data: &std::path::Path) -> Result<(LogStore, Machine), StartError> {
    let dir = rescue::raft_dir(data);
    let opening = tokio::task::spawn_blocking(move || {
        disk::make_dir(&dir)?;
        Ok((LogStore::open(&dir.join("log.redb"))?, Machine::open(dir.join("snapshot"))?))
    });
    let opened = opening.await.map_err(std::io::Error::other).and_then(|result| result);
    opened.map_err(io("the log can't be opened"))
}

/// Surfaces a higher generation and our own departure.
async fn watch_standing(node: Node) {
    let mut generation = node.pool().generation();
    let mut expelled = node.pool().expelled();
    let mut state = node.state();
    loop {
        let heard = *generation.borrow_and_update();
        let told = *expelled.borrow_and_update();
        let gone = {
            let state = state.borrow_and_update();
            state.next_node > node.id() && !state.members.contains_key(&node.id())
        };
        node.0.standing.send_if_modified(|standing| {
            let now = Standing { heard_generation: heard, expelled: told || gone, ..*standing };
            let changed = now != *standing;
            *standing = now;
            changed
        });
        let change = async {
            tokio::select! {
                changed = generation.changed() => changed,
                changed = expelled.changed() => changed,
                changed = state.changed() => changed,
            }
        };
        if change.await.is_err() {
            return;
        }
    }
}

/// Tells the home where we listen now, if that has changed.
async fn tell_address(node: Node) {
    let mut state = node.state();
    let mut told = false;
    loop {
        let known = state.borrow_and_update().members.get(&node.id()).map(|member| member.address);
        // A newcomer has no state yet, and nobody reaches it to give it one before it tells.
        let known = known.or_else(|| node.pool().addresses.get(node.id()).filter(|_| !told));
        if known.is_some_and(|known| known != node.address()) {
            let readdress = Command::Readdress { node: node.id(), address: node.address() };
            let outcome = node.propose(readdress, Instant::now() + Duration::from_secs(5)).await;
            told = outcome == Ok(Outcome::Done);
            tracing::info!(address = %node.address(), ?outcome, "tells the home where this member listens");
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else if state.changed().await.is_err() {
            return;
        }
    }
}

/// What a record is, for the messages of this crate.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, LineError> {
    codec::decode(bytes).map_err(|e| LineError::Failed(e.to_string()))
}

/// A record as an answer.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, LineError> {
    codec::encode(value).map(Bytes::from).map_err(|e| LineError::Failed(e.to_string()))
}
