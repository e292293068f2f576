//! What comes back is put in place of what is there, or among it: files and folders of one volume only. Restored files
//! lie beside the data first; nothing is touched before they are there whole, and what was there is kept.

mod merge;
mod room;
mod staging;
mod swap;

pub use merge::{Merged, merge};
pub use room::{Short, enough, free_in, spare_in};
pub use staging::{clean, new_staging, staging};
pub use swap::{Exchanged, exchange, has_restored, source};

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

/// Where restored files lie before they are taken.
pub const STAGING: &str = ".thermidor-restore";
/// Where the files lie that were there before.
pub const BEFORE: &str = ".thermidor-before";
/// How far an exchange has come.
const JOURNAL: &str = ".thermidor-swap";
const JOURNAL_NEW: &str = ".thermidor-swap.new";
/// What a restore lays into a volume beside its data, which is no data: backups leave it out.
pub(crate) const OURS: [&str; 4] = [STAGING, BEFORE, JOURNAL, JOURNAL_NEW];

/// Whether an entry of a volume's root is no data of the service's: a backup need not hold it, a restore leaves it alone.
pub fn is_no_data(name: &OsStr) -> bool {
    OURS.iter().chain(&["lost+found"]).any(|ours| name == *ours)
}

/// Called before each step that changes something. Tests end the process there, so to speak.
type Step<'a> = &'a mut dyn FnMut() -> io::Result<()>;

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether there is a folder, and no link to one: a service may have left anything there.
fn is_folder(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(about) => Ok(about.is_dir()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes whatever is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
