//! What people and programs see of a home: the JSON that `-o json` promises.
//! A field is added, never renamed or taken away, without raising [`VERSION`].

use super::checked::Checked;
pub use super::recovery::{KitLine, KitPrint, KitReplaced, RestoreLine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thermidor_model::name::UnixMs;
use thermidor_model::observe::{CatchUp, Instance, ProbeReport, Readiness, ReplicaState, Report};
use thermidor_model::outlived::Outlived;
use thermidor_model::placement::Reason;
use thermidor_model::spec::{Heats, RadiatorSpec, VolumeDriver};
use thermidor_model::state::{Phase, Role, Service, State, Volume};
use thermidor_model::{NodeId, ServiceName};
use thermidor_services::volume::snapshot::SnapshotView;

/// Version of every view.
pub const VERSION: u32 = 1;

/// What the leader knows beside the state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaderView {
    /// Who leads.
    pub leader: NodeId,
    /// Last reports of members heard lately.
    pub reports: BTreeMap<NodeId, Report>,
    /// ms since each member was heard.
    pub silent_ms: BTreeMap<NodeId, u64>,
    /// How long it has led, ms: whoever was not heard since is silent for as long at least.
    #[serde(default)]
    pub leading_ms: u64,
    /// Who votes.
    pub voters: std::collections::BTreeSet<NodeId>,
    /// What a person should know about the votes.
    pub warning: Option<String>,
    /// What the last plan said of each service.
    pub reasons: BTreeMap<ServiceName, Reason>,
}

impl LeaderView {
    /// How long a member has been silent, ms; at least.
    pub fn silence_ms(&self, node: NodeId) -> u64 {
        match self.silent_ms.get(&node) {
            _ if node == self.leader => 0,
            Some(ms) => *ms,
            None => self.leading_ms,
        }
    }
}

/// The whole home at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Home {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub home: String,
    /// Its generation.
    pub generation: u64,
    /// Whether a majority answers.
    pub quorum: bool,
    /// Who leads.
    pub leader: Option<String>,
    /// The floating address and who holds it.
    pub address: Option<AddressLine>,
    /// Members.
    pub radiators: Vec<RadiatorLine>,
    /// Services.
    pub services: Vec<ServiceLine>,
    /// Volumes.
    pub volumes: Vec<VolumeLine>,
    /// How the backups stand.
    #[serde(default)]
    pub backups: Vec<super::backups::BackupStanding>,
    /// The recovery kit, once there is one.
    #[serde(default)]
    pub kit: Option<KitLine>,
    /// Restores under way.
    #[serde(default)]
    pub restores: Vec<RestoreLine>,
    /// The later generation of the home that was heard of, if there is one.
    #[serde(default)]
    pub outlived: Option<OutlivedLine>,
    /// What a person should know or do.
    pub warnings: Vec<String>,
}

/// A later generation of the home, elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutlivedLine {
    /// Its number.
    pub generation: u64,
    /// When it began, by its own clock, Unix ms; `None`: it did not say.
    pub since_ms: Option<UnixMs>,
    /// Whose vault has handed its word on.
    pub from: String,
    /// When it was heard here, Unix ms.
    pub heard_ms: UnixMs,
    /// Whether this home stands down before it; not once a person had it go on.
    pub stands_down: bool,
}

/// The floating address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddressLine {
    /// With prefix.
    pub address: String,
    /// Who holds it.
    pub holder: Option<String>,
}

/// One member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RadiatorLine {
    /// Its name.
    pub name: String,
    /// Its listener; `None`: has not joined.
    #[serde(default)]
    pub address: Option<String>,
    /// `room`, `water`, `witness`, `not declared`.
    pub heats: String,
    /// `on`, `off`, `silent`, `expected`.
    pub state: String,
    /// Whether it votes.
    pub votes: bool,
    /// °C
    pub temperature_c: Option<f64>,
    /// °C
    pub target_c: Option<f64>,
    /// W
    pub demand_w: Option<f64>,
    /// W
    pub power_w: Option<f64>,
    /// ms since it was heard.
    pub silent_ms: Option<u64>,
    /// What is wrong there.
    pub troubles: Vec<String>,
}

/// One service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceLine {
    /// Its name.
    pub name: String,
    /// Whose instance may run.
    pub active: Option<String>,
    /// `runs`, `starts`, `stops`, `sick`, `down`.
    pub state: String,
    /// Its epoch.
    pub epoch: u64,
    /// Since when the active is the active, Unix ms.
    pub since_ms: UnixMs,
    /// Radiators that could start it at once.
    pub ready: Vec<String>,
    /// The planner's sentence.
    pub reason: String,
    /// What it takes, W.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// Its last words: how it ended, what its probe missed.
    #[serde(default)]
    pub detail: String,
    /// What came of the last probe; `None`: it has none, or none yet.
    #[serde(default)]
    pub probe: Option<ProbeReport>,
}

/// One volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeLine {
    /// Its name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// `whole`, `behind`, `degraded`, `new`.
    pub state: String,
    /// Its epoch.
    pub epoch: u64,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Below how many in-sync replicas it is degraded.
    pub durability: u32,
    /// Whose process takes writes.
    pub active: Option<String>,
    /// Each replica.
    pub replicas: Vec<ReplicaLine>,
    /// How its replicas compare; `None`: its active is not heard.
    #[serde(default)]
    pub check: Option<Checked>,
}

/// One replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaLine {
    /// Where.
    pub radiator: String,
    /// Holds every acknowledged write.
    pub in_sync: bool,
    /// `active`, `following`, `catching up`, `waiting`, `failed: ...`, `not heard`.
    pub state: String,
    /// Bytes still to come.
    pub behind_bytes: u64,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// How the active brings it up to date, while it does.
    #[serde(default)]
    pub catch_up: Option<CatchUp>,
}

/// One snapshot of a volume's replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotLine {
    /// On whose disk.
    pub radiator: String,
    /// Its name.
    pub name: String,
    /// When it was taken, Unix ms.
    pub taken_ms: UnixMs,
    /// `reflink` or `copy-on-write`.
    pub way: String,
    /// The volume's epoch then.
    pub epoch: u64,
    /// Bytes it keeps beside the image; 0 where blocks are shared.
    pub kept_bytes: u64,
    /// Where it is mounted, on that radiator.
    pub mounted: Option<std::path::PathBuf>,
    /// Why it was given up.
    pub lost: Option<String>,
}

impl SnapshotLine {
    /// As a radiator told it.
    pub fn of(radiator: &str, view: SnapshotView) -> Self {
        Self {
            radiator: radiator.into(),
            name: view.name.to_string(),
            taken_ms: view.taken_ms,
            way: view.way.to_string(),
            epoch: view.epoch,
            kept_bytes: view.kept_bytes,
            mounted: view.mounted,
            lost: view.lost,
        }
    }
}

/// A volume that was trimmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trimmed {
    /// Where it is mounted.
    pub radiator: String,
    /// So many bytes of its file system are in no use.
    pub bytes: u64,
}

/// Snapshots of a volume, or the one that something was done with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SnapshotList {
    /// By age.
    pub items: Vec<SnapshotLine>,
    /// Radiators that did not tell theirs, and why.
    pub silent: Vec<String>,
    /// On which radiator something was done.
    pub radiator: Option<String>,
    /// Where it is mounted there.
    pub mount: Option<std::path::PathBuf>,
}

/// Why a service is where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// [`VERSION`].
    pub version: u32,
    /// Which service.
    pub service: String,
    /// The planner's sentence and every radiator's rank.
    pub reason: Reason,
}

/// A list of one kind of thing, as `ls` and `show` answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The things.
    pub items: Vec<T>,
}

/// One mail account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLine {
    /// `marie@example.org`
    pub address: String,
    /// Other local parts that reach it.
    pub aliases: Vec<String>,
    /// `home.yaml`, or `command line`.
    pub from: String,
}

/// One event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventLine {
    /// [`VERSION`].
    pub version: u32,
    /// Its number.
    pub number: u64,
    /// Unix ms.
    pub at_ms: UnixMs,
    /// Whether it is mailed.
    pub mailed: bool,
    /// The sentence.
    pub text: String,
}

impl Home {
    /// Draws the home from the applied state and, if a leader answered, what it knows.
    pub fn of(state: &State, leader: Option<&LeaderView>) -> Self {
        let mut warnings: Vec<String> = leader.and_then(|l| l.warning.clone()).into_iter().collect();
        if leader.is_none() {
            warnings.insert(0, "no quorum: this is what was known here last".into());
        }
        if state.spec().is_none() {
            warnings.push("nothing is declared yet: `thermidor apply home.yaml`".into());
        }
        warnings.extend(keys_missing(state));
        warnings.extend(super::recovery::kit_claims(state));
        if let Some(words) = outlived_words(state) {
            warnings.insert(0, words);
        }
        let volumes: Vec<_> =
            state.volumes.iter().map(|(n, v)| volume_line(state, leader, n.as_str(), v)).collect();
        warnings.extend(volumes.iter().filter(|v| v.state == "degraded").map(|v| {
            let below = format!("{} is below its durability of {}", v.name, v.durability);
            match state.volumes.get(v.name.as_str()).filter(|volume| volume.stops_its_service()) {
                Some(volume) => {
                    format!("{below}: {} waits until it is whole (on_degraded: stop)", volume.service)
                }
                None => format!("{below}: another loss may lose data"),
            }
        }));
        let services: Vec<_> =
            state.services.iter().map(|(n, s)| service_line(state, leader, n, s)).collect();
        warnings.extend(services.iter().filter_map(sick_words));
        let differ = |v: &VolumeLine| {
            let words = v.check.iter().flat_map(|c| c.differences.clone());
            words.map(|words| format!("{}: {words}", v.name)).collect::<Vec<_>>()
        };
        warnings.extend(volumes.iter().flat_map(differ));
        Self {
            version: VERSION,
            home: state.home.as_ref().map(|h| h.to_string()).unwrap_or_default(),
            generation: state.generation,
            quorum: leader.is_some(),
            leader: leader.map(|l| state.name_of(l.leader)),
            address: state.spec().and_then(|s| s.address).map(|a| AddressLine {
                address: format!("{}/{}", a.ip, a.prefix),
                holder: state.address.holder.map(|n| state.name_of(n)),
            }),
            radiators: radiator_lines(state, leader),
            services,
            volumes,
            kit: super::recovery::kit_line(state),
            restores: super::recovery::restore_lines(state),
            backups: Vec::new(),
            outlived: state.outlived.as_ref().map(outlived_line),
            warnings,
        }
    }
}

fn outlived_line(known: &Outlived) -> OutlivedLine {
    OutlivedLine {
        generation: known.generation,
        since_ms: (known.since_ms > 0).then_some(known.since_ms),
        from: known.from.to_string(),
        heard_ms: known.heard_ms,
        stands_down: known.overruled_ms.is_none(),
    }
}

/// What a person has to know where a later generation of the home lives elsewhere.
fn outlived_words(state: &State) -> Option<String> {
    let known = state.outlived.as_ref()?;
    let home = state.home.as_ref().map(ToString::to_string).unwrap_or_default();
    let time = i64::try_from(known.since_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let since = time.filter(|_| known.since_ms > 0).map_or_else(String::new, |time| {
        format!(" ({})", time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M"))
    });
    let what = known.what(&home);
    Some(match known.overruled_ms {
        None => format!("{what}{since}: its services are stopped here, its data stay; {}", known.next()),
        Some(_) => format!(
            "{what}{since}, and goes on here because a person said so: friends that believe in that generation take \
             nothing from here; pair with them anew"
        ),
    })
}

fn radiator_lines(state: &State, leader: Option<&LeaderView>) -> Vec<RadiatorLine> {
    let spec = state.spec();
    let mut lines: Vec<RadiatorLine> = state
        .members
        .iter()
        .map(|(node, member)| {
            let report = leader.and_then(|l| l.reports.get(node));
            let declared = spec.and_then(|s| s.radiators.get(&member.name));
            let heats = match (member.role, declared) {
                (Role::Witness, _) => "witness",
                (_, Some(declared)) => heats_word(declared),
                (_, None) => "not declared",
            };
            let state_word = match (&member.off, leader, report) {
                (Some(off), ..) => {
                    if off.power_off {
                        "powered off"
                    } else {
                        "off"
                    }
                }
                (None, Some(_), None) if member.role == Role::Radiator => "silent",
                _ => "on",
            };
            RadiatorLine {
                name: member.name.to_string(),
                address: Some(member.address.to_string()),
                heats: heats.into(),
                state: state_word.into(),
                votes: leader.is_some_and(|l| l.voters.contains(node)),
                temperature_c: report.and_then(|r| r.temperature_c),
                target_c: report.and_then(|r| r.target_c),
                demand_w: report.and_then(|r| r.demand_w),
                power_w: report.map(|r| r.power_w),
                silent_ms: leader.and_then(|l| l.silent_ms.get(node).copied()),
                troubles: report.map(|r| r.troubles.clone()).unwrap_or_default(),
            }
        })
        .collect();
    let expected = spec.into_iter().flat_map(|s| &s.radiators).filter(|(n, _)| state.node(n).is_none());
    lines.extend(expected.map(|(name, declared)| RadiatorLine {
        name: name.to_string(),
        address: None,
        heats: heats_word(declared).into(),
        state: "expected".into(),
        votes: false,
        temperature_c: None,
        target_c: None,
        demand_w: None,
        power_w: None,
        silent_ms: None,
        troubles: vec![],
    }));
    lines
}

fn heats_word(declared: &RadiatorSpec) -> &'static str {
    match declared.heats {
        Heats::Room => "room",
        Heats::Water { .. } => "water",
    }
}

/// What a probe has found that a person should know of.
fn sick_words(service: &ServiceLine) -> Option<String> {
    let probe = service.probe.as_ref().filter(|probe| probe.healthy == Some(false))?;
    let at = service.active.as_ref().map(|radiator| format!(" on {radiator}")).unwrap_or_default();
    Some(format!("{} runs{at} but is sick: {}", service.name, probe.trouble))
}

fn service_line(
    state: &State,
    leader: Option<&LeaderView>,
    name: &ServiceName,
    service: &Service,
) -> ServiceLine {
    let instance = service.active.and_then(|n| leader?.reports.get(&n)?.instances.get(name));
    let degraded = state.volumes_of(name).any(|(_, volume)| volume.stops_its_service());
    let state_word = match (service.active, service.phase, instance) {
        (None, ..) => "down",
        (_, Phase::Stop { .. }, _) => "stops",
        (_, _, Some(Instance { running: true, epoch, healthy, .. })) if *epoch == service.epoch => {
            match healthy {
                Some(false) => "sick",
                _ => "runs",
            }
        }
        _ if degraded => "waits",
        _ => "starts",
    };
    let ready = leader.into_iter().flat_map(|l| &l.reports);
    let ready = ready.filter(|(_, r)| r.images.get(name) == Some(&Readiness::Ready));
    let reason = leader.and_then(|l| l.reasons.get(name));
    ServiceLine {
        name: name.to_string(),
        active: service.active.map(|n| state.name_of(n)),
        state: state_word.into(),
        epoch: service.epoch,
        since_ms: service.since_ms,
        ready: ready.map(|(n, _)| state.name_of(*n)).collect(),
        reason: reason.map(|r| r.sentence.clone()).unwrap_or_default(),
        power_w: service.active.and_then(|n| leader?.reports.get(&n)?.service_w.get(name)).copied(),
        detail: instance.map(|i| i.detail.clone()).unwrap_or_default(),
        probe: service.active.and_then(|n| leader?.reports.get(&n)?.probes.get(name)).cloned(),
    }
}

fn volume_line(state: &State, leader: Option<&LeaderView>, name: &str, volume: &Volume) -> VolumeLine {
    let of = |node: &NodeId| leader.and_then(|l| l.reports.get(node)).and_then(|r| r.replicas.get(name));
    let served = volume.active.as_ref().and_then(of);
    let replicas = volume.replicas.keys().map(|node| {
        let report = of(node);
        ReplicaLine {
            radiator: state.name_of(*node),
            in_sync: volume.in_sync.contains(node),
            state: match report.map(|r| &r.state) {
                None => "not heard".into(),
                Some(ReplicaState::Active) => "active".into(),
                Some(ReplicaState::Following) => "following".into(),
                Some(ReplicaState::CatchingUp) => "catching up".into(),
                Some(ReplicaState::Waiting) => "waiting".into(),
                Some(ReplicaState::Failed(why)) => format!("failed: {why}"),
            },
            behind_bytes: report.map_or(0, |r| r.behind_bytes),
            used_bytes: report.map_or(0, |r| r.used_bytes),
            catch_up: served.and_then(|r| r.catch_ups.get(node)).copied(),
        }
    });
    let report = volume.active.and_then(|node| leader?.reports.get(&node)?.replicas.get(name));
    let examination = report.and_then(|r| r.examination.as_ref());
    let in_sync = volume.in_sync.len() as u32;
    let state_word = match in_sync {
        0 => "new",
        _ if volume.driver == VolumeDriver::Local => "on one radiator only",
        _ if volume.driver.is_folder() => "shared",
        n if n < volume.durability => "degraded",
        n if n < volume.replicas_wanted => "behind",
        _ => "whole",
    };
    VolumeLine {
        name: name.into(),
        service: volume.service.to_string(),
        state: state_word.into(),
        epoch: volume.epoch,
        size_bytes: volume.size_bytes,
        durability: volume.durability,
        active: volume.active.map(|n| state.name_of(n)),
        replicas: replicas.collect(),
        check: examination.map(|record| Checked::of(state, volume, record)),
    }
}

/// What a radiator's theft came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stolen {
    /// Version of this structure.
    pub version: u32,
    /// Secrets that whoever reads the stolen disk can read.
    pub secrets: Vec<String>,
    /// Members that have not got the new keys yet.
    pub waits_for: Vec<String>,
    /// The secrets are sealed under the new home key.
    pub sealed_anew: bool,
}

/// Members that have not got theirs of the home's present keys.
pub fn without_keys(state: &State) -> Vec<String> {
    let missing = state.members.iter().filter(|(id, _)| !state.keys.holders.contains(id));
    missing.filter(|_| state.keys.number > 0).map(|(_, m)| m.name.to_string()).collect()
}

/// A change of keys that is not over, in words.
fn keys_missing(state: &State) -> Option<String> {
    let missing = without_keys(state).join(", ");
    match (state.keys.changing(), missing.is_empty()) {
        (true, _) => Some(format!(
            "the home's keys are being changed: {} to get the new ones; secrets are still sealed under the old one",
            if missing.is_empty() { "all have".into() } else { format!("{missing} is still") }
        )),
        (false, false) => Some(format!("{missing} gets the home's new keys once it is on")),
        (false, true) => None,
    }
}
