//! Reading a mapping key by key and a value by its kind; whatever does not fit becomes a finding.

use super::report::{Findings, Place};
use super::tree::{Key, Node, Value};
use super::units::{duration_ms, duration_text, size_bytes, size_text};
use super::words::nearest;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// A mapping being read: each known key is taken once, what is left is unknown.
pub(super) struct Fields<'n> {
    /// Its path in words, `volumes.mail`; empty for the file itself.
    pub path: String,
    /// Where it, or the key that holds it, stands.
    pub place: Place,
    entries: Vec<(&'n Key, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// Takes a node as a mapping. Nothing (`volumes: {data: }`) is an empty one.
    pub fn of(node: &'n Node, place: Place, path: &str, findings: &mut Findings) -> Option<Self> {
        let all = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                let message = format!("`{path}` must be a mapping, not {}", other.kind());
                // A list's own place is its first item's; the key says better where it is.
                let at = if matches!(other, Value::List(_)) { place } else { node.place };
                findings.error(at, message).help(format!("write `{}:` and its keys below", last(path)));
                return None;
            }
        };
        let mut entries: Vec<(&Key, &Node)> = Vec::new();
        for (key, value) in all {
            match entries.iter().find(|(k, _)| k.text == key.text) {
                Some((first, _)) => {
                    findings
                        .error(key.place, format!("`{}` is given twice", join(path, &key.text)))
                        .also(first.place, "first here")
                        .help("keep one of them");
                }
                None => entries.push((key, value)),
            }
        }
        Some(Self { path: path.to_string(), place, entries })
    }

    /// A mapping without keys, standing for one that was not written.
    pub fn empty(place: Place, path: &str) -> Self {
        Self { path: path.to_string(), place, entries: Vec::new() }
    }

    /// Takes a key's value; `None` where it is absent or empty.
    pub fn take(&mut self, key: &str) -> Option<&'n Node> {
        self.take_entry(key).map(|(_, node)| node)
    }

    /// Takes a key and its value; `None` where it is absent or empty.
    pub fn take_entry(&mut self, key: &str) -> Option<(&'n Key, &'n Node)> {
        let index = self.entries.iter().position(|(k, _)| k.text == key)?;
        let (key, node) = self.entries.remove(index);
        (!matches!(node.value, Value::Null)).then_some((key, node))
    }

    /// Takes a key that must be there.
    pub fn need(&mut self, key: &str, example: &str, findings: &mut Findings) -> Option<&'n Node> {
        let found = self.take(key);
        if found.is_none() {
            let of = if self.path.is_empty() { "the file".to_string() } else { format!("`{}`", self.path) };
            findings
                .error(self.place, format!("{of} needs `{key}:`"))
                .help(format!("write `{key}: {example}`"));
        }
        found
    }

    /// Takes everything that is left.
    pub fn take_all(&mut self) -> Vec<(&'n Key, &'n Node)> {
        std::mem::take(&mut self.entries)
    }

    /// The path of a key of it.
    pub fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Ends the reading: whatever is left is unknown.
    pub fn finish(mut self, known: &[&str], findings: &mut Findings) {
        for (key, _) in self.take_all() {
            unknown(key, &self.path, known, findings);
        }
    }
}

/// Says that a key is unknown, and which one was meant.
pub(super) fn unknown(key: &Key, path: &str, known: &[&str], findings: &mut Findings) {
    let of = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
    let help = match nearest(&key.text, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    findings.error(key.place, format!("unknown key `{}`{of}", key.text)).help(help);
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A single value's text.
pub(super) fn text<'n>(node: &'n Node, path: &str, findings: &mut Findings) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) => Some(text),
        other => {
            findings.error(node.place, format!("`{path}` must be a single value, not {}", other.kind()));
            None
        }
    }
}

/// A single value's text that is not empty.
pub(super) fn filled<'n>(node: &'n Node, path: &str, findings: &mut Findings) -> Option<&'n str> {
    let text = text(node, path, findings)?;
    if text.trim().is_empty() {
        findings.error(node.place, format!("`{path}` is empty"));
        return None;
    }
    Some(text)
}

/// A list's items, or a single value as a list of one.
pub(super) fn items<'n>(node: &'n Node, path: &str, findings: &mut Findings) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Text(_) => std::slice::from_ref(node),
        Value::Null => &[],
        Value::Map(_) => {
            findings
                .error(node.place, format!("`{path}` must be a list, not a mapping"))
                .help(format!("write `{}: [ ... ]`, or one `- ` per line", last(path)));
            &[]
        }
    }
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node, path: &str, findings: &mut Findings) -> Option<bool> {
    match text(node, path, findings)? {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        other => {
            findings.error(node.place, format!("`{path}` must be true or false, not `{other}`"));
            None
        }
    }
}

/// A number of that unit within a range; the unit itself is not written.
pub(super) fn number(
    node: &Node,
    path: &str,
    unit: &str,
    range: RangeInclusive<f64>,
    findings: &mut Findings,
) -> Option<f64> {
    let given = text(node, path, findings)?;
    let of = if unit.is_empty() { "a number".to_string() } else { format!("a number, {unit}") };
    let Some(value) = given.trim().parse::<f64>().ok().filter(|v| v.is_finite()) else {
        let problem = findings.error(node.place, format!("`{path}` must be {of}, not `{given}`"));
        match leading_number(given) {
            Some(n) => problem.help(format!("the unit is always {unit}: write `{}: {n}`", last(path))),
            None => problem.help(format!("write `{}: {}`", last(path), range.start())),
        };
        return None;
    };
    if !range.contains(&value) {
        out_of_range(node, path, value, &range, unit, findings);
        return None;
    }
    Some(value)
}

/// A whole number within a range.
pub(super) fn whole<T>(
    node: &Node,
    path: &str,
    range: RangeInclusive<T>,
    findings: &mut Findings,
) -> Option<T>
where
    T: std::str::FromStr + PartialOrd + Display,
{
    let given = text(node, path, findings)?;
    match given.trim().parse::<T>() {
        Ok(value) if range.contains(&value) => Some(value),
        Ok(value) => {
            out_of_range(node, path, value, &range, "", findings);
            None
        }
        Err(_) => {
            let (from, to) = (range.start(), range.end());
            findings.error(
                node.place,
                format!("`{path}` must be a whole number from {from} to {to}, not `{given}`"),
            );
            None
        }
    }
}

fn out_of_range<T: Display>(
    node: &Node,
    path: &str,
    value: T,
    range: &RangeInclusive<T>,
    unit: &str,
    findings: &mut Findings,
) {
    let space = if unit.is_empty() { "" } else { " " };
    findings.error(
        node.place,
        format!("`{path}` is {value}{space}{unit}: it must be from {} to {}", range.start(), range.end()),
    );
}

/// A duration with its unit, ms.
pub(super) fn duration(
    node: &Node,
    path: &str,
    range_ms: RangeInclusive<u64>,
    findings: &mut Findings,
) -> Option<u64> {
    let given = text(node, path, findings)?;
    let Some(ms) = duration_ms(given) else {
        let help = match given.trim().parse::<f64>() {
            Ok(n) => format!("say the unit: `{n}s`, `{n}m` or `{n}h`"),
            Err(_) => "units are ms, s, m and h, as in `30s` or `1h30m`".to_string(),
        };
        findings.error(node.place, format!("`{path}` must be a duration, not `{given}`")).help(help);
        return None;
    };
    if !range_ms.contains(&ms) {
        let (from, to) = (duration_text(*range_ms.start()), duration_text(*range_ms.end()));
        findings.error(node.place, format!("`{path}` is {given}: it must be from {from} to {to}"));
        return None;
    }
    Some(ms)
}

/// A size with its unit, bytes.
pub(super) fn size(
    node: &Node,
    path: &str,
    range: RangeInclusive<u64>,
    findings: &mut Findings,
) -> Option<u64> {
    let given = text(node, path, findings)?;
    let Some(bytes) = size_bytes(given) else {
        findings
            .error(node.place, format!("`{path}` must be a size, not `{given}`"))
            .help("units are k, m, g and t (powers of 1024), as in `512m` or `50g`");
        return None;
    };
    if !range.contains(&bytes) {
        let (from, to) = (size_text(*range.start()), size_text(*range.end()));
        let problem = findings
            .error(node.place, format!("`{path}` is {}: it must be from {from} to {to}", size_text(bytes)));
        if given.trim().bytes().all(|b| b.is_ascii_digit()) {
            problem.help(format!("a bare number is bytes; for gigabytes write `{given}g`"));
        }
        return None;
    }
    Some(bytes)
}

/// A temperature, °C.
pub(super) fn temperature(
    node: &Node,
    path: &str,
    range: RangeInclusive<f64>,
    findings: &mut Findings,
) -> Option<f64> {
    let given = text(node, path, findings)?.trim();
    let fahrenheit = |f: f64| (f - 32.0) / 1.8;
    match given.parse::<f64>().ok().filter(|v| v.is_finite()) {
        Some(value) if range.contains(&value) => Some(value),
        Some(value) => {
            let (from, to) = (range.start(), range.end());
            let problem =
                findings.error(node.place, format!("`{path}` is {value} °C: it must be from {from} to {to}"));
            if range.contains(&fahrenheit(value)) {
                problem.help(format!("temperatures are in °C: {value} °F is {:.1}", fahrenheit(value)));
            }
            None
        }
        None => {
            let problem =
                findings.error(node.place, format!("`{path}` must be a temperature in °C, not `{given}`"));
            match leading_number(given) {
                Some(n) if given.to_ascii_lowercase().ends_with('f') => {
                    problem.help(format!("temperatures are in °C: {n} °F is {:.1}", fahrenheit(n)))
                }
                Some(n) => problem.help(format!("the unit is always °C: write `{}: {n}`", last(path))),
                None => problem.help(format!("write `{}: 20`", last(path))),
            };
            None
        }
    }
}

fn leading_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-'))).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// A name of ours under a key: errors with what a name looks like, and one that would do.
pub(super) fn name<T: std::str::FromStr<Err = crate::name::BadName>>(
    given: &str,
    place: Place,
    findings: &mut Findings,
) -> Option<T> {
    match given.parse::<T>() {
        Ok(name) => Some(name),
        Err(bad) => {
            let tamed: String = given
                .to_ascii_lowercase()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .skip_while(|c| !c.is_ascii_alphabetic())
                .take(40)
                .collect();
            let problem = findings.error(place, bad.to_string());
            if tamed.parse::<T>().is_ok() {
                problem.help(format!("`{tamed}` would do"));
            }
            None
        }
    }
}
