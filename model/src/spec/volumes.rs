//! A service's mounts and the top-level `volumes:`.

use super::fields::{Fields, boolean, items, name, size, text, whole};
use super::report::{Findings, Place};
use super::service::choice;
use super::tree::{Key, Node, Value};
use super::{MountSpec, OnDegraded, VolumeDriver, VolumeSpec, compose};
use crate::name::VolumeName;
use crate::replication::SIZE_MAX_BYTES;
use std::path::{Component, Path};

/// A volume's size unless said, bytes.
const SIZE_DEFAULT_BYTES: u64 = 10 << 30;

/// Smallest volume, bytes: below, ext4 has no room for its journal.
const SIZE_MIN_BYTES: u64 = 16 << 20;

/// Reads a service's `volumes:`. A recipe knows where its only volume belongs.
pub(super) fn read_mounts(
    node: &Node,
    service: &str,
    recipe_path: Option<&str>,
    findings: &mut Findings,
) -> Vec<(MountSpec, Place)> {
    let path = format!("{service}.volumes");
    let mut mounts: Vec<(MountSpec, Place)> = Vec::new();
    for item in items(node, &path, findings) {
        let mount = match &item.value {
            Value::Map(_) => long(item, &path, findings),
            _ => text(item, &path, findings).and_then(|t| short(t, item.place, &path, recipe_path, findings)),
        };
        let Some(mount) = mount else { continue };
        if let Some((_, first)) = mounts.iter().find(|(m, _)| m.path == mount.path) {
            findings
                .error(item.place, format!("`{path}` mounts two volumes at {}", mount.path))
                .also(*first, "first here")
                .help("keep one of them");
            continue;
        }
        mounts.push((mount, item.place));
    }
    mounts
}

fn short(
    given: &str,
    place: Place,
    path: &str,
    recipe_path: Option<&str>,
    findings: &mut Findings,
) -> Option<MountSpec> {
    let mut parts = given.splitn(3, ':');
    let source = parts.next().unwrap_or("");
    let target = parts.next();
    let mode = parts.next();
    if source.starts_with(['/', '.', '~']) {
        match target {
            Some(target) => bind(source, target, place, path, findings),
            None => {
                findings.error(place, format!("`{path}`: `{given}` is a volume without a name")).help(
                    format!("give it one: `\"data:{given}\"`, and declare it under the top-level `volumes:`"),
                );
            }
        }
        return None;
    }
    let volume = name::<VolumeName>(source, place, findings)?;
    let Some(target) = target.or(recipe_path) else {
        findings
            .error(place, format!("`{path}`: `{given}` does not say where it is mounted"))
            .help(format!("write `\"{given}:/path/in/the/container\"`"));
        return None;
    };
    let read_only = mount_mode(mode, place, path, findings)?;
    mount_at(volume, target, read_only, place, path, findings)
}

fn mount_mode(mode: Option<&str>, place: Place, path: &str, findings: &mut Findings) -> Option<bool> {
    let mut read_only = false;
    for option in mode.unwrap_or("rw").split(',') {
        match option {
            "rw" => {}
            "ro" => read_only = true,
            "z" | "Z" | "nocopy" => {
                findings.notice(place, format!("`:{option}` is ignored: the volume is this service's own"));
            }
            other => {
                findings
                    .error(place, format!("`{path}`: `:{other}` is no way to mount a volume"))
                    .help("write `:ro`, or nothing");
                return None;
            }
        }
    }
    Some(read_only)
}

fn mount_at(
    volume: VolumeName,
    target: &str,
    read_only: bool,
    place: Place,
    path: &str,
    findings: &mut Findings,
) -> Option<MountSpec> {
    let clean = target.trim_end_matches('/');
    let inside = clean.starts_with('/') && !clean.split('/').any(|part| part == ".." || part == ".");
    if !inside {
        findings
            .error(place, format!("`{path}`: `{target}` is no place for a volume"))
            .help("write an absolute path below `/`, as in `/data`");
        return None;
    }
    Some(MountSpec { volume, path: clean.to_string(), read_only })
}

fn bind(source: &str, target: &str, place: Place, path: &str, findings: &mut Findings) {
    let base = source.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    let tamed: String =
        base.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let named = if VolumeName::new(tamed.as_str()).is_ok() { tamed } else { "data".to_string() };
    let help = if source.ends_with(".sock") {
        "a service must not command the radiator it runs on; leave this out".to_string()
    } else if source.starts_with("/etc/localtime") || source.starts_with("/etc/timezone") {
        "set the time zone with `environment: { TZ: Europe/Paris }`".to_string()
    } else {
        format!(
            "use a volume, it moves with the service: `\"{named}:{target}\"`, and `{named}:` under the top-level `volumes:`"
        )
    };
    findings
        .error(place, format!("`{path}`: `{source}` is a folder of one machine (a bind mount)"))
        .help(help);
}

fn long(node: &Node, path: &str, findings: &mut Findings) -> Option<MountSpec> {
    let mut fields = Fields::of(node, node.place, path, findings)?;
    let kind = fields.take("type").and_then(|n| text(n, path, findings)).unwrap_or("volume");
    let source = fields.take("source");
    let target = fields.need("target", "/data", findings);
    let read_only = fields.take("read_only").and_then(|n| boolean(n, path, findings)).unwrap_or(false);
    for ignored in ["volume", "consistency"] {
        if let Some((key, _)) = fields.take_entry(ignored) {
            findings.notice(key.place, format!("`{ignored}` is ignored: the volume is this service's own"));
        }
    }
    // Refused by their `type` below, with its alternative.
    for refused_by_type in ["bind", "tmpfs"] {
        fields.take(refused_by_type);
    }
    fields.finish(&["type", "source", "target", "read_only"], findings);
    let target = target?;
    let target_text = text(target, path, findings)?;
    match kind {
        "volume" => {}
        "bind" => {
            let source_text = source.and_then(|n| text(n, path, findings)).unwrap_or("");
            bind(source_text, target_text, node.place, path, findings);
            return None;
        }
        other => {
            findings
                .error(node.place, format!("`{path}`: type `{other}` is refused"))
                .help("write `type: volume`; what is not in a volume is gone after a move anyway");
            return None;
        }
    }
    let Some(source) = source else {
        findings
            .error(node.place, format!("`{path}`: a volume without a name"))
            .help("write `source: data`, and declare it under the top-level `volumes:`");
        return None;
    };
    let volume = name::<VolumeName>(text(source, path, findings)?, source.place, findings)?;
    mount_at(volume, target_text, read_only, target.place, path, findings)
}

const VOLUME_KEYS: &[&str] =
    &["size", "replicas", "durability", "on_degraded", "replication", "driver", "path"];

/// Reads one entry of the top-level `volumes:`.
pub(super) fn read_volume(
    key: &Key,
    node: &Node,
    radiators: u32,
    findings: &mut Findings,
) -> Option<VolumeSpec> {
    let path = format!("volumes.{}", key.text);
    let mut fields = Fields::of(node, key.place, &path, findings)?;
    let size_node = fields.take("size");
    let size_bytes = match size_node {
        Some(node) => size(node, &fields.at("size"), SIZE_MIN_BYTES..=SIZE_MAX_BYTES, findings),
        None => Some(SIZE_DEFAULT_BYTES),
    };
    let driver = match fields.take("replication") {
        Some(node) => match text(node, &fields.at("replication"), findings)? {
            "none" => VolumeDriver::Local,
            other => {
                choice(node, &fields.at("replication"), other, &["none"], findings);
                return None;
            }
        },
        None => VolumeDriver::Replicated,
    };
    let driver = shared(&mut fields, key, driver, findings)?;
    if let (true, Some(node)) = (driver.is_folder(), size_node) {
        let path = fields.at("size");
        findings.notice(node.place, format!("`{path}` is ignored: a folder takes what it needs of its disk"));
    }
    let size_bytes = if driver.is_folder() { Some(0) } else { size_bytes };
    let on_degraded = fields.take("on_degraded").map_or(Some(OnDegraded::Continue), |n| {
        match text(n, &fields.at("on_degraded"), findings)? {
            "continue" => Some(OnDegraded::Continue),
            "stop" => Some(OnDegraded::Stop),
            other => {
                choice(n, &fields.at("on_degraded"), other, &["continue", "stop"], findings);
                None
            }
        }
    });
    let counts = counts(&mut fields, &driver, radiators, findings);
    compose_keys(&mut fields, findings);
    fields.finish(VOLUME_KEYS, findings);
    let (replicas, durability) = counts?;
    Some(VolumeSpec { size_bytes: size_bytes?, replicas, durability, on_degraded: on_degraded?, driver })
}

fn counts(
    fields: &mut Fields<'_>,
    driver: &VolumeDriver,
    radiators: u32,
    findings: &mut Findings,
) -> Option<(u32, u32)> {
    let replicas_node = fields.take("replicas");
    let durability_node = fields.take("durability");
    if driver.is_folder() {
        let says = if *driver == VolumeDriver::Local { "replication: none" } else { "driver: shared" };
        for node in [replicas_node, durability_node].into_iter().flatten() {
            findings
                .error(node.place, format!("`{}` says `{says}` and counts replicas", fields.path))
                .help("keep one of them");
        }
        let everywhere = if *driver == VolumeDriver::Local { 1 } else { radiators.max(1) };
        return (replicas_node.is_none() && durability_node.is_none()).then_some((everywhere, 1));
    }
    let replicas = match replicas_node {
        Some(node) => whole(node, &fields.at("replicas"), 1..=64, findings)?,
        None => radiators.clamp(1, 3),
    };
    if let Some(node) = replicas_node
        && replicas > radiators
    {
        let are = if radiators == 1 { "radiator is" } else { "radiators are" };
        let problem = findings.error(
            node.place,
            format!("`{}` is {replicas}, but {radiators} {are} declared", fields.at("replicas")),
        );
        if radiators > 0 {
            problem.help(format!("write `replicas: {radiators}`, or declare more radiators"));
        } else {
            problem.help("declare the radiators under `radiators:`");
        }
        return None;
    }
    let durability = match durability_node {
        Some(node) => whole(node, &fields.at("durability"), 1..=64, findings)?,
        None => replicas.min(2),
    };
    if let Some(node) = durability_node
        && durability > replicas
    {
        let problem = findings.error(
            node.place,
            format!("`{}` is {durability}, but replicas is {replicas}", fields.at("durability")),
        );
        if let Some(replicas_node) = replicas_node {
            problem.also(replicas_node.place, format!("replicas: {replicas}"));
        }
        problem.help(format!(
            "a write can be in at most {replicas} places: write `durability: {replicas}` or less"
        ));
        return None;
    }
    Some((replicas, durability))
}

/// `driver:` and `path:`.
fn shared(
    fields: &mut Fields<'_>,
    volume: &Key,
    otherwise: VolumeDriver,
    findings: &mut Findings,
) -> Option<VolumeDriver> {
    let path = fields.take("path");
    let driver = fields.take_entry("driver");
    let named = match driver {
        Some((_, node)) => Some(text(node, &fields.at("driver"), findings)?),
        None => None,
    };
    match (named, driver, path) {
        (Some("shared"), Some((key, _)), _) if otherwise != VolumeDriver::Replicated => {
            findings
                .error(key.place, format!("`{}` says `driver: shared` and `replication: none`", fields.path))
                .help("keep one of them");
            None
        }
        (Some("shared"), _, Some(node)) => {
            let at = fields.at("path");
            let path = text(node, &at, findings)?;
            // Beside it lies what tells it from the empty folder of a file system that is not mounted.
            let plain = |p: &Path| p.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
            if Path::new(path).is_absolute()
                && plain(Path::new(path))
                && Path::new(path).components().count() > 2
            {
                return Some(VolumeDriver::Shared { path: path.trim_end_matches('/').to_string() });
            }
            findings.error(node.place, format!("`{at}`: `{path}` is no folder below a mountpoint")).help(
                "write the full path of a folder on the shared file system, as in `path: /mnt/ceph/mail`",
            );
            None
        }
        (Some("shared"), Some((key, _)), None) => {
            findings.error(key.place, format!("`{}` says `driver: shared` and not where", fields.path)).help(
                format!("add `path: /mnt/ceph/{}`, a folder that all radiators have mounted", volume.text),
            );
            None
        }
        (_, _, Some(node)) => {
            findings
                .error(node.place, format!("`{}` is refused", fields.at("path")))
                .help("only `driver: shared` has a path: the home chooses where its own volumes lie");
            None
        }
        (Some("local"), Some((key, _)), None) => {
            findings.notice(
                key.place,
                "`driver: local` is ignored: volumes are replicated; `replication: none` keeps one on one radiator",
            );
            Some(otherwise)
        }
        (Some(other), Some((key, _)), None) => {
            findings
                .error(key.place, format!("`{}`: driver `{other}` is refused", fields.path))
                .help("volumes are replicated by Thermidor: leave `driver:` out, or write `driver: shared` with a `path:`");
            None
        }
        (_, _, None) => Some(otherwise),
    }
}

fn compose_keys(fields: &mut Fields<'_>, findings: &mut Findings) {
    if let Some((key, _)) = fields.take_entry("driver_opts") {
        findings
            .error(key.place, format!("`{}` is refused", fields.at("driver_opts")))
            .help("volumes are replicated by Thermidor: say `size:` and `replicas:`");
    }
    if let Some(node) = fields.take("external") {
        compose::must_be_false(
            node,
            &fields.at("external"),
            "the home makes its volumes itself: say `size:`",
            findings,
        );
    }
    for (ignored, why) in [("name", "the name is the key"), ("labels", "labels are not passed on")] {
        if let Some((key, _)) = fields.take_entry(ignored) {
            findings.notice(key.place, format!("`{ignored}` is ignored: {why}"));
        }
    }
}
