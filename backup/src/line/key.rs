//! A home's transport key: Ed25519, drawn from the kit, so that a home that comes back shows the key of old.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// What stands before the seed in PKCS #8 (RFC 8410).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the key in a SubjectPublicKeyInfo.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// The public half: what a friend pins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TransportKey(pub [u8; 32]);

impl fmt::Display for TransportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TransportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransportKey({self})")
    }
}

impl From<TransportKey> for String {
    fn from(key: TransportKey) -> Self {
        key.to_string()
    }
}

/// A text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a transport key is 32 bytes in base64")]
pub struct NoKey;

impl TryFrom<String> for TransportKey {
    type Error = NoKey;
    fn try_from(text: String) -> Result<Self, NoKey> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| NoKey)?;
        bytes.try_into().map(Self).map_err(|_| NoKey)
    }
}

impl TransportKey {
    /// The name that is dialled where this key is expected. Somebody who has two shows the one that is meant; whoever
    /// listens in learns nothing from it but that the same key is meant as before.
    pub(super) fn name(&self) -> String {
        let hash = blake3::derive_key("thermidor 2026 name of an expected transport key", &self.0);
        let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits}.{}", super::tls::NAME)
    }

    /// The key that a certificate is over; `None` if it is no Ed25519.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        parsed.public_key().raw.strip_prefix(&SPKI)?.try_into().ok().map(Self)
    }
}

/// The key itself.
#[derive(Clone)]
pub struct Transport {
    seed: Zeroizing<[u8; 32]>,
    public: TransportKey,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.public)
    }
}

impl Transport {
    /// The key that a seed stands for; `None` if the system's cryptography does not take it.
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).ok()?;
        let public = TransportKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { seed, public })
    }

    /// The public half.
    pub fn public(&self) -> TransportKey {
        self.public
    }

    /// The seed: a secret, to be written where only the vault reads it.
    pub fn seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.seed
    }

    pub(super) fn pkcs8(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from([&PKCS8[..], &self.seed[..]].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_text_and_back_and_its_secret_is_not_shown() {
        let key = Transport::from_seed(Zeroizing::new([7; 32])).unwrap();
        let text = serde_json::to_string(&key.public()).unwrap();
        assert_eq!(serde_json::from_str::<TransportKey>(&text).unwrap(), key.public());
        assert!(serde_json::from_str::<TransportKey>("\"AAAA\"").is_err());
        assert_eq!(format!("{key:?}"), format!("Transport({})", key.public()));
    }
}
