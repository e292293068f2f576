//! Creates containers before they are needed, so that a take-over is a start.

use super::{
    BindMount, ContainerPlan, Engine, EngineConfig, EngineError, LABEL_HOME, LABEL_MOUNTS, LABEL_PLAN,
    LABEL_SERVICE, mounts,
};
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use std::collections::HashMap;
use thermidor_model::observe::Readiness;

impl Engine {
    /// Makes the service ready to start here: image present, container of this plan created.
    /// May take as long as a build does; says what stands in the way instead of failing.
    pub async fn prepare(&self, plan: &ContainerPlan) -> Readiness {
        match self.try_prepare(plan).await {
            Ok(ready) => ready,
            Err(e @ EngineError::Files { .. }) => Readiness::Failed(
                std::error::Error::source(&e).map_or(e.to_string(), |s| format!("{e}: {s}")),
            ),
            // An engine that starts, or is busy, says nothing about the service.
            Err(e) if e.may_pass() => Readiness::Preparing(e.to_string()),
            Err(e) => Readiness::Failed(e.to_string()),
        }
    }

    async fn try_prepare(&self, plan: &ContainerPlan) -> Result<Readiness, EngineError> {
        let hash = plan.hash();
        // Twice: someone else may create or remove it at the same time.
        for _ in 0..2 {
            match self.find(&plan.service).await? {
                Some(found) if found.plan_hash == hash => return Ok(Readiness::Ready),
                Some(found) if found.running => {
                    self.ensure_image(&plan.image).await?;
                    return Ok(Readiness::Preparing(
                        "it runs under an older plan; the new container is created when that one is stopped"
                            .into(),
                    ));
                }
                Some(_) => {
                    self.ensure_image(&plan.image).await?;
                    self.remove(&plan.service).await?;
                }
                None => self.ensure_image(&plan.image).await?,
            }
            match self.create(plan, &hash).await {
                Ok(()) => return Ok(Readiness::Ready),
                Err(e) if e.is_status(409) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Readiness::Preparing("its container is being changed by someone else".into()))
    }

    async fn create(&self, plan: &ContainerPlan, hash: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let name = self.container(&plan.service);
        let what = format!("create {name}");
        let labels = HashMap::from([
            (LABEL_HOME.to_owned(), self.config.home.clone()),
            (LABEL_SERVICE.to_owned(), plan.service.to_string()),
            (LABEL_PLAN.to_owned(), hash.to_owned()),
        ]);
        let body = body(plan, labels, &self.config)?;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made =
            self.call(&what, self.config.limits.act, client.create_container(Some(options), body)).await?;
        for warning in made.warnings {
            tracing::warn!(service = %plan.service, "{warning}");
        }
        Ok(())
    }
}

/// What Docker is told, with these labels and that of the mounts.
pub(super) fn body(
    plan: &ContainerPlan,
    mut labels: HashMap<String, String>,
    config: &EngineConfig,
) -> Result<ContainerCreateBody, EngineError> {
    let mounts_label = serde_json::to_string(&plan.mounts)
        .map_err(|e| EngineError::Garbled { what: "describe the mounts".into(), why: e.to_string() })?;
    labels.insert(LABEL_MOUNTS.to_owned(), mounts_label);
    let nanoseconds = |ms: u64| i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let healthcheck = plan.healthcheck.as_ref().map(|h| HealthConfig {
        test: Some(h.test.clone()),
        interval: Some(nanoseconds(h.interval_ms)),
        timeout: Some(nanoseconds(h.timeout_ms)),
        start_period: Some(nanoseconds(h.start_period_ms)),
        retries: Some(i64::from(h.retries)),
        ..Default::default()
    });
    let memory = plan.memory_max_bytes.map(|b| i64::try_from(b).unwrap_or(i64::MAX));
    let host_config = HostConfig {
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        init: Some(true),
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(plan.capabilities.clone()),
        pids_limit: Some(plan.pids_max),
        memory,
        memory_swap: memory,
        nano_cpus: plan.cpus_max.map(|cpus| (cpus * 1e9) as i64),
        readonly_rootfs: Some(plan.read_only_root),
        tmpfs: Some(plan.tmpfs.clone().into_iter().collect()),
        mounts: Some(plan.mounts.iter().map(mount).collect::<Result<_, _>>()?),
        network_mode: config.network.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "5m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(plan.image.reference()),
        hostname: Some(plan.hostname.clone()),
        labels: Some(labels),
        env: Some(plan.environment.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        cmd: plan.command.clone(),
        entrypoint: plan.entrypoint.clone(),
        user: plan.user.clone(),
        working_dir: plan.working_dir.clone(),
        stop_timeout: Some(i64::try_from(plan.stop_grace_s).unwrap_or(i64::MAX)),
        healthcheck,
        host_config: Some(host_config),
        ..Default::default()
    })
}

fn mount(bind: &BindMount) -> Result<Mount, EngineError> {
    // Docker refuses a slave of a private mount; privately it holds its own copy, which ends
    // with the container, and a container is always ended before its volume is detached.
    let shared = mounts::is_shared(&bind.host)
        .map_err(|e| EngineError::Files { what: "could not read the table of mounts".into(), source: e })?;
    let propagation = if shared {
        MountBindOptionsPropagationEnum::RSLAVE
    } else {
        MountBindOptionsPropagationEnum::RPRIVATE
    };
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(bind.host.to_string_lossy().into_owned()),
        target: Some(bind.path.clone()),
        read_only: Some(bind.read_only),
        bind_options: Some(MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::plan::tests::plan;

    #[test]
    fn a_container_is_hardened_labelled_and_never_restarted_by_docker() {
        let plan = ContainerPlan { memory_max_bytes: Some(64 << 20), cpus_max: Some(0.5), ..plan() };
        let dir = std::path::Path::new("/nowhere");
        let labels = HashMap::from([(LABEL_HOME.to_owned(), "maison".to_owned())]);
        let body = body(&plan, labels, &EngineConfig::new("maison", dir)).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert!(!host.cap_add.unwrap().contains(&"NET_RAW".to_owned()));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(2048)));
        assert_eq!(host.port_bindings, None, "the ingress publishes, not Docker");
        let labels = body.labels.unwrap();
        assert_eq!(labels[LABEL_HOME], "maison");
        assert_eq!(labels[LABEL_MOUNTS], "[]");
    }
}
