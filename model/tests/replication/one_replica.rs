//! A replica by itself, and what it says and does; as the scenarios drive it.

use crate::bench::{EPOCH, SIZE, id_of, name};
use thermidor_model::replication::{
    Follower, FollowerEffect, FollowerEvent, Frame, Image, Limits, LocalEffect, LocalEvent, WIRE_VERSION,
};

pub struct Replica {
    pub follower: Follower,
    /// Of the last frame.
    pub handle: u64,
}

impl Replica {
    pub fn new(image: Image) -> Self {
        Self { follower: Follower::start(image, Limits::default()), handle: 0 }
    }

    /// An epoch has begun, of a device of the usual size, and its stream too.
    pub fn following(image: Image, torn: bool) -> Self {
        let mut replica = Self::new(image);
        replica.hello(1, EPOCH);
        let present = replica.disk(LocalEvent::HeaderSaved);
        assert!(matches!(sent(&present)[..], [Frame::Present { .. }]));
        replica.hear(1, Frame::Begin { torn });
        replica
    }

    pub fn hear(&mut self, session: u64, frame: Frame) -> Vec<FollowerEffect> {
        self.handle += 1;
        self.follower.handle(0, FollowerEvent::Frame { session, handle: self.handle, frame })
    }

    pub fn disk(&mut self, event: LocalEvent) -> Vec<FollowerEffect> {
        self.follower.handle(0, FollowerEvent::Local(event))
    }

    pub fn hello(&mut self, session: u64, epoch: u64) -> Vec<FollowerEffect> {
        self.hello_of(session, epoch, SIZE)
    }

    /// A greeting of a device of that size.
    pub fn hello_of(&mut self, session: u64, epoch: u64, size_bytes: u64) -> Vec<FollowerEffect> {
        let (version, volume, replica) = (WIRE_VERSION, name(), id_of(2));
        self.hear(session, Frame::Hello { version, volume, epoch, active: 1, replica, size_bytes })
    }
}

pub fn sent(effects: &[FollowerEffect]) -> Vec<Frame> {
    let frame = |e: &FollowerEffect| {
        if let FollowerEffect::Send { frame, .. } = e { Some(frame.clone()) } else { None }
    };
    effects.iter().filter_map(frame).collect()
}

pub fn local(effects: &[FollowerEffect]) -> Vec<LocalEffect> {
    let local =
        |e: &FollowerEffect| if let FollowerEffect::Local(local) = e { Some(local.clone()) } else { None };
    effects.iter().filter_map(local).collect()
}
