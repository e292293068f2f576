//! `thermidor top`: watts, degrees and load, again and again while somebody looks.

use super::Format;
use super::show::{celsius, home, print, print_line, table, watts};
use crate::api::Refused;
use crate::api::view::Home;
use crate::paths::Paths;
use std::io::IsTerminal;
use std::time::Duration;

/// How often the figures are drawn.
const EVERY: Duration = Duration::from_secs(2);

/// Clears the screen and goes to its first place.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Once for a program or a file, else until Ctrl-C.
pub fn main(paths: &Paths, once: bool, format: Format) -> Result<(), Refused> {
    let once = once || format != Format::Table || !std::io::stdout().is_terminal();
    loop {
        let home = home(paths)?;
        match format {
            Format::Table => {
                let head = if once { "" } else { CLEAR };
                print_line(&format!("{head}{}", text(&home)));
            }
            format => print(&home, format)?,
        }
        if once {
            return super::show::quorum(&home);
        }
        std::thread::sleep(EVERY);
    }
}

fn text(home: &Home) -> String {
    let heat: f64 = home.radiators.iter().filter_map(|r| r.power_w).fold(0.0, |sum, w| sum + w);
    let wanted: f64 =
        home.radiators.iter().filter_map(|r| r.demand_w).filter(|w| *w > 0.0).fold(0.0, |sum, w| sum + w);
    let leader = home.leader.as_deref().unwrap_or("nobody");
    let head = format!("{}: {heat:.0} W given, {wanted:.0} W more wanted; led by {leader}", home.home);
    let radiators = home.radiators.iter().map(|r| {
        let hosts = home.services.iter().filter(|s| s.active.as_deref() == Some(&r.name));
        let hosts: Vec<&str> = hosts.map(|s| s.name.as_str()).collect();
        [
            r.name.clone(),
            r.state.clone(),
            celsius(r.temperature_c),
            celsius(r.target_c),
            watts(r.demand_w),
            watts(r.power_w),
            if hosts.is_empty() { "-".into() } else { hosts.join(" ") },
        ]
    });
    let radiators = table(["RADIATOR", "STATE", "IS", "WANTED", "DEMAND", "POWER", "ACTIVE HERE"], radiators);
    let services = home.services.iter().map(|s| {
        let active = s.active.clone().unwrap_or("-".into());
        let health = super::show::probe_words(s.probe.as_ref());
        [s.name.clone(), active, s.state.clone(), watts(s.power_w), health]
    });
    let services = table(["SERVICE", "ACTIVE", "STATE", "POWER", "PROBE"], services);
    format!("{head}\n\n{radiators}\n\n{services}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_is_summed_and_every_service_shown_where_it_is() {
        let state = thermidor_model::testing::serving_home(3, 1);
        let text = text(&Home::of(&state, None));
        assert!(text.starts_with("maison: 0 W given"), "{text}");
        let salon = text.lines().find(|l| l.trim_start().starts_with("salon")).unwrap();
        assert!(salon.ends_with("mail"), "{text}");
    }
}
