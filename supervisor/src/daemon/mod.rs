//! The daemon: decides, reconciles, stores. This file is its story; each chapter is a module.

mod backups;
mod checks;
mod climate;
mod containers;
mod found;
mod friends;
mod generations;
mod guard_link;
mod health;
mod kit;
mod kit_change;
mod kit_split;
mod leader;
mod log_lines;
mod mail_files;
mod notifier;
mod orders;
mod plans;
mod prober;
mod radiator;
mod removals;
mod report;
mod restores;
mod routes;
mod serve;
mod snapshots;
mod space;
mod stolen;
mod trim;
mod vault_files;
mod vault_probe;
mod volumes;
pub mod way;
mod worker;

use crate::paths::Paths;
use anyhow::Context as _;
use bytes::Bytes;
use found::Shared;
use futures::FutureExt;
use guard_link::Guard;
use leader::Leader;
use plans::Workshop;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thermidor_model::observe::Report;
use thermidor_model::state::Role;
use thermidor_raft::{Identity, Node, StartOptions};
use thermidor_services::docker::{Engine, EngineConfig};
use thermidor_services::lease_page::LeasePage;
use tokio::time::Instant;
use tracing::{info, warn};
use volumes::Volumes;

/// How a daemon runs.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Its folders.
    pub paths: Paths,
    /// The home's listener.
    pub listen: SocketAddr,
    /// The container engine's socket.
    pub engine_socket: PathBuf,
}

/// Everything that the daemon's tasks share.
#[derive(Clone)]
pub struct Context {
    /// This member of the home.
    pub node: Node,
    /// The leader's desk.
    pub leader: Leader,
    /// The container engine.
    pub engine: Engine,
    /// The volume processes.
    pub volumes: Volumes,
    /// The guard.
    pub guard: Guard,
    /// The guard's lease page.
    pub page: Arc<Page>,
    /// What is found here.
    pub shared: Shared,
    /// Folders.
    pub paths: Paths,
    /// Seals and opens secrets; a witness has none.
    pub keys: Arc<Keys>,
    /// What each container is to be.
    pub workshop: Arc<Workshop>,
    /// Backups under way, and those that were asked for.
    pub backups: backups::Desk,
    /// A friend has just refused this home: it is asked why.
    pub refused: Arc<tokio::sync::Notify>,
    /// What restores bring here at this moment.
    pub bringing: restores::Bringing,
}

/// The home's keys, as far as this member holds them.
pub struct Keys(Node);

/// Runs until it is told to end. Services go on without it.
pub async fn run(options: RunOptions) -> anyhow::Result<()> {
    options.paths.create().with_context(|| options.paths.data.display().to_string())?;
    let identity = Identity::load(&options.paths.data)?;
    let desk: Arc<OnceLock<Leader>> = Arc::default();
    let here: Arc<OnceLock<Context>> = Arc::default();
    let node = Node::start(StartOptions {
        data: options.paths.data.clone(),
        listen: options.listen,
        advertise: Some(options.listen),
        handlers: handlers(desk.clone(), here.clone()),
        snapshot_every: None,
    })
    .await?;
    let leader = desk.get_or_init(|| Leader::new(node.clone())).clone();
    info!(node = node.id(), address = %node.address(), "this radiator is up");

    let context = context(&options, &identity, node.clone(), leader.clone())?;
    let context = here.get_or_init(|| context).clone();
    let listener = serve::listen(&context).context("the command socket")?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(leader.run());
    tasks.spawn(serve::run(context.clone(), listener));
    tasks.spawn(notifier::run(context.clone()));
    if identity.own.role == Role::Radiator {
        let (guard, shared) = (context.guard.clone(), context.shared.clone());
        tasks.spawn(guard.run(node.id(), node.state(), node.leadership(), shared));
        tasks.spawn(context.volumes.clone().run());
        tasks.spawn(containers::run(context.clone()));
        tasks.spawn(routes::run(context.clone()));
        tasks.spawn(radiator::run(context.clone()));
        tasks.spawn(space::run(context.clone()));
        tasks.spawn(prober::run(context.clone()));
        tasks.spawn(removals::run(context.clone()));
        tasks.spawn(checks::run(context.clone()));
        tasks.spawn(restores::run(context.clone()));
        tasks.spawn(backups::run(context.clone()));
        tasks.spawn(friends::run(context.clone()));
        tasks.spawn(generations::run(context.clone()));
        tasks.spawn(kit_change::run(context.clone()));
        tasks.spawn(report::run(context.clone(), climate::Climate::new(&context)));
    }
    let ended = tokio::select! {
        _ = told_to_end() => Ok(()),
        why = must_end(&node) => Err(anyhow::anyhow!(why)),
        Some(task) = tasks.join_next() => Err(anyhow::anyhow!("a task of the daemon ended: {task:?}")),
    };
    tasks.shutdown().await;
    node.shutdown().await;
    ended
}

fn context(options: &RunOptions, identity: &Identity, node: Node, leader: Leader) -> anyhow::Result<Context> {
    let paths = options.paths.clone();
    let shared = Shared::default();
    let mut engine = EngineConfig::new(identity.own.home.to_string(), &paths.data);
    engine.socket = options.engine_socket.clone();
    Ok(Context {
        volumes: Volumes::new(node.id(), paths.clone(), shared.clone(), node.state()),
        engine: Engine::new(engine)?,
        guard: Guard::new(paths.run.clone()),
        page: Arc::new(Page::new(paths.lease_page())),
        keys: Arc::new(Keys(node.clone())),
        workshop: Arc::default(),
        backups: backups::Desk::default(),
        refused: Arc::default(),
        bringing: restores::Bringing::default(),
        node,
        leader,
        shared,
        paths,
    })
}

/// What this member answers the others, beside consensus.
fn handlers(
    desk: Arc<OnceLock<Leader>>,
    here: Arc<OnceLock<Context>>,
) -> BTreeMap<&'static str, thermidor_raft::Handler> {
    let early = || "this member has just started".to_string();
    let mut handlers: BTreeMap<&'static str, thermidor_raft::Handler> = BTreeMap::new();
    let at = desk.clone();
    let lease = move |from, body: Bytes| {
        let desk = at.get().cloned();
        async move {
            let request: thermidor_model::observe::LeaseRequest =
                serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            if request.node != from {
                return Err(format!("member {from} asks for member {}", request.node));
            }
            let grant = desk.ok_or_else(early)?.grant(request).await?;
            serde_json::to_vec(&grant).map(Bytes::from).map_err(|e| e.to_string())
        }
        .boxed()
    };
    handlers.insert("lease", Arc::new(lease));
    let at = desk.clone();
    let report = move |from, body: Bytes| {
        let desk = at.get().cloned();
        async move {
            let report: Report = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            if report.node != from {
                return Err(format!("member {from} reports for member {}", report.node));
            }
            desk.ok_or_else(early)?.report(report)?;
            Ok(Bytes::new())
        }
        .boxed()
    };
    handlers.insert("report", Arc::new(report));
    let at = desk.clone();
    let leave = move |_, body: Bytes| {
        let desk = at.get().cloned();
        async move {
            let node = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            desk.ok_or_else(early)?.leave(node).await.map(|()| Bytes::new())
        }
        .boxed()
    };
    handlers.insert("leave", Arc::new(leave));
    let view = move |_, _| {
        let desk = desk.get().cloned();
        async move {
            let view = desk.ok_or_else(early)?.view()?;
            serde_json::to_vec(&view).map(Bytes::from).map_err(|e| e.to_string())
        }
        .boxed()
    };
    handlers.insert("view", Arc::new(view));
    let at = here.clone();
    let backs_up = here.clone();
    let backup = move |_, body: Bytes| {
        let context = backs_up.get().cloned();
        async move { backups::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("backup", Arc::new(backup));
    let brings = here.clone();
    let restore = move |_, body: Bytes| {
        let context = brings.get().cloned();
        async move { restores::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("restore", Arc::new(restore));
    let lends = here.clone();
    let vault = move |_, body: Bytes| {
        let context = lends.get().cloned();
        async move { friends::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("vault", Arc::new(vault));
    let known = here.clone();
    let trim = move |_, body: Bytes| {
        let context = known.get().cloned();
        async move { trim::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("trim", Arc::new(trim));
    let known = here.clone();
    let snapshot = move |_, body: Bytes| {
        let context = known.get().cloned();
        async move { snapshots::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("snapshot", Arc::new(snapshot));
    let logs = move |_, body: Bytes| {
        let context = here.get().cloned();
        async move { log_lines::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("logs", Arc::new(logs));
    let check = move |_, body: Bytes| {
        let context = at.get().cloned();
        async move { checks::answer(context.ok_or_else(early)?, body).await }.boxed()
    };
    handlers.insert("check", Arc::new(check));
    handlers
}

/// SIGTERM or Ctrl-C.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    info!("told to end; the services go on");
}

/// Waits until this member may go on no longer: its consensus failed, it was taken out of the home, or
/// the home has moved to a higher generation.
async fn must_end(node: &Node) -> String {
    let mut leadership = node.leadership();
    let mut standing = node.standing();
    loop {
        if let Some(why) = leadership.borrow_and_update().failed.clone() {
            return format!("consensus ended here: {why}");
        }
        let now = *standing.borrow_and_update();
        if now.expelled || now.heard_generation > now.generation {
            warn!(?now, "this member belongs to its home no more");
            return "this member left the home, or the home was rescued without it: `thermidor join` again, with a new --data".into();
        }
        tokio::select! {
            _ = leadership.changed() => {}
            _ = standing.changed() => {}
        }
    }
}

/// A moment from now.
pub fn within(span: Duration) -> Instant {
    Instant::now() + span
}

/// The guard's lease page; a guard that is not there yet holds nothing.
pub struct Page {
    path: PathBuf,
    open: OnceLock<LeasePage>,
}

impl Page {
    fn new(path: PathBuf) -> Self {
        Self { path, open: OnceLock::new() }
    }

    /// What is held under a name.
    pub fn held(&self, name: &str, now_ns: u64) -> Option<thermidor_services::lease_page::Held> {
        let page = match self.open.get() {
            Some(page) => page,
            None => {
                let page = LeasePage::open(&self.path).ok()?;
                self.open.get_or_init(|| page)
            }
        };
        page.held(name, now_ns)
    }
}

impl Keys {
    /// The number of the key under which secrets are sealed now.
    fn in_force(&self) -> u64 {
        self.0.state().borrow().keys.sealed_under
    }

    /// Seals a secret.
    pub fn seal(&self, name: &str, value: &[u8]) -> anyhow::Result<thermidor_model::state::Sealed> {
        Ok(self.0.identity().seal(self.in_force(), name, value)?)
    }

    /// Secret bytes that every radiator of this home draws alike, until the home's keys are changed.
    pub fn derive(&self, purpose: &str) -> anyhow::Result<[u8; 32]> {
        Ok(self.0.identity().derive(self.in_force(), purpose)?)
    }

    /// Opens a secret.
    pub fn open(&self, name: &str, sealed: &thermidor_model::state::Sealed) -> anyhow::Result<String> {
        let value = self.0.identity().open(name, sealed)?;
        String::from_utf8(value.to_vec()).context("the secret is no text")
    }
}
