//! `build:`: a folder beside the YAML, its Dockerfile and arguments.

use super::BuildSpec;
use super::fields::{Fields, filled, items, text};
use super::report::Findings;
use super::tree::{Node, Value};
use std::collections::BTreeMap;

/// Keys of `build:` that change what is built in ways that are not kept yet.
const BUILD_REFUSED: &[&str] = &[
    "target",
    "dockerfile_inline",
    "additional_contexts",
    "secrets",
    "ssh",
    "network",
    "entitlements",
    "extra_hosts",
    "isolation",
    "privileged",
    "shm_size",
    "ulimits",
    "platforms",
];

const BUILD_IGNORED: &[&str] = &[
    "cache_from",
    "cache_to",
    "labels",
    "no_cache",
    "pull",
    "tags",
    "provenance",
    "sbom",
    "no_cache_filter",
];

/// Reads `build:`; the folder is packed and hashed by `apply`.
pub(super) fn read(node: &Node, service: &str, findings: &mut Findings) -> Option<BuildSpec> {
    let path = format!("{service}.build");
    if !matches!(node.value, Value::Map(_)) {
        let context = folder(node, &path, findings)?;
        return Some(BuildSpec {
            context,
            dockerfile: "Dockerfile".into(),
            args: BTreeMap::new(),
            hash: None,
        });
    }
    let mut fields = Fields::of(node, node.place, &path, findings)?;
    let context = match fields.take("context") {
        Some(node) => folder(node, &fields.at("context"), findings),
        None => Some(".".to_string()),
    };
    let dockerfile = match fields.take("dockerfile") {
        Some(node) => filled(node, &fields.at("dockerfile"), findings).map(str::to_string),
        None => Some("Dockerfile".to_string()),
    };
    let args =
        fields.take("args").map_or_else(BTreeMap::new, |n| build_args(n, &fields.at("args"), findings));
    for refused in BUILD_REFUSED {
        if let Some((key, _)) = fields.take_entry(refused) {
            findings
                .error(key.place, format!("`{path}.{refused}` is refused"))
                .help("a build is a folder, its Dockerfile and `args:`; put the rest into the Dockerfile");
        }
    }
    for ignored in BUILD_IGNORED {
        if let Some((key, _)) = fields.take_entry(ignored) {
            findings.notice(key.place, format!("`{ignored}` is ignored: every candidate builds for itself"));
        }
    }
    fields.finish(&["context", "dockerfile", "args"], findings);
    Some(BuildSpec { context: context?, dockerfile: dockerfile?, args, hash: None })
}

fn folder(node: &Node, path: &str, findings: &mut Findings) -> Option<String> {
    let given = filled(node, path, findings)?;
    if given.contains("://") || given.starts_with("git@") {
        findings
            .error(node.place, format!("`{path}` must be a folder, not `{given}`"))
            .help("clone it beside the YAML and name the folder, as in `build: ./site`");
        return None;
    }
    Some(given.to_string())
}

fn build_args(node: &Node, path: &str, findings: &mut Findings) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    if let Value::Map(_) = node.value {
        let Some(mut fields) = Fields::of(node, node.place, path, findings) else { return args };
        for (key, value) in fields.take_all() {
            if let Some(value) = text(value, &format!("{path}.{}", key.text), findings) {
                args.insert(key.text.clone(), value.to_string());
            }
        }
        return args;
    }
    for item in items(node, path, findings) {
        match text(item, path, findings).map(|t| (t, t.split_once('='))) {
            Some((_, Some((name, value)))) => drop(args.insert(name.to_string(), value.to_string())),
            Some((given, None)) => {
                findings
                    .error(item.place, format!("`{path}`: `{given}` has no value"))
                    .help("write NAME=value");
            }
            None => {}
        }
    }
    args
}
