//! Names and numbers by which a home's things are known.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Raft's number of a member. Given once, never reused, not even after a disk was wiped.
pub type NodeId = u64;

/// Milliseconds since the Unix epoch, as told by the leader that proposed a command.
pub type UnixMs = u64;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}: use 1 to 40 of a-z, 0-9 and `-`, beginning with a letter")]
pub struct BadName {
    /// What kind of name was expected.
    pub what: &'static str,
    /// What was given instead.
    pub given: String,
}

fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Takes a text as a name; errors with what a name looks like.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(BadName { what: $what, given: text }) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A home's name, as in `home: maison`.
    HomeName, "home's name"
);
name!(
    /// A radiator's name, as under `radiators:`.
    RadiatorName, "radiator's name"
);
name!(
    /// A service's name, as under `services:`.
    ServiceName, "service's name"
);
name!(
    /// A volume's name, as under `volumes:`.
    VolumeName, "volume's name"
);
name!(
    /// A snapshot's name, unique among those of one replica of a volume.
    SnapshotName, "snapshot's name"
);

/// The random identity of one replica's image, held in its header and in Raft:
/// an image with another id is not that member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_shell_a_url_and_a_container_take_unquoted() {
        for good in ["mail", "a", "salon-2"] {
            assert!(ServiceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Mail", "2nd", "a b", "é", "a/b", &"x".repeat(41)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
        let json = serde_json::from_str::<RadiatorName>("\"../etc\"");
        assert!(json.unwrap_err().to_string().contains("radiator's name"));
    }
}
