//! DATA/members.json: where the members are, for the processes that must find the next leader
//! while the daemon is down.

use crate::identity::{Known, Papers};
use crate::line_pool::Addresses;
use crate::{codec, disk};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thermidor_model::{NodeId, State};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Members {
    members: BTreeMap<NodeId, SocketAddr>,
    /// BLAKE3 of members' public keys, hex.
    #[serde(default)]
    keys: BTreeMap<NodeId, String>,
    /// The number the next member gets; 0: the state was never seen here.
    #[serde(default)]
    next_node: NodeId,
    /// The authority's certificate, PEM; empty: as in the identity.
    #[serde(default)]
    authority_pem: String,
}

impl Members {
    fn read(data: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = disk::read_if_there(&path(data))? else { return Ok(None) };
        Ok(Some(codec::decode(&bytes)?))
    }
}

fn path(data: &Path) -> PathBuf {
    data.join("members.json")
}

/// The members as last known; none if that was never written.
pub(crate) fn read(data: &Path) -> io::Result<BTreeMap<NodeId, SocketAddr>> {
    Ok(Members::read(data)?.map(|file| file.members).unwrap_or_default())
}

/// Whom to believe, as last known.
pub(crate) fn known(data: &Path, authority_pem: &str) -> io::Result<Known> {
    let Some(file) = Members::read(data)? else {
        return Ok(Known { authority_pem: authority_pem.to_string(), ..Known::default() });
    };
    let members = file.members.into_keys().filter(|id| *id < file.next_node).collect();
    let told = Some(file.authority_pem).filter(|pem| !pem.is_empty());
    Ok(Known {
        authority_pem: told.unwrap_or_else(|| authority_pem.to_string()),
        next_node: file.next_node,
        members,
        keys: file.keys,
    })
}

/// What a newcomer was told about the others.
pub(crate) fn write(
    data: &Path,
    members: BTreeMap<NodeId, SocketAddr>,
    keys: BTreeMap<NodeId, String>,
) -> io::Result<()> {
    let file = Members { members, keys, next_node: 0, authority_pem: String::new() };
    disk::write_whole(&path(data), &codec::encode(&file)?)
}

/// Members' listeners out of the state; of those it does not know yet, what was known before.
fn addresses(state: &State, before: &BTreeMap<NodeId, SocketAddr>) -> BTreeMap<NodeId, SocketAddr> {
    let newer = before.iter().filter(|(id, _)| **id >= state.next_node).map(|(id, a)| (*id, *a));
    state.members.iter().map(|(id, m)| (*id, m.address)).chain(newer).collect()
}

/// Keeps addresses, file and whom we believe as the applied state says.
pub(crate) fn follow(
    data: PathBuf,
    addresses_shared: Addresses,
    papers: Arc<Papers>,
    mut state: watch::Receiver<Arc<State>>,
    stop: CancellationToken,
) {
    let keep = async move {
        let mut written = None;
        loop {
            let state_now = state.borrow_and_update().clone();
            if let Some(known) = Known::of(&state_now)
                && let Err(e) = papers.believe(known)
            {
                tracing::error!(error = %e, "the home's authority is no certificate");
            }
            let now = Members {
                members: addresses(&state_now, &addresses_shared.all()),
                keys: state_now.keys.members.clone(),
                next_node: if state_now.authority_pem.is_empty() { 0 } else { state_now.next_node },
                authority_pem: state_now.authority_pem.clone(),
            };
            if written.as_ref() != Some(&now) && !state_now.members.is_empty() {
                addresses_shared.set(now.members.clone());
                let (place, file) = (path(&data), now.clone());
                let write = move || disk::write_whole(&place, &codec::encode(&file)?);
                match tokio::task::spawn_blocking(write).await {
                    Ok(Ok(())) => written = Some(now),
                    Ok(Err(e)) => tracing::warn!(error = %e, "members.json can't be written"),
                    Err(e) => tracing::warn!(error = %e, "members.json can't be written"),
                }
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(stop.run_until_cancelled_owned(keep));
}
