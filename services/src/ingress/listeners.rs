//! The ports on which the ingress answers: they follow the routing table, and one that is taken
//! by someone else is tried again.

use super::{Shared, session, tunnel};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long until a port that could not be had is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Connections the kernel holds before they are taken.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// A service's published port.
    Published(SocketAddr),
    /// Other radiators' tunnels.
    Tunnel(SocketAddr),
}

impl Door {
    /// Where it is.
    pub fn address(self) -> SocketAddr {
        match self {
            Door::Published(address) | Door::Tunnel(address) => address,
        }
    }
}

/// All listeners.
pub struct Listeners {
    open: BTreeMap<Door, AbortHandle>,
    failed: BTreeMap<Door, String>,
    retry_at: Instant,
    /// Clients and tunnels that may be open at once, each.
    clients: Arc<Semaphore>,
    tunnels: Arc<Semaphore>,
}

impl Listeners {
    /// None yet; at most `connections_max` clients, and as many tunnels.
    pub fn new(connections_max: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            retry_at: Instant::now(),
            clients: Arc::new(Semaphore::new(connections_max)),
            tunnels: Arc::new(Semaphore::new(connections_max)),
        }
    }

    /// Opens what is wanted and closes what is not. Tells whether anything changed.
    pub fn follow(&mut self, shared: &Shared, wanted: &BTreeSet<Door>) -> bool {
        let before = (self.open.len(), self.failed.clone());
        self.open.retain(|door, task| {
            let keep = wanted.contains(door) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        self.failed.retain(|door, _| wanted.contains(door));
        let again = Instant::now() >= self.retry_at;
        for door in wanted {
            let known = self.open.contains_key(door) || (self.failed.contains_key(door) && !again);
            if known {
                continue;
            }
            match listen(door.address()) {
                Ok(listener) => {
                    if self.failed.remove(door).is_some() {
                        tracing::info!(address = %door.address(), "listening after all");
                    }
                    self.open.insert(*door, self.spawn(shared.clone(), *door, listener));
                }
                Err(e) => {
                    if self.failed.insert(*door, e.to_string()).is_none() {
                        tracing::warn!(address = %door.address(), error = %e, "cannot listen; trying again");
                    }
                }
            }
        }
        if again {
            self.retry_at = Instant::now() + RETRY;
        }
        before != (self.open.len(), self.failed.clone())
    }

    /// Whether a port is still to be had.
    pub fn retry_due(&self) -> bool {
        !self.failed.is_empty() && Instant::now() >= self.retry_at
    }

    /// How long until a port is tried again, if one is still to be had.
    pub fn retry_in(&self) -> Option<Duration> {
        (!self.failed.is_empty()).then(|| self.retry_at.saturating_duration_since(Instant::now()))
    }

    /// Where it listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.open.keys().map(|door| door.address()).collect()
    }

    /// Where it can't, and why.
    pub fn failed(&self) -> BTreeMap<SocketAddr, String> {
        self.failed.iter().map(|(door, why)| (door.address(), why.clone())).collect()
    }

    fn spawn(&self, shared: Shared, door: Door, listener: TcpListener) -> AbortHandle {
        let permits = match door {
            Door::Published(_) => self.clients.clone(),
            Door::Tunnel(_) => self.tunnels.clone(),
        };
        tokio::spawn(async move {
            // With all permits out the kernel's backlog holds who comes next.
            while let Ok(permit) = permits.clone().acquire_owned().await {
                let (stream, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        tracing::warn!(address = %door.address(), error = %e, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let shared = shared.clone();
                tokio::spawn(async move {
                    let ended = shared.ending.clone();
                    let served = async {
                        match door {
                            Door::Published(at) => session::serve(&shared, stream, from, at.port()).await,
                            Door::Tunnel(_) => tunnel::accept(&shared, stream, from).await,
                        }
                    };
                    tokio::select! {
                        () = served => {}
                        () = ended.cancelled() => {}
                    }
                    drop(permit);
                });
            }
        })
        .abort_handle()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for task in self.open.values() {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 has a listener of its own.
        socket.set_only_v6(true)?;
    }
    // An ingress that was killed comes back to ports with connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
