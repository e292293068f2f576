//! Workloads of our own: mail-like delivery, and many small files.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deliverers at once, each into a Maildir of its own.
const DELIVERERS: usize = 8;
/// A message, bytes.
const MESSAGE_BYTES: usize = 10_240;
/// How long mail is delivered.
const MAIL_TIME: Duration = Duration::from_secs(3);
/// How many small files.
const FILES: usize = 1000;
const FILE_BYTES: usize = 4096;
/// Small files in one folder.
const FILES_PER_FOLDER: usize = 100;

/// Looks again until it is so, or until that long has passed; whether it is.
pub fn wait_until(within: Duration, mut now: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !now() {
        if began.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// What a message holds, by its name: told from any other's.
pub fn content(name: &str) -> Vec<u8> {
    let line = format!("{name}\n");
    line.bytes().cycle().take(MESSAGE_BYTES).collect()
}

/// Delivers one message as a mail server does: written and fsynced under `tmp`, renamed to `new`, whose
/// folder is fsynced. Where it lies then.
fn deliver(maildir: &Path, name: &str) -> io::Result<PathBuf> {
    let (tmp, new) = (maildir.join("tmp").join(name), maildir.join("new").join(name));
    let mut file = File::create(&tmp)?;
    file.write_all(&content(name))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&tmp, &new)?;
    File::open(maildir.join("new"))?.sync_all()?;
    Ok(new)
}

/// Delivers with all deliverers until told to stop or until it fails; what was acknowledged, and the first
/// failure.
pub fn deliver_until(
    dir: &Path,
    run: &str,
    stop: &(impl Fn() -> bool + Sync),
) -> Result<(Vec<PathBuf>, Option<io::Error>)> {
    let maildir = |n: usize| dir.join(format!("box{n}"));
    for n in 0..DELIVERERS {
        for folder in ["tmp", "new"] {
            let path = maildir(n).join(folder);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
    }
    let failed = AtomicBool::new(false);
    let one = |n: usize| {
        let mut acknowledged = Vec::new();
        while !stop() && !failed.load(Ordering::Relaxed) {
            match deliver(&maildir(n), &format!("{run}-{n}-{}", acknowledged.len())) {
                Ok(path) => acknowledged.push(path),
                Err(e) => {
                    failed.store(true, Ordering::Relaxed);
                    return (acknowledged, Some(e));
                }
            }
        }
        (acknowledged, None)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..DELIVERERS).map(|n| scope.spawn(move || one(n))).collect();
        started.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    let mut acknowledged = Vec::new();
    let mut error = None;
    for (paths, failure) in all {
        acknowledged.extend(paths);
        error = error.or(failure);
    }
    Ok((acknowledged, error))
}

/// Delivers for a while; messages/s. All of them are read back.
pub fn mail(dir: &Path) -> Result<f64> {
    let dir = dir.join("mail");
    let began = Instant::now();
    let (acknowledged, error) = deliver_until(&dir, "mail", &|| began.elapsed() >= MAIL_TIME)?;
    let seconds = began.elapsed().as_secs_f64();
    if let Some(error) = error {
        return Err(error).with_context(|| format!("deliver in {}", dir.display()));
    }
    let lost = missing(&acknowledged);
    ensure!(lost.is_empty(), "{} messages are not as delivered, such as {:?}", lost.len(), lost[0]);
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(acknowledged.len() as f64 / seconds)
}

/// Which messages are not there as they were delivered.
pub fn missing(acknowledged: &[PathBuf]) -> Vec<PathBuf> {
    let whole = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        fs::read(path).is_ok_and(|bytes| bytes == content(&name))
    };
    acknowledged.iter().filter(|path| !whole(path)).cloned().collect()
}

/// Makes small files, then syncs the file system; files/s.
pub fn small_files(dir: &Path) -> Result<f64> {
    let dir = dir.join("small");
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let bytes = [7_u8; FILE_BYTES];
    let whole = File::open(&dir)?;
    let began = Instant::now();
    for n in 0..FILES {
        let folder = dir.join((n / FILES_PER_FOLDER).to_string());
        if n % FILES_PER_FOLDER == 0 {
            fs::create_dir(&folder)?;
        }
        fs::write(folder.join(n.to_string()), bytes)?;
    }
    rustix::fs::syncfs(&whole).context("syncfs")?;
    let seconds = began.elapsed().as_secs_f64();
    drop(whole);
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(FILES as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_is_there_and_what_was_changed_or_lost_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let stop = || count.fetch_add(1, Ordering::Relaxed) > 40;
        let (acknowledged, error) = deliver_until(dir.path(), "t", &stop).unwrap();
        assert!(error.is_none() && !acknowledged.is_empty());
        assert!(missing(&acknowledged).is_empty());
        fs::write(&acknowledged[0], "else").unwrap();
        assert_eq!(missing(&acknowledged), [acknowledged[0].clone()]);
        fs::remove_file(&acknowledged[0]).unwrap();
        assert_eq!(missing(&acknowledged), [acknowledged[0].clone()]);
    }

    #[test]
    fn a_folder_that_fails_ends_the_delivery() {
        let dir = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let broken = || {
            fs::remove_dir_all(dir.path().join("box0")).ok();
            began.elapsed() > Duration::from_secs(20)
        };
        let (_, error) = deliver_until(dir.path(), "t", &broken).unwrap();
        assert!(error.is_some() && began.elapsed() < Duration::from_secs(20));
    }
}
