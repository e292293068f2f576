//! `thermidor volume rm`: the volume goes from the state at once, its images when each radiator that
//! held one has removed it, a radiator that is away when it returns.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{NodeId, ReplicaId, UnixMs, VolumeName};
use crate::state::{RemovedImage, State, Weight};

impl State {
    pub(super) fn remove_volume(&mut self, at: UnixMs, name: &VolumeName) -> Applied {
        let Some(volume) = self.volumes.get(name) else {
            return invalid(format!("there is no volume {name}: `thermidor volume ls` lists them"));
        };
        let users = self.spec().into_iter().flat_map(|s| &s.services);
        let mut users = users.filter(|(_, s)| s.volumes.iter().any(|m| m.volume == *name));
        if let Some((service, _)) = users.next() {
            return invalid(format!(
                "{service} uses {name}: take the service, or the volume from it, out of home.yaml and run \
                 `thermidor apply home.yaml` first"
            ));
        }
        if let Some(active) = volume.active {
            return invalid(format!(
                "{name} is still attached on {}: run `thermidor status` until its service has stopped, then \
                 `thermidor volume rm {name}` again",
                self.name_of(active)
            ));
        }
        let Some(volume) = self.volumes.remove(name) else { return stale("gone") };
        let holders: Vec<String> = volume.replicas.keys().map(|n| self.name_of(*n)).collect();
        self.removed_images.extend(volume.images(name));
        let on = if holders.is_empty() { "it had no data".into() } else { holders.join(", ") };
        self.tell(at, Weight::Mail, &format!("volume/{name}"), format!("{name} was removed for good: {on}"));
        Ok(Outcome::Done)
    }

    /// A radiator says that an image is gone.
    pub(super) fn image_removed(
        &mut self,
        at: UnixMs,
        name: &VolumeName,
        node: NodeId,
        id: ReplicaId,
    ) -> Applied {
        let is_it = |r: &RemovedImage| r.node == node && r.id == id;
        if !self.removed_images.iter().any(is_it) {
            return stale(format!("no image {id} is to be removed on {}", self.name_of(node)));
        }
        self.removed_images.retain(|r| !is_it(r));
        let text = format!("the image of {name} on {} is removed", self.name_of(node));
        self.tell(at, Weight::Note, &format!("volume/{name}"), text);
        Ok(Outcome::Done)
    }

    /// Who is no member any more removes nothing.
    pub(super) fn forget_removals(&mut self) {
        let members = &self.members;
        self.removed_images.retain(|r| members.contains_key(&r.node));
    }
}
