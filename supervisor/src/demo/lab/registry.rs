//! What labs there are on this computer, so that whatever one leaves behind is found and
//! removed: by itself at its end, by its reaper should it be killed, or by a later lab.

use super::cgroup::Cgroup;
use super::command::{LabError, at, line, output, until};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use thermidor_services::volume::device::loops_of;
use thermidor_services::volume::{export, group};

/// Where labs are registered, one file each; machines see their own folders below it.
pub const REGISTRY: &str = "/run/thermidor-lab";
/// Marks a folder that a sweep may remove.
const MARK: &str = ".thermidor-lab";

/// One lab's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The process that owns the lab.
    pid: u32,
    /// When that process started, clock ticks since boot: numbers are given again.
    started: u64,
    /// The lab's folder.
    dir: PathBuf,
}

/// A lab's place in the registry. Dropping it removes all that belongs to the lab.
#[derive(Debug)]
pub struct Registration {
    name: String,
    reaper: Option<Child>,
}

/// When a process started, by the text of its `/proc/PID/stat`.
fn start_of(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn started(pid: u32) -> Option<u64> {
    start_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn path_of(name: &str) -> PathBuf {
    Path::new(REGISTRY).join(format!("{name}.json"))
}

fn read(name: &str) -> Option<Entry> {
    serde_json::from_slice(&fs::read(path_of(name)).ok()?).ok()
}

/// One sweep or registration at a time.
fn lock() -> Result<File, LabError> {
    let dir = Path::new(REGISTRY);
    fs::create_dir_all(dir).map_err(at("make", dir))?;
    let path = dir.join("lock");
    let file = File::create(&path).map_err(at("open", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| at("lock", &path)(e.into()))?;
    Ok(file)
}

fn is_name(name: &str) -> bool {
    thermidor_model::RadiatorName::new(name).is_ok()
}

impl Registration {
    /// Registers a lab that lives in `dir`, which is made anew, and starts its reaper:
    /// `reaper` is the command that calls [`reap`] with the name that is added to it.
    pub fn new(name: &str, dir: &Path, reaper: &[String]) -> Result<Self, LabError> {
        let refused = |why: &str| LabError::Refused { name: name.to_owned(), why: why.to_owned() };
        if !is_name(name) {
            return Err(refused("its name must be of a-z, 0-9 and `-`"));
        }
        sweep()?;
        let guard = lock()?;
        if read(name).is_some() {
            return Err(refused("a lab of that name is running"));
        }
        if dir.exists() && fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some()) {
            return Err(refused(&format!("{} exists already and is not a lab's", dir.display())));
        }
        fs::create_dir_all(dir).map_err(at("make", dir))?;
        let dir = fs::canonicalize(dir).map_err(at("find", dir))?;
        let mark = dir.join(MARK);
        fs::write(&mark, name).map_err(at("write", &mark))?;
        let pid = std::process::id();
        let entry = Entry { pid, started: started(pid).unwrap_or_default(), dir };
        let path = path_of(name);
        let text = serde_json::to_vec(&entry).map_err(|e| at("write", &path)(e.into()))?;
        fs::write(&path, text).map_err(at("write", &path))?;
        drop(guard);
        let mut registration = Self { name: name.to_owned(), reaper: None };
        registration.reaper = Some(start_reaper(name, reaper)?);
        Ok(registration)
    }

    /// Removes all that belongs to the lab.
    pub fn end(&mut self) -> Result<(), LabError> {
        let ended = sweep_one(&self.name);
        if let Some(mut reaper) = self.reaper.take() {
            drop(reaper.stdin.take());
            // It has nothing left to do and ends by itself; waiting only reaps it.
            reaper.wait().ok();
        }
        ended
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(lab = self.name, "not everything of the lab could be removed: {error}");
        }
    }
}

fn start_reaper(name: &str, argv: &[String]) -> Result<Child, LabError> {
    let mut command = Command::new("setsid");
    command.args(argv).arg(name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|source| LabError::Start { command: line(&command), source })?;
    let mut ready = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut ready).ok();
    }
    if ready.trim() == "ready" {
        return Ok(child);
    }
    let status = child.wait().map_err(|source| LabError::Start { command: line(&command), source })?;
    Err(LabError::Failed { command: line(&command), status, said: "the reaper did not say `ready`".into() })
}

/// What the reaper does: waits until its standard input ends, which it does with the process
/// that owns the lab however that one ends, then removes what is left.
pub fn reap(name: &str) -> Result<(), LabError> {
    println!("ready");
    // Nothing is ever written: this returns at the end.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
    let owner_alive = || read(name).is_some_and(|e| started(e.pid) == Some(e.started));
    // The pipe closes a moment before the process is gone; a lab whose owner lives stays.
    for _ in 0..200 {
        if !owner_alive() {
            return sweep_one(name);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Removes what labs left whose owner is dead; returns their names.
pub fn sweep() -> Result<Vec<String>, LabError> {
    let mut swept = Vec::new();
    for entry in fs::read_dir(REGISTRY).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"))
        else {
            continue;
        };
        if read(name).is_some_and(|e| started(e.pid) != Some(e.started)) {
            sweep_one(name)?;
            swept.push(name.to_owned());
        }
    }
    Ok(swept)
}

/// Removes all that belongs to one lab, alive or not. Nothing to remove is no error.
pub fn sweep_one(name: &str) -> Result<(), LabError> {
    let _guard = lock()?;
    let Some(entry) = read(name) else { return Ok(()) };
    let own = Cgroup::of_lab(name)?;
    own.kill()?;
    let inside = Path::new(REGISTRY).join(name);
    detach_loops(&[&entry.dir, &inside])?;
    own.remove()?;
    detach_orphans()?;
    // In a version 1 hierarchy the radiators' processes have theirs where this one was started.
    group::sweep().map_err(at("sweep", Path::new("/sys/fs/cgroup")))?;
    unmount_below(&entry.dir)?;
    if entry.dir.join(MARK).exists() {
        unprotect_mountpoints(&entry.dir)?;
        fs::remove_dir_all(&entry.dir).map_err(at("remove", &entry.dir))?;
    }
    if inside.exists() {
        fs::remove_dir_all(&inside).map_err(at("remove", &inside))?;
    }
    let path = path_of(name);
    fs::remove_file(&path).map_err(at("remove", &path))
}

/// Volumes keep their unmounted mountpoints immutable: they are freed before they are removed.
fn unprotect_mountpoints(lab: &Path) -> Result<(), LabError> {
    let inside = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // A data folder may have been moved aside: `data.away`.
    for data in inside(lab).flat_map(|radiator| inside(&radiator)) {
        for dir in inside(&data.join("volumes")) {
            let places = thermidor_services::volume::device::Places { dir };
            places.unprotect().map_err(|e| at("free", &places.dir)(std::io::Error::other(e)))?;
        }
    }
    Ok(())
}

/// Detaches loop devices over files in those folders, as the machines or this computer name them.
fn detach_loops(dirs: &[&Path]) -> Result<(), LabError> {
    until(Duration::from_secs(10), "loop devices to detach", || {
        let mut left = false;
        for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let Ok(backing) = fs::read_to_string(block.path().join("loop/backing_file")) else { continue };
            if dirs.iter().any(|dir| Path::new(backing.trim()).starts_with(dir)) {
                left = true;
                let device = Path::new("/dev").join(block.file_name());
                // A device that went away meanwhile is what is wanted; one that stays is seen again.
                output(Command::new("losetup").arg("-d").arg(device)).ok();
            }
        }
        Ok((!left).then_some(()))
    })
}

/// Loop devices over a volume's export that nobody has mounted any more: a machine's mounts go with its last process, and
/// the kernel then names such a file from the root of its own file system. There is no such file here.
pub fn orphaned_loops() -> Result<Vec<PathBuf>, LabError> {
    let export = Path::new("/").join(export::FILE);
    if export.exists() {
        return Ok(Vec::new());
    }
    loops_of(&export).map_err(at("list", Path::new("/sys/block")))
}

/// Each of them is of no use to anybody. One that is still held goes with whoever holds it.
fn detach_orphans() -> Result<(), LabError> {
    for device in orphaned_loops()? {
        // One that went away meanwhile is what is wanted.
        output(Command::new("losetup").arg("-d").arg(device)).ok();
    }
    Ok(())
}

/// Takes away mounts of this computer below a folder: machines mount in their own view, so
/// there are none unless someone made one by hand.
fn unmount_below(dir: &Path) -> Result<(), LabError> {
    let path = Path::new("/proc/mounts");
    let mounts = fs::read_to_string(path).map_err(at("read", path))?;
    let points = mounts.lines().filter_map(|l| l.split_whitespace().nth(1));
    for point in points.filter(|p| Path::new(p).starts_with(dir)) {
        output(Command::new("umount").args(["-l", point]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_number() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_of(stat), Some(4711));
        assert!(started(std::process::id()).is_some());
        assert_eq!(start_of("nothing"), None);
    }

    #[test]
    fn sweeping_a_lab_that_never_was_changes_nothing() {
        assert!(read("never-was").is_none());
        sweep_one("never-was").unwrap();
        assert!(!path_of("never-was").exists());
    }

    #[test]
    fn a_name_that_is_no_name_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        let error = Registration::new("../x", &lab, &[]).unwrap_err();
        assert!(matches!(error, LabError::Refused { .. }));
        assert!(!lab.exists());
    }
}
