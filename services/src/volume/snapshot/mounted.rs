//! A mounted snapshot: export, loop device and a read-only mount in the snapshot's own folder, made together
//! and taken away together. Everything here blocks.

use super::Snapshot;
use super::overlay::Overlay;
use crate::volume::attached::AttachError;
use crate::volume::device::{Places, abort, is_formatted};
use crate::volume::{export, mounts};
use fuser::BackgroundSession;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A snapshot with its mount.
pub struct MountedSnapshot {
    snapshot: Arc<Snapshot>,
    places: Places,
    export: Option<BackgroundSession>,
}

impl MountedSnapshot {
    /// Mounts it. On an error everything is taken away again.
    pub fn make(snapshot: Arc<Snapshot>) -> Result<Self, AttachError> {
        let places = Places { dir: snapshot.dir().into() };
        let mut start = [0; 2048];
        snapshot.read(&mut start, 0).map_err(AttachError::Export)?;
        if !is_formatted(&start) {
            return Err(AttachError::Unformatted);
        }
        for point in [places.fuse(), places.mount()] {
            match std::fs::create_dir(&point) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(AttachError::Export(e)),
                _ => {}
            }
        }
        let device = Arc::new(Overlay::new(snapshot.clone()).map_err(AttachError::Export)?);
        let export =
            export::serve(device, &places.fuse(), snapshot.name().as_str()).map_err(AttachError::Export)?;
        let mut mounted = Self { snapshot, places, export: Some(export) };
        match mounted.places.attach_read_only() {
            Ok(_) => Ok(mounted),
            Err(e) => {
                if let Err(left) = mounted.take_away() {
                    tracing::error!(error = %left, "something of a snapshot's mount is left");
                }
                Err(e.into())
            }
        }
    }

    /// What is mounted.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Where.
    pub fn point(&self) -> PathBuf {
        self.places.mount()
    }

    /// Unmounts. If that is refused (it is in use) it stays.
    pub fn unmount(&mut self) -> Result<(), AttachError> {
        self.places.detach()?;
        self.end_export()
    }

    /// The way where nobody is asked: whoever reads gets errors.
    pub fn take_away(&mut self) -> Result<(), AttachError> {
        let fuse = self.places.fuse();
        if let Some(mount) = mounts::on(&fuse).map_err(AttachError::Export)? {
            abort(&fuse, mount.minor).map_err(AttachError::Export)?;
        }
        let loops = self.places.detach_by_force();
        self.end_export()?;
        Ok(loops?)
    }

    fn end_export(&mut self) -> Result<(), AttachError> {
        if let Some(export) = self.export.take() {
            mounts::take_off(&self.places.fuse(), true).map_err(AttachError::Export)?;
            drop(export);
        }
        Ok(())
    }
}
