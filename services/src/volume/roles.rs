//! The roles of a volume process and how it passes from one to the next: idle, following, active,
//! ending. One step at a time.

use super::active::{Active, Right, Setting};
use super::attached::{Attached, Attachment};
use super::control::{Configuration, Refused};
use super::device::Places;
use super::disk::Disk;
use super::following::Following;
use super::image::{Image, ImageError};
use super::process::VolumeOptions;
use super::snapshot::{self, MountedSnapshot};
use super::trim::Trimming;
use crate::lease_page::LeasePage;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermidor_model::replication::{CannotServe, Limits};
use thermidor_model::{NodeId, ReplicaId, SnapshotName, VolumeName};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How often a device that was cut off is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Runs what blocks, where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// What the process is just now.
#[derive(Default)]
pub(super) enum Role {
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

/// What is held for moments only.
#[derive(Default)]
pub(super) struct State {
    pub(super) configured: Option<Configuration>,
    pub(super) disk: Option<(ReplicaId, Arc<Disk>)>,
    pub(super) role: Role,
    pub(super) listening: Option<(u16, AbortHandle)>,
    pub(super) fenced: Option<String>,
}

/// Cuts a device off: every request fails from then on, for the reason given.
type Cutter = Box<dyn Fn(&str) + Send + Sync>;

/// The process: its options, its role, and who may change it.
pub(super) struct Process {
    pub(super) options: VolumeOptions,
    pub(super) places: Places,
    /// Held for moments.
    pub(super) state: Mutex<State>,
    /// Held by whoever changes the role.
    pub(super) steps: tokio::sync::Mutex<()>,
    /// Cuts the attached device off, also while a step is under way.
    pub(super) cutter: Mutex<Option<Cutter>>,
    pub(super) quit: Notify,
    /// The mounted snapshots; held by whoever carries out an order about any.
    pub(super) snapshots: tokio::sync::Mutex<BTreeMap<SnapshotName, MountedSnapshot>>,
    /// Where they are mounted; held for moments.
    pub(super) mounted: Mutex<BTreeMap<SnapshotName, PathBuf>>,
    /// Why the attached device could not be made as long as the volume is to be.
    pub(super) not_grown: Mutex<Option<String>>,
    pub(super) trimming: Trimming,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub(super) fn new(options: VolumeOptions, places: Places) -> Self {
        Self {
            options,
            places,
            state: Mutex::new(State::default()),
            steps: tokio::sync::Mutex::new(()),
            cutter: Mutex::new(None),
            quit: Notify::new(),
            snapshots: tokio::sync::Mutex::default(),
            mounted: Mutex::default(),
            not_grown: Mutex::default(),
            trimming: Trimming::default(),
        }
    }

    pub(super) fn cut(&self, why: &str) {
        if let Some(cut) = &*lock(&self.cutter) {
            cut(why);
        }
    }

    /// Takes the record of a replica that is open already, also in the midst of a step. `false`: there is more
    /// to do.
    pub(super) fn reconfigure(self: &Arc<Self>, new: &Configuration) -> bool {
        {
            let mut state = lock(&self.state);
            let open = state.disk.as_ref().map(|(id, _)| *id);
            if open.is_none() || open != new.record.replicas.get(&self.options.node).copied() {
                return false;
            }
            state.configured = Some(new.clone());
        }
        self.listen(new.record.port);
        self.spread();
        true
    }

    pub(super) async fn configure(self: &Arc<Self>, new: Configuration) -> Result<(), Refused> {
        let Some(id) = new.record.replicas.get(&self.options.node).copied() else {
            lock(&self.state).configured = Some(new);
            self.rest("the home keeps no replica of this volume here".into()).await;
            return Ok(());
        };
        if self.reconfigure(&new) {
            return Ok(());
        }
        let (create, port) = (new.create, new.record.port);
        let held = {
            let mut state = lock(&self.state);
            state.configured = Some(new);
            state.disk.is_some()
        };
        if held {
            self.rest("the replica here is another one".into()).await;
        }
        self.listen(port);
        self.open(id, create).await?;
        self.spread();
        Ok(())
    }

    /// Opens the image, makes it if that was said, and follows with it.
    pub(super) async fn open(self: &Arc<Self>, id: ReplicaId, create: bool) -> Result<(), Refused> {
        let (name, path) = (self.options.name.clone(), self.places.image());
        let size = lock(&self.state).configured.as_ref().map_or(0, |c| c.record.size_bytes);
        let opened = blocking(move || open_image(&path, &name, id, size, create)).await;
        let started = opened.map_err(|e| chain(&e)).and_then(|image| {
            Disk::start(Arc::new(image), self.places.progress())
                .map_err(|e| format!("no threads for the disk: {e}"))
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

    pub(super) fn follow(&self) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        let Some((_, disk)) = &state.disk else { return Ok(()) };
        let header = disk.image().header();
        // A disk that refused something may have refused the header that says so; and it may flush without an error
        // what it has dropped before.
        let given_up = match disk.words() {
            words if !words.is_empty() => Some(words),
            _ => header.image.failed.then_some(header.words),
        };
        state.role = if let Some(words) = given_up {
            Role::Idle(format!("the image was given up: {words}"))
        } else {
            match Following::start(disk.clone(), self.limits()) {
                Ok(following) => Role::Following(following),
                Err(e) => Role::Idle(format!("no thread for the replica: {e}")),
            }
        };
        Ok(())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { replica_timeout_ms: self.options.replica_timeout.as_millis() as u64, ..Limits::default() }
    }

    /// Ends whatever role there is, and forgets the image.
    pub(super) async fn rest(self: &Arc<Self>, words: String) {
        self.end_role(Some(&words)).await;
        // They read the image as this process knows it; the next one knows nothing of them.
        let _no_snapshot = self.unmount_snapshots(|_| true).await;
        let mut state = lock(&self.state);
        state.disk = None;
        state.role = Role::Idle(words);
    }

    /// Ends the role; an attached device is taken away by force.
    pub(super) async fn end_role(self: &Arc<Self>, why: Option<&str>) {
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
        self.trimming.stop();
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

    pub(super) async fn attach(self: &Arc<Self>, epoch: u64, service_epoch: u64) -> Result<PathBuf, Refused> {
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
        self.lengthen(&disk, record.size_bytes).await;
        let setting = Setting {
            node: self.options.node,
            volume: self.options.name.clone(),
            record,
            right,
            propose: self.options.propose.clone(),
            limits: self.limits(),
            pace: self.options.pace,
            runtime: tokio::runtime::Handle::current(),
        };
        let attached = self.become_active(disk, setting, epoch, service_epoch).await;
        if attached.is_err() {
            self.end_role(Some("attaching failed")).await;
            self.follow()?;
        }
        attached
    }

    pub(super) fn right(&self, service: &thermidor_model::ServiceName, epoch: u64) -> Result<Right, Refused> {
        let none = || Refused::NoLease { service: service.to_string(), epoch };
        let page = LeasePage::open(&self.options.lease_page).map_err(|_| none())?;
        let right = Right { page, service: service.to_string(), epoch };
        if right.holds() { Ok(right) } else { Err(none()) }
    }

    pub(super) async fn become_active(
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

    pub(super) async fn detach(self: &Arc<Self>, force: bool) -> Result<(), Refused> {
        let taken = match &mut lock(&self.state).role {
            Role::Active { attached, .. } => attached.take(),
            _ => return Ok(()),
        };
        self.trimming.stop();
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
    pub(super) async fn look_after(self: Arc<Self>) {
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
}

fn open_image(
    path: &std::path::Path,
    name: &VolumeName,
    id: ReplicaId,
    size: u64,
    create: bool,
) -> Result<Image, ImageError> {
    let io = |source| ImageError::Io { path: path.into(), source };
    let dir = path.parent().unwrap_or(std::path::Path::new("/"));
    let anew = || {
        snapshot::void(dir, "the image it depended on is gone").map_err(io)?;
        Image::create(path, name, id, size)
    };
    let image = match Image::open(path, name, id) {
        Err(ImageError::Missing(_)) if create => anew(),
        Err(ImageError::Foreign { found, .. }) if create => {
            // Perhaps somebody's last copy: kept, under its own identity.
            let aside = path.with_extension(format!("{found}.aside"));
            std::fs::rename(path, &aside).map_err(io)?;
            tracing::warn!(path = %aside.display(), "an image of another identity was kept aside");
            anew()
        }
        other => other,
    }?;
    // Before anything is written: from then on each needs what is overwritten.
    image.snapshots().load(&image.origin(dir)).map_err(io)?;
    Ok(image)
}

/// An error and what it came from, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
