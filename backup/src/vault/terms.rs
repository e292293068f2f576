//! What was agreed with a friend: who may speak for it, how much it may keep here, how fast and when.

use super::hours::Hours;
use super::signed::HomeKey;
use std::time::Duration;

/// The terms on which a friend's backups are kept.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The password a stock restic shows. Without one only a transport that proves the caller is let in.
    pub password: Option<Password>,
    /// The key with which the friend's home signs deletion lists and heads; without one it can send neither.
    pub key: Option<HomeKey>,
    /// The generation of the friend's home that is believed; statements of any other are refused.
    pub generation: u64,
    /// Whether nothing but locks can be deleted by whoever holds the credentials.
    pub append_only: bool,
    /// Bytes that may be kept, without what is announced for deletion.
    pub quota: u64,
    /// Bytes that may wait for deletion beside them.
    pub reserve: u64,
    /// How long what was announced for deletion is kept.
    pub keep: Duration,
    /// The part of all kept bytes that may wait for deletion at once, in percent.
    pub share_percent: u8,
    /// How fast and when.
    pub hours: Hours,
}

impl Terms {
    /// Append-only, two weeks until a deletion, half of it at once, at any hour, as fast as can be.
    pub fn new(quota: u64) -> Self {
        Self {
            password: None,
            key: None,
            generation: 0,
            append_only: true,
            quota,
            reserve: quota,
            keep: Duration::from_secs(14 * 24 * 3600),
            share_percent: 50,
            hours: Hours::default(),
        }
    }
}

/// A password, as its hash: passwords are made by machines and long, so one round is enough.
#[derive(Clone, Copy)]
pub struct Password(blake3::Hash);

impl Password {
    const CONTEXT: &str = "thermidor 2026 password of a friend's vault";

    /// Takes a password in clear.
    pub fn new(clear: &str) -> Self {
        Self(blake3::Hash::from_bytes(blake3::derive_key(Self::CONTEXT, clear.as_bytes())))
    }

    /// Whether this is the one. Takes as long for a wrong one: hashes are compared in constant time.
    pub fn is(&self, clear: &str) -> bool {
        self.0 == Self::new(clear).0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}
