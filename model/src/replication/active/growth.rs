//! A device that becomes longer while it is served.

use super::super::frame::{EXTENT_BYTES, Frame};
use super::Active;

impl Active {
    /// Every replica hears of it in the stream, before whatever is written beyond the old end: whose image can't
    /// follow refuses, is silent from then on, and leaves the set through Raft. So whatever is flushed beyond the
    /// old end is on every member. Nothing is stored here before the image is durably as long.
    pub(super) fn grow(&mut self, size_bytes: u64) {
        let had_bytes = self.config.size_bytes;
        if self.fenced || size_bytes <= had_bytes {
            return;
        }
        self.config.size_bytes = size_bytes;
        self.local.resize(size_bytes);
        self.look_beyond(had_bytes / EXTENT_BYTES);
        if !self.started {
            // whoever is greeted later hears the new size then
            return;
        }
        let greeted = self.peers.iter().filter_map(|(node, peer)| Some((*node, peer.session?)));
        let greeted: Vec<_> = greeted.collect();
        for (node, session) in greeted {
            self.send(node, session, Frame::Grow { size_bytes });
        }
    }
}
