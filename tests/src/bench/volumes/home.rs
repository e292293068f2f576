//! Our side: three volume processes on loopback with mutual TLS, their lease pages, and what stands in
//! for the rest of a home: a Raft that is one state in this process.

use super::raft::{Raft, propose};
use super::tls;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::replication::scrub::Pace;
use thermidor_model::spec::OnDegraded;
use thermidor_model::state::{Member, Role, Volume};
use thermidor_model::{Command, NodeId, Outcome, RadiatorName, ReplicaId, ServiceName, State, VolumeName};
use thermidor_services::lease_page::{Held, LeasePage};
use thermidor_services::volume::control::{Configuration, VolumeControl};
use thermidor_services::volume::device::Places;
use thermidor_services::volume::process::{VolumeOptions, prepare, run};
use thermidor_services::volume::{Unknown, watchdog};
use thermidor_supervisor::priority;
use tokio::net::UnixListener;

/// The members.
pub const NODES: [NodeId; 3] = [1, 2, 3];
const PORT: u16 = 47_113;
/// As a home has it by default, ms.
const REPLICA_TIMEOUT_MS: u64 = 500;
/// How long anything but what is measured may take.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: &str = "mail";

/// The verb by which this program is a volume process.
pub const REPLICA: &str = "volumes-replica";
/// The verb by which it is one's watchdog.
pub const WATCHDOG: &str = "volumes-watchdog";

fn volume() -> Result<VolumeName> {
    VolumeName::new("mail").map_err(|e| anyhow::anyhow!("{e}"))
}

/// A radiator's places. They lie where a radiator of the lab has its volumes, so that the lab's end frees them.
fn places(root: &Path, node: NodeId) -> Places {
    Places { dir: root.join(format!("volumes/mail-{node}")) }
}

/// What a volume process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    node: NodeId,
    root: PathBuf,
    listen: IpAddr,
}

/// What this program does as a volume process, as `thermidor volume` would. To be called before any thread.
pub fn be_a_replica(orders: &str) -> Result<()> {
    for refused in prepare(&volume()?) {
        eprintln!("refused: {refused}");
    }
    priority::raise(priority::OTHERS);
    let Orders { node, root, listen } = serde_json::from_str(orders).context("orders")?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let (dir, raft) = (root.join(node.to_string()), root.join("raft.sock"));
    let options = VolumeOptions {
        name: volume()?,
        dir: places(&root, node).dir,
        link: tls::link(&root, node, &NODES)?,
        lease_page: dir.join("leases"),
        run_dir: dir,
        node,
        listen,
        propose: Arc::new(move |command| {
            let raft = raft.clone();
            Box::pin(async move { propose(&raft, &command).await.map_err(|_| Unknown) })
        }),
        watchdog: vec![std::env::current_exe()?.into(), WATCHDOG.into()],
        replica_timeout: Duration::from_millis(REPLICA_TIMEOUT_MS),
        pace: Pace::default(),
        trim_every: Duration::from_secs(24 * 3600),
    };
    std::fs::create_dir_all(&options.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(run(options))?)
}

/// What this program does as a volume process's watchdog.
pub fn be_a_watchdog(arguments: &[OsString]) -> Result<()> {
    let watch = watchdog::Watch::from_arguments(arguments).context("only volume processes start this")?;
    watchdog::run(&watch, std::io::stdin())?;
    Ok(())
}

struct Radiator {
    ip: IpAddr,
    places: Places,
    control: VolumeControl,
    page: LeasePage,
    child: Option<Child>,
}

/// The three of them.
pub struct Home {
    root: PathBuf,
    raft: Arc<Raft>,
    radiators: BTreeMap<NodeId, Radiator>,
    runtime: tokio::runtime::Runtime,
}

impl Home {
    /// Starts them below that folder, with a volume of that size that nobody has attached.
    pub fn start(root: &Path, size_bytes: u64) -> Result<Self> {
        tls::issue(root, &NODES)?;
        let mut state = State::default();
        let service = ServiceName::new(SERVICE).map_err(|e| anyhow::anyhow!("{e}"))?;
        let record = Volume {
            service,
            driver: Default::default(),
            size_bytes,
            replicas_wanted: NODES.len() as u32,
            durability: 2,
            on_degraded: OnDegraded::Continue,
            port: PORT,
            epoch: 0,
            active: None,
            replicas: BTreeMap::new(),
            in_sync: BTreeSet::new(),
            set_version: 0,
        };
        state.volumes.insert(volume()?, record);
        let mut radiators = BTreeMap::new();
        for node in NODES {
            let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 77, node as u8));
            let name = RadiatorName::new(format!("r{node}")).map_err(|e| anyhow::anyhow!("{e}"))?;
            state
                .members
                .insert(node, Member { name, address: (ip, 1).into(), role: Role::Radiator, off: None });
            let dir = root.join(node.to_string());
            for dir in [&dir, &root.join("volumes")] {
                std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            }
            let page = LeasePage::create(&dir.join("leases")).context("make a lease page")?;
            let places = places(root, node);
            let control = VolumeControl::new(&dir, volume()?);
            radiators.insert(node, Radiator { ip, places, control, page, child: None });
        }
        let raft = Arc::new(Raft::new(state));
        for node in NODES {
            let set_was = raft.volume(&volume()?)?.set_version;
            let id = ReplicaId(77_000 + node);
            let added = raft.apply(Command::AddReplica { volume: volume()?, set_was, node, id });
            ensure!(matches!(added, Outcome::Set(_)), "a replica was refused: {added:?}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(root.join("raft.sock")).context("listen for proposals")?
        };
        runtime.spawn(raft.clone().serve(listener));
        let mut home = Self { root: root.to_owned(), raft, radiators, runtime };
        for node in NODES {
            home.launch(node)?;
        }
        Ok(home)
    }

    fn radiator(&self, node: NodeId) -> Result<&Radiator> {
        self.radiators.get(&node).with_context(|| format!("no radiator {node}"))
    }

    /// Starts a radiator's process and tells it the record.
    pub fn launch(&mut self, node: NodeId) -> Result<()> {
        let orders = Orders { node, root: self.root.clone(), listen: self.radiator(node)?.ip };
        let command: [OsString; 3] =
            [std::env::current_exe()?.into(), REPLICA.into(), serde_json::to_string(&orders)?.into()];
        let log = self.root.join(format!("{node}.log"));
        let child = VolumeControl::command(&command, &log)?.spawn().context("start a volume process")?;
        let radiator = self.radiators.get_mut(&node).with_context(|| format!("no radiator {node}"))?;
        radiator.child = Some(child);
        let control = radiator.control.clone();
        self.until("a volume process to answer", || Ok(self.runtime.block_on(control.is_running())))?;
        self.configure(node)
    }

    fn record(&self) -> Result<Volume> {
        self.raft.volume(&volume()?)
    }

    fn configure(&self, node: NodeId) -> Result<()> {
        let record = self.record()?;
        let create = record.epoch == 0 || !record.in_sync.contains(&node);
        let members = self.radiators.iter().map(|(n, r)| (*n, r.ip)).collect();
        let configuration = Configuration { record, members, create };
        let control = &self.radiator(node)?.control;
        Ok(self.runtime.block_on(control.configure(configuration))?)
    }

    fn configure_all(&self) -> Result<()> {
        let mut run = self.radiators.iter().filter(|(_, radiator)| radiator.child.is_some());
        run.try_for_each(|(node, _)| self.configure(*node))
    }

    /// Makes that radiator the active in a new epoch, after one that is lost or after nobody, and returns where the
    /// volume is mounted.
    pub fn promote(&self, node: NodeId, lost: Option<NodeId>) -> Result<PathBuf> {
        let epoch = self.raft.promote(&volume()?, node, lost)?;
        for (other, radiator) in &self.radiators {
            let (epoch, until_ns) = if *other == node { (epoch, u64::MAX) } else { (0, 0) };
            radiator.page.set(SERVICE, Held { epoch, until_ns })?;
        }
        self.configure_all()?;
        Ok(self.runtime.block_on(self.radiator(node)?.control.attach(epoch, epoch))?)
    }

    /// kill -9 of a radiator's process.
    pub fn kill9(&mut self, node: NodeId) -> Result<()> {
        let child = self.radiators.get_mut(&node).and_then(|radiator| radiator.child.take());
        let mut child = child.context("it does not run")?;
        child.kill().context("kill a volume process")?;
        child.wait().context("wait for a killed volume process")?;
        Ok(())
    }

    /// Waits until all three are in sync.
    pub fn until_in_sync(&self) -> Result<()> {
        self.until("all three to be in sync", || {
            self.configure_all()?;
            Ok(self.record()?.in_sync.len() == NODES.len())
        })
    }

    /// The images, one of each radiator.
    pub fn images(&self) -> Vec<PathBuf> {
        self.radiators.values().map(|radiator| radiator.places.image()).collect()
    }

    /// The numbers of the processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.radiators.values().filter_map(|radiator| radiator.child.as_ref()).map(Child::id).collect()
    }

    /// An error where a process has ended by itself.
    pub fn all_run(&mut self) -> Result<()> {
        for (node, radiator) in &mut self.radiators {
            let ended = radiator.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("the volume process of radiator {node} ended by itself: {status}");
            }
        }
        Ok(())
    }

    fn until(&self, what: &str, mut now: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !now()? {
            ensure!(began.elapsed() < PATIENCE, "after {} s still waiting for {what}", PATIENCE.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for radiator in self.radiators.values_mut() {
            if let Some(mut child) = radiator.child.take() {
                // Ended already, or now; either way it is reaped.
                child.kill().ok();
                child.wait().ok();
            }
            if let Err(e) = radiator.places.unprotect() {
                eprintln!("something of {} is left to the lab's end: {e}", radiator.places.dir.display());
            }
        }
    }
}
