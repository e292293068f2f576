//! One client's connection: find a way, park while there is none, then pass bytes.

use super::cuts::{Seat, Under};
use super::pass::{End, pass};
use super::routes::{Routes, Way};
use super::tunnel::{self, Opening};
use super::{Shared, proxy};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::{NodeId, ServiceName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A container or peer that has not taken the connection by then is tried again.
const DIAL_MAX: Duration = Duration::from_millis(400);
/// Pause before the second attempt, and the longest: of those parked at a port one tries this often at least.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(40);
/// A service that has held a connection for so long is there, though it may not have said anything.
const READY: Duration = Duration::from_millis(50);
/// What a service may say in its first chunk.
const GREETING_MAX: usize = 4 << 10;

/// Why a connection found no way this time.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("{0}")]
    Nowhere(&'static str),
    /// The container or the peer's machine does not take it.
    #[error("cannot reach {address}: {source}")]
    Unreached {
        /// Who was dialled.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The tunnel broke.
    #[error("the tunnel to member {node} failed: {why}")]
    Tunnel {
        /// Whose.
        node: NodeId,
        /// How.
        why: String,
    },
    /// The peer does not serve it.
    #[error("member {node} does not serve it now")]
    Peer {
        /// Who.
        node: NodeId,
    },
    /// The peer did not answer.
    #[error("member {node} did not answer in time")]
    Silent {
        /// Who.
        node: NodeId,
    },
    /// Someone else answered there.
    #[error("{found:?} answered at the address of member {wanted}")]
    Stranger {
        /// Who was meant.
        wanted: NodeId,
        /// Whose certificate it was.
        found: Option<NodeId>,
    },
    /// The service took the connection and dropped it before saying anything.
    #[error("the service closed before its greeting")]
    NoGreeting,
}

impl Refused {
    pub(super) fn tunnel(node: NodeId, error: &dyn std::fmt::Display) -> Self {
        Refused::Tunnel { node, why: error.to_string() }
    }
}

/// Either way's stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Dials, without delay of small packets.
pub(super) async fn dial(address: SocketAddr) -> Result<TcpStream, Refused> {
    let unreached = |source| Refused::Unreached { address, source };
    let dialled = tokio::time::timeout(DIAL_MAX, TcpStream::connect(address)).await;
    let stream = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreached)?;
    stream.set_nodelay(true).map_err(unreached)?;
    keep_alive(&stream).map_err(unreached)?;
    Ok(stream)
}

/// A peer that vanished is noticed within half a minute, also while nothing is said.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let alive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket2::SockRef::from(stream).set_tcp_keepalive(&alive.with_retries(3))
}

/// Dials a container, and tells it the client's address where it wants to know.
pub(super) async fn reached(
    backend: SocketAddr,
    proxy_protocol: bool,
    client: SocketAddr,
    server: SocketAddr,
) -> Result<TcpStream, Refused> {
    let mut stream = dial(backend).await?;
    if proxy_protocol {
        let told = stream.write_all(&proxy::header(client, server)).await;
        told.map_err(|source| Refused::Unreached { address: backend, source })?;
    }
    Ok(stream)
}

/// Serves one client on a published port until it is done.
pub async fn serve(shared: &Shared, client: TcpStream, from: SocketAddr, published: u16) {
    let Ok(server) = client.local_addr() else { return };
    if client.set_nodelay(true).and_then(|()| keep_alive(&client)).is_err() {
        return; // it is gone already
    }
    let mut table = shared.table.clone();
    let gate = shared.gates.at(published);
    let mut opened = gate.opened.subscribe();
    let mut turn = None;
    let parked = Instant::now();
    let mut pause = PAUSE_MIN;
    for attempt in 0.. {
        let routes = table.borrow_and_update().clone();
        let mut way_changed = table.clone();
        let refused = tokio::select! {
            biased;
            tried = async {
                let reached = reach(shared, &routes, from, server, published, attempt).await?;
                let mut connecting = std::pin::pin!(connect(shared, reached, &client));
                let connected = match tokio::time::timeout(READY, &mut connecting).await {
                    Ok(connected) => connected?,
                    // It holds the connection, and waits for its client's first word perhaps.
                    Err(_) => {
                        gate.open(turn.take());
                        return connecting.await;
                    }
                };
                gate.open(turn.take());
                Ok(connected)
            } => match tried {
                Ok(connected) => return through(shared, client, connected).await,
                Err(refused) => Some(refused),
            },
            // A dial to a radiator that has just lost its plug must not outlive the news.
            () = changed(&mut way_changed, &routes, published) => None,
        };
        let left = Duration::from_millis(routes.park_max_ms).saturating_sub(parked.elapsed());
        if let Some(refused) = refused {
            if left.is_zero() {
                tracing::info!(%from, published, why = %refused, "a parked connection was given up");
                return;
            }
            tracing::debug!(%from, published, why = %refused, attempt, "parked");
            // One of all that wait here tries again and again; the others follow once it is through.
            match &turn {
                Some(_) => tokio::select! {
                    () = tokio::time::sleep(pause.min(left)) => pause = (pause * 2).min(PAUSE_MAX),
                    () = changed(&mut table, &routes, published) => pause = PAUSE_MIN,
                },
                None => tokio::select! {
                    biased;
                    _ = opened.changed() => {}
                    first = gate.front.acquire() => turn = first.ok(),
                    () = tokio::time::sleep(left) => {}
                },
            }
        }
    }
}

/// Ends when the table says something else about a port than `routes` does.
async fn changed(table: &mut tokio::sync::watch::Receiver<Arc<Routes>>, routes: &Routes, published: u16) {
    let of = |routes: &Routes| {
        let found = routes.by_port(published).map(|(route, port)| (route.clone(), port));
        let address =
            found.as_ref().and_then(|(route, _)| route.active).and_then(|a| routes.members.get(&a).copied());
        (found, address)
    };
    let known = of(routes);
    if table.wait_for(|now| of(now) != known).await.is_err() {
        // The ingress is ending, and with it this session.
        std::future::pending::<()>().await;
    }
}

/// A service that has been reached; nothing has been said yet.
struct Reached {
    upstream: Box<dyn Stream>,
    under: Under,
}

/// The same, once it has said its first word, or waits for the client's.
struct Connected {
    upstream: Box<dyn Stream>,
    greeting: Vec<u8>,
    seat: Seat,
}

/// One try to reach the service.
async fn reach(
    shared: &Shared,
    routes: &Routes,
    from: SocketAddr,
    server: SocketAddr,
    published: u16,
    attempt: u32,
) -> Result<Reached, Refused> {
    let (route, port) = routes.by_port(published).ok_or(Refused::Nowhere("no service has this port"))?;
    let holds = |name: &ServiceName, epoch| shared.leases.hold(name, epoch);
    let mut under = Under { service: route.name.clone(), epoch: route.epoch, leased: true };
    let upstream: Box<dyn Stream> = match routes.way(shared.link.node, published, attempt, holds) {
        Way::Here(backend) => Box::new(reached(backend, port.proxy_protocol, from, server).await?),
        Way::Through(node, address) => {
            let service = route.name.clone();
            let opening = Opening { service, published, epoch: route.epoch, client: from, server };
            let _turn =
                shared.dials.acquire().await.map_err(|_| Refused::Nowhere("the ingress is ending"))?;
            let (tls, epoch) = tunnel::open(&shared.link, node, address, &opening).await?;
            (under.epoch, under.leased) = (epoch, false);
            Box::new(tls)
        }
        Way::Nowhere(why) => return Err(Refused::Nowhere(why)),
    };
    Ok(Reached { upstream, under })
}

/// Waits for the greeting. Nothing is read from the client and nothing sent to it.
async fn connect(shared: &Shared, reached: Reached, client: &TcpStream) -> Result<Connected, Refused> {
    let Reached { mut upstream, under } = reached;
    let seat = shared.cuts.enter(under);
    let greeting = greeted(client, &mut upstream, &seat).await?;
    if !seat.open(&shared.leases) {
        return Err(Refused::Nowhere("the lease ended before the greeting"));
    }
    Ok(Connected { upstream, greeting, seat })
}

/// Passes bytes until the session is done.
async fn through(shared: &Shared, mut client: TcpStream, connected: Connected) {
    let Connected { mut upstream, greeting, seat } = connected;
    if pass(&mut client, &mut upstream, &greeting, &seat, &shared.leases).await == End::Cut {
        // What is still queued is not to reach the client under a lease that has ended.
        let reset = client.set_zero_linger();
        reset.unwrap_or_else(|e| tracing::debug!(error = %e, "a cut session was closed without reset"));
    }
}

/// Waits for the first word: the service's, or (empty) the client's. A service that closes or a lease
/// that ends before is no harm done yet.
async fn greeted(
    client: &TcpStream,
    upstream: &mut Box<dyn Stream>,
    seat: &Seat,
) -> Result<Vec<u8>, Refused> {
    let mut greeting = vec![0; GREETING_MAX];
    let mut peeked = [0; 1];
    tokio::select! {
        biased;
        () = seat.cut() => Err(Refused::Nowhere("the lease ended before the greeting")),
        said = upstream.read(&mut greeting) => match said {
            Ok(0) | Err(_) => Err(Refused::NoGreeting),
            Ok(count) => {
                greeting.truncate(count);
                Ok(greeting)
            }
        },
        _ = client.peek(&mut peeked) => Ok(Vec::new()),
    }
}
