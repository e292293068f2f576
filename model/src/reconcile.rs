//! What one radiator has to do next so that it is what the home's state says: one step for
//! each service. The executor makes no choices; each step carries the epoch it was decided in.

use crate::name::{NodeId, ServiceName, VolumeName};
use crate::state::{Phase, Service, State};
use std::collections::{BTreeMap, BTreeSet};

/// What is found on this radiator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actual {
    /// Containers by service; a service that is missing has none.
    pub containers: BTreeMap<ServiceName, Container>,
    /// Whether the container engine answers.
    pub engine_answers: bool,
    /// Local replicas' devices by volume.
    pub devices: BTreeMap<VolumeName, Device>,
    /// Leases held this moment, by service, with their epoch.
    pub leases: BTreeMap<ServiceName, u64>,
    /// Epochs that the guard has fenced: they are never served again.
    pub fenced: BTreeMap<ServiceName, u64>,
    /// Services whose container may not be started yet (back-off after it ended by itself).
    pub resting: BTreeSet<ServiceName>,
}

/// A container of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Whether its process runs.
    pub running: bool,
    /// The epoch it was last started in; 0: never.
    pub epoch: u64,
    /// Whether it was made for what is declared now.
    pub current: bool,
}

/// A volume's device on this radiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Mounted, in that epoch.
    Attached(u64),
    /// Not mounted; the last epoch in which it was (0: never).
    Detached(u64),
    /// Failed for good in its epoch: an I/O error, or cut by the end of the lease.
    Broken(u64),
    /// Its process is not there yet, or does not answer.
    Absent,
}

/// What a service rests for whose lease is about to come.
pub const WAITS_FOR_LEASE: &str = "waits for its lease";

/// The one next thing to do for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is as it should be, or waits for what the words say.
    Rest(&'static str),
    /// Have the image here and the container created, so that a take-over is a start.
    Prepare,
    /// Attach these volumes.
    Attach {
        /// The service's epoch.
        epoch: u64,
        /// Which, with the volume's own epoch.
        volumes: BTreeMap<VolumeName, u64>,
    },
    /// Start the container.
    Start {
        /// The service's epoch.
        epoch: u64,
    },
    /// Stop it within its budget (a planned move, or degraded with `on_degraded: stop`).
    Stop {
        /// The epoch it runs in.
        epoch: u64,
    },
    /// End it at once.
    Kill,
    /// Detach the volumes: cleanly, or by force where nothing may be flushed any more.
    Detach {
        /// Which.
        volumes: BTreeSet<VolumeName>,
        /// Without flushing.
        force: bool,
    },
    /// Give the lease back and tell the home that it has stopped.
    TellStopped {
        /// The epoch that ended.
        epoch: u64,
    },
    /// This epoch can't be served any more (its device or lease was lost): give the lease back,
    /// and the home decides who serves in the next one.
    GiveBack {
        /// The epoch that is spent.
        epoch: u64,
    },
}

/// The next step for every service that is declared or found here.
pub fn reconcile(state: &State, node: NodeId, actual: &Actual) -> BTreeMap<ServiceName, Step> {
    let names: BTreeSet<&ServiceName> = state.services.keys().chain(actual.containers.keys()).collect();
    names.into_iter().map(|name| (name.clone(), step(state, node, actual, name))).collect()
}

fn step(state: &State, node: NodeId, actual: &Actual, name: &ServiceName) -> Step {
    match state.services.get(name) {
        Some(service) if service.active == Some(node) => match service.phase {
            Phase::Run => run(state, actual, name, service),
            Phase::Stop { .. } => stop(state, actual, name, service),
        },
        Some(_) => stand_by(state, node, actual, name),
        None => leave_nothing(state, actual, name),
    }
}

/// What of a service's volumes is here.
struct Devices {
    attached: BTreeSet<VolumeName>,
    to_attach: BTreeMap<VolumeName, u64>,
    spent: BTreeSet<VolumeName>,
    absent: bool,
    degraded: bool,
}

fn devices(state: &State, actual: &Actual, name: &ServiceName) -> Devices {
    let mut found = Devices {
        attached: BTreeSet::new(),
        to_attach: BTreeMap::new(),
        spent: BTreeSet::new(),
        absent: false,
        degraded: false,
    };
    for (volume_name, volume) in state.volumes_of(name) {
        found.degraded |= volume.stops_its_service();
        match actual.devices.get(volume_name).copied().unwrap_or(Device::Absent) {
            Device::Attached(epoch) if epoch == volume.epoch => {
                found.attached.insert(volume_name.clone());
            }
            Device::Attached(_) | Device::Broken(_) => {
                found.spent.insert(volume_name.clone());
            }
            Device::Detached(epoch) if epoch >= volume.epoch => {
                found.spent.insert(volume_name.clone());
            }
            Device::Detached(_) => {
                found.to_attach.insert(volume_name.clone(), volume.epoch);
            }
            Device::Absent => found.absent = true,
        }
    }
    found
}

fn running(actual: &Actual, name: &ServiceName) -> Option<Container> {
    actual.containers.get(name).copied().filter(|c| c.running)
}

fn run(state: &State, actual: &Actual, name: &ServiceName, service: &Service) -> Step {
    let epoch = service.epoch;
    let found = devices(state, actual, name);
    let runs = running(actual, name);
    let fenced = actual.fenced.get(name).is_some_and(|e| *e >= epoch);
    let lost = fenced || !found.spent.is_empty() || (runs.is_some() && found.absent);
    // A container that writes to a device that is gone, or of an epoch that is over, is only in the way.
    if runs.is_some_and(|c| lost || c.epoch != epoch) {
        return Step::Kill;
    }
    if fenced && !found.attached.is_empty() {
        return Step::Detach { volumes: found.attached, force: true };
    }
    if !found.spent.is_empty() {
        let mounted = |v: &VolumeName| !matches!(actual.devices.get(v), Some(Device::Detached(_)));
        let volumes: BTreeSet<_> = found.spent.into_iter().filter(mounted).collect();
        return match volumes.is_empty() {
            true => Step::GiveBack { epoch },
            false => Step::Detach { volumes, force: true },
        };
    }
    if fenced {
        return Step::GiveBack { epoch };
    }
    if actual.leases.get(name) != Some(&epoch) {
        return Step::Rest(WAITS_FOR_LEASE);
    }
    if found.absent {
        return Step::Rest("waits for its volume's process");
    }
    if !found.to_attach.is_empty() {
        return Step::Attach { epoch, volumes: found.to_attach };
    }
    let held = state.held_by_restore(name);
    match runs {
        Some(c) if found.degraded || held.is_some() || !c.current => Step::Stop { epoch },
        Some(_) => Step::Rest("runs"),
        // As soon as its files are there it is a start away.
        None if held.is_some() && actual.containers.get(name).is_some_and(|c| c.current) => {
            Step::Rest(held.unwrap_or_default())
        }
        None if found.degraded => Step::Rest("waits until its volume is whole (on_degraded: stop)"),
        None if !actual.engine_answers => Step::Rest("waits for the container engine"),
        None if !actual.containers.get(name).is_some_and(|c| c.current) => Step::Prepare,
        None if actual.resting.contains(name) => Step::Rest("rests before it is started again"),
        None => Step::Start { epoch },
    }
}

fn stop(state: &State, actual: &Actual, name: &ServiceName, service: &Service) -> Step {
    if running(actual, name).is_some() {
        return Step::Stop { epoch: service.epoch };
    }
    let found = devices(state, actual, name);
    let broken = |v: &VolumeName| !matches!(actual.devices.get(v), Some(Device::Detached(_)));
    let spent: BTreeSet<_> = found.spent.into_iter().filter(broken).collect();
    if !spent.is_empty() {
        return Step::Detach { volumes: spent, force: true };
    }
    if !found.attached.is_empty() {
        return Step::Detach { volumes: found.attached, force: false };
    }
    Step::TellStopped { epoch: service.epoch }
}

fn stand_by(state: &State, node: NodeId, actual: &Actual, name: &ServiceName) -> Step {
    if running(actual, name).is_some() {
        return Step::Kill;
    }
    let volumes = mounted(state, actual, name);
    if !volumes.is_empty() {
        return Step::Detach { volumes, force: true };
    }
    let Some(spec) = state.spec().and_then(|s| s.services.get(name)) else {
        return Step::Rest("is not declared");
    };
    let me = state.members.get(&node).map(|m| &m.name);
    let allowed = me.is_some_and(|me| {
        !spec.place.never.contains(me) && (spec.place.only.is_empty() || spec.place.only.contains(me))
    });
    let current = actual.containers.get(name).is_some_and(|c| c.current);
    match (allowed, current, actual.engine_answers) {
        (false, ..) => Step::Rest("is not allowed here"),
        (_, true, _) => Step::Rest("stands by"),
        (_, false, true) => Step::Prepare,
        (_, false, false) => Step::Rest("waits for the container engine"),
    }
}

fn leave_nothing(state: &State, actual: &Actual, name: &ServiceName) -> Step {
    if running(actual, name).is_some() {
        return Step::Kill;
    }
    let volumes = mounted(state, actual, name);
    if volumes.is_empty() { Step::Rest("is not declared") } else { Step::Detach { volumes, force: true } }
}

fn mounted(state: &State, actual: &Actual, name: &ServiceName) -> BTreeSet<VolumeName> {
    let here =
        |v: &VolumeName| matches!(actual.devices.get(v), Some(Device::Attached(_) | Device::Broken(_)));
    state.volumes_of(name).map(|(v, _)| v.clone()).filter(here).collect()
}

#[cfg(test)]
mod tests;
