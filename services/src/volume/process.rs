//! The volume process: takes its configuration from the daemon, follows or is the active, and
//! goes on without the daemon.

use super::active::{Active, Right, Setting};
use super::attached::{Attached, Attachment};
use super::control::{
    Configuration, Refused, ReplicaView, Reply, Request, Status, read_line, socket, write_line,
};
use super::device::Places;
use super::disk::Disk;
use super::following::Following;
use super::image::{Image, ImageError};
use super::{Propose, peers};
use crate::lease_page::LeasePage;
use crate::link::Link;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermidor_model::observe::ReplicaState;
use thermidor_model::replication::{CannotServe, EXTENT_BYTES, Event, Limits};
use thermidor_model::{NodeId, ReplicaId, VolumeName};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How long another process of the same volume may take to end.
const ALONE_WITHIN: Duration = Duration::from_secs(10);
/// How often a device that was cut off is looked for, and a busy port tried again.
const LOOK: Duration = Duration::from_millis(50);
/// Sessions served at once; an active needs one, and may reconnect.
const SESSIONS_MAX: usize = 16;
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
    /// Control socket or directory.
    #[error("can't use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// To be called first, before any thread: makes the process one that memory pressure does not wait
/// for and that a terminal does not end. Answers in words what this machine refused.
pub fn prepare() -> Vec<String> {
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
    refused
}

/// Runs until told to quit. Needs a multi-threaded runtime.
pub async fn run(options: VolumeOptions) -> Result<(), ProcessError> {
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| ProcessError::Io { path, source }
    };
    std::fs::create_dir_all(&options.dir).map_err(io(&options.dir))?;
    let dir = options.dir.canonicalize().map_err(io(&options.dir))?;
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
    let process = Arc::new(Process {
        places,
        options,
        state: Mutex::new(State::default()),
        steps: tokio::sync::Mutex::new(()),
        cutter: Mutex::new(None),
        quit: Notify::new(),
    });
    let looking = tokio::spawn(process.clone().look_after());
    let mut asked_to_end = signal(SignalKind::terminate()).map_err(io(&process.options.dir))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(process.clone().serve(stream))),
                Err(e) => {
                    tracing::warn!(error = %e, "the control socket refused");
                    tokio::time::sleep(LOOK).await;
                }
            },
            () = process.quit.notified() => break,
            _ = asked_to_end.recv() => break,
        }
    }
    looking.abort();
    process.end().await;
    std::fs::remove_file(&path).map_err(io(&path))
}

/// Runs what blocks, where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Sees to it that no other process serves this volume.
async fn alone(dir: &std::path::Path) -> Result<std::fs::File, ProcessError> {
    let path = dir.join("lock");
    let io = |source| ProcessError::Io { path: path.clone(), source };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
    let since = tokio::time::Instant::now();
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < ALONE_WITHIN => {
                tokio::time::sleep(LOOK).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ProcessError::NotAlone(dir.into())),
            Err(e) => return Err(io(e.into())),
        }
    }
}

#[derive(Default)]
enum Role {
    /// None, and why.
    #[default]
    Unconfigured,
    Idle(String),
    /// Of an epoch whose device is being taken away.
    Ending(u64),
    Following(Following),
    Active {
        active: Arc<Active>,
        epoch: u64,
        attached: Option<Attached>,
        dialling: BTreeMap<NodeId, (SocketAddr, AbortHandle)>,
    },
}

#[derive(Default)]
struct State {
    configured: Option<Configuration>,
    disk: Option<(ReplicaId, Arc<Disk>)>,
    role: Role,
    listening: Option<(u16, AbortHandle)>,
    fenced: Option<String>,
}

struct Process {
    options: VolumeOptions,
    places: Places,
    /// Held for moments.
    state: Mutex<State>,
    /// Held by whoever changes the role.
    steps: tokio::sync::Mutex<()>,
    /// Cuts the attached device off, also while a step is under way.
    cutter: Mutex<Option<Box<dyn Fn(&str) + Send + Sync>>>,
    quit: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    async fn serve(self: Arc<Self>, mut stream: UnixStream) {
        let reply = match tokio::time::timeout(ASK_MAX, read_line::<Request>(&mut stream)).await {
            Ok(Ok(request)) => {
                let quits = request == Request::Quit;
                let reply = self.answer(request).await.unwrap_or_else(Reply::Refused);
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
            Request::Configure(configuration) => {
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
            Request::Quit => Ok(Reply::Done),
        }
    }

    fn cut(&self, why: &str) {
        if let Some(cut) = &*lock(&self.cutter) {
            cut(why);
        }
    }

    async fn configure(self: &Arc<Self>, new: Configuration) -> Result<(), Refused> {
        let Some(id) = new.record.replicas.get(&self.options.node).copied() else {
            lock(&self.state).configured = Some(new);
            self.rest("the home keeps no replica of this volume here".into()).await;
            return Ok(());
        };
        let (create, port) = (new.create, new.record.port);
        let held = {
            let mut state = lock(&self.state);
            state.configured = Some(new);
            state.disk.as_ref().map(|(id, _)| *id)
        };
        if held.is_some_and(|held| held != id) {
            self.rest("the replica here is another one".into()).await;
        }
        self.listen(port);
        if held != Some(id) {
            self.open(id, create).await?;
        }
        self.spread();
        Ok(())
    }

    /// Opens the image, makes it if that was said, and follows with it.
    async fn open(self: &Arc<Self>, id: ReplicaId, create: bool) -> Result<(), Refused> {
        let (name, path) = (self.options.name.clone(), self.places.image());
        let size = lock(&self.state).configured.as_ref().map_or(0, |c| c.record.size_bytes);
        let opened = blocking(move || open_image(&path, &name, id, size, create)).await;
        let started = opened.map_err(|e| chain(&e)).and_then(|image| {
            Disk::start(Arc::new(image)).map_err(|e| format!("no threads for the disk: {e}"))
        });
        match started {
            Ok(disk) => {
                lock(&self.state).disk = Some((id, Arc::new(disk)));
                self.follow()
            }
            Err(words) => {
                lock(&self.state).role = Role::Idle(words.clone());
                Err(Refused::NoImage(words))
            }
        }
    }

    fn follow(&self) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        let Some((_, disk)) = &state.disk else { return Ok(()) };
        let header = disk.image().header();
        state.role = if header.image.failed {
            Role::Idle(format!("the image was given up: {}", header.words))
        } else {
            match Following::start(disk.clone(), self.limits()) {
                Ok(following) => Role::Following(following),
                Err(e) => Role::Idle(format!("no thread for the replica: {e}")),
            }
        };
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits { replica_timeout_ms: self.options.replica_timeout.as_millis() as u64, ..Limits::default() }
    }

    /// Ends whatever role there is, and forgets the image.
    async fn rest(self: &Arc<Self>, words: String) {
        self.end_role(Some(&words)).await;
        let mut state = lock(&self.state);
        state.disk = None;
        state.role = Role::Idle(words);
    }

    /// Ends the role; an attached device is taken away by force.
    async fn end_role(self: &Arc<Self>, why: Option<&str>) {
        let role = {
            let mut state = lock(&self.state);
            let next = match &state.role {
                Role::Active { epoch, .. } => Role::Ending(*epoch),
                _ => Role::Unconfigured,
            };
            std::mem::replace(&mut state.role, next)
        };
        let why = why.unwrap_or("the volume process ends").to_string();
        *lock(&self.cutter) = None;
        match role {
            Role::Following(following) => blocking(move || following.stop()).await,
            Role::Active { active, attached, dialling, .. } => {
                blocking(move || {
                    if let Some(mut attached) = attached
                        && let Err(e) = attached.take_away(&why)
                    {
                        tracing::error!(error = %chain(&e), "something of the device is left");
                    }
                    active.fence(why);
                    active.stop();
                })
                .await;
                dialling.into_values().for_each(|(_, task)| task.abort());
            }
            Role::Idle(_) | Role::Ending(_) | Role::Unconfigured => {}
        }
    }

    /// Tells the active the record, and dials the replicas that it names.
    fn spread(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let State { configured: Some(configured), disk: Some((_, disk)), role, .. } = &mut *state else {
            return;
        };
        let Role::Active { active, dialling, .. } = role else { return };
        active.tell(Event::Config(configured.record.clone()));
        let wanted: BTreeMap<NodeId, SocketAddr> = configured
            .record
            .replicas
            .keys()
            .filter(|node| **node != self.options.node)
            .filter_map(|node| {
                let ip = configured.members.get(node)?;
                Some((*node, SocketAddr::new(*ip, configured.record.port)))
            })
            .collect();
        dialling.retain(|node, (address, task)| {
            let keep = wanted.get(node) == Some(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, address) in wanted {
            dialling.entry(node).or_insert_with(|| {
                let (link, image) = (self.options.link.clone(), disk.image().clone());
                let task = tokio::spawn(peers::dial(link, node, address, image, active.clone()));
                (address, task.abort_handle())
            });
        }
    }

    fn listen(self: &Arc<Self>, port: u16) {
        let mut state = lock(&self.state);
        if state.listening.as_ref().is_some_and(|(known, _)| *known == port) {
            return;
        }
        if let Some((_, task)) = state.listening.take() {
            task.abort();
        }
        let task = tokio::spawn(self.clone().accept_all(SocketAddr::new(self.options.listen, port)));
        state.listening = Some((port, task.abort_handle()));
    }

    async fn accept_all(self: Arc<Self>, address: SocketAddr) {
        let places = Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX));
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(e) => tracing::warn!(%address, error = %e, "can't listen for the active yet"),
            }
            tokio::time::sleep(LOOK * 4).await;
        };
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "accepting failed");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            let (queue, image) = {
                let state = lock(&self.state);
                let State { disk: Some((_, disk)), role: Role::Following(following), .. } = &*state else {
                    continue;
                };
                (following.queue(), disk.image().clone())
            };
            let (this, link) = (self.clone(), self.options.link.clone());
            tokio::spawn(async move {
                let may = |node| this.is_member(node);
                if let Err(e) = peers::accept(link, stream, may, image, queue).await {
                    tracing::info!(error = %e, "a session of an active ended");
                }
                drop(place);
            });
        }
    }

    fn is_member(&self, node: NodeId) -> bool {
        node != self.options.node
            && lock(&self.state).configured.as_ref().is_some_and(|c| c.record.replicas.contains_key(&node))
    }

    async fn attach(self: &Arc<Self>, epoch: u64, service_epoch: u64) -> Result<PathBuf, Refused> {
        let (record, disk) = {
            let state = lock(&self.state);
            let Some(configured) = &state.configured else {
                return Err(Refused::NotActive("it has no configuration yet".into()));
            };
            match &state.role {
                Role::Active { epoch: served, attached: Some(attached), .. }
                    if *served == epoch && !attached.is_gone() =>
                {
                    return Ok(self.places.mount());
                }
                Role::Active { epoch: served, .. } => {
                    return Err(Refused::Failed(format!(
                        "it is still attached in epoch {served}: detach first"
                    )));
                }
                Role::Idle(words) => return Err(Refused::NoImage(words.clone())),
                Role::Following(_) | Role::Ending(_) | Role::Unconfigured => {}
            }
            let record = configured.record.clone();
            if record.epoch != epoch || record.active != Some(self.options.node) {
                let words = format!("its record has epoch {} and another active", record.epoch);
                return Err(Refused::NotActive(words));
            }
            let Some((_, disk)) = &state.disk else {
                return Err(Refused::NoImage("there is no image".into()));
            };
            (record, disk.clone())
        };
        let right = self.right(&record.service, service_epoch)?;
        self.end_role(None).await;
        let setting = Setting {
            node: self.options.node,
            volume: self.options.name.clone(),
            record,
            right,
            propose: self.options.propose.clone(),
            limits: self.limits(),
            runtime: tokio::runtime::Handle::current(),
        };
        let attached = self.become_active(disk, setting, epoch, service_epoch).await;
        if attached.is_err() {
            self.end_role(Some("attaching failed")).await;
            self.follow()?;
        }
        attached
    }

    fn right(&self, service: &thermidor_model::ServiceName, epoch: u64) -> Result<Right, Refused> {
        let none = || Refused::NoLease { service: service.to_string(), epoch };
        let page = LeasePage::open(&self.options.lease_page).map_err(|_| none())?;
        let right = Right { page, service: service.to_string(), epoch };
        if right.holds() { Ok(right) } else { Err(none()) }
    }

    async fn become_active(
        self: &Arc<Self>,
        disk: Arc<Disk>,
        setting: Setting,
        epoch: u64,
        service_epoch: u64,
    ) -> Result<PathBuf, Refused> {
        let service = setting.record.service.to_string();
        let active = Active::start(disk.clone(), setting)
            .map_err(|e| Refused::Failed(format!("no thread for the active: {e}")))?
            .map_err(|cannot| match cannot {
                CannotServe::EpochUsed { epoch, .. } => Refused::SpentEpoch { epoch },
                other => Refused::NotActive(other.to_string()),
            })?;
        let active = Arc::new(active);
        {
            let mut state = lock(&self.state);
            state.fenced = None;
            let dialling = BTreeMap::new();
            state.role = Role::Active { active: active.clone(), epoch, attached: None, dialling };
        }
        let fenced = active.clone();
        *lock(&self.cutter) = Some(Box::new(move |why| fenced.fence(why.to_string())));
        self.spread();
        let attachment = Attachment {
            volume: self.options.name.clone(),
            places: self.places.clone(),
            lease_page: self.options.lease_page.clone(),
            service,
            service_epoch,
            watchdog: self.options.watchdog.clone(),
            may_format: !disk.image().header().formatted,
        };
        let made = blocking(move || Attached::make(active, &attachment)).await;
        let attached = made.map_err(|e| Refused::Failed(chain(&e)))?;
        *lock(&self.cutter) = Some(Box::new(attached.cutter()));
        if let Err(e) = blocking(move || disk.image().update(|h| h.formatted = true)).await {
            tracing::error!(error = %e, "the header cannot be written");
        }
        if let Role::Active { attached: place, .. } = &mut lock(&self.state).role {
            *place = Some(attached);
        }
        Ok(self.places.mount())
    }

    async fn detach(self: &Arc<Self>, force: bool) -> Result<(), Refused> {
        let taken = match &mut lock(&self.state).role {
            Role::Active { attached, .. } => attached.take(),
            _ => return Ok(()),
        };
        let mut outcome = Ok(());
        if let Some(mut attached) = taken {
            let (back, done) = blocking(move || {
                let done = if force { attached.take_away("detached by force") } else { attached.detach() };
                (attached, done)
            })
            .await;
            outcome = done.map_err(|e| Refused::Failed(chain(&e)));
            if !back.is_gone() {
                // Refused by the kernel: the volume is in use and stays attached.
                if let Role::Active { attached, .. } = &mut lock(&self.state).role {
                    *attached = Some(back);
                }
                return outcome;
            }
        }
        self.end_role(Some("detached")).await;
        self.follow()?;
        outcome
    }

    /// Takes a device away that was cut off.
    async fn look_after(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let why = match &lock(&self.state).role {
                Role::Active { active, .. } => active.view().fenced,
                _ => None,
            };
            let Some(why) = why else { continue };
            self.cut(&why);
            let _step = self.steps.lock().await;
            let still = matches!(&lock(&self.state).role, Role::Active { active, .. } if active.view().fenced.is_some());
            if still {
                self.end_role(Some(&why)).await;
                lock(&self.state).fenced = Some(why);
                if let Err(e) = self.follow() {
                    tracing::error!(error = %e, "the replica cannot follow");
                }
            }
        }
    }

    async fn end(self: &Arc<Self>) {
        self.cut("the volume process ends");
        let _step = self.steps.lock().await;
        self.end_role(None).await;
        if let Some((_, task)) = lock(&self.state).listening.take() {
            task.abort();
        }
        let places = self.places.clone();
        if let Err(e) = blocking(move || places.leave()).await {
            tracing::error!(error = %chain(&e), "something is left behind");
        }
    }

    fn status(&self) -> Status {
        let state = lock(&self.state);
        let image = state.disk.as_ref().map(|(_, disk)| disk.image());
        let mut status = Status {
            pid: std::process::id(),
            state: ReplicaState::Waiting,
            epoch: image.map_or(0, |i| i.state().header.epoch),
            mounted: None,
            behind_bytes: 0,
            used_bytes: image.and_then(|i| i.used_bytes().ok()).unwrap_or(0),
            replicas: BTreeMap::new(),
            set_version: state.configured.as_ref().map_or(0, |c| c.record.set_version),
            fenced: state.fenced.clone(),
        };
        match &state.role {
            Role::Unconfigured => {}
            Role::Ending(epoch) => (status.state, status.epoch) = (ReplicaState::Active, *epoch),
            Role::Idle(words) => status.state = ReplicaState::Failed(words.clone()),
            Role::Following(following) => {
                let view = following.view();
                status.state = match view {
                    _ if view.failed.is_some() => ReplicaState::Failed(view.failed.unwrap_or_default()),
                    _ if view.heard && view.torn => ReplicaState::CatchingUp,
                    _ if view.heard => ReplicaState::Following,
                    _ => ReplicaState::Waiting,
                };
            }
            Role::Active { active, epoch, attached, .. } => {
                status.state = ReplicaState::Active;
                status.epoch = *epoch;
                status.mounted = attached.as_ref().filter(|a| !a.is_gone()).map(|_| self.places.mount());
                let view = active.view();
                status.fenced = view.fenced;
                for (node, progress) in view.progress {
                    let behind_bytes = progress.extents_left * EXTENT_BYTES;
                    status.behind_bytes = status.behind_bytes.max(behind_bytes);
                    let (connected, counted) = (progress.connected, progress.counted);
                    status.replicas.insert(node, ReplicaView { connected, counted, behind_bytes });
                }
            }
        }
        status
    }
}

fn open_image(
    path: &std::path::Path,
    name: &VolumeName,
    id: ReplicaId,
    size: u64,
    create: bool,
) -> Result<Image, ImageError> {
    match Image::open(path, name, id) {
        Err(ImageError::Missing(_)) if create => Image::create(path, name, id, size),
        Err(ImageError::Foreign { found, .. }) if create => {
            // Perhaps somebody's last copy: kept, under its own identity.
            let aside = path.with_extension(format!("{found}.aside"));
            std::fs::rename(path, &aside).map_err(|source| ImageError::Io { path: path.into(), source })?;
            tracing::warn!(path = %aside.display(), "an image of another identity was kept aside");
            Image::create(path, name, id, size)
        }
        other => other,
    }
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
