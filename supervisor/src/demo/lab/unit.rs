//! A process kept running the way systemd keeps a unit: started again after it ended,
//! unless it was told to stop.

use super::command::{LabError, until};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a unit waits before it starts again, as `RestartSec=`.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// How long a unit may take to end after SIGTERM before it gets SIGKILL.
const STOP_BUDGET: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Up,
    Down,
    Gone,
}

#[derive(Debug)]
struct Condition {
    wanted: Wanted,
    pid: Option<Pid>,
    starts: u64,
    failure: Option<String>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    condition: Mutex<Condition>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A unit. Dropping it kills its process and ends its keeper.
#[derive(Debug)]
pub struct Unit {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

/// How a unit's process is started, each time anew.
pub type Recipe = Box<dyn Fn() -> Result<Command, LabError> + Send>;

impl Unit {
    /// Starts a unit.
    pub fn start(name: &str, recipe: Recipe) -> Self {
        let condition = Condition { wanted: Wanted::Up, pid: None, starts: 0, failure: None };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            condition: Mutex::new(condition),
            changed: Condvar::new(),
        });
        let keeper = std::thread::spawn({
            let shared = shared.clone();
            move || keep(&shared, &recipe)
        });
        Self { shared, keeper: Some(keeper) }
    }

    /// Number of its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// How many times it was started.
    pub fn starts(&self) -> u64 {
        self.shared.lock().starts
    }

    /// Why its last start did not even begin, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }

    /// Sends its process a signal; false if none runs.
    pub fn signal(&self, signal: Signal) -> bool {
        // Under the lock the number cannot have been given to another process: the keeper
        // reaps under it too.
        let condition = self.shared.lock();
        condition.pid.is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
    }

    /// Kills -9; it starts again by itself. False if nothing ran.
    pub fn kill9(&self) -> bool {
        self.signal(Signal::KILL)
    }

    /// Kills -9, and it stays down until [`Unit::up`].
    pub fn down9(&self) {
        self.want(Wanted::Down);
        self.signal(Signal::KILL);
    }

    /// Asks it to end (SIGTERM), insists after 20 s, and it stays down until [`Unit::up`].
    pub fn down(&self) -> Result<(), LabError> {
        self.want(Wanted::Down);
        self.signal(Signal::TERM);
        let ended = || Ok(self.shared.lock().pid.is_none().then_some(()));
        if until(STOP_BUDGET, &self.shared.name, ended).is_ok() {
            return Ok(());
        }
        self.signal(Signal::KILL);
        until(STOP_BUDGET, &format!("{} to end", self.shared.name), ended)
    }

    /// Starts it again after it was down.
    pub fn up(&self) {
        self.want(Wanted::Up);
    }

    /// Whether it is meant to run.
    pub fn is_wanted(&self) -> bool {
        self.shared.lock().wanted == Wanted::Up
    }

    fn want(&self, wanted: Wanted) {
        let mut condition = self.shared.lock();
        if condition.wanted != Wanted::Gone {
            condition.wanted = wanted;
        }
        drop(condition);
        self.shared.changed.notify_all();
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.want(Wanted::Gone);
        self.signal(Signal::KILL);
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has nothing left to keep.
            keeper.join().ok();
        }
    }
}

fn keep(shared: &Shared, recipe: &Recipe) {
    let mut condition = shared.lock();
    loop {
        match condition.wanted {
            Wanted::Gone => return,
            Wanted::Down => {
                condition = shared.changed.wait(condition).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            Wanted::Up => {}
        }
        condition.starts += 1;
        // Started under the lock: whoever wants it down knows its number.
        let spawned =
            recipe().map_err(|e| e.to_string()).and_then(|mut c| c.spawn().map_err(|e| e.to_string()));
        match spawned {
            Err(why) => condition.failure = Some(why),
            Ok(mut child) => {
                condition.failure = None;
                let pid = Pid::from_child(&child);
                condition.pid = Some(pid);
                drop(condition);
                let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while matches!(rustix::process::waitid(WaitId::Pid(pid), ended), Err(rustix::io::Errno::INTR))
                {
                }
                condition = shared.lock();
                // The process has ended: this only reaps it.
                child.wait().ok();
                condition.pid = None;
            }
        }
        if condition.wanted == Wanted::Up {
            let waited = shared.changed.wait_timeout(condition, RESTART_DELAY);
            condition = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Unit {
        Unit::start(
            "sleeper",
            Box::new(|| {
                let mut command = Command::new("sleep");
                command.arg("1000");
                Ok(command)
            }),
        )
    }

    fn soon<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
        let mut done = done;
        until(Duration::from_secs(20), what, || Ok(done())).unwrap()
    }

    #[test]
    fn a_killed_unit_comes_back_and_a_downed_one_stays_down() {
        let unit = sleeper();
        let first = soon("a start", || unit.pid());
        assert!(unit.kill9());
        let second = soon("a second start", || unit.pid().filter(|pid| *pid != first));
        unit.down().unwrap();
        assert_eq!(unit.pid(), None);
        let starts = unit.starts();
        std::thread::sleep(RESTART_DELAY * 2);
        assert_eq!((unit.pid(), unit.starts()), (None, starts));
        unit.up();
        assert_ne!(soon("a third start", || unit.pid()), second);
    }

    #[test]
    fn a_dropped_unit_takes_its_process_along() {
        let unit = sleeper();
        let pid = soon("a start", || unit.pid());
        drop(unit);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_unit_that_cannot_start_says_why_and_goes_on_trying() {
        let unit = Unit::start("nothing", Box::new(|| Ok(Command::new("no-such-program-here"))));
        let why = soon("a failure", || unit.failure());
        assert!(why.contains("No such file"), "{why}");
        soon("another try", || (unit.starts() > 1).then_some(()));
    }
}
