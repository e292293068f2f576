//! The way between homes: TLS 1.3 whose only authority is a pinned key. Each side shows a certificate over its transport
//! key, made on the spot; what is believed of it is the key, which the handshake proves, and the generation it says.
//! A vault answers a friend's coming with a `Welcome` or with words, before anything else is said.

mod accept;
mod certificate;
mod dial;
mod forward;
mod key;
mod tls;
mod welcome;

pub(crate) use accept::take_all;
pub use accept::{Acceptor, Coming, NotAccepted, Pins};
pub use certificate::Own;
pub use dial::{DialError, Failed, Pin, ToVault, WithPort, dial_pairing, dial_vault};
pub use forward::Forwarder;
pub use key::{Transport, TransportKey};
pub use welcome::{Refused, WORDS_MAX, Welcome, refuse, welcome};

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// The port of a vault unless an address says another.
pub const PORT: u16 = 7746;
/// ALPN of a friend at the vault.
pub const VAULT: &[u8] = b"thermidor-vault/1";
/// ALPN of a home that is no friend yet.
pub const PAIRING: &[u8] = b"thermidor-pairing/1";

/// A peer that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no key or certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum NoCertificate {
    /// The key is none.
    #[error("the transport key can't be used")]
    Key(#[source] rustls::Error),
    /// No certificate can be made of it.
    #[error("a certificate can't be made of the transport key")]
    Certificate(#[from] rcgen::Error),
}

/// A cable that was pulled is noticed, and small requests don't wait for one another.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}
