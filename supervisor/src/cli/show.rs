//! Reading commands: tables for people, JSON and YAML for programs.

use super::{Format, details};
use crate::api::recovery;
use crate::api::view::{
    AccountLine, EventLine, Explanation, Home, Listed, RadiatorLine, ServiceLine, VERSION, VolumeLine,
};
use crate::api::{Refused, Reply, Request, client};
use crate::paths::Paths;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;
use thermidor_model::ServiceName;
use thermidor_model::observe::ProbeReport;

pub fn print_json<T: Serialize>(value: &T) -> Result<(), Refused> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Refused::because(e.to_string()))?;
    print_line(&text);
    Ok(())
}

/// Prints text as it is; a reader that has gone away is no error.
pub fn print_bytes(text: &[u8]) {
    let _gone_reader = std::io::stdout().write_all(text);
}

/// As JSON or YAML; a table is drawn by whoever knows it.
pub fn print<T: Serialize>(value: &T, format: Format) -> Result<(), Refused> {
    match format {
        Format::Yaml => {
            // By way of JSON, so that both say the same, field by field.
            let value = serde_json::to_value(value).map_err(|e| Refused::because(e.to_string()))?;
            let text = serde_saphyr::to_string(&value).map_err(|e| Refused::because(e.to_string()))?;
            print_line(text.trim_end());
            Ok(())
        }
        _ => print_json(value),
    }
}

/// A list with its version.
pub fn print_list<T: Serialize>(items: Vec<T>, format: Format) -> Result<(), Refused> {
    print(&Listed { version: VERSION, items }, format)
}

/// Exit code 3 where the home has no quorum: what was printed is what was known last.
pub fn quorum(home: &Home) -> Result<(), Refused> {
    match home.quorum {
        true => Ok(()),
        false => {
            Err(Refused::no_quorum("the home has no quorum: more than half of the voters must be reachable"))
        }
    }
}

/// What a probe said and how long ago.
pub fn probe_words(probe: Option<&ProbeReport>) -> String {
    let Some(probe) = probe else { return "-".into() };
    let said = match (probe.healthy, probe.trouble.as_str()) {
        (Some(true), "") => "well".to_string(),
        (Some(true), trouble) => format!("well, but the last look failed: {trouble}"),
        (Some(false), trouble) => format!("sick: {trouble}"),
        (None, "") => "not known".into(),
        (None, trouble) => format!("not yet: {trouble}"),
    };
    format!("{said}, {} ago", age(probe.age_ms))
}

/// A span as people say it.
fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// Prints a line; a reader that has gone away (`| head`) is no error.
pub fn print_line(text: &str) {
    let _gone_reader = writeln!(std::io::stdout(), "{text}");
}

pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|l| l.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

pub fn celsius(c: Option<f64>) -> String {
    c.map_or("-".into(), |c| format!("{c:.1} °C"))
}

pub fn watts(w: Option<f64>) -> String {
    w.map_or("-".into(), |w| format!("{w:.0} W"))
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

pub fn local_time(at_ms: u64) -> String {
    match jiff::Timestamp::from_millisecond(at_ms as i64) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at_ms.to_string(),
    }
}

pub fn home(paths: &Paths) -> Result<Home, Refused> {
    client::ask_for(paths, &Request::Status)
}

pub fn status(paths: &Paths, format: Format) -> Result<(), Refused> {
    let home = home(paths)?;
    match format {
        Format::Table => print_line(&status_text(&home)),
        format => print(&home, format)?,
    }
    quorum(&home)
}

/// `thermidor status` as text.
pub fn status_text(home: &Home) -> String {
    let mut head = format!("{} (generation {})", home.home, home.generation);
    if let Some(leader) = &home.leader {
        head.push_str(&format!(", led by {leader}"));
    }
    if let Some(address) = &home.address {
        let holder = address.holder.as_deref().unwrap_or("nobody");
        head.push_str(&format!(", {} held by {holder}", address.address));
    }
    let mut parts = vec![head, radiator_table(&home.radiators)];
    if !home.services.is_empty() {
        parts.push(service_table(&home.services));
    }
    if !home.volumes.is_empty() {
        parts.push(volume_table(&home.volumes));
    }
    let backups = home.backups.iter().filter(|b| !b.is_loud()).map(|b| format!("backup: {}", b.text));
    let restores = home.restores.iter().map(recovery::restore_words);
    let kept: Vec<String> = backups.chain(restores).chain(home.kit.as_ref().map(super::kit::words)).collect();
    if !kept.is_empty() {
        parts.push(kept.join("\n"));
    }
    let troubles =
        home.radiators.iter().flat_map(|r| r.troubles.iter().map(move |t| format!("! {}: {t}", r.name)));
    let words: Vec<String> = home.warnings.iter().map(|w| format!("! {w}")).chain(troubles).collect();
    if !words.is_empty() {
        parts.push(words.join("\n"));
    }
    parts.join("\n\n")
}

fn radiator_table(lines: &[RadiatorLine]) -> String {
    let row = |r: &RadiatorLine| {
        let votes = if r.votes { "votes" } else { "-" };
        [
            r.name.clone(),
            r.heats.clone(),
            r.state.clone(),
            votes.into(),
            celsius(r.temperature_c),
            celsius(r.target_c),
            watts(r.demand_w),
            watts(r.power_w),
        ]
    };
    table(["RADIATOR", "HEATS", "STATE", "VOTE", "IS", "WANTED", "DEMAND", "POWER"], lines.iter().map(row))
}

fn service_table(lines: &[ServiceLine]) -> String {
    let row = |s: &ServiceLine| {
        let active = s.active.clone().unwrap_or("-".into());
        let ready = if s.ready.is_empty() { "-".into() } else { s.ready.join(" ") };
        let probe = probe_words(s.probe.as_ref());
        [s.name.clone(), active, s.state.clone(), s.epoch.to_string(), ready, probe, s.reason.clone()]
    };
    table(["SERVICE", "ACTIVE", "STATE", "EPOCH", "READY ON", "PROBE", "WHY"], lines.iter().map(row))
}

fn volume_table(lines: &[VolumeLine]) -> String {
    let row = |v: &VolumeLine| {
        let replicas = v.replicas.iter().map(|r| {
            let mark = if r.in_sync { "" } else { "(" };
            let behind =
                if r.behind_bytes > 0 { format!(" {}", bytes(r.behind_bytes)) } else { String::new() };
            let end = if r.in_sync { "" } else { ")" };
            format!("{mark}{} {}{behind}{end}", r.radiator, r.state)
        });
        let replicas = replicas.collect::<Vec<_>>().join(", ");
        [
            v.name.clone(),
            v.service.clone(),
            v.state.clone(),
            bytes(v.size_bytes),
            v.epoch.to_string(),
            replicas,
        ]
    };
    table(["VOLUME", "SERVICE", "STATE", "SIZE", "EPOCH", "REPLICAS (not in sync)"], lines.iter().map(row))
}

fn pick<T>(
    lines: Vec<T>,
    name: Option<&str>,
    of: impl Fn(&T) -> &str,
    kind: &str,
) -> Result<Vec<T>, Refused> {
    let Some(name) = name else { return Ok(lines) };
    let found: Vec<T> = lines.into_iter().filter(|l| of(l) == name).collect();
    if found.is_empty() {
        return Err(Refused::because(format!("there is no {kind} {name}: `thermidor {kind} ls` lists them")));
    }
    Ok(found)
}

pub fn radiators(paths: &Paths, name: Option<&str>, format: Format) -> Result<(), Refused> {
    let home = home(paths)?;
    let lines = pick(home.radiators.clone(), name, |r| &r.name, "radiator")?;
    let hosts = |r: &RadiatorLine| -> Vec<String> {
        let here = home.services.iter().filter(|s| s.active.as_deref() == Some(&r.name));
        here.map(|s| s.name.clone()).collect()
    };
    show(lines, name, format, |r| details::radiator(r, &hosts(r)), radiator_table)?;
    quorum(&home)
}

/// One named thing in full, else a table of all, else what a program reads.
fn show<T: Serialize>(
    lines: Vec<T>,
    name: Option<&str>,
    format: Format,
    one: impl FnOnce(&T) -> String,
    all: impl FnOnce(&[T]) -> String,
) -> Result<(), Refused> {
    match (format, name, lines.as_slice()) {
        (Format::Table, Some(_), [line]) => print_line(&one(line)),
        (Format::Table, ..) => print_line(&all(&lines)),
        (format, ..) => print_list(lines, format)?,
    }
    Ok(())
}

pub fn services(paths: &Paths, name: Option<&str>, format: Format) -> Result<(), Refused> {
    let home = home(paths)?;
    let lines = pick(home.services.clone(), name, |s| &s.name, "service")?;
    show(lines, name, format, details::service, service_table)?;
    quorum(&home)
}

pub fn volumes(paths: &Paths, name: Option<&str>, format: Format) -> Result<(), Refused> {
    let home = home(paths)?;
    let lines = pick(home.volumes.clone(), name, |v| &v.name, "volume")?;
    show(lines, name, format, details::volume, volume_table)?;
    quorum(&home)
}

pub fn secrets(paths: &Paths, format: Format) -> Result<(), Refused> {
    let names: Vec<String> = client::ask_for(paths, &Request::Secrets)?;
    match format {
        Format::Table => print_line(&table(["SECRET"], names.into_iter().map(|n| [n]))),
        format => print_list(names, format)?,
    }
    Ok(())
}

pub fn mail_accounts(paths: &Paths, service: ServiceName, format: Format) -> Result<(), Refused> {
    let lines: Vec<AccountLine> = client::ask_for(paths, &Request::MailAccounts { service })?;
    let row = |a: AccountLine| [a.address, a.aliases.join(" "), a.from];
    match format {
        Format::Table => print_line(&table(["ACCOUNT", "ALIASES", "BELONGS TO"], lines.into_iter().map(row))),
        format => print_list(lines, format)?,
    }
    Ok(())
}

pub fn explain(paths: &Paths, service: ServiceName, format: Format) -> Result<(), Refused> {
    let explained: Explanation = client::ask_for(paths, &Request::Explain { service })?;
    if format != Format::Table {
        return print(&explained, format);
    }
    print_line(&explained.reason.sentence);
    let rows = explained.reason.ranks.iter().enumerate().map(|(i, r)| {
        let place = if r.rank.is_some() { (i + 1).to_string() } else { "-".into() };
        [place, r.name.to_string(), r.words.clone()]
    });
    print_line(&table(["RANK", "RADIATOR", "BECAUSE"], rows));
    Ok(())
}

pub fn logs(paths: &Paths, service: ServiceName, follow: bool, tail: u32) -> Result<(), Refused> {
    client::follow(paths, &Request::Logs { service, follow, tail }, None, |reply| {
        if let Reply::Line(line) = reply {
            print_line(&line);
        }
        true
    })
}

pub fn events(paths: &Paths, follow: bool, format: Format) -> Result<(), Refused> {
    let mut printed = Ok(());
    client::follow(paths, &Request::Events { follow }, None, |reply| {
        let Reply::Line(line) = reply else { return true };
        match (format, serde_json::from_str::<EventLine>(&line)) {
            (Format::Table, Ok(event)) => print_line(&format!("{}  {}", local_time(event.at_ms), event.text)),
            (Format::Yaml, Ok(event)) => {
                print_line("---");
                printed = print(&event, format);
            }
            // A line each: JSON that a program can read while it comes.
            _ => print_line(&line),
        }
        printed.is_ok()
    })?;
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(50 << 30), "50.0 GiB");
    }

    #[test]
    fn a_probe_is_told_with_its_age() {
        let said = |healthy, trouble: &str| {
            probe_words(Some(&ProbeReport {
                healthy,
                age_ms: 130_000,
                trouble: trouble.into(),
                legs: vec![],
            }))
        };
        assert_eq!(said(Some(true), ""), "well, 2 min ago");
        assert_eq!(said(Some(false), "login: no"), "sick: login: no, 2 min ago");
        assert_eq!(said(None, "no greeting"), "not yet: no greeting, 2 min ago");
        assert_eq!(probe_words(None), "-");
    }

    #[test]
    fn a_status_without_quorum_says_so_first() {
        let state = thermidor_model::testing::serving_home(3, 1);
        let text = status_text(&Home::of(&state, None));
        assert!(text.contains("no quorum"), "{text}");
        assert!(text.contains("salon") && text.contains("mail") && text.contains("box"), "{text}");
        let named = pick(Home::of(&state, None).volumes, Some("nope"), |v| &v.name, "volume");
        assert!(named.unwrap_err().text.contains("thermidor volume ls"));
    }
}
