//! A running member: everything in this crate put together.

use crate::barrier::{Barriers, heartbeat_proves};
use crate::calling::CallError;
use crate::clock::elapsed;
use crate::codec;
use crate::config::{SNAPSHOT_EVERY, config};
use crate::identity::{Identity, IdentityError};
use crate::leadership::{self, Leadership};
use crate::line::LineError;
use crate::line_pool::{Addresses, LinePool};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::network::Network;
use crate::quiet::{Quiet, Taken};
use crate::reserve::Reserve;
use crate::snapshot_stream::Arriving;
use crate::standing::{self, Standing};
use crate::types::Raft;
use crate::{disk, founding, introducing, keeper, listener, members_file, muting, quiet, rescue, rotation};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use thermidor_model::{NodeId, State};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
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

pub(crate) struct Inner {
    id: NodeId,
    identity: RwLock<Arc<Identity>>,
    /// One change of this member's own keys at a time.
    pub(crate) rekeying: tokio::sync::Mutex<()>,
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
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) standing: watch::Sender<Standing>,
    barriers: Barriers,
    changing: tokio::sync::Mutex<()>,
    /// Shared by proposals under way here; a hand-over of leadership has it alone.
    proposing: tokio::sync::RwLock<()>,
    log: LogStore,
    reserve: Reserve,
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
        let papers = identity.papers().clone();
        let known = members_file::known(&data, &identity.authority_pem);
        papers.believe(known.map_err(io("members.json can't be read"))?)?;
        let listener = TcpListener::bind(listen).await.map_err(io(format!("can't listen on {listen}")))?;
        let port = listener.local_addr().map_err(io("the listener has no address"))?.port();
        let address = match advertise {
            Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), port),
            Some(address) => address,
            None => SocketAddr::new(identity.own.advertise_ip, port),
        };
        let reserve = Reserve::open(&data).map_err(io("the log's reserve can't be opened"))?;
        let (log, machine) = open_storage(&data, &reserve).await?;

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
        let belongs = Standing {
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
            standing: watch::Sender::new(belongs),
            barriers: Barriers::start(
                raft.clone(),
                muting::start(raft.clone(), &timing, stop.clone()),
                stop.clone(),
            ),
            changing: tokio::sync::Mutex::default(),
            proposing: tokio::sync::RwLock::default(),
            arriving: Mutex::default(),
            contacted: Mutex::default(),
            data: data.clone(),
            id: identity.node(),
            identity: RwLock::new(Arc::new(identity)),
            rekeying: tokio::sync::Mutex::default(),
            address,
            raft,
            pool,
            handlers,
            log,
            reserve,
            stop: stop.clone(),
        }));
        members_file::follow(data, addresses, papers, state, stop.clone());
        node.spawn(listener::serve(listener, node.clone()));
        node.spawn(keeper::keep(node.clone()));
        node.spawn(quiet::follow(node.clone()));
        node.spawn(standing::watch(node.clone()));
        founding::found_if_new(&node).await?;
        node.spawn(standing::tell_address(node.clone()));
        node.spawn(rotation::tell_key(node.clone()));
        node.spawn(rotation::follow(node.clone()));
        node.spawn(introducing::follow(node.clone()));
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
        self.0.id
    }

    /// This member's identity: TLS, home key, authority. Another one after the home's keys were changed.
    pub fn identity(&self) -> Arc<Identity> {
        self.0.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with other keys.
    pub(crate) fn rekey(&self, identity: Identity) {
        let mut place = self.0.identity.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(identity.in_place_of(&place));
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

    /// The same, for a caller who may be kept waiting until the next heartbeat: it costs no round.
    pub async fn unhurried_barrier(&self) -> Result<(), CallError> {
        let wait = Duration::from_millis(self.identity().own.timing.heartbeat_ms * 2);
        let alone = self.0.leadership.borrow().voters.len() == 1;
        if !alone && heartbeat_proves(self.raft(), wait).await {
            return Ok(());
        }
        self.barrier().await
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

    /// The piece of disk kept back for the log.
    pub fn reserve(&self) -> &Reserve {
        &self.0.reserve
    }

    /// Durable writes of the log since the start: an idle home makes none.
    pub fn log_commits(&self) -> u64 {
        self.0.log.commits()
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
    u64::try_from(elapsed(at).as_millis()).unwrap_or(u64::MAX)
}

/// Opens log and snapshot off the runtime's threads.
async fn open_storage(data: &std::path::Path, reserve: &Reserve) -> Result<(LogStore, Machine), StartError> {
    let (dir, kept) = (rescue::raft_dir(data), reserve.clone());
    let opening = tokio::task::spawn_blocking(move || {
        disk::make_dir(&dir)?;
        let log = LogStore::open(&dir.join("log.redb"), &kept)?;
        Ok((log, Machine::open(dir.join("snapshot"), kept)?))
    });
    let opened = opening.await.map_err(std::io::Error::other).and_then(|result| result);
    opened.map_err(io("the log can't be opened"))
}

/// What a record is, for the messages of this crate.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, LineError> {
    codec::decode(bytes).map_err(|e| LineError::Failed(e.to_string()))
}

/// A record as an answer.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, LineError> {
    codec::encode(value).map(Bytes::from).map_err(|e| LineError::Failed(e.to_string()))
}
