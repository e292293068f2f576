//! A service on trial: started on data that were restored aside, without any network, beside the service itself. Its
//! container has a name and a label of its own, and none by which services are found: nobody takes it for an instance,
//! so nobody adopts, moves, probes or publishes it. It holds no lease and is in no epoch.

use super::create::body;
use super::run::{accept, binds};
use super::{ContainerPlan, Engine, EngineError, Found, seed};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};
use futures::StreamExt;
use std::collections::HashMap;
use thermidor_model::ServiceName;

/// Label: on trial, and of which home. In place of those by which services are found.
pub const LABEL_TRIAL: &str = "thermidor.trial";
/// How the names of such containers begin: no service's does.
const PREFIX: &str = "thermidor-trial";
/// No network at all but loopback: what is restored may hold mail that waits to be sent, and has been since.
const NO_NETWORK: &str = "none";
/// Of the processor, where 1024 is everybody else's share.
const CPU_SHARES: i64 = 64;
/// The kernel takes this one first where memory is short.
const OOM_SCORE: i64 = 1000;

impl Engine {
    /// The name of the container in which a service is on trial; another than that of the service's own.
    pub fn trial_container(&self, service: &ServiceName) -> String {
        format!("{PREFIX}.{}.{service}", self.config.home)
    }

    /// Starts a container of this plan without network. The image must be here; the plan's folders are the trial's.
    pub async fn start_trial(&self, plan: &ContainerPlan) -> Result<Found, EngineError> {
        let name = self.trial_container(&plan.service);
        let client = self.client().await?;
        let limit = self.config.limits.act;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made = client.create_container(Some(options), self.trial_body(plan)?);
        self.call(&format!("create {name}"), limit, made).await?;
        let gone = || EngineError::NotPrepared { service: name.clone() };
        let inspected = self.inspect_named(&name).await?.ok_or_else(gone)?;
        for bind in binds(&inspected)? {
            if bind.seed && seed::is_empty(&bind.host)? {
                self.seed(&name, self.trial_labels(), &inspected, &bind).await?;
            }
        }
        let started = client.start_container(&inspected.id, None::<StartContainerOptions>);
        self.call(&format!("start {name}"), limit, started).await?;
        self.find_trial(&plan.service).await?.ok_or_else(gone)
    }

    /// The container in which a service is on trial, if there is one here.
    pub async fn find_trial(&self, service: &ServiceName) -> Result<Option<Found>, EngineError> {
        let inspected = self.inspect_named(&self.trial_container(service)).await?;
        Ok(inspected.map(|inspected| self.found(service.clone(), &inspected)))
    }

    /// The last lines that a service on trial has said.
    pub async fn trial_words(&self, service: &ServiceName, lines: usize) -> Result<Vec<String>, EngineError> {
        let client = self.client().await?;
        let name = self.trial_container(service);
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string());
        let said = client.logs(&name, Some(options.build())).collect::<Vec<_>>();
        let read = async { said.await.into_iter().collect::<Result<Vec<_>, _>>() };
        let said = self.call(&format!("read the log of {name}"), self.config.limits.ask, read).await?;
        let line = |out: bollard::container::LogOutput| {
            String::from_utf8_lossy(&out.into_bytes()).trim_end().to_owned()
        };
        Ok(said.into_iter().map(line).filter(|line| !line.is_empty()).collect())
    }

    /// Removes every container of this home that is on trial, killing what runs, also those that a daemon which was
    /// killed has left. Says how many there were.
    pub async fn remove_trials(&self) -> Result<usize, EngineError> {
        let left = self.labelled(LABEL_TRIAL).await?;
        let client = self.client().await?;
        for container in &left {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let removed = client.remove_container(&container.id, Some(options));
            let what = format!("remove the trial {}", container.id);
            // 409: its removal is under way already, by whoever was here before.
            match self.call(&what, self.config.limits.act, removed).await {
                Err(e) if e.is_status(409) => self.wait_gone(&container.id).await?,
                removed => accept(removed, &[404])?,
            }
        }
        Ok(left.len())
    }

    /// Waits until a container is no more that another is removing.
    async fn wait_gone(&self, id: &str) -> Result<(), EngineError> {
        let limit = self.config.limits.act;
        let gone = async {
            while self.inspect_named(id).await?.is_some() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Ok(())
        };
        let slow = |_| EngineError::Slow { what: format!("remove the trial {id}"), limit };
        tokio::time::timeout(limit, gone).await.map_err(slow)?
    }

    /// The same engine over connections of its own, for whoever acts where this one's runtime ends.
    pub fn afresh(&self) -> Result<Self, EngineError> {
        Self::new((*self.config).clone())
    }

    fn trial_labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL_TRIAL.to_owned(), self.config.home.clone())])
    }

    fn trial_body(&self, plan: &ContainerPlan) -> Result<ContainerCreateBody, EngineError> {
        let mut body = body(plan, self.trial_labels(), &self.config)?;
        let mut host = body.host_config.take().unwrap_or_default();
        host.network_mode = Some(NO_NETWORK.into());
        host.cpu_shares = Some(CPU_SHARES);
        host.oom_score_adj = Some(OOM_SCORE);
        body.host_config = Some(host);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::plan::tests::plan;
    use crate::docker::{EngineConfig, LABEL_HOME, LABEL_SERVICE};

    fn engine(dir: &std::path::Path) -> Engine {
        let config = EngineConfig { socket: dir.join("none"), ..EngineConfig::new("maison", dir) };
        Engine::new(config).unwrap()
    }

    #[test]
    fn a_trial_has_no_network_little_processor_and_the_services_own_limits() {
        let dir = tempfile::tempdir().unwrap();
        let plan = ContainerPlan { memory_max_bytes: Some(64 << 20), ..plan() };
        let body = engine(dir.path()).trial_body(&plan).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.port_bindings, None);
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!((host.cpu_shares, host.oom_score_adj), (Some(64), Some(1000)));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(body.image, Some(plan.image.reference()));
    }

    #[test]
    fn nothing_by_which_services_are_found_finds_a_trial() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path());
        let labels = engine.trial_body(&plan()).unwrap().labels.unwrap();
        assert_eq!(labels[LABEL_TRIAL], "maison");
        for of_services in [LABEL_HOME, LABEL_SERVICE] {
            assert!(!labels.contains_key(of_services), "{of_services}");
        }
        // Not even a service or a home that is called like one.
        for (home, service) in [("maison", "notes"), ("trial.maison", "notes"), ("trial", "maison.notes")] {
            let Ok(service) = ServiceName::new(service) else { continue };
            let config =
                EngineConfig { socket: dir.path().join("none"), ..EngineConfig::new(home, dir.path()) };
            let other = Engine::new(config).unwrap();
            assert_ne!(other.container(&service), engine.trial_container(&plan().service));
        }
        assert!(engine.trial_container(&plan().service).starts_with("thermidor-trial."));
    }

    #[tokio::test]
    async fn an_engine_that_is_gone_is_said_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let gone = engine(dir.path()).remove_trials().await.unwrap_err();
        assert!(gone.may_pass() && gone.to_string().contains("Docker is gone"), "{gone}");
    }
}
