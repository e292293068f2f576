//! What daemon and guard say to each other over the guard's socket: one JSON object a line.

use super::SOCKET_FILE;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::ServiceName;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest line either side reads, bytes.
pub(super) const LINE_MAX: u64 = 64 << 10;
/// The guard answers at once or is frozen.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What the guard is told or asked. All but `Status` count as a sign of the daemon's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call {
    /// The daemon lives. To be said more often than `daemon_absent_max_ms`.
    Hello,
    /// The home has made this radiator active, or holder of the address: there is a lease to be had.
    Ask,
    /// What to kill when the lease of this epoch is lost, while the engine alone knows where it will be. To
    /// be called *before* the container starts; refused where that epoch is not held, and then the
    /// container must not be started. Otherwise as `Register`.
    Starting {
        /// The service.
        service: ServiceName,
        /// Its epoch.
        epoch: u64,
        /// The container's id: 64 hexadecimal digits.
        container: String,
    },
    /// Where that is, now that it runs. To be called again whenever the socket had to be opened anew; refused
    /// where that epoch is not held. Whatever is in the cgroup of an epoch that is not held is killed,
    /// until the service is registered anew or released.
    Register {
        /// The service.
        service: ServiceName,
        /// Its epoch.
        epoch: u64,
        /// The container's cgroup, absolute; it need not exist yet.
        cgroup: PathBuf,
        /// The container's first process, where it runs already. For people.
        pid: Option<u32>,
    },
    /// The daemon has stopped the service in good order: nothing of it runs and its volumes are
    /// detached. The lease is given back.
    Release {
        /// The service.
        service: ServiceName,
        /// Its epoch.
        epoch: u64,
    },
    /// The home's floating address, to be put on `interface` (`None`: where its network is) while the lease
    /// `@address` is held. `ip` None: the home has no such address.
    Address {
        /// The address.
        ip: Option<IpAddr>,
        /// Length of its network's prefix.
        prefix: u8,
        /// The interface.
        interface: Option<String>,
    },
    /// Another radiator is to have the floating address: it is taken away here, then its lease given back.
    ReleaseAddress {
        /// The address's epoch.
        epoch: u64,
    },
    /// How things stand.
    Status,
}

/// What the guard answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// Not done, and why.
    Refused {
        /// The sentence.
        why: String,
    },
    /// How things stand.
    Status(StatusReply),
}

/// How things stand with the guard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// What it holds, and what it fences.
    pub leases: Vec<StatusLease>,
    /// Whether it counts the daemon as alive.
    pub daemon_alive: bool,
    /// ms since the leader last answered; `None`: it never has.
    pub answered_ago_ms: Option<u64>,
    /// What is wrong.
    pub troubles: Vec<String>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusLease {
    /// The service, or `@address`.
    pub name: String,
    /// Its epoch.
    pub epoch: u64,
    /// How much longer it may serve, ms; 0: it is being fenced.
    pub left_ms: u64,
    /// What would be killed.
    pub cgroup: Option<PathBuf>,
    /// The container's first process.
    pub pid: Option<u32>,
}

/// The daemon's end of the socket.
pub struct GuardClient {
    stream: BufReader<UnixStream>,
}

impl GuardClient {
    /// Connects. After this, register everything that runs.
    pub async fn connect(run_dir: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(run_dir.join(SOCKET_FILE)).await?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One call. After an error connect anew.
    pub async fn call(&mut self, call: &Call) -> io::Result<Reply> {
        let answered = async {
            let mut line = serde_json::to_vec(call)?;
            line.push(b'\n');
            self.stream.get_mut().write_all(&line).await?;
            let mut answer = String::new();
            if self.stream.read_line(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(serde_json::from_str(&answer)?)
        };
        tokio::time::timeout(ANSWER_MAX, answered)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
