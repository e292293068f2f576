//! The volume process: takes its configuration from the daemon, follows or is the active, and
//! goes on without the daemon.

use super::Propose;
use super::control::{AWAIT_MAX, Refused, Reply, Request, Status, read_line, socket, write_line};
use super::device::Places;
use super::roles::{Process, blocking, chain};
use super::{group, removal};
use crate::link::Link;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::replication::scrub::Pace;
use thermidor_model::{NodeId, VolumeName};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

/// How long another process of the same volume may take to end.
const ALONE_WITHIN: Duration = Duration::from_secs(10);
/// How often the lock of another process, or a refusing socket, is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often is looked whether something has changed, for whoever awaits it.
const CHANGED_EVERY: Duration = Duration::from_millis(25);
/// Whoever awaits a change hears after so long of a catch-up that goes on.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A control connection may take so long to say what it wants.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How a volume process is set up.
#[derive(Clone)]
pub struct VolumeOptions {
    /// Which volume.
    pub name: VolumeName,
    /// Its directory, `DATA/volumes/NAME`.
    pub dir: PathBuf,
    /// Where its control socket is.
    pub run_dir: PathBuf,
    /// This radiator.
    pub node: NodeId,
    /// The home's TLS identity.
    pub link: Link,
    /// Where it accepts its peers, on the volume's port.
    pub listen: IpAddr,
    /// Brings proposals to Raft.
    pub propose: Propose,
    /// The guard's lease page.
    pub lease_page: PathBuf,
    /// How the watchdog is started: a command that hands its further arguments to
    /// [`super::watchdog::Watch::from_arguments`]. Empty: there is none.
    pub watchdog: Vec<OsString>,
    /// A member silent for so long is dropped.
    pub replica_timeout: Duration,
    /// How fast bit rot is searched for.
    pub pace: Pace,
    /// How often blocks that the file system does not use are given back.
    pub trim_every: Duration,
}

/// Why the process could not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Another process of this volume runs.
    #[error("another process serves the volume in {0}")]
    NotAlone(PathBuf),
    /// Directories, leftovers.
    #[error(transparent)]
    Device(#[from] super::device::DeviceError),
    /// The volume was removed while its process was being started.
    #[error("there is no folder {0}: the volume was removed here")]
    Removed(PathBuf),
    /// Control socket or directory.
    #[error("can't use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// To be called first, before any thread: makes the process of that volume one that memory pressure does not wait
/// for, in a control group of its own, that a terminal does not end, and that ends as a whole where one of its threads panics: the device
/// fails at once and the daemon starts another, while half a process would serve nobody and hold everything.
/// Answers in words what this machine refused.
pub fn prepare(volume: &VolumeName) -> Vec<String> {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    let mut refused = vec![];
    let mut try_it = |what: &str, done: io::Result<()>| {
        if let Err(e) = done {
            refused.push(format!("{what}: {e}"));
        }
    };
    // Already the leader of a session: that is as good.
    try_it(
        "leaving the daemon's session",
        match rustix::process::setsid() {
            Err(rustix::io::Errno::PERM) => Ok(()),
            other => other.map(drop).map_err(io::Error::from),
        },
    );
    try_it(
        "telling the kernel that it waits for this process (PR_SET_IO_FLUSHER)",
        rustix::process::configure_io_flusher_behavior(true).map_err(io::Error::from),
    );
    try_it(
        "staying when memory is short (oom_score_adj)",
        std::fs::write("/proc/self/oom_score_adj", "-1000"),
    );
    try_it(
        "a control group of its own, without which a writer short of memory may hang",
        group::apart(&format!("volume-{volume}")),
    );
    refused
}

/// Runs until told to quit, in a folder that whoever starts it has made: a process that comes too late does not bring
/// back what was removed. Needs a multi-threaded runtime.
pub async fn run(options: VolumeOptions) -> Result<(), ProcessError> {
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| ProcessError::Io { path, source }
    };
    let dir = match options.dir.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ProcessError::Removed(options.dir)),
        found => found.map_err(io(&options.dir))?,
    };
    let options = VolumeOptions { dir: dir.clone(), ..options };
    let _alone = alone(&dir).await?;
    let places = Places { dir };
    let cleaned = places.clone();
    blocking(move || cleaned.clean()).await?;
    let path = socket(&options.run_dir, &options.name);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&path)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(io(&path))?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, permissions).map_err(io(&path))?;
    let process = Arc::new(Process::new(options, places));
    let looking = [
        tokio::spawn(process.clone().look_after()),
        tokio::spawn(process.clone().look_after_snapshots()),
        tokio::spawn(process.clone().look_after_size()),
        tokio::spawn(process.clone().trim_at_times()),
    ];
    let mut asked_to_end = signal(SignalKind::terminate()).map_err(io(&process.options.dir))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(process.clone().serve(stream))),
                Err(e) => {
                    tracing::warn!(error = %e, "the control socket refused");
                    tokio::time::sleep(AGAIN).await;
                }
            },
            () = process.quit.notified() => break,
            _ = asked_to_end.recv() => break,
        }
    }
    looking.into_iter().for_each(|task| task.abort());
    process.end().await;
    std::fs::remove_file(&path).map_err(io(&path))
}

/// Sees to it that no other process serves this volume, and that nobody has removed it meanwhile.
async fn alone(dir: &std::path::Path) -> Result<std::fs::File, ProcessError> {
    let path = dir.join("lock");
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProcessError::Removed(dir.into()),
        _ => ProcessError::Io { path: path.clone(), source },
    };
    let file = removal::lock_file(dir).map_err(io)?;
    let since = tokio::time::Instant::now();
    loop {
        match removal::try_lock(&file) {
            Ok(()) => {
                let (held, named) = (file.metadata().map_err(io)?, path.metadata().map_err(io)?);
                return match held.ino() == named.ino() {
                    true => Ok(file),
                    false => Err(ProcessError::Removed(dir.into())),
                };
            }
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < ALONE_WITHIN => {
                tokio::time::sleep(AGAIN).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ProcessError::NotAlone(dir.into())),
            Err(e) => return Err(io(e.into())),
        }
    }
}

impl Process {
    async fn serve(self: Arc<Self>, mut stream: UnixStream) {
        let reply = match tokio::time::timeout(ASK_MAX, read_line::<Request>(&mut stream)).await {
            Ok(Ok(request)) => {
                let quits = request == Request::Quit;
                let awaits = matches!(request, Request::Await(_));
                let reply = tokio::select! {
                    reply = self.answer(request) => reply.unwrap_or_else(Reply::Refused),
                    // Whoever awaits something may hang up; every other request is carried out.
                    _ = stream.read_u8(), if awaits => return,
                };
                if quits {
                    self.quit.notify_one();
                }
                reply
            }
            Ok(Err(e)) => Reply::Refused(Refused::Garbage(format!("that is no request: {e}"))),
            Err(_) => return,
        };
        if let Err(e) = write_line(&mut stream, &reply).await {
            tracing::debug!(error = %e, "whoever asked has gone");
        }
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Result<Reply, Refused> {
        match request {
            Request::Status => Ok(Reply::Status(self.status())),
            Request::Await(seen) => Ok(Reply::Status(self.changed(&seen).await)),
            Request::Configure(configuration) => {
                // Attaching may depend on what the home decides now: that does not wait until it is attached.
                if self.reconfigure(&configuration) {
                    return Ok(Reply::Done);
                }
                let _step = self.steps.lock().await;
                self.configure(configuration).await.map(|()| Reply::Done)
            }
            Request::Attach { epoch, service_epoch } => {
                let _step = self.steps.lock().await;
                self.attach(epoch, service_epoch).await.map(|mount| Reply::Attached { mount })
            }
            Request::Detach { force } => {
                if force {
                    self.cut("detached by force");
                }
                let _step = self.steps.lock().await;
                self.detach(force).await.map(|()| Reply::Done)
            }
            Request::Trim => self.trim().await.map(|bytes| Reply::Trimmed { bytes }),
            Request::TakeSnapshot(name) => self.take_snapshot(name).await.map(|s| Reply::Snapshots(vec![s])),
            Request::Snapshots => Ok(Reply::Snapshots(self.snapshot_views())),
            Request::MountSnapshot(name) => {
                self.mount_snapshot(&name).await.map(|mount| Reply::Attached { mount })
            }
            Request::UnmountSnapshot(name) => self.unmount_snapshot(&name).await.map(|()| Reply::Done),
            Request::RemoveSnapshot(name) => self.remove_snapshot(&name).await.map(|()| Reply::Done),
            Request::Check => self.check().await.map(|pass| Reply::Checking { pass }),
            Request::Quit => Ok(Reply::Done),
        }
    }

    /// What it does, once that is something else than `seen`.
    async fn changed(&self, seen: &Status) -> Status {
        let began = tokio::time::Instant::now();
        loop {
            let now = self.status();
            let goes_on = now.behind_bytes != seen.behind_bytes && began.elapsed() >= PROGRESS_EVERY;
            if !now.is_as(seen) || goes_on || began.elapsed() >= AWAIT_MAX {
                return now;
            }
            tokio::time::sleep(CHANGED_EVERY).await;
        }
    }

    async fn end(self: &Arc<Self>) {
        self.cut("the volume process ends");
        let _step = self.steps.lock().await;
        self.end_role(None).await;
        self.listen_no_more();
        drop(self.unmount_snapshots(|_| true).await);
        let places = self.places.clone();
        if let Err(e) = blocking(move || places.leave()).await {
            tracing::error!(error = %chain(&e), "something is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_starts_while_its_volume_is_removed_ends_and_brings_nothing_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("box");
        assert!(matches!(alone(&dir).await, Err(ProcessError::Removed(_))), "it came too late");
        assert!(!dir.exists());

        std::fs::create_dir(&dir).unwrap();
        let removing = removal::lock_file(&dir).unwrap();
        removal::try_lock(&removing).unwrap();
        let starting = tokio::spawn({
            let dir = dir.clone();
            async move { alone(&dir).await }
        });
        tokio::time::sleep(3 * AGAIN).await;
        assert!(!starting.is_finished(), "it waits for whoever holds the lock");
        std::fs::remove_dir_all(&dir).unwrap();
        drop(removing);
        assert!(matches!(starting.await.unwrap(), Err(ProcessError::Removed(_))));
        assert!(!dir.exists());
    }
}
