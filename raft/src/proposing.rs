//! How a command gets to the leader, and what may be said of it afterwards.

use crate::clock::wall_ms;
use crate::codec;
use crate::line::{Lane, LineError};
use crate::node::Node;
use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thermidor_model::{Command, NodeId, Outcome, Proposal};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Between two looks for a leader while none is known.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Why a command has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not applied: no leader took it before the deadline.
    #[error("the home has no leader that can be reached ({0})")]
    NoLeader(String),
    /// Surely not applied: it does not survive being written down, or the leader does not know us.
    #[error("not taken: {0}")]
    Refused(String),
    /// Applied or not, nobody knows. It is not tried again: look at the state before you do.
    #[error("it is not known whether this was applied: {0}")]
    Unknown(String),
    /// This member is shutting down; surely not applied.
    #[error("this member is shutting down")]
    Stopped,
}

/// A leader's word on a proposal, as sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Applied(Outcome),
    Unknown(String),
}

/// What one attempt came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Attempt {
    Over(Result<Outcome, ProposeError>),
    /// Surely not applied: ask that one, or look again.
    Elsewhere(Option<NodeId>, String),
}

/// A proposal that comes back from the log exactly as it is applied, with its bytes.
pub(crate) fn prepared(command: Command) -> Result<(Proposal, Bytes), ProposeError> {
    let proposal = Proposal { at_ms: wall_ms(), command };
    let refused = |e: codec::CodecError| ProposeError::Refused(e.to_string());
    let bytes = codec::encode(&proposal).map_err(refused)?;
    let back: Proposal = codec::decode(&bytes).map_err(refused)?;
    if back != proposal {
        return Err(ProposeError::Refused("it reads back differently from how it was written".into()));
    }
    Ok((proposal, Bytes::from(bytes)))
}

/// An attempt over a line.
pub(crate) fn attempt_from(answer: Result<Bytes, LineError>) -> Attempt {
    match answer {
        Ok(bytes) => match codec::decode::<Reply>(&bytes) {
            Ok(Reply::Applied(outcome)) => Attempt::Over(Ok(outcome)),
            Ok(Reply::Unknown(why)) => Attempt::Over(Err(ProposeError::Unknown(why))),
            Err(e) => Attempt::Over(Err(ProposeError::Unknown(e.to_string()))),
        },
        Err(LineError::NotLeader(leader)) => Attempt::Elsewhere(leader, "not the leader any more".into()),
        Err(LineError::NotSent(why)) => Attempt::Elsewhere(None, why),
        Err(LineError::Lost(why)) => Attempt::Over(Err(ProposeError::Unknown(why))),
        Err(e @ (LineError::Failed(_) | LineError::Expelled)) => {
            Attempt::Over(Err(ProposeError::Refused(e.to_string())))
        }
    }
}

impl Node {
    /// Proposes a command, from any member. Retries only what surely was not applied; whatever
    /// became ambiguous is reported as [`ProposeError::Unknown`].
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Outcome, ProposeError> {
        let (proposal, bytes) = prepared(command)?;
        let mut leadership = self.leadership();
        let mut hint = None;
        let mut guesses = self.guesses();
        let mut last = String::from("none is known");
        while Instant::now() < deadline {
            if self.is_stopped() {
                return Err(ProposeError::Stopped);
            }
            let known = leadership.borrow_and_update().leader;
            let attempt = match hint.take().or(known).or_else(|| guesses.next()) {
                None => Attempt::Elsewhere(None, last.clone()),
                Some(leader) if leader == self.id() => self.propose_here(proposal.clone(), deadline).await,
                Some(leader) => attempt_from(
                    self.pool().call(leader, Lane::App, "home/propose", bytes.clone(), deadline).await,
                ),
            };
            match attempt {
                Attempt::Over(result) => return result,
                Attempt::Elsewhere(leader, why) => {
                    last = why;
                    if leader.is_some() && leader != known {
                        hint = leader;
                    }
                    let pause = deadline.min(Instant::now() + LOOK_AGAIN);
                    // Either way we look again.
                    drop(timeout_at(pause, leadership.changed()).await);
                }
            }
        }
        Err(ProposeError::NoLeader(last))
    }

    /// The same for what a person ordered: it is sent again where an answer is lost, and applied once.
    /// [`ProposeError::Unknown`] only where no answer comes before the deadline.
    pub async fn propose_once(&self, command: Command, deadline: Instant) -> Result<Outcome, ProposeError> {
        let command = Command::Once { number: rand::random(), command: Box::new(command) };
        let mut unknown = None;
        loop {
            match (self.propose(command.clone(), deadline).await, unknown) {
                (Ok(outcome), _) => return Ok(outcome),
                (Err(e @ ProposeError::Unknown(_)), _) if Instant::now() < deadline => {
                    unknown = Some(e);
                    sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                }
                // That this attempt came to nothing says nothing of those before.
                (Err(last), before) => return Err(before.unwrap_or(last)),
            }
        }
    }

    /// Proposes only if this member leads, and lets no other leader take it: for what was decided from
    /// what this leader alone knows, such as that a lease has ended.
    pub async fn propose_as_leader(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        let (proposal, _) = prepared(command)?;
        match self.propose_here(proposal, deadline).await {
            Attempt::Over(result) => result,
            Attempt::Elsewhere(_, why) => Err(ProposeError::NoLeader(why)),
        }
    }

    /// Other members in turn, for whoever has not heard from a leader yet: each of them knows more.
    pub(crate) fn guesses(&self) -> impl Iterator<Item = NodeId> + Send + use<> {
        let others =
            self.pool().addresses.all().into_keys().filter(|id| *id != self.id()).collect::<Vec<_>>();
        others.into_iter().cycle()
    }

    /// Proposes where this member leads.
    pub(crate) async fn propose_here(&self, proposal: Proposal, deadline: Instant) -> Attempt {
        let unknown = |why: String| Attempt::Over(Err(ProposeError::Unknown(why)));
        let Ok(_under_way) = timeout_at(deadline, self.proposing().read()).await else {
            return Attempt::Elsewhere(None, "leadership is being handed over".into());
        };
        match timeout_at(deadline, self.raft().client_write(proposal)).await {
            Ok(Ok(response)) => Attempt::Over(Ok(response.data)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Attempt::Elsewhere(to.leader_id, "not the leader any more".into())
            }
            Ok(Err(e)) => unknown(e.to_string()),
            Err(_) => unknown("the home did not answer in time".into()),
        }
    }

    /// A proposal sent by another member.
    pub(crate) async fn propose_for(&self, bytes: &[u8], deadline: Instant) -> Result<Bytes, LineError> {
        let failed = |e: codec::CodecError| LineError::Failed(e.to_string());
        let proposal: Proposal = codec::decode(bytes).map_err(failed)?;
        let reply = match self.propose_here(proposal, deadline).await {
            Attempt::Over(Ok(outcome)) => Reply::Applied(outcome),
            Attempt::Over(Err(e)) => Reply::Unknown(e.to_string()),
            Attempt::Elsewhere(leader, _) => return Err(LineError::NotLeader(leader)),
        };
        Ok(Bytes::from(codec::encode(&reply).map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::RadiatorName;

    #[test]
    fn what_does_not_survive_the_log_is_refused_before_it_gets_there() {
        let radiator = RadiatorName::new("salon").unwrap();
        let target = |celsius| Command::Target { radiator: radiator.clone(), celsius: Some(celsius) };
        assert!(prepared(target(19.3)).is_ok());
        assert!(matches!(prepared(target(f64::NAN)), Err(ProposeError::Refused(_))));
        assert!(matches!(prepared(target(f64::INFINITY)), Err(ProposeError::Refused(_))));
    }

    #[test]
    fn only_what_surely_was_not_applied_is_tried_again() {
        let again = [LineError::NotSent("cut".into()), LineError::NotLeader(Some(2))];
        for error in again {
            assert!(matches!(attempt_from(Err(error)), Attempt::Elsewhere(..)));
        }
        let lost = attempt_from(Err(LineError::Lost("cut".into())));
        assert_eq!(lost, Attempt::Over(Err(ProposeError::Unknown("cut".into()))));
        let garbage = attempt_from(Ok(Bytes::from_static(b"?")));
        assert!(matches!(garbage, Attempt::Over(Err(ProposeError::Unknown(_)))));
    }
}
