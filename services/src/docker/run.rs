//! Starts, stops, kills, removes and finds the containers of this home.

use super::inspect::Inspected;
use super::{BindMount, Engine, EngineError, LABEL_MOUNTS, LABEL_PLAN, mounts, seed};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use thermidor_model::ServiceName;

/// A container of this home, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose.
    pub service: ServiceName,
    /// Docker's id.
    pub id: String,
    /// The epoch it was last started in; 0: never, or not known.
    pub epoch: u64,
    /// Hash of the plan it was created from.
    pub plan_hash: String,
    /// Whether it runs.
    pub running: bool,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// How it ended, if it ran and ended.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for want of memory.
    pub oom: bool,
    /// When it was last started (RFC 3339); `None`: never.
    pub started_at: Option<String>,
    /// Docker's health check; `None`: has none, or not known yet.
    pub healthy: Option<bool>,
    /// Its address on Docker's bridge, while it runs.
    pub address: Option<IpAddr>,
    /// Docker's own words on a failed start.
    pub error: String,
}

impl Engine {
    /// Starts the prepared container in an epoch. Done already: well; in another epoch: refused.
    /// Volumes must be mounted; empty ones are filled from the image first.
    pub async fn start(&self, service: &ServiceName, epoch: u64) -> Result<Found, EngineError> {
        let inspected = self.inspect(service).await?.ok_or_else(|| not_prepared(service))?;
        let found = self.found(service.clone(), &inspected);
        if found.running {
            if found.epoch == epoch {
                return Ok(found);
            }
            return Err(EngineError::OtherEpoch {
                service: service.to_string(),
                running: found.epoch,
                wanted: epoch,
            });
        }
        let name = self.container(service);
        for bind in binds(&inspected)? {
            if let Some(mountpoint) = &bind.mountpoint {
                let mounted = mounts::is_mountpoint(mountpoint).map_err(|e| EngineError::Files {
                    what: "could not read the table of mounts".into(),
                    source: e,
                })?;
                if !mounted {
                    let path = mountpoint.display().to_string();
                    return Err(EngineError::NotMounted { service: service.to_string(), path });
                }
            }
            if bind.seed && seed::is_empty(&bind.host)? {
                self.seed(&name, HashMap::new(), &inspected, &bind).await?;
            }
        }
        self.epochs.write(service, &found.id, epoch)?;
        let client = self.client().await?;
        let what = format!("start {service}");
        let started = client.start_container(&found.id, None::<StartContainerOptions>);
        self.call(&what, self.config.limits.act, started).await?;
        self.find(service).await?.ok_or_else(|| not_prepared(service))
    }

    /// Stops within a budget; Docker kills what is left then. Not there or ended: well.
    pub async fn stop(&self, service: &ServiceName, grace: Duration) -> Result<(), EngineError> {
        let client = self.client().await?;
        let seconds = i32::try_from(grace.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let name = self.container(service);
        let stopped = client.stop_container(&name, Some(options));
        let limit = grace.saturating_add(self.config.limits.act);
        accept(self.call(&format!("stop {service}"), limit, stopped).await, &[304, 404])
    }

    /// Kills at once. Not there or ended: well.
    pub async fn kill(&self, service: &ServiceName) -> Result<(), EngineError> {
        let client = self.client().await?;
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        let name = self.container(service);
        let killed = client.kill_container(&name, Some(options));
        match self.call(&format!("kill {service}"), self.config.limits.act, killed).await {
            Err(e) if e.is_podmans_not_running() => Ok(()),
            killed => accept(killed, &[404, 409]),
        }
    }

    /// Removes the container, killing it if it runs; its image stays. Not there: well.
    pub async fn remove(&self, service: &ServiceName) -> Result<(), EngineError> {
        let client = self.client().await?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let name = self.container(service);
        let removed = client.remove_container(&name, Some(options));
        accept(self.call(&format!("remove {service}"), self.config.limits.act, removed).await, &[404])?;
        self.epochs.forget(service)
    }

    /// All containers of this home, by service.
    pub async fn list(&self) -> Result<Vec<Found>, EngineError> {
        let services = self.services().await?;
        let mut all = Vec::with_capacity(services.len());
        for service in services {
            all.extend(self.find(&service).await?);
        }
        Ok(all)
    }

    /// A service's container, if it has one here.
    pub async fn find(&self, service: &ServiceName) -> Result<Option<Found>, EngineError> {
        Ok(self.inspect(service).await?.map(|inspected| self.found(service.clone(), &inspected)))
    }

    /// Where the ingress reaches a running service.
    pub async fn container_ip(&self, service: &ServiceName) -> Result<Option<IpAddr>, EngineError> {
        Ok(self.find(service).await?.and_then(|found| found.address))
    }

    pub(super) fn found(&self, service: ServiceName, inspected: &Inspected) -> Found {
        let (id, state) = (inspected.id.clone(), &inspected.state);
        let running = state.running;
        // Docker writes the year 1 for "never".
        let started_at = state.started_at.clone().filter(|at| !at.starts_with("0001-"));
        let healthy = match state.health.as_ref().and_then(|h| h.status.as_deref()) {
            Some("healthy") => Some(true),
            Some("unhealthy") => Some(false),
            _ => None,
        };
        let networks = inspected.network_settings.networks.as_ref();
        let mut addresses =
            networks.into_iter().flat_map(|n| n.values()).filter_map(|n| n.ip_address.as_ref());
        Found {
            epoch: self.epochs.read(&service, &id),
            service,
            plan_hash: inspected.label(LABEL_PLAN).cloned().unwrap_or_default(),
            running,
            pid: u32::try_from(state.pid).ok().filter(|pid| running && *pid > 0),
            exit_code: Some(state.exit_code).filter(|_| !running && started_at.is_some()),
            oom: state.oom_killed,
            started_at,
            healthy,
            address: addresses.find_map(|text| text.parse().ok()).filter(|_| running),
            error: state.error.clone().unwrap_or_default(),
            id,
        }
    }
}

/// The mounts as they were planned, kept in a label.
pub(super) fn binds(inspected: &Inspected) -> Result<Vec<BindMount>, EngineError> {
    let label = inspected.label(LABEL_MOUNTS);
    let garbled = |why: String| EngineError::Garbled { what: "read the mounts of a container".into(), why };
    let text = label.ok_or_else(|| garbled(format!("label {LABEL_MOUNTS} is missing")))?;
    serde_json::from_str(text).map_err(|e| garbled(e.to_string()))
}

fn not_prepared(service: &ServiceName) -> EngineError {
    EngineError::NotPrepared { service: service.to_string() }
}

/// Takes answers that mean "already so" as done.
pub(super) fn accept(done: Result<(), EngineError>, already: &[u16]) -> Result<(), EngineError> {
    match done {
        Err(e) if already.iter().any(|status| e.is_status(*status)) => Ok(()),
        done => done,
    }
}
