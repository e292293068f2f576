//! What one `home.yaml` declares, validated: a [`HomeSpec`] holds no contradiction
//! that could be seen without asking the machines.

mod backup;
mod build;
mod compose;
mod cross;
mod difference;
mod environment;
mod fields;
mod home;
mod interpolate;
mod ports;
mod radiator;
mod recipe;
mod report;
mod schema;
mod service;
mod tree;
mod units;
mod volumes;
mod words;

pub use difference::{Change, Difference, Kind, difference};
pub use home::parse;
pub use interpolate::parse_env_file;
pub use recipe::{CERTIFICATE_KEYS, PROBE_ACCOUNT, PROBE_EVERY_DEFAULT_S, VAULT_PORT};
pub use report::{Notice, Place, Problem, SpecErrors};
pub use schema::schema;
pub use tree::TEXT_MAX_BYTES;

pub use crate::backup::BackupSpec;
use crate::name::{HomeName, RadiatorName, ServiceName, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The whole declaration of a home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HomeSpec {
    /// `home:`
    pub home: HomeName,
    /// `address:`, the floating address the router's port forward points at.
    pub address: Option<AddressSpec>,
    /// `radiators:`
    pub radiators: BTreeMap<RadiatorName, RadiatorSpec>,
    /// `placement:`
    pub placement: PlacementSpec,
    /// `services:`
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// `volumes:`
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
    /// `notify:`
    pub notify: Option<NotifySpec>,
}

/// An address with the length of its network's prefix, `192.168.1.50/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpec {
    /// The address itself.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

/// One radiator as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RadiatorSpec {
    /// What it heats.
    pub heats: Heats,
    /// Full electric power when computing, W.
    pub power_w: f64,
    /// Where its temperature comes from; without one its demand is unknown.
    pub sensor: Option<SensorSpec>,
    /// What is wanted of it.
    pub comfort: Option<ComfortSpec>,
}

/// What a radiator's heat goes into.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Heats {
    /// The air of a room.
    Room,
    /// A hot-water tank of that many litres.
    Water {
        /// Litres.
        tank_l: f64,
    },
}

/// Where a temperature is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SensorSpec {
    /// GET a URL, take a field of its JSON (`path: a.b.0.c`; empty: the body is the number).
    Http {
        /// Where.
        url: String,
        /// Dotted path to the number.
        path: String,
        /// Seconds after which a reading counts no more.
        stale_s: u64,
    },
    /// A command that prints the number.
    Command {
        /// Program and arguments, not a shell line.
        argv: Vec<String>,
        /// Seconds after which a reading counts no more.
        stale_s: u64,
    },
    /// A file holding the number; its modification time dates the reading.
    File {
        /// Absolute path.
        path: String,
        /// Seconds after which a reading counts no more.
        stale_s: u64,
    },
    /// A room (or tank) of one heat capacity, warmed by the radiator's measured power.
    Simulated {
        /// Temperature at start, °C.
        start_c: f64,
        /// Loss to outdoors, W/K.
        loss_w_per_k: f64,
        /// Heat capacity, kJ/K.
        capacity_kj_per_k: f64,
        /// Outdoor temperature, °C.
        outdoor_c: f64,
        /// How many times faster than real time.
        speed: f64,
    },
}

/// What temperature is wanted, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComfortSpec {
    /// Wanted temperature outside of the schedule's spans, °C.
    pub target_c: f64,
    /// Spans of the day with another target; a span may pass midnight; they don't overlap.
    pub schedule: Vec<ComfortSpan>,
}

/// A span of the local day with its own target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComfortSpan {
    /// First minute of the day in it.
    pub from_minute: u16,
    /// First minute of the day after it.
    pub until_minute: u16,
    /// Wanted temperature, °C.
    pub target_c: f64,
}

impl ComfortSpec {
    /// The target at a minute of the local day (0..1440), °C.
    pub fn target_at(&self, minute: u16) -> f64 {
        let inside = |s: &&ComfortSpan| {
            if s.from_minute <= s.until_minute {
                (s.from_minute..s.until_minute).contains(&minute)
            } else {
                minute >= s.from_minute || minute < s.until_minute
            }
        };
        self.schedule.iter().find(inside).map_or(self.target_c, |s| s.target_c)
    }
}

/// What a move must gain, and how often it may happen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlacementSpec {
    /// Least gain of a move, W.
    pub move_gain_w: f64,
    /// Least stay after a start or move, s.
    pub minimum_stay_s: u64,
    /// Most heat moves of one service in 24 hours.
    pub moves_per_day: u32,
}

impl Default for PlacementSpec {
    fn default() -> Self {
        Self { move_gain_w: 60.0, minimum_stay_s: 1800, moves_per_day: 6 }
    }
}

/// One service as declared: Compose's fields and ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// `recipe:`, with its settings; the rest of the fields then come from the recipe unless given.
    pub recipe: Option<RecipeSpec>,
    /// `image:`
    pub image: Option<String>,
    /// `build:`
    pub build: Option<BuildSpec>,
    /// `command:`
    pub command: Option<Vec<String>>,
    /// `entrypoint:`
    pub entrypoint: Option<Vec<String>>,
    /// `environment:` and `env_file:`, merged.
    pub environment: BTreeMap<String, EnvValue>,
    /// `ports:`
    pub ports: Vec<PortSpec>,
    /// `volumes:`, named ones only.
    pub volumes: Vec<MountSpec>,
    /// `healthcheck:`
    pub healthcheck: Option<HealthSpec>,
    /// `user:`
    pub user: Option<String>,
    /// `working_dir:`
    pub working_dir: Option<String>,
    /// `mem_limit:`, bytes.
    pub memory_max_bytes: Option<u64>,
    /// `cpus:`
    pub cpus_max: Option<f64>,
    /// `stop_grace_period:`, s; the stop budget of planned moves.
    pub stop_grace_s: u64,
    /// `restart:` other than `no`: whether a container that ended is started again.
    pub restart: bool,
    /// `heat:`
    pub heat: HeatClass,
    /// `place:`
    pub place: PlaceSpec,
    /// `backup:`
    #[serde(default)]
    pub backup: Option<BackupSpec>,
}

/// Whether a service runs for its own sake or for its heat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeatClass {
    /// Runs always; its heat follows its work.
    Steady,
    /// Work that may be throttled up and down for its heat.
    Elastic,
}

/// A recipe and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RecipeSpec {
    /// Postfix and Dovecot.
    Mail(MailSpec),
    /// The YaCy search engine.
    Yacy(YacySpec),
    /// Space lent to friends' homes for their backups.
    Vault(VaultSpec),
}

/// Settings of the vault recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultSpec {
    /// Where friends reach this home, the best first: host, or host and port. None: the home's own address.
    pub addresses: Vec<String>,
    /// Bytes lent to each friend that has no terms of its own.
    pub lend_bytes: u64,
    /// Terms by friend.
    pub friends: BTreeMap<HomeName, VaultTermsSpec>,
}

/// On what terms space is lent to one friend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VaultTermsSpec {
    /// Bytes lent; `None`: as to everybody.
    pub lend_bytes: Option<u64>,
    /// Bytes a second that are taken; `None` is without limit.
    pub up_bytes_s: Option<u64>,
    /// Bytes a second that are given; `None` is without limit.
    pub down_bytes_s: Option<u64>,
    /// When backups are taken; none at all is the whole day.
    pub hours: Vec<crate::backup::Window>,
}

impl VaultSpec {
    /// On what terms a friend's backups are kept, with the bytes that are lent.
    pub fn terms(&self, friend: &HomeName) -> (u64, VaultTermsSpec) {
        let terms = self.friends.get(friend).cloned().unwrap_or_default();
        (terms.lend_bytes.unwrap_or(self.lend_bytes), terms)
    }
}

/// Settings of the mail recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MailSpec {
    /// The mail domain, `example.org`.
    pub domain: String,
    /// `myhostname`; by default `mail.` and the domain.
    pub hostname: String,
    /// Accounts by local part.
    pub accounts: BTreeMap<String, MailAccountSpec>,
    /// Largest message, bytes.
    pub message_max_bytes: u64,
    /// A certificate given by a person; `None`: one of the home's authority.
    #[serde(default)]
    pub certificate: Option<CertificateSpec>,
    /// How often the probe sends a message round, s.
    #[serde(default = "probe_every_default_s")]
    pub probe_every_s: u64,
}

const fn probe_every_default_s() -> u64 {
    recipe::PROBE_EVERY_DEFAULT_S
}

/// A certificate given by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// The server's certificate and those that signed it, PEM.
    pub chain_pem: String,
    /// The sealed secret that holds its key, PEM.
    pub key: SecretName,
    /// The file from which `apply` seals the key first; where it is none, the secret is set by a person.
    #[serde(skip)]
    pub key_file: Option<String>,
}

/// One mail account of the YAML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailAccountSpec {
    /// The sealed secret's name, `mail/marie`.
    pub password: SecretName,
    /// Other local parts that reach it.
    pub aliases: BTreeSet<String>,
}

/// Settings of the YaCy recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct YacySpec {
    /// `freeworld`, `webportal` or `intranet`.
    pub network: String,
    /// Java heap, MiB.
    pub heap_mib: u64,
}

/// A reference to a sealed secret: `secret:NAME` in YAML, NAME here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretName(pub String);

/// A value of a container's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvValue {
    /// Given in clear.
    Plain(String),
    /// A sealed secret.
    Secret(SecretName),
}

/// `build:`: a folder beside the YAML, packed by `apply` and kept in the home by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// The folder as written, relative to the YAML.
    pub context: String,
    /// Dockerfile inside of it.
    pub dockerfile: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// BLAKE3 of the packed context, once packed.
    pub hash: Option<String>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port on the home's address and on every radiator.
    pub published: u16,
    /// Port in the container.
    pub target: u16,
    /// Whether the service takes a PROXY v2 header there.
    pub proxy_protocol: bool,
}

/// A named volume at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Which volume.
    pub volume: VolumeName,
    /// Absolute path in the container.
    pub path: String,
    /// `:ro`
    pub read_only: bool,
}

/// `healthcheck:`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// As Docker takes it: `["CMD", ...]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// ms
    pub interval_ms: u64,
    /// ms
    pub timeout_ms: u64,
    /// ms
    pub start_period_ms: u64,
    /// How many failures make it unhealthy.
    pub retries: u32,
}

/// `place:`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceSpec {
    /// Radiators it may run on; empty: all.
    pub only: BTreeSet<RadiatorName>,
    /// Radiators it must not run on.
    pub never: BTreeSet<RadiatorName>,
}

/// One volume as declared, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Bytes; 0 where it is no device of a size.
    pub size_bytes: u64,
    /// How many radiators hold it.
    pub replicas: u32,
    /// How many must hold a write before it is acknowledged, once they are there.
    pub durability: u32,
    /// What to do below `durability`.
    pub on_degraded: OnDegraded,
    /// How it is kept.
    pub driver: VolumeDriver,
}

/// What happens below `durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnDegraded {
    /// Go on and say so.
    Continue,
    /// Stop the container (the volume stays attached) until it is whole again.
    Stop,
}

/// How a volume is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VolumeDriver {
    /// A replicated block device.
    #[default]
    Replicated,
    /// A plain folder on one radiator: `replication: none`.
    Local,
    /// A folder of a file system that all radiators have mounted by themselves: `driver: shared`.
    Shared {
        /// Where, on each of them.
        path: String,
    },
}

impl VolumeDriver {
    /// Whether it is a folder and no device of ours: no size, no process, no set of members in sync.
    pub fn is_folder(&self) -> bool {
        !matches!(self, Self::Replicated)
    }

    /// Why a volume that has data is not simply kept in another way.
    pub(crate) fn cannot_become(&self, wanted: &Self, volume: &VolumeName) -> String {
        format!(
            "volume {volume} is {self} and can't become {wanted}: declare another volume, copy, remove this one"
        )
    }
}

impl std::fmt::Display for VolumeDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Replicated => write!(f, "replicated"),
            Self::Local => write!(f, "on one radiator only"),
            Self::Shared { path } => write!(f, "shared in {path}"),
        }
    }
}

/// `notify:`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifySpec {
    /// To whom.
    pub to: Vec<String>,
    /// From whom; by default `thermidor@` and the SMTP host.
    pub from: Option<String>,
    /// Through which outside server.
    pub smtp: SmtpSpec,
}

/// An outside SMTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmtpSpec {
    /// Host name or address.
    pub host: String,
    /// Port; 465 is TLS from the start, anything else STARTTLS.
    pub port: u16,
    /// Whether TLS is demanded; only a test on loopback says no.
    pub tls: bool,
    /// Login, if any.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<SecretName>,
}
