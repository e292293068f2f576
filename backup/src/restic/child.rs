//! One run of restic, supervised from its first to its last breath: low priority, a process group of its own, secrets in
//! the environment only, ended with the whole group when it is stuck or no longer wanted.

use super::lines::Lines;
use super::pulse::{Patience, Pulse, Sign, Verdict};
use super::repository::{Repository, Secret};
use super::trouble::{self, ResticError};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Lines of restic's words that are kept to say why it failed: the first and the last ones.
const WORDS_MAX: usize = 40;
/// How long a child that was told to stop may clean up: it removes its lock.
const GRACE: Duration = Duration::from_secs(3);
/// How long the last words of a child that has ended are waited for.
const ECHO: Duration = Duration::from_secs(5);
/// Of what is not read line by line, in bytes.
const OUT_MAX: usize = 64 << 20;

/// What a child is told.
pub(super) struct Orders<'a> {
    pub program: &'a Path,
    pub arguments: Vec<OsString>,
    /// Where it works.
    pub dir: Option<&'a Path>,
    /// Its cache and its temporary files.
    pub cache: &'a Path,
    pub patience: Patience,
    /// What it reads from its standard input: a password, that is shorter than what a pipe holds.
    pub input: Option<&'a Secret>,
}

/// What is thought of a line of a child's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Something got done.
    Progress,
    /// It is understood, and needs not be kept.
    Taken,
    /// It is to be kept.
    Kept,
}

/// How a child ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub status: ExitStatus,
    /// What it said on standard output and nobody took.
    pub out: String,
    /// What it said on standard error and nobody took, as far as it is kept.
    pub words: Vec<String>,
}

/// Kills the whole group unless told that it has ended.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "restic can't be signalled");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs restic on a repository. Each line goes to `hear` first. If the future is dropped, the child and whatever it
/// started are killed.
pub(super) async fn run(
    orders: Orders<'_>,
    repository: &Repository,
    mut hear: impl FnMut(&str) -> Heard,
) -> Result<Ended, ResticError> {
    let (mut child, mut group) = spawn(&orders, repository)?;
    let broken = |e| ResticError::Io(orders.program.to_owned(), e);
    if let (Some(secret), Some(mut input)) = (orders.input, child.stdin.take()) {
        // One that has ended before it read says why.
        if let Err(error) = input.write_all(secret.expose().as_bytes()).await {
            tracing::debug!(%error, "restic has not read what it was given");
        }
    }
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(broken(std::io::Error::other("no pipe to it")));
    };
    let (mut out, mut err) = (Lines::new(out, OUT_MAX), Lines::new(err, OUT_MAX));
    let pid = child.id();
    let begun = Instant::now();
    let mut pulse = Pulse::new(orders.patience);
    let mut ticks =
        interval((orders.patience.silence / 20).clamp(Duration::from_millis(50), Duration::from_secs(5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut kept, mut words, mut last_complaint) = (String::new(), Words::default(), None);
    let mut status = None;
    while status.is_none() || !out.at_end || !err.at_end {
        let (line, is_error) = tokio::select! {
            line = out.next(), if !out.at_end => (line.map_err(broken)?, false),
            line = err.next(), if !err.at_end => (line.map_err(broken)?, true),
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.map_err(broken)?);
                // Its number may be somebody else's from now on.
                group.0 = None;
                continue;
            }
            _ = ticks.tick(), if status.is_none() => {
                let sign = pid.map_or(Sign::default(), look);
                let error = match pulse.judge(begun.elapsed(), sign) {
                    Verdict::Alive => continue,
                    Verdict::Stuck => ResticError::Stuck(orders.patience.silence),
                    Verdict::TooLong => ResticError::TooLong(orders.patience.longest),
                    Verdict::Troubled => {
                        let said: Vec<String> = last_complaint.into_iter().collect();
                        ResticError::Unreachable(trouble::brief(&said, repository))
                    }
                };
                end(&mut child, group).await;
                return Err(error);
            }
            () = tokio::time::sleep(ECHO), if status.is_some() => break,
        };
        let Some(line) = line else { continue };
        if is_error && trouble::is_complaint(&line) {
            let shown = repository.hide(&line);
            tracing::debug!(shown, "restic tries again");
            if let Some(error) = trouble::hopeless(&line) {
                end(&mut child, group).await;
                return Err(error);
            }
            pulse.complain(begun.elapsed());
            last_complaint = Some(shown);
            continue;
        }
        match hear(&line) {
            Heard::Progress => pulse.report(begun.elapsed()),
            Heard::Taken => {}
            Heard::Kept if is_error => words.add(line),
            Heard::Kept => {
                if kept.len() + line.len() > OUT_MAX {
                    end(&mut child, group).await;
                    return Err(ResticError::Unreadable("more than anybody would say".into()));
                }
                kept.push_str(&line);
                kept.push('\n');
            }
        }
    }
    let status = status.ok_or_else(|| broken(std::io::Error::other("it has no end")))?;
    Ok(Ended { status, out: kept, words: words.all() })
}

impl Ended {
    /// What it said, if it ended well.
    pub fn good(self, repository: &Repository) -> Result<String, ResticError> {
        if self.status.success() { Ok(self.out) } else { Err(self.error(repository)) }
    }

    /// Why it did not.
    pub fn error(&self, repository: &Repository) -> ResticError {
        if let Some(signal) = self.status.signal() {
            return ResticError::Killed(signal);
        }
        if self.status.code() == Some(127) || self.words.iter().any(|w| w.contains("failed to execute")) {
            return ResticError::NotInstalled;
        }
        trouble::read(&self.words, repository)
    }
}

fn spawn(orders: &Orders<'_>, repository: &Repository) -> Result<(Child, Group), ResticError> {
    let temporary = orders.cache.join("tmp");
    std::fs::create_dir_all(&temporary).map_err(|e| ResticError::Io(temporary.clone(), e))?;
    let mut command = quiet(orders.program);
    command
        .args(&orders.arguments)
        .env("RESTIC_REPOSITORY", repository.url().expose())
        .env("RESTIC_PASSWORD", repository.key.expose())
        .env("RESTIC_CACHE_DIR", orders.cache)
        .env("RESTIC_PROGRESS_FPS", "1")
        // A memory file system is small on a small machine.
        .env("TMPDIR", temporary);
    if let Some(dir) = orders.dir {
        command.current_dir(dir);
    }
    if orders.input.is_some() {
        command.stdin(Stdio::piped());
    }
    let child = command.spawn().map_err(|e| ResticError::Io(orders.program.to_owned(), e))?;
    let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    Ok((child, Group(group)))
}

/// A program with nothing of our environment, that stands back behind everything else. `nice` and `ionice` become the
/// program: there is one process.
pub(super) fn quiet(program: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let mut command = Command::new("nice");
    command
        .args(["-n", "10", "ionice", "-t", "-c", "3"].map(OsStr::new))
        .arg(program)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Ends a child with its group: it may remove its lock first, and is killed if it does not get to it.
async fn end(child: &mut Child, mut group: Group) {
    group.signal(Signal::INT);
    let _ = timeout(GRACE, child.wait()).await;
    group.signal(Signal::KILL);
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "restic can't be waited for");
    }
    group.0 = None;
}

/// What the system tells of a process; nothing if it is gone or not ours to look at.
fn look(pid: u32) -> Sign {
    let read = |name: &str| {
        std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{name}"))).unwrap_or_default()
    };
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let of = |line: &str| line.strip_prefix("rchar:").or(line.strip_prefix("wchar:")).map_or(0, number);
    let bytes = read("io").lines().map(of).sum();
    // After the name in brackets: the state is field 3, processor time in hundredths of a second 14 and 15.
    let stat = read("stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let cpu_ms = fields.skip(11).take(2).map(number).sum::<u64>() * 10;
    Sign { bytes, cpu_ms }
}

/// The first and the last lines of many.
#[derive(Default)]
struct Words {
    first: Vec<String>,
    last: VecDeque<String>,
}

impl Words {
    fn add(&mut self, line: String) {
        if self.first.len() < WORDS_MAX {
            return self.first.push(line);
        }
        if self.last.len() == WORDS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn all(mut self) -> Vec<String> {
        self.first.extend(self.last);
        self.first
    }
}
