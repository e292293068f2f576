//! The caller's end: a friend's addresses are tried in turn, and what was in the way is told of each.

use super::certificate::{Own, generation_of};
use super::key::TransportKey;
use super::welcome::{self, Refused, Welcome};
use super::{PORT, tls, tune};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom the caller believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Whoever holds this key.
    Key(TransportKey),
    /// Whoever answers. Enough to read one's own backups, which authenticate themselves by the kit; whoever stands in
    /// between learns sizes and times, and can withhold.
    Anybody,
}

/// What was in the way at one address.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// No connection.
    #[error("can't be reached")]
    Unreachable(#[source] io::Error),
    /// Nothing came in time.
    #[error("has not answered in {} s", .0.as_secs())]
    Silent(Duration),
    /// Another key than the pinned one.
    #[error("answers with another key than the one that was pinned when the homes became friends")]
    Stranger,
    /// This home's key is not known there.
    #[error("does not know this home (any more)")]
    NotKnown,
    /// The friend's own words.
    #[error("says: {0}")]
    Refused(#[from] Refused),
    /// No vault answers there.
    #[error("is no vault of a home")]
    NoVault(#[source] io::Error),
}

/// No address led to the friend: what was in the way, for each.
#[derive(Debug)]
pub struct DialError(pub Vec<(String, Failed)>);

impl std::error::Error for DialError {}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no address is known");
        }
        for (number, (address, failed)) in self.0.iter().enumerate() {
            let between = if number == 0 { "" } else { "; " };
            write!(f, "{between}{address} {failed}")?;
            // Whoever prints this prints no sources: there is one for each address.
            if let Some(source) =
                std::error::Error::source(failed).filter(|_| !matches!(failed, Failed::Refused(_)))
            {
                write!(f, " ({source})")?;
            }
        }
        Ok(())
    }
}

impl DialError {
    /// What a friend said in words, if one was reached and refused.
    pub fn refusal(&self) -> Option<&Refused> {
        self.0.iter().find_map(|(_, failed)| match failed {
            Failed::Refused(refused) => Some(refused),
            _ => None,
        })
    }
}

/// A connection to a friend's vault, let in; what comes next is HTTP.
#[derive(Debug)]
pub struct ToVault {
    /// The connection.
    pub stream: TlsStream<TcpStream>,
    /// What the vault said first.
    pub welcome: Welcome,
    /// The friend's key: the pinned one, or the one that was met.
    pub key: TransportKey,
    /// The generation that the friend's certificate says; 0 is none.
    pub generation: u64,
    /// The address that led there.
    pub address: String,
}

/// An address with the vault's port where it names none.
pub struct WithPort<'a>(pub &'a str);

impl fmt::Display for WithPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.0;
        let bare_v6 = given.parse::<std::net::Ipv6Addr>().is_ok();
        let named = given.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match (bare_v6, named) {
            (true, _) => write!(f, "[{given}]:{PORT}"),
            (false, true) => f.write_str(given),
            (false, false) => write!(f, "{given}:{PORT}"),
        }
    }
}

/// Dials a friend's vault: each address in turn, each for `patience` at most.
pub async fn dial_vault(
    addresses: &[String],
    own: &Own,
    pin: Pin,
    patience: Duration,
) -> Result<ToVault, DialError> {
    let config = config(addresses, tls::client(Some(own), pin))?;
    let name = match pin {
        Pin::Key(key) => key.name(),
        Pin::Anybody => tls::NAME.to_owned(),
    };
    let mut failed = Vec::new();
    for address in addresses {
        match within(patience, vault_at(address, &name, config.clone())).await {
            Ok(to) => return Ok(to),
            Err(why) => failed.push((address.clone(), why)),
        }
    }
    Err(DialError(failed))
}

/// Dials a home to pair with: nothing is shown and nobody believed, for the code decides who is who.
pub async fn dial_pairing(
    addresses: &[String],
    patience: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let config = config(addresses, tls::client(None, Pin::Anybody))?;
    let mut failed = Vec::new();
    for address in addresses {
        match within(patience, shake_hands(address, tls::NAME, config.clone())).await {
            Ok(stream) => return Ok(stream),
            Err(why) => failed.push((address.clone(), why)),
        }
    }
    Err(DialError(failed))
}

fn config(
    addresses: &[String],
    made: Result<Arc<ClientConfig>, rustls::Error>,
) -> Result<Arc<ClientConfig>, DialError> {
    made.map_err(|e| {
        let address = addresses.first().cloned().unwrap_or_default();
        DialError(vec![(address, Failed::Unreachable(io::Error::other(e)))])
    })
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    timeout(patience, work).await.unwrap_or(Err(Failed::Silent(patience)))
}

async fn shake_hands(
    address: &str,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failed> {
    let stream = TcpStream::connect(WithPort(address).to_string()).await.map_err(Failed::Unreachable)?;
    tune(&stream).map_err(Failed::Unreachable)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|e| Failed::NoVault(io::Error::other(e)))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(why)
}

async fn vault_at(address: &str, name: &str, config: Arc<ClientConfig>) -> Result<ToVault, Failed> {
    let mut stream = shake_hands(address, name, config).await?;
    // Whether our own key is taken is known only now: in TLS 1.3 the caller has its handshake first.
    let welcome = welcome::hear(&mut stream).await.map_err(why)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let key = shown.and_then(TransportKey::of).ok_or(Failed::Stranger)?;
    let generation = shown.and_then(generation_of).unwrap_or(0);
    Ok(ToVault { key, generation, welcome, address: address.to_owned(), stream })
}

/// What an error of the handshake, or right after it, means.
fn why(error: io::Error) -> Failed {
    use rustls::AlertDescription as Alert;
    use rustls::Error as Tls;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(_)) => Failed::Stranger,
        Some(Tls::AlertReceived(
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA,
        )) => Failed::NotKnown,
        _ => Failed::NoVault(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_means_the_vaults() {
        let with = |given: &str| WithPort(given).to_string();
        assert_eq!(with("alice.example"), "alice.example:7746");
        assert_eq!(with("alice.example:99"), "alice.example:99");
        assert_eq!(with("10.0.0.1"), "10.0.0.1:7746");
        assert_eq!(with("2001:db8::1"), "[2001:db8::1]:7746");
        assert_eq!(with("[2001:db8::1]:99"), "[2001:db8::1]:99");
        assert_eq!(with("[2001:db8::1]"), "[2001:db8::1]:7746");
    }
}
