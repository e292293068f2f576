//! How the daemon speaks with a volume process: JSON lines over a Unix socket, one request and one
//! reply per connection. The process outlives the daemon; the next one finds it by the socket.

use super::snapshot::SnapshotView;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thermidor_model::observe::{CatchUp, ReplicaReport, ReplicaState};
use thermidor_model::replication::scrub::Record;
use thermidor_model::state::Volume;
use thermidor_model::{NodeId, SnapshotName, VolumeName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest line, bytes.
pub const LINE_MAX_BYTES: u64 = 1 << 20;
/// For requests that need no disk.
const QUICK: Duration = Duration::from_secs(3);
/// For attaching (journal replay, the first file system) and detaching (writing everything back).
const SLOW: Duration = Duration::from_secs(60);

/// For giving blocks back: it goes over the whole file system.
const TRIM: Duration = Duration::from_secs(600);

/// How long a process keeps whoever awaits a change waiting.
pub const AWAIT_MAX: Duration = Duration::from_secs(2);

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The volume as applied here; whenever it changes, and as often as one likes.
    Configure(Configuration),
    /// Become the active's device: export, mount. Each epoch once.
    Attach {
        /// The volume's epoch.
        epoch: u64,
        /// The service's epoch, under which the guard holds the lease.
        service_epoch: u64,
    },
    /// Unmount and hand everything over durably; by force: fail the device at once and take it away.
    Detach {
        /// Nothing is waited for.
        force: bool,
    },
    /// What it does.
    Status,
    /// What it does, once it does something else than this; after [`AWAIT_MAX`] at the latest.
    Await(Status),
    /// Give blocks back that the mounted file system does not use: [`Reply::Trimmed`].
    Trim,
    /// Take a snapshot of this replica: [`Reply::Snapshots`] of one.
    TakeSnapshot(SnapshotName),
    /// All snapshots of this replica.
    Snapshots,
    /// Mount one, read-only.
    MountSnapshot(SnapshotName),
    /// Unmount one.
    UnmountSnapshot(SnapshotName),
    /// Remove one for good; it must not be mounted.
    RemoveSnapshot(SnapshotName),
    /// Compare all replicas now.
    Check,
    /// End; an attached device is taken away by force.
    Quit,
}

/// A volume as applied, and where its members are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The record.
    pub record: Volume,
    /// Where the radiators' volume processes listen.
    pub members: BTreeMap<NodeId, IpAddr>,
    /// A missing image may be made: by Raft's record this replica has never been in sync, or the
    /// volume has never been attached (its epoch is 0). A foreign one is then kept aside.
    pub create: bool,
}

/// What the process answers.
#[expect(clippy::large_enum_variant, reason = "it lives for one answer")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Mounted there.
    Attached {
        /// Bind this into the container.
        mount: PathBuf,
    },
    /// What it does.
    Status(Status),
    /// So many bytes of the file system are in no use.
    Trimmed {
        /// As `fstrim` counts them.
        bytes: u64,
    },
    /// These snapshots.
    Snapshots(Vec<SnapshotView>),
    /// The replicas are being compared.
    Checking {
        /// Number of the pass.
        pass: u64,
    },
    /// It was not done.
    Refused(Refused),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The epoch was used by an earlier life, or a newer one is known: ask for `Activate` with `Why::Again`.
    #[error("epoch {epoch} is spent")]
    SpentEpoch {
        /// Which.
        epoch: u64,
    },
    /// The record that this process has says something else: configure it first.
    #[error("{0}")]
    NotActive(String),
    /// The guard holds no lease of that epoch here.
    #[error("the lease of {service} in epoch {epoch} is not held here")]
    NoLease {
        /// Its name.
        service: String,
        /// Its epoch.
        epoch: u64,
    },
    /// The image is missing, foreign, truncated or broken.
    #[error("{0}")]
    NoImage(String),
    /// A step failed, with its words.
    #[error("{0}")]
    Failed(String),
    /// The request makes no sense.
    #[error("{0}")]
    Garbage(String),
}

/// What a volume process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// What it does; `Failed` with words where it cannot.
    pub state: ReplicaState,
    /// Epoch of the image; on the active the epoch it serves.
    pub epoch: u64,
    /// Where the volume is mounted.
    pub mounted: Option<PathBuf>,
    /// What the least advanced replica lacks, on the active; what is known to lack, on the others. Bytes.
    pub behind_bytes: u64,
    /// Bytes allocated on the disk.
    pub used_bytes: u64,
    /// On the active: how far the replicas are.
    pub replicas: BTreeMap<NodeId, ReplicaView>,
    /// Version of the in-sync set in the record it was given last.
    pub set_version: u64,
    /// The in-sync set: on the active as it knows it, else as it was told last.
    pub in_sync: BTreeSet<NodeId>,
    /// Why an attached device was last cut off.
    pub fenced: Option<String>,
    /// The snapshots of this replica.
    #[serde(default)]
    pub snapshots: Vec<SnapshotView>,
    /// On the active: how far the search for bit rot is, and what it found.
    #[serde(default)]
    pub examination: Option<Record>,
    /// Why the image here is shorter than the volume is to be.
    #[serde(default)]
    pub short: Option<String>,
}

/// A replica as the active sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// A session stands.
    pub connected: bool,
    /// Flushes wait for it.
    pub counted: bool,
    /// Bytes to be compared or copied.
    pub behind_bytes: u64,
    /// How it is brought up to date in this session.
    #[serde(default)]
    pub catch_up: Option<CatchUp>,
}

impl Status {
    /// Whether it does the same, however far it has got with it.
    pub fn is_as(&self, other: &Self) -> bool {
        let views = |status: &Self| {
            status.replicas.iter().map(|(node, r)| (*node, r.connected, r.counted)).collect::<Vec<_>>()
        };
        let words = |s: &Self| {
            let words = (s.fenced.clone(), s.short.clone());
            (s.pid, s.state.clone(), s.epoch, s.mounted.clone(), s.set_version, words)
        };
        let found = |s: &Self| {
            s.examination.as_ref().map(|e| (e.pass, e.running, e.asked, e.repaired_ever, e.open.clone()))
        };
        words(self) == words(other)
            && self.in_sync == other.in_sync
            && views(self) == views(other)
            && found(self) == found(other)
    }

    /// Whom it brings up to date, and how far it is with that.
    fn catch_ups(&self) -> BTreeMap<NodeId, CatchUp> {
        let lacks = |(node, view): (&NodeId, &ReplicaView)| Some((*node, view.catch_up?));
        self.replicas.iter().filter(|(_, view)| view.behind_bytes > 0).filter_map(lacks).collect()
    }

    /// As the radiator reports it to the leader.
    pub fn report(&self) -> ReplicaReport {
        ReplicaReport {
            epoch: self.epoch,
            state: self.state.clone(),
            behind_bytes: if self.state == ReplicaState::Active { 0 } else { self.behind_bytes },
            used_bytes: self.used_bytes,
            catch_ups: self.catch_ups(),
            examination: self.examination.clone(),
        }
    }
}

/// Why a volume process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No process listens there.
    #[error("the volume process of {volume} does not run")]
    Absent {
        /// Whose.
        volume: VolumeName,
        /// What connecting said.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the volume process of {0} does not answer")]
    Silent(VolumeName),
    /// The connection broke.
    #[error("the volume process of {volume} broke off")]
    Broken {
        /// Whose.
        volume: VolumeName,
        /// How.
        source: io::Error,
    },
    /// It said no.
    #[error("volume {volume}: {why}")]
    Refused {
        /// Whose.
        volume: VolumeName,
        /// Why.
        why: Refused,
    },
}

/// Where a volume's process listens.
pub fn socket(run_dir: &Path, volume: &VolumeName) -> PathBuf {
    run_dir.join(format!("volume-{volume}.sock"))
}

/// The daemon's end.
#[derive(Debug, Clone)]
pub struct VolumeControl {
    volume: VolumeName,
    socket: PathBuf,
}

/// How glibc is to keep memory (mallopt(3)): each attachment takes buffers of 16 MiB, which go back to the kernel only while
/// the limit beyond which a piece is its own mapping stays where it is; by itself it follows what was freed last.
const MEMORY: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "4194304"), ("MALLOC_ARENA_MAX", "2")];

impl VolumeControl {
    /// Speaks with that volume's process, whoever started it.
    pub fn new(run_dir: &Path, volume: VolumeName) -> Self {
        Self { socket: socket(run_dir, &volume), volume }
    }

    /// How a process is started apart from this one: `command` is expected to call
    /// [`super::process::prepare`] first. Its words go to `log`.
    pub fn command(command: &[OsString], log: &Path) -> io::Result<std::process::Command> {
        let (program, arguments) = command.split_first().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no command for the volume process")
        })?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut apart = std::process::Command::new(program);
        apart.args(arguments).envs(MEMORY).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(apart)
    }

    /// Starts it so.
    pub fn spawn(command: &[OsString], log: &Path) -> io::Result<()> {
        // Dropped, not killed: the runtime waits for it should it end before us.
        tokio::process::Command::from(Self::command(command, log)?).spawn().map(drop)
    }

    /// Whether a process answers.
    pub async fn is_running(&self) -> bool {
        self.status().await.is_ok()
    }

    /// Gives it the volume's record.
    pub async fn configure(&self, configuration: Configuration) -> Result<(), ControlError> {
        self.ask(&Request::Configure(configuration), SLOW).await.map(drop)
    }

    /// Attaches and answers where the volume is mounted.
    pub async fn attach(&self, epoch: u64, service_epoch: u64) -> Result<PathBuf, ControlError> {
        match self.ask(&Request::Attach { epoch, service_epoch }, SLOW).await? {
            Reply::Attached { mount } => Ok(mount),
            other => Err(self.senseless(&other)),
        }
    }

    /// Detaches.
    pub async fn detach(&self, force: bool) -> Result<(), ControlError> {
        self.ask(&Request::Detach { force }, SLOW).await.map(drop)
    }

    /// What it does.
    pub async fn status(&self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status, QUICK).await? {
            Reply::Status(status) => Ok(status),
            other => Err(self.senseless(&other)),
        }
    }

    /// What it does, once that is something else than `seen`, or after [`AWAIT_MAX`]. A process of an earlier
    /// version refuses.
    pub async fn changed(&self, seen: &Status) -> Result<Status, ControlError> {
        match self.ask(&Request::Await(seen.clone()), AWAIT_MAX + QUICK).await? {
            Reply::Status(status) => Ok(status),
            other => Err(self.senseless(&other)),
        }
    }

    /// Has all replicas compared now; the number of the pass.
    pub async fn check(&self) -> Result<u64, ControlError> {
        match self.ask(&Request::Check, SLOW).await? {
            Reply::Checking { pass } => Ok(pass),
            other => Err(self.senseless(&other)),
        }
    }

    /// Gives blocks back that the mounted file system does not use; answers how many bytes those are.
    pub async fn trim(&self) -> Result<u64, ControlError> {
        match self.ask(&Request::Trim, TRIM).await? {
            Reply::Trimmed { bytes } => Ok(bytes),
            other => Err(self.senseless(&other)),
        }
    }

    /// Takes a snapshot of this replica.
    pub async fn take_snapshot(&self, name: SnapshotName) -> Result<SnapshotView, ControlError> {
        match self.ask(&Request::TakeSnapshot(name), SLOW).await? {
            Reply::Snapshots(mut one) if one.len() == 1 => Ok(one.remove(0)),
            other => Err(self.senseless(&other)),
        }
    }

    /// All snapshots of this replica.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotView>, ControlError> {
        match self.ask(&Request::Snapshots, QUICK).await? {
            Reply::Snapshots(all) => Ok(all),
            other => Err(self.senseless(&other)),
        }
    }

    /// Mounts a snapshot read-only and answers where.
    pub async fn mount_snapshot(&self, name: SnapshotName) -> Result<PathBuf, ControlError> {
        match self.ask(&Request::MountSnapshot(name), SLOW).await? {
            Reply::Attached { mount } => Ok(mount),
            other => Err(self.senseless(&other)),
        }
    }

    /// Unmounts a snapshot.
    pub async fn unmount_snapshot(&self, name: SnapshotName) -> Result<(), ControlError> {
        self.ask(&Request::UnmountSnapshot(name), SLOW).await.map(drop)
    }

    /// Removes a snapshot that is not mounted, for good.
    pub async fn remove_snapshot(&self, name: SnapshotName) -> Result<(), ControlError> {
        self.ask(&Request::RemoveSnapshot(name), SLOW).await.map(drop)
    }

    /// Ends it.
    pub async fn quit(&self) -> Result<(), ControlError> {
        self.ask(&Request::Quit, SLOW).await.map(drop)
    }

    fn senseless(&self, reply: &Reply) -> ControlError {
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {reply:?}"));
        ControlError::Broken { volume: self.volume.clone(), source }
    }

    async fn ask(&self, request: &Request, within: Duration) -> Result<Reply, ControlError> {
        let volume = &self.volume;
        let broken = |source| ControlError::Broken { volume: volume.clone(), source };
        let asked = async {
            let mut stream = UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ControlError::Absent { volume: volume.clone(), source })?;
            write_line(&mut stream, request).await.map_err(broken)?;
            read_line(&mut stream).await.map_err(broken)
        };
        match tokio::time::timeout(within, asked).await {
            Err(_) => Err(ControlError::Silent(volume.clone())),
            Ok(Err(e)) => Err(e),
            Ok(Ok(Reply::Refused(why))) => Err(ControlError::Refused { volume: volume.clone(), why }),
            Ok(Ok(reply)) => Ok(reply),
        }
    }
}

/// Writes one line.
pub async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line, of a bounded length.
pub async fn read_line<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = vec![];
    BufReader::new(stream.take(LINE_MAX_BYTES)).read_until(b'\n', &mut line).await?;
    serde_json::from_slice(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
