//! `radiator show`, `service show`, `volume show`: one thing, with everything that is known of it.

use super::show::{bytes, celsius, local_time, probe_words, watts};
use crate::api::checked::Checked;
use crate::api::view::{RadiatorLine, ServiceLine, VolumeLine};
use thermidor_model::observe::CatchUp;
use thermidor_model::replication::Grade;

/// Lines of a name and a value, aligned.
fn sheet(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let indented = value.replace('\n', &format!("\n{}", " ".repeat(width + 2)));
        format!("{name:<width$}  {indented}").trim_end().to_string()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or("-").to_string()
}

/// One radiator.
pub fn radiator(r: &RadiatorLine, hosts: &[String]) -> String {
    let heard = match r.silent_ms {
        Some(ms) => format!("{:.1} s ago", ms as f64 / 1000.0),
        None => "not by the present leader".into(),
    };
    sheet(&[
        ("radiator", r.name.clone()),
        ("address", or_dash(r.address.as_deref())),
        ("heats", r.heats.clone()),
        ("state", r.state.clone()),
        ("votes", if r.votes { "yes" } else { "no" }.into()),
        ("heard", heard),
        ("is", celsius(r.temperature_c)),
        ("wanted", celsius(r.target_c)),
        ("demand", watts(r.demand_w)),
        ("power", watts(r.power_w)),
        ("active here", or_dash(Some(&hosts.join(" ")))),
        ("troubles", or_dash(Some(&r.troubles.join("\n")))),
    ])
}

/// One service.
pub fn service(s: &ServiceLine) -> String {
    let legs = s.probe.iter().flat_map(|p| &p.legs);
    let legs: Vec<String> = legs.map(|l| format!("{} {} ms", l.name, l.took_ms)).collect();
    sheet(&[
        ("service", s.name.clone()),
        ("active", or_dash(s.active.as_deref())),
        ("state", s.state.clone()),
        ("epoch", s.epoch.to_string()),
        ("since", local_time(s.since_ms)),
        ("power", watts(s.power_w)),
        ("ready on", or_dash(Some(&s.ready.join(" ")))),
        ("probe", probe_words(s.probe.as_ref())),
        ("its legs", or_dash(Some(&legs.join(", ")))),
        ("last words", or_dash(Some(&s.detail))),
        ("why", or_dash(Some(&s.reason))),
    ])
}

/// How far a catch-up is, and how long it takes.
fn catch_up_words(c: &CatchUp) -> String {
    let by = match c.grade {
        Grade::Ring => "the writes it missed",
        Grade::Map => "the extents written meanwhile",
        Grade::Compare => "all extents, compared",
    };
    let left = match c.seconds_left {
        Some(seconds) => format!("{seconds} s left"),
        None => "not known how long yet".into(),
    };
    let speed = bytes(c.bytes_per_s);
    format!(
        "{by}: {} of {} done, {} copied, {speed}/s, {left}",
        c.extents_done, c.extents_total, c.extents_copied
    )
}

/// How a volume's replicas were compared.
fn compared(check: Option<&Checked>) -> String {
    let Some(check) = check.filter(|c| c.pass > 0) else { return "not yet".into() };
    let last = match check.ended_ms {
        0 => "never to the end yet".into(),
        at => format!("last {}", local_time(at)),
    };
    let now = if check.running { format!("; under way: {}", check.progress()) } else { String::new() };
    let without = match check.left_out.is_empty() {
        true => String::new(),
        false => format!("; without {}", check.left_out.join(", ")),
    };
    format!("{last}{now}{without}")
}

/// One volume.
pub fn volume(v: &VolumeLine) -> String {
    let replica = |r: &crate::api::view::ReplicaLine| {
        let sync = if r.in_sync { "in sync" } else { "NOT in sync" };
        let behind =
            if r.behind_bytes > 0 { format!(", {} behind", bytes(r.behind_bytes)) } else { String::new() };
        let catch_up = r.catch_up.as_ref().map(|c| format!(", {}", catch_up_words(c))).unwrap_or_default();
        format!("{}: {sync}, {}{behind}{catch_up}, {} on disk", r.radiator, r.state, bytes(r.used_bytes))
    };
    let replicas: Vec<String> = v.replicas.iter().map(replica).collect();
    sheet(&[
        ("volume", v.name.clone()),
        ("service", v.service.clone()),
        ("state", v.state.clone()),
        ("size", bytes(v.size_bytes)),
        ("durability", v.durability.to_string()),
        ("epoch", v.epoch.to_string()),
        ("active", or_dash(v.active.as_deref())),
        ("replicas", or_dash(Some(&replicas.join("\n")))),
        ("compared", compared(v.check.as_ref())),
        ("repaired", or_dash(v.check.as_ref().map(|c| c.repairs.join("\n")).as_deref())),
        ("differs", or_dash(v.check.as_ref().map(|c| c.differences.join("\n")).as_deref())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::Home;

    #[test]
    fn a_catch_up_says_how_much_how_fast_and_how_long() {
        let c = CatchUp {
            grade: Grade::Map,
            extents_done: 12,
            extents_total: 40,
            extents_copied: 11,
            bytes_per_s: 4 << 20,
            seconds_left: Some(7),
        };
        let words = catch_up_words(&c);
        assert!(words.starts_with("the extents written meanwhile: 12 of 40 done, 11 copied, "), "{words}");
        assert!(words.ends_with("/s, 7 s left"), "{words}");
    }

    #[test]
    fn a_sheet_says_everything_in_aligned_lines() {
        let state = thermidor_model::testing::serving_home(3, 1);
        let home = Home::of(&state, None);
        let text = volume(&home.volumes[0]);
        assert!(text.contains("volume      box"), "{text}");
        assert!(text.contains("replicas    salon: in sync, not heard"), "{text}");
        assert!(text.contains("\n            bureau: in sync"), "one line each: {text}");
        assert!(service(&home.services[0]).contains("active      salon"));
        assert!(radiator(&home.radiators[0], &["mail".into()]).contains("active here  mail"));
    }
}
