//! A plain Compose service: what the YAML says, hardened.

use super::{Ground, RecipeError, binds};
use crate::docker::{CAPABILITIES, ContainerPlan, ImageSource, PIDS_MAX};
use std::collections::BTreeMap;
use thermidor_model::ServiceName;
use thermidor_model::spec::{BuildSpec, EnvValue, ServiceSpec};

pub(super) fn resolve(
    service: &ServiceName,
    spec: &ServiceSpec,
    ground: &Ground<'_>,
) -> Result<ContainerPlan, RecipeError> {
    let image = match (&spec.build, &spec.image) {
        (Some(build), _) => built(service, build, ground)?,
        (None, Some(reference)) => ImageSource::Pull { reference: reference.clone() },
        (None, None) => return Err(RecipeError::NoImage(service.clone())),
    };
    plan(service, spec, ground, image)
}

/// The plan that the fields of the YAML give with an image.
pub(super) fn plan(
    service: &ServiceName,
    spec: &ServiceSpec,
    ground: &Ground<'_>,
    image: ImageSource,
) -> Result<ContainerPlan, RecipeError> {
    let mut environment = BTreeMap::new();
    for (name, value) in &spec.environment {
        let value = match value {
            EnvValue::Plain(value) => value.clone(),
            EnvValue::Secret(secret) => {
                (ground.secret)(secret).ok_or_else(|| RecipeError::NoSecret(secret.0.clone()))?
            }
        };
        environment.insert(name.clone(), value);
    }
    Ok(ContainerPlan {
        service: service.clone(),
        image,
        command: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        environment,
        ports: super::ports(spec),
        mounts: binds(service, &spec.volumes, ground, true)?,
        tmpfs: BTreeMap::new(),
        healthcheck: spec.healthcheck.clone(),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        hostname: service.to_string(),
        memory_max_bytes: spec.memory_max_bytes,
        cpus_max: spec.cpus_max,
        pids_max: PIDS_MAX,
        capabilities: CAPABILITIES.map(String::from).to_vec(),
        // An arbitrary image may write anywhere; recipes know better.
        read_only_root: false,
        stop_grace_s: super::stop_grace_s(spec),
    })
}

fn built(service: &ServiceName, build: &BuildSpec, ground: &Ground<'_>) -> Result<ImageSource, RecipeError> {
    let hash = build.hash.as_ref().ok_or_else(|| RecipeError::NoContext(service.clone()))?;
    let context = (ground.context)(hash).ok_or_else(|| RecipeError::NoContext(service.clone()))?;
    if blake3::hash(&context).to_hex().as_str() != hash {
        return Err(RecipeError::DamagedContext(service.clone()));
    }
    // Arguments and the choice of Dockerfile change the image as the context does.
    let mut all = blake3::Hasher::new();
    for part in
        std::iter::once(hash).chain([&build.dockerfile]).chain(build.args.iter().flat_map(|(k, v)| [k, v]))
    {
        all.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    Ok(ImageSource::Build {
        name: service.to_string(),
        hash: all.finalize().to_hex().to_string(),
        dockerfile: build.dockerfile.clone(),
        args: build.args.clone(),
        context,
    })
}
