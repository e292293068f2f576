//! What a home tells its friend about itself, to be pinned: read only after both have proved to know the code, and
//! bounded all the same.

use crate::line::TransportKey;
use crate::vault::HomeKey;
use serde::{Deserialize, Serialize};
use thermidor_model::name::HomeName;

/// Addresses that are told at most.
const ADDRESSES_MAX: usize = 16;
/// The length of one, in bytes.
const ADDRESS_MAX: usize = 255;

/// A home's own words about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// The form of this record.
    pub version: u8,
    /// Its name.
    pub home: HomeName,
    /// Its generation, raised by a rescue.
    pub generation: u64,
    /// With which it signs what it says to vaults.
    pub key: HomeKey,
    /// The key it shows on the way between the two: who holds that speaks for the home.
    pub transport: TransportKey,
    /// Where it can be reached, the best first: host and port.
    pub addresses: Vec<String>,
}

/// Why a friend's introduction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It can't be read.
    #[error("the friend's introduction can't be read: {0}")]
    Unreadable(String),
    /// A form that is not known here.
    #[error("the friend's introduction has form {0}: one of the two homes needs an upgrade")]
    Version(u8),
    /// Both are called alike.
    #[error("both homes are called `{0}`: a friend needs another name")]
    SameName(HomeName),
    /// Both are one.
    #[error("this home can't be its own friend")]
    Myself,
    /// No address is one.
    #[error("the friend tells an address that is none")]
    Address,
}

impl Introduction {
    /// The record's form.
    pub const VERSION: u8 = 1;

    /// Reads a friend's, as `own` would take it.
    pub(super) fn read(text: &[u8], own: &Self) -> Result<Self, NotTaken> {
        let it: Self = serde_json::from_slice(text).map_err(|e| NotTaken::Unreadable(e.to_string()))?;
        if it.version != Self::VERSION {
            return Err(NotTaken::Version(it.version));
        }
        if it.key == own.key || it.transport == own.transport {
            return Err(NotTaken::Myself);
        }
        if it.home == own.home {
            return Err(NotTaken::SameName(it.home));
        }
        let is_one = |text: &String| {
            (1..=ADDRESS_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
        };
        if it.addresses.len() > ADDRESSES_MAX || !it.addresses.iter().all(is_one) {
            return Err(NotTaken::Address);
        }
        Ok(it)
    }
}
