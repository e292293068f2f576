//! A radiator of the lab: a machine with an engine of its own and the `thermidor` processes,
//! kept running as systemd would; it can lose its power, freeze, and come back.

use super::cgroup::Cgroup;
use super::command::{LabError, at, finish, output, until};
use super::images::Seed;
use super::machine::{Machine, Own};
use super::registry::REGISTRY;
use super::switch::{Port, Switch, address};
use super::unit::Unit;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The unit that is the engine.
pub const ENGINE: &str = "dockerd";
/// The engine's socket, as the radiator sees it.
const ENGINE_SOCKET: &str = "/run/docker.sock";
/// How long an engine may take to start.
const ENGINE_START: Duration = Duration::from_secs(60);

/// What a radiator is made of; does not change.
#[derive(Debug)]
pub(super) struct Plan {
    pub lab: String,
    pub name: String,
    pub port: Port,
    /// Its folder on this computer.
    pub dir: PathBuf,
    pub group: Cgroup,
    pub binary: PathBuf,
    pub seed: Option<Seed>,
    pub engine: bool,
    pub env: Vec<(String, String)>,
}

#[derive(Debug)]
struct Parts {
    plan: Plan,
    switch: Arc<Switch>,
    machine: Mutex<Option<Machine>>,
}

/// A radiator.
#[derive(Debug)]
pub struct Radiator {
    parts: Arc<Parts>,
    units: Mutex<BTreeMap<String, Unit>>,
    /// Units that start when power comes back.
    enabled: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Parts {
    /// Where its folder appears on the radiator itself.
    fn inside(&self) -> PathBuf {
        Path::new(REGISTRY).join(&self.plan.lab).join(&self.plan.name)
    }

    fn with_machine<T>(&self, act: impl FnOnce(&Machine) -> Result<T, LabError>) -> Result<T, LabError> {
        let machine = locked(&self.machine);
        act(machine.as_ref().ok_or_else(|| LabError::NoPower(self.plan.name.clone()))?)
    }

    /// A command on the radiator, in the environment of its units.
    fn command(&self, program: &str) -> Result<Command, LabError> {
        let mut command = self.with_machine(|machine| Ok(machine.command(program)))?;
        command
            .env("THERMIDOR_DATA", self.inside().join("data"))
            .env("THERMIDOR_RUN", "/run/thermidor")
            .env("THERMIDOR_DOCKER", format!("unix://{ENGINE_SOCKET}"))
            .env("DOCKER_HOST", format!("unix://{ENGINE_SOCKET}"))
            .env("RUST_BACKTRACE", "1")
            .envs(self.plan.env.iter().cloned());
        Ok(command)
    }

    /// The same, writing into the log of a unit.
    fn logged(&self, unit: &str, program: &str) -> Result<Command, LabError> {
        let path = self.plan.dir.join("logs").join(format!("{unit}.log"));
        let open = || OpenOptions::new().create(true).append(true).open(&path).map_err(at("open", &path));
        let mut command = self.command(program)?;
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        Ok(command)
    }

    fn engine(&self) -> Result<Command, LabError> {
        let mut command = self.logged(ENGINE, "dockerd")?;
        let root = self.inside().join("docker");
        let containers = self.plan.group.child("containers");
        command.arg("--config-file").arg(self.inside().join("daemon.json"));
        command.arg("--data-root").arg(root).args(["--exec-root", "/run/docker"]);
        command.args(["--pidfile", "/run/docker.pid", "--host", &format!("unix://{ENGINE_SOCKET}")]);
        command.args([
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--cgroup-parent",
            containers.below_root(),
        ]);
        command.args(["--iptables=false", "--ip-masq=false", "--userland-proxy=false"]);
        command.args(["--bip", &format!("172.30.{}.1/24", self.plan.port)]);
        Ok(command)
    }
}

impl Radiator {
    pub(super) fn new(plan: Plan, switch: Arc<Switch>) -> Result<Self, LabError> {
        for folder in ["data", "docker", "logs"] {
            let path = plan.dir.join(folder);
            fs::create_dir_all(&path).map_err(at("make", &path))?;
        }
        if let Some(seed) = &plan.seed {
            seed.plant(&plan.dir.join("docker"))?;
        }
        let engine = plan.engine;
        let parts = Arc::new(Parts { plan, switch, machine: Mutex::new(None) });
        let radiator = Self { parts, units: Mutex::default(), enabled: Mutex::default() };
        radiator.machine_on()?;
        if engine {
            let parts = radiator.parts.clone();
            let unit = Unit::start(ENGINE, Box::new(move || parts.engine()));
            locked(&radiator.units).insert(ENGINE.to_owned(), unit);
        }
        Ok(radiator)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.parts.plan.name
    }

    /// Its address on the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        address(self.parts.plan.port)
    }

    /// Its port on the switch.
    pub fn port(&self) -> Port {
        self.parts.plan.port
    }

    /// Whether it has an engine.
    pub fn has_engine(&self) -> bool {
        self.parts.plan.engine
    }

    /// Its folder on this computer, with `data`, `docker` and `logs`.
    pub fn dir(&self) -> &Path {
        &self.parts.plan.dir
    }

    /// Whether it has power.
    pub fn has_power(&self) -> bool {
        locked(&self.parts.machine).is_some()
    }

    /// A command on it, in the environment of its units.
    pub fn command(&self, program: &str) -> Result<Command, LabError> {
        self.parts.command(program)
    }

    /// Runs a program on it to its end and returns what it printed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        output(self.command(program)?.args(args))
    }

    /// The `thermidor` CLI on it, for at most `limit_s` seconds.
    pub fn thermidor_command(&self, args: &[&str], limit_s: u64) -> Result<Command, LabError> {
        let mut command = self.command("timeout")?;
        command.args(["--kill-after=5", &limit_s.to_string()]).arg(&self.parts.plan.binary).args(args);
        Ok(command)
    }

    /// Runs the `thermidor` CLI on it to its end, for at most `limit_s` seconds, whatever its exit.
    pub fn thermidor(&self, args: &[&str], limit_s: u64) -> Result<Output, LabError> {
        finish(&mut self.thermidor_command(args, limit_s)?)
    }

    /// A command line with which a person comes to be on it, `thermidor` in the path.
    pub fn enter_line(&self) -> Result<String, LabError> {
        let pid = self.parts.with_machine(|machine| Ok(machine.pid()))?;
        let bin = self.parts.plan.binary.parent().unwrap_or(Path::new("/")).display();
        let data = self.parts.inside().join("data");
        Ok(format!(
            "nsenter -t {pid} -m -n env PATH={bin}:$PATH THERMIDOR_DATA={} THERMIDOR_RUN=/run/thermidor \
             DOCKER_HOST=unix://{ENGINE_SOCKET} bash",
            data.display()
        ))
    }

    /// Starts a unit that runs `thermidor` with these arguments, named after the first.
    pub fn spawn(&self, args: &[&str]) -> Result<(), LabError> {
        let name = args.first().copied().unwrap_or("thermidor").to_owned();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let recipe = {
            let (parts, name) = (self.parts.clone(), name.clone());
            move || {
                let binary = parts.plan.binary.to_string_lossy().into_owned();
                let mut command = parts.logged(&name, &binary)?;
                command.args(&args);
                Ok(command)
            }
        };
        let unit = Unit::start(&name, Box::new(recipe));
        // A unit of that name that was there before ends here.
        locked(&self.units).insert(name, unit);
        Ok(())
    }

    /// Does something with a unit of that name.
    pub fn unit<T>(&self, name: &str, act: impl FnOnce(&Unit) -> T) -> Result<T, LabError> {
        let units = locked(&self.units);
        let unit = units.get(name);
        unit.map(act).ok_or_else(|| LabError::Unknown { what: "unit", name: name.to_owned() })
    }

    /// Ends a unit for good (SIGTERM, then SIGKILL).
    pub fn remove_unit(&self, name: &str) -> Result<(), LabError> {
        let unit = locked(&self.units).remove(name);
        unit.map_or(Ok(()), |unit| unit.down())
    }

    /// Waits until the engine answers.
    pub fn engine_ready(&self) -> Result<(), LabError> {
        until(ENGINE_START, &format!("{}'s engine", self.name()), || Ok(self.ping().then_some(())))
    }

    /// The engine's socket, as this computer sees it while the radiator has power.
    pub fn engine_socket(&self) -> Result<PathBuf, LabError> {
        self.parts.with_machine(|m| Ok(PathBuf::from(format!("/proc/{}/root{ENGINE_SOCKET}", m.pid()))))
    }

    fn ping(&self) -> bool {
        let asked = self.engine_socket().ok().and_then(|path| UnixStream::connect(path).ok());
        let Some(mut stream) = asked else { return false };
        let mut answer = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("200 OK")
    }

    /// Numbers of the processes on it whose program is `thermidor` and whose first argument is
    /// `verb`, e.g. `volume-process`; whoever started them.
    pub fn pids_of(&self, verb: &str) -> Vec<u32> {
        let binary = self.parts.plan.binary.file_name();
        self.pids_where(|words| {
            words.first().is_some_and(|program| Path::new(program).file_name() == binary)
                && words.get(1).is_some_and(|word| word == verb)
        })
    }

    /// Numbers of the processes on it whose command line is as asked, containers included.
    pub fn pids_where(&self, is_it: impl Fn(&[String]) -> bool) -> Vec<u32> {
        let words = |pid: &u32| -> Vec<String> {
            // A process that ended meanwhile has no words.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
        };
        self.parts.plan.group.pids().into_iter().filter(|pid| is_it(&words(pid))).collect()
    }

    /// Kills (-9) everything on it and takes its link down: what a pulled plug does.
    pub fn power_off(&self) -> Result<(), LabError> {
        let Some(machine) = locked(&self.parts.machine).take() else { return Ok(()) };
        let unplugged = self.parts.switch.unplug(self.port());
        let ended = machine.end();
        let units = locked(&self.units);
        let wanted: Vec<String> =
            units.iter().filter(|(_, u)| u.is_wanted()).map(|(n, _)| n.clone()).collect();
        units.values().for_each(Unit::down9);
        *locked(&self.enabled) = wanted;
        unplugged.and(ended)
    }

    /// Gives it power: the units that ran before start again, all at once.
    pub fn power_on(&self) -> Result<(), LabError> {
        if self.has_power() {
            return Ok(());
        }
        self.machine_on()?;
        let units = locked(&self.units);
        for name in locked(&self.enabled).drain(..) {
            if let Some(unit) = units.get(&name) {
                unit.up();
            }
        }
        Ok(())
    }

    /// Stops everything on it where it stands, containers too; the link stays up.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.parts.plan.group.freeze()
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), LabError> {
        self.parts.plan.group.thaw()
    }

    fn machine_on(&self) -> Result<(), LabError> {
        let plan = &self.parts.plan;
        let machine = Machine::start(plan.group.clone(), Own::NetworkAndMounts)?;
        let (outside, inside) = (plan.dir.display(), self.parts.inside());
        let inside = inside.display();
        machine.script(&format!(
            "mount -t tmpfs -o mode=755 tmpfs /run\n\
             mkdir -p {inside}/data {inside}/docker /run/thermidor /run/lock\n\
             mount --bind {outside}/data {inside}/data\n\
             mount --bind {outside}/docker {inside}/docker\n\
             echo '{{}}' >{inside}/daemon.json"
        ))?;
        self.parts.switch.plug(plan.port, &machine)?;
        *locked(&self.parts.machine) = Some(machine);
        Ok(())
    }
}
