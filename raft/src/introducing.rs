//! Who joined while this member was away, under an authority that is newer than the one it knows: a member that
//! it knows vouches for the newcomer's key. Without this, a newcomer that leads could never tell it what
//! has happened.

use crate::line::{Lane, LineError};
use crate::node::{Node, decode, encode};
use bytes::Bytes;
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::time::Instant;

/// One member is given this long to answer.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Between two inquiries: whoever shows certificates of no authority does not keep us busy.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the known members about whoever was refused, until the member stops.
pub(crate) async fn follow(node: Node) {
    let mut newcomers = node.identity().papers().newcomers();
    while newcomers.changed().await.is_ok() {
        let refused = newcomers.borrow_and_update().clone();
        if let Some((newcomer, key)) = refused
            && vouched(&node, newcomer, &key).await
        {
            tracing::info!(member = newcomer, "joined while this member was away, as another vouches");
            node.identity().papers().vouch(newcomer, key);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a member that we know knows that one by that key.
async fn vouched(node: &Node, newcomer: NodeId, key: &str) -> bool {
    let state = node.state().borrow().clone();
    let Ok(body) = encode(&newcomer) else { return false };
    for known in state.keys.members.keys().filter(|id| **id != node.id()) {
        let deadline = Instant::now() + ASK_MAX;
        let answer = node.pool().call(*known, Lane::App, "home/key", body.clone(), deadline).await;
        let answer = answer.and_then(|bytes| decode::<Option<String>>(&bytes));
        match answer {
            Ok(known_key) if known_key.as_deref() == Some(key) => return true,
            Ok(_) => {}
            Err(e) => tracing::debug!(member = known, error = %e, "can't say who the newcomer is"),
        }
    }
    false
}

/// By which key this member knows another.
pub(crate) fn answer(node: &Node, body: &[u8]) -> Result<Bytes, LineError> {
    let asked: NodeId = decode(body)?;
    let key = node.state().borrow().keys.members.get(&asked).cloned();
    encode(&key)
}
