//! This radiator's containers: what each is to be, whether it is ready, what it does.

use super::Context;
use super::found::Seen;
use anyhow::{Context as _, bail};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thermidor_model::observe::Readiness;
use thermidor_model::spec::{MailSpec, RecipeSpec, SecretName, ServiceSpec};
use thermidor_model::state::State;
use thermidor_model::{ServiceName, VolumeName};
use thermidor_services::docker::{ContainerPlan, cgroup_of};
use thermidor_services::recipe::{self, Ground, VolumePlace, mail};
use tracing::{debug, info, warn};

/// How often the engine is asked, beside its events.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long after an image could not be had it is tried again.
const IMAGE_AGAIN: Duration = Duration::from_secs(10);

/// How long to wait before the engine's events are asked for anew.
const EVENTS_AGAIN: Duration = Duration::from_secs(1);

/// What each declared service's container is to be, or why that can't be said.
type Plans = BTreeMap<ServiceName, Result<ContainerPlan, String>>;

/// Plans of one applied state, and hashes of passwords that YAML refers to.
#[derive(Default)]
pub struct Workshop {
    plans: Mutex<Option<(Arc<State>, Arc<Plans>)>>,
    hashes: Mutex<BTreeMap<String, (String, String)>>,
}

impl Context {
    /// The plans for the state as applied now.
    fn plans(&self) -> Arc<Plans> {
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
        if let Some(RecipeSpec::Mail(settings)) = &spec.recipe {
            self.write_mail_config(state, name, settings, &config)?;
        }
        let ground = Ground {
            volumes: &volumes,
            config: &config,
            secret: &|secret| self.secret(state, secret),
            context: &|hash| state.contexts.get(hash).map(|b| bytes::Bytes::from(b.clone())),
        };
        Ok(recipe::resolve(name, spec, &ground)?)
    }

    fn secret(&self, state: &State, name: &SecretName) -> Option<String> {
        let opened = self.keys.open(&name.0, state.secrets.get(&name.0)?);
        opened.inspect_err(|e| warn!("secret {}: {e:#}", name.0)).ok()
    }

    /// Accounts of YAML and CLI, and a certificate of the home's authority.
    fn write_mail_config(
        &self,
        state: &State,
        name: &ServiceName,
        settings: &MailSpec,
        folder: &std::path::Path,
    ) -> anyhow::Result<()> {
        let mut accounts = BTreeMap::new();
        for (account, declared) in &settings.accounts {
            let secret = &declared.password;
            let password = self
                .secret(state, secret)
                .with_context(|| format!("run `thermidor secret set {}`", secret.0))?;
            let password_hash = self.hash(&format!("{name}/{account}"), &password)?;
            accounts
                .insert(account.clone(), mail::Account { password_hash, aliases: declared.aliases.clone() });
        }
        for (account, made) in state.mail_accounts.get(name).into_iter().flatten() {
            let password_hash = made.password_hash.clone();
            accounts.insert(account.clone(), mail::Account { password_hash, aliases: made.aliases.clone() });
        }
        let (certificate_pem, key_pem) = self.certificate(name, &settings.hostname)?;
        let config = mail::MailConfig {
            domain: settings.domain.clone(),
            hostname: settings.hostname.clone(),
            message_max_bytes: settings.message_max_bytes,
            accounts,
            certificate_pem,
            key_pem,
        };
        if mail::write_config(folder, &config)? {
            info!(service = %name, "its accounts or certificate were written anew");
        }
        Ok(())
    }

    /// The hash of a password; the same one for as long as the password stays.
    fn hash(&self, whose: &str, password: &str) -> anyhow::Result<String> {
        let mut hashes = self.workshop.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hash)) = hashes.get(whose).filter(|(of, _)| of == password) {
            return Ok(hash.clone());
        }
        let hash = mail::hash_password(password)?;
        hashes.insert(whose.to_string(), (password.to_string(), hash.clone()));
        Ok(hash)
    }

    /// A service's certificate on this radiator, made once for a host name.
    fn certificate(&self, name: &ServiceName, host: &str) -> anyhow::Result<(String, String)> {
        let dir = self.paths.service(name.as_str()).join("tls").join(host);
        let (pem, key) = (dir.join("pem"), dir.join("key"));
        if pem.exists() && key.exists() {
            return Ok((std::fs::read_to_string(pem)?, std::fs::read_to_string(key)?));
        }
        let (pem_text, key_text) = self.node.identity().authority()?.issue_for_service(host)?;
        std::fs::create_dir_all(&dir)?;
        write_private(&key, &key_text)?;
        write_private(&pem, &pem_text)?;
        Ok((pem_text, key_text))
    }

    /// Has the image here and the container created.
    pub async fn prepare(&self, service: &ServiceName) -> anyhow::Result<()> {
        let ready = match self.plans().get(service) {
            Some(Ok(plan)) => {
                self.note_readiness(service, Readiness::Preparing("its image is being made ready".into()));
                self.engine.prepare(plan).await
            }
            Some(Err(why)) => Readiness::Failed(why.clone()),
            None => Readiness::Failed("it is not declared".into()),
        };
        self.note_readiness(service, ready.clone());
        self.refresh().await;
        if let Readiness::Failed(why) = ready {
            let mut state = self.node.state();
            state.borrow_and_update();
            // What is declared may be mended meanwhile.
            tokio::select! {
                _ = tokio::time::sleep(IMAGE_AGAIN) => {}
                _ = state.changed() => {}
            }
            bail!("{why}");
        }
        Ok(())
    }

    fn note_readiness(&self, service: &ServiceName, ready: Readiness) {
        let before = self.shared.lock().readiness.insert(service.clone(), ready.clone());
        if before.as_ref() != Some(&ready) {
            debug!(%service, ?ready, "readiness");
            self.shared.report_now.notify_one();
        }
    }

    /// Asks the engine what is there.
    pub async fn refresh(&self) {
        let plans = self.plans();
        let listed = match self.engine.list().await {
            Ok(listed) => listed,
            Err(e) => {
                self.shared.lock().engine_trouble = Some(e.to_string());
                return;
            }
        };
        let seen: BTreeMap<ServiceName, Seen> = listed
            .into_iter()
            .map(|found| {
                let plan = plans.get(&found.service).and_then(|p| p.as_ref().ok());
                let current = plan.is_some_and(|p| p.hash() == found.plan_hash);
                let ip = found.address;
                (found.service.clone(), Seen { found, current, ip })
            })
            .collect();
        let mut found = self.shared.lock();
        for (service, ready) in &seen {
            if ready.current {
                found.readiness.insert(service.clone(), Readiness::Ready);
            }
        }
        let told = |s: &BTreeMap<ServiceName, Seen>| {
            s.iter().map(|(n, s)| (n.clone(), s.found.running, s.found.epoch, s.ip)).collect::<Vec<_>>()
        };
        let news = told(&found.containers) != told(&seen);
        found.take_containers(seen, Instant::now());
        drop(found);
        if news {
            self.shared.containers_changed.send_modify(|n| *n += 1);
            self.shared.wake.notify_one();
            self.shared.report_now.notify_one();
        }
    }

    /// Where the ingress reaches a service that runs here.
    pub fn backend(&self, service: &ServiceName) -> Option<IpAddr> {
        let found = self.shared.lock();
        found.containers.get(service).filter(|s| s.found.running).and_then(|s| s.ip)
    }

    /// Tells the guard what to kill when the lease of this epoch ends.
    pub async fn guard_expects(&self, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
        let pid = {
            let found = self.shared.lock();
            found
                .containers
                .get(service)
                .filter(|s| s.found.running && s.found.epoch == epoch)
                .and_then(|s| s.found.pid)
        };
        let pid = pid.context("it ended at once")?;
        let cgroup = cgroup_of(pid).with_context(|| format!("control group of process {pid}"))?;
        self.guard.expect(service, epoch, cgroup.folder().to_path_buf(), Some(pid)).await
    }
}

fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Looks for as long as the daemon lives: at the engine's events, and now and then anyway.
pub async fn run(context: Context) {
    adopt(&context).await;
    tokio::spawn(follow_events(context.clone()));
    loop {
        context.refresh().await;
        remove_strays(&context).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Containers that run from before this daemon: told to the guard again.
async fn adopt(context: &Context) {
    context.refresh().await;
    let running: Vec<(ServiceName, u64)> = {
        let found = context.shared.lock();
        found
            .containers
            .iter()
            .filter(|(_, s)| s.found.running)
            .map(|(n, s)| (n.clone(), s.found.epoch))
            .collect()
    };
    for (service, epoch) in running {
        match context.guard_expects(&service, epoch).await {
            Ok(()) => info!(%service, epoch, "runs from before, and is taken over"),
            Err(e) => warn!(%service, epoch, "runs from before, but may not: {e:#}"),
        }
    }
}

async fn follow_events(context: Context) {
    loop {
        match context.engine.events().await {
            Ok(events) => {
                let mut events = Box::pin(events);
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => debug!(service = %event.service, action = %event.action, "engine"),
                        Err(e) => {
                            debug!("the engine's events broke off: {e}");
                            break;
                        }
                    }
                    context.refresh().await;
                }
            }
            Err(e) => debug!("no events of the engine: {e}"),
        }
        tokio::time::sleep(EVENTS_AGAIN).await;
    }
}

/// Containers of services that are declared no more, once they are stopped.
async fn remove_strays(context: &Context) {
    let state = context.node.state().borrow().clone();
    let strays: BTreeSet<ServiceName> = {
        let found = context.shared.lock();
        let stray = |n: &ServiceName, s: &Seen| !s.found.running && !state.services.contains_key(n);
        found.containers.iter().filter(|(n, s)| stray(n, s)).map(|(n, _)| n.clone()).collect()
    };
    for service in strays {
        match context.engine.remove(&service).await {
            Ok(()) => info!(%service, "its container was removed: it is declared no more"),
            Err(e) => warn!(%service, "its container is not removed: {e}"),
        }
    }
}
