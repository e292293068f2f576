//! Proof of leadership: a quorum round begun after the caller asked. Callers that come while one
//! round runs share the next.

use crate::calling::CallError;
use crate::types::{C, Raft};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
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
    pub(crate) fn start(raft: Raft, stop: CancellationToken) -> Self {
        let (ask, callers) = mpsc::channel(CALLERS_MAX);
        tokio::spawn(stop.run_until_cancelled_owned(serve(raft, callers)));
        Self(ask)
    }

    pub(crate) async fn pass(&self) -> Result<(), CallError> {
        let (tell, told) = oneshot::channel();
        self.0.send(tell).await.map_err(|_| CallError::Stopped)?;
        told.await.map_err(|_| CallError::Stopped)?
    }
}

async fn serve(raft: Raft, mut callers: mpsc::Receiver<Caller>) {
    while let Some(first) = callers.recv().await {
        let mut sharing = vec![first];
        while let Ok(caller) = callers.try_recv() {
            sharing.push(caller);
        }
        let result = round(&raft).await;
        for caller in sharing {
            // Err: the caller has stopped waiting.
            drop(caller.send(result.clone()));
        }
    }
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
