//! `init`: a home of one radiator. The identity is made here; the first start founds the home.

use crate::identity::{Authority, HomeKey, Identity, IdentityError, MemberKey, Own, Parts, dir_of};
use crate::node::{Node, StartError};
use crate::{codec, disk};
use openraft::BasicNode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::name::HomeName;
use thermidor_model::state::Role;
use thermidor_model::timing::Timing;
use thermidor_model::{Command, Outcome, RadiatorName};
use tokio::time::Instant;

/// A home of one is founded in milliseconds; a disk that takes longer is broken.
const FOUNDING_MAX: Duration = Duration::from_secs(20);

/// A new home.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The data directory; must hold no member yet.
    pub data: PathBuf,
    /// The home's name.
    pub home: HomeName,
    /// This radiator's name.
    pub radiator: RadiatorName,
    /// Where it will listen.
    pub listen: SocketAddr,
    /// How the others reach it; `None`: as it listens.
    pub advertise: Option<SocketAddr>,
    /// The home's times.
    pub timing: Timing,
}

/// Why there is no new home.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The directory holds a member.
    #[error("{0} belongs to a home already: `thermidor status` shows it, `thermidor leave` ends it")]
    Already(PathBuf),
    /// The listener's address is no address to reach it at.
    #[error("it would listen on all addresses: say with --address which one the others reach")]
    Address,
    /// Unsound times.
    #[error("the home's times are unsound: {0}")]
    Timing(String),
    /// The identity can't be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file can't be written.
    #[error("{0} can't be written")]
    Io(PathBuf, #[source] std::io::Error),
}

/// What the first start is to propose.
#[derive(Serialize, Deserialize)]
struct Founding {
    home: HomeName,
    radiator: RadiatorName,
    authority_pem: String,
    timing: Timing,
}

/// The address to tell the others, port 0 meaning the listener's.
pub(crate) fn advertised(listen: SocketAddr, advertise: Option<SocketAddr>) -> Option<SocketAddr> {
    let unspecified = |ip: IpAddr| ip.is_unspecified();
    advertise.or(Some(listen)).filter(|address| !unspecified(address.ip()))
}

fn path(data: &Path) -> PathBuf {
    data.join("found.json")
}

/// Makes a home's authority, home key and first member. The home itself begins with the first
/// [`Node::start`] on this directory.
pub fn init(options: &InitOptions) -> Result<(), InitError> {
    let InitOptions { data, home, radiator, listen, advertise, timing } = options;
    if Identity::exists(data) {
        return Err(InitError::Already(data.clone()));
    }
    timing.check().map_err(InitError::Timing)?;
    let address = advertised(*listen, *advertise).ok_or(InitError::Address)?;
    disk::make_dir(data).map_err(|e| InitError::Io(data.clone(), e))?;
    let authority = Authority::generate(home)?;
    let key = MemberKey::generate()?;
    let founding = Founding {
        home: home.clone(),
        radiator: radiator.clone(),
        authority_pem: authority.pem().to_string(),
        timing: *timing,
    };
    // Before the identity, with which the directory counts as a member's.
    let bytes = codec::encode(&founding).map_err(|e| InitError::Io(path(data), e.into()))?;
    disk::write_whole(&path(data), &bytes).map_err(|e| InitError::Io(path(data), e))?;
    let parts = Parts {
        own: Own {
            node: 1,
            home: home.clone(),
            role: Role::Radiator,
            advertise_ip: address.ip(),
            timing: *timing,
            keys: 0,
        },
        certificate_pem: authority.issue(&key, home, 1, 1)?,
        authority_pem: authority.pem().to_string(),
        authority_key_pem: Some(authority.key_pem().to_string()),
        home_keys: BTreeMap::from([(0, HomeKey::generate()?)]),
    };
    parts.store(&key.pem(), &dir_of(data))?;
    Ok(())
}

/// Founds the home if this directory was just initialised, or a first start did not get that far.
pub(crate) async fn found_if_new(node: &Node) -> Result<(), StartError> {
    let file = path(&node.0.data);
    let io = |e| StartError::Io(format!("{} can't be read", file.display()), e);
    let Some(bytes) = disk::read_if_there(&file).map_err(io)? else { return Ok(()) };
    let founding: Founding = codec::decode(&bytes).map_err(|e| io(e.into()))?;
    let raft_error = |e: &dyn std::error::Error| StartError::Raft(e.to_string());
    if !node.raft().is_initialized().await.map_err(|e| raft_error(&e))? {
        let members = BTreeMap::from([(node.id(), BasicNode::new(node.address()))]);
        node.raft().initialize(members).await.map_err(|e| raft_error(&e))?;
    }
    node.raft().runtime_config().elect(true);
    let command = Command::Found {
        home: founding.home,
        radiator: founding.radiator,
        address: node.address(),
        authority_pem: founding.authority_pem,
        timing: founding.timing,
    };
    let deadline = Instant::now() + FOUNDING_MAX;
    // Refused: an earlier start had founded it and could not remove the file.
    if let Outcome::Refused(why) = node.propose(command, deadline).await.map_err(|e| raft_error(&e))? {
        tracing::debug!(%why, "not founded again");
    }
    node.pin_key(deadline).await.map_err(|e| raft_error(&e))?;
    disk::remove_if_there(&file).map_err(io)
}
