//! What the leader keeps true by itself: every member of the state is in the Raft group (as a learner
//! until the planner lets it vote), and who left is not. So a crash in the middle of a join or a
//! leave mends itself.

use crate::membership::MembershipError;
use crate::node::Node;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::time::{Instant, timeout};

/// Looks at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One change takes no longer.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// What differs between the home's members and the Raft group's.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    missing: Vec<NodeId>,
    gone: BTreeSet<NodeId>,
}

/// A voter that is no member any more keeps its place until its vote is taken.
fn difference(members: &BTreeSet<NodeId>, group: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>) -> Difference {
    Difference {
        missing: members.difference(group).copied().collect(),
        gone: group.iter().filter(|id| !members.contains(id) && !voters.contains(id)).copied().collect(),
    }
}

/// Runs until the member stops.
pub(crate) async fn keep(node: Node) {
    let mut state = node.state();
    let mut leadership = node.leadership();
    loop {
        let leads = leadership.borrow_and_update().is_me;
        let members: BTreeSet<NodeId> = state.borrow_and_update().members.keys().copied().collect();
        if leads
            && !members.is_empty()
            && let Err(e) = mend(&node, &members).await
        {
            tracing::debug!(error = %e, "the Raft group is not as the home's members yet");
        }
        let change = async {
            tokio::select! {
                changed = state.changed() => changed.is_ok(),
                changed = leadership.changed() => changed.is_ok(),
            }
        };
        if timeout(LOOK_EVERY, change).await == Ok(false) {
            return;
        }
    }
}

async fn mend(node: &Node, members: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
    let (group, voters) = {
        let metrics = node.raft().metrics();
        let metrics = metrics.borrow_watched();
        let group: BTreeSet<NodeId> = metrics.membership_config.nodes().map(|(id, _)| *id).collect();
        (group, metrics.membership_config.voter_ids().collect())
    };
    let Difference { missing, gone } = difference(members, &group, &voters);
    if missing.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let _one_change = node.changing().lock().await;
    for id in missing {
        node.add_learner(id, Instant::now() + CHANGE_MAX).await?;
        tracing::info!(member = id, "is in the Raft group");
    }
    if !gone.is_empty() {
        node.change(ChangeMembers::RemoveNodes(gone.clone()), Instant::now() + CHANGE_MAX).await?;
        tracing::info!(members = ?gone, "are out of the Raft group");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_added_and_who_left_is_removed_once_it_does_not_vote() {
        let found = difference(&[1, 2, 5].into(), &[1, 2, 3, 4].into(), &[1, 3].into());
        assert_eq!(found, Difference { missing: vec![5], gone: [4].into() });
    }
}
