//! What the CLI asks of the local daemon: one JSON line each way over a Unix socket,
//! many lines back where something is followed.

pub mod backups;
pub mod checked;
pub mod client;
pub mod friends;
pub mod recovery;
pub mod view;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thermidor_model::backup::Subject;
use thermidor_model::name::HomeName;
use thermidor_model::packed::Packed;
use thermidor_model::restore::RestoreWish;
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
    /// How the backups stand: [`backups::BackupList`].
    Backups,
    /// Backs up now, reads back what was, or tries a restore of it: [`backups::Ordered`].
    RunBackup {
        /// What; `None`: everything that is declared.
        subject: Option<Subject>,
        /// To whom; `None`: to all of its friends.
        to: Option<HomeName>,
        /// What is to be done.
        task: backups::BackupTask,
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
    /// A code with which another home becomes a friend: [`friends::FriendInvitation`].
    InviteFriend {
        /// How long it is good, s.
        ttl_s: u64,
    },
    /// Becomes a friend of the home that gave out the code: [`friends::FriendMet`].
    AcceptFriend {
        /// The code.
        code: String,
        /// Where it is dialled.
        addresses: Vec<String>,
    },
    /// The friends: [`friends::FriendList`].
    Friends {
        /// Whether each is dialled.
        look: bool,
    },
    /// Both people read the same words.
    ConfirmFriend {
        /// Who.
        home: HomeName,
        /// Those.
        words: [String; 4],
    },
    /// A friend's home was really recovered or rescued.
    ConfirmGeneration {
        /// Who.
        home: HomeName,
        /// The generation that it says.
        generation: u64,
    },
    /// A friend's kit was really replaced.
    ConfirmKit {
        /// Who.
        home: HomeName,
        /// What its person reads.
        words: [String; 4],
    },
    /// This home goes on beside a later generation of itself, which a thief has made.
    Resume,
    /// A friend is reached elsewhere.
    ReaddressFriend {
        /// Who.
        home: HomeName,
        /// Where, the best first.
        addresses: Vec<String>,
    },
    /// A home is no friend any more.
    RemoveFriend {
        /// Who.
        home: HomeName,
        /// What it kept here is deleted; then it may be one that was removed before.
        #[serde(default)]
        delete_data: bool,
    },
    /// Something about the restore of a service in the home.
    Restore {
        /// Which.
        service: ServiceName,
        /// What.
        ask: RestoreAsk,
    },
    /// A service's files from a friend into a folder of this radiator: lines that say how far it is.
    RestoreTo {
        /// Which.
        service: ServiceName,
        /// What of it.
        wish: RestoreWish,
        /// Where to, an absolute path.
        dir: std::path::PathBuf,
    },
    /// The recovery kit's page and words: [`recovery::KitPrint`].
    PrintKit,
    /// Another recovery kit: [`recovery::KitReplaced`].
    ReplaceKit,
    /// A new split of the recovery kit, a page for each person: [`recovery::KitShares`].
    SplitKit {
        /// The persons.
        among: Vec<String>,
        /// Shares that give the kit back.
        needed: usize,
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

/// What is wanted of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreAsk {
    /// Begin it.
    Begin {
        /// What is wished.
        wish: RestoreWish,
    },
    /// Put the earlier files back.
    Undo,
    /// Remove the earlier files for good.
    Keep,
    /// Give it up before anything is touched.
    Cancel,
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
