//! The processes of a radiator: what each is given, and how it is wired to the home.

use crate::api::Refused;
use crate::daemon::{self, RunOptions};
use crate::guard::{self, GuardOptions};
use crate::paths::{HOME_PORT, Paths, TUNNEL_PORT};
use crate::priority;
use clap::Args;
use futures::FutureExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_backup::vault_process;
use thermidor_model::VolumeName;
use thermidor_model::observe::LeaseGrant;
use thermidor_model::replication::scrub::Pace;
use thermidor_raft::{HomeClient, Identity};
use thermidor_services::docker::usual_socket;
use thermidor_services::ingress::{self, IngressOptions};
use thermidor_services::link::Link;
use thermidor_services::volume::process::{self as volume_process, VolumeOptions};
use thermidor_services::volume::{self, group, watchdog};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a guard's request may be under way.
const ASK_MAX: Duration = Duration::from_millis(400);

/// How long a set change may take to be agreed on.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// How often a volume gives blocks back that its file system does not use.
const TRIM_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How often a process looks for the members while its radiator's daemon has never run.
const MEMBERS_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where to listen; by default as given to `init` or `join`.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The container engine's socket; by default Docker's, or Podman's where Docker is not installed.
    #[arg(long, env = "THERMIDOR_DOCKER", value_name = "SOCKET")]
    docker: Option<String>,
}

#[derive(Debug, Args)]
pub struct VolumeArgs {
    /// Which volume.
    name: VolumeName,
}

fn refused(error: impl std::fmt::Display) -> Refused {
    Refused::because(format!("{error:#}"))
}

fn identity(paths: &Paths) -> Result<Identity, Refused> {
    paths.create().map_err(refused)?;
    Identity::load(&paths.data).map_err(refused)
}

/// The same for a process that lives on while the daemon writes down other members and keys.
fn followed_identity(paths: &Paths) -> Result<Arc<Identity>, Refused> {
    let identity = identity(paths)?;
    identity.follow_files(&paths.data).map_err(refused)?;
    Ok(Arc::new(identity))
}

/// A runtime with so many threads beside the first.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Refused> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(refused)
}

/// A runtime on the first thread alone: smaller, and no thread has to wake another one for each event.
fn small_runtime() -> Result<tokio::runtime::Runtime, Refused> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)
}

/// The home's identity, as the processes use it between themselves.
pub fn link(identity: &Identity) -> Result<Link, Refused> {
    let papers = identity.papers().clone();
    Ok(Link {
        until_refused: Arc::new(move |certificate| papers.until_refused(certificate)),
        node: identity.node(),
        server: identity.server_config(false).map_err(refused)?,
        client: identity.client_config().map_err(refused)?,
        server_name: thermidor_raft::identity::server_name(),
        peer_of: Arc::new(|certificate| thermidor_raft::identity::peer_of(certificate).map(|(node, _)| node)),
    })
}

/// Where this member was told to listen at `init` or `join`.
fn listener(paths: &Paths, identity: &Identity) -> SocketAddr {
    let told = std::fs::read_to_string(paths.data.join("listen")).ok();
    told.and_then(|text| text.trim().parse().ok()).unwrap_or((identity.own.advertise_ip, HOME_PORT).into())
}

/// Remembers where to listen.
pub fn remember_listener(paths: &Paths, listen: SocketAddr) -> Result<(), Refused> {
    std::fs::write(paths.data.join("listen"), format!("{listen}\n")).map_err(refused)
}

/// The engine's socket, as it was named or as it is usual.
pub fn engine_socket(named: Option<&str>) -> PathBuf {
    named.map_or_else(usual_socket, |named| PathBuf::from(named.trim_start_matches("unix://")))
}

pub fn run(paths: &Paths, args: RunArgs) -> Result<(), Refused> {
    // It writes to volumes when it restores: where this is refused it goes on in its starter's group.
    if let Err(e) = group::apart("daemon") {
        tracing::warn!("a control group of its own, without which a restore short of memory may hang: {e}");
    }
    priority::raise(priority::OTHERS);
    let identity = identity(paths)?;
    let engine_socket = engine_socket(args.docker.as_deref());
    let listen = args.listen.unwrap_or_else(|| listener(paths, &identity));
    let options = RunOptions { paths: paths.clone(), listen, engine_socket };
    runtime(2)?.block_on(daemon::run(options)).map_err(refused)
}

/// A way into the home, once the daemon has told where its members are.
async fn home_client(paths: &Paths, identity: &Arc<Identity>) -> Result<HomeClient, Refused> {
    loop {
        let client = HomeClient::of(identity.clone(), &paths.data).map_err(refused)?;
        if !client.members().is_empty() {
            return Ok(client);
        }
        tokio::time::sleep(MEMBERS_AGAIN).await;
    }
}

/// Ends this process in order once it hears of a higher generation than its identity's: it is started
/// again, and has the present identity then, or is told every time to join again.
fn end_when_outdated(client: &HomeClient) {
    let (mut heard, own) = (client.generation(), client.identity().generation);
    tokio::spawn(async move {
        while *heard.borrow_and_update() <= own {
            if heard.changed().await.is_err() {
                return;
            }
        }
        tracing::warn!("the home is in a higher generation than this process, which ends");
        if let Err(e) =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
        {
            tracing::error!("it can't tell itself to end: {e}");
        }
    });
}

pub fn guard(paths: &Paths) -> Result<(), Refused> {
    let identity = followed_identity(paths)?;
    let options = GuardOptions {
        node: identity.node(),
        run_dir: paths.run.clone(),
        timing: identity.own.timing,
        raise: true,
    };
    small_runtime()?.block_on(async {
        let client = Arc::new(home_client(paths, &identity).await?);
        end_when_outdated(&client);
        let ask = move |request| {
            let client = client.clone();
            async move {
                let body = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
                let answer = client.call_leader("lease", body.into(), Instant::now() + ASK_MAX).await;
                let grant: LeaseGrant = serde_json::from_slice(&answer.map_err(|e| e.to_string())?)
                    .map_err(|e| format!("the leader is of another version: {e}"))?;
                client.set_members(grant.members.clone());
                Ok::<_, String>(grant)
            }
            .boxed()
        };
        guard::run(options, ask, ending()).await.map_err(refused)
    })
}

pub fn ingress(paths: &Paths) -> Result<(), Refused> {
    priority::raise(priority::OTHERS);
    let identity = followed_identity(paths)?;
    let tunnel = SocketAddr::new(identity.own.advertise_ip, TUNNEL_PORT);
    let mut options = IngressOptions::new(&paths.run, &paths.lease_page(), link(&identity)?, tunnel);
    options.listen = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    runtime(2)?.block_on(async {
        ingress::run(options, ending()).await;
    });
    Ok(())
}

pub fn volume(paths: &Paths, args: VolumeArgs) -> Result<(), Refused> {
    for word in volume_process::prepare(&args.name) {
        tracing::warn!("{word}");
    }
    // In its own session: priority between sessions is each session's own.
    priority::raise(priority::OTHERS);
    let identity = followed_identity(paths)?;
    runtime(2)?.block_on(async {
        let client = Arc::new(home_client(paths, &identity).await?);
        end_when_outdated(&client);
        let propose = move |command| {
            let client = client.clone();
            async move {
                // Whatever went wrong counts as unknown: an addition then counts as in.
                let proposed = client.propose(command, Instant::now() + PROPOSE_MAX).await;
                proposed.map_err(|e| {
                    tracing::warn!("a change of the in-sync set: {e}");
                    volume::Unknown
                })
            }
            .boxed()
        };
        let options = VolumeOptions {
            dir: paths.volume(args.name.as_str()),
            name: args.name,
            run_dir: paths.run.clone(),
            node: identity.node(),
            link: link(&identity)?,
            listen: identity.own.advertise_ip,
            propose: Arc::new(propose),
            lease_page: paths.lease_page(),
            watchdog: vec![std::env::current_exe().map_err(refused)?.into(), "volume-watchdog".into()],
            replica_timeout: Duration::from_millis(identity.own.timing.replica_timeout_ms),
            pace: Pace::default(),
            trim_every: TRIM_EVERY,
        };
        volume_process::run(options).await.map_err(refused)
    })
}

/// Serves friends, inside of the vault's container.
pub fn vault() -> Result<(), Refused> {
    runtime(2)?.block_on(async {
        vault_process::run(vault_process::Places::in_container(), ending().cancelled_owned())
            .await
            .map_err(refused)
    })
}

/// Aborts a volume's FUSE connection when its process hangs or its lease is long over.
pub fn volume_watchdog(arguments: &[std::ffi::OsString]) -> Result<(), Refused> {
    let watch = watchdog::Watch::from_arguments(arguments)
        .ok_or_else(|| Refused { text: "only volume processes start this".into(), exit: 2 })?;
    watchdog::run(&watch, std::io::stdin()).map(drop).map_err(refused)
}

/// Ends with SIGTERM or Ctrl-C.
fn ending() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let ended = token.clone();
    tokio::spawn(async move {
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            ended.cancel();
        }
    });
    token
}
