//! One service of `services:`: Compose's fields, ours, and what its recipe fills in.

use super::compose;
use super::fields::{Fields, duration, filled, items, name, number, size, text};
use super::report::{Findings, Place};
use super::tree::{Key, Node, Value};
use super::words::{nearest, split_shell};
use super::{HealthSpec, HeatClass, MountSpec, PlaceSpec, PortSpec, ServiceSpec};
use super::{backup, build, environment, ports, recipe, volumes};
use crate::name::RadiatorName;
use std::collections::{BTreeMap, BTreeSet};

/// What reading a service needs from outside.
pub(super) struct Outside<'a> {
    /// The variables.
    pub env: &'a BTreeMap<String, String>,
    /// The content of a file named by `env_file:`.
    pub files: &'a dyn Fn(&str) -> Result<String, String>,
}

/// A service as read, with the places that later checks point at.
pub(super) struct Draft {
    pub spec: ServiceSpec,
    pub ports: Vec<(PortSpec, Place)>,
    pub mounts: Vec<(MountSpec, Place)>,
    pub radiators: Vec<(RadiatorName, Place)>,
    pub place: Place,
}

/// Longest `stop_grace_period`, ms: a move may not take longer than an hour.
const STOP_MAX_MS: u64 = 3_600_000;

const SECOND_MS: u64 = 1000;

/// Reads one service.
pub(super) fn read(key: &Key, node: &Node, outside: &Outside<'_>, findings: &mut Findings) -> Option<Draft> {
    let path = format!("services.{}", key.text);
    let mut fields = Fields::of(node, key.place, &path, findings)?;
    let before = findings.problems.len();
    let (recipe, defaults) = recipe::read(&mut fields, outside, findings);

    let image = fields.take_entry("image");
    let build = fields.take("build").and_then(|n| build::read(n, &path, findings));
    let image = image.and_then(|(k, n)| Some((k, filled(n, &fields.at("image"), findings)?.to_string())));
    let image = match (image, &build) {
        (Some((key, _)), Some(_)) => {
            findings.notice(key.place, "`image` is ignored: it is built, and named by its content");
            None
        }
        (image, _) => image.map(|(_, image)| image),
    };
    let has_source = image.is_some() || build.is_some() || recipe.is_some();
    if !has_source && findings.problems.len() == before {
        findings
            .error(key.place, format!("`{path}` has nothing to run"))
            .help("give it an `image:`, a `build:` folder or a `recipe:` (mail, vault, yacy)");
    }
    let command = fields.take("command").and_then(|n| argv(n, &fields.at("command"), findings));
    let entrypoint = fields.take("entrypoint").and_then(|n| argv(n, &fields.at("entrypoint"), findings));
    let environment = environment::read(&mut fields, outside, findings);
    let ports = match fields.take("ports") {
        Some(node) => ports::read(node, &path, &defaults.ports, findings),
        None => defaults.ports.iter().map(|p| (*p, key.place)).collect(),
    };
    let mounts = match fields.take("volumes") {
        Some(node) => volumes::read_mounts(node, &path, defaults.volume_path, findings),
        None => Vec::new(),
    };
    if let (Some(at), true) = (defaults.volume_path, mounts.is_empty())
        && findings.problems.len() == before
    {
        findings.error(key.place, format!("`{path}` keeps its data in {at}, which needs a volume")).help(
            format!(
                "write `volumes: [ \"{}:{at}\" ]` and declare it under the top-level `volumes:`",
                key.text
            ),
        );
    }
    let healthcheck = fields.take("healthcheck").and_then(|n| health(n, &path, findings));
    let user = fields.take("user").and_then(|n| filled(n, &fields.at("user"), findings)).map(str::to_string);
    let working_dir =
        fields.take("working_dir").and_then(|n| absolute(n, &fields.at("working_dir"), findings));
    let memory_max_bytes =
        fields.take("mem_limit").and_then(|n| size(n, &fields.at("mem_limit"), 6 << 20..=1 << 42, findings));
    let cpus_max =
        fields.take("cpus").and_then(|n| number(n, &fields.at("cpus"), "", 0.01..=1024.0, findings));
    let stop_ms = fields
        .take("stop_grace_period")
        .and_then(|n| duration(n, &fields.at("stop_grace_period"), 0..=STOP_MAX_MS, findings));
    let restart = match fields.take_entry("restart") {
        Some((key, node)) => compose::restart(node, key, &fields.at("restart"), findings),
        None => None,
    };
    let heat = fields.take("heat").and_then(|n| heat_class(n, &path, findings));
    let (place, radiators) = match fields.take("place") {
        Some(node) => read_place(node, &path, findings),
        None => Default::default(),
    };
    let backup = fields.take_entry("backup").and_then(|(k, n)| backup::read(k, n, &path, findings));
    if key.text == crate::backup::HOME_ITSELF {
        findings
            .error(key.place, format!("`{}` is what a vault calls the home itself", key.text))
            .help("give the service another name");
    }
    compose::rest_of_service(fields, findings);
    let spec = ServiceSpec {
        recipe,
        image,
        build,
        command,
        entrypoint,
        environment,
        ports: ports.iter().map(|(p, _)| *p).collect(),
        volumes: mounts.iter().map(|(m, _)| m.clone()).collect(),
        healthcheck,
        user,
        working_dir,
        memory_max_bytes,
        cpus_max,
        stop_grace_s: stop_ms.map_or(defaults.stop_grace_s, |ms| ms.div_ceil(SECOND_MS)),
        restart: restart.unwrap_or(true),
        heat: heat.unwrap_or(HeatClass::Steady),
        place,
        backup,
    };
    Some(Draft { spec, ports, mounts, radiators, place: key.place })
}

/// A command as a list, or as a line split like a shell does.
pub(super) fn argv(node: &Node, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    match &node.value {
        Value::Text(line) => match split_shell(line) {
            Ok(words) => Some(words),
            Err(what) => {
                findings.error(node.place, format!("`{path}`: {what}")).help("or write it as a list");
                None
            }
        },
        _ => items(node, path, findings)
            .iter()
            .map(|item| text(item, path, findings).map(str::to_string))
            .collect(),
    }
}

/// An absolute path in the container.
pub(super) fn absolute(node: &Node, path: &str, findings: &mut Findings) -> Option<String> {
    let given = filled(node, path, findings)?;
    if !given.starts_with('/') {
        findings
            .error(node.place, format!("`{path}` must be an absolute path, not `{given}`"))
            .help(format!("write `/{given}`"));
        return None;
    }
    Some(given.to_string())
}

fn heat_class(node: &Node, path: &str, findings: &mut Findings) -> Option<HeatClass> {
    match text(node, &format!("{path}.heat"), findings)? {
        "steady" => Some(HeatClass::Steady),
        "elastic" => Some(HeatClass::Elastic),
        other => {
            choice(node, &format!("{path}.heat"), other, &["steady", "elastic"], findings);
            None
        }
    }
}

/// Says that a word is none of those that may stand here.
pub(super) fn choice(node: &Node, path: &str, given: &str, words: &[&str], findings: &mut Findings) {
    let problem =
        findings.error(node.place, format!("`{path}` must be {}, not `{given}`", words.join(" or ")));
    if let Some(near) = nearest(given, words.iter().copied()) {
        problem.help(format!("did you mean `{near}`?"));
    }
}

fn read_place(node: &Node, path: &str, findings: &mut Findings) -> (PlaceSpec, Vec<(RadiatorName, Place)>) {
    let path = format!("{path}.place");
    let mut places = Vec::new();
    let Some(mut fields) = Fields::of(node, node.place, &path, findings) else { return Default::default() };
    let mut names = |key: &'static str, fields: &mut Fields<'_>, findings: &mut Findings| {
        let mut set = BTreeSet::new();
        let Some(node) = fields.take(key) else { return set };
        let path = fields.at(key);
        for item in items(node, &path, findings) {
            let Some(given) = text(item, &path, findings) else { continue };
            let Some(name) = name::<RadiatorName>(given, item.place, findings) else { continue };
            places.push((name.clone(), item.place));
            set.insert(name);
        }
        set
    };
    let only = names("only", &mut fields, findings);
    let never = names("never", &mut fields, findings);
    for both in only.intersection(&never) {
        let at: Vec<Place> = places.iter().filter(|(n, _)| n == both).map(|(_, p)| *p).collect();
        findings
            .error(at[at.len() - 1], format!("`{both}` stands in `{path}` under `only` and `never`"))
            .also(at[0], "`only` here")
            .help("keep one of them");
    }
    fields.finish(&["only", "never"], findings);
    (PlaceSpec { only, never }, places)
}

fn health(node: &Node, path: &str, findings: &mut Findings) -> Option<HealthSpec> {
    let path = format!("{path}.healthcheck");
    let mut fields = Fields::of(node, node.place, &path, findings)?;
    let time = |key: &str, default_ms: u64, fields: &mut Fields<'_>, findings: &mut Findings| {
        let range = 0..=24 * STOP_MAX_MS;
        fields.take(key).and_then(|n| duration(n, &fields.at(key), range, findings)).unwrap_or(default_ms)
    };
    let interval_ms = time("interval", 30 * SECOND_MS, &mut fields, findings);
    let timeout_ms = time("timeout", 30 * SECOND_MS, &mut fields, findings);
    let start_period_ms = time("start_period", 0, &mut fields, findings);
    if let Some((key, _)) = fields.take_entry("start_interval") {
        findings.notice(key.place, "`start_interval` is ignored: `interval` counts from the start");
    }
    let retries = fields
        .take("retries")
        .and_then(|n| super::fields::whole(n, &fields.at("retries"), 1..=1000u32, findings))
        .unwrap_or(3);
    let disable = fields
        .take("disable")
        .and_then(|n| super::fields::boolean(n, &fields.at("disable"), findings))
        .unwrap_or(false);
    let test = match fields.take("test") {
        _ if disable => vec!["NONE".to_string()],
        None => Vec::new(),
        Some(node) => test_line(node, &fields.at("test"), findings)?,
    };
    fields.finish(
        &["test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"],
        findings,
    );
    Some(HealthSpec { test, interval_ms, timeout_ms, start_period_ms, retries })
}

fn test_line(node: &Node, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    if let Value::Text(line) = &node.value {
        return Some(vec!["CMD-SHELL".to_string(), line.clone()]);
    }
    let test = argv(node, path, findings)?;
    let sound = match test.first().map(String::as_str) {
        Some("NONE") => test.len() == 1,
        Some("CMD") => test.len() > 1,
        Some("CMD-SHELL") => test.len() == 2,
        _ => false,
    };
    if !sound {
        findings.error(node.place, format!("`{path}` must begin with CMD, CMD-SHELL or NONE")).help(
            "write [\"CMD\", \"program\", \"argument\"], [\"CMD-SHELL\", \"line\"] or one line of shell",
        );
        return None;
    }
    Some(test)
}
