//! Removes the image of a replica that a person gave up: only the one of that identity, and only
//! once no process serves the volume.

use super::device::Places;
use super::header::{Header, SLOT_BYTES};
use super::snapshot;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thermidor_model::ReplicaId;

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Another process still holds the volume's lock.
    #[error("its process still serves it")]
    InUse,
    /// Mounts or the mountpoint's protection stay.
    #[error(transparent)]
    Device(#[from] super::device::DeviceError),
    /// The disk.
    #[error("{path}")]
    Files {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RemovalError {
    let path = path.to_owned();
    move |source| RemovalError::Files { path, source }
}

/// Whose image a file is; `None`: nobody's that can be told.
fn identity(path: &Path) -> io::Result<Option<ReplicaId>> {
    let mut file = fs::File::open(path)?;
    let mut slots = [[0; SLOT_BYTES]; 2];
    for slot in &mut slots {
        match file.read_exact(slot) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
    }
    Ok(Header::choose([&slots[0], &slots[1]]).ok().map(|h| h.image.replica))
}

/// Removes from a volume's folder every file that is the image `id`, also where it was put aside. With `whole` the
/// folder goes too, unless an image of another identity is in it; without, only what was put aside may go, for the
/// process that serves the volume puts the image there first. Nothing there: well.
pub fn remove(dir: &Path, id: ReplicaId, whole: bool) -> Result<(), RemovalError> {
    if !dir.exists() {
        return Ok(());
    }
    let mut others = false;
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !path.is_file() || !name.starts_with("image") {
            continue;
        }
        match identity(&path).map_err(at(&path))? {
            Some(found) if found == id && !whole && name == "image" => return Err(RemovalError::InUse),
            Some(found) if found == id => fs::remove_file(&path).map_err(at(&path))?,
            _ => others = true,
        }
    }
    snapshot::remove_of(dir, id).map_err(at(&snapshot::folder(dir)))?;
    if others {
        tracing::warn!(path = %dir.display(), "holds an image of another identity, which stays");
    }
    if !whole || others {
        return Ok(());
    }
    // Held until the folder is gone: a process that starts at this moment ends.
    let lock = lock_file(dir).map_err(at(dir))?;
    try_lock(&lock).map_err(|_| RemovalError::InUse)?;
    Places { dir: dir.to_owned() }.unprotect()?;
    fs::remove_dir_all(dir).map_err(at(dir))
}

/// The file whose lock is held by the process that serves the volume in `dir`, and by whoever removes it.
pub(super) fn lock_file(dir: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(dir.join("lock"))
}

pub(super) fn try_lock(file: &fs::File) -> Result<(), rustix::io::Errno> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::image::Image;
    use thermidor_model::VolumeName;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("box");
        fs::create_dir(&dir).unwrap();
        (root, dir)
    }

    fn image(path: &Path, id: u64) {
        drop(Image::create(path, &VolumeName::new("box").unwrap(), ReplicaId(id), 16 << 20).unwrap());
    }

    #[test]
    fn the_image_of_that_identity_goes_and_its_folder_with_it() {
        let (_root, dir) = folder();
        image(&dir.join("image"), 7);
        fs::write(dir.join("log"), "said").unwrap();
        remove(&dir, ReplicaId(7), true).unwrap();
        assert!(!dir.exists());
        remove(&dir, ReplicaId(7), true).unwrap();
    }

    #[test]
    fn an_image_of_another_identity_is_never_touched() {
        let (_root, dir) = folder();
        image(&dir.join("image"), 8);
        let aside = dir.join(format!("image.{}.aside", ReplicaId(7)));
        image(&aside, 7);
        remove(&dir, ReplicaId(7), true).unwrap();
        assert!(dir.join("image").exists() && !aside.exists());
        remove(&dir, ReplicaId(9), false).unwrap();
        assert!(dir.join("image").exists());
    }

    #[test]
    fn an_image_in_the_place_of_a_new_one_stays_until_it_was_put_aside() {
        let (_root, dir) = folder();
        image(&dir.join("image"), 7);
        assert!(matches!(remove(&dir, ReplicaId(7), false), Err(RemovalError::InUse)));
        fs::rename(dir.join("image"), dir.join("image.7.aside")).unwrap();
        image(&dir.join("image"), 8);
        remove(&dir, ReplicaId(7), false).unwrap();
        assert!(dir.join("image").exists() && !dir.join("image.7.aside").exists());
    }

    #[test]
    fn a_volume_whose_process_runs_is_left_alone() {
        let (_root, dir) = folder();
        let lock = lock_file(&dir).unwrap();
        try_lock(&lock).unwrap();
        let refused = remove(&dir, ReplicaId(7), true).unwrap_err();
        assert!(matches!(refused, RemovalError::InUse), "{refused}");
        assert!(dir.exists());
    }
}
