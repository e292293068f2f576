//! Restored files in place of a volume's, by renames of what lies at its root. A journal says how far it has come: each
//! phase is durable before the next begins, and may be run again from wherever it was interrupted.

use super::staging::staging;
use super::{BEFORE, JOURNAL, JOURNAL_NEW, STAGING, Step, is_folder, is_no_data, is_there, remove, sync_dir};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What an exchange came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    /// Whether there was anything before, which is kept.
    pub earlier: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// What was kept before becomes what is to be taken.
    Turn,
    /// What is there goes aside.
    Out,
    /// What is to be taken comes in.
    In,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    version: u32,
    turn: u32,
    phase: Phase,
}

/// Whether there is something to exchange: restored files, or an exchange that was begun. A volume that the snapshot did
/// not hold has neither, and stays as it is.
pub fn has_restored(root: &Path, restored: &Path) -> io::Result<bool> {
    Ok(read(root)?.is_some() || source(root, restored).is_ok())
}

/// Takes the files of turn 0 from the staging folder (from `restored` below it) and keeps those that were there; each
/// later turn takes back what the turn before has kept. A turn that is done is not done again, one that was interrupted
/// is finished. Nothing else may use the volume meanwhile.
pub fn exchange(root: &Path, turn: u32, restored: &Path) -> io::Result<Exchanged> {
    exchange_by(root, turn, restored, &mut || Ok(()))
}

pub(super) fn exchange_by(root: &Path, turn: u32, restored: &Path, step: Step<'_>) -> io::Result<Exchanged> {
    let mut journal = match read(root)? {
        Some(journal) if journal.turn == turn => journal,
        Some(journal) if journal.turn > turn || journal.phase != Phase::Done => {
            return Err(io::Error::other(format!(
                "turn {} of the exchange of files in {} is not over: {turn} can't be done",
                journal.turn,
                root.display()
            )));
        }
        None if turn > 0 => return Err(io::Error::other("no files are kept that could be put back")),
        _ => {
            let phase = if turn == 0 { Phase::Out } else { Phase::Turn };
            if turn == 0 {
                // Not one file goes aside for a restore that is not there.
                source(root, restored)?;
                remove(&root.join(BEFORE))?;
                // What was written must be there before what it replaces goes.
                rustix::fs::syncfs(File::open(root)?)?;
            }
            let journal = Journal { version: 1, turn, phase };
            step()?;
            write(root, &journal)?;
            journal
        }
    };
    let restored = if turn == 0 { restored } else { Path::new("") };
    while journal.phase != Phase::Done {
        journal.phase = match journal.phase {
            Phase::Turn => {
                turn_round(root, step)?;
                Phase::Out
            }
            Phase::Out => {
                move_out(root, step)?;
                Phase::In
            }
            Phase::In => {
                move_in(root, &source(root, restored)?, step)?;
                Phase::Done
            }
            Phase::Done => Phase::Done,
        };
        step()?;
        write(root, &journal)?;
    }
    step()?;
    remove(&root.join(STAGING))?;
    sync_dir(root)?;
    let earlier = std::fs::read_dir(root.join(BEFORE))?.next().is_some();
    Ok(Exchanged { earlier })
}

/// The folder below the staging folder whose entries are to come in. No part of the way to it may be a link: a service
/// may have left anything there. An error where there is none.
pub fn source(root: &Path, restored: &Path) -> io::Result<PathBuf> {
    let mut path = root.join(STAGING);
    let mut parts = restored.components();
    loop {
        if !is_folder(&path)? {
            let text = format!("{} holds no restored files", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        match parts.next() {
            Some(std::path::Component::Normal(part)) => path.push(part),
            None => return Ok(path),
            Some(_) => return Err(io::Error::other("a path with `..` is no place in a volume")),
        }
    }
}

fn turn_round(root: &Path, step: Step<'_>) -> io::Result<()> {
    let (staging_dir, before) = (root.join(STAGING), root.join(BEFORE));
    if is_there(&before)? {
        step()?;
        remove(&staging_dir)?;
        step()?;
        std::fs::rename(&before, &staging_dir)?;
    } else {
        staging(root)?;
    }
    sync_dir(root)
}

fn move_out(root: &Path, step: Step<'_>) -> io::Result<()> {
    let before = root.join(BEFORE);
    if !is_folder(&before)? {
        step()?;
        remove(&before)?;
        DirBuilder::new().mode(0o700).create(&before)?;
    }
    move_all(root, &before, step)?;
    copy_owner(root, &before)?;
    sync_dir(&before)?;
    sync_dir(root)
}

fn move_in(root: &Path, source: &Path, step: Step<'_>) -> io::Result<()> {
    move_all(source, root, step)?;
    copy_owner(source, root)?;
    sync_dir(source)?;
    sync_dir(root)
}

fn move_all(from: &Path, to: &Path, step: Step<'_>) -> io::Result<()> {
    let names: Vec<_> = std::fs::read_dir(from)?.map(|e| Ok(e?.file_name())).collect::<io::Result<_>>()?;
    for name in names.iter().filter(|name| !is_no_data(name)) {
        step()?;
        std::fs::rename(from.join(name), to.join(name))?;
    }
    Ok(())
}

/// A volume's root belongs to whoever the files in it are of.
fn copy_owner(from: &Path, to: &Path) -> io::Result<()> {
    let about = from.metadata()?;
    chown(to, Some(about.uid()), Some(about.gid()))?;
    std::fs::set_permissions(to, Permissions::from_mode(about.mode() & 0o7777))
}

fn read(root: &Path) -> io::Result<Option<Journal>> {
    let path = root.join(JOURNAL);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let journal: Journal = serde_json::from_slice(&bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))?;
    match journal.version {
        1 => Ok(Some(journal)),
        newer => Err(io::Error::other(format!(
            "{} has version {newer}: install the newer thermidor",
            path.display()
        ))),
    }
}

fn write(root: &Path, journal: &Journal) -> io::Result<()> {
    let (new, place) = (root.join(JOURNAL_NEW), root.join(JOURNAL));
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(journal)?)?;
    file.sync_all()?;
    std::fs::rename(&new, &place)?;
    sync_dir(root)
}
