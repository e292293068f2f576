//! The lanes of this process to every member, and where members are.

use crate::hedge::hedged;
use crate::identity::{Identity, IdentityError};
use crate::line::{Dial, Lane, Line, LineError};
use bytes::Bytes;
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use thermidor_model::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

/// Members' listeners as last heard, shared by all lines.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<RwLock<BTreeMap<NodeId, SocketAddr>>>);

impl Addresses {
    pub(crate) fn set(&self, members: BTreeMap<NodeId, SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// Adds one that is not known yet, as told by Raft's own membership.
    pub(crate) fn suggest(&self, node: NodeId, address: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(node).or_insert(address);
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    pub(crate) fn all(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lines beside one another for what may be asked twice.
const WAYS: usize = 3;

/// The lines of one lane to one member, each opened when it is first used.
#[derive(Default)]
struct Lines {
    /// For what must be asked once: its connection is not given up while an answer may still come.
    once: OnceLock<Line>,
    /// For what may be asked twice.
    ways: [OnceLock<Line>; WAYS],
    /// The one that answered last.
    quick: AtomicUsize,
}

impl Lines {
    fn is_up(&self, way: usize) -> bool {
        self.ways[way].get().is_some_and(Line::is_up)
    }

    /// In the order in which they are to be tried: the last to answer first, but what is connected before all others.
    fn order(&self) -> Vec<usize> {
        let quick = self.quick.load(Relaxed);
        let mut order: Vec<usize> = (0..WAYS).map(|n| (quick + n) % WAYS).collect();
        order.sort_by_key(|way| !self.is_up(*way));
        order
    }
}

/// Every line of this process.
pub(crate) struct LinePool {
    tls: Arc<ClientConfig>,
    generation: u64,
    pub(crate) addresses: Addresses,
    lines: Mutex<BTreeMap<(NodeId, Lane), Arc<Lines>>>,
    heard_generation: Arc<watch::Sender<u64>>,
    expelled: watch::Sender<bool>,
}

impl LinePool {
    pub(crate) fn new(identity: &Identity, addresses: Addresses) -> Result<Arc<Self>, IdentityError> {
        let (heard_generation, _) = watch::channel(identity.generation);
        Ok(Arc::new(Self {
            tls: identity.client_config()?,
            generation: identity.generation,
            addresses,
            lines: Mutex::default(),
            heard_generation: Arc::new(heard_generation),
            expelled: watch::Sender::new(false),
        }))
    }

    /// The highest generation heard from anybody.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.heard_generation.subscribe()
    }

    /// A higher generation was heard.
    pub(crate) fn hear(&self, generation: u64) {
        raise(&self.heard_generation, generation);
    }

    fn lines(&self, target: NodeId, lane: Lane) -> Arc<Lines> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry((target, lane)).or_default().clone()
    }

    pub(crate) fn line(&self, target: NodeId, lane: Lane) -> Line {
        self.lines(target, lane).once.get_or_init(|| self.open(target, lane)).clone()
    }

    fn open(&self, target: NodeId, lane: Lane) -> Line {
        let addresses = self.addresses.clone();
        let heard = self.heard_generation.clone();
        Line::open(Dial {
            target,
            lane,
            tls: self.tls.clone(),
            generation: self.generation,
            address: Box::new(move || addresses.get(target)),
            heard_generation: Box::new(move |generation| raise(&heard, generation)),
        })
    }

    /// Closes the lines to everybody else.
    pub(crate) fn keep_only(&self, wanted: impl Fn(NodeId) -> bool) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).retain(|(node, _), _| wanted(*node));
    }

    /// Closes every line; calls under way are lost.
    pub(crate) fn close(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) async fn call(
        &self,
        target: NodeId,
        lane: Lane,
        verb: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, LineError> {
        let answer = self.line(target, lane).call(verb, body, deadline).await;
        self.note_expelled(&answer);
        answer
    }

    /// Asks what may be asked more than once: where an answer is late, again over another connection.
    pub(crate) async fn call_hedged(
        &self,
        target: NodeId,
        lane: Lane,
        verb: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, LineError> {
        let lines = self.lines(target, lane);
        // A member that no connection reaches is dialled by one line alone.
        let reached = |_| (0..WAYS).any(|way| lines.is_up(way));
        let ask = |way: usize| {
            lines.ways[way].get_or_init(|| self.open(target, lane)).call(verb, body.clone(), deadline)
        };
        let (way, answer) = hedged(lines.order(), lane.hedge_after(), reached, ask).await;
        if let Some(quick) = way {
            lines.quick.store(quick, Relaxed);
            let others = (0..WAYS).filter(|way| *way != quick).filter_map(|way| lines.ways[way].get());
            others.for_each(Line::was_overtaken);
        }
        self.note_expelled(&answer);
        answer
    }

    fn note_expelled(&self, answer: &Result<Bytes, LineError>) {
        if *answer == Err(LineError::Expelled) {
            self.expelled.send_replace(true);
        }
    }

    /// Whether a member told us that we have left the home.
    pub(crate) fn expelled(&self) -> watch::Receiver<bool> {
        self.expelled.subscribe()
    }
}

fn raise(heard: &watch::Sender<u64>, generation: u64) {
    heard.send_if_modified(|known| {
        let higher = generation > *known;
        *known = generation.max(*known);
        higher
    });
}
