//! Proof of leadership: a quorum round begun after the caller asked. Callers that come while one
//! round runs share the next. Who is in no hurry is served by the heartbeats that go out anyway.

use crate::calling::CallError;
use crate::muting::Muted;
use crate::types::{C, Raft};
use openraft::alias::InstantOf;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant, RaftMetrics, ReadPolicy, ServerState};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Callers waiting for a round; beyond it they wait in line outside.
const CALLERS_MAX: usize = 4096;
/// A round takes no longer; openraft itself gives up after election_max_ms.
const ROUND_MAX: Duration = Duration::from_secs(2);

type Caller = oneshot::Sender<Result<(), CallError>>;

/// Where to ask for a round.
#[derive(Clone)]
pub(crate) struct Barriers(mpsc::Sender<Caller>);

impl Barriers {
    pub(crate) fn start(raft: Raft, muted: Muted, stop: CancellationToken) -> Self {
        let (ask, callers) = mpsc::channel(CALLERS_MAX);
        tokio::spawn(stop.run_until_cancelled_owned(serve(raft, muted, callers)));
        Self(ask)
    }

    pub(crate) async fn pass(&self) -> Result<(), CallError> {
        let (tell, told) = oneshot::channel();
        self.0.send(tell).await.map_err(|_| CallError::Stopped)?;
        told.await.map_err(|_| CallError::Stopped)?
    }
}

async fn serve(raft: Raft, muted: Muted, mut callers: mpsc::Receiver<Caller>) {
    while let Some(first) = callers.recv().await {
        let mut sharing = vec![first];
        while let Ok(caller) = callers.try_recv() {
            sharing.push(caller);
        }
        // A round would be heartbeats too.
        let result = match muted.is_silent() {
            true => Err(CallError::NoQuorum("no majority has answered for long".into())),
            false => round(&raft).await,
        };
        for caller in sharing {
            // Err: the caller has stopped waiting.
            drop(caller.send(result.clone()));
        }
    }
}

/// Waits until a quorum has acknowledged something that this leader sent after the call, and what was committed
/// then is applied: what a round proves, for as long as `wait` without a message of its own. False: not
/// within that time.
pub(crate) async fn heartbeat_proves(raft: &Raft, wait: Duration) -> bool {
    let called = <InstantOf<C> as Instant>::now();
    let proven = |m: &RaftMetrics<C>| {
        let acked = m.last_quorum_acked.is_some_and(|at| at.into_inner() > called);
        // Before an entry of its own term is committed a leader does not know what is.
        let knows = m.cluster_committed.is_some_and(|log_id| log_id.leader_id.term == m.current_term);
        m.state == ServerState::Leader && acked && knows
    };
    let Ok(then) = raft.wait(Some(wait)).metrics(proven, "a heartbeat's proof").await else { return false };
    if then.last_applied >= then.cluster_committed {
        return true;
    }
    let applied = |m: &RaftMetrics<C>| m.last_applied >= then.cluster_committed;
    raft.wait(Some(wait)).metrics(applied, "what was committed").await.is_ok()
}

async fn round(raft: &Raft) -> Result<(), CallError> {
    let round = raft.ensure_linearizable(ReadPolicy::ReadIndex);
    match tokio::time::timeout(ROUND_MAX, round).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(why(e)),
        Err(_) => Err(CallError::NoQuorum("a quorum round takes too long".into())),
    }
}

fn why(error: RaftError<C, LinearizableReadError<C>>) -> CallError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => CallError::NotLeader(to.leader_id),
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(e)) => CallError::NoQuorum(e.to_string()),
        RaftError::Fatal(_) => CallError::Stopped,
    }
}
