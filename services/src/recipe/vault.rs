//! The recipe for a vault: Debian's base image, in which this radiator's own program serves the friends. What it is told
//! lies in the folder that the daemon writes; two sockets beside it lead to and from the daemon.

use super::{Ground, RecipeError, compose, demand_volume_at};
use crate::docker::{BindMount, ContainerPlan, ImageSource};
use std::collections::BTreeMap;
use std::path::Path;
use thermidor_model::ServiceName;
use thermidor_model::spec::{PortSpec, ServiceSpec, VAULT_PORT};

/// The image unless another is given. Only its C library is used.
pub const IMAGE: &str = "debian:bookworm-slim";
/// Where the friends' backups are seen in the container.
pub const DATA: &str = "/srv/vault";
/// Where the daemon's file is seen.
pub const CONFIG: &str = "/etc/thermidor";
/// Where the sockets are seen.
pub const RUN: &str = "/run/thermidor";
/// Where the program is seen.
pub const PROGRAM: &str = "/usr/bin/thermidor";
/// Its verb.
pub const VERB: &str = "vault-process";

pub(super) fn ports(declared: &[PortSpec]) -> Vec<PortSpec> {
    if !declared.is_empty() {
        return declared.to_vec();
    }
    vec![PortSpec { published: VAULT_PORT, target: VAULT_PORT, proxy_protocol: false }]
}

pub(super) fn resolve(
    service: &ServiceName,
    spec: &ServiceSpec,
    ground: &Ground<'_>,
) -> Result<ContainerPlan, RecipeError> {
    demand_volume_at(service, spec, DATA)?;
    let reference = spec.image.clone().unwrap_or_else(|| IMAGE.to_owned());
    let mut plan = compose::plan(service, spec, ground, ImageSource::Pull { reference })?;
    for mount in &mut plan.mounts {
        mount.seed = false;
    }
    let bind = |host: &Path, path: &str, read_only| BindMount {
        host: host.to_owned(),
        path: path.to_owned(),
        read_only,
        mountpoint: None,
        seed: false,
    };
    plan.mounts.extend([
        bind(ground.config, CONFIG, true),
        bind(ground.run, RUN, false),
        bind(ground.program, PROGRAM, true),
    ]);
    plan.entrypoint = Some(vec![PROGRAM.to_owned()]);
    plan.command = Some(vec![VERB.to_owned()]);
    plan.tmpfs =
        BTreeMap::from([("/tmp".to_owned(), "rw,nosuid,nodev,noexec,mode=1777,size=16m".to_owned())]);
    // Root, for the file is root's alone; it needs nothing else of root's.
    plan.capabilities = Vec::new();
    plan.read_only_root = true;
    Ok(plan)
}
