//! What the CLI asks of the local daemon: one JSON line each way over a Unix socket,
//! many lines back where something is followed.

pub mod checked;
pub mod client;
pub mod view;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thermidor_model::packed::Packed;
use thermidor_model::spec::HomeSpec;
use thermidor_model::{RadiatorName, ServiceName, SnapshotName, VolumeName};

/// Longest line either side takes, bytes: a declaration with its build contexts fits.
pub const LINE_MAX: usize = 32 << 20;

/// A question or an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// The whole home at a glance: [`view::Home`].
    Status,
    /// Why a service is where it is: [`view::Explanation`].
    Explain {
        /// Which.
        service: ServiceName,
    },
    /// The state as applied here, for `apply` to compare with.
    State,
    /// Declares a home anew.
    Apply {
        /// Revision it was computed from.
        revision_was: u64,
        /// The YAML.
        text: String,
        /// The same, validated.
        spec: Box<HomeSpec>,
        /// Overrides stay.
        keep_overrides: bool,
        /// Packed build contexts by hash.
        contexts: BTreeMap<String, Packed>,
    },
    /// A token for a newcomer.
    Invite {
        /// How long it is good, s.
        ttl_s: u64,
    },
    /// Takes a member out.
    Leave {
        /// Who.
        radiator: RadiatorName,
    },
    /// Takes a member out that a thief has, and changes the keys that are on its disk: [`view::Stolen`].
    LeaveStolen {
        /// Who.
        radiator: RadiatorName,
    },
    /// Moves the services away and stops heating.
    Off {
        /// Who.
        radiator: RadiatorName,
        /// On again then, Unix ms.
        until_ms: Option<u64>,
        /// Gives up the vote, for the power will be cut.
        power_off: bool,
    },
    /// Heats again.
    On {
        /// Who.
        radiator: RadiatorName,
    },
    /// Overrides a radiator's target.
    Target {
        /// Which.
        radiator: RadiatorName,
        /// °C; `None` clears it.
        celsius: Option<f64>,
    },
    /// Moves a service.
    Move {
        /// Which.
        service: ServiceName,
        /// Where to.
        radiator: RadiatorName,
    },
    /// Seals a secret.
    SetSecret {
        /// Its name.
        name: String,
        /// Its value; `None` removes it.
        value: Option<String>,
    },
    /// Names of the sealed secrets.
    Secrets,
    /// Adds a mail account, or changes its password or aliases.
    MailAccount {
        /// Which mail service.
        service: ServiceName,
        /// Local part.
        account: String,
        /// New password; `None` with `remove: false` keeps the old one.
        password: Option<String>,
        /// Other local parts that reach it; `None` keeps the old ones.
        aliases: Option<Vec<String>>,
        /// Takes the account away.
        remove: bool,
    },
    /// Mail accounts, of YAML and CLI.
    MailAccounts {
        /// Which mail service.
        service: ServiceName,
    },
    /// Takes an older replica as the truth.
    Promote {
        /// Which volume.
        volume: VolumeName,
        /// Whose replica.
        radiator: RadiatorName,
    },
    /// Compares a volume's replicas now: the number of the pass.
    CheckVolume {
        /// Which.
        volume: VolumeName,
    },
    /// Removes a volume and its images for good.
    RemoveVolume {
        /// Which.
        volume: VolumeName,
    },
    /// Gives blocks back that a volume's file system does not use: [`view::Trimmed`].
    Trim {
        /// Which volume.
        volume: VolumeName,
    },
    /// Something about the snapshots of a volume: [`view::SnapshotList`].
    Snapshot {
        /// Which volume.
        volume: VolumeName,
        /// On which radiator; `None`: where it fits.
        on: Option<RadiatorName>,
        /// What.
        order: SnapshotOrder,
    },
    /// What a service says: lines.
    Logs {
        /// Which.
        service: ServiceName,
        /// Goes on.
        follow: bool,
        /// How many of the last lines.
        tail: u32,
    },
    /// What happened: lines of [`view::EventLine`].
    Events {
        /// Goes on.
        follow: bool,
    },
    /// One linearizable put of that many bytes, answered when a majority has it.
    Put {
        /// The value.
        value: String,
    },
}

/// What is wanted of a volume's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotOrder {
    /// Tell them.
    List,
    /// Take one.
    Take {
        /// Its name.
        name: SnapshotName,
    },
    /// Mount one, read-only.
    Mount {
        /// Which.
        name: SnapshotName,
    },
    /// Unmount one.
    Unmount {
        /// Which.
        name: SnapshotName,
    },
    /// Remove one for good.
    Remove {
        /// Which.
        name: SnapshotName,
    },
}

/// An answer; where a request is followed there are several.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done, with what was asked for.
    Ok(serde_json::Value),
    /// A line of something that goes on.
    Line(String),
    /// Not done.
    Refused(Refused),
}

/// Why not, and with which exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// Names the command to run next where there is one.
    pub text: String,
    /// 1 refused or failed, 3 no quorum.
    pub exit: u8,
}

impl Refused {
    /// Refused or failed.
    pub fn because(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit: 1 }
    }

    /// The home has no quorum.
    pub fn no_quorum(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit: 3 }
    }
}
