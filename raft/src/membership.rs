//! Who votes. Which members shall vote is decided by the planner; here the change is made safely,
//! one after another, and a pair of voters is refused.

use crate::line::LineError;
use crate::node::Node;
use crate::proposing::{LOOK_AGAIN, ProposeError};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_model::{Command, NodeId, Outcome, Proposal};
use tokio::time::{Instant, sleep, timeout_at};

/// A learner this close to the leader's log may vote, entries.
const LAG_MAX: u64 = 64;
/// A new voter must have been heard within this time, ms: two absent ones would stop a home of one.
const SILENT_MAX_MS: u64 = 1000;

/// How long one request to take over the leadership may go unheeded.
const TRANSFER_MAX: Duration = Duration::from_millis(1000);

/// Why the voters stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes voters.
    #[error("this member does not lead")]
    NotLeader(Option<NodeId>),
    /// Of two voters, both would be needed: worse than one.
    #[error("a home never has exactly two voters: add a witness, or let one vote")]
    Pair,
    /// Nobody would vote.
    #[error("somebody has to vote")]
    Nobody,
    /// Not a member.
    #[error("there is no member {0}")]
    NoMember(NodeId),
    /// It was not heard, or has not caught up, before the deadline.
    #[error("member {0} is away or has not caught up: it can't vote yet")]
    Behind(NodeId),
    /// Not done before the deadline; it may still happen.
    #[error("the change was not confirmed in time")]
    Late,
    /// The model refuses.
    #[error("{0}")]
    Refused(String),
    /// A proposal went astray.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// openraft refuses.
    #[error("consensus refuses: {0}")]
    Raft(String),
}

impl From<MembershipError> for LineError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::NotLeader(leader) => Self::NotLeader(leader),
            e => Self::Failed(e.to_string()),
        }
    }
}

impl Node {
    /// Makes these the voters; on the leader only. Members that are no learners yet become so first,
    /// and a new voter must have caught up. Who loses its vote stays a learner. A leader that is not
    /// among them hands over afterwards by stepping down.
    pub async fn set_voters(
        &self,
        voters: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        match voters.len() {
            0 => return Err(MembershipError::Nobody),
            2 => return Err(MembershipError::Pair),
            _ => {}
        }
        let one_change = timeout_at(deadline, self.changing().lock()).await;
        let _one_change = one_change.map_err(|_| MembershipError::Late)?;
        self.lead()?;
        if self.voters_are(&voters) {
            return Ok(());
        }
        for node in &voters {
            if !self.state().borrow().members.contains_key(node) {
                return Err(MembershipError::NoMember(*node));
            }
            self.add_learner(*node, deadline).await?;
        }
        // Who votes already may be away: taking the vote from another must not wait for it.
        let present = self.leadership().borrow().voters.clone();
        for node in voters.difference(&present) {
            self.wait_caught_up(*node, deadline).await?;
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters.clone()), deadline).await?;
        tracing::info!(?voters, "these vote now");
        Ok(())
    }

    fn lead(&self) -> Result<(), MembershipError> {
        let leadership = self.leadership();
        let seen = leadership.borrow();
        if seen.is_me { Ok(()) } else { Err(MembershipError::NotLeader(seen.leader)) }
    }

    fn voters_are(&self, voters: &BTreeSet<NodeId>) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.committed_membership_config.membership().get_joint_config();
        metrics.committed_membership_config == metrics.membership_config
            && configs.len() == 1
            && configs.first() == Some(voters)
    }

    /// Makes a member a learner; one that is in the group already stays what it is.
    pub(crate) async fn add_learner(&self, node: NodeId, deadline: Instant) -> Result<(), MembershipError> {
        let known = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.nodes().any(|(id, _)| *id == node)
        };
        let address = self.state().borrow().members.get(&node).map(|m| m.address.to_string());
        match (known, address) {
            (true, _) => Ok(()),
            (false, None) => Err(MembershipError::NoMember(node)),
            (false, Some(address)) => {
                let nodes = [(node, BasicNode::new(address))].into();
                self.change(ChangeMembers::AddNodes(nodes), deadline).await
            }
        }
    }

    /// One change of Raft's membership, tried again while another is under way.
    pub(crate) async fn change(
        &self,
        change: ChangeMembers<NodeId, BasicNode>,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        loop {
            let changing = self.raft().change_membership(change.clone(), true);
            match timeout_at(deadline, changing).await {
                Err(_) => return Err(MembershipError::Late),
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                )))) if Instant::now() + LOOK_AGAIN < deadline => sleep(LOOK_AGAIN).await,
                Ok(Err(RaftError::APIError(
                    ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
                ))) => return Err(MembershipError::NotLeader(to.leader_id)),
                Ok(Err(e)) => return Err(MembershipError::Raft(e.to_string())),
            }
        }
    }

    async fn wait_caught_up(&self, node: NodeId, deadline: Instant) -> Result<(), MembershipError> {
        if node == self.id() {
            return Ok(());
        }
        let mut metrics = self.raft().metrics();
        let caught_up = async {
            loop {
                let heard = self.silent_ms().get(&node).is_some_and(|silent| *silent <= SILENT_MAX_MS);
                let there = heard && {
                    let seen = metrics.borrow_watched();
                    let matched = seen.replication.as_ref().and_then(|all| all.get(&node).copied().flatten());
                    let last = seen.last_log_index.unwrap_or(0);
                    matched.is_some_and(|id| id.index() + LAG_MAX >= last)
                };
                if there || metrics.changed().await.is_err() {
                    return there;
                }
            }
        };
        match timeout_at(deadline, caught_up).await {
            Ok(true) => Ok(()),
            _ => Err(MembershipError::Behind(node)),
        }
    }

    /// Hands leadership to a voter and waits until it leads. Proposals that are under way are waited for,
    /// and those that come meanwhile wait, so that none is left in doubt.
    pub async fn transfer_leader(&self, to: NodeId, deadline: Instant) -> Result<(), MembershipError> {
        self.lead()?;
        if to == self.id() {
            return Ok(());
        }
        if !self.leadership().borrow().voters.contains(&to) {
            return Err(MembershipError::NoMember(to));
        }
        let one_change = timeout_at(deadline, self.changing().lock()).await;
        let _one_change = one_change.map_err(|_| MembershipError::Late)?;
        self.wait_caught_up(to, deadline).await?;
        let alone = timeout_at(deadline, self.proposing().write()).await;
        let _alone = alone.map_err(|_| MembershipError::Late)?;
        self.lead()?;
        let asked = self.raft().trigger().transfer_leader(to).await;
        asked.map_err(|e| MembershipError::Raft(e.to_string()))?;
        // From here on openraft's leader is silent: if the request is lost, the voters elect.
        let term = self.leadership().borrow().term;
        let mut leadership = self.leadership();
        let next = leadership.wait_for(|seen| seen.term > term && seen.leader.is_some());
        match timeout_at(deadline.min(Instant::now() + TRANSFER_MAX), next).await {
            Ok(Ok(seen)) if seen.leader == Some(to) => Ok(()),
            Ok(Ok(seen)) => Err(MembershipError::NotLeader(seen.leader)),
            _ => Err(MembershipError::Late),
        }
    }

    /// Takes a member out for good; on the leader only. `voters` are those who vote without it. What
    /// the model would refuse is refused before the voters change.
    pub async fn leave(
        &self,
        node: NodeId,
        voters: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        if voters.contains(&node) {
            return Err(MembershipError::Refused(format!("member {node} can't leave and vote")));
        }
        let mut rehearsal = self.state().borrow().as_ref().clone();
        let proposal = Proposal { at_ms: 0, command: Command::Leave { node } };
        if let Outcome::Refused(refusal) = rehearsal.apply(&proposal) {
            return Err(MembershipError::Refused(refusal.to_string()));
        }
        self.set_voters(voters, deadline).await?;
        match self.propose_once(Command::Leave { node }, deadline).await? {
            Outcome::Refused(refusal) => Err(MembershipError::Refused(refusal.to_string())),
            _ => Ok(()),
        }
    }
}
