//! What can be seen only across sections: names that nobody declared, things claimed twice.

use super::home::Drafts;
use super::report::{Findings, Place};
use super::words::nearest;
use crate::name::{ServiceName, VolumeName};
use std::collections::BTreeMap;

/// Checks everything that spans sections.
pub(super) fn check(drafts: &Drafts<'_>, findings: &mut Findings) {
    radiators(drafts, findings);
    volumes(drafts, findings);
    ports(drafts, findings);
}

fn radiators(drafts: &Drafts<'_>, findings: &mut Findings) {
    let declared = || drafts.radiators.keys().map(|r| r.as_str());
    if drafts.radiators.is_empty()
        && let Some(first) = drafts.services.values().map(|d| d.place).min()
    {
        findings
            .error(first, "services are declared, but no radiator to run them")
            .help("declare one: `radiators: { salon: { heats: room, power: 250 } }`");
        return;
    }
    for (service, draft) in &drafts.services {
        let mut known = true;
        for (name, place) in &draft.radiators {
            if !drafts.radiators.contains_key(name) {
                known = false;
                let problem = findings
                    .error(*place, format!("`services.{service}.place`: there is no radiator `{name}`"));
                problem.help(meant(name.as_str(), declared(), "radiators"));
            }
        }
        let place = &draft.spec.place;
        let allowed = |r: &&crate::RadiatorName| {
            (place.only.is_empty() || place.only.contains(*r)) && !place.never.contains(*r)
        };
        let clash = !place.only.is_disjoint(&place.never);
        if known && !clash && drafts.radiators.keys().filter(allowed).count() == 0 {
            let at = draft.radiators.first().map_or(draft.place, |(_, place)| *place);
            findings
                .error(at, format!("`services.{service}.place` leaves no radiator to run it"))
                .help("leave at least one out of `never`");
        }
    }
}

fn meant<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    match nearest(given, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = known.take(12).collect();
            if names.is_empty() {
                format!("no {what} are declared")
            } else {
                format!("{what}: {}", names.join(", "))
            }
        }
    }
}

fn volumes(drafts: &Drafts<'_>, findings: &mut Findings) {
    let mut users: BTreeMap<&VolumeName, (&ServiceName, Place)> = BTreeMap::new();
    for (service, draft) in &drafts.services {
        for (mount, place) in &draft.mounts {
            let volume = &mount.volume;
            if !drafts.volumes.contains_key(volume) {
                let declared = drafts.volumes.keys().map(|v| v.as_str());
                let help = match nearest(volume.as_str(), declared) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("declare it: `{volume}: {{ size: 10g }}` under the top-level `volumes:`"),
                };
                findings
                    .error(*place, format!("`services.{service}.volumes`: there is no volume `{volume}`"))
                    .help(help);
            }
            match users.get(volume) {
                Some((other, first)) if *other != service => {
                    findings
                        .error(*place, format!("volume `{volume}` is used by {other} and by {service}"))
                        .also(*first, format!("{other} uses it here"))
                        .help("a volume belongs to one service: give each its own, or run both in one container");
                }
                Some(_) => {}
                None => drop(users.insert(volume, (service, *place))),
            }
        }
    }
    for (volume, (key, _)) in &drafts.volumes {
        if !users.contains_key(volume) {
            findings.notice(key.place, format!("volume `{volume}` is used by no service: it is not made"));
        }
    }
}

fn ports(drafts: &Drafts<'_>, findings: &mut Findings) {
    let mut all: Vec<(u16, Place, &ServiceName)> = drafts
        .services
        .iter()
        .flat_map(|(service, d)| d.ports.iter().map(move |(port, place)| (port.published, *place, service)))
        .collect();
    all.sort();
    for pair in all.windows(2) {
        let [(port, first, one), (again, second, other)] = pair else { continue };
        if port == again {
            let who =
                if one == other { format!("twice by {one}") } else { format!("by {one} and by {other}") };
            findings
                .error(*second, format!("port {port} is published {who}"))
                .also(*first, format!("{one} publishes {port} here"))
                .help("all services share the home's address: publish one of them on another port");
        }
    }
}
