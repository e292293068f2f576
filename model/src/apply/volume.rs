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
        if first {
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
        let Some(volume) = self.volumes.get_mut(name) else { return stale("gone") };
        volume.replicas.remove(&node);
        volume.in_sync.remove(&node);
        volume.set_version += 1;
        let version = volume.set_version;
        let text = self.kept_no_more(name, node);
        self.tell(at, Weight::Note, &format!("volume/{name}"), text);
        Ok(Outcome::Set(version))
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
        let Some(volume) = self.volumes.get_mut(name) else { return stale("gone") };
        volume.in_sync.insert(node);
        volume.set_version += 1;
        let version = volume.set_version;
        let whole = volume.in_sync.len() as u32 >= volume.durability;
        let text = format!(
            "{name} is in sync on {} ({} of {} replicas)",
            self.name_of(node),
            self.volumes[name].in_sync.len(),
            self.volumes[name].replicas_wanted
        );
        let weight = if whole
            && self.volumes[name].in_sync.len() as u32 == self.volumes[name].durability
            && version > 8
        {
            Weight::Mail
        } else {
            Weight::Note
        };
        self.tell(at, weight, &format!("volume/{name}"), text);
        Ok(Outcome::Set(version))
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
        Ok(Outcome::Set(self.leave_set(at, name, node)))
    }

    /// After a failover: the old active's lease has run out without a word from it. The new one would wait
    /// for it in vain before its first flush, so it leaves the sets with the same command.
    pub(super) fn leave_sets(&mut self, at: UnixMs, service: &ServiceName, lost: NodeId) {
        let of_service =
            |v: &Volume| v.service == *service && v.in_sync.contains(&lost) && v.in_sync.len() > 1;
        let names: Vec<_> =
            self.volumes.iter().filter(|(_, v)| of_service(v)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.leave_set(at, &name, lost);
        }
    }

    /// Takes a member out of a set that has others, and says so. Answers the set's new version.
    fn leave_set(&mut self, at: UnixMs, name: &VolumeName, node: NodeId) -> u64 {
        let mut text = format!("{} is behind for {name}", self.name_of(node));
        let Some(volume) = self.volumes.get_mut(name) else { return 0 };
        volume.in_sync.remove(&node);
        volume.set_version += 1;
        let (version, left, durability) =
            (volume.set_version, volume.in_sync.len() as u32, volume.durability);
        text.push_str(&format!(": {left} in sync"));
        let below = left < durability;
        if below {
            text.push_str(&format!(", below its durability of {durability}"));
        }
        let weight = if below { Weight::Mail } else { Weight::Note };
        self.tell(at, weight, &format!("volume/{name}"), text);
        version
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
        if volume.active.is_some() {
            return invalid(format!("{name} is active: nothing needs promoting"));
        }
        if volume.in_sync.contains(&node) {
            return invalid(format!("{} is in sync for {name}: nothing needs promoting", self.name_of(node)));
        }
        let Some(volume) = self.volumes.get_mut(name) else { return stale("gone") };
        volume.in_sync = [node].into();
        volume.set_version += 1;
        let version = volume.set_version;
        let text = format!(
            "{name}: the older replica on {} was promoted by a person; later writes are lost",
            self.name_of(node)
        );
        self.tell(at, Weight::Mail, &format!("volume/{name}"), text);
        Ok(Outcome::Set(version))
    }
}
