//! What people see of friends.

use serde::{Deserialize, Serialize};
use thermidor_model::name::UnixMs;

/// A code that was given out.
#[derive(Clone, Serialize, Deserialize)]
pub struct FriendInvitation {
    /// Its number.
    pub id: u64,
    /// The three words that the other person types.
    pub code: String,
    /// Good until then.
    pub until_ms: UnixMs,
    /// Where the other home dials.
    pub addresses: Vec<String>,
}

/// A home that was met: a friend once both people have compared the words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FriendMet {
    /// Its name.
    pub home: String,
    /// What both people must read.
    pub words: [String; 4],
    /// Where it is reached; none at all: it lends no space.
    pub addresses: Vec<String>,
}

/// All friends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FriendList {
    /// Each.
    pub items: Vec<FriendLine>,
    /// The code that was given out last.
    pub invitation: Option<InvitationLine>,
    /// Why nothing is known of what friends keep here.
    pub vault_trouble: Option<String>,
    /// Homes that are no friends any more, and of which something is still here.
    #[serde(default)]
    pub left: Vec<LeftLine>,
}

/// What a home left here that is no friend any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftLine {
    /// Its name.
    pub home: String,
    /// Bytes that it kept; `None`: the vault has not told.
    pub used_bytes: Option<u64>,
    /// Whether they are being deleted.
    pub deleting: bool,
}

/// A code, without its words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InvitationLine {
    /// Its number.
    pub id: u64,
    /// Good until then.
    pub until_ms: UnixMs,
    /// Whether somebody has made a guess.
    pub burnt: bool,
}

/// A friend.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FriendLine {
    /// Its name.
    pub home: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// What both people must have read.
    pub words: [String; 4],
    /// Whether they have.
    pub confirmed: bool,
    /// The generation that is believed.
    pub generation: u64,
    /// A higher one that it says to have.
    pub claims: Option<u64>,
    /// Other kits that it says to have: of each, what its person must read.
    #[serde(default)]
    pub kit_claims: Vec<[String; 4]>,
    /// Whether it was reached just now.
    pub reachable: Option<bool>,
    /// The same in words.
    pub reach: String,
    /// Bytes lent to it.
    pub lent_bytes: Option<u64>,
    /// Bytes that it keeps here.
    pub used_bytes: Option<u64>,
    /// Bytes here that wait for their deletion.
    pub waiting_bytes: Option<u64>,
    /// When it was last at this home's vault.
    pub last_seen_ms: Option<UnixMs>,
    /// When its newest backup came.
    pub newest_here_ms: Option<UnixMs>,
    /// When this home's newest backup there was made.
    pub newest_there_ms: Option<UnixMs>,
    /// As of when everything of this home's there was found whole.
    pub proven_there_ms: Option<UnixMs>,
}
