//! The vault's end: who comes is known by its key before anything is read, and whoever keeps silent is hung up on.

use super::certificate::{Own, generation_of};
use super::key::TransportKey;
use super::{PAIRING, VAULT, tls, tune};
use rustls::ServerConfig;
use rustls::server::Acceptor as Reading;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// Takes whoever comes and serves each beside the others, so many at once; more wait in the kernel's queue. Dropped, it
/// hangs up on all of them.
pub(crate) async fn take_all<F>(
    listener: TcpListener,
    most: usize,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut all = JoinSet::new();
    loop {
        while all.try_join_next().is_some() {}
        if all.len() >= most {
            all.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, from)) => {
                all.spawn(serve(stream, from));
            }
            Err(error) => {
                // No descriptors left, say: that passes.
                tracing::warn!(%error, "a connection can't be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The friends' keys; clones are the same set, which may change while connections come in.
#[derive(Debug, Clone, Default)]
pub struct Pins(Arc<RwLock<BTreeSet<TransportKey>>>);

impl Pins {
    /// These are the friends from the next handshake on.
    pub fn set(&self, keys: BTreeSet<TransportKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whether the key is a friend's.
    pub fn holds(&self, key: &TransportKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// It broke, or the handshake failed: a key that is no friend's, another protocol, no TLS.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    /// It speaks of something that a vault does not speak of.
    #[error("it does not say that it comes to a vault or to pair")]
    Alpn,
    /// Nothing came in time.
    #[error("it was silent for {} s", .0.as_secs())]
    Silent(Duration),
}

/// Who comes.
pub enum Coming {
    /// A friend, by its key, with the generation it says; what it hears first is a welcome or a refusal.
    Friend {
        /// Its key.
        key: TransportKey,
        /// The generation its certificate says; 0 is none.
        generation: u64,
        /// The connection.
        stream: Box<TlsStream<TcpStream>>,
    },
    /// Somebody who wants to pair and shows nothing.
    Guest(Box<TlsStream<TcpStream>>),
}

/// Takes connections. Clones are the same.
#[derive(Clone)]
pub struct Acceptor {
    friends: Arc<ServerConfig>,
    guests: Arc<ServerConfig>,
    patience: Duration,
}

impl Acceptor {
    /// Shows the first of `own`, or the one that a caller expects, lets in whom `pins` holds, and hangs up on whoever takes longer than `patience` to say who it is.
    pub fn new(own: &[Own], pins: Pins, patience: Duration) -> Result<Self, rustls::Error> {
        let (friends, guests) = (tls::server(own, Some(pins))?, tls::server(own, None)?);
        Ok(Self { friends, guests, patience })
    }

    /// Takes one connection.
    pub async fn accept(&self, stream: TcpStream) -> Result<Coming, NotAccepted> {
        let silent = |_| NotAccepted::Silent(self.patience);
        timeout(self.patience, self.greet(stream)).await.map_err(silent)?
    }

    async fn greet(&self, stream: TcpStream) -> Result<Coming, NotAccepted> {
        tune(&stream).map_err(NotAccepted::Handshake)?;
        let begun = LazyConfigAcceptor::new(Reading::default(), stream);
        let begun = begun.await.map_err(NotAccepted::Handshake)?;
        let spoken: Vec<Vec<u8>> =
            begun.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        let config = match spoken.as_slice() {
            [only] if only == VAULT => self.friends.clone(),
            [only] if only == PAIRING => self.guests.clone(),
            _ => return Err(NotAccepted::Alpn),
        };
        let is_guest = Arc::ptr_eq(&config, &self.guests);
        let stream = begun.into_stream(config).await.map_err(NotAccepted::Handshake)?;
        if is_guest {
            return Ok(Coming::Guest(Box::new(stream)));
        }
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let key = shown.and_then(TransportKey::of);
        let key = key.ok_or_else(|| NotAccepted::Handshake(io::Error::other("no key was shown")))?;
        let generation = shown.and_then(generation_of).unwrap_or(0);
        Ok(Coming::Friend { key, generation, stream: Box::new(stream) })
    }
}
