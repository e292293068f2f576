//! `ports:` in Compose's short and long form: one TCP port each.

use super::PortSpec;
use super::fields::{Fields, boolean, items, text};
use super::report::{Findings, Place};
use super::tree::{Node, Value};

/// Reads a service's `ports:`; a recipe's own ports say which of them take a PROXY header.
pub(super) fn read(
    node: &Node,
    service: &str,
    known: &[PortSpec],
    findings: &mut Findings,
) -> Vec<(PortSpec, Place)> {
    let path = format!("{service}.ports");
    let mut ports = Vec::new();
    for item in items(node, &path, findings) {
        let port = match &item.value {
            Value::Map(_) => long(item, &path, findings),
            _ => text(item, &path, findings).and_then(|given| short(given, item.place, &path, findings)),
        };
        if let Some(mut port) = port {
            port.proxy_protocol |= known.iter().any(|k| k.target == port.target && k.proxy_protocol);
            ports.push((port, item.place));
        }
    }
    ports
}

fn short(given: &str, place: Place, path: &str, findings: &mut Findings) -> Option<PortSpec> {
    let (numbers, protocol) = given.split_once('/').unwrap_or((given, "tcp"));
    let parts: Vec<&str> = numbers.rsplitn(3, ':').collect();
    let (target, published, host) = match parts.as_slice() {
        [target] => (*target, None, None),
        [target, published] => (*target, Some(*published), None),
        [target, published, host] => (*target, Some(*published), Some(*host)),
        _ => (numbers, None, None),
    };
    if !tcp(protocol, place, path, findings) {
        return None;
    }
    if let Some(host) = host {
        let published = published.unwrap_or(target);
        findings
            .error(place, format!("`{path}`: `{given}` binds to {host}"))
            .help(format!("ports are published on the home's address: write `\"{published}:{target}\"`"));
        return None;
    }
    if target.contains('-') || published.is_some_and(|p| p.contains('-')) {
        findings
            .error(place, format!("`{path}`: `{given}` is a range"))
            .help("write each port on its own line");
        return None;
    }
    let target_port = port_number(target, given, place, path, findings)?;
    let Some(published) = published.filter(|p| !p.is_empty()) else {
        findings
            .error(place, format!("`{path}`: `{given}` does not say where it is published"))
            .help(format!("write `\"{target_port}:{target_port}\"`, published:container"));
        return None;
    };
    let published = port_number(published, given, place, path, findings)?;
    Some(PortSpec { published, target: target_port, proxy_protocol: false })
}

fn tcp(protocol: &str, place: Place, path: &str, findings: &mut Findings) -> bool {
    if protocol == "tcp" {
        return true;
    }
    let problem = findings.error(place, format!("`{path}`: {protocol} is refused"));
    if protocol == "udp" {
        problem.help(
            "only TCP follows a service from radiator to radiator yet; leave this port out if TCP does",
        );
    } else {
        problem.help("only TCP is published; leave `/protocol` out");
    }
    false
}

fn port_number(text: &str, given: &str, place: Place, path: &str, findings: &mut Findings) -> Option<u16> {
    match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Some(port),
        _ => {
            findings
                .error(place, format!("`{path}`: `{given}` is no port: `{text}` is not from 1 to 65535"))
                .help("write `\"8080:80\"`, published:container");
            None
        }
    }
}

fn long(node: &Node, path: &str, findings: &mut Findings) -> Option<PortSpec> {
    let mut fields = Fields::of(node, node.place, path, findings)?;
    let target = fields.need("target", "80", findings);
    let published = fields.take("published");
    let protocol = fields.take("protocol").and_then(|n| text(n, path, findings)).unwrap_or("tcp");
    let protocol_fits = tcp(protocol, node.place, path, findings);
    let proxy_protocol =
        fields.take("proxy_protocol").and_then(|n| boolean(n, path, findings)).unwrap_or(false);
    if let Some((key, _)) = fields.take_entry("host_ip") {
        findings
            .error(key.place, format!("`{path}`: `host_ip` is refused"))
            .help("ports are published on the home's address");
    }
    for ignored in ["mode", "name", "app_protocol"] {
        if let Some((key, _)) = fields.take_entry(ignored) {
            findings.notice(
                key.place,
                format!("`{ignored}` is ignored: every port is published on the home's address"),
            );
        }
    }
    fields.finish(&["target", "published", "protocol", "proxy_protocol"], findings);
    let target = target?;
    let target_text = text(target, path, findings)?;
    let published_text = match published {
        Some(node) => text(node, path, findings)?,
        None => "",
    };
    let spelled =
        if published.is_some() { format!("{published_text}:{target_text}") } else { target_text.to_string() };
    let place = published.map_or(target.place, |n| n.place);
    let port = short(&spelled, place, path, findings)?;
    protocol_fits.then_some(PortSpec { proxy_protocol, ..port })
}
