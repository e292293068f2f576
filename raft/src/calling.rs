//! What members ask of one another beside consensus: a member's handler, or the leader's.

use crate::line::{Lane, LineError};
use crate::node::Node;
use crate::proposing::LOOK_AGAIN;
use bytes::Bytes;
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::time::{Instant, timeout_at};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not the leader; who is, if known.
    #[error("this member does not lead")]
    NotLeader(Option<NodeId>),
    /// Leader, but a majority does not answer.
    #[error("the home has no quorum: {0}")]
    NoQuorum(String),
    /// It was not reached, or nobody leads: surely not done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It was reached and did not answer: done or not.
    #[error("no answer: {0}")]
    Lost(String),
    /// It answered that it failed.
    #[error("{0}")]
    Failed(String),
    /// This member is shutting down.
    #[error("this member is shutting down")]
    Stopped,
}

impl From<LineError> for CallError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NotSent(why) => Self::Unreachable(why),
            LineError::Lost(why) => Self::Lost(why),
            LineError::Failed(why) => Self::Failed(why),
            LineError::NotLeader(leader) => Self::NotLeader(leader),
            e @ LineError::Expelled => Self::Failed(e.to_string()),
        }
    }
}

impl Node {
    /// Asks a member's handler. At most once: it is not tried again by itself.
    pub async fn call(
        &self,
        to: NodeId,
        kind: &str,
        body: Bytes,
        time: Duration,
    ) -> Result<Bytes, CallError> {
        if to == self.id() {
            let asked = tokio::time::timeout(time, self.handle(self.id(), kind, body));
            return asked
                .await
                .map_err(|_| CallError::Lost("not answered in time".into()))?
                .map_err(Into::into);
        }
        let deadline = Instant::now() + time;
        Ok(self.pool().call(to, Lane::App, &format!("app/{kind}"), body, deadline).await?)
    }

    /// Asks the leader's handler, whoever leads. Tried again until the deadline while it surely was
    /// not handled.
    pub async fn call_leader(&self, kind: &str, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let mut leadership = self.leadership();
        let mut last = String::from("no leader is known");
        let mut hint = None;
        let mut guesses = self.guesses();
        while Instant::now() < deadline {
            let known = leadership.borrow_and_update().leader;
            let answer = match hint.take().or(known).or_else(|| guesses.next()) {
                None => Err(LineError::NotSent(last.clone())),
                Some(leader) if leader == self.id() => {
                    let handled = self.handle_as_leader(self.id(), kind, body.clone());
                    timeout_at(deadline, handled)
                        .await
                        .unwrap_or_else(|_| Err(LineError::Lost("late".into())))
                }
                Some(leader) => {
                    self.pool().call(leader, Lane::App, &format!("lead/{kind}"), body.clone(), deadline).await
                }
            };
            match answer {
                Err(LineError::NotLeader(leader)) => hint = leader.filter(|id| Some(*id) != known),
                Err(LineError::NotSent(why)) => last = why,
                answer => return Ok(answer?),
            }
            // Either way we look again.
            drop(timeout_at(deadline.min(Instant::now() + LOOK_AGAIN), leadership.changed()).await);
        }
        Err(CallError::Unreachable(last))
    }

    pub(crate) async fn handle(&self, from: NodeId, kind: &str, body: Bytes) -> Result<Bytes, LineError> {
        match self.0.handlers.get(kind) {
            Some(handler) => handler(from, body).await.map_err(LineError::Failed),
            None => Err(LineError::Failed(format!("nothing here answers `{kind}`"))),
        }
    }

    pub(crate) async fn handle_as_leader(
        &self,
        from: NodeId,
        kind: &str,
        body: Bytes,
    ) -> Result<Bytes, LineError> {
        let (leads, leader) = {
            let seen = self.0.leadership.borrow();
            (seen.is_me, seen.leader)
        };
        if leads { self.handle(from, kind, body).await } else { Err(LineError::NotLeader(leader)) }
    }
}
