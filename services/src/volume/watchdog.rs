//! A process of its own beside an attached device. It holds the connection's abort file open and
//! aborts when the volume process stalls or its lease has ended: a stopped or deadlocked process
//! must leave nobody hanging in the kernel. It touches no disk and allocates nothing while it waits.

use crate::lease_page::LeasePage;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the volume process says that it is alive.
pub const BEAT: Duration = Duration::from_millis(200);

/// What the watchdog watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The connection's abort file.
    pub abort: PathBuf,
    /// The lease page.
    pub lease_page: PathBuf,
    /// The lease's name: the service.
    pub service: String,
    /// The lease's epoch.
    pub epoch: u64,
    /// Silence of the volume process that counts as a stall, ms.
    pub stall_max_ms: u64,
    /// How long the lease may have ended before the connection is aborted, ms.
    pub unleased_max_ms: u64,
}

impl Watch {
    /// As command line arguments, for [`Watch::from_arguments`].
    pub fn arguments(&self) -> Vec<OsString> {
        vec![
            self.abort.clone().into(),
            self.lease_page.clone().into(),
            self.service.clone().into(),
            self.epoch.to_string().into(),
            self.stall_max_ms.to_string().into(),
            self.unleased_max_ms.to_string().into(),
        ]
    }

    /// From the command line; `None`: not what [`Watch::arguments`] makes.
    pub fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let number = |at: usize| arguments.get(at)?.to_str()?.parse().ok();
        Some(Self {
            abort: arguments.first()?.into(),
            lease_page: arguments.get(1)?.into(),
            service: arguments.get(2)?.to_str()?.to_string(),
            epoch: number(3)?,
            stall_max_ms: number(4)?,
            unleased_max_ms: number(5)?,
        })
    }
}

/// Why the watchdog ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The volume process detached or died: the kernel has seen to the rest.
    Released,
    /// It aborted the connection: the process was silent.
    Stalled,
    /// It aborted the connection: the lease was over for too long.
    Unleased,
}

/// The watchdog's whole life. `beats` is the volume process's pipe.
pub fn run(watch: &Watch, beats: impl Read + std::os::fd::AsFd) -> io::Result<Ended> {
    let abort = OpenOptions::new().write(true).open(&watch.abort)?;
    let page = LeasePage::open(&watch.lease_page)?;
    let (stall_max, unleased_max) =
        (Duration::from_millis(watch.stall_max_ms), Duration::from_millis(watch.unleased_max_ms));
    let mut beats = beats;
    let mut heard = Instant::now();
    let mut leased = Instant::now();
    let mut byte = [0; 64];
    loop {
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: BEAT.as_nanos() as i64 };
        let mut ready = [rustix::event::PollFd::new(&beats, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => match beats.read(&mut byte)? {
                0 => return Ok(Ended::Released),
                _ => heard = Instant::now(),
            },
            Err(e) => return Err(e.into()),
        }
        if page.holds(&watch.service, watch.epoch) {
            leased = Instant::now();
        }
        let ended = if heard.elapsed() > stall_max {
            Ended::Stalled
        } else if leased.elapsed() > unleased_max {
            Ended::Unleased
        } else {
            continue;
        };
        pull(&abort)?;
        return Ok(ended);
    }
}

fn pull(mut abort: &File) -> io::Result<()> {
    match abort.write_all(b"1") {
        // The connection is gone: that is what was wanted.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

/// The volume process's end: beats, and lets go when dropped.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts the watchdog: `command` with the watch's arguments appended.
    pub fn start(command: &[OsString], watch: &Watch) -> io::Result<Self> {
        let (program, first) = command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command for the watchdog"))?;
        let mut child = Command::new(program)
            .args(first)
            .args(watch.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Says that the process is alive. An error means that the watchdog is gone.
    pub fn beat(&mut self) -> io::Result<()> {
        match &mut self.pipe {
            Some(pipe) => pipe.write_all(&[1]),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(e) = self.child.wait() {
            tracing::warn!(error = %e, "the watchdog could not be waited for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease_page::Held;

    fn watch(dir: &std::path::Path, stall_max_ms: u64, unleased_max_ms: u64) -> (Watch, LeasePage) {
        let (abort, lease_page) = (dir.join("abort"), dir.join("leases"));
        std::fs::write(&abort, "").unwrap();
        let page = LeasePage::create(&lease_page).unwrap();
        page.set("mail", Held { epoch: 4, until_ns: u64::MAX }).unwrap();
        let watch =
            Watch { abort, lease_page, service: "mail".into(), epoch: 4, stall_max_ms, unleased_max_ms };
        (watch, page)
    }

    #[test]
    fn arguments_say_the_whole_watch() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, _) = watch(dir.path(), 1, 2);
        assert_eq!(Watch::from_arguments(&watch.arguments()), Some(watch));
        assert_eq!(Watch::from_arguments(&["x".into()]), None);
    }

    #[test]
    fn a_silent_process_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, _page) = watch(dir.path(), 1, 60_000);
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(run(&watch, reader).unwrap(), Ended::Stalled);
        assert_eq!(std::fs::read_to_string(&watch.abort).unwrap(), "1");
    }

    #[test]
    fn a_lease_of_another_epoch_cuts_off_too() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, page) = watch(dir.path(), 60_000, 1);
        page.set("mail", Held { epoch: 5, until_ns: u64::MAX }).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(run(&watch, reader).unwrap(), Ended::Unleased);
        assert_eq!(std::fs::read_to_string(&watch.abort).unwrap(), "1");
    }

    #[test]
    fn it_leaves_without_a_word_when_the_process_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, _page) = watch(dir.path(), 60_000, 60_000);
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        assert_eq!(run(&watch, reader).unwrap(), Ended::Released);
        assert_eq!(std::fs::read_to_string(&watch.abort).unwrap(), "");
    }
}
