//! What a vault gives: a blob or a range of it, and lists. Both in pieces, so that memory is bounded whatever the size;
//! a list that can't be finished breaks the connection rather than looking short.

use super::blob::{Item, Kind};
use super::path::{Folder, View};
use super::refusal::Refusal;
use super::server::{Body, Reply, pause};
use super::space::Space;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Response, StatusCode, header};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A piece of a blob that is read and sent at once, in bytes: each goes to another thread and back.
const PIECE: usize = 256 << 10;
/// The same of a list.
const LIST_PIECE: usize = 64 << 10;

/// The list's form with sizes.
pub(super) const V2: &str = "application/vnd.x.restic.rest.v2";
/// The list's form of names only.
pub(super) const V1: &str = "application/vnd.x.restic.rest.v1";

/// Which bytes of a file are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first, up to and without the second.
    Part(u64, u64),
}

/// Reads a `Range`; what is not one range of bytes is as if nothing had been said.
fn wanted(headers: &HeaderMap, size: u64) -> Result<Wanted, Refusal> {
    let given = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let Some((from, to)) = given.and_then(|v| v.strip_prefix("bytes=")).and_then(|v| v.split_once('-'))
    else {
        return Ok(Wanted::All);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (number(from), number(to)) {
        (Some(from), _) if from >= size && (to.is_empty() || number(to).is_some()) => {
            Err(Refusal::Range(size))
        }
        (Some(from), Some(to)) if to >= from => Ok(Wanted::Part(from, to.saturating_add(1).min(size))),
        (Some(from), None) if to.is_empty() => Ok(Wanted::Part(from, size)),
        (None, Some(0)) if from.is_empty() => Err(Refusal::Range(size)),
        (None, Some(last)) if from.is_empty() => Ok(Wanted::Part(size.saturating_sub(last), size)),
        _ => Ok(Wanted::All),
    }
}

/// Gives an item, or only says how long it is.
pub(super) async fn item(
    space: Arc<Space>,
    item: Item,
    view: View,
    headers: &HeaderMap,
    head_only: bool,
) -> Result<Reply, Refusal> {
    let keeper = space.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (file, found) = keeper.disk.open_item(&item)?;
        if keeper.shows(&item, found, view) { Ok((file, found)) } else { Err(Refusal::NotFound) }
    });
    let (file, found) = work.await.map_err(io::Error::other)??;
    let reply = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    if head_only {
        let reply = reply.header(header::CONTENT_LENGTH, found.size);
        return reply.body(Body::default()).map_err(|e| Refusal::Io(io::Error::other(e)));
    }
    let (reply, from, to) = match wanted(headers, found.size)? {
        Wanted::All => (reply, 0, found.size),
        Wanted::Part(from, to) => {
            let range = format!("bytes {from}-{}/{}", to - 1, found.size);
            (reply.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range), from, to)
        }
    };
    let file = Arc::new(file);
    let pieces = stream::try_unfold(from, move |at| {
        let (file, space) = (file.clone(), space.clone());
        async move {
            if at >= to {
                return Ok(None);
            }
            let length = PIECE.min(usize::try_from(to - at).unwrap_or(PIECE));
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            pause(space.wait_down(length)).await;
            Ok::<_, io::Error>(Some((Frame::data(piece), at + length as u64)))
        }
    });
    let reply = reply.header(header::CONTENT_LENGTH, to - from);
    reply.body(StreamBody::new(pieces).boxed_unsync()).map_err(|e| Refusal::Io(io::Error::other(e)))
}

/// Lists a kind, in the form that was asked for.
pub(super) async fn list(
    space: Arc<Space>,
    folder: Folder,
    kind: Kind,
    view: View,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    let with_sizes = headers.get(header::ACCEPT).is_some_and(|accept| accept == V2);
    let (to, mut pieces) = mpsc::channel::<io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        let end = match write_list(&space, &folder, kind, view, with_sizes, &to) {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::warn!(friend = %space.friend, error = %end, "a list broke off");
        // Nobody listens any more: then there is nobody to tell.
        let _ = to.blocking_send(Err(end));
    });
    // An error before the first piece is still an answer.
    let first = pieces.recv().await.ok_or_else(|| Refusal::Io(io::Error::other("a list ended early")))??;
    let rest = stream::unfold(Some((first, pieces)), |state| async {
        let (piece, mut pieces) = state?;
        if piece.is_empty() {
            // The last one.
            return None;
        }
        match pieces.recv().await {
            Some(Ok(next)) => Some((Ok(Frame::data(piece)), Some((next, pieces)))),
            Some(Err(e)) => Some((Err(e), None)),
            None => Some((Err(io::Error::other("a list ended early")), None)),
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, if with_sizes { V2 } else { V1 })
        .body(StreamBody::new(rest).boxed_unsync())
        .map_err(|e| Refusal::Io(io::Error::other(e)))
}

/// Writes a list in pieces and closes it with an empty one.
fn write_list(
    space: &Space,
    folder: &Folder,
    kind: Kind,
    view: View,
    with_sizes: bool,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let send = |piece: Vec<u8>| {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        to.blocking_send(Ok(piece.into())).map_err(gone)
    };
    let mut piece = vec![b'['];
    let mut is_first = true;
    space.disk.list(folder, kind, &mut |name, found| {
        let item = Item { folder: folder.clone(), blob: Some((kind, name)) };
        if !space.shows(&item, found, view) {
            return Ok(());
        }
        let comma = if is_first { "" } else { "," };
        is_first = false;
        let entry = match with_sizes {
            true => format!("{comma}{{\"name\":\"{name}\",\"size\":{}}}", found.size),
            false => format!("{comma}\"{name}\""),
        };
        piece.extend_from_slice(entry.as_bytes());
        if piece.len() >= LIST_PIECE { send(std::mem::take(&mut piece)) } else { Ok(()) }
    })?;
    piece.push(b']');
    send(piece)?;
    send(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_handler_ranges() {
        let ask = |range: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            wanted(&headers, 100).map_err(|e| e.status().as_u16())
        };
        assert_eq!(ask("bytes=0-"), Ok(Wanted::Part(0, 100)));
        assert_eq!(ask("bytes=10-19"), Ok(Wanted::Part(10, 20)));
        assert_eq!(ask("bytes=10-1000"), Ok(Wanted::Part(10, 100)));
        assert_eq!(ask("bytes=99-99"), Ok(Wanted::Part(99, 100)));
        assert_eq!(ask("bytes=-10"), Ok(Wanted::Part(90, 100)));
        assert_eq!(ask("bytes=-1000"), Ok(Wanted::Part(0, 100)));
        for outside in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(ask(outside), Err(416), "{outside}");
        }
        for none in ["bytes=20-10", "bytes=a-b", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=-"] {
            assert_eq!(ask(none), Ok(Wanted::All), "{none}");
        }
        assert_eq!(wanted(&HeaderMap::new(), 0).unwrap(), Wanted::All);
    }
}
