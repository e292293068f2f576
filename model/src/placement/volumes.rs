//! Where volumes keep their replicas. At most one command per volume and plan, for each
//! raises the set version that the next must name.

use super::feasible::feasible;
use super::rank::rank;
use super::view::{View, within};
use super::{Action, REPLICA_AGAIN_MS};
use crate::command::Command;
use crate::name::{NodeId, ReplicaId, ServiceName, VolumeName};
use crate::observe::ReplicaState;
use crate::spec::ServiceSpec;
use crate::state::{State, Volume};
use std::collections::BTreeSet;

/// Decides about every declared volume's replicas. A volume whose service gets a new active in
/// this very plan waits for the next: each of the two would make the other stale.
pub(super) fn reconcile(view: &View<'_>, actions: &mut Vec<Action>) {
    let activated: BTreeSet<ServiceName> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Propose(Command::Activate { service, .. }) => Some(service.clone()),
            _ => None,
        })
        .collect();
    for (name, volume) in view.state.volumes.iter().filter(|(_, v)| !activated.contains(&v.service)) {
        let spec = view.spec.services.get(&volume.service).filter(|_| view.spec.volumes.contains_key(name));
        let Some(spec) = spec else { continue };
        let here = Here { view, name, volume, spec };
        // A folder that can't be reached is looked at again; nothing would be made anew.
        let broken = if volume.driver.is_folder() { None } else { here.broken() };
        let command = broken.or_else(|| here.missing()).or_else(|| here.surplus());
        actions.extend(command.map(Action::Propose));
    }
}

/// The identity of a new replica. A plan has no randomness, so it is a hash of what makes this
/// replica the only one of its kind: the home (by its authority), its generation, volume and
/// member, and the set version and event number, of which at least one grows before the same
/// member can get another replica of the same volume.
pub fn replica_id(state: &State, volume: &VolumeName, node: NodeId, set_version: u64) -> ReplicaId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(state.authority_pem.as_bytes());
    hasher.update(&[0]);
    hasher.update(volume.as_str().as_bytes());
    for number in [state.generation, node, set_version, state.next_event] {
        hasher.update(&number.to_le_bytes());
    }
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    ReplicaId(u64::from_le_bytes(id))
}

struct Here<'a> {
    view: &'a View<'a>,
    name: &'a VolumeName,
    volume: &'a Volume,
    spec: &'a ServiceSpec,
}

impl Here<'_> {
    fn state_on(&self, node: NodeId) -> Option<&ReplicaState> {
        Some(&self.view.report(node)?.replicas.get(self.name)?.state)
    }

    fn failed_on(&self, node: NodeId) -> bool {
        matches!(self.state_on(node), Some(ReplicaState::Failed(_)))
    }

    fn service(&self) -> &ServiceName {
        &self.volume.service
    }

    /// Whether some in-sync member is heard and well: no replica is thrown away before.
    fn safe_without(&self, node: NodeId) -> bool {
        self.volume.in_sync.iter().any(|n| *n != node && self.view.heard(*n) && !self.failed_on(*n))
    }

    /// A broken replica leaves the set, then the volume; `missing` makes it anew.
    fn broken(&self) -> Option<Command> {
        let volume = self.volume;
        let node = *volume
            .replicas
            .keys()
            .find(|n| volume.active != Some(**n) && self.failed_on(**n) && self.safe_without(**n))?;
        Some(if volume.in_sync.contains(&node) {
            Command::DropFromSet {
                volume: self.name.clone(),
                epoch: volume.epoch,
                set_was: volume.set_version,
                node,
            }
        } else {
            self.remove(node)
        })
    }

    fn remove(&self, node: NodeId) -> Command {
        Command::RemoveReplica { volume: self.name.clone(), set_was: self.volume.set_version, node }
    }

    fn allowed(&self, node: NodeId) -> bool {
        let member = self.view.state.members.get(&node);
        member.is_some_and(|m| self.view.forbidden(self.spec, m).is_none())
    }

    /// Whether a replica counts towards those wanted.
    fn counts(&self, node: NodeId) -> bool {
        self.allowed(node) && self.view.silence(node) <= self.view.state.timing.forget_after_ms.max(1)
            || self.volume.active == Some(node)
    }

    /// A fresh leader has not heard everyone: nobody counts as lost before it had the time to.
    fn good_count(&self) -> usize {
        let fresh = self.view.observed.leading_ms < self.view.state.timing.forget_after_ms;
        let unheard = |n: NodeId| !self.view.observed.silent_ms.contains_key(&n);
        let counts = |n: &&NodeId| self.counts(**n) || (fresh && unheard(**n) && self.allowed(**n));
        self.volume.replicas.keys().filter(counts).count()
    }

    fn missing(&self) -> Option<Command> {
        let (view, volume) = (self.view, self.volume);
        let wanted = volume.replicas_wanted as usize;
        if self.good_count() >= wanted {
            return None;
        }
        let first = volume.replicas.is_empty() && volume.epoch == 0;
        if first && !view.settled() {
            return None;
        }
        let node = self.candidates(first).into_iter().next()?;
        let id = replica_id(view.state, self.name, node, volume.set_version);
        Some(Command::AddReplica { volume: self.name.clone(), set_was: volume.set_version, node, id })
    }

    /// Radiators that could take a replica, the best first. The very first replica is in sync by
    /// itself, so the service starts there: it goes where the service is wanted most, and where
    /// its other volumes are. The others are spread: to those that are on, hold the least.
    fn candidates(&self, first: bool) -> Vec<NodeId> {
        let view = self.view;
        let mut able: Vec<NodeId> = view
            .radiators()
            .filter(|(id, m)| {
                !self.volume.replicas.contains_key(id)
                    && self.allowed(*id)
                    && view.heard(*id)
                    && !m.off.is_some_and(|off| off.power_off)
                    && !self.failed_on(*id)
                    && !self.taken_out_lately(*id)
            })
            .map(|(id, _)| id)
            .collect();
        let siblings = self.siblings();
        let held = |n: NodeId| view.state.volumes.values().filter(|v| v.replicas.contains_key(&n)).count();
        let is_off = |n: NodeId| view.state.members.get(&n).is_some_and(|m| m.off.is_some());
        let alone = |n: NodeId| siblings.as_ref().is_some_and(|s| !s.contains(&n));
        if first {
            let unready = |n: NodeId| self.never_ready(n);
            able.sort_by_key(|n| (alone(*n), unready(*n), rank(view, self.service(), self.spec, *n)));
        } else {
            able.sort_by_key(|n| (is_off(*n), alone(*n), held(*n), *n));
        }
        able
    }

    /// Whether the service can't be had on a radiator for another reason than this volume.
    fn never_ready(&self, node: NodeId) -> bool {
        use crate::observe::Readiness;
        let report = self.view.report(node);
        let failed = report.and_then(|r| r.images.get(self.service()));
        matches!(failed, Some(Readiness::Failed(_)))
            || feasible(self.view, self.service(), self.spec, node).is_err_and(|o| !o.passing)
    }

    /// Whether its replica was taken out so lately that a broken disk could fill the log.
    fn taken_out_lately(&self, node: NodeId) -> bool {
        let view = self.view;
        let text = view.state.kept_no_more(self.name, node);
        let last = view.state.events.iter().rev().find(|e| e.text == text);
        last.is_some_and(|e| within(view.now, e.at_ms, REPLICA_AGAIN_MS))
    }

    /// Who holds the service's other volumes, if it has any with replicas.
    fn siblings(&self) -> Option<BTreeSet<NodeId>> {
        let others = self.view.state.volumes_of(self.service());
        let mut sets = others
            .filter(|(name, v)| *name != self.name && !v.replicas.is_empty())
            .map(|(_, v)| v.in_sync.clone());
        let first = sets.next()?;
        Some(sets.fold(first, |all, set| all.intersection(&set).copied().collect()))
    }

    /// One replica too many goes: first those that may not be there, are behind, or are to lose power.
    fn surplus(&self) -> Option<Command> {
        let (view, volume) = (self.view, self.volume);
        let wanted = volume.replicas_wanted as usize;
        let in_sync_wanted = (wanted as u32).min(volume.durability.max(1)) as usize;
        if volume.replicas.len() <= wanted {
            return None;
        }
        let rest = |n: NodeId| volume.in_sync.iter().filter(|m| **m != n && view.heard(**m)).count();
        let node = volume
            .replicas
            .keys()
            .copied()
            .filter(|n| volume.active != Some(*n) && rest(*n) >= in_sync_wanted)
            .max_by_key(|n| {
                let away = view.state.members.get(n).is_some_and(|m| m.off.is_some_and(|o| o.power_off));
                (!self.allowed(*n), !volume.in_sync.contains(n), away, *n)
            })?;
        Some(self.remove(node))
    }
}
