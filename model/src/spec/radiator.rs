//! One radiator of `radiators:`: what it heats, its sensor and its comfort.

use super::fields::{Fields, duration, filled, number, temperature, text};
use super::report::{Findings, Place};
use super::service::{argv, choice};
use super::tree::{Key, Node, Value};
use super::units::{clock_text, span_minutes};
use super::{ComfortSpan, ComfortSpec, Heats, RadiatorSpec, SensorSpec};
use std::ops::RangeInclusive;

/// Targets of a room, °C: from frost protection to a hot bathroom.
const ROOM_C: RangeInclusive<f64> = 5.0..=30.0;

/// Targets of a tank, °C.
const WATER_C: RangeInclusive<f64> = 20.0..=75.0;

/// When a file or the like says nothing new any more, s.
const FILE_STALE_S: u64 = 600;

/// The same for what is asked over the network or of a command, s.
const ASKED_STALE_S: u64 = 300;

/// Reads one radiator.
pub(super) fn read(key: &Key, node: &Node, findings: &mut Findings) -> Option<RadiatorSpec> {
    let path = format!("radiators.{}", key.text);
    let mut fields = Fields::of(node, key.place, &path, findings)?;
    let heats_node = fields.need("heats", "room", findings);
    let tank = fields.take_entry("tank");
    let heats = heats_node.and_then(|n| heats(n, tank, &fields, findings));
    let power = fields.need("power", "250", findings);
    let power_w = power.and_then(|n| number(n, &fields.at("power"), "in watts", 1.0..=20_000.0, findings));
    let sensor = fields.take("sensor").map(|n| sensor(n, &fields.at("sensor"), findings));
    let range = if matches!(heats, Some(Heats::Water { .. })) { WATER_C } else { ROOM_C };
    let comfort = fields.take("comfort").map(|n| comfort(n, &fields.at("comfort"), range, findings));
    fields.finish(&["heats", "tank", "power", "sensor", "comfort"], findings);
    Some(RadiatorSpec {
        heats: heats?,
        power_w: power_w?,
        sensor: flatten(sensor)?,
        comfort: flatten(comfort)?,
    })
}

/// Absent is fine, wrong is not.
fn flatten<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
    }
}

fn heats(
    node: &Node,
    tank: Option<(&Key, &Node)>,
    fields: &Fields<'_>,
    findings: &mut Findings,
) -> Option<Heats> {
    match (text(node, &fields.at("heats"), findings)?, tank) {
        ("room", None) => Some(Heats::Room),
        ("room", Some((key, _))) => {
            findings
                .error(key.place, format!("`{}` heats a room, which has no tank", fields.path))
                .also(node.place, "heats: room")
                .help("write `heats: water`, or leave `tank:` out");
            None
        }
        ("water", Some((_, tank))) => {
            let tank_l = number(tank, &fields.at("tank"), "in litres", 1.0..=10_000.0, findings)?;
            Some(Heats::Water { tank_l })
        }
        ("water", None) => {
            findings
                .error(node.place, format!("`{}` heats water, but how much is not said", fields.path))
                .help("write `tank: 200`, in litres");
            None
        }
        (other, _) => {
            choice(node, &fields.at("heats"), other, &["room", "water"], findings);
            None
        }
    }
}

const SENSORS: &[&str] = &["http", "file", "command", "simulated"];

fn sensor(node: &Node, path: &str, findings: &mut Findings) -> Option<SensorSpec> {
    let mut fields = Fields::of(node, node.place, path, findings)?;
    let mut given: Vec<_> = SENSORS.iter().filter_map(|k| fields.take_entry(k)).collect();
    given.sort_by_key(|(key, _)| key.place);
    for (coming, instead) in [
        (
            "mqtt",
            "MQTT comes later: let a bridge write the number to a file, or ask Home Assistant with `http:`",
        ),
        ("hwmon", "hwmon comes later: use `command:` or `file:`"),
    ] {
        if let Some((key, _)) = fields.take_entry(coming) {
            findings.error(key.place, format!("`{path}.{coming}` is refused")).help(instead);
            fields.finish(SENSORS, findings);
            return None;
        }
    }
    let before = findings.problems.len();
    fields.finish(SENSORS, findings);
    match given.as_slice() {
        [(key, value)] => one_sensor(key, value, path, findings),
        [] if findings.problems.len() > before => None,
        [] => {
            findings
                .error(node.place, format!("`{path}` does not say where the temperature is read"))
                .help("give one of http, file, command, simulated");
            None
        }
        [(first, _), (second, _), ..] => {
            findings
                .error(second.place, format!("`{path}` has two sources"))
                .also(first.place, "the first is here")
                .help("keep one of them");
            None
        }
    }
}

fn one_sensor(key: &Key, node: &Node, path: &str, findings: &mut Findings) -> Option<SensorSpec> {
    let path = format!("{path}.{}", key.text);
    match (key.text.as_str(), &node.value) {
        ("http", Value::Text(_)) => {
            let url = http_url(node, &path, findings)?;
            Some(SensorSpec::Http { url, path: String::new(), stale_s: ASKED_STALE_S })
        }
        ("http", _) => {
            let mut fields = Fields::of(node, key.place, &path, findings)?;
            let url = fields.need("url", "http://sensor.lan/state", findings);
            let url = url.and_then(|n| http_url(n, &fields.at("url"), findings));
            let inner = fields.take("path").map_or(Some(""), |n| text(n, &fields.at("path"), findings));
            let stale_s = stale(&mut fields, ASKED_STALE_S, findings);
            fields.finish(&["url", "path", "stale"], findings);
            Some(SensorSpec::Http { url: url?, path: inner?.to_string(), stale_s: stale_s? })
        }
        ("file", Value::Text(_)) => {
            let path = super::service::absolute(node, &path, findings)?;
            Some(SensorSpec::File { path, stale_s: FILE_STALE_S })
        }
        ("file", _) => {
            let mut fields = Fields::of(node, key.place, &path, findings)?;
            let file = fields.need("path", "/run/sensors/room", findings);
            let file = file.and_then(|n| super::service::absolute(n, &fields.at("path"), findings));
            let stale_s = stale(&mut fields, FILE_STALE_S, findings);
            fields.finish(&["path", "stale"], findings);
            Some(SensorSpec::File { path: file?, stale_s: stale_s? })
        }
        ("command", Value::Map(_)) => {
            let mut fields = Fields::of(node, key.place, &path, findings)?;
            let run = fields.need("run", "[/usr/local/bin/temperature, salon]", findings);
            let run = run.and_then(|n| program(n, &fields.at("run"), findings));
            let stale_s = stale(&mut fields, ASKED_STALE_S, findings);
            fields.finish(&["run", "stale"], findings);
            Some(SensorSpec::Command { argv: run?, stale_s: stale_s? })
        }
        ("command", _) => {
            let argv = program(node, &path, findings)?;
            Some(SensorSpec::Command { argv, stale_s: ASKED_STALE_S })
        }
        _ => simulated(key, node, &path, findings),
    }
}

fn stale(fields: &mut Fields<'_>, default_s: u64, findings: &mut Findings) -> Option<u64> {
    fields.take("stale").map_or(Some(default_s), |n| {
        duration(n, &fields.at("stale"), 1000..=86_400_000, findings).map(|ms| ms.div_ceil(1000))
    })
}

fn http_url(node: &Node, path: &str, findings: &mut Findings) -> Option<String> {
    let given = filled(node, path, findings)?;
    let rest = given.strip_prefix("http://").or_else(|| given.strip_prefix("https://"));
    if rest.is_none_or(|r| r.is_empty() || r.starts_with('/') || given.contains(char::is_whitespace)) {
        findings
            .error(node.place, format!("`{path}` must be an http or https address, not `{given}`"))
            .help("write it as in `http://sensor.lan/state`");
        return None;
    }
    Some(given.to_string())
}

fn program(node: &Node, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let words = argv(node, path, findings)?;
    if words.first().is_none_or(String::is_empty) {
        findings.error(node.place, format!("`{path}` names no program"));
        return None;
    }
    Some(words)
}

fn simulated(key: &Key, node: &Node, path: &str, findings: &mut Findings) -> Option<SensorSpec> {
    let mut fields = Fields::of(node, key.place, path, findings)?;
    let degrees = |name: &str, fields: &mut Fields<'_>, findings: &mut Findings| {
        let node = fields.need(name, "15", findings)?;
        temperature(node, &fields.at(name), -60.0..=100.0, findings)
    };
    let start_c = degrees("start", &mut fields, findings);
    let outdoor_c = degrees("outdoor", &mut fields, findings);
    let loss = fields.need("loss_w_per_k", "80", findings);
    let loss = loss.and_then(|n| number(n, &fields.at("loss_w_per_k"), "in W/K", 0.0..=10_000.0, findings));
    let capacity = fields.need("capacity_kj_per_k", "2000", findings);
    let capacity =
        capacity.and_then(|n| number(n, &fields.at("capacity_kj_per_k"), "in kJ/K", 0.001..=1e6, findings));
    let speed = fields
        .take("speed")
        .map_or(Some(1.0), |n| number(n, &fields.at("speed"), "", 0.01..=100_000.0, findings));
    fields.finish(&["start", "loss_w_per_k", "capacity_kj_per_k", "outdoor", "speed"], findings);
    Some(SensorSpec::Simulated {
        start_c: start_c?,
        loss_w_per_k: loss?,
        capacity_kj_per_k: capacity?,
        outdoor_c: outdoor_c?,
        speed: speed?,
    })
}

fn comfort(
    node: &Node,
    path: &str,
    range: RangeInclusive<f64>,
    findings: &mut Findings,
) -> Option<ComfortSpec> {
    let mut fields = Fields::of(node, node.place, path, findings)?;
    let target = fields.need("target", &range.start().max(20.0).to_string(), findings);
    let target_c = target.and_then(|n| temperature(n, &fields.at("target"), range.clone(), findings));
    let schedule = match fields.take("schedule") {
        Some(node) => schedule(node, &fields.at("schedule"), range, findings),
        None => Some(Vec::new()),
    };
    fields.finish(&["target", "schedule"], findings);
    Some(ComfortSpec { target_c: target_c?, schedule: schedule? })
}

fn schedule(
    node: &Node,
    path: &str,
    range: RangeInclusive<f64>,
    findings: &mut Findings,
) -> Option<Vec<ComfortSpan>> {
    let mut fields = Fields::of(node, node.place, path, findings)?;
    let mut spans: Vec<(ComfortSpan, Place)> = Vec::new();
    let mut sound = true;
    for (key, value) in fields.take_all() {
        let span = span_minutes(&key.text).filter(|(from, until)| from != until);
        if span.is_none() {
            findings
                .error(key.place, format!("`{path}`: `{}` is no span of the day", key.text))
                .help("write it as in `\"22:00-06:00\": 17`; it may pass midnight");
        }
        let target_c = temperature(value, &format!("{path}.{}", key.text), range.clone(), findings);
        let (Some((from_minute, until_minute)), Some(target_c)) = (span, target_c) else {
            sound = false;
            continue;
        };
        let span = ComfortSpan { from_minute, until_minute, target_c };
        if let Some((other, place)) = spans.iter().find(|(other, _)| overlap(other, &span)) {
            let named =
                |s: &ComfortSpan| format!("{}-{}", clock_text(s.from_minute), clock_text(s.until_minute));
            findings
                .error(key.place, format!("`{path}`: {} overlaps {}", named(&span), named(other)))
                .also(*place, format!("{} is {} °C here", named(other), other.target_c))
                .help("let one end where the other begins");
            sound = false;
        }
        spans.push((span, key.place));
    }
    sound.then(|| spans.into_iter().map(|(s, _)| s).collect())
}

fn overlap(a: &ComfortSpan, b: &ComfortSpan) -> bool {
    let inside = |s: &ComfortSpan, minute: u16| {
        let day = 24 * 60;
        (minute + day - s.from_minute) % day < (s.until_minute + day - s.from_minute) % day
    };
    inside(a, b.from_minute) || inside(b, a.from_minute)
}
