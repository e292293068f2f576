//! Replicas and in-sync sets. Every change names the epoch and the set version it was computed from.

use super::{Applied, invalid, stale};
use crate::command::{Outcome, Refusal};
use crate::name::{NodeId, ReplicaId, ServiceName, UnixMs, VolumeName};
use crate::state::{Role, State, Volume, Weight};

impl State {
    fn volume_at(&self, name: &VolumeName, epoch: Option<u64>, set_was: u64) -> Result<&Volume, Refusal> {
        match self.volumes.get(name) {
            None => invalid(format!("there is no volume {name}: `thermidor volume ls` lists them")),
            Some(v) if epoch.is_some_and(|e| e != v.epoch) => {
                stale(format!("{name} is in epoch {}", v.epoch))
            }
            Some(v) if v.set_version != set_was => {
                stale(format!("the in-sync set of {name} is version {} by now", v.set_version))
            }
            Some(v) => Ok(v),
        }
    }

    /// Changes a volume, raises its set's version, and tells of it in words made from what it is then.
    fn change_set(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        change: impl FnOnce(&mut Volume),
        words: impl FnOnce(&Self, &Volume) -> (Weight, String),
    ) -> Applied {
        let Some(volume) = self.volumes.get_mut(name) else { return stale("gone") };
        change(volume);
        volume.set_version += 1;
        let version = volume.set_version;
        let (weight, text) = words(self, &self.volumes[name]);
        self.tell(at, weight, &format!("volume/{name}"), text);
        Ok(Outcome::Set(version))
    }

    pub(super) fn add_replica(
        &mut self,
        name: &VolumeName,
        set_was: u64,
        node: NodeId,
        id: ReplicaId,
    ) -> Applied {
        let volume = self.volume_at(name, None, set_was)?;
        if volume.replicas.contains_key(&node) {
            return stale(format!("{} holds a replica of {name} already", self.name_of(node)));
        }
        if self.volumes.values().any(|v| v.replicas.values().any(|known| *known == id)) {
            return invalid(format!("replica {id} is in use"));
        }
        if !self.members.get(&node).is_some_and(|m| m.role == Role::Radiator) {
            return invalid(format!("{} is no radiator", self.name_of(node)));
        }
        let Some(volume) = self.volumes.get_mut(name) else { return stale("gone") };
        let first = volume.replicas.is_empty() && volume.epoch == 0;
        volume.replicas.insert(node, id);
        volume.set_version += 1;
        // Whoever has a shared folder mounted sees what was written elsewhere.
        if first || volume.driver.is_folder() {
            volume.in_sync.insert(node);
        }
        Ok(Outcome::Set(volume.set_version))
    }

    /// The event that a replica was taken out; the planner looks for it before it makes it anew.
    pub(crate) fn kept_no_more(&self, volume: &VolumeName, node: NodeId) -> String {
        format!("{volume} is kept on {} no more", self.name_of(node))
    }

    pub(super) fn remove_replica(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        set_was: u64,
        node: NodeId,
    ) -> Applied {
        let volume = self.volume_at(name, None, set_was)?;
        if !volume.replicas.contains_key(&node) {
            return stale(format!("{} holds no replica of {name}", self.name_of(node)));
        }
        if volume.active == Some(node) {
            return invalid(format!("{name} is active on {}: move its service first", self.name_of(node)));
        }
        if volume.in_sync.contains(&node) && volume.in_sync.len() == 1 {
            return invalid(format!("{} holds the last in-sync replica of {name}", self.name_of(node)));
        }
        // One that is not in sync holds nothing that the others lack: its image goes, for a new one may need the room.
        if !volume.in_sync.contains(&node) {
            let removed = volume.images(name).find(|image| image.node == node);
            self.removed_images.extend(removed);
        }
        let remove = |volume: &mut Volume| {
            volume.replicas.remove(&node);
            volume.in_sync.remove(&node);
        };
        self.change_set(at, name, remove, |state, _| (Weight::Note, state.kept_no_more(name, node)))
    }

    pub(super) fn join_set(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        epoch: u64,
        set_was: u64,
        node: NodeId,
        id: ReplicaId,
    ) -> Applied {
        let volume = self.volume_at(name, Some(epoch), set_was)?;
        if volume.replicas.get(&node) != Some(&id) {
            return stale(format!("replica {id} of {name} is not the one on {}", self.name_of(node)));
        }
        let insert = |volume: &mut Volume| {
            volume.in_sync.insert(node);
        };
        self.change_set(at, name, insert, |state, volume| {
            let there = volume.in_sync.len() as u32;
            let text = format!(
                "{name} is in sync on {} ({there} of {} replicas)",
                state.name_of(node),
                volume.replicas_wanted
            );
            // Whole again; a volume that is being made is no news.
            let mended = there == volume.durability && volume.set_version > 8;
            (if mended { Weight::Mail } else { Weight::Note }, text)
        })
    }

    pub(super) fn drop_from_set(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        epoch: u64,
        set_was: u64,
        node: NodeId,
    ) -> Applied {
        let volume = self.volume_at(name, Some(epoch), set_was)?;
        if !volume.in_sync.contains(&node) {
            return stale(format!("{} is not in sync for {name}", self.name_of(node)));
        }
        if volume.active == Some(node) {
            return invalid(format!("{name} is active on {}: it hands over first", self.name_of(node)));
        }
        if volume.in_sync.len() == 1 {
            return invalid(format!("{} holds the last in-sync replica of {name}", self.name_of(node)));
        }
        self.leave_set(at, name, node)
    }

    /// After a failover: the old active's lease has run out without a word from it. The new one would wait
    /// for it in vain before its first flush, so it leaves the sets with the same command.
    pub(super) fn leave_sets(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        lost: NodeId,
    ) -> Result<(), Refusal> {
        let of_service = |v: &Volume| {
            v.service == *service && !v.driver.is_folder() && v.in_sync.contains(&lost) && v.in_sync.len() > 1
        };
        let names: Vec<_> =
            self.volumes.iter().filter(|(_, v)| of_service(v)).map(|(name, _)| name.clone()).collect();
        names.iter().try_for_each(|name| self.leave_set(at, name, lost).map(drop))
    }

    /// Takes a member out of a set that has others, and says so.
    fn leave_set(&mut self, at: UnixMs, name: &VolumeName, node: NodeId) -> Applied {
        let remove = |volume: &mut Volume| {
            volume.in_sync.remove(&node);
        };
        self.change_set(at, name, remove, |state, volume| {
            let (left, durability) = (volume.in_sync.len() as u32, volume.durability);
            let text = format!("{} is behind for {name}: {left} in sync", state.name_of(node));
            if left < durability {
                return (Weight::Mail, format!("{text}, below its durability of {durability}"));
            }
            (Weight::Note, text)
        })
    }

    pub(super) fn promote(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        epoch: u64,
        set_was: u64,
        node: NodeId,
    ) -> Applied {
        let volume = self.volume_at(name, Some(epoch), set_was)?;
        if !volume.replicas.contains_key(&node) {
            return invalid(format!("{} holds no replica of {name}", self.name_of(node)));
        }
        if volume.driver.is_folder() {
            return invalid(format!("{name} is {}: it has no older replica", volume.driver));
        }
        if volume.active.is_some() {
            return invalid(format!("{name} is active: nothing needs promoting"));
        }
        if volume.in_sync.contains(&node) {
            return invalid(format!("{} is in sync for {name}: nothing needs promoting", self.name_of(node)));
        }
        // What the others hold may be newer, and is of another line from now on: they are its replicas no
        // more. Made anew, each finds a foreign image on its disk and keeps that aside.
        let only = |volume: &mut Volume| {
            volume.replicas.retain(|holder, _| *holder == node);
            volume.in_sync = [node].into();
        };
        self.change_set(at, name, only, |state, _| {
            let here = state.name_of(node);
            let text = format!(
                "{name}: the older replica on {here} was promoted by a person; later writes are lost"
            );
            (Weight::Mail, text)
        })
    }
}
