//! The home's floating address: on this radiator's interface while the guard holds its lease,
//! and announced to the neighbours when it comes. The kernel is told to drop it by itself after
//! two seconds, so that it does not outlive a frozen or dead guard.

mod announce;
mod interface;
mod keeper;
mod packet;

pub use interface::{AddressError, Interface, Netlink};
pub use keeper::{Keeper, Kept};

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The floating address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floating {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// The interface; `None`: the one that has an address of the same network.
    pub interface: Option<String>,
}
