//! Who leads, as this member sees it.

use crate::clock::boottime_ns;
use crate::quiet::{Reign, Taken};
use crate::types::{C, Raft};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use thermidor_model::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who leads, as this member sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// This member leads, and a quorum has acknowledged it at least once. It may have been
    /// deposed without having heard of it: only `Node::barrier` tells.
    pub is_me: bool,
    /// CLOCK_BOOTTIME, ns, at which `is_me` became true; 0 while it is not.
    pub since_boottime_ns: u64,
    /// It came by an election in which no voter had heard a leader for `election_max_ms`; false after
    /// a transfer, and for the only voter of a home, whose earlier self may have granted just before.
    pub by_election: bool,
    /// Raft's term: raised with every election.
    pub term: u64,
    /// The present voters.
    pub voters: BTreeSet<NodeId>,
    /// Why this member's Raft has ended, if it has (a full or broken disk): only a restart helps.
    pub failed: Option<String>,
}

/// A leadership that begins so soon after this member was asked to take over came by transfer, ns.
const HANDED_NS: u64 = 5_000_000_000;

/// What metrics say, given what was seen before.
fn seen(metrics: &RaftMetrics<C>, before: &Leadership, handed_ns: u64) -> Leadership {
    let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
    let alone = voters.len() == 1 && voters.contains(&metrics.id);
    let is_me = metrics.state == ServerState::Leader
        && (alone || metrics.last_quorum_acked.is_some())
        && !voters.is_empty();
    let same = before.is_me && before.term == metrics.current_term;
    let since_boottime_ns = match (is_me, same) {
        (true, true) => before.since_boottime_ns,
        (true, false) => boottime_ns(),
        (false, _) => 0,
    };
    let by_election = match same {
        true => before.by_election,
        false => is_me && !alone && boottime_ns().saturating_sub(handed_ns) > HANDED_NS,
    };
    let failed = metrics.running_state.as_ref().err().map(ToString::to_string);
    let leader = if failed.is_none() { metrics.current_leader } else { None };
    let is_me = is_me && failed.is_none();
    Leadership { leader, is_me, since_boottime_ns, by_election, term: metrics.current_term, voters, failed }
}

/// Follows Raft's metrics for as long as the member runs.
pub(crate) fn follow(
    raft: &Raft,
    handed: Arc<AtomicU64>,
    taken: Arc<Taken>,
    stop: CancellationToken,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let first = seen(&metrics.borrow_watched(), &Leadership::default(), handed.load(Relaxed));
    let (tell, told) = watch::channel(first);
    let me = metrics.borrow_watched().id;
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while metrics.changed().await.is_ok() {
            let before = tell.borrow().clone();
            let now = seen(&metrics.borrow_watched(), &before, handed.load(Relaxed));
            // Its own part in its rounds. Noted before anybody can see that it leads no more.
            if before.is_me && !(now.is_me && now.term == before.term) {
                taken.note(Reign { term: before.term, leader: me }, boottime_ns());
            }
            tell.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    }));
    told
}
