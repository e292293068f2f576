//! An attached device: export, watchdog, loop device and mount, made together and taken away
//! together, whether all is well or the device has failed. Everything here blocks.

use super::active::Active;
use super::device::{self, DeviceError, Places, is_formatted};
use super::growth::Grower;
use super::watchdog::{BEAT, Watch, Watchdog};
use super::{export, mounts};
use fuser::BackgroundSession;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thermidor_model::VolumeName;
use thermidor_model::replication::Event;

/// A volume process silent for so long is stuck, and its connection is aborted.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// How long a lease may have been over before the watchdog steps in: the process itself was to be
/// faster.
pub const UNLEASED_MAX: Duration = Duration::from_secs(2);
/// How long the members may take to make the last writes durable when detaching.
const HAND_OVER_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// What an attachment needs to know.
pub struct Attachment {
    /// Whose.
    pub volume: VolumeName,
    /// Where.
    pub places: Places,
    /// The guard's page.
    pub lease_page: PathBuf,
    /// The lease's name.
    pub service: String,
    /// The lease's epoch.
    pub service_epoch: u64,
    /// How the watchdog is started; empty: there is none.
    pub watchdog: Vec<OsString>,
    /// Whether a file system may be made if there is none.
    pub may_format: bool,
}

/// Why a device could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Loop device, file system or mount.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The export.
    #[error("the device cannot be exported through FUSE")]
    Export(#[source] io::Error),
    /// The watchdog.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] io::Error),
    /// The image holds no file system although it was made.
    #[error("the volume's file system is not there any more: its first block is damaged")]
    Unformatted,
    /// The device failed meanwhile.
    #[error("the device has failed: {0}")]
    Fenced(String),
    /// The members did not confirm in time.
    #[error("the last writes were not confirmed by every member of the in-sync set within {HAND_OVER_MAX:?}")]
    Unconfirmed,
}

/// The attached device.
pub struct Attached {
    active: Arc<Active>,
    places: Places,
    export: Option<BackgroundSession>,
    minor: u32,
    beating: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Attached {
    /// Exports the device, makes the file system if it may, and mounts it. On an error everything
    /// is taken away again.
    pub fn make(active: Arc<Active>, attachment: &Attachment) -> Result<Self, AttachError> {
        let places = attachment.places.clone();
        let fuse = places.fuse();
        let export =
            export::serve(active.clone(), &fuse, attachment.volume.as_str()).map_err(AttachError::Export)?;
        let minor = mounts::on(&fuse)
            .and_then(|m| m.map(|m| m.minor).ok_or_else(|| io::Error::other("the export is not mounted")))
            .map_err(AttachError::Export)?;
        let mut attached = Self { active, places, export: Some(export), minor, beating: None };
        match attached.mount(attachment) {
            Ok(()) => Ok(attached),
            Err(e) => {
                if let Err(left) = attached.take_away(&format!("attaching failed: {e}")) {
                    tracing::error!(error = %left, "something of a failed attachment is left");
                }
                Err(e)
            }
        }
    }

    fn mount(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        self.watch(attachment)?;
        let mut start = [0; 2048];
        self.active.read(&mut start, 0).map_err(|fault| AttachError::Fenced(fault.to_string()))?;
        let format = !is_formatted(&start);
        if format && !attachment.may_format {
            return Err(AttachError::Unformatted);
        }
        self.places.attach(self.active.size_bytes(), format)?;
        Ok(())
    }

    fn watch(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        if attachment.watchdog.is_empty() {
            return Ok(());
        }
        let Some(abort) = device::abort_file(self.minor) else {
            tracing::warn!("no FUSE control file system is seen: a hung device could not be aborted");
            return Ok(());
        };
        let watch = Watch {
            abort,
            lease_page: attachment.lease_page.clone(),
            service: attachment.service.clone(),
            epoch: attachment.service_epoch,
            stall_max_ms: STALL_MAX.as_millis() as u64,
            unleased_max_ms: UNLEASED_MAX.as_millis() as u64,
        };
        let dog = Watchdog::start(&attachment.watchdog, &watch).map_err(AttachError::Watchdog)?;
        let (ended, active) = (Arc::new(AtomicBool::new(false)), self.active.clone());
        let stop = ended.clone();
        let thread = std::thread::Builder::new()
            .name("volume-beat".into())
            .spawn(move || beat(dog, &active, &stop))
            .map_err(AttachError::Watchdog)?;
        self.beating = Some((ended, thread));
        Ok(())
    }

    /// The planned way: unmount, give everything back, and have the last writes confirmed.
    /// If unmounting is refused (the volume is in use) the device stays attached.
    pub fn detach(&mut self) -> Result<(), AttachError> {
        self.places.detach()?;
        self.end_export()?;
        self.active.tell(Event::Detach);
        let since = Instant::now();
        let outcome = loop {
            let view = self.active.view();
            match view {
                _ if view.detached => break Ok(()),
                _ if view.fenced.is_some() => {
                    break Err(AttachError::Fenced(view.fenced.unwrap_or_default()));
                }
                _ if since.elapsed() > HAND_OVER_MAX => break Err(AttachError::Unconfirmed),
                _ => std::thread::sleep(POLL),
            }
        };
        self.end_watch();
        outcome
    }

    /// Whether nothing is mounted any more: what is left to do is to end the role.
    pub fn is_gone(&self) -> bool {
        self.export.is_none()
    }

    /// Fails the device at once: whoever waits for it gets an error. Takes nothing away yet.
    pub fn cut(&self, why: &str) {
        cut(&self.active, &self.places, self.minor, why);
    }

    /// For cutting from elsewhere while this one is being worked on.
    pub fn cutter(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (active, places, minor) = (self.active.clone(), self.places.clone(), self.minor);
        move |why| cut(&active, &places, minor, why)
    }

    /// For making the device longer while it is in use, from elsewhere.
    pub fn grower(&self) -> Option<Grower> {
        let notifier = self.export.as_ref()?.notifier();
        Some(Grower { active: self.active.clone(), places: self.places.clone(), notifier })
    }

    /// The way for a failed device: cut it, and take everything away.
    pub fn take_away(&mut self, why: &str) -> Result<(), AttachError> {
        self.cut(why);
        let loops = self.places.detach_by_force();
        let export = self.end_export();
        self.end_watch();
        match loops {
            // Cut off as it is, it does no harm: every access fails, and it goes with its last user.
            Err(e @ DeviceError::Held(_)) => tracing::warn!(error = %e, "a device that was cut off is held"),
            other => other?,
        }
        export
    }

    fn end_export(&mut self) -> Result<(), AttachError> {
        if let Some(export) = self.export.take() {
            // Lazily: a loop device that somebody still holds must not keep the mountpoint.
            mounts::take_off(&self.places.fuse(), true).map_err(AttachError::Export)?;
            // Its threads end with the connection, which lives as long as that loop device.
            drop(export);
        }
        Ok(())
    }

    fn end_watch(&mut self) {
        if let Some((ended, thread)) = self.beating.take() {
            ended.store(true, Ordering::Release);
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that beats for the watchdog panicked");
            }
        }
    }
}

fn cut(active: &Active, places: &Places, minor: u32, why: &str) {
    active.fence(why.to_string());
    if let Err(e) = device::abort(&places.fuse(), minor) {
        tracing::warn!(error = %e, "the connection could not be aborted");
    }
}

/// Beats for as long as the owner loop does.
fn beat(mut dog: Watchdog, active: &Active, ended: &AtomicBool) {
    let mut last = None;
    while !ended.load(Ordering::Acquire) {
        let beats = active.view().beats;
        if last != Some(beats) {
            last = Some(beats);
            if let Err(e) = dog.beat() {
                tracing::warn!(error = %e, "the watchdog has ended");
                return;
            }
        }
        std::thread::park_timeout(BEAT);
    }
}
