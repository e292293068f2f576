//! What people declare: the YAML, targets, secrets, mail accounts.

use super::{Applied, invalid, stale};
use crate::command::Outcome;
use crate::name::{RadiatorName, ServiceName, UnixMs, VolumeName};
use crate::packed::Packed;
use crate::spec::HomeSpec;
use crate::state::{Declared, MailAccount, Phase, Sealed, Service, State, Volume, Weight};
use std::collections::{BTreeMap, BTreeSet};

/// TCP port of the first volume process; each volume takes the lowest free one from here.
const VOLUME_PORT_FIRST: u16 = 7500;

/// Largest packed build context, bytes: it travels through the log.
pub const CONTEXT_MAX_BYTES: usize = 4 << 20;

impl State {
    pub(super) fn declare(
        &mut self,
        at: UnixMs,
        revision_was: u64,
        text: &str,
        spec: &HomeSpec,
        keep_overrides: bool,
        contexts: &BTreeMap<String, Packed>,
    ) -> Applied {
        let revision = self.declared.as_ref().map_or(0, |d| d.revision);
        if revision != revision_was {
            return stale(format!(
                "someone applied revision {revision} meanwhile: run `thermidor apply` again"
            ));
        }
        if self.home.as_ref() != Some(&spec.home) {
            let name = self.home.as_ref().map_or("not founded", |h| h.as_str());
            return invalid(format!("this home is {name}, the file declares {}", spec.home));
        }
        for (name, wanted) in &spec.volumes {
            let Some(have) = self.volumes.get(name) else { continue };
            if wanted.driver != have.driver {
                return invalid(have.driver.cannot_become(&wanted.driver, name));
            }
            if wanted.size_bytes < have.size_bytes {
                return invalid(format!(
                    "volume {name} has {} bytes and can't shrink to {}: make one of another name, copy, and remove the old one",
                    have.size_bytes, wanted.size_bytes
                ));
            }
        }
        if let Some((hash, bytes)) = contexts.iter().find(|(_, b)| b.len() > CONTEXT_MAX_BYTES) {
            return invalid(format!(
                "build context {hash} has {} bytes, at most {CONTEXT_MAX_BYTES} fit",
                bytes.len()
            ));
        }
        self.declare_services(at, spec);
        self.declare_volumes(spec);
        self.declare_contexts(spec, contexts);
        if !keep_overrides {
            self.overrides.targets_c.retain(|name, _| !names_target(spec, name));
        }
        self.declared = Some(Declared { revision: revision + 1, text: text.to_string(), spec: spec.clone() });
        self.tell(at, Weight::Note, "apply", format!("revision {} was applied", revision + 1));
        Ok(Outcome::Done)
    }

    fn declare_services(&mut self, at: UnixMs, spec: &HomeSpec) {
        for name in spec.services.keys() {
            let retired = &mut self.retired_epochs;
            self.services.entry(name.clone()).or_insert_with(|| Service {
                epoch: retired.remove(name).unwrap_or(0),
                active: None,
                phase: Phase::Run,
                since_ms: at,
                wish: None,
                moved_ms: Vec::new(),
                avoid: BTreeMap::new(),
                moving: None,
            });
        }
        for (name, service) in &mut self.services {
            if !spec.services.contains_key(name) && service.active.is_some() {
                service.phase = Phase::Stop { next: None };
            }
        }
        let stays = |name: &ServiceName, s: &Service| spec.services.contains_key(name) || s.active.is_some();
        for (name, service) in self.services.iter().filter(|(n, s)| !stays(n, s)) {
            self.retired_epochs.insert(name.clone(), service.epoch);
        }
        self.services.retain(|name, s| stays(name, s));
        self.mail_accounts.retain(|name, _| spec.services.contains_key(name));
        self.restores.retain(|name, _| spec.services.contains_key(name));
    }

    fn declare_volumes(&mut self, spec: &HomeSpec) {
        let owners: BTreeMap<&VolumeName, &ServiceName> = spec
            .services
            .iter()
            .flat_map(|(service, s)| s.volumes.iter().map(move |m| (&m.volume, service)))
            .collect();
        for (name, wanted) in &spec.volumes {
            let Some(owner) = owners.get(name) else { continue };
            let port = self.free_volume_port();
            let volume = self.volumes.entry(name.clone()).or_insert_with(|| Volume {
                service: (*owner).clone(),
                size_bytes: wanted.size_bytes,
                driver: wanted.driver.clone(),
                replicas_wanted: wanted.replicas,
                durability: wanted.durability,
                on_degraded: wanted.on_degraded,
                port,
                epoch: 0,
                active: None,
                replicas: BTreeMap::new(),
                in_sync: BTreeSet::new(),
                set_version: 0,
            });
            if volume.active.is_none() {
                volume.service = (*owner).clone();
            }
            volume.size_bytes = wanted.size_bytes;
            volume.replicas_wanted = wanted.replicas;
            volume.durability = wanted.durability;
            volume.on_degraded = wanted.on_degraded;
        }
    }

    fn declare_contexts(&mut self, spec: &HomeSpec, contexts: &BTreeMap<String, Packed>) {
        let used: BTreeSet<&String> =
            spec.services.values().filter_map(|s| s.build.as_ref().and_then(|b| b.hash.as_ref())).collect();
        self.contexts.extend(contexts.iter().map(|(h, b)| (h.clone(), b.clone())));
        self.contexts.retain(|hash, _| used.contains(hash));
    }

    fn free_volume_port(&self) -> u16 {
        let taken: BTreeSet<u16> = self.volumes.values().map(|v| v.port).collect();
        (VOLUME_PORT_FIRST..).find(|port| !taken.contains(port)).unwrap_or(VOLUME_PORT_FIRST)
    }

    pub(super) fn target(&mut self, at: UnixMs, radiator: &RadiatorName, celsius: Option<f64>) -> Applied {
        let declared = self.spec().is_some_and(|s| s.radiators.contains_key(radiator));
        if !declared && self.node(radiator).is_none() {
            return invalid(format!("there is no radiator {radiator}: `thermidor radiator ls` lists them"));
        }
        match celsius {
            None => {
                self.overrides.targets_c.remove(radiator);
            }
            Some(c) if (0.0..=90.0).contains(&c) => {
                self.overrides.targets_c.insert(radiator.clone(), c);
                self.tell(
                    at,
                    Weight::Note,
                    &format!("target/{radiator}"),
                    format!("{radiator} is wanted at {c} °C"),
                );
            }
            Some(c) => return invalid(format!("{c} °C is no target: give 0 to 90")),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_secret(&mut self, name: &str, sealed: Option<&Sealed>) -> Applied {
        if name.is_empty() || name.len() > 200 {
            return invalid("a secret's name has 1 to 200 characters, like `mail/marie`");
        }
        if [crate::friends::KIT_SECRET, crate::friends::KIT_BEFORE_SECRET].contains(&name) {
            return invalid("that is the recovery kit: `thermidor kit` has the verbs for it");
        }
        match sealed {
            Some(sealed) if sealed.key != self.keys.sealed_under => {
                return stale("the home key has been changed meanwhile: set the secret again");
            }
            Some(sealed) => {
                self.secrets.insert(name.to_string(), sealed.clone());
            }
            None => {
                if self.secrets.remove(name).is_none() {
                    return invalid(format!("there is no secret {name}: `thermidor secret ls` lists them"));
                }
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_mail_account(
        &mut self,
        service: &ServiceName,
        account: &str,
        value: Option<&MailAccount>,
    ) -> Applied {
        let Some(spec) = self.spec().and_then(|s| s.services.get(service)) else {
            return invalid(format!("there is no service {service}: `thermidor service ls` lists them"));
        };
        let Some(crate::spec::RecipeSpec::Mail(mail)) = &spec.recipe else {
            return invalid(format!("{service} is not of the recipe mail"));
        };
        if mail.accounts.contains_key(account) {
            return invalid(format!(
                "{account} is declared in the YAML: change it there and `thermidor apply`"
            ));
        }
        let accounts = self.mail_accounts.entry(service.clone()).or_default();
        match value {
            Some(value) => {
                accounts.insert(account.to_string(), value.clone());
            }
            None => {
                if accounts.remove(account).is_none() {
                    return invalid(format!(
                        "{service} has no account {account}: `thermidor mail account ls` lists them"
                    ));
                }
            }
        }
        Ok(Outcome::Done)
    }
}

fn names_target(spec: &HomeSpec, radiator: &RadiatorName) -> bool {
    spec.radiators.get(radiator).is_some_and(|r| r.comfort.is_some())
}
