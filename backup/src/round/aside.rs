//! A restore that is tried: the last snapshot comes back into an empty folder, each byte compared.

use super::{Round, RoundError};
use crate::restic::{ResticError, Restore, SnapshotId};
use crate::restore;
use std::path::Path;
use thermidor_model::backup::Record;

/// What a restore aside brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drilled {
    /// Files, all of them compared with what the repository says of them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Round<'_> {
    /// Restores the last snapshot into an empty folder, each byte compared, and counts what is there. Refused before
    /// anything is brought if it does not fit into so many bytes.
    pub async fn restore_aside(&self, dir: &Path, free: u64, was: &Record) -> Result<Drilled, RoundError> {
        let snapshot = was.snapshot.as_deref().and_then(SnapshotId::new);
        let snapshot = snapshot.ok_or(RoundError::Restic(ResticError::NoSnapshot))?;
        let repository = self.repository(None)?;
        let measured = self.restic.measure(&repository, &snapshot, None).await?;
        restore::enough(&measured, free).map_err(RoundError::NoRoom)?;
        let wanted = Restore { snapshot, target: dir.to_owned(), only: None, verify: true };
        self.restic.restore(&repository, &wanted).await?;
        let place = dir.to_owned();
        let counted = tokio::task::spawn_blocking(move || count(&place)).await;
        let failed = |e| RoundError::Restic(ResticError::Io(dir.to_owned(), e));
        counted.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)
    }
}

/// What lies below a folder. Blocks on the disk.
fn count(dir: &Path) -> std::io::Result<Drilled> {
    let mut drilled = Drilled::default();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.is_file() {
                drilled.files += 1;
                drilled.bytes += about.len();
            }
        }
    }
    Ok(drilled)
}
