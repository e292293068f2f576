//! What can be proposed to the home. Each command names what it was computed from
//! (an epoch, a set version, a revision), and [`crate::apply`] refuses it if that has changed.

use crate::backup::{Record, Subject};
use crate::friends::{FriendIdentity, KitClaim, KitRecord, KitSplit, PairingInvitation, PublicKey};
use crate::name::{HomeName, NodeId, RadiatorName, ReplicaId, ServiceName, UnixMs, VolumeName};
use crate::packed::Packed;
use crate::restore::RestoreOrder;
use crate::spec::HomeSpec;
use crate::state::{MailAccount, Off, Role, Sealed, Weight};
use crate::timing::Timing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A command with the time its proposer read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Wall clock of the proposer. Only for people and for spans of minutes: no safety rests on it.
    pub at_ms: UnixMs,
    /// What to do.
    pub command: Command,
}

/// A change of the home's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a home: its founder becomes member 1.
    Found {
        /// The home's name.
        home: HomeName,
        /// The founder.
        radiator: RadiatorName,
        /// Its listener.
        address: SocketAddr,
        /// The authority's certificate, PEM.
        authority_pem: String,
        /// The home's times.
        timing: Timing,
    },
    /// Opens an invitation.
    Invite {
        /// BLAKE3 of the token's secret, hex.
        token_hash: String,
        /// When it ends.
        expires_ms: UnixMs,
    },
    /// Consumes an invitation and makes a member. Answers [`Outcome::Joined`].
    Join {
        /// BLAKE3 of the token's secret, hex.
        token_hash: String,
        /// The newcomer's name.
        name: RadiatorName,
        /// Its listener.
        address: SocketAddr,
        /// What it will be.
        role: Role,
    },
    /// Takes a member out for good. Refused while a volume's in-sync set is only that member.
    Leave {
        /// Who.
        node: NodeId,
    },
    /// A member's listener moved.
    Readdress {
        /// Who.
        node: NodeId,
        /// Where to.
        address: SocketAddr,
    },
    /// Writes down by which key a member is known; refused where another one is written down.
    PinKey {
        /// Who.
        node: NodeId,
        /// BLAKE3 of its public key, hex.
        key: String,
    },
    /// `thermidor leave --stolen`, once the stolen radiator is out: a new authority and a new home key, which
    /// the proposer holds on its disk. Voids the open invitations.
    ChangeKeys {
        /// The number of the keys it was computed from.
        number_was: u64,
        /// The new authority's certificate, PEM.
        authority_pem: String,
        /// BLAKE3 of the new home key, hex.
        home_key_hash: String,
    },
    /// From a member: what is its own of the keys of that number is on its disk.
    HoldsKeys {
        /// Who.
        node: NodeId,
        /// The number of the keys.
        number: u64,
    },
    /// The secrets, sealed under the home key of the present number.
    Reseal {
        /// The number of the keys.
        number: u64,
        /// The secrets it was computed from.
        secrets_was: BTreeMap<String, Sealed>,
        /// The same ones, sealed anew.
        secrets: BTreeMap<String, Sealed>,
    },
    /// A higher generation, after `rescue`; members not named are gone.
    RaiseGeneration {
        /// The generation it was computed from.
        generation_was: u64,
        /// Who remains.
        remain: Vec<NodeId>,
    },
    /// `thermidor apply`.
    Declare {
        /// Revision it was computed from; 0 for the first.
        revision_was: u64,
        /// The YAML as given.
        text: String,
        /// The same, validated.
        spec: Box<HomeSpec>,
        /// Overrides stay, else they are cleared.
        keep_overrides: bool,
        /// Packed build contexts that the home has not got yet, by hash.
        contexts: BTreeMap<String, Packed>,
    },
    /// `thermidor off`. Refused where the radiator alone holds a volume.
    Off {
        /// Who.
        node: NodeId,
        /// How.
        off: Off,
    },
    /// `thermidor on`.
    On {
        /// Who.
        node: NodeId,
    },
    /// `thermidor target`; `None` clears the override.
    Target {
        /// Which radiator, also one that has not joined yet.
        radiator: RadiatorName,
        /// °C
        celsius: Option<f64>,
    },
    /// `thermidor move`.
    Wish {
        /// Which service.
        service: ServiceName,
        /// Where to.
        to: NodeId,
    },
    /// The wish cannot be fulfilled, or has been.
    ForgetWish {
        /// Which service.
        service: ServiceName,
        /// The wish it is about.
        to: NodeId,
        /// Why it is given up, for people; nothing if it is fulfilled.
        #[serde(default)]
        why: Option<String>,
    },
    /// `thermidor secret set`.
    SetSecret {
        /// Name, `mail/marie`.
        name: String,
        /// Sealed value; `None` removes it.
        sealed: Option<Sealed>,
    },
    /// `thermidor mail account add|password|rm`.
    SetMailAccount {
        /// Which mail service.
        service: ServiceName,
        /// Local part.
        account: String,
        /// The account; `None` removes it.
        value: Option<MailAccount>,
    },
    /// Gives a service a new active and raises its epoch and its volumes'. Answers [`Outcome::Epoch`].
    /// Refused unless the service's epoch is `epoch_was` and `to` is in sync for each of its volumes.
    Activate {
        /// Which service.
        service: ServiceName,
        /// The epoch it was decided in.
        epoch_was: u64,
        /// The new active; may be the old one, after it lost its place (a crash, a reboot).
        to: NodeId,
        /// The set version of each volume it was decided from.
        sets: BTreeMap<VolumeName, u64>,
        /// Why now.
        why: Why,
        /// The sentence for people.
        reason: String,
    },
    /// Asks the active to stop, for a move or for good.
    Stop {
        /// Which service.
        service: ServiceName,
        /// The epoch it was decided in.
        epoch_was: u64,
        /// Who is next, if that is known.
        next: Option<NodeId>,
        /// The sentence for people.
        reason: String,
    },
    /// From the active: container ended, volumes detached and flushed, lease given back. Nobody is active then.
    Stopped {
        /// Which service.
        service: ServiceName,
        /// The epoch that ended.
        epoch_was: u64,
        /// Who says so; must be the active.
        node: NodeId,
    },
    /// The service died on a radiator too often: keep it away from there for a while.
    Avoid {
        /// Which service.
        service: ServiceName,
        /// The epoch in which it died.
        epoch_was: u64,
        /// Where.
        node: NodeId,
        /// Until when.
        until_ms: UnixMs,
    },
    /// Gives a volume a replica on a member, not in sync yet (in sync if it is the very first).
    AddReplica {
        /// Which volume.
        volume: VolumeName,
        /// The set version it was computed from.
        set_was: u64,
        /// Where.
        node: NodeId,
        /// A fresh random identity.
        id: ReplicaId,
    },
    /// Takes a replica out of the volume for good. Refused for the last in-sync one.
    RemoveReplica {
        /// Which volume.
        volume: VolumeName,
        /// The set version it was computed from.
        set_was: u64,
        /// Where.
        node: NodeId,
    },
    /// A replica has caught up: it joins the in-sync set. Answers [`Outcome::Set`].
    JoinSet {
        /// Which volume.
        volume: VolumeName,
        /// The epoch it was computed in.
        epoch: u64,
        /// The set version it was computed from.
        set_was: u64,
        /// Who.
        node: NodeId,
        /// Its identity.
        id: ReplicaId,
    },
    /// A replica is silent or broken: it leaves the in-sync set. Refused for the last one. Answers [`Outcome::Set`].
    DropFromSet {
        /// Which volume.
        volume: VolumeName,
        /// The epoch it was computed in.
        epoch: u64,
        /// The set version it was computed from.
        set_was: u64,
        /// Who.
        node: NodeId,
    },
    /// `thermidor volume promote --accept-loss`: the set becomes that one replica.
    Promote {
        /// Which volume.
        volume: VolumeName,
        /// The epoch it was computed in.
        epoch: u64,
        /// The set version it was computed from.
        set_was: u64,
        /// Who.
        node: NodeId,
    },
    /// `thermidor volume rm`. Refused while a service uses it.
    RemoveVolume {
        /// Which volume.
        volume: VolumeName,
    },
    /// From a radiator: the image of a removed volume is gone from its disk.
    ImageRemoved {
        /// Which volume it was of.
        volume: VolumeName,
        /// Where.
        node: NodeId,
        /// Its identity.
        id: ReplicaId,
    },
    /// Something about the restore of a service.
    Restore {
        /// Which.
        service: ServiceName,
        /// What.
        order: RestoreOrder,
    },
    /// The floating address gets a new holder.
    HoldAddress {
        /// The epoch it was decided in.
        epoch_was: u64,
        /// Who; `None`: nobody.
        to: Option<NodeId>,
    },
    /// Something to tell people.
    Tell {
        /// How much it matters.
        weight: Weight,
        /// Two of one key within an hour are mailed once.
        key: String,
        /// The sentence.
        text: String,
    },
    /// Events up to this number have been mailed.
    Notified {
        /// The number.
        up_to: u64,
    },
    /// Changes nothing: measures a put, or proves that a majority answers.
    Put {
        /// Any bytes; only their hash is kept nowhere.
        #[serde(with = "crate::packed")]
        value: Vec<u8>,
    },
    /// `thermidor friend invite`: a code is given out; the one before is void.
    InviteFriend {
        /// The code, sealed.
        invitation: PairingInvitation,
    },
    /// Somebody makes a guess at the code. Refused unless it is the first one, and in time.
    BurnPairing {
        /// The invitation's number.
        id: u64,
    },
    /// A home knew the code, or gave one out that was known here: a friend once the words are confirmed.
    MeetFriend {
        /// Its name.
        home: HomeName,
        /// Who it says to be.
        identity: FriendIdentity,
        /// What both people must read.
        words: [String; 4],
    },
    /// `thermidor friend confirm`: both people read the same words.
    ConfirmFriend {
        /// Who.
        home: HomeName,
        /// The words that were compared.
        words: [String; 4],
    },
    /// `thermidor friend rm`.
    RemoveFriend {
        /// Who; a home that is no friend any more only to have deleted what it kept.
        home: HomeName,
        /// What it kept in this home's vault is deleted.
        #[serde(default)]
        delete_data: bool,
    },
    /// A friend is reached elsewhere.
    ReaddressFriend {
        /// Who.
        home: HomeName,
        /// Where, the best first: host and port.
        addresses: Vec<String>,
    },
    /// A friend has shown a higher generation than is believed.
    HearGeneration {
        /// Who.
        home: HomeName,
        /// Which.
        generation: u64,
    },
    /// `thermidor friend confirm`, of a home that was recovered or rescued.
    ConfirmGeneration {
        /// Who.
        home: HomeName,
        /// Which.
        generation: u64,
    },
    /// The home gets a recovery kit, or another one.
    SetKit {
        /// The signing key of the kit that it replaces.
        was: Option<PublicKey>,
        /// What is known of it.
        record: KitRecord,
        /// Its entropy, sealed as [`crate::friends::KIT_SECRET`].
        sealed: Sealed,
    },
    /// The kit was printed, tried or split.
    NoteKit {
        /// When it was printed.
        printed_ms: Option<UnixMs>,
        /// When it was tried.
        rehearsed_ms: Option<UnixMs>,
        /// How it was split, and when.
        #[serde(default)]
        split: Option<KitSplit>,
    },
    /// `thermidor kit replace`: another kit, and every friend holds to the one before for now.
    ReplaceKit {
        /// The signing key of the kit that it replaces.
        was: PublicKey,
        /// What is known of the new one.
        record: KitRecord,
        /// Its entropy, sealed as [`crate::friends::KIT_SECRET`].
        sealed: Sealed,
        /// The entropy of the one before, sealed as [`crate::friends::KIT_BEFORE_SECRET`].
        before: Box<Sealed>,
        /// Every friend, with the words that its person must be shown.
        waiting: BTreeMap<HomeName, [String; 4]>,
    },
    /// A friend's vault has taken the announcement of the kit with that key.
    AnnouncedKit {
        /// Whose vault.
        friend: HomeName,
        /// The new kit's signing key.
        key: PublicKey,
    },
    /// A friend believes in the kit with that key: it lets this home in by it, and all that lies there opens with it.
    TookKit {
        /// Who.
        friend: HomeName,
        /// The new kit's signing key.
        key: PublicKey,
    },
    /// A friend says to have another kit, signed with the one that is known.
    HearKit {
        /// Who.
        home: HomeName,
        /// What it says.
        claim: KitClaim,
    },
    /// `thermidor friend confirm`, of a home whose kit was replaced.
    ConfirmKit {
        /// Who.
        home: HomeName,
        /// The words that were compared.
        words: [String; 4],
    },
    /// From whichever radiator made a backup, proved or tried one, or failed to.
    NoteBackup {
        /// Of what.
        subject: Subject,
        /// At whose vault.
        friend: HomeName,
        /// What was known when it began.
        was: Box<Record>,
        /// What is known now.
        record: Box<Record>,
    },
    /// This home was recovered or rescued elsewhere: whoever proposes it has seen the word that the kit has signed. All
    /// services stop, nothing is placed any more.
    StandDown {
        /// The later generation.
        generation: u64,
        /// When that began, by its own clock; 0: not known.
        since_ms: UnixMs,
        /// Whose vault has handed the word on.
        from: HomeName,
    },
    /// A command whose proposer may send it again where its answer is lost: it is applied once.
    Once {
        /// Drawn for this command alone.
        number: u64,
        /// What to do; no `Once`.
        command: Box<Command>,
    },
    /// `thermidor resume --kit-was-stolen`: this home goes on beside that generation.
    Overrule {
        /// Which one.
        generation: u64,
    },
}

/// Why a service gets a new active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It had none.
    Start,
    /// Heat.
    Heat,
    /// A person's wish, or a radiator going off.
    Planned,
    /// The active's lease ended, and its radiator is silent: it leaves the in-sync sets as well.
    Failover,
    /// The active's lease ended; its radiator is heard, but can't serve.
    Unfit,
    /// The active lost its place and takes it again.
    Again,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// The new member's number.
    Joined(NodeId),
    /// The new epoch.
    Epoch(u64),
    /// The new set version.
    Set(u64),
    /// Nothing changed.
    Refused(Refusal),
}

/// Why nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// What it was computed from has changed: look again.
    #[error("stale: {0}")]
    Stale(String),
    /// It can't be done, and what to do instead.
    #[error("{0}")]
    Invalid(String),
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let command = match &self.command {
            Command::Once { command, .. } => command,
            command => command,
        };
        let text = format!("{command:?}");
        f.write_str(text.split([' ', '{']).next().unwrap_or_default())
    }
}
