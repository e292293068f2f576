//! The home's replicated state: what Raft agrees on, and nothing else.
//! Telemetry stays out of it, so an idle home writes nothing.

use crate::backup::{Record, Subject};
use crate::command::{Outcome, Why};
use crate::friends::{Friend, KitChange, KitRecord, PairingInvitation};
use crate::name::{HomeName, NodeId, RadiatorName, ReplicaId, ServiceName, UnixMs, VolumeName};
use crate::outlived::Outlived;
use crate::packed::Packed;
use crate::restore::Restore;
use crate::spec::{HomeSpec, OnDegraded, VolumeDriver};
use crate::timing::Timing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Version of [`State`] as persisted; a newer one refuses to open under an older program.
pub const STATE_VERSION: u32 = 1;

/// How many events are kept.
pub const EVENTS_MAX: usize = 500;

/// So many commands that may be sent again are remembered. One that is sent again after so many others is applied again:
/// they are people's orders, and whoever sends one again stops within seconds.
pub const ONCE_MAX: usize = 64;

/// How many invitations may be open at once.
pub const TOKENS_MAX: usize = 64;

/// Everything the members agree on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of this structure.
    pub version: u32,
    /// The home's name; `None` until founded.
    pub home: Option<HomeName>,
    /// Raised by `rescue` and `recover`; members of an older generation must rejoin.
    pub generation: u64,
    /// When this generation began, Unix ms; 0: not known.
    #[serde(default)]
    pub generation_ms: UnixMs,
    /// The generation that came after this one elsewhere, once its word was heard.
    #[serde(default)]
    pub outlived: Option<Outlived>,
    /// The home's times.
    pub timing: Timing,
    /// The home's certificate authority, PEM (public part).
    pub authority_pem: String,
    /// By which keys members know one another, and how far a change of the home's keys is.
    #[serde(default)]
    pub keys: Keys,
    /// Members by number.
    pub members: BTreeMap<NodeId, Member>,
    /// The number the next member gets.
    pub next_node: NodeId,
    /// Open invitations by the BLAKE3 of their secret, hex.
    pub tokens: BTreeMap<String, Invitation>,
    /// What `apply` last declared.
    pub declared: Option<Declared>,
    /// Overrides made by the CLI of fields that YAML names.
    pub overrides: Overrides,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// The last epoch of services that are declared no more: one that comes back goes on from there,
    /// for a guard never serves an epoch twice.
    #[serde(default)]
    pub retired_epochs: BTreeMap<ServiceName, u64>,
    /// Volumes by name.
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// Images of volumes that a person removed, until their radiators have removed them.
    #[serde(default)]
    pub removed_images: Vec<RemovedImage>,
    /// Restores from friends that are under way, or whose earlier files are still kept.
    #[serde(default)]
    pub restores: BTreeMap<ServiceName, Restore>,
    /// How many restores have begun: the number of the last.
    #[serde(default)]
    pub restores_begun: u64,
    /// Who holds the floating address.
    pub address: Address,
    /// Secrets sealed under the home key, by name.
    pub secrets: BTreeMap<String, Sealed>,
    /// Mail accounts made by the CLI, by service and local part.
    pub mail_accounts: BTreeMap<ServiceName, BTreeMap<String, MailAccount>>,
    /// Homes that this one was paired with, by name.
    #[serde(default)]
    pub friends: BTreeMap<HomeName, Friend>,
    /// Homes that are no friends any more, and of whose the vault is to keep nothing: since when.
    #[serde(default)]
    pub parted: BTreeMap<HomeName, UnixMs>,
    /// The code that was given out last.
    #[serde(default)]
    pub pairing: Option<PairingInvitation>,
    /// The recovery kit, once there is one.
    #[serde(default)]
    pub kit: Option<KitRecord>,
    /// The kit before, as long as a friend holds to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kit_change: Option<KitChange>,
    /// How the backups stand, at each friend's.
    #[serde(default, with = "by_subject")]
    pub backups: BTreeMap<Subject, BTreeMap<HomeName, Record>>,
    /// Packed build contexts by their BLAKE3, hex.
    pub contexts: BTreeMap<String, Packed>,
    /// What came of the last commands that may be sent again, oldest first, at most [`ONCE_MAX`].
    #[serde(default)]
    pub once: VecDeque<(u64, Outcome)>,
    /// The last events, oldest first, at most [`EVENTS_MAX`].
    pub events: VecDeque<Event>,
    /// Number of the next event.
    pub next_event: u64,
    /// Events up to this number were mailed, or are not to be.
    pub notified: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            home: None,
            generation: 1,
            generation_ms: 0,
            outlived: None,
            timing: Timing::default(),
            authority_pem: String::new(),
            keys: Keys::default(),
            members: BTreeMap::new(),
            next_node: 1,
            tokens: BTreeMap::new(),
            declared: None,
            overrides: Overrides::default(),
            services: BTreeMap::new(),
            retired_epochs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            removed_images: Vec::new(),
            restores: BTreeMap::new(),
            restores_begun: 0,
            address: Address::default(),
            secrets: BTreeMap::new(),
            mail_accounts: BTreeMap::new(),
            friends: BTreeMap::new(),
            parted: BTreeMap::new(),
            pairing: None,
            kit: None,
            kit_change: None,
            backups: BTreeMap::new(),
            contexts: BTreeMap::new(),
            once: VecDeque::new(),
            events: VecDeque::new(),
            next_event: 1,
            notified: 0,
        }
    }
}

/// A map whose keys are no texts, as a list of pairs.
mod by_subject {
    use super::{BTreeMap, HomeName, Record, Subject};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Map = BTreeMap<Subject, BTreeMap<HomeName, Record>>;

    pub fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        Ok(Vec::<(Subject, BTreeMap<HomeName, Record>)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The home's keys: public parts and hashes alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Raised with each change; the authority and the home key of one number belong together.
    pub number: u64,
    /// BLAKE3 of the home key of that number, hex; empty for number 0, the keys the home was founded with.
    pub home_key_hash: String,
    /// The number of the home key under which secrets are sealed: lower while a change is under way.
    pub sealed_under: u64,
    /// Members on whose disks theirs of the present number is.
    pub holders: BTreeSet<NodeId>,
    /// BLAKE3 of each member's public key, hex. Who shows a certificate for another key is not that member,
    /// whoever signed it.
    pub members: BTreeMap<NodeId, String>,
}

/// A member: a radiator or a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: RadiatorName,
    /// Where the other members reach its listener.
    pub address: SocketAddr,
    /// What it is.
    pub role: Role,
    /// Set while it is `off`.
    pub off: Option<Off>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Heats, hosts services and votes.
    Radiator,
    /// Only votes; holds neither home key nor authority key.
    Witness,
}

/// A radiator that is not to heat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// Turns itself on again then.
    pub until_ms: Option<UnixMs>,
    /// Gives up its vote too, for its power will be cut.
    pub power_off: bool,
}

/// An open invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Refused from then on.
    pub expires_ms: UnixMs,
}

/// What `apply` declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Raised with each `apply`.
    pub revision: u64,
    /// The YAML as given.
    pub text: String,
    /// The same, validated.
    pub spec: HomeSpec,
}

/// Overrides of fields that YAML names, by the CLI.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    /// `thermidor target`, °C, by radiator.
    pub targets_c: BTreeMap<RadiatorName, f64>,
}

/// A service's place in the home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Raised each time the service gets an active, the same one included.
    pub epoch: u64,
    /// Whose instance may run; `None`: nobody's.
    pub active: Option<NodeId>,
    /// What the active is to do.
    pub phase: Phase,
    /// When the present active was chosen.
    pub since_ms: UnixMs,
    /// A person's wish, `thermidor move`; done or refused by the planner.
    pub wish: Option<NodeId>,
    /// When heat moved it, the last 24 hours' at most 32 times.
    pub moved_ms: Vec<UnixMs>,
    /// Radiators on which it died too often, and until when it is kept away from them.
    pub avoid: BTreeMap<NodeId, UnixMs>,
    /// A move that was begun by a stop and ends with the next active.
    #[serde(default)]
    pub moving: Option<Moving>,
}

/// A move under way: kept beyond the stop, so that whoever leads then knows how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Where the service was asked to stop.
    pub from: NodeId,
    /// Where it was to go.
    pub to: Option<NodeId>,
    /// [`Why::Heat`], or [`Why::Planned`] for a wish, a radiator going off or one it dies on.
    pub why: Why,
}

/// What a service's active is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Serve.
    Run,
    /// Stop within the stop budget, detach the volumes, then report [`crate::Command::Stopped`].
    Stop {
        /// Who is to be next, if that is known.
        next: Option<NodeId>,
    },
}

/// A volume's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    /// The one service that uses it.
    pub service: ServiceName,
    /// Size of the device, bytes.
    pub size_bytes: u64,
    /// How it is kept. What is a folder has a "replica" on whoever may serve it, always in sync.
    #[serde(default)]
    pub driver: VolumeDriver,
    /// How many replicas are wanted.
    pub replicas_wanted: u32,
    /// Below how many in-sync members it is degraded.
    pub durability: u32,
    /// What then.
    pub on_degraded: OnDegraded,
    /// TCP port of its volume process on every radiator.
    pub port: u16,
    /// Raised each time the volume gets an active, the same one included.
    pub epoch: u64,
    /// Whose volume process may take writes.
    pub active: Option<NodeId>,
    /// Who holds a replica, and its identity.
    pub replicas: BTreeMap<NodeId, ReplicaId>,
    /// Those that hold every acknowledged write.
    pub in_sync: BTreeSet<NodeId>,
    /// Raised with every change of `in_sync`; a change names the version it was computed from.
    pub set_version: u64,
}

impl Volume {
    /// Whether its service is not to run until the volume is whole again: `on_degraded: stop`, below `durability`.
    pub fn stops_its_service(&self) -> bool {
        self.on_degraded == OnDegraded::Stop && (self.in_sync.len() as u32) < self.durability
    }

    /// What its radiators hold of it, as it is written down once that is to go.
    pub(crate) fn images<'a>(&'a self, name: &'a VolumeName) -> impl Iterator<Item = RemovedImage> + 'a {
        self.replicas.iter().map(|(node, id)| RemovedImage {
            volume: name.clone(),
            node: *node,
            id: *id,
            driver: self.driver.clone(),
        })
    }
}

/// An image that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedImage {
    /// Which volume it was of.
    pub volume: VolumeName,
    /// On which radiator.
    pub node: NodeId,
    /// Its identity.
    pub id: ReplicaId,
    /// How the volume was kept.
    #[serde(default)]
    pub driver: VolumeDriver,
}

/// Who holds the floating address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Raised with each new holder.
    pub epoch: u64,
    /// Who may answer for it.
    pub holder: Option<NodeId>,
}

/// Bytes encrypted under the home key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// 12-byte nonce.
    pub nonce: [u8; 12],
    /// ChaCha20-Poly1305 of the value, with the secret's name as associated data.
    #[serde(with = "crate::packed")]
    pub bytes: Vec<u8>,
    /// The number of the home key.
    #[serde(default)]
    pub key: u64,
}

/// A mail account made by the CLI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailAccount {
    /// SHA512-crypt, as Dovecot takes it.
    pub password_hash: String,
    /// Other local parts that reach it.
    pub aliases: BTreeSet<String>,
}

/// Something worth telling a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, growing.
    pub number: u64,
    /// When.
    pub at_ms: UnixMs,
    /// How much it matters.
    pub weight: Weight,
    /// Two events of one key within an hour are mailed once.
    pub key: String,
    /// The sentence.
    pub text: String,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Weight {
    /// For the record.
    Note,
    /// Mailed.
    Mail,
}

impl State {
    /// The validated declaration, if there is one.
    pub fn spec(&self) -> Option<&HomeSpec> {
        self.declared.as_ref().map(|d| &d.spec)
    }

    /// A member's number by name.
    pub fn node(&self, name: &RadiatorName) -> Option<NodeId> {
        self.members.iter().find(|(_, m)| m.name == *name).map(|(id, _)| *id)
    }

    /// A member's name, or its number where it is no member (any more).
    pub fn name_of(&self, node: NodeId) -> String {
        self.members.get(&node).map_or_else(|| format!("member {node}"), |m| m.name.to_string())
    }

    /// The volumes of a service.
    pub fn volumes_of<'a>(
        &'a self,
        service: &'a ServiceName,
    ) -> impl Iterator<Item = (&'a VolumeName, &'a Volume)> + 'a {
        self.volumes.iter().filter(move |(_, v)| v.service == *service)
    }

    /// The members that hold data in sync for every volume of a service; all radiators if it has none.
    pub fn holders(&self, service: &ServiceName) -> BTreeSet<NodeId> {
        let radiators = self.members.iter().filter(|(_, m)| m.role == Role::Radiator).map(|(id, _)| *id);
        self.volumes_of(service).fold(radiators.collect(), |set: BTreeSet<NodeId>, (_, v)| {
            set.intersection(&v.in_sync).copied().collect()
        })
    }
}
