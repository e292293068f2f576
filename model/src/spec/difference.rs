//! What `apply` would change, said before it is done.

use super::units::{clock_text, duration_text, size_text};
use super::{
    BackupSpec, Heats, HomeSpec, MountSpec, PortSpec, RadiatorSpec, RecipeSpec, ServiceSpec, VolumeSpec,
};
use crate::backup::RETRY_DEFAULT_MS;
use crate::name::{ServiceName, VolumeName};
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How a thing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays and becomes another.
    Changed,
}

/// One difference between what is declared and what would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// How it changes.
    pub kind: Kind,
    /// What, as a path of the YAML: `volumes.mail.size`.
    pub what: String,
    /// What it was; empty where it is new.
    pub from: String,
    /// What it becomes; empty where it goes.
    pub to: String,
    /// What that does, where it is worth a word; empty otherwise.
    pub consequence: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
        };
        write!(f, "{sign} {}", self.what)?;
        match (self.from.as_str(), self.to.as_str()) {
            ("", "") => {}
            ("", to) => write!(f, ": {to}")?,
            (from, "") => write!(f, ": {from}")?,
            (from, to) => write!(f, ": {from} -> {to}")?,
        }
        if !self.consequence.is_empty() {
            write!(f, "  ({})", self.consequence)?;
        }
        Ok(())
    }
}

/// Everything that `apply` would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The changes, in the order of the YAML's sections.
    pub changes: Vec<Change>,
    /// Why it can't be applied; empty when it can.
    pub refusals: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        for refusal in &self.refusals {
            writeln!(f, "! {refusal}")?;
        }
        Ok(())
    }
}

impl Difference {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refusals.is_empty()
    }

    /// Whether a person should be asked before: something goes, or an override would be cleared.
    pub fn needs_consent(&self) -> bool {
        self.changes.iter().any(|c| c.kind == Kind::Removed)
    }

    fn add(&mut self, what: impl Into<String>, to: impl Into<String>, consequence: impl Into<String>) {
        self.push(Kind::Added, what, String::new(), to, consequence);
    }

    fn remove(&mut self, what: impl Into<String>, from: impl Into<String>, consequence: impl Into<String>) {
        self.push(Kind::Removed, what, from, String::new(), consequence);
    }

    fn push(
        &mut self,
        kind: Kind,
        what: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
        consequence: impl Into<String>,
    ) {
        let (what, from, to, consequence) = (what.into(), from.into(), to.into(), consequence.into());
        self.changes.push(Change { kind, what, from, to, consequence });
    }

    /// Compares one field; equal ones say nothing.
    fn field(&mut self, what: String, from: String, to: String, consequence: &str) {
        if from == to {
            return;
        }
        let kind = match (from.is_empty(), to.is_empty()) {
            (true, _) => Kind::Added,
            (_, true) => Kind::Removed,
            _ => Kind::Changed,
        };
        self.push(kind, what, from, to, consequence);
    }
}

/// Compares what the home has declared with what would be, beside its present state.
pub fn difference(old: Option<&HomeSpec>, new: &HomeSpec, state: &State) -> Difference {
    let mut out = Difference::default();
    if let Some(home) = &state.home
        && *home != new.home
    {
        out.refusals.push(format!("this home is {home}, the file declares {}", new.home));
    }
    let address = |spec: Option<&HomeSpec>| {
        spec.and_then(|s| s.address).map_or_else(String::new, |a| format!("{}/{}", a.ip, a.prefix))
    };
    out.field("address".into(), address(old), address(Some(new)), "clients must be sent there");
    radiators(old, new, state, &mut out);
    placement(old, new, &mut out);
    services(old, new, &mut out);
    volumes(old, new, state, &mut out);
    notify(old, new, &mut out);
    overrides(new, state, &mut out);
    out
}

fn radiators(old: Option<&HomeSpec>, new: &HomeSpec, state: &State, out: &mut Difference) {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |o| &o.radiators);
    for (name, radiator) in &new.radiators {
        match before.get(name) {
            None => {
                let joined = state.node(name).is_some();
                let consequence =
                    if joined { "" } else { "expected: it has not joined yet, see `thermidor invite`" };
                out.add(format!("radiators.{name}"), radiator_text(radiator), consequence);
            }
            Some(was) => {
                let what = |key: &str| format!("radiators.{name}.{key}");
                let fields = |r: &RadiatorSpec| {
                    [
                        ("heats", heats_text(&r.heats)),
                        ("power", format!("{} W", r.power_w)),
                        ("sensor", r.sensor.as_ref().map_or_else(String::new, text_of)),
                        ("comfort", r.comfort.as_ref().map_or_else(String::new, text_of)),
                    ]
                };
                for ((key, from), (_, to)) in fields(was).into_iter().zip(fields(radiator)) {
                    out.field(what(key), from, to, "");
                }
            }
        }
    }
    for (name, radiator) in before.iter().filter(|(n, _)| !new.radiators.contains_key(*n)) {
        let consequence =
            if state.node(name).is_some() { "stays a member, but hosts nothing" } else { "no more expected" };
        out.remove(format!("radiators.{name}"), radiator_text(radiator), consequence);
    }
}

fn radiator_text(radiator: &RadiatorSpec) -> String {
    format!("{}, {} W", heats_text(&radiator.heats), radiator.power_w)
}

fn heats_text(heats: &Heats) -> String {
    match heats {
        Heats::Room => "room".to_string(),
        Heats::Water { tank_l } => format!("water of {tank_l} l"),
    }
}

/// A value as compact JSON; every type of the spec has one.
fn text_of<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default().replace('"', "")
}

fn placement(old: Option<&HomeSpec>, new: &HomeSpec, out: &mut Difference) {
    let was = old.map(|o| o.placement).unwrap_or_default();
    let now = new.placement;
    let watts = |w: f64| format!("{w} W");
    out.field("placement.move_gain_w".into(), watts(was.move_gain_w), watts(now.move_gain_w), "");
    let stay = |s: u64| super::units::duration_text(s * 1000);
    out.field("placement.minimum_stay".into(), stay(was.minimum_stay_s), stay(now.minimum_stay_s), "");
    let moves = |m: u32| m.to_string();
    out.field("placement.moves_per_day".into(), moves(was.moves_per_day), moves(now.moves_per_day), "");
}

fn services(old: Option<&HomeSpec>, new: &HomeSpec, out: &mut Difference) {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |o| &o.services);
    for (name, service) in &new.services {
        match before.get(name) {
            None => out.add(format!("services.{name}"), source_text(service), ""),
            Some(was) => service_fields(name, was, service, out),
        }
    }
    for (name, service) in before.iter().filter(|(n, _)| !new.services.contains_key(*n)) {
        let kept = if service.volumes.is_empty() { "it stops" } else { "it stops; its volumes are kept" };
        out.remove(format!("services.{name}"), source_text(service), kept);
    }
}

fn source_text(service: &ServiceSpec) -> String {
    match (&service.recipe, &service.image, &service.build) {
        (Some(RecipeSpec::Mail(mail)), _, _) => format!("mail for {}", mail.domain),
        (Some(RecipeSpec::Yacy(yacy)), _, _) => format!("yacy in {}", yacy.network),
        (Some(RecipeSpec::Vault(vault)), _, _) => {
            format!("vault, {} for each friend", size_text(vault.lend_bytes))
        }
        (None, _, Some(build)) => format!("built from {}", build.context),
        (None, Some(image), None) => image.clone(),
        (None, None, None) => String::new(),
    }
}

const RESTARTS: &str = "the service restarts";

fn service_fields(name: &ServiceName, was: &ServiceSpec, now: &ServiceSpec, out: &mut Difference) {
    let what = |key: &str| format!("services.{name}.{key}");
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    out.field(what("image"), optional(&was.image), optional(&now.image), RESTARTS);
    // Mail and vaults take their settings over while they run.
    let takes_over = matches!(now.recipe, Some(RecipeSpec::Mail(_) | RecipeSpec::Vault(_)));
    let restarts = if takes_over { "" } else { RESTARTS };
    out.field(what("settings"), settings_text(&was.recipe), settings_text(&now.recipe), restarts);
    out.field(what("build"), text_or_empty(&was.build), text_or_empty(&now.build), RESTARTS);
    environment(name, was, now, out);
    let restarting = |s: &ServiceSpec| {
        [
            ("command", text_or_empty(&s.command)),
            ("entrypoint", text_or_empty(&s.entrypoint)),
            ("healthcheck", text_or_empty(&s.healthcheck)),
            ("user", optional(&s.user)),
            ("working_dir", optional(&s.working_dir)),
            ("mem_limit", s.memory_max_bytes.map_or_else(String::new, size_text)),
            ("cpus", text_or_empty(&s.cpus_max)),
        ]
    };
    for ((key, from), (_, to)) in restarting(was).into_iter().zip(restarting(now)) {
        out.field(what(key), from, to, RESTARTS);
    }
    set(what("ports"), &was.ports, &now.ports, port_text, "", out);
    set(what("volumes"), &was.volumes, &now.volumes, mount_text, RESTARTS, out);
    let quiet = |s: &ServiceSpec| {
        [
            ("stop_grace_period", format!("{}s", s.stop_grace_s)),
            ("restart", s.restart.to_string()),
            ("heat", text_of(&s.heat).to_lowercase()),
            ("place", text_of(&s.place)),
            ("backup", s.backup.as_ref().map_or_else(String::new, backup_text)),
        ]
    };
    for ((key, from), (_, to)) in quiet(was).into_iter().zip(quiet(now)) {
        out.field(what(key), from, to, if key == "place" { "it may move" } else { "" });
    }
}

/// A recipe's settings, a certificate by its fingerprint.
fn settings_text(recipe: &Option<RecipeSpec>) -> String {
    let mut shown = recipe.clone();
    if let Some(RecipeSpec::Mail(mail)) = &mut shown
        && let Some(given) = &mut mail.certificate
    {
        given.chain_pem = format!("chain {}", &blake3::hash(given.chain_pem.as_bytes()).to_hex()[..16]);
    }
    text_or_empty(&shown)
}

/// `every 1h to alice, 22:00-06:00, tried every 168h, again after 10m`.
fn backup_text(backup: &BackupSpec) -> String {
    let friends: Vec<&str> = backup.to.iter().map(|friend| friend.as_str()).collect();
    let mut text = format!("every {} to {}", duration_text(backup.every_ms), friends.join(" and "));
    for window in &backup.windows {
        text.push_str(&format!(", {}-{}", clock_text(window.from), clock_text(window.to)));
    }
    if backup.drill_ms > 0 {
        text.push_str(&format!(", tried every {}", duration_text(backup.drill_ms)));
    }
    if backup.retry_ms != RETRY_DEFAULT_MS {
        text.push_str(&format!(", again after {}", duration_text(backup.retry_ms)));
    }
    text
}

fn text_or_empty<T: Serialize>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(String::new, text_of)
}

/// Names variables only: their values may be none of a terminal's business.
fn environment(name: &ServiceName, was: &ServiceSpec, now: &ServiceSpec, out: &mut Difference) {
    let names: BTreeSet<&String> = was.environment.keys().chain(now.environment.keys()).collect();
    for variable in names {
        let kind = match (was.environment.get(variable), now.environment.get(variable)) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
            (Some(a), Some(b)) if a == b => continue,
            _ => Kind::Changed,
        };
        out.push(kind, format!("services.{name}.environment.{variable}"), "", "", RESTARTS);
    }
}

fn port_text(port: &PortSpec) -> String {
    format!("{}:{}", port.published, port.target)
}

fn mount_text(mount: &MountSpec) -> String {
    format!("{}:{}{}", mount.volume, mount.path, if mount.read_only { ":ro" } else { "" })
}

/// Compares two lists whose order says nothing.
fn set<T>(
    what: String,
    was: &[T],
    now: &[T],
    show: fn(&T) -> String,
    consequence: &str,
    out: &mut Difference,
) {
    let (was, now): (BTreeSet<String>, BTreeSet<String>) =
        (was.iter().map(show).collect(), now.iter().map(show).collect());
    for gone in was.difference(&now) {
        out.remove(what.clone(), gone.clone(), consequence);
    }
    for new in now.difference(&was) {
        out.add(what.clone(), new.clone(), consequence);
    }
}

fn volumes(old: Option<&HomeSpec>, new: &HomeSpec, state: &State, out: &mut Difference) {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |o| &o.volumes);
    for (name, volume) in &new.volumes {
        // A volume that was dropped from the YAML earlier is still there with its data.
        let kept = state.volumes.get(name);
        if let Some(have) = kept
            && volume.driver != have.driver
        {
            out.refusals.push(have.driver.cannot_become(&volume.driver, name));
        } else if let Some(have) = kept
            && volume.size_bytes < have.size_bytes
        {
            out.refusals.push(format!(
                "volume {name} has {} and can't shrink to {}: make one of another name, copy, and remove the old one",
                size_text(have.size_bytes),
                size_text(volume.size_bytes)
            ));
        }
        match before.get(name) {
            None => {
                let consequence =
                    if kept.is_some() { "the kept one is used again, with its data" } else { "" };
                out.add(format!("volumes.{name}"), volume_text(volume), consequence);
            }
            Some(was) => volume_fields(name, was, volume, out),
        }
    }
    for (name, volume) in before.iter().filter(|(n, _)| !new.volumes.contains_key(*n)) {
        let consequence = format!("kept until `thermidor volume rm {name}`");
        out.remove(format!("volumes.{name}"), volume_text(volume), consequence);
    }
}

fn volume_text(volume: &VolumeSpec) -> String {
    if volume.driver.is_folder() {
        return format!("a folder, {}", volume.driver);
    }
    let replicas = if volume.replicas == 1 { "replica" } else { "replicas" };
    format!(
        "{}, {} {replicas}, durability {}",
        size_text(volume.size_bytes),
        volume.replicas,
        volume.durability
    )
}

fn volume_fields(name: &VolumeName, was: &VolumeSpec, now: &VolumeSpec, out: &mut Difference) {
    let what = |key: &str| format!("volumes.{name}.{key}");
    let grows = if now.size_bytes > was.size_bytes { "it grows" } else { "" };
    out.field(what("size"), size_text(was.size_bytes), size_text(now.size_bytes), grows);
    let copies = if now.replicas > was.replicas { "its data is copied" } else { "a replica is given up" };
    out.field(what("replicas"), was.replicas.to_string(), now.replicas.to_string(), copies);
    out.field(what("durability"), was.durability.to_string(), now.durability.to_string(), "");
    let lower = |text: String| text.to_lowercase();
    out.field(what("on_degraded"), lower(text_of(&was.on_degraded)), lower(text_of(&now.on_degraded)), "");
    out.field(what("driver"), was.driver.to_string(), now.driver.to_string(), "");
}

fn notify(old: Option<&HomeSpec>, new: &HomeSpec, out: &mut Difference) {
    let text = |spec: Option<&HomeSpec>| {
        spec.and_then(|s| s.notify.as_ref()).map_or_else(String::new, |n| {
            format!("{} through {}:{}", n.to.join(", "), n.smtp.host, n.smtp.port)
        })
    };
    let (from, to) = (text(old), text(Some(new)));
    if from == to && old.and_then(|o| o.notify.as_ref()) != new.notify.as_ref() {
        out.push(Kind::Changed, "notify", "", "", "its login or sender");
    } else {
        out.field("notify".into(), from, to, "");
    }
}

fn overrides(new: &HomeSpec, state: &State, out: &mut Difference) {
    for (radiator, by_cli) in &state.overrides.targets_c {
        let Some(comfort) = new.radiators.get(radiator).and_then(|r| r.comfort.as_ref()) else { continue };
        out.remove(
            format!("target of {radiator}"),
            format!("{by_cli} by CLI, {} in YAML", comfort.target_c),
            "cleared, unless with --keep-overrides",
        );
    }
}
