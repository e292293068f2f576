//! `backup:` of a service: how often, to which friends, at which hours.

use super::BackupSpec;
use super::fields::{Fields, duration, items, name, text};
use super::report::Findings;
use super::tree::{Key, Node};
use super::units::span_minutes;
use crate::backup::{DRILL_DEFAULT_MS, RETRY_DEFAULT_MS, RETRY_MAX_MS, Window};
use crate::name::HomeName;

/// Backups come no oftener and no more seldom, ms.
const EVERY_MS: std::ops::RangeInclusive<u64> = 60_000..=31 * 86_400_000;
/// Nor are restores tried, ms.
const DRILL_MS: std::ops::RangeInclusive<u64> = 60_000..=366 * 86_400_000;
/// Nor is a friend that is away dialled, ms.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1_000..=RETRY_MAX_MS;

/// Reads the section.
pub(super) fn read(key: &Key, node: &Node, path: &str, findings: &mut Findings) -> Option<BackupSpec> {
    let path = format!("{path}.backup");
    let mut fields = Fields::of(node, key.place, &path, findings)?;
    let every = fields.need("every", "1h", findings);
    let every_ms = every.and_then(|n| duration(n, &fields.at("every"), EVERY_MS, findings));
    let to = fields.need("to", "[alice]", findings);
    let to = to.and_then(|n| friends(n, &fields.at("to"), findings));
    let windows = match fields.take("windows") {
        Some(node) => windows(node, &fields.at("windows"), findings),
        None => Vec::new(),
    };
    let drill_ms = match fields.take("drill") {
        None => Some(DRILL_DEFAULT_MS),
        Some(node) if text(node, &fields.at("drill"), findings) == Some("never") => Some(0),
        Some(node) => duration(node, &fields.at("drill"), DRILL_MS, findings),
    };
    let retry_ms = match fields.take("retry") {
        None => Some(RETRY_DEFAULT_MS),
        Some(node) => duration(node, &fields.at("retry"), RETRY_MS, findings),
    };
    fields.finish(&["every", "to", "windows", "drill", "retry"], findings);
    Some(BackupSpec { every_ms: every_ms?, to: to?, windows, drill_ms: drill_ms?, retry_ms: retry_ms? })
}

fn friends(node: &Node, path: &str, findings: &mut Findings) -> Option<Vec<HomeName>> {
    let mut friends: Vec<HomeName> = Vec::new();
    for item in items(node, path, findings) {
        let friend: HomeName = name(text(item, path, findings)?, item.place, findings)?;
        if friends.contains(&friend) {
            findings.error(item.place, format!("`{path}` names {friend} twice")).help("once is enough");
            return None;
        }
        friends.push(friend);
    }
    if friends.is_empty() {
        findings
            .error(node.place, format!("`{path}` names nobody"))
            .help("name a friend (`thermidor friend ls`), or leave `backup:` out");
        return None;
    }
    Some(friends)
}

pub(super) fn windows(node: &Node, path: &str, findings: &mut Findings) -> Vec<Window> {
    let mut windows = Vec::new();
    for item in items(node, path, findings) {
        let Some(given) = text(item, path, findings) else { continue };
        match span_minutes(given).filter(|(from, to)| from != to) {
            Some((from, to)) => windows.push(Window { from, to }),
            None => {
                findings
                    .error(item.place, format!("`{path}`: `{given}` is no span of the day"))
                    .help("write it as in `\"22:00-06:00\"`; it may pass midnight");
            }
        }
    }
    windows
}
