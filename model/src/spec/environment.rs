//! `environment:` and `env_file:`, merged as Compose merges them, and references to secrets.

use super::fields::{Fields, filled, items, text};
use super::interpolate::parse_env_file;
use super::report::{Findings, Place};
use super::service::Outside;
use super::tree::{Node, Value};
use super::{EnvValue, SecretName};
use std::collections::BTreeMap;

/// Reads both keys of a service; `environment:` wins.
pub(super) fn read(
    fields: &mut Fields<'_>,
    outside: &Outside<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, EnvValue> {
    let mut merged = BTreeMap::new();
    if let Some(node) = fields.take("env_file") {
        env_files(node, &fields.at("env_file"), outside, &mut merged, findings);
    }
    let Some(node) = fields.take("environment") else { return merged };
    let path = fields.at("environment");
    match &node.value {
        Value::Map(_) => {
            let Some(mut own) = Fields::of(node, node.place, &path, findings) else { return merged };
            for (key, value) in own.take_all() {
                let given = match &value.value {
                    Value::Null => None,
                    _ => match text(value, &format!("{path}.{}", key.text), findings) {
                        Some(given) => Some(given),
                        None => continue,
                    },
                };
                put(&key.text, given, key.place, value.place, outside, &mut merged, findings);
            }
        }
        _ => {
            let mut seen: BTreeMap<String, Place> = BTreeMap::new();
            for item in items(node, &path, findings) {
                let Some(line) = text(item, &path, findings) else { continue };
                let (name, given) = match line.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (line, None),
                };
                if let Some(first) = seen.insert(name.to_string(), item.place) {
                    findings
                        .error(item.place, format!("`{path}` sets `{name}` twice"))
                        .also(first, "first here")
                        .help("keep one of them");
                }
                put(name, given, item.place, item.place, outside, &mut merged, findings);
            }
        }
    }
    merged
}

fn put(
    name: &str,
    given: Option<&str>,
    place: Place,
    value_place: Place,
    outside: &Outside<'_>,
    merged: &mut BTreeMap<String, EnvValue>,
    findings: &mut Findings,
) {
    let shape = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(shape) {
        findings
            .error(place, format!("`{name}` is no name of a variable"))
            .help("write NAME: value, or \"NAME=value\" in a list");
        return;
    }
    let Some(given) = given else {
        // As in Compose: a name alone passes the variable on if it is set.
        match outside.env.get(name) {
            Some(value) => drop(merged.insert(name.to_string(), EnvValue::Plain(value.clone()))),
            None => findings.notice(place, format!("`{name}` is not set here: left out")),
        }
        return;
    };
    if let Some(value) = value(name, given, value_place, findings) {
        merged.insert(name.to_string(), value);
    }
}

fn value(name: &str, given: &str, place: Place, findings: &mut Findings) -> Option<EnvValue> {
    if given.starts_with("secret:") {
        return secret_name(given, place, findings).map(EnvValue::Secret);
    }
    let upper = name.to_ascii_uppercase();
    let telling = ["PASSWORD", "PASSWD", "SECRET", "_TOKEN", "_KEY"].iter().any(|w| upper.ends_with(w));
    if telling && !given.is_empty() && !given.starts_with('/') {
        let secret = name.to_ascii_lowercase().replace('_', "-");
        findings.notice(
            place,
            format!(
                "`{name}` stands in clear in the file: `thermidor secret set {secret}` and `{name}: secret:{secret}` seal it"
            ),
        );
    }
    Some(EnvValue::Plain(given.to_string()))
}

/// Takes `secret:NAME` apart; the name is what a path is made of.
pub(super) fn secret_name(given: &str, place: Place, findings: &mut Findings) -> Option<SecretName> {
    let name = given.strip_prefix("secret:").unwrap_or(given).trim();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | '@');
    let parts_good = name.split('/').all(|part| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && part.chars().all(good)
    });
    if !parts_good || name.len() > 120 {
        findings
            .error(place, format!("`{name}` is no secret's name"))
            .help("use a-z, 0-9, -, _, . and /, as in `secret:mail/marie`");
        return None;
    }
    Some(SecretName(name.to_string()))
}

/// A password: only ever a reference to a sealed secret.
pub(super) fn password(
    node: &Node,
    path: &str,
    suggest: &str,
    findings: &mut Findings,
) -> Option<SecretName> {
    let Value::Text(given) = &node.value else {
        text(node, path, findings);
        return None;
    };
    if given.starts_with("secret:") {
        return secret_name(given, node.place, findings);
    }
    findings.conceal(node.place);
    findings
        .error(node.place, format!("`{path}` must not stand in the file"))
        .help(format!("run `thermidor secret set {suggest}` and write `password: secret:{suggest}`"));
    None
}

fn env_files(
    node: &Node,
    path: &str,
    outside: &Outside<'_>,
    merged: &mut BTreeMap<String, EnvValue>,
    findings: &mut Findings,
) {
    let one = std::slice::from_ref(node);
    let list = if matches!(node.value, Value::Map(_)) { one } else { items(node, path, findings) };
    for item in list {
        let (file, place, required) = match &item.value {
            Value::Map(_) => {
                let Some(mut own) = Fields::of(item, item.place, path, findings) else { continue };
                let required = own.take("required").and_then(|n| super::fields::boolean(n, path, findings));
                let file = own.need("path", "service.env", findings);
                if let Some((key, _)) = own.take_entry("format") {
                    findings
                        .error(key.place, "`env_file.format` is refused")
                        .help("the format is Compose's .env");
                }
                own.finish(&["path", "required"], findings);
                let Some(file) = file else { continue };
                (filled(file, path, findings), file.place, required.unwrap_or(true))
            }
            _ => (filled(item, path, findings), item.place, true),
        };
        let Some(file) = file else { continue };
        let content = match (outside.files)(file) {
            Ok(content) => content,
            Err(why) if required => {
                findings.error(place, format!("`{path}`: {file} can't be read: {why}"));
                continue;
            }
            Err(why) => {
                findings.notice(place, format!("{file} is left out: {why}"));
                continue;
            }
        };
        match parse_env_file(&content, outside.env) {
            Ok(pairs) => {
                for (name, given) in pairs {
                    if let Some(value) = value(&name, &given, place, findings) {
                        merged.insert(name, value);
                    }
                }
            }
            Err(why) => {
                findings.error(place, format!("`{path}`: {file}, {why}"));
            }
        }
    }
}
