//! Homes that trust one another, as this one's state knows them.

use crate::name::{HomeName, UnixMs};
use crate::state::Sealed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Addresses of one friend that are kept at most.
pub const ADDRESSES_MAX: usize = 16;

/// The secret under which the kit's entropy is sealed. No person sets or removes it.
pub const KIT_SECRET: &str = "thermidor/kit";

/// The secret under which the entropy of the kit before is sealed, as long as a friend holds to it.
pub const KIT_BEFORE_SECRET: &str = "thermidor/kit-before";

/// Kits that one friend may say to have while none of them is confirmed. The first are kept: a later one that is one too
/// many is told, and replaces none.
pub const KIT_CLAIMS_MAX: usize = 4;

/// A public key, Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

/// What a friend's home told of itself when the two were paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FriendIdentity {
    /// With which it signs what it says to vaults.
    pub key: PublicKey,
    /// By which it is known on a connection.
    pub transport: PublicKey,
    /// Its generation, raised by a rescue or a recovery.
    pub generation: u64,
    /// Where it is reached, the best first: host and port. None at all: it lends no space.
    pub addresses: Vec<String>,
}

/// A friend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Friend {
    /// Who it is.
    pub identity: FriendIdentity,
    /// Four words that must be the same on both sides.
    pub words: [String; 4],
    /// Since when its person's words are known to be the same; `None` until somebody has looked.
    pub confirmed_ms: Option<UnixMs>,
    /// A higher generation that it says to have; nothing is taken from it until a person has asked.
    pub claims: Option<u64>,
    /// Other kits that it says to have by now; its keys stay the known ones until a person has asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kit_claims: Vec<KitClaim>,
}

/// Another kit that a friend says to have, signed with the one that is known. Whoever has found the old paper can say the
/// same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitClaim {
    /// With which it would sign.
    pub key: PublicKey,
    /// By which it would be known on a connection.
    pub transport: PublicKey,
    /// What its person must read, if it is theirs.
    pub words: [String; 4],
    /// When it was heard first.
    pub heard_ms: UnixMs,
}

impl Friend {
    /// Whether its words were compared.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed_ms.is_some()
    }

    /// Whether it keeps backups for this home: its words were compared, and there is somewhere to come to.
    pub fn lends(&self) -> bool {
        self.is_confirmed() && !self.identity.addresses.is_empty()
    }
}

/// A code that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingInvitation {
    /// Its random number; whoever burns it names it.
    pub id: u64,
    /// The code.
    pub sealed: Sealed,
    /// Refused from then on.
    pub expires_ms: UnixMs,
    /// Whether somebody has made a guess.
    pub burnt: bool,
}

/// The home's recovery kit; its words are the secret [`KIT_SECRET`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitRecord {
    /// When it was drawn.
    pub made_ms: UnixMs,
    /// When it was printed last.
    pub printed_ms: Option<UnixMs>,
    /// When a recovery was last tried with it, or done.
    pub rehearsed_ms: Option<UnixMs>,
    /// The signing key that it gives.
    pub key: PublicKey,
    /// When it was last split among friends' persons, and how.
    #[serde(default)]
    pub split: Option<KitSplit>,
}

/// A split of the kit: any so many shares of it give the kit back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitSplit {
    /// When.
    pub at_ms: UnixMs,
    /// Shares that give the kit back.
    pub needed: u8,
    /// Shares that there are.
    pub of: u8,
}

/// Another kit has taken the place of one, and friends still hold to that one. It goes on being shown to them, and their
/// repositories are opened with it, until their person has confirmed the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitChange {
    /// When the new one was drawn.
    pub begun_ms: UnixMs,
    /// The kit before; its words are the secret [`KIT_BEFORE_SECRET`].
    pub before: KitRecord,
    /// Who holds to it.
    pub waiting: BTreeMap<HomeName, KitWaits>,
}

/// How far a new kit has come with one friend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitWaits {
    /// Four words that its person must be shown for the new kit.
    pub words: [String; 4],
    /// When its vault first took the announcement.
    pub announced_ms: Option<UnixMs>,
}
