//! The in-sync set: who counts, who is dropped, who joins; always through Raft.

use super::super::frame::Frame;
use super::{Active, Answer, Effect};
use crate::command::Command;
use crate::name::NodeId;
use crate::state::Volume;
use std::collections::BTreeSet;

/// A replica that was dropped is waited for again once it makes a flush durable within this part of the time that
/// flushes wait for a member at most: one that is only slow would stop every flush for that long.
const PROMPT: u64 = 2;

/// The one proposal under way.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Proposed {
    node: NodeId,
    join: bool,
    set_was: u64,
    at_ms: u64,
}

impl Active {
    /// In the set, or perhaps.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.config.in_sync.contains(&node) || self.maybe_in.is_some_and(|(maybe, _)| maybe == node)
    }

    /// Whether flushes wait for it.
    pub(super) fn counted(&self, node: NodeId) -> bool {
        if !self.rules.drop_through_raft && self.is_lost(node) {
            return false;
        }
        self.is_member(node) || self.peers.get(&node).is_some_and(|peer| peer.joining)
    }

    /// Whether a member is to be dropped.
    fn is_lost(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| {
            let silent = self.now_ms >= peer.heard_ms + self.limits.replica_timeout_ms;
            let owes = self.flushes.front().is_some_and(|flush| {
                flush.seq > peer.durable && self.now_ms >= flush.since_ms + self.limits.flush_timeout_ms
            });
            peer.failed || silent || owes
        })
    }

    /// A new configuration was applied here.
    pub(super) fn configured(&mut self, volume: Volume) {
        if volume.epoch > self.config.epoch {
            return self.fence(format!("epoch {} has begun", volume.epoch));
        }
        if volume.epoch < self.config.epoch || volume.set_version < self.config.set_version {
            return;
        }
        if volume.active != Some(self.me) || !volume.in_sync.contains(&self.me) {
            return self.fence("this radiator is not the active any more".into());
        }
        let before = std::mem::take(&mut self.config.in_sync);
        self.config = Volume { size_bytes: self.config.size_bytes, ..volume };
        self.set_changed(&before);
    }

    /// What became of the proposal.
    pub(super) fn answered(&mut self, answer: &Answer) {
        let Some(proposed) = self.proposed.take() else { return };
        let done = match answer {
            Answer::Set(_) => true,
            Answer::Refused => !self.rules.act_on_applied,
            Answer::Unknown => {
                if proposed.join && !self.rules.unknown_counts_as_in {
                    self.maybe_in = None;
                }
                false
            }
        };
        if !done {
            self.propose_after_ms = self.now_ms + self.limits.propose_again_ms;
        } else if self.config.set_version == proposed.set_was {
            let before = self.config.in_sync.clone();
            if proposed.join {
                self.config.in_sync.insert(proposed.node);
            } else {
                self.config.in_sync.remove(&proposed.node);
            }
            if let Answer::Set(version) = answer {
                self.config.set_version = *version;
            }
            self.set_changed(&before);
        }
    }

    fn set_changed(&mut self, before: &BTreeSet<NodeId>) {
        let version = self.config.set_version;
        self.maybe_in = self.maybe_in.filter(|(_, set_was)| version == *set_was);
        self.renew_peers();
        let mut torn = Vec::new();
        let members = &self.config.in_sync;
        for (node, peer) in &mut self.peers {
            let member = members.contains(node);
            peer.joining &= !member;
            if let Some(stream) = peer.stream.as_mut().filter(|_| !member && before.contains(node)) {
                // what it made durable as a member does not count for joining again
                stream.settle = None;
            }
            if let (Some(session), Some(stream)) = (peer.session, peer.stream.as_mut())
                && !member
                && !stream.torn
                && !stream.whole()
            {
                stream.torn = true;
                torn.push((*node, session));
            }
        }
        for (node, session) in torn {
            self.send(node, session, Frame::Begin { torn: true });
        }
    }

    /// Proposes what is due, one at a time.
    pub(super) fn pump_set(&mut self) {
        self.join_those_ready();
        if let Some(proposed) = self.proposed {
            if self.now_ms < proposed.at_ms + self.limits.flush_timeout_ms {
                return;
            }
            self.answered(&Answer::Unknown);
        }
        if self.now_ms < self.propose_after_ms {
            return;
        }
        let set_was = self.config.set_version;
        let lost = self.config.in_sync.iter().find(|node| **node != self.me && self.is_lost(**node));
        let next = match self.maybe_in {
            Some((node, _)) => Some((node, true)),
            None => lost.map(|node| (*node, false)).or_else(|| self.ready().map(|node| (node, true))),
        };
        if let Some((node, join)) = next {
            self.propose(Proposed { node, join, set_was, at_ms: self.now_ms });
        }
    }

    /// Whoever lacks nothing any more, and was not slow to say so, is waited for, so that it can catch the last flush.
    fn join_those_ready(&mut self) {
        let prompt_ms = self.limits.flush_timeout_ms / PROMPT;
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let (member, lost) = (self.config.in_sync.contains(&node), self.is_lost(node));
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            let was_joining = std::mem::take(&mut peer.joining);
            let Some(stream) = peer.stream.as_mut().filter(|stream| !member && stream.whole()) else {
                continue;
            };
            let settled = stream.settle.is_some_and(|settle| peer.durable >= settle);
            let late = settled && !was_joining && self.now_ms > stream.settle_ms + prompt_ms;
            if late || was_joining && lost {
                // its next flush shows whether it is as fast as the others by then
                stream.settle = None;
            } else {
                peer.joining = settled && !lost;
                if peer.joining {
                    stream.settle_ms = 0;
                }
            }
        }
    }

    /// A joining replica that has all that was ever answered, and whose every later change is marked.
    fn ready(&self) -> Option<NodeId> {
        let ready = self.peers.iter().find(|(_, peer)| {
            let settle = peer.stream.as_ref().and_then(|s| s.settle);
            peer.joining
                && peer.durable >= self.all_durable
                && settle.is_some_and(|settle| self.all_durable >= settle)
        });
        ready.map(|(node, _)| *node)
    }

    fn propose(&mut self, proposed: Proposed) {
        let Proposed { node, join, set_was, .. } = proposed;
        let (volume, epoch) = (self.volume.clone(), self.config.epoch);
        let Some(peer) = self.peers.get(&node) else { return };
        let command = if join {
            self.maybe_in = Some((node, set_was));
            Command::JoinSet { volume, epoch, set_was, node, id: peer.id }
        } else {
            Command::DropFromSet { volume, epoch, set_was, node }
        };
        self.proposed = Some(proposed);
        self.out.push(Effect::Propose(command));
    }
}
