//! openraft's messages over our lanes: heartbeats and votes on one, entries on another,
//! snapshots on a third.

use crate::codec;
use crate::line::{Lane, LineError};
use crate::line_pool::LinePool;
use crate::snapshot_stream;
use crate::types::C;
use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::{Serialize, de::DeserializeOwned};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::time::Instant;

/// An append may wait for a slow disk on the other side: an SD card takes its time.
const APPEND_MAX: Duration = Duration::from_secs(2);
/// Between two attempts at an unreachable member. Lines have their own, shorter pauses.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Makes clients for openraft.
pub(crate) struct Network {
    pub(crate) pool: Arc<LinePool>,
}

/// openraft's way to one member.
pub(crate) struct Peer {
    pool: Arc<LinePool>,
    target: NodeId,
    /// Whose appends are heartbeats.
    lane: Lane,
}

impl Network {
    fn peer(&self, target: NodeId, node: &BasicNode, lane: Lane) -> Peer {
        if let Ok(address) = node.addr.parse() {
            self.pool.addresses.suggest(target, address);
        }
        Peer { pool: self.pool.clone(), target, lane }
    }
}

impl RaftNetworkFactory<C> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Peer {
        self.peer(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &BasicNode) -> Peer {
        self.peer(target, node, Lane::Beat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &BasicNode) -> Peer {
        self.peer(target, node, Lane::Snapshot)
    }
}

/// Unreachable makes openraft pause before it tries again; a network error does not.
fn rpc_error(error: &LineError) -> RPCError<C> {
    match error {
        LineError::Lost(_) => NetworkError::new(error).into(),
        _ => Unreachable::new(error).into(),
    }
}

impl Peer {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        lane: Lane,
        verb: &str,
        request: &Q,
        time: Duration,
    ) -> Result<A, RPCError<C>> {
        let body = codec::encode(request).map_err(|e| RPCError::from(Unreachable::new(&e)))?;
        let deadline = Instant::now() + time;
        // Raft's messages may come twice and late.
        let answer = self.pool.call_hedged(self.target, lane, verb, Bytes::from(body), deadline).await;
        let answer = answer.map_err(|e| rpc_error(&e))?;
        codec::decode(&answer).map_err(|e| RPCError::from(Unreachable::new(&e)))
    }
}

impl RaftNetworkV2<C> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let time = if self.lane == Lane::Beat { option.hard_ttl() } else { APPEND_MAX };
        self.ask(self.lane, "raft/append", &request, time).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask(Lane::Beat, "raft/vote", &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask(Lane::Beat, "raft/pre-vote", &request, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        self.ask(Lane::Beat, "raft/transfer", &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let line = self.pool.line(self.target, Lane::Snapshot);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = snapshot_stream::send(&line, vote, snapshot) => sent.map_err(|e| match e {
                LineError::Lost(_) => NetworkError::new(&e).into(),
                _ => Unreachable::new(&e).into(),
            }),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}
