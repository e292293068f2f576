//! What each container is to be: the declaration, on the ground that this radiator offers.

use super::Context;
use super::friends::run_folder;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use thermidor_model::spec::{RecipeSpec, SecretName, ServiceSpec};
use thermidor_model::state::State;
use thermidor_model::{ServiceName, VolumeName};
use thermidor_services::docker::ContainerPlan;
use thermidor_services::recipe::{self, Ground, VolumePlace};
use tracing::warn;

/// What each declared service's container is to be, or why that can't be said.
type Plans = BTreeMap<ServiceName, Result<ContainerPlan, String>>;

/// Plans of one applied state, and hashes of passwords that YAML refers to.
#[derive(Default)]
pub struct Workshop {
    plans: Mutex<Option<(Arc<State>, Arc<Plans>)>>,
    pub(super) hashes: Mutex<BTreeMap<String, (String, String)>>,
}

impl Context {
    /// The plans for the state as applied now.
    pub(super) fn plans(&self) -> Arc<Plans> {
        let state = self.node.state().borrow().clone();
        let mut kept = self.workshop.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plans)) = kept.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &state)) {
            return plans.clone();
        }
        let services = state.spec().map(|s| &s.services);
        let plans = services.into_iter().flatten().map(|(name, spec)| {
            let plan = self.plan(&state, name, spec).map_err(|e| format!("{e:#}"));
            (name.clone(), plan)
        });
        let plans: Arc<Plans> = Arc::new(plans.collect());
        *kept = Some((state, plans.clone()));
        plans
    }

    fn plan(&self, state: &State, name: &ServiceName, spec: &ServiceSpec) -> anyhow::Result<ContainerPlan> {
        let place = |volume: &VolumeName| {
            let mount = self.paths.volume(volume.as_str()).join("mnt");
            (volume.clone(), VolumePlace { folder: mount.clone(), mountpoint: Some(mount) })
        };
        let volumes: BTreeMap<_, _> = spec.volumes.iter().map(|m| place(&m.volume)).collect();
        let config = self.paths.service(name.as_str()).join("config");
        // Docker makes no container whose mountpoints don't exist; what may not be empty is asked at the start.
        for place in volumes.values() {
            std::fs::create_dir_all(&place.folder).with_context(|| place.folder.display().to_string())?;
        }
        std::fs::create_dir_all(&config).with_context(|| config.display().to_string())?;
        let run = run_folder(&self.paths, name);
        match &spec.recipe {
            Some(RecipeSpec::Mail(settings)) => self.write_mail_config(state, name, settings, &config)?,
            Some(RecipeSpec::Vault(settings)) => {
                std::fs::create_dir_all(&run).with_context(|| run.display().to_string())?;
                self.write_vault_config(state, name, settings, &config)?;
            }
            _ => {}
        }
        self.plan_on(state, name, spec, &volumes, [&config, &run])
    }

    /// What the container is to be on these volumes, with these folders of its files and of its sockets.
    pub(super) fn plan_on(
        &self,
        state: &State,
        name: &ServiceName,
        spec: &ServiceSpec,
        volumes: &BTreeMap<VolumeName, VolumePlace>,
        [config, run]: [&Path; 2],
    ) -> anyhow::Result<ContainerPlan> {
        let program = this_program()?;
        let ground = Ground {
            volumes,
            config,
            run,
            program: &program,
            secret: &|secret| self.secret(state, secret),
            context: &|hash| state.contexts.get(hash).map(|b| bytes::Bytes::copy_from_slice(b)),
        };
        Ok(recipe::resolve(name, spec, &ground)?)
    }

    pub(super) fn secret(&self, state: &State, name: &SecretName) -> Option<String> {
        let opened = self.keys.open(&name.0, state.secrets.get(&name.0)?);
        opened.inspect_err(|e| warn!("secret {}: {e:#}", name.0)).ok()
    }
}

/// Where this program lies, also after an upgrade has put another one in its place.
fn this_program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("where this program is")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
