//! The ingress process: every radiator answers the services' published ports and passes
//! connections on to the active one, parking those that come while there is none.

mod cuts;
mod folder_watch;
mod gates;
mod listeners;
mod pass;
mod proxy;
mod routes;
mod session;
mod tunnel;

pub use routes::{PortRoute, ROUTES_FILE, ROUTES_VERSION, Route, Routes, RoutesError};

use crate::link::Link;
use cuts::{Cuts, Leases};
use folder_watch::FolderWatch;
use gates::Gates;
use listeners::{Door, Listeners};
use routes::RoutesFile;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// The file in the run directory that says where the ingress listens and where it can't.
pub const STATUS_FILE: &str = "ingress.json";

/// How often leases are looked at while sessions are open.
const LOOK_BUSY: Duration = Duration::from_millis(10);
/// How often the routing table is looked at where nobody tells that it changed.
const LOOK_UNTOLD: Duration = Duration::from_millis(25);
/// How often everything is looked at when nothing has happened.
const LOOK_IDLE: Duration = Duration::from_secs(1);
/// How many tunnels may be in the making at once: a handshake costs some milliseconds of a slow CPU at
/// either end, and all that are begun together must be done before any of them is given up.
const DIALS_MAX: usize = 8;

/// How an ingress runs.
#[derive(Clone)]
pub struct IngressOptions {
    /// Where `routes.json` is, and `ingress.json` is written. A memory file system.
    pub run_dir: PathBuf,
    /// The guard's page.
    pub lease_page: PathBuf,
    /// Who this radiator is to the others.
    pub link: Link,
    /// Where other radiators' tunnels arrive.
    pub tunnel: SocketAddr,
    /// On which addresses the published ports are answered.
    pub listen: Vec<IpAddr>,
    /// How many clients may be connected at once, and as many tunnels; more wait in the kernel's backlog.
    pub connections_max: usize,
}

impl IngressOptions {
    /// On all addresses, with up to 4096 connections.
    pub fn new(run_dir: &Path, lease_page: &Path, link: Link, tunnel: SocketAddr) -> Self {
        Self {
            run_dir: run_dir.to_path_buf(),
            lease_page: lease_page.to_path_buf(),
            link,
            tunnel,
            listen: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            connections_max: 4096,
        }
    }
}

/// What the ingress says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressStatus {
    /// Where it listens.
    pub listening: Vec<SocketAddr>,
    /// Where it can't, and why; tried again.
    pub failed: BTreeMap<SocketAddr, String>,
    /// What is wrong with the present table; the last good one is followed.
    pub table_fault: Option<String>,
}

/// What every session needs. Cheap to clone.
#[derive(Clone)]
struct Shared {
    link: Link,
    leases: Leases,
    cuts: Cuts,
    table: watch::Receiver<Arc<Routes>>,
    gates: Arc<Gates>,
    dials: Arc<Semaphore>,
    ending: CancellationToken,
}

impl Shared {
    fn routes(&self) -> Arc<Routes> {
        self.table.borrow().clone()
    }
}

/// Runs the ingress until `ending`. It needs no daemon: it follows the last good table.
pub async fn run(options: IngressOptions, ending: CancellationToken) {
    raise_file_limit();
    let (publish, table) = watch::channel(Arc::new(Routes::default()));
    let shared = Shared {
        link: options.link.clone(),
        leases: Leases::new(&options.lease_page),
        cuts: Cuts::default(),
        table,
        gates: Arc::default(),
        dials: Arc::new(Semaphore::new(DIALS_MAX)),
        // Sessions end with the process's reason to be, also when this future is dropped.
        ending: ending.child_token(),
    };
    let _end_sessions = shared.ending.clone().drop_guard();
    let mut file = RoutesFile::new(&options.run_dir);
    let mut listeners = Listeners::new(options.connections_max);
    let (mut said, mut table_fault) = (None, None);
    // Before the first look, so that no change falls between the two.
    let watch = FolderWatch::start(&options.run_dir)
        .inspect_err(
            |e| tracing::warn!(error = %e, "nobody tells that the routing table changed: looking often"),
        )
        .ok();
    let mut wanted = doors(&options, &Routes::default());
    listeners.follow(&shared, &wanted);
    loop {
        if let Some(looked) = file.look() {
            match looked {
                Ok(routes) => {
                    wanted = doors(&options, &routes);
                    publish.send_replace(Arc::new(routes));
                    listeners.follow(&shared, &wanted);
                    table_fault = None;
                }
                Err(e) => {
                    let fault = e.to_string();
                    tracing::warn!(error = %fault, "the last good routing table is kept");
                    table_fault = Some(fault);
                }
            }
        }
        if listeners.retry_due() {
            listeners.follow(&shared, &wanted);
        }
        shared.cuts.sweep(&shared.routes(), &shared.leases);
        let status = IngressStatus {
            listening: listeners.listening(),
            failed: listeners.failed(),
            table_fault: table_fault.clone(),
        };
        say(&options.run_dir, status, &mut said);
        let busy = shared.cuts.sessions() > 0;
        let pause = match &watch {
            _ if busy => LOOK_BUSY,
            None => LOOK_UNTOLD,
            Some(_) => listeners.retry_in().map_or(LOOK_IDLE, |retry| retry.min(LOOK_IDLE)),
        };
        tokio::select! {
            () = ending.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = shared.cuts.entered(), if !busy => {}
            () = changed(watch.as_ref()) => {}
        }
    }
}

/// Ends when something was written into the run directory; never where nobody tells.
async fn changed(watch: Option<&FolderWatch>) {
    let told = match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    };
    if let Err(e) = told {
        tracing::warn!(error = %e, "the run directory is watched no more");
        std::future::pending::<()>().await;
    }
}

fn doors(options: &IngressOptions, routes: &Routes) -> BTreeSet<Door> {
    let ports = routes.services.iter().flat_map(|route| &route.ports).map(|port| port.published);
    let at = |port| options.listen.iter().map(move |ip| Door::Published(SocketAddr::new(*ip, port)));
    ports.flat_map(at).chain([Door::Tunnel(options.tunnel)]).collect()
}

/// Writes [`STATUS_FILE`] when something has changed.
fn say(run_dir: &Path, status: IngressStatus, said: &mut Option<IngressStatus>) {
    let path = run_dir.join(STATUS_FILE);
    if said.as_ref() == Some(&status) && path.exists() {
        return;
    }
    let written = tempfile::NamedTempFile::new_in(run_dir).and_then(|mut file| {
        serde_json::to_writer(&mut file, &status)?;
        file.flush()?;
        file.persist(&path).map(drop).map_err(|e| e.error)
    });
    match written {
        Ok(()) => *said = Some(status),
        Err(e) => tracing::debug!(error = %e, "the ingress cannot say how it stands"),
    }
}

/// Every connection needs two descriptors.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %e, "few connections: the limit of open files cannot be raised");
    }
}
