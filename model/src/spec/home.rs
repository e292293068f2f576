//! The file as a whole: `home:`, `address:`, `placement:`, `notify:`, and every section in turn.

use super::environment::password;
use super::fields::{Fields, boolean, duration, filled, items, name, number, text, whole};
use super::report::{Findings, Notice, SpecErrors};
use super::service::{Draft, Outside};
use super::tree::{Key, Node, Value};
use super::{AddressSpec, HomeSpec, NotifySpec, PlacementSpec, RadiatorSpec, SmtpSpec, VolumeSpec};
use super::{compose, cross, interpolate, radiator, service, tree, volumes};
use crate::name::{HomeName, RadiatorName, ServiceName, VolumeName};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Reads a `home.yaml`. `env` holds the variables for `${NAME}` (the `.env` file's, then the
/// process's); `files` gives the content of what `env_file:` names.
///
/// All errors come at once, with their places. Input that is refused has no effect.
pub fn parse(
    content: &str,
    file_name: &str,
    env: &BTreeMap<String, String>,
    files: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(HomeSpec, Vec<Notice>), SpecErrors> {
    let mut findings = Findings::default();
    let spec = tree::parse(content, &mut findings).and_then(|mut root| {
        interpolate::interpolate(&mut root, env, &mut findings);
        read(&root, &Outside { env, files }, &mut findings)
    });
    match spec {
        Some(spec) if findings.problems.is_empty() => {
            findings.notices.sort_by_key(|n| (n.place.line, n.place.column));
            Ok((spec, findings.notices))
        }
        _ => Err(findings.into_errors(file_name, content)),
    }
}

/// Everything read, with the places that checks across sections point at.
pub(super) struct Drafts<'n> {
    pub radiators: BTreeMap<RadiatorName, (&'n Key, Option<RadiatorSpec>)>,
    pub services: BTreeMap<ServiceName, Draft>,
    pub volumes: BTreeMap<VolumeName, (&'n Key, Option<VolumeSpec>)>,
}

fn read(root: &Node, outside: &Outside<'_>, findings: &mut Findings) -> Option<HomeSpec> {
    if !matches!(root.value, Value::Map(_)) {
        findings
            .error(root.place, format!("the file is {}, not a mapping", root.value.kind()))
            .help("begin with `home: NAME`");
        return None;
    }
    let mut fields = Fields::of(root, root.place, "", findings)?;
    let home = fields.need("home", "maison", findings);
    let home = home.and_then(|n| name::<HomeName>(text(n, "home", findings)?, n.place, findings));
    let address = fields.take("address").and_then(|n| address(n, findings));
    let placement = fields.take("placement").map_or_else(PlacementSpec::default, |n| placement(n, findings));
    let radiators: BTreeMap<RadiatorName, _> = section(&mut fields, "radiators", findings)
        .into_iter()
        .filter_map(|(key, node)| {
            Some((name(&key.text, key.place, findings)?, (key, radiator::read(key, node, findings))))
        })
        .collect();
    let count = u32::try_from(radiators.len()).unwrap_or(u32::MAX);
    let volumes = section(&mut fields, "volumes", findings)
        .into_iter()
        .filter_map(|(key, node)| {
            Some((
                name(&key.text, key.place, findings)?,
                (key, volumes::read_volume(key, node, count, findings)),
            ))
        })
        .collect();
    let services = section(&mut fields, "services", findings)
        .into_iter()
        .filter_map(|(key, node)| {
            let name = name(&key.text, key.place, findings);
            let draft = service::read(key, node, outside, findings);
            Some((name?, draft?))
        })
        .collect();
    let notify = fields.take_entry("notify").and_then(|(k, n)| notify(k, n, findings));
    compose::rest_of_file(fields, findings);
    let drafts = Drafts { radiators, services, volumes };
    cross::check(&drafts, findings);
    Some(HomeSpec {
        home: home?,
        address,
        radiators: drafts.radiators.into_iter().filter_map(|(n, (_, r))| Some((n, r?))).collect(),
        placement,
        services: drafts.services.into_iter().map(|(n, d)| (n, d.spec)).collect(),
        volumes: drafts.volumes.into_iter().filter_map(|(n, (_, v))| Some((n, v?))).collect(),
        notify,
    })
}

/// The named entries of a top-level section.
fn section<'n>(fields: &mut Fields<'n>, key: &str, findings: &mut Findings) -> Vec<(&'n Key, &'n Node)> {
    let Some((key, node)) = fields.take_entry(key) else { return Vec::new() };
    Fields::of(node, key.place, &key.text, findings).map_or_else(Vec::new, |mut f| f.take_all())
}

fn address(node: &Node, findings: &mut Findings) -> Option<AddressSpec> {
    let given = text(node, "address", findings)?;
    let split = given.split_once('/').and_then(|(ip, prefix)| {
        let prefix: u8 = prefix.parse().ok()?;
        Some((ip.parse::<IpAddr>().ok()?, prefix))
    });
    let fits = |ip: &IpAddr, prefix: u8| (1..=if ip.is_ipv4() { 32 } else { 128 }).contains(&prefix);
    let Some((ip, prefix)) = split.filter(|(ip, prefix)| fits(ip, *prefix)) else {
        let problem = findings.error(
            node.place,
            format!("`address` must be an address and its network's length, not `{given}`"),
        );
        match given.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() => {
                problem.help(format!("write `{ip}/24` where the netmask is 255.255.255.0"))
            }
            Ok(ip) => problem.help(format!("write `{ip}/64`")),
            Err(_) => problem
                .help("write it as in `192.168.1.50/24`: a free one, outside of the router's DHCP range"),
        };
        return None;
    };
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_network(ip, prefix) {
        findings
            .error(node.place, format!("`address`: {ip} can't be a machine's address in the home's network"))
            .help("write a free one, as in `192.168.1.50/24`");
        return None;
    }
    Some(AddressSpec { ip, prefix })
}

/// Whether an IPv4 address is its network's own, or its broadcast.
fn is_network(ip: IpAddr, prefix: u8) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let host = if prefix >= 31 { return false } else { u32::MAX >> prefix };
    let bits = ip.to_bits() & host;
    bits == 0 || bits == host
}

fn placement(node: &Node, findings: &mut Findings) -> PlacementSpec {
    let default = PlacementSpec::default();
    let Some(mut fields) = Fields::of(node, node.place, "placement", findings) else { return default };
    let move_gain_w = fields
        .take("move_gain_w")
        .and_then(|n| number(n, &fields.at("move_gain_w"), "in watts", 0.0..=20_000.0, findings))
        .unwrap_or(default.move_gain_w);
    let minimum_stay_s = fields
        .take("minimum_stay")
        .and_then(|n| duration(n, &fields.at("minimum_stay"), 0..=7 * 86_400_000, findings))
        .map_or(default.minimum_stay_s, |ms| ms.div_ceil(1000));
    let moves_per_day = fields
        .take("moves_per_day")
        .and_then(|n| whole(n, &fields.at("moves_per_day"), 0..=1000, findings))
        .unwrap_or(default.moves_per_day);
    fields.finish(&["move_gain_w", "minimum_stay", "moves_per_day"], findings);
    PlacementSpec { move_gain_w, minimum_stay_s, moves_per_day }
}

fn notify(key: &Key, node: &Node, findings: &mut Findings) -> Option<NotifySpec> {
    let mut fields = Fields::of(node, key.place, "notify", findings)?;
    let to = fields.need("to", "[marie@elsewhere.example]", findings);
    let to: Vec<String> = to.map_or_else(Vec::new, |n| {
        items(n, "notify.to", findings).iter().filter_map(|i| mailbox(i, "notify.to", findings)).collect()
    });
    let from = fields.take("from").and_then(|n| mailbox(n, "notify.from", findings));
    let smtp = fields.need("smtp", "{ host: smtp.elsewhere.example }", findings);
    let smtp = smtp.and_then(|n| smtp_server(n, findings));
    fields.finish(&["to", "from", "smtp"], findings);
    Some(NotifySpec { to, from, smtp: smtp? })
}

fn mailbox(node: &Node, path: &str, findings: &mut Findings) -> Option<String> {
    let given = filled(node, path, findings)?.trim();
    let sound = given.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && !host.is_empty() && !host.contains('@') && !given.contains(char::is_whitespace)
    });
    if !sound {
        findings
            .error(node.place, format!("`{path}`: `{given}` is no mail address"))
            .help("write it as in `marie@elsewhere.example`");
        return None;
    }
    Some(given.to_string())
}

fn smtp_server(node: &Node, findings: &mut Findings) -> Option<SmtpSpec> {
    let mut fields = Fields::of(node, node.place, "notify.smtp", findings)?;
    let host = fields.need("host", "smtp.elsewhere.example", findings);
    let host = host.and_then(|n| filled(n, "notify.smtp.host", findings)).map(str::to_string);
    let port =
        fields.take("port").map_or(Some(465), |n| whole(n, "notify.smtp.port", 1..=u16::MAX, findings));
    let tls = fields.take("tls").map_or(Some(true), |n| boolean(n, "notify.smtp.tls", findings));
    let user = fields.take_entry("user");
    let secret = fields.take_entry("password");
    match (user, secret) {
        (Some((key, _)), None) => {
            findings
                .error(key.place, "`notify.smtp` has a user without a password")
                .help("run `thermidor secret set notify` and write `password: secret:notify`");
        }
        (None, Some((key, _))) => {
            findings
                .error(key.place, "`notify.smtp` has a password without a user")
                .help("write `user: NAME`");
        }
        _ => {}
    }
    let user = user.and_then(|(_, n)| filled(n, "notify.smtp.user", findings)).map(str::to_string);
    let password = secret.and_then(|(_, n)| password(n, "notify.smtp.password", "notify", findings));
    fields.finish(&["host", "port", "tls", "user", "password"], findings);
    Some(SmtpSpec { host: host?, port: port?, tls: tls?, user, password })
}
