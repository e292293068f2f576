//! Restored files among those that are there: what is missing is added, what is there stays as it is. In a Maildir a
//! message is known by its unique name, whatever its flags are by now, so none is there twice.

use super::{is_folder, is_no_data, is_there, sync_dir};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a merge came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Files that were added.
    pub added: u64,
    /// Files that were there already.
    pub there: u64,
    /// Files that were there with other content: what was restored lies beside them.
    pub beside: u64,
}

/// Adds what is in `from` to `into`, on the same file system. What lies beside a file that differs is named after it
/// and `label`. The service may run meanwhile; interrupted, it can be run again.
pub fn merge(from: &Path, into: &Path, label: &str) -> io::Result<Merged> {
    let mut done = Merged::default();
    merge_folder(from, into, label, &mut done)?;
    Ok(done)
}

fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names: Vec<_> = std::fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn merge_folder(from: &Path, into: &Path, label: &str, done: &mut Merged) -> io::Result<()> {
    let mail = is_maildir(into)?;
    let mut changed = false;
    for name in names(from)?.iter().filter(|name| !is_no_data(name)) {
        let (new, old) = (from.join(name), into.join(name));
        let is_dir = is_folder(&new)?;
        if mail && is_dir && (name == "cur" || name == "new") {
            continue;
        }
        if mail && (is_index(name) || name == "tmp") {
            continue;
        }
        if !is_there(&old)? {
            done.added += count(&new)?;
            std::fs::rename(&new, &old)?;
            changed = true;
        } else if is_dir && is_folder(&old)? {
            merge_folder(&new, &old, label, done)?;
        } else if !is_dir && is_same(&new, &old)? {
            done.there += 1;
        } else {
            changed |= put_beside(&new, &old, label, done)?;
        }
    }
    if mail {
        merge_messages(from, into, done)?;
    }
    if changed {
        sync_dir(into)?;
    }
    Ok(())
}

/// How many files that are.
fn count(path: &Path) -> io::Result<u64> {
    if !is_folder(path)? {
        return Ok(1);
    }
    names(path)?.iter().map(|name| count(&path.join(name))).sum()
}

fn put_beside(new: &Path, old: &Path, label: &str, done: &mut Merged) -> io::Result<bool> {
    for number in 0_u32.. {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let mut name = old.as_os_str().to_owned();
        name.push(format!(".restored-{label}{more}"));
        let place = PathBuf::from(name);
        if !is_there(&place)? {
            done.beside += count(new)?;
            std::fs::rename(new, &place)?;
            return Ok(true);
        }
        // Of an earlier run, or an earlier restore.
        if !is_folder(new)? && is_same(new, &place)? {
            done.beside += 1;
            return Ok(false);
        }
    }
    Ok(false)
}

/// Whether two are the same file or the same link.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = (one.symlink_metadata()?, other.symlink_metadata()?);
    if a.is_symlink() && b.is_symlink() {
        return Ok(std::fs::read_link(one)? == std::fs::read_link(other)?);
    }
    if !a.is_file() || !b.is_file() || a.len() != b.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (File::open(one)?.take(a.len()), File::open(other)?.take(b.len()));
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = a.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        if b.read_exact(&mut right[..read]).is_err() || left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

fn is_maildir(dir: &Path) -> io::Result<bool> {
    Ok(is_folder(&dir.join("cur"))? && is_folder(&dir.join("new"))? && is_folder(&dir.join("tmp"))?)
}

/// What a mail server keeps for itself in a Maildir, made from the messages; its own of now are right.
fn is_index(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"dovecot") || name.starts_with(b"maildir")
}

/// The part of a message's name that is the message's for ever.
fn unique(name: &OsStr) -> &[u8] {
    let name = name.as_bytes();
    &name[..name.iter().position(|b| matches!(b, b':' | b',')).unwrap_or(name.len())]
}

fn merge_messages(from: &Path, into: &Path, done: &mut Merged) -> io::Result<()> {
    // A message is moved by its server from one to the other; whoever looks at `new` first misses none.
    let mut known = BTreeSet::new();
    for folder in ["new", "cur"] {
        known.extend(names(&into.join(folder))?.iter().map(|name| unique(name).to_vec()));
    }
    let letters_mean_the_same = is_there(&from.join("dovecot-keywords"))?
        && is_there(&into.join("dovecot-keywords"))?
        && is_same(&from.join("dovecot-keywords"), &into.join("dovecot-keywords"))?;
    for folder in ["cur", "new"] {
        let (source, target) = (from.join(folder), into.join(folder));
        if !is_folder(&source)? {
            continue;
        }
        for name in names(&source)? {
            let message = source.join(&name);
            if !known.insert(unique(&name).to_vec()) {
                done.there += 1;
                continue;
            }
            let name = if letters_mean_the_same { name } else { without_keywords(name) };
            std::fs::rename(&message, target.join(name))?;
            done.added += 1;
        }
        sync_dir(&target)?;
    }
    Ok(())
}

/// Small letters among the flags stand for words that are listed elsewhere, in another order by now.
fn without_keywords(name: OsString) -> OsString {
    let bytes = name.as_bytes();
    let Some(at) = bytes.windows(3).position(|three| three == b":2,") else { return name };
    let (base, flags) = bytes.split_at(at + 3);
    let flags = flags.iter().filter(|flag| !flag.is_ascii_lowercase());
    OsString::from_vec(base.iter().chain(flags).copied().collect())
}
