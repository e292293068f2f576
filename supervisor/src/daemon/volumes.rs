//! The volume processes of this radiator: started apart, so that they outlive the daemon, given
//! the applied record whenever it changes, and asked to tell when something of them changes. Those volumes that
//! are folders have no process; this daemon looks after them.

use super::found::Shared;
use crate::paths::Paths;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermidor_model::observe::{ReplicaReport, ReplicaState};
use thermidor_model::reconcile::Device;
use thermidor_model::state::State;
use thermidor_model::{NodeId, VolumeName};
use thermidor_services::folder::{Folder, FolderError};
use thermidor_services::volume::control::{Configuration, ControlError, Status, VolumeControl};
use thermidor_services::volume::group;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How often a process is looked at that does not answer, or can't tell when something changes.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// How long a process that was started may take to answer before it is started again.
const START_MAX: Duration = Duration::from_secs(3);

/// How long a process may say nothing before it counts as gone. A busy machine lets it wait for its turn; what it
/// serves has watchers of its own, and killing it would be our doing.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// How often a folder is looked at.
const FOLDER_EVERY: Duration = Duration::from_secs(4);

/// How long a folder that is served may not be usable before it counts as broken.
const FOLDER_BROKEN: Duration = Duration::from_secs(20);

/// Why a volume was not attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// By its process.
    #[error(transparent)]
    Process(#[from] ControlError),
    /// It is a folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl VolumeError {
    /// Whether it was attached in this epoch before: a crash after that.
    pub fn is_spent_epoch(&self) -> bool {
        use thermidor_services::volume::control::Refused;
        matches!(
            self,
            Self::Folder(FolderError::Spent { .. })
                | Self::Process(ControlError::Refused { why: Refused::SpentEpoch { .. }, .. })
        )
    }
}

/// What a look at a process found.
#[expect(clippy::large_enum_variant, reason = "it lives for one look")]
enum Look {
    Is(Status),
    /// There is one, and it does not answer.
    Silent,
    Gone,
}

/// The volume processes of this radiator. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    node: NodeId,
    paths: Paths,
    shared: Shared,
    state: watch::Receiver<Arc<State>>,
    /// When each process was last started here.
    started: Arc<Mutex<BTreeMap<VolumeName, Instant>>>,
}

impl Volumes {
    /// Starts nothing yet.
    pub fn new(node: NodeId, paths: Paths, shared: Shared, state: watch::Receiver<Arc<State>>) -> Self {
        Self { node, paths, shared, state, started: Arc::default() }
    }

    fn control(&self, volume: &VolumeName) -> VolumeControl {
        VolumeControl::new(&self.paths.run, volume.clone())
    }

    /// Attaches the device in the volume's epoch; `service_epoch` is the lease's.
    pub async fn attach(
        &self,
        volume: &VolumeName,
        epoch: u64,
        service_epoch: u64,
    ) -> Result<(), VolumeError> {
        if let Some(folder) = self.folder(volume) {
            let attached = folder.attach(epoch).await;
            self.look_at_folder(volume, &folder).await;
            return Ok(attached?);
        }
        self.configure(volume).await?;
        let attached = self.control(volume).attach(epoch, service_epoch).await.map(drop);
        self.look(volume).await;
        Ok(attached?)
    }

    /// Detaches the device: cleanly, or by force where nothing may be flushed any more.
    pub async fn detach(&self, volume: &VolumeName, force: bool) -> Result<(), VolumeError> {
        if let Some(folder) = self.folder(volume) {
            let detached = folder.detach(force).await;
            self.look_at_folder(volume, &folder).await;
            return Ok(detached?);
        }
        let detached = self.control(volume).detach(force).await;
        self.look(volume).await;
        Ok(detached?)
    }

    /// Gives the process the record as applied here.
    async fn configure(&self, volume: &VolumeName) -> Result<(), ControlError> {
        let configuration = configuration(&self.state.borrow(), self.node, volume);
        match configuration {
            Some(configuration) => self.control(volume).configure(configuration).await,
            None => Ok(()),
        }
    }

    /// Asks the process what it does, and keeps the answer. Where there is none things are as they were.
    async fn look(&self, volume: &VolumeName) -> Look {
        let look = match self.control(volume).status().await {
            Ok(status) => Look::Is(status),
            Err(ControlError::Silent(_)) => Look::Silent,
            Err(_) => Look::Gone,
        };
        match &look {
            Look::Is(status) => self.note(volume, Some(status.clone())),
            Look::Silent => {}
            Look::Gone => self.note(volume, None),
        }
        look
    }

    /// Waits until the process does something else than was seen, and keeps what it does then.
    async fn changed(&self, volume: &VolumeName, seen: Option<Status>) {
        let Some(mut seen) = seen else { return tokio::time::sleep(LOOK_EVERY).await };
        loop {
            match self.control(volume).changed(&seen).await {
                Ok(status) => {
                    self.note(volume, Some(status.clone()));
                    if !status.is_as(&seen) {
                        return;
                    }
                    seen = status;
                }
                // Of an earlier version: it outlives the daemon that started it.
                Err(ControlError::Refused { .. }) => return tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => return,
            }
        }
    }

    /// The volume, if it is a folder.
    fn folder(&self, volume: &VolumeName) -> Option<Folder> {
        let state = self.state.borrow();
        let driver = &state.volumes.get(volume)?.driver;
        let dir = self.paths.volume(volume.as_str());
        let home = state.home.clone().filter(|_| driver.is_folder())?;
        Some(Folder::new(dir, home, volume.clone(), driver))
    }

    /// Looks at a folder and keeps what is found. Answers whether it can be used.
    async fn look_at_folder(&self, volume: &VolumeName, folder: &Folder) -> bool {
        let new = self.state.borrow().volumes.get(volume).is_some_and(|v| v.epoch == 0);
        let (device, epoch, usable) = match folder.look(new).await {
            Ok(found) if found.mounted => (Device::Attached(found.epoch), found.epoch, found.usable),
            Ok(found) => (Device::Detached(found.epoch), found.epoch, found.usable),
            Err(e) => (Device::Absent, 0, Err(e)),
        };
        let well = usable.is_ok();
        let state = match usable {
            Ok(()) if matches!(device, Device::Attached(_)) => ReplicaState::Active,
            Ok(()) => ReplicaState::Following,
            Err(e) => ReplicaState::Failed(e.to_string()),
        };
        self.keep_what_is(
            volume,
            device,
            Some(ReplicaReport {
                epoch,
                state,
                behind_bytes: 0,
                used_bytes: 0,
                catch_ups: Default::default(),
                examination: None,
            }),
        );
        well
    }

    /// One folder, looked at for as long as the home wants it here.
    async fn keep_folder(self, volume: VolumeName, folder: Folder) {
        let mut well_at = Instant::now();
        loop {
            if self.look_at_folder(&volume, &folder).await {
                well_at = Instant::now();
            } else if well_at.elapsed() > FOLDER_BROKEN {
                let mut found = self.shared.lock();
                // Whoever hangs on it is ended, and the home looks for another place.
                if let Some(Device::Attached(epoch)) = found.devices.get(&volume).copied() {
                    warn!(%volume, "its folder can't be used for long: it is given up here");
                    found.devices.insert(volume.clone(), Device::Broken(epoch));
                    self.shared.wake.notify_one();
                }
            }
            tokio::time::sleep(FOLDER_EVERY).await;
        }
    }

    fn note(&self, volume: &VolumeName, status: Option<Status>) {
        // Without a record it has no image yet; without an answer nothing is known. Neither is told as a
        // failed replica: that would have a good one replaced because its process was slow.
        let known = status.filter(|s| s.set_version > 0);
        let device = known.as_ref().map_or(Device::Absent, device_of);
        let short = known.as_ref().and_then(|s| s.short.clone());
        let report = known.map(|s| s.report());
        {
            let mut found = self.shared.lock();
            match short {
                Some(why) => found.short.insert(volume.clone(), why),
                None => found.short.remove(volume),
            };
        }
        self.keep_what_is(volume, device, report);
    }

    fn keep_what_is(&self, volume: &VolumeName, device: Device, report: Option<ReplicaReport>) {
        let mut found = self.shared.lock();
        let before = found.devices.insert(volume.clone(), device);
        let told = match report.clone() {
            Some(report) => found.replicas.insert(volume.clone(), report),
            None => found.replicas.remove(volume),
        };
        drop(found);
        if before != Some(device) {
            self.shared.wake.notify_one();
        }
        if told.map(|t| t.state) != report.map(|r| r.state) {
            self.shared.report_now.notify_one();
        }
    }

    /// Keeps one task for each volume that has a replica here, for as long as the daemon lives.
    pub async fn run(mut self) {
        let mut keepers: BTreeMap<VolumeName, JoinHandle<()>> = BTreeMap::new();
        loop {
            let wanted = self.here();
            let gone: Vec<_> = keepers.keys().filter(|v| !wanted.contains(*v)).cloned().collect();
            for volume in gone {
                if let Some(keeper) = keepers.remove(&volume) {
                    keeper.abort();
                }
                self.end(&volume).await;
            }
            for volume in wanted {
                let this = self.clone();
                keepers.entry(volume.clone()).or_insert_with(|| match this.folder(&volume) {
                    Some(folder) => tokio::spawn(this.keep_folder(volume, folder)),
                    None => tokio::spawn(this.keep(volume)),
                });
            }
            if self.state.changed().await.is_err() {
                return;
            }
        }
    }

    fn here(&self) -> BTreeSet<VolumeName> {
        let state = self.state.borrow();
        state
            .volumes
            .iter()
            .filter(|(_, v)| v.replicas.contains_key(&self.node))
            .map(|(n, _)| n.clone())
            .collect()
    }

    /// A replica that is no longer wanted here: its process ends, its image stays until someone removes it.
    async fn end(&self, volume: &VolumeName) {
        loop {
            match self.control(volume).quit().await {
                // Started so lately that it does not listen yet.
                Err(ControlError::Absent { .. }) if self.is_starting(volume) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Ok(()) | Err(ControlError::Absent { .. }) => info!(%volume, "is kept here no more"),
                Err(e) => warn!(%volume, "its process did not end: {e}"),
            }
            break;
        }
        if let Err(e) = group::sweep() {
            warn!(%volume, "its control group is left: {e}");
        }
        self.started().remove(volume);
        let mut found = self.shared.lock();
        found.devices.remove(volume);
        found.replicas.remove(volume);
        found.short.remove(volume);
    }

    fn started(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Instant>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_starting(&self, volume: &VolumeName) -> bool {
        self.started().get(volume).is_some_and(|at| at.elapsed() <= START_MAX)
    }

    /// One volume's process: running, configured, looked at.
    async fn keep(mut self, volume: VolumeName) {
        let mut given: Option<Configuration> = None;
        let mut pid = None;
        let mut silent: Option<Instant> = None;
        loop {
            self.state.mark_unchanged();
            let asked = Instant::now();
            let mut seen = match self.look(&volume).await {
                Look::Is(status) => {
                    silent = None;
                    Some(status)
                }
                Look::Silent if silent.get_or_insert(asked).elapsed() < SILENT_MAX => continue,
                Look::Silent => {
                    self.note(&volume, None);
                    None
                }
                Look::Gone => None,
            };
            if let Some(pid_now) = seen.as_ref().map(|status| status.pid) {
                if pid.replace(pid_now) != Some(pid_now) {
                    given = None;
                }
                let wanted = configuration(&self.state.borrow_and_update(), self.node, &volume);
                if given != wanted
                    && let Some(configuration) = wanted
                {
                    match self.control(&volume).configure(configuration.clone()).await {
                        Ok(()) => given = Some(configuration),
                        Err(e) => {
                            warn!(%volume, "its record was not taken: {e}");
                            seen = None;
                        }
                    }
                }
            } else {
                given = None;
                if !self.is_starting(&volume)
                    && let Err(e) = self.start(&volume)
                {
                    warn!(%volume, "its process can't be started: {e}");
                }
            }
            let mut state = self.state.clone();
            tokio::select! {
                () = self.changed(&volume, seen) => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    fn start(&self, volume: &VolumeName) -> std::io::Result<()> {
        if !self.here().contains(volume) {
            return Ok(());
        }
        self.started().insert(volume.clone(), Instant::now());
        let dir = self.paths.volume(volume.as_str());
        std::fs::create_dir_all(&dir)?;
        info!(%volume, "its process is started");
        let program = std::env::current_exe()?;
        let command: Vec<OsString> = vec![
            program.into(),
            "volume-process".into(),
            volume.as_str().into(),
            "--data".into(),
            self.paths.data.clone().into(),
        ];
        VolumeControl::spawn(&command, &dir.join("log"))
    }
}

fn device_of(status: &Status) -> Device {
    match (&status.state, &status.mounted) {
        (ReplicaState::Active, Some(_)) if status.fenced.is_none() => Device::Attached(status.epoch),
        (_, Some(_)) => Device::Broken(status.epoch),
        (ReplicaState::Active, None) => Device::Broken(status.epoch),
        (_, None) => Device::Detached(status.epoch),
    }
}

/// The record as applied, and where its replicas listen.
fn configuration(state: &State, node: NodeId, volume: &VolumeName) -> Option<Configuration> {
    let record = state.volumes.get(volume)?;
    let ip = |n: &NodeId| state.members.get(n).map(|m| (*n, m.address.ip()));
    let members: BTreeMap<NodeId, IpAddr> = record.replicas.keys().filter_map(ip).collect();
    // Whoever is in sync must have its image; a missing one is told, never made anew.
    let create = record.epoch == 0 || !record.in_sync.contains(&node);
    Some(Configuration { record: record.clone(), members, create })
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::{box_volume, serving_home};

    #[test]
    fn an_image_may_be_made_only_where_no_acknowledged_write_can_have_been() {
        let mut state = serving_home(3, 1);
        assert!(!configuration(&state, 2, &box_volume()).unwrap().create, "in sync: it must be there");
        let volume = state.volumes.get_mut(&box_volume()).unwrap();
        volume.in_sync.remove(&2);
        assert!(configuration(&state, 2, &box_volume()).unwrap().create);
        assert_eq!(configuration(&state, 2, &box_volume()).unwrap().members.len(), 3);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_left_as_it_was_and_one_that_is_gone_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), run: dir.path().into() };
        let path = thermidor_services::volume::control::socket(&paths.run, &box_volume());
        let deaf = tokio::net::UnixListener::bind(&path).unwrap();
        let (_keep, state) = watch::channel(Arc::new(serving_home(3, 1)));
        let volumes = Volumes::new(1, paths, Shared::default(), state);
        let device = || volumes.shared.lock().devices.get(&box_volume()).copied();
        volumes.shared.lock().devices.insert(box_volume(), Device::Attached(4));
        assert!(matches!(volumes.look(&box_volume()).await, Look::Silent));
        assert_eq!(device(), Some(Device::Attached(4)), "what it serves is not ended for its silence");
        drop(deaf);
        assert!(matches!(volumes.look(&box_volume()).await, Look::Gone));
        assert_eq!(device(), Some(Device::Absent));
    }

    #[test]
    fn a_device_that_was_cut_is_broken_even_while_it_is_mounted() {
        let mut status = Status {
            pid: 1,
            state: ReplicaState::Active,
            epoch: 4,
            mounted: Some("/mnt".into()),
            behind_bytes: 0,
            used_bytes: 0,
            replicas: BTreeMap::new(),
            set_version: 1,
            fenced: None,
            snapshots: vec![],
            short: None,
            in_sync: BTreeSet::new(),
            examination: None,
        };
        assert_eq!(device_of(&status), Device::Attached(4));
        let seen = status.clone();
        status.behind_bytes = 7;
        assert!(status.is_as(&seen), "how far it has got is no change");
        status.fenced = Some("the lease ended".into());
        assert_eq!(device_of(&status), Device::Broken(4));
        assert!(!status.is_as(&seen));
        status.mounted = None;
        status.state = ReplicaState::Waiting;
        assert_eq!(device_of(&status), Device::Detached(4));
    }
}
