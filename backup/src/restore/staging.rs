//! The folder in a volume into which files are restored: on the same file system, so that taking them is a rename, and
//! for root only while it is filled.

use super::{BEFORE, JOURNAL, JOURNAL_NEW, STAGING, is_folder, remove, sync_dir};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The staging folder of a volume, made if it is not there. What is in it already stays: an interrupted restore goes on.
pub fn staging(root: &Path) -> io::Result<PathBuf> {
    let dir = root.join(STAGING);
    if !is_folder(&dir)? {
        remove(&dir)?;
        DirBuilder::new().mode(0o700).create(&dir)?;
        sync_dir(root)?;
    }
    Ok(dir)
}

/// An empty one.
pub fn new_staging(root: &Path) -> io::Result<PathBuf> {
    remove(&root.join(STAGING))?;
    staging(root)
}

/// Removes everything that a restore keeps beside the data: for when it is decided, or given up before anything of
/// the data was touched.
pub fn clean(root: &Path) -> io::Result<()> {
    remove(&root.join(STAGING))?;
    remove(&root.join(BEFORE))?;
    // Last: without it nobody would know what the other two are.
    sync_dir(root)?;
    remove(&root.join(JOURNAL_NEW))?;
    remove(&root.join(JOURNAL))?;
    sync_dir(root)
}
