//! A snapshot goes over its own lane in pieces, each acknowledged before the next is sent.

use crate::codec;
use crate::line::{Line, LineError};
use crate::types::C;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::raft::SnapshotResponse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use thermidor_model::NodeId;
use tokio::time::Instant;

/// Bytes in one piece.
const PIECE: usize = 512 << 10;
/// Largest snapshot taken, bytes.
const SNAPSHOT_MAX: u64 = 512 << 20;
/// How long a piece may take; the last one is answered after the snapshot was written to disk.
const PIECE_MAX: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Head {
    vote: VoteOf<C>,
    meta: SnapshotMetaOf<C>,
    total: u64,
    offset: u64,
}

/// A piece: length of the head, head, bytes.
fn piece(head: &Head, bytes: &[u8]) -> Result<Bytes, LineError> {
    let head = codec::encode(head).map_err(|e| LineError::NotSent(e.to_string()))?;
    let mut out = BytesMut::with_capacity(4 + head.len() + bytes.len());
    out.put_u32(u32::try_from(head.len()).map_err(|e| LineError::NotSent(e.to_string()))?);
    out.put_slice(&head);
    out.put_slice(bytes);
    Ok(out.freeze())
}

/// Sends a whole snapshot.
pub(crate) async fn send(
    line: &Line,
    vote: VoteOf<C>,
    snapshot: SnapshotOf<C, Bytes>,
) -> Result<SnapshotResponse<C>, LineError> {
    let whole = snapshot.snapshot;
    let mut head = Head { vote, meta: snapshot.meta, total: whole.len() as u64, offset: 0 };
    let mut answer = Bytes::new();
    for bytes in whole.chunks(PIECE) {
        let body = piece(&head, bytes)?;
        answer = line.call("raft/snapshot", body, Instant::now() + PIECE_MAX).await?;
        head.offset += bytes.len() as u64;
    }
    codec::decode(&answer).map_err(|e| LineError::Failed(e.to_string()))
}

/// Snapshots under way to us, at most one from each member.
#[derive(Default)]
pub(crate) struct Arriving(BTreeMap<NodeId, (SnapshotMetaOf<C>, BytesMut)>);

/// A snapshot that has arrived whole.
pub(crate) type Arrived = (VoteOf<C>, SnapshotOf<C, Bytes>);

impl Arriving {
    /// Takes a piece; `Some` when it was the last.
    pub(crate) fn take(&mut self, from: NodeId, mut body: Bytes) -> Result<Option<Arrived>, String> {
        let length = body.try_get_u32().map_err(|_| "a piece without a head")? as usize;
        if body.len() < length {
            return Err("a piece with half a head".into());
        }
        let head: Head = codec::decode(&body.split_to(length)).map_err(|e| e.to_string())?;
        if head.total > SNAPSHOT_MAX {
            return Err(format!("a snapshot of {} bytes is larger than a home's state can be", head.total));
        }
        if head.offset == 0 {
            self.0.insert(from, (head.meta.clone(), BytesMut::new()));
        }
        let Some((meta, bytes)) = self.0.get_mut(&from) else {
            return Err("the beginning of this snapshot is missing".into());
        };
        let fits = *meta == head.meta
            && bytes.len() as u64 == head.offset
            && head.offset + body.len() as u64 <= head.total;
        if !fits {
            self.0.remove(&from);
            return Err("a piece that does not follow the one before".into());
        }
        bytes.put_slice(&body);
        if (bytes.len() as u64) < head.total {
            return Ok(None);
        }
        let whole = self.0.remove(&from).map(|(_, bytes)| bytes.freeze()).unwrap_or_default();
        Ok(Some((head.vote, SnapshotOf::<C, Bytes> { meta: head.meta, snapshot: whole })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(offset: u64, total: u64) -> Head {
        let meta = SnapshotMetaOf::<C> { last_log_id: None, last_membership: Default::default() };
        Head { vote: VoteOf::<C>::new(1, 1), meta, total, offset }
    }

    #[test]
    fn pieces_in_order_make_a_whole_and_others_are_refused() {
        let mut arriving = Arriving::default();
        assert!(arriving.take(1, piece(&head(0, 6), b"abc").unwrap()).unwrap().is_none());
        let (_, whole) = arriving.take(1, piece(&head(3, 6), b"def").unwrap()).unwrap().unwrap();
        assert_eq!(whole.snapshot, Bytes::from_static(b"abcdef"));

        assert!(arriving.take(1, piece(&head(3, 6), b"def").unwrap()).is_err(), "no beginning");
        assert!(arriving.take(1, piece(&head(0, 6), b"abc").unwrap()).unwrap().is_none());
        assert!(arriving.take(1, piece(&head(4, 6), b"ef").unwrap()).is_err(), "a gap");
        assert!(arriving.take(1, piece(&head(0, 2), b"abc").unwrap()).is_err(), "too much");
        assert!(arriving.take(1, piece(&head(0, u64::MAX), b"abc").unwrap()).is_err(), "too large");
        assert!(arriving.take(1, Bytes::from_static(b"\xff\xff\xff\xffx")).is_err());
        assert!(arriving.take(1, Bytes::from_static(b"x")).is_err());
    }
}
