//! Since when no earlier leader can have proven its leadership: what a new leader must know to wait
//! no longer than it has to for the leases that an earlier one granted.
//!
//! A lease was granted after a quorum round that began after the guard had asked. Whichever majority
//! the new leader asks, one of it took part in that round, so the asking was earlier than the last
//! message that one took from an earlier leader. Only who knows the new leader (or a later one) is
//! believed: it takes nothing from an earlier one any more.

use crate::clock::boottime_ns;
use crate::leadership::Leadership;
use crate::line::{Lane, LineError};
use crate::node::{Node, decode, encode};
use crate::types::C;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermidor_model::NodeId;
use thermidor_model::lease::moment_ago;
use tokio::time::{Instant, sleep};

/// How long one question to one voter may take.
const ASK_MAX: Duration = Duration::from_millis(150);
/// Between two questions to a voter that could not answer yet.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A leadership: term, then who. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
}

impl Reign {
    pub(crate) fn of(vote: &openraft::alias::VoteOf<C>) -> Self {
        Self { term: vote.leader_id.term, leader: vote.leader_id.node_id }
    }
}

/// When this member last took something from a leader, or was one. Times are CLOCK_BOOTTIME, ns.
pub(crate) struct Taken(Mutex<Last>);

struct Last {
    latest: Reign,
    latest_ns: u64,
    /// The same of all reigns before the latest.
    before_ns: u64,
}

impl Taken {
    /// Before its start a member may have taken anything: it has forgotten.
    pub(crate) fn since(started_ns: u64) -> Self {
        Self(Mutex::new(Last { latest: Reign::default(), latest_ns: started_ns, before_ns: started_ns }))
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of a leader has come, and may be taken. Called before it is.
    pub(crate) fn note(&self, reign: Reign, now_ns: u64) {
        let mut last = self.lock();
        if reign > last.latest {
            last.before_ns = last.before_ns.max(last.latest_ns);
            last.latest = reign;
            last.latest_ns = now_ns;
        } else if reign == last.latest {
            last.latest_ns = last.latest_ns.max(now_ns);
        } else {
            last.before_ns = last.before_ns.max(now_ns);
        }
    }

    /// The latest moment something was taken from a leader earlier than this one.
    pub(crate) fn before(&self, reign: Reign) -> u64 {
        let last = self.lock();
        if last.latest < reign { last.before_ns.max(last.latest_ns) } else { last.before_ns }
    }
}

/// What the present leadership knows: when it began, and since when earlier ones are silent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quiet {
    since_ns: u64,
    quiet_ns: u64,
}

impl Node {
    /// On the leader: the moment, CLOCK_BOOTTIME in ns, before which every guard had asked that
    /// an earlier leader granted a lease. `None`: not known yet, or not to be known (a home with one voter).
    pub fn quiet_since_ns(&self, leadership: &Leadership) -> Option<u64> {
        let known = *self.0.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let same = leadership.is_me && known.since_ns == leadership.since_boottime_ns;
        Some(known.quiet_ns).filter(|_| same)
    }

    /// A message of this vote's leader has come.
    pub(crate) fn note_taken(&self, vote: &openraft::alias::VoteOf<C>) {
        let reign = Reign::of(vote);
        // A deposed leader's message is not taken: votes only grow.
        if reign >= self.reign() {
            self.0.taken.note(reign, boottime_ns());
        }
    }

    /// The leadership this member has agreed to, as written to its disk.
    fn reign(&self) -> Reign {
        Reign::of(&self.raft().metrics().borrow_watched().vote)
    }

    /// Answers a new leader: how long ago, ns, this member last took something from an earlier one.
    pub(crate) fn quiet_for(&self, body: &[u8]) -> Result<Bytes, LineError> {
        let asked: Reign = decode(body)?;
        if self.reign() < asked || self.leadership().borrow().is_me {
            return Err(LineError::Failed("an earlier leader is still heeded here".into()));
        }
        encode(&boottime_ns().saturating_sub(self.0.taken.before(asked)))
    }
}

/// Finds out at the beginning of each leadership, for as long as the member runs.
pub(crate) async fn follow(node: Node) {
    let mut leadership = node.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.is_me && now.voters.len() > 1 && node.quiet_since_ns(&now).is_none() {
            tokio::select! {
                () = find_out(&node, &now) => {}
                _ = leadership.changed() => continue,
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn find_out(node: &Node, leadership: &Leadership) {
    let reign = Reign { term: leadership.term, leader: node.id() };
    let others = leadership.voters.iter().filter(|id| **id != node.id());
    let mut asking: FuturesUnordered<_> = others.map(|id| ask(node, *id, reign)).collect();
    let mut answered = BTreeMap::from([(node.id(), node.0.taken.before(reign))]);
    while !majority(node, &answered) {
        let Some((id, at_ns)) = asking.next().await else { return };
        answered.insert(id, at_ns);
    }
    let quiet_ns = answered.values().copied().max().unwrap_or(leadership.since_boottime_ns);
    let quiet = Quiet { since_ns: leadership.since_boottime_ns, quiet_ns };
    *node.0.quiet.lock().unwrap_or_else(PoisonError::into_inner) = quiet;
    let ms = leadership.since_boottime_ns.saturating_sub(quiet_ns) / 1_000_000;
    tracing::info!(ms, "earlier leaders were silent for so long before this one began");
}

/// Of every group of voters whose agreement counts now.
fn majority(node: &Node, answered: &BTreeMap<NodeId, u64>) -> bool {
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().get_joint_config().iter().all(|group| {
        let there = group.iter().filter(|id| answered.contains_key(id)).count();
        there * 2 > group.len()
    })
}

/// Until it answers; by our clock the latest moment that its answer may mean.
async fn ask(node: &Node, id: NodeId, reign: Reign) -> (NodeId, u64) {
    loop {
        if let Ok(ago_ns) = ask_once(node, id, reign).await {
            return (id, moment_ago(boottime_ns(), ago_ns));
        }
        sleep(ASK_AGAIN).await;
    }
}

async fn ask_once(node: &Node, id: NodeId, reign: Reign) -> Result<u64, LineError> {
    let body = encode(&reign)?;
    let until = Instant::now() + ASK_MAX;
    let answer = node.pool().call_hedged(id, Lane::Beat, "raft/quiet", body, until).await?;
    decode(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reign(term: u64, leader: NodeId) -> Reign {
        Reign { term, leader }
    }

    #[test]
    fn a_later_leaders_messages_do_not_count_for_the_earlier_ones() {
        let taken = Taken::since(100);
        assert_eq!(taken.before(reign(1, 1)), 100, "what was before the start is forgotten");
        taken.note(reign(3, 1), 200);
        taken.note(reign(3, 1), 250);
        assert_eq!(taken.before(reign(4, 2)), 250);
        assert_eq!(taken.before(reign(3, 2)), 250, "two may lead in one term, one after the other");
        taken.note(reign(4, 2), 300);
        taken.note(reign(4, 2), 400);
        assert_eq!(taken.before(reign(4, 2)), 250);
        taken.note(reign(5, 3), 500);
        assert_eq!(taken.before(reign(5, 3)), 400);
    }

    #[test]
    fn a_message_that_comes_late_counts_all_the_same() {
        let taken = Taken::since(100);
        taken.note(reign(4, 2), 300);
        taken.note(reign(3, 1), 350);
        assert_eq!(taken.before(reign(4, 2)), 350);
    }
}
