//! A device that grows in the simulated home: the record wants it, disks have room for it or not, and whoever is
//! away, crashes or takes over meanwhile follows later.

use crate::disk::BLOCK;
use crate::world::{MS, Machine, World};
use thermidor_model::NodeId;
use thermidor_model::replication::{Event, FollowerEvent, Frame, Image};

impl World {
    /// Perhaps the volume is to be longer, and perhaps this radiator has no room for that.
    pub fn grow_something(&mut self, id: NodeId) {
        let wanted = self.raft.volume().size_bytes;
        if wanted == self.size_bytes || !self.dice.permille(400) {
            return;
        }
        if self.dice.permille(400) {
            let until = self.now_us + self.dice.range(20, 600) * MS;
            self.note(|| format!("{id} has no room until {}", until / MS - 1000));
            self.node(id).short_until = until;
        }
        let more = self.dice.range(1, 7) * BLOCK;
        let size_bytes = (wanted + more).min(self.size_bytes);
        self.note(|| format!("the volume is to have {} blocks", size_bytes / BLOCK));
        self.raft.grow(size_bytes);
        self.announce();
    }

    fn has_room(&self, id: NodeId) -> bool {
        self.nodes[&id].short_until <= self.now_us
    }

    /// Whoever attaches makes the image longer before, or some time later.
    pub fn lengthen(&mut self, id: NodeId, image: &mut Image) {
        let wanted = self.nodes[&id].view.as_ref().map_or(0, |view| view.size_bytes);
        if wanted <= image.header.size_bytes || !self.has_room(id) || !self.dice.permille(500) {
            return;
        }
        image.header.size_bytes = wanted;
        if let Some(disk) = &mut self.node(id).disk {
            disk.resize(wanted);
        }
    }

    /// An active whose record wants more has it done once there is room.
    pub fn grow_device(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let (Some(view), Some(disk)) = (&node.view, &node.disk) else { return };
        let size_bytes = view.size_bytes;
        let short = size_bytes > disk.header.size_bytes && matches!(node.machine, Machine::Active(_));
        if short && self.has_room(id) && self.dice.permille(300) {
            self.tell_active(id, Event::Grow { size_bytes });
        }
    }

    /// A replica's shell looks before it brings a longer device.
    pub fn look_for_room(&mut self, id: NodeId, frame: &Frame) {
        if let Frame::Hello { size_bytes, .. } | Frame::Grow { size_bytes } = frame {
            let size_bytes = if self.has_room(id) { *size_bytes } else { 0 };
            self.tell_follower(id, FollowerEvent::Room { size_bytes });
        }
    }

    /// The file system sees the device as long as the image is.
    pub fn see_size(&mut self, id: NodeId) {
        if let Some(disk) = &self.nodes[&id].disk {
            self.client.resized((disk.header.size_bytes / BLOCK) as usize);
        }
    }
}
