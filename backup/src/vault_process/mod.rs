//! The vault as a service: what runs in its container. It knows its friends by a file that the daemon writes and that is
//! read again when it changes, serves whoever holds a friend's key, passes on whoever comes to pair, and tells how the
//! friends' spaces stand.

mod config;
mod doors;
mod judge;
mod left;
mod status;

pub use config::{ConfigError, FriendConfig, VaultConfig, write_local_time};
pub use judge::{COMES_BACK, Judged, judge};
pub use status::{AnnouncedStatus, FriendStatus, Status, StatusError};

use crate::line::{Acceptor, NoCertificate, Own, Pins};
use crate::vault::{OpenError, Settings, Vault};
use config::Seen;
use doors::Doors;
use left::Left;
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::name::HomeName;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The socket in the run folder at which the daemon hears who comes to pair.
pub const PAIRING_SOCKET: &str = "pairing.sock";
/// The socket in the run folder at which this process says how it stands.
pub const STATUS_SOCKET: &str = "vault.sock";

/// How often the configuration is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often deletions that are due are carried out.
const TEND: Duration = Duration::from_secs(180);
/// How long somebody who connects may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the process finds things.
#[derive(Debug, Clone)]
pub struct Places {
    /// The daemon's words, read-only.
    pub config: PathBuf,
    /// The friends' data.
    pub data: PathBuf,
    /// The sockets.
    pub run: PathBuf,
    /// Where friends come in.
    pub listen: SocketAddr,
}

impl Places {
    /// As the container sees them.
    pub fn in_container() -> Self {
        Self {
            config: "/etc/thermidor".into(),
            data: "/srv/vault".into(),
            run: "/run/thermidor".into(),
            listen: (Ipv4Addr::UNSPECIFIED, crate::line::PORT).into(),
        }
    }
}

/// Why the process ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The vault's folder.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A socket.
    #[error("{0} can't be listened to")]
    Listen(String, #[source] io::Error),
}

/// What is in force: the configuration, and how this home shows itself under it.
struct Present {
    config: VaultConfig,
    acceptor: Acceptor,
}

/// Why a configuration can't be put in force.
#[derive(Debug, thiserror::Error)]
enum NotInForce {
    #[error(transparent)]
    Certificate(#[from] NoCertificate),
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    #[error("the transport key is none")]
    Key,
}

/// Runs until `ending` is done.
pub async fn run(places: Places, ending: impl Future<Output = ()>) -> Result<(), ProcessError> {
    tokio::pin!(ending);
    let listening = |what: String| move |e| ProcessError::Listen(what, e);
    let status = doors::bind(&places.run.join(STATUS_SOCKET))
        .map_err(listening(places.run.join(STATUS_SOCKET).display().to_string()))?;
    let mut seen = Seen::default();
    // The first configuration names the home, without which no vault is opened.
    let first = loop {
        match seen.look(&places.config) {
            Ok(Some(config)) => break config,
            Ok(None) => {}
            Err(error) => tracing::warn!("{}", chain(&error)),
        }
        tokio::select! {
            () = &mut ending => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    let mut settings = Settings::new(first.home.clone());
    settings.zone = config::zone(&places.config);
    let listener = TcpListener::bind(places.listen).await.map_err(listening(places.listen.to_string()))?;
    let vault = Vault::open(&places.data, settings)?;
    let pins = Pins::default();
    let (present, watching) = watch::channel(None);
    let left = Left::default();
    let doors = Arc::new(Doors::new(vault.clone(), watching, left.clone(), places.run.clone()));
    put_in_force(&vault, &pins, &present, first).await;
    left.look_again();
    tracing::info!(at = %places.listen, "the vault is open");
    let mut tending = tokio::time::interval(TEND);
    let mut looking = tokio::time::interval(LOOK);
    let serving = doors.clone().serve(listener);
    let telling = doors.clone().tell(status);
    let leaving = left.clone().keep_up(vault.clone());
    tokio::pin!(serving, telling, leaving);
    loop {
        tokio::select! {
            () = &mut ending => break,
            () = &mut serving => {}
            () = &mut telling => {}
            () = &mut leaving => {}
            _ = looking.tick() => match seen.look(&places.config) {
                Ok(Some(config)) => {
                    put_in_force(&vault, &pins, &present, config).await;
                    left.look_again();
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("the configuration stays as it is: {}", chain(&error)),
            },
            _ = tending.tick() => {
                tend(&vault).await;
                let gone = present.borrow().as_ref().map(|it| it.config.gone.clone()).unwrap_or_default();
                if part_with(&vault, gone).await {
                    left.look_again();
                }
            }
        }
    }
    tracing::info!("the vault is shut");
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn tend(vault: &Vault) {
    let vault = vault.clone();
    let done = tokio::task::spawn_blocking(move || vault.tend()).await;
    for (friend, done) in done.unwrap_or_default() {
        if let Err(error) = done {
            tracing::warn!(%friend, %error, "what is due for deletion is still there");
        }
    }
}

/// Lends as the configuration says and lets in whom it names; whoever is named no longer is cut off by the doors, which
/// watch what is in force.
async fn put_in_force(
    vault: &Vault,
    pins: &Pins,
    present: &watch::Sender<Option<Arc<Present>>>,
    config: VaultConfig,
) {
    let acceptor = match acceptor(&config, pins) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!("the configuration is not put in force: {}", chain(&error)),
    };
    // The home itself comes to look whether anybody gets in; it is told so, and no more.
    let own = config.transport().map(|key| key.public());
    pins.set(config.friends.values().map(|friend| friend.transport).chain(own).collect());
    let before: Vec<HomeName> = {
        let before = present.borrow();
        before.iter().flat_map(|before| before.config.friends.keys().cloned()).collect()
    };
    for gone in before.iter().filter(|friend| !config.friends.contains_key(*friend)) {
        vault.close(gone);
        tracing::info!(friend = %gone, "nothing is lent to this home any more");
    }
    for (friend, agreed) in &config.friends {
        let (vault, name, terms) = (vault.clone(), friend.clone(), agreed.terms());
        // Counting what is there takes as long as the disk does.
        let lent = tokio::task::spawn_blocking(move || vault.lend(&name, terms)).await;
        match lent {
            Ok(Ok(())) if !before.contains(friend) => tracing::info!(%friend, "space is lent to this home"),
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%friend, "its space stays shut: {}", chain(&error)),
            Err(error) => tracing::error!(%friend, %error, "its space stays shut"),
        }
    }
    let gone = config.gone.clone();
    present.send_replace(Some(Arc::new(Present { config, acceptor })));
    part_with(vault, gone).await;
}

/// Moves out of the way what homes kept of whose nothing is to be kept; says whether there is anything to sweep, or to be
/// tried again.
async fn part_with(vault: &Vault, gone: BTreeSet<HomeName>) -> bool {
    let mut any = false;
    for friend in gone {
        let (vault, name) = (vault.clone(), friend.clone());
        match tokio::task::spawn_blocking(move || vault.part_with(&name)).await {
            Ok(Ok(false)) => continue,
            Ok(Ok(true)) => tracing::warn!(%friend, "what this home kept is deleted, as a person has said"),
            Ok(Err(error)) => tracing::error!(%friend, "nothing of it is deleted: {}", chain(&error)),
            Err(error) => tracing::error!(%friend, %error, "nothing of it is deleted"),
        }
        any = true;
    }
    any
}

fn acceptor(config: &VaultConfig, pins: &Pins) -> Result<Acceptor, NotInForce> {
    let keys = config.transports().ok_or(NotInForce::Key)?;
    let own = keys.iter().map(|key| Own::new(key, config.generation)).collect::<Result<Vec<_>, _>>()?;
    Ok(Acceptor::new(&own, pins.clone(), PATIENCE)?)
}
