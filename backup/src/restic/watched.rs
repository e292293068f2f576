//! A body that goes by between restic and a vault. Of a pack that goes by whole a retention challenge is drawn, without
//! keeping any of it: those of an upload while the home has the bytes itself, so no vault can tell which it will be asked.

use crate::stock::Stock;
use crate::vault::{BlobName, Challenge, Drawing, Kind};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// Where what is drawn goes. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Drawn(Arc<Mutex<Stock>>);

impl Drawn {
    pub fn new(stock: Stock) -> Self {
        Self(Arc::new(Mutex::new(stock)))
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, challenge: Challenge) {
        self.stock().add(challenge, &mut rand::rng());
    }

    pub fn stock_so_far(&self) -> Stock {
        self.stock().clone()
    }
}

/// The challenge of an upload, until the vault has said that it keeps the pack.
pub(super) type Pending = Arc<Mutex<Option<Challenge>>>;

/// What becomes of a challenge that is drawn.
enum Then {
    /// The pack is there already.
    Keep(Drawn),
    /// The vault has still to take it.
    Wait(Pending),
}

/// A body that goes by.
pub(super) struct Watched {
    body: Incoming,
    drawing: Option<(Drawing, Then)>,
}

impl Watched {
    /// One that is only passed on.
    pub fn unseen(body: Incoming) -> Self {
        Self { body, drawing: None }
    }

    /// An upload of a pack; what is drawn lies in `pending` once it has gone by.
    pub fn upload(body: Incoming, headers: &HeaderMap, name: BlobName, pending: &Pending) -> Self {
        let size = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self::drawing(body, size, name, Then::Wait(pending.clone()))
    }

    /// An answer with a pack, or a part of it: only of a whole one something is drawn.
    pub fn answer(body: Incoming, headers: &HeaderMap, name: BlobName, drawn: &Drawn) -> Self {
        let text = |header| headers.get(header).and_then(|value| value.to_str().ok());
        let size = match text(CONTENT_RANGE) {
            Some(range) => whole(range),
            None => text(CONTENT_LENGTH).and_then(|size| size.parse().ok()),
        };
        Self::drawing(body, size, name, Then::Keep(drawn.clone()))
    }

    fn drawing(body: Incoming, size: Option<u64>, name: BlobName, then: Then) -> Self {
        let begin = |size| (Drawing::begin(Kind::Data, name, size, &mut rand::rng()), then);
        Self { body, drawing: size.filter(|size| *size > 0).map(begin) }
    }
}

/// The size of what a `Content-Range` says to be whole: `bytes 0-99/100`.
fn whole(range: &str) -> Option<u64> {
    let (last, size) = range.strip_prefix("bytes 0-")?.split_once('/')?;
    let (last, size): (u64, u64) = (last.parse().ok()?, size.parse().ok()?);
    (last.checked_add(1)? == size).then_some(size)
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let piece = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let is_whole =
            piece.zip(self.drawing.as_mut()).is_some_and(|(piece, (drawing, _))| drawing.see(piece));
        if is_whole && let Some((drawing, then)) = self.drawing.take() {
            let challenge = drawing.end();
            match (then, challenge) {
                (Then::Keep(drawn), Some(challenge)) => drawn.add(challenge),
                (Then::Wait(pending), challenge) => {
                    *pending.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
                }
                // Not what its name says: restic sees that for itself.
                (Then::Keep(_), None) => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_to_be_whole_is() {
        assert_eq!(whole("bytes 0-99/100"), Some(100));
        for part in [
            "bytes 0-98/100",
            "bytes 1-99/100",
            "bytes 0-99/*",
            "bytes */100",
            "",
            "bytes 0-18446744073709551615/0",
        ] {
            assert_eq!(whole(part), None, "{part}");
        }
    }
}
