//! DATA/members.json: where the members are, for the processes that must find the next leader
//! while the daemon is down.

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

#[derive(Serialize, Deserialize)]
struct Members {
    members: BTreeMap<NodeId, SocketAddr>,
}

fn path(data: &Path) -> PathBuf {
    data.join("members.json")
}

/// The members as last known; none if that was never written.
pub(crate) fn read(data: &Path) -> io::Result<BTreeMap<NodeId, SocketAddr>> {
    let Some(bytes) = disk::read_if_there(&path(data))? else { return Ok(BTreeMap::new()) };
    Ok(codec::decode::<Members>(&bytes)?.members)
}

pub(crate) fn write(data: &Path, members: BTreeMap<NodeId, SocketAddr>) -> io::Result<()> {
    disk::write_whole(&path(data), &codec::encode(&Members { members })?)
}

/// Members' listeners out of the state; of those it does not know yet, what was known before.
fn addresses(state: &State, before: &BTreeMap<NodeId, SocketAddr>) -> BTreeMap<NodeId, SocketAddr> {
    let newer = before.iter().filter(|(id, _)| **id >= state.next_node).map(|(id, a)| (*id, *a));
    state.members.iter().map(|(id, m)| (*id, m.address)).chain(newer).collect()
}

/// Keeps addresses and file as the applied state says.
pub(crate) fn follow(
    data: PathBuf,
    addresses_shared: Addresses,
    mut state: watch::Receiver<Arc<State>>,
    stop: CancellationToken,
) {
    let keep = async move {
        let mut written = BTreeMap::new();
        loop {
            let now = addresses(&state.borrow_and_update().clone(), &addresses_shared.all());
            if now != written && !now.is_empty() {
                addresses_shared.set(now.clone());
                let (data, members) = (data.clone(), now.clone());
                match tokio::task::spawn_blocking(move || write(&data, members)).await {
                    Ok(Ok(())) => written = now,
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
