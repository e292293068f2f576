//! Whether a member still belongs to its home, and where the home finds it.

use crate::node::Node;
use std::time::Duration;
use thermidor_model::{Command, Outcome};
use tokio::time::Instant;

/// Whether this member still belongs to its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The generation of this member's certificate.
    pub generation: u64,
    /// The highest generation heard. Higher than ours: stop all services and rejoin.
    pub heard_generation: u64,
    /// This member has left the home, or was taken out: stop all services.
    pub expelled: bool,
}

/// Surfaces a higher generation and our own departure.
pub(crate) async fn watch(node: Node) {
    let mut generation = node.pool().generation();
    let mut expelled = node.pool().expelled();
    let mut state = node.state();
    loop {
        let heard = *generation.borrow_and_update();
        let told = *expelled.borrow_and_update();
        let gone = {
            let state = state.borrow_and_update();
            state.next_node > node.id() && !state.members.contains_key(&node.id())
        };
        node.0.standing.send_if_modified(|standing| {
            let now = Standing { heard_generation: heard, expelled: told || gone, ..*standing };
            let changed = now != *standing;
            *standing = now;
            changed
        });
        let change = async {
            tokio::select! {
                changed = generation.changed() => changed,
                changed = expelled.changed() => changed,
                changed = state.changed() => changed,
            }
        };
        if change.await.is_err() {
            return;
        }
    }
}

/// Tells the home where we listen now, if that has changed.
pub(crate) async fn tell_address(node: Node) {
    let mut state = node.state();
    let mut told = false;
    loop {
        let known = state.borrow_and_update().members.get(&node.id()).map(|member| member.address);
        // A newcomer has no state yet, and nobody reaches it to give it one before it tells.
        let known = known.or_else(|| node.pool().addresses.get(node.id()).filter(|_| !told));
        if known.is_some_and(|known| known != node.address()) {
            let readdress = Command::Readdress { node: node.id(), address: node.address() };
            let outcome = node.propose(readdress, Instant::now() + Duration::from_secs(5)).await;
            told = outcome == Ok(Outcome::Done);
            tracing::info!(address = %node.address(), ?outcome, "tells the home where this member listens");
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else if state.changed().await.is_err() {
            return;
        }
    }
}
