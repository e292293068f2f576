//! The replica's part in the search for bit rot: looks at an extent at its place in the stream, and sends one
//! that another replica lacks.

use super::super::frame::{EXTENT_BYTES, Frame, Refusal};
use super::super::local::LocalEffect;
use super::super::scrub::Found;
use super::{Follower, FollowerEffect};

impl Follower {
    pub(super) fn examine(&mut self, handle: u64, seq: u64, extent: u64) {
        if !self.within(extent) {
            return;
        }
        let Some(session) = &mut self.session else { return };
        session.examining.insert(handle, seq);
        if self.rules.look_in_order {
            self.local.examine(handle, extent);
        } else {
            self.out.push(FollowerEffect::Local(LocalEffect::Examine { id: handle, extent }));
        }
    }

    pub(super) fn examined(&mut self, handle: u64, found: Found) {
        let Some(session) = &mut self.session else { return };
        // of an earlier session: nobody waits for it
        let Some(seq) = session.examining.remove(&handle) else { return };
        let id = session.id;
        self.send(id, Frame::Examined { seq, found });
    }

    pub(super) fn fetch(&mut self, extent: u64) {
        if !self.within(extent) {
            return;
        }
        if let Some(session) = &mut self.session {
            session.fetches.push_back((session.last_handle, extent));
        }
    }

    pub(super) fn send_fetched(&mut self) {
        let size = self.local.header.size_bytes;
        while let Some(session) = &mut self.session {
            let (id, first) = (session.id, session.fetches.front().copied());
            let Some((_, extent)) = first.filter(|(after, _)| self.local.stored_up_to(*after)) else {
                return;
            };
            session.fetches.pop_front();
            let len = EXTENT_BYTES.min(size - extent * EXTENT_BYTES);
            self.send(id, Frame::Extent { extent, len, hole: false });
        }
    }

    /// Whether there is such an extent; the session is refused otherwise.
    fn within(&mut self, extent: u64) -> bool {
        let inside = extent.checked_mul(EXTENT_BYTES).is_some_and(|at| at < self.local.header.size_bytes);
        if !inside && let Some(session) = &self.session {
            let id = session.id;
            self.refuse(id, Refusal::Unexpected("extent outside of the volume".into()));
        }
        inside
    }
}
