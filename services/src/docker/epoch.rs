//! Which epoch each container was started in. A label can't tell: containers are created
//! before their epoch is known. So a small file per service, written durably *before* the
//! start, names the container and its epoch; a restarted daemon reads it.

use super::EngineError;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thermidor_model::ServiceName;

/// The folder of those files.
#[derive(Debug, Clone)]
pub(super) struct Epochs(Arc<PathBuf>);

impl Epochs {
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        fs::create_dir_all(folder).map_err(|e| files("make", folder, e))?;
        Ok(Self(Arc::new(folder.to_owned())))
    }

    /// Notes that a container is about to be started in an epoch.
    pub(super) fn write(
        &self,
        service: &ServiceName,
        container: &str,
        epoch: u64,
    ) -> Result<(), EngineError> {
        let path = self.0.join(service.as_str());
        let fresh = self.0.join(format!(".{service}.new"));
        let store = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            writeln!(file, "1 {epoch} {container}")?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&*self.0)?.sync_all()
        };
        store().map_err(|e| files("write", &path, e))
    }

    /// The epoch a container was last started in; 0: not known, so older than any.
    pub(super) fn read(&self, service: &ServiceName, container: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(service.as_str())).unwrap_or_default();
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("1"), Some(epoch), Some(known)) if known == container => epoch.parse().unwrap_or(0),
            _ => 0,
        }
    }

    /// Forgets a container that was removed.
    pub(super) fn forget(&self, service: &ServiceName) -> Result<(), EngineError> {
        let path = self.0.join(service.as_str());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(files("remove", &path, e)),
            _ => Ok(()),
        }
    }
}

fn files(verb: &str, path: &Path, source: io::Error) -> EngineError {
    EngineError::Files { what: format!("could not {verb} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_known_again_after_a_restart_and_only_for_that_container() {
        let dir = tempfile::tempdir().unwrap();
        let mail = ServiceName::new("mail").unwrap();
        let epochs = Epochs::open(&dir.path().join("epochs")).unwrap();
        assert_eq!(epochs.read(&mail, "c1"), 0);
        epochs.write(&mail, "c1", 7).unwrap();
        let again = Epochs::open(&dir.path().join("epochs")).unwrap();
        assert_eq!(again.read(&mail, "c1"), 7);
        assert_eq!(again.read(&mail, "c2"), 0, "another container: its epoch is unknown");
        again.forget(&mail).unwrap();
        again.forget(&mail).unwrap();
        assert_eq!(again.read(&mail, "c1"), 0);
    }

    #[test]
    fn a_torn_file_and_a_full_disk_are_no_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let mail = ServiceName::new("mail").unwrap();
        let epochs = Epochs::open(dir.path()).unwrap();
        for torn in ["", "1", "1 7", "2 7 c1", "1 x c1"] {
            fs::write(dir.path().join("mail"), torn).unwrap();
            assert_eq!(epochs.read(&mail, "c1"), 0, "{torn:?}");
        }
        fs::remove_file(dir.path().join("mail")).unwrap();
        fs::create_dir(dir.path().join("mail")).unwrap();
        let error = epochs.write(&mail, "c1", 1).unwrap_err();
        assert!(error.to_string().contains("could not write"), "{error}");
    }
}
