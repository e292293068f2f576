//! Looks, from outside, whether what is active here does its job: through the published ports, at
//! the home's address, as a client would. What it finds is told and shown; nothing is moved for it.

use super::health::{Health, Rhythm};
use super::{Context, within};
use crate::clock::unix_ms;
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use thermidor_model::spec::{MailSpec, PROBE_ACCOUNT, PROBE_EVERY_DEFAULT_S, RecipeSpec, ServiceSpec};
use thermidor_model::state::Weight;
use thermidor_model::{Command, ServiceName, State};
use thermidor_services::docker;
use thermidor_services::probe::{MailProbe, Probe, Probed};
use thermidor_services::recipe::{self, certificate, mail, yacy};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// How often is looked whether a probe is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long each leg of a mail probe may take.
const LEG_MAX: Duration = Duration::from_secs(30);

/// How long a whole probe may take, whatever its legs do.
const PROBE_MAX: Duration = Duration::from_secs(180);

/// How long a service may take to answer after a start.
const PATIENCE: Duration = Duration::from_secs(120);

/// YaCy may rebuild its index after a crash: half a day for a large one.
const PATIENCE_YACY: Duration = Duration::from_secs(24 * 3600);

/// How often a vault is knocked at: its friends come every few minutes.
const VAULT_EVERY: Duration = Duration::from_secs(30);

/// How often Docker is asked what its health check says.
const HEALTH_EVERY: Duration = Duration::from_secs(15);

/// How long telling people may take.
const TELL_MAX: Duration = Duration::from_secs(5);

/// A day, and how long before its end a given certificate is spoken of, ms.
const DAY_MS: u64 = 86_400_000;
const ENDING_MS: u64 = 14 * DAY_MS;

/// Probes under way: one for each service.
const PROBES_MAX: usize = 64;

/// Probes for as long as the daemon lives.
pub async fn run(context: Context) {
    let (done, mut ended) = mpsc::channel::<(ServiceName, docker::Found, Probed)>(PROBES_MAX);
    let mut under_way: BTreeSet<ServiceName> = BTreeSet::new();
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            _ = tokio::time::sleep(LOOK_EVERY) => {}
            Some((service, of, probed)) = ended.recv() => {
                under_way.remove(&service);
                context.note_probe(&service, &of, probed);
                context.tell_ending(&service).await;
            }
        }
        let state = context.node.state().borrow().clone();
        for (service, found) in context.due_probes(&state) {
            if under_way.len() >= PROBES_MAX || !under_way.insert(service.clone()) {
                continue;
            }
            let (context, state, done) = (context.clone(), state.clone(), done.clone());
            tokio::spawn(async move {
                let probed = match tokio::time::timeout(PROBE_MAX, context.probe(&state, &service)).await {
                    Ok(probed) => probed,
                    Err(_) => unhealthy(format!("no answer in {} s", PROBE_MAX.as_secs())),
                };
                // The loop outlives every probe; where it is gone the daemon is ending.
                let _ended_daemon = done.send((service, found, probed)).await;
            });
        }
        if let Err(e) = context.tell_health(&state, &mut told).await {
            debug!("a change of health is still to be told: {e:#}");
        }
    }
}

fn unhealthy(trouble: String) -> Probed {
    Probed { healthy: Some(false), legs: vec![], trouble }
}

/// How a service is looked after; `None`: there is nothing to ask it.
fn rhythm(spec: &ServiceSpec) -> Option<Rhythm> {
    let every = Duration::from_secs(PROBE_EVERY_DEFAULT_S);
    match &spec.recipe {
        Some(RecipeSpec::Mail(mail)) => {
            Some(Rhythm { every: Duration::from_secs(mail.probe_every_s), patience: PATIENCE })
        }
        Some(RecipeSpec::Yacy(_)) => Some(Rhythm { every, patience: PATIENCE_YACY }),
        Some(RecipeSpec::Vault(_)) => Some(Rhythm { every: VAULT_EVERY, patience: PATIENCE }),
        None => spec.healthcheck.is_some().then_some(Rhythm { every: HEALTH_EVERY, patience: PATIENCE }),
    }
}

/// Where clients reach a port of the container: the home's address if it has one, else this radiator's.
pub(super) fn door(state: &State, own: IpAddr, spec: &ServiceSpec, targets: &[u16]) -> Option<SocketAddr> {
    let published = recipe::ports(spec).into_iter().find(|p| targets.contains(&p.target))?.published;
    let ip = state.spec().and_then(|s| s.address).map_or(own, |a| a.ip);
    Some(SocketAddr::new(ip, published))
}

/// What people were last told about a service: well or sick.
fn last_told(state: &State, service: &ServiceName) -> Option<bool> {
    let [well, sick] = keys(service);
    state.events.iter().rev().find_map(|e| match &e.key {
        key if *key == well => Some(true),
        key if *key == sick => Some(false),
        _ => None,
    })
}

/// Two keys, so that within an hour both words are mailed once.
fn keys(service: &ServiceName) -> [String; 2] {
    [format!("well/{service}"), format!("sick/{service}")]
}

fn ending_key(service: &ServiceName) -> String {
    format!("certificate/{service}")
}

/// What is to be told of a service's given certificate, if it ends soon and that was not told lately.
fn ending(state: &State, service: &ServiceName, now_ms: u64) -> Option<String> {
    let Some(RecipeSpec::Mail(mail)) = &state.spec()?.services.get(service)?.recipe else { return None };
    let left_ms =
        i128::from(certificate::ends_ms(&mail.certificate.as_ref()?.chain_pem).ok()?) - i128::from(now_ms);
    let key = ending_key(service);
    let lately = |e: &&thermidor_model::state::Event| e.key == key && e.at_ms + DAY_MS > now_ms;
    if left_ms > i128::from(ENDING_MS) || state.events.iter().rev().any(|e| lately(&e)) {
        return None;
    }
    let when = match left_ms {
        ..0 => "has ended".into(),
        left => format!("ends in {} days", left / i128::from(DAY_MS)),
    };
    Some(format!(
        "the certificate of {service} {when}: put the renewed files in place and `thermidor apply` again"
    ))
}

impl Context {
    /// The instances that are to be looked at now; forgets those that are none any more.
    fn due_probes(&self, state: &State) -> Vec<(ServiceName, docker::Found)> {
        let now = Instant::now();
        let me = self.node.id();
        let mut found = self.shared.lock();
        let running: Vec<(ServiceName, docker::Found, Rhythm)> = found
            .containers
            .iter()
            .filter_map(|(name, seen)| {
                let service = state.services.get(name)?;
                let mine = service.active == Some(me) && service.epoch == seen.found.epoch;
                let rhythm = rhythm(state.spec()?.services.get(name)?)?;
                (mine && seen.found.running).then(|| (name.clone(), seen.found.clone(), rhythm))
            })
            .collect();
        found.probes.retain(|name, health| running.iter().any(|(n, f, _)| n == name && health.is_of(f)));
        let mut due = Vec::new();
        for (name, instance, rhythm) in running {
            let health = found.probes.entry(name.clone());
            let health = health.or_insert_with(|| Health::new(&instance, rhythm, now));
            health.follow(rhythm, now);
            if health.is_due(now) {
                due.push((name, instance));
            }
        }
        due
    }

    fn note_probe(&self, service: &ServiceName, of: &docker::Found, probed: Probed) {
        let mut found = self.shared.lock();
        // Another instance by now: what was asked of the old one says nothing.
        let Some(health) = found.probes.get_mut(service).filter(|h| h.is_of(of)) else { return };
        let before = health.healthy();
        match (before, &probed.healthy) {
            (Some(true), Some(true)) => debug!(%service, "{probed}"),
            _ => info!(%service, "{probed}"),
        }
        health.take(probed, Instant::now());
        if health.healthy() != before {
            self.shared.report_now.notify_one();
        }
    }

    async fn probe(&self, state: &State, service: &ServiceName) -> Probed {
        let Some(spec) = state.spec().and_then(|s| s.services.get(service)) else {
            return Probed { healthy: None, legs: vec![], trouble: "it is not declared".into() };
        };
        let own = self.node.address().ip();
        match &spec.recipe {
            Some(RecipeSpec::Mail(settings)) => match self.mail_probe(state, service, spec, settings) {
                Ok(probe) => Probe::Mail(Box::new(probe)).run(service, own, &self.engine).await,
                Err(e) => Probed { healthy: None, legs: vec![], trouble: format!("{e:#}") },
            },
            Some(RecipeSpec::Yacy(_)) => match door(state, own, spec, &[yacy::HTTP]) {
                Some(door) => yacy::probe(door.port()).run(service, door.ip(), &self.engine).await,
                None => Probed { healthy: None, legs: vec![], trouble: "its port is not published".into() },
            },
            Some(RecipeSpec::Vault(settings)) => self.probe_vault(state, service, spec, settings).await,
            None => Probe::Health.run(service, own, &self.engine).await,
        }
    }

    fn mail_probe(
        &self,
        state: &State,
        service: &ServiceName,
        spec: &ServiceSpec,
        settings: &MailSpec,
    ) -> anyhow::Result<MailProbe> {
        let own = self.node.address().ip();
        let door = |port: u16| {
            let found = door(state, own, spec, &[port, port + mail::PROXY_OFFSET]);
            found.with_context(|| format!("its port {port} is not published: nobody can reach it"))
        };
        Ok(MailProbe {
            smtp: door(25).ok(),
            submission: door(465)?,
            imap: door(993)?,
            server_name: settings.hostname.clone(),
            authority_pem: Self::mail_authority(state, settings),
            user: PROBE_ACCOUNT.into(),
            address: format!("{PROBE_ACCOUNT}@{}", settings.domain),
            password: self.probe_password(service)?,
            own_mailbox: true,
            limit: LEG_MAX,
        })
    }

    /// Tells people once a day of a given certificate that is about to end.
    async fn tell_ending(&self, service: &ServiceName) {
        let state = self.node.state().borrow().clone();
        let Some(text) = ending(&state, service, unix_ms()) else { return };
        let tell = Command::Tell { weight: Weight::Mail, key: ending_key(service), text };
        if let Err(e) = self.node.propose(tell, within(TELL_MAX)).await {
            debug!(%service, "the end of its certificate is still to be told: {e}");
        }
    }

    /// Tells people when a service fell sick, and when it is well again, wherever it runs then.
    /// `told` is what was told from here and may not be applied here yet.
    async fn tell_health(&self, state: &State, told: &mut BTreeMap<ServiceName, bool>) -> anyhow::Result<()> {
        let known: Vec<(ServiceName, bool, String)> = {
            let found = self.shared.lock();
            let known = |(name, h): (&ServiceName, &Health)| {
                Some((name.clone(), h.healthy()?, h.trouble().unwrap_or_default()))
            };
            found.probes.iter().filter_map(known).collect()
        };
        for (service, healthy, trouble) in known {
            // A service that was never sick is not worth a word.
            if healthy == last_told(state, &service).unwrap_or(true) {
                told.remove(&service);
                continue;
            }
            if told.get(&service) == Some(&healthy) {
                continue;
            }
            let here = state.name_of(self.node.id());
            let [well, sick] = keys(&service);
            let (key, text) = match healthy {
                true => {
                    (well, format!("{service} is well again on {here}: its probe went all the way round"))
                }
                false => (sick, format!("{service} runs on {here} but is sick: {trouble}")),
            };
            warn!(%service, "{text}");
            let tell = Command::Tell { weight: Weight::Mail, key, text };
            self.node.propose(tell, within(TELL_MAX)).await?;
            told.insert(service, healthy);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::Proposal;
    use thermidor_model::testing::{mail as service, serving_home};

    #[test]
    fn what_was_told_last_about_a_service_is_found_among_all_that_was_told() {
        let mut state = serving_home(3, 1);
        let [well, sick] = keys(&service());
        let mut tell = |key: &str| {
            let command = Command::Tell { weight: Weight::Mail, key: key.into(), text: "said".into() };
            state.apply(&Proposal { at_ms: 1, command });
            last_told(&state, &service())
        };
        assert_eq!(tell("sick/other"), None);
        assert_eq!(tell(&sick), Some(false));
        assert_eq!(tell("volume/box"), Some(false));
        assert_eq!(tell(&well), Some(true));
    }

    #[test]
    fn clients_come_in_by_the_homes_address_and_the_published_port() {
        let mut state = serving_home(3, 1);
        let own: IpAddr = [10, 0, 0, 1].into();
        let mut spec = thermidor_model::testing::service_on(thermidor_model::testing::box_volume());
        spec.ports =
            vec![thermidor_model::spec::PortSpec { published: 8080, target: 80, proxy_protocol: false }];
        assert_eq!(door(&state, own, &spec, &[80, 81]), Some(SocketAddr::new(own, 8080)));
        assert_eq!(door(&state, own, &spec, &[443]), None);
        if let Some(declared) = &mut state.declared {
            let ip = [192, 168, 1, 50].into();
            declared.spec.address = Some(thermidor_model::spec::AddressSpec { ip, prefix: 24 });
        }
        assert_eq!(door(&state, own, &spec, &[80]).unwrap().to_string(), "192.168.1.50:8080");
    }

    #[test]
    fn a_given_certificate_that_ends_is_spoken_of_once_a_day() {
        let mut state = serving_home(3, 1);
        let mut own = rcgen::CertificateParams::new(vec!["mail.example.org".into()]).unwrap();
        own.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let chain_pem = own.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let ends_ms = certificate::ends_ms(&chain_pem).unwrap();
        let certificate = thermidor_model::spec::CertificateSpec {
            chain_pem,
            key: thermidor_model::spec::SecretName("k".into()),
            key_file: None,
        };
        let settings = MailSpec {
            domain: "example.org".into(),
            hostname: "mail.example.org".into(),
            accounts: BTreeMap::new(),
            message_max_bytes: 1000,
            certificate: Some(certificate),
            probe_every_s: 300,
        };
        let declared = state.declared.as_mut().unwrap();
        let spec = declared.spec.services.get_mut(&service()).unwrap();
        spec.recipe = Some(RecipeSpec::Mail(settings));
        assert_eq!(ending(&state, &service(), ends_ms - 15 * DAY_MS), None);
        let at_ms = ends_ms - 9 * DAY_MS;
        let text = ending(&state, &service(), at_ms).unwrap();
        assert!(text.contains("ends in 9 days") && text.contains("thermidor apply"), "{text}");
        let command = Command::Tell { weight: Weight::Mail, key: ending_key(&service()), text };
        state.apply(&Proposal { at_ms, command });
        assert_eq!(ending(&state, &service(), at_ms + DAY_MS / 2), None, "told today");
        assert!(ending(&state, &service(), at_ms + 2 * DAY_MS).unwrap().contains("7 days"));
        assert!(ending(&state, &service(), ends_ms + 1).unwrap().contains("has ended"));
    }

    #[test]
    fn yacy_is_waited_for_longer_than_its_longest_rebuild_and_a_plain_image_is_not_asked() {
        let mut spec = thermidor_model::testing::service_on(thermidor_model::testing::box_volume());
        assert_eq!(rhythm(&spec), None);
        let settings = thermidor_model::spec::YacySpec { network: "intranet".into(), heap_mib: 600 };
        spec.recipe = Some(RecipeSpec::Yacy(settings));
        assert!(rhythm(&spec).unwrap().patience > Duration::from_secs(12 * 3600));
    }
}
