//! The lanes of this process to every member, and where members are.

use crate::identity::{Identity, IdentityError};
use crate::line::{Dial, Lane, Line, LineError};
use bytes::Bytes;
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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

/// Every line of this process.
pub(crate) struct LinePool {
    tls: Arc<ClientConfig>,
    generation: u64,
    pub(crate) addresses: Addresses,
    lines: Mutex<BTreeMap<(NodeId, Lane), Line>>,
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

    pub(crate) fn line(&self, target: NodeId, lane: Lane) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry((target, lane)).or_insert_with(|| self.open(target, lane)).clone()
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
        if answer == Err(LineError::Expelled) {
            self.expelled.send_replace(true);
        }
        answer
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
