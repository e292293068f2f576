//! A machine of the lab: its own network and, where asked, mounts, held by one sleeping
//! process. When its control group is killed nothing remains of it: no mount, no link.

use super::cgroup::Cgroup;
use super::command::{LabError, at, line, until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a machine has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Network alone.
    Network,
    /// Network and mounts.
    NetworkAndMounts,
    /// Mounts alone; it uses this computer's network (to fetch packages when building images).
    Mounts,
}

impl Own {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Own::Network => &["--net"],
            Own::NetworkAndMounts => &["--mount", "--net"],
            Own::Mounts => &["--mount"],
        }
    }
}

/// A running machine. Dropping it kills everything on it.
#[derive(Debug)]
pub struct Machine {
    own: Own,
    /// All of it; Docker puts containers into another group below.
    group: Cgroup,
    /// Its own processes: a group that has groups below it holds none itself.
    system: Cgroup,
    holder: Child,
}

/// Joins the control group named first, then becomes the rest of its arguments.
const ENTER: &str = r#"echo $$ >"$1" || exit 125; shift; exec "$@""#;

/// Takes what earlier mounts of this computer a machine must not keep alive out of its own view.
const FORGET: &str = r#"while read -r device point type rest; do
  case "$point:$type:$device" in
    /:*) ;;
    *:fuse:*|*:fuse.*:*|*:nsfs:*|*:/dev/loop*|*:overlay:*) umount -l "$point" 2>/dev/null || : ;;
  esac
done </proc/mounts"#;

impl Machine {
    /// Starts a machine whose processes live in `group`.
    pub fn start(group: Cgroup, own: Own) -> Result<Self, LabError> {
        let system = group.child("system");
        system.make()?;
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "lab"]).arg(system.door()).arg("unshare").args(own.flags());
        if own != Own::Network {
            command.args(["--propagation", "private"]);
        }
        command.args(["sleep", "infinity"]).stdin(Stdio::null()).stdout(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let holder = command.spawn().map_err(|source| LabError::Start { command: line(&command), source })?;
        let mut machine = Self { own, group, system, holder };
        machine.wait_held()?;
        if own != Own::Network {
            machine.script(FORGET)?;
        }
        if own != Own::Mounts {
            machine.script("ip link set lo up")?;
        }
        Ok(machine)
    }

    /// Waits until the holder has left this computer's namespaces and sleeps.
    fn wait_held(&mut self) -> Result<(), LabError> {
        let comm = format!("/proc/{}/comm", self.holder.id());
        until(Duration::from_secs(10), "a machine's namespaces", || {
            if let Ok(Some(status)) = self.holder.try_wait() {
                return Err(LabError::Failed {
                    command: "unshare".into(),
                    status,
                    said: "namespaces need root".into(),
                });
            }
            Ok(fs::read_to_string(&comm).is_ok_and(|c| c.trim() == "sleep").then_some(()))
        })
    }

    /// Number of the holding process.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Its control group, with all that runs on it.
    pub fn group(&self) -> &Cgroup {
        &self.group
    }

    /// A command that will run on this machine, in a session of its own as a unit has one: nothing that this
    /// program starts shares its priority.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", ENTER, "lab"]).arg(self.system.door());
        command.args(["nsenter", "--target", &self.holder.id().to_string()]);
        command.args(self.own.flags()).arg("--").arg(program);
        command
    }

    /// Runs a shell script on this machine to its end.
    pub fn script(&self, script: &str) -> Result<String, LabError> {
        super::command::output(self.command("sh").args(["-ec", script]))
    }

    /// Does something on a thread of this process that is on this machine's network.
    pub fn on_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        let path = Path::new(&path);
        let namespace = File::open(path).map_err(at("open", path))?;
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|e| at("enter", path)(e.into()))?;
                Ok(act())
            });
            acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Kills everything on it; its namespaces go with the last process.
    pub fn end(self) -> Result<(), LabError> {
        self.group.kill()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.group.kill() {
            tracing::warn!("a machine goes on: {error}");
        }
        // The group's kill has ended it, unless that failed; then this does.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
