//! A small home for the tests: volume processes on loopback addresses, a Raft that is one state in
//! this process, lease pages, and certificates.

#![allow(dead_code, reason = "each test file uses its part")]
#[path = "keys.rs"]
mod keys;
#[path = "letters.rs"]
pub mod letters;

use keys::{issue, link, refusal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thermidor_model::command::Proposal;
use thermidor_model::observe::ReplicaState;
use thermidor_model::replication::scrub::Pace;
use thermidor_model::spec::OnDegraded;
use thermidor_model::state::{Member, Role, Volume};
use thermidor_model::{Command, NodeId, Outcome, RadiatorName, ReplicaId, ServiceName, State, VolumeName};
use thermidor_services::lease_page::{Held, LeasePage, boottime_ns};
use thermidor_services::volume::control::{Configuration, ControlError, Status, VolumeControl};
use thermidor_services::volume::device::{Places, loops_of};
use thermidor_services::volume::process::{VolumeOptions, prepare, run};
use thermidor_services::volume::{Unknown, group, mounts};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

const ROLE: &str = "THERMIDOR_VOLUME_TEST";
const PORT: u16 = 47_113;
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn volume() -> VolumeName {
    VolumeName::new("mail").unwrap()
}

/// Says why a test can't run here.
pub fn skip(test: &str) -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "it needs root"
    } else if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse"
    } else if !Path::new("/dev/loop-control").exists() {
        "there are no loop devices"
    } else {
        return false;
    };
    eprintln!("SKIPPED {test}: {why}");
    true
}

/// What a process under test is told.
#[derive(Serialize, Deserialize)]
struct Orders {
    node: NodeId,
    root: PathBuf,
    listen: IpAddr,
    replica_timeout_ms: u64,
    /// Between two passes of the search for bit rot, and between two extents; `None`: as usual.
    pace_ms: Option<(u64, u64)>,
    trim_every_ms: u64,
}

/// What a re-executed test binary does instead of testing.
pub fn be_a_process() {
    let Ok(orders) = std::env::var(ROLE) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    for refused in prepare(&volume()) {
        eprintln!("refused: {refused}");
    }
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or("thermidor_services=info".into()))
        .with_writer(std::io::stderr)
        .init();
    let Orders { node, root, listen, replica_timeout_ms, pace_ms, trim_every_ms } = orders;
    let pace = pace_ms.map_or_else(Pace::default, |(pass_every_ms, extent_every_ms)| Pace {
        pass_every_ms,
        extent_every_ms,
        quiet_ms: extent_every_ms,
        patience_ms: 4 * extent_every_ms,
        ..Pace::default()
    });
    let raft = root.join("raft.sock");
    let options = VolumeOptions {
        name: volume(),
        dir: root.join(node.to_string()).join("volumes/mail"),
        run_dir: root.join(node.to_string()),
        node,
        link: link(&root, node),
        listen,
        propose: Arc::new(move |command| {
            let raft = raft.clone();
            Box::pin(async move { propose(&raft, &command).await.map_err(|_| Unknown) })
        }),
        lease_page: root.join(node.to_string()).join("leases"),
        watchdog: again("be_a_watchdog").into_iter().map(OsString::from).collect(),
        replica_timeout: Duration::from_millis(replica_timeout_ms),
        pace,
        trim_every: Duration::from_millis(trim_every_ms),
    };
    std::fs::create_dir_all(&options.dir).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(run(options)).unwrap();
    std::process::exit(0);
}

/// The same for the watchdog.
pub fn be_a_watchdog() {
    use thermidor_services::volume::watchdog;
    if std::env::var(ROLE).is_err() {
        return;
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let watch = watchdog::Watch::from_arguments(&arguments[arguments.len() - 6..]).unwrap();
    let ended = watchdog::run(&watch, std::io::stdin()).unwrap();
    eprintln!("the watchdog ended: {ended:?}");
    std::process::exit(0);
}

fn again(entry: &str) -> Vec<String> {
    let exe = std::env::current_exe().unwrap();
    [exe.to_str().unwrap(), "--exact", entry, "--nocapture", "--test-threads=1"].map(String::from).to_vec()
}

async fn propose(raft: &Path, command: &Command) -> std::io::Result<Outcome> {
    let mut stream = BufReader::new(UnixStream::connect(raft).await?);
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

/// A Raft of one state that never disagrees with itself.
struct Raft {
    state: Mutex<State>,
}

impl Raft {
    fn volume(&self) -> Volume {
        self.state.lock().unwrap().volumes[&volume()].clone()
    }

    fn apply(&self, command: Command) -> Outcome {
        self.state.lock().unwrap().apply(&Proposal { at_ms: 0, command })
    }

    async fn serve(self: Arc<Self>, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let raft = self.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                if stream.read_line(&mut line).await.is_ok()
                    && let Ok(command) = serde_json::from_str::<Command>(&line)
                {
                    let mut answer = serde_json::to_vec(&raft.apply(command)).unwrap();
                    answer.push(b'\n');
                    drop(stream.write_all(&answer).await);
                }
            });
        }
    }
}

pub struct Radiator {
    pub node: NodeId,
    pub ip: IpAddr,
    pub places: Places,
    pub control: VolumeControl,
    page: LeasePage,
    child: Option<Child>,
}

pub struct Home {
    pub root: tempfile::TempDir,
    /// File systems mounted for this test.
    pub disks: Vec<PathBuf>,
    raft: Arc<Raft>,
    pub radiators: BTreeMap<NodeId, Radiator>,
    runtime: tokio::runtime::Runtime,
    replica_timeout_ms: u64,
    pace_ms: Option<(u64, u64)>,
    /// Where others reach a radiator, if not at its own address.
    pub reached_by: BTreeMap<NodeId, IpAddr>,
    /// For processes started from now on.
    pub trim_every_ms: u64,
    /// Tools that are found before the system's, by processes started from now on.
    pub tools: Option<PathBuf>,
}

impl Home {
    /// `subnet` keeps the tests apart: 127.0.subnet.node.
    pub fn new(subnet: u8, replicas: u64, size_bytes: u64) -> Self {
        Self::on_disks(subnet, replicas, size_bytes, &[])
    }

    /// The same, where these radiators have a disk of so many MiB only.
    pub fn on_disks(subnet: u8, replicas: u64, size_bytes: u64, small: &[(NodeId, u64)]) -> Self {
        Self::at_pace(subnet, replicas, size_bytes, small, None)
    }

    /// The same, where bit rot is searched for so often.
    pub fn at_pace(
        subnet: u8,
        replicas: u64,
        size_bytes: u64,
        small: &[(NodeId, u64)],
        pace_ms: Option<(u64, u64)>,
    ) -> Self {
        Self::made(subnet, replicas, size_bytes, pace_ms, |node, _, disk| {
            let Some((_, mib)) = small.iter().find(|(n, _)| *n == node) else { return false };
            let size = format!("size={mib}m");
            let done = Process::new("mount").args(["-t", "tmpfs", "-o", &size, "thv"]).arg(disk).status();
            assert!(done.unwrap().success());
            true
        })
    }

    /// `mount` mounts a radiator's disk, or says no; it is given the test's folder too.
    pub fn over(
        subnet: u8,
        replicas: u64,
        size_bytes: u64,
        mount: impl Fn(NodeId, &Path, &Path) -> bool,
    ) -> Self {
        Self::made(subnet, replicas, size_bytes, None, mount)
    }

    fn made(
        subnet: u8,
        replicas: u64,
        size_bytes: u64,
        pace_ms: Option<(u64, u64)>,
        mount: impl Fn(NodeId, &Path, &Path) -> bool,
    ) -> Self {
        let root = tempfile::Builder::new().prefix("thv").tempdir().unwrap();
        let nodes: Vec<NodeId> = (1..=replicas).collect();
        issue(root.path(), &nodes);
        let mut state = State::default();
        let service = ServiceName::new("mail").unwrap();
        let record = Volume {
            service,
            driver: Default::default(),
            size_bytes,
            replicas_wanted: replicas as u32,
            durability: 1,
            on_degraded: OnDegraded::Continue,
            port: PORT,
            epoch: 0,
            active: None,
            replicas: BTreeMap::new(),
            in_sync: Default::default(),
            set_version: 0,
        };
        state.volumes.insert(volume(), record);
        let mut radiators = BTreeMap::new();
        for node in nodes {
            let ip = IpAddr::V4(Ipv4Addr::new(127, 0, subnet, node as u8));
            let name = RadiatorName::new(format!("r{node}")).unwrap();
            let address = (ip, 1).into();
            state.members.insert(node, Member { name, address, role: Role::Radiator, off: None });
            let dir = root.path().join(node.to_string());
            std::fs::create_dir_all(dir.join("volumes")).unwrap();
            let page = LeasePage::create(&dir.join("leases")).unwrap();
            let places = Places { dir: dir.join("volumes/mail") };
            let control = VolumeControl::new(&dir, volume());
            radiators.insert(node, Radiator { node, ip, places, control, page, child: None });
        }
        let raft = Arc::new(Raft { state: Mutex::new(state) });
        for node in radiators.keys().copied() {
            let set_was = raft.volume().set_version;
            let id = ReplicaId(u64::from(subnet) * 1000 + node);
            let added = raft.apply(Command::AddReplica { volume: volume(), set_was, node, id });
            assert!(matches!(added, Outcome::Set(_)), "{added:?}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(root.path().join("raft.sock")).unwrap()
        };
        runtime.spawn(raft.clone().serve(listener));
        let mut home = Self {
            root,
            raft,
            radiators,
            runtime,
            replica_timeout_ms: 500,
            disks: vec![],
            pace_ms,
            reached_by: BTreeMap::new(),
            trim_every_ms: 86_400_000,
            tools: None,
        };
        for node in home.nodes() {
            let disk = home.root.path().join(node.to_string()).join("volumes");
            if mount(node, home.root.path(), &disk) {
                home.disks.push(disk);
            }
        }
        for node in home.nodes() {
            home.start(node);
        }
        home
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.radiators.keys().copied().collect()
    }

    pub fn record(&self) -> Volume {
        self.raft.volume()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Starts a radiator's volume process and configures it.
    pub fn start(&mut self, node: NodeId) {
        self.launch(node);
        self.configure(node).unwrap();
    }

    /// Starts a radiator's volume process.
    pub fn launch(&mut self, node: NodeId) {
        let log = self.root.path().join(format!("{node}.log"));
        let command = VolumeControl::command(&self.command(node), &log);
        let radiator = self.radiators.get_mut(&node).unwrap();
        let child = command.unwrap().spawn().unwrap();
        radiator.child = Some(child);
        let control = radiator.control.clone();
        self.until("the process answers", || self.wait(control.is_running()));
    }

    /// How a radiator's volume process is started.
    pub fn command(&self, node: NodeId) -> Vec<OsString> {
        let orders = Orders {
            node,
            root: self.root.path().to_path_buf(),
            listen: self.radiators[&node].ip,
            replica_timeout_ms: self.replica_timeout_ms,
            pace_ms: self.pace_ms,
            trim_every_ms: self.trim_every_ms,
        };
        let role = format!("{ROLE}={}", serde_json::to_string(&orders).unwrap());
        let path = std::env::var("PATH").unwrap();
        let path = self.tools.as_ref().map(|tools| format!("PATH={}:{path}", tools.display()));
        ["env".to_string(), role]
            .into_iter()
            .chain(path)
            .chain(again("be_a_process"))
            .map(OsString::from)
            .collect()
    }

    /// Brings a process the record, as the daemon does.
    pub fn configure(&self, node: NodeId) -> Result<(), ControlError> {
        let record = self.record();
        let create = record.epoch == 0 || !record.in_sync.contains(&node);
        let reached = |r: &Radiator| self.reached_by.get(&r.node).copied().unwrap_or(r.ip);
        let members = self.radiators.values().map(|r| (r.node, reached(r))).collect();
        let configuration = Configuration { record, members, create };
        self.wait(async {
            let control = &self.radiators[&node].control;
            let within = Duration::from_secs(3);
            match tokio::time::timeout(within, control.configure(configuration)).await {
                Ok(done) => done,
                // It was stopped: the daemon would try again.
                Err(_) => Err(ControlError::Silent(volume())),
            }
        })
    }

    pub fn configure_all(&self) {
        for (node, radiator) in &self.radiators {
            if radiator.child.is_some() {
                // A process that was killed or stopped is configured when it is back.
                drop(self.configure(*node));
            }
        }
    }

    /// Raises the epoch, grants the lease and attaches.
    pub fn attach(&self, node: NodeId) -> Result<PathBuf, ControlError> {
        let (attaching, _) = self.begin_to_attach(node)?;
        self.wait(attaching).unwrap()
    }

    /// The same, without waiting until it is attached; in which epoch.
    pub fn begin_to_attach(
        &self,
        node: NodeId,
    ) -> Result<(JoinHandle<Result<PathBuf, ControlError>>, u64), ControlError> {
        let epoch = {
            let mut state = self.raft.state.lock().unwrap();
            let record = state.volumes.get_mut(&volume()).unwrap();
            assert!(record.in_sync.contains(&node), "{node} is not in sync: {record:?}");
            record.epoch += 1;
            record.active = Some(node);
            record.epoch
        };
        for other in self.radiators.values().filter(|r| r.node != node) {
            other.page.set("mail", Held { epoch: 0, until_ns: 0 }).unwrap();
        }
        self.grant(node, epoch);
        self.configure_all();
        self.configure(node)?;
        let control = self.radiators[&node].control.clone();
        let attaching = self.runtime.spawn(async move { control.attach(epoch, epoch).await });
        Ok((attaching, epoch))
    }

    /// The home takes a replica out of the in-sync set.
    pub fn drop_from_set(&self, node: NodeId) -> Outcome {
        let (record, volume) = (self.record(), volume());
        self.raft.apply(Command::DropFromSet {
            volume,
            epoch: record.epoch,
            set_was: record.set_version,
            node,
        })
    }

    pub fn grant(&self, node: NodeId, epoch: u64) {
        self.radiators[&node].page.set("mail", Held { epoch, until_ns: u64::MAX }).unwrap();
    }

    /// Ends a lease so many milliseconds from now.
    pub fn end_lease(&self, node: NodeId, in_ms: u64) {
        let epoch = self.record().epoch;
        let until_ns = boottime_ns() + in_ms * 1_000_000;
        self.radiators[&node].page.set("mail", Held { epoch, until_ns }).unwrap();
    }

    /// The home wants the volume to be so long.
    pub fn grow(&self, size_bytes: u64) {
        self.raft.state.lock().unwrap().volumes.get_mut(&volume()).unwrap().size_bytes = size_bytes;
        self.configure_all();
    }

    /// A planned detachment, after which nobody is active.
    pub fn detach(&self, node: NodeId) -> Result<(), ControlError> {
        let done = self.wait(self.radiators[&node].control.detach(false));
        if done.is_ok() {
            self.raft.state.lock().unwrap().volumes.get_mut(&volume()).unwrap().active = None;
        }
        done
    }

    pub fn status(&self, node: NodeId) -> Status {
        self.wait(self.radiators[&node].control.status()).unwrap()
    }

    pub fn failed_words(&self, node: NodeId) -> String {
        match self.status(node).state {
            ReplicaState::Failed(words) => words,
            other => panic!("radiator {node} has not failed: {other:?}"),
        }
    }

    pub fn pid(&self, node: NodeId) -> rustix::process::Pid {
        let child = self.radiators[&node].child.as_ref().unwrap();
        rustix::process::Pid::from_raw(child.id() as i32).unwrap()
    }

    pub fn signal(&self, node: NodeId, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(node), signal).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self, node: NodeId) {
        let mut child = self.radiators.get_mut(&node).unwrap().child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn quit(&mut self, node: NodeId) {
        self.wait(self.radiators[&node].control.quit()).unwrap();
        let status = self.radiators.get_mut(&node).unwrap().child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Waits, bounded, for something to come true; pushes the record meanwhile, as the daemon does.
    pub fn until(&self, what: &str, mut true_now: impl FnMut() -> bool) {
        let since = Instant::now();
        while !true_now() {
            assert!(since.elapsed() < PATIENCE, "never came true: {what}\n{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets `node` refuse what comes from `from`, also over a connection that is open, or no more.
    pub fn refuse(&self, node: NodeId, from: NodeId, refused: bool) {
        let file = refusal(self.root.path(), node, from);
        let done = if refused { std::fs::write(file, "") } else { std::fs::remove_file(file) };
        done.unwrap();
    }

    pub fn until_in_sync(&self, members: &[NodeId]) {
        let wanted = members.iter().copied().collect();
        self.until(&format!("{members:?} are in sync"), || {
            self.configure_all();
            self.record().in_sync == wanted
        });
        // Told of it too.
        self.configure_all();
    }

    /// The device's bytes in a radiator's image.
    pub fn device(&self, node: NodeId) -> Vec<u8> {
        let bytes = std::fs::read(self.radiators[&node].places.image()).unwrap();
        bytes[1 << 20..].to_vec()
    }

    /// The file system in an image has no error.
    pub fn is_clean(&self, node: NodeId) {
        let file = self.root.path().join(format!("{node}.check"));
        std::fs::write(&file, self.device(node)).unwrap();
        let done = Process::new("e2fsck").arg("-fn").arg(&file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(done.status.success(), "radiator {node}: {}", String::from_utf8_lossy(&done.stdout));
    }

    /// Nothing of a radiator's device is left in the kernel.
    pub fn is_gone(&self, node: NodeId) {
        let places = &self.radiators[&node].places;
        assert_eq!(loops_of(&places.exported()).unwrap(), Vec::<PathBuf>::new());
        let left: Vec<_> = mounts::all()
            .unwrap()
            .into_iter()
            .filter(|m| m.point == places.fuse() || m.point == places.mount())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The processes' last words.
    pub fn words(&self) -> String {
        let root = self.root.path();
        let log = |node: &NodeId| {
            let text = std::fs::read_to_string(root.join(format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- radiator {node}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        format!("{:?}\n{}", self.record(), self.radiators.keys().map(log).collect::<String>())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.words());
        }
        for radiator in self.radiators.values() {
            if radiator.child.is_none() {
                // Started by another than this test; mostly there is none.
                drop(self.wait(radiator.control.quit()));
            }
        }
        for radiator in self.radiators.values_mut() {
            if let Some(mut child) = radiator.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
            let cleaned = radiator.places.unprotect();
            if let Err(e) = cleaned {
                eprintln!("radiator {} left something: {e:?}", radiator.node);
            }
        }
        if let Err(e) = group::sweep() {
            eprintln!("control groups are left: {e}");
        }
        for disk in self.disks.drain(..) {
            if let Err(e) = mounts::take_off(&disk, true) {
                eprintln!("{} stays mounted: {e}", disk.display());
            }
        }
    }
}
