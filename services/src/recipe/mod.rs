//! What Thermidor knows about kinds of services: from a declaration and what this radiator
//! offers to the plan of a container.

pub mod certificate;
mod compose;
mod context;
pub mod mail;
mod mail_config;
pub mod vault;
pub mod yacy;

use crate::docker::{BindMount, ContainerPlan};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use thermidor_model::spec::{MountSpec, PortSpec, RecipeSpec, SecretName, ServiceSpec};
use thermidor_model::{ServiceName, VolumeName};

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Neither image, build nor recipe.
    #[error("{0} has neither `image`, `build` nor `recipe`")]
    NoImage(ServiceName),
    /// The build context was not packed, or is not kept here.
    #[error("the build context of {0} is not here: run `thermidor apply` from the folder that holds it")]
    NoContext(ServiceName),
    /// The packed context is not what its hash says.
    #[error("the build context of {0} is damaged: its content does not match its hash")]
    DamagedContext(ServiceName),
    /// A sealed secret is missing.
    #[error("secret `{0}` is missing: run `thermidor secret set {0}`")]
    NoSecret(String),
    /// A volume has no folder on this radiator.
    #[error("volume {volume} of {service} has no folder on this radiator")]
    NoVolume {
        /// Whose.
        service: ServiceName,
        /// Which.
        volume: VolumeName,
    },
    /// The recipe needs a volume at that path.
    #[error("{service} needs a volume at {path}: add `volumes: [ \"{service}:{path}\" ]`")]
    NoVolumeAt {
        /// Whose.
        service: ServiceName,
        /// Where in the container.
        path: &'static str,
    },
}

/// Where a volume is on this radiator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlace {
    /// The folder that the container is to see.
    pub folder: PathBuf,
    /// What must be mounted before a start: the folder or one above; `None` for a local volume.
    pub mountpoint: Option<PathBuf>,
}

/// What a radiator offers to a service.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Its volumes' folders.
    pub volumes: &'a BTreeMap<VolumeName, VolumePlace>,
    /// The service's folder for files that the daemon writes and the container reads
    /// ([`mail::write_config`]); must exist before the container is created.
    pub config: &'a std::path::Path,
    /// The service's folder for sockets between the daemon and the container; must exist likewise.
    pub run: &'a std::path::Path,
    /// This program, for a container that runs it.
    pub program: &'a std::path::Path,
    /// Opens a sealed secret.
    pub secret: &'a dyn Fn(&SecretName) -> Option<String>,
    /// A packed build context by its hash.
    pub context: &'a dyn Fn(&str) -> Option<Bytes>,
}

/// Decides what a service's container is to be on this radiator.
pub fn resolve(
    service: &ServiceName,
    spec: &ServiceSpec,
    ground: &Ground<'_>,
) -> Result<ContainerPlan, RecipeError> {
    match &spec.recipe {
        None => compose::resolve(service, spec, ground),
        Some(RecipeSpec::Mail(settings)) => mail::resolve(service, spec, settings, ground),
        Some(RecipeSpec::Yacy(settings)) => yacy::resolve(service, spec, settings, ground),
        Some(RecipeSpec::Vault(_)) => vault::resolve(service, spec, ground),
    }
}

/// The ports a service publishes: its own, else its recipe's; led to the container's ports
/// that take PROXY headers where the recipe has such. The ingress works from this.
pub fn ports(spec: &ServiceSpec) -> Vec<PortSpec> {
    match &spec.recipe {
        None => spec.ports.clone(),
        Some(RecipeSpec::Mail(_)) => mail::ports(&spec.ports),
        Some(RecipeSpec::Yacy(_)) => yacy::ports(&spec.ports),
        Some(RecipeSpec::Vault(_)) => vault::ports(&spec.ports),
    }
}

/// The stop budget of planned moves, s: what was declared, but at least what the recipe needs.
pub fn stop_grace_s(spec: &ServiceSpec) -> u64 {
    match &spec.recipe {
        Some(RecipeSpec::Yacy(_)) => spec.stop_grace_s.max(yacy::STOP_GRACE_S),
        _ => spec.stop_grace_s,
    }
}

/// The declared volumes as folders of this radiator.
fn binds(
    service: &ServiceName,
    mounts: &[MountSpec],
    ground: &Ground<'_>,
    seed: bool,
) -> Result<Vec<BindMount>, RecipeError> {
    let bind = |mount: &MountSpec| {
        let place = ground.volumes.get(&mount.volume).ok_or_else(|| RecipeError::NoVolume {
            service: service.clone(),
            volume: mount.volume.clone(),
        })?;
        Ok(BindMount {
            host: place.folder.clone(),
            path: mount.path.clone(),
            read_only: mount.read_only,
            mountpoint: place.mountpoint.clone(),
            seed: seed && !mount.read_only,
        })
    };
    mounts.iter().map(bind).collect()
}

/// Refuses a declaration that forgot the recipe's volume: its data would die with the container.
fn demand_volume_at(
    service: &ServiceName,
    spec: &ServiceSpec,
    path: &'static str,
) -> Result<(), RecipeError> {
    if spec.volumes.iter().any(|mount| mount.path.trim_end_matches('/') == path && !mount.read_only) {
        return Ok(());
    }
    Err(RecipeError::NoVolumeAt { service: service.clone(), path })
}

#[cfg(test)]
mod tests;
