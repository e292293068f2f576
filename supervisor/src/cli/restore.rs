//! `restore`: a service's data back from a friend, into the home or into a folder.

mod meter;

use super::show::{home, print_line};
use crate::api::recovery::stage_words;
use crate::api::{Refused, Reply, Request, RestoreAsk, client};
use crate::paths::Paths;
use clap::Args;
use meter::Meter;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use thermidor_model::name::HomeName;
use thermidor_model::restore::RestoreWish;

/// How often is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long this radiator may take to hear of what another one has decided.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Which service.
    service: ServiceName,
    /// From which friend; else from whoever has the newest.
    #[arg(long, value_parser = super::home_name, value_name = "FRIEND")]
    from: Option<HomeName>,
    /// Which snapshot; else the newest.
    #[arg(long, value_name = "ID", conflicts_with = "as_of")]
    snapshot: Option<String>,
    /// What the friend had then: 2026-11-25, or so long ago: 3d.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// One file or folder only, merged with what is there: VOLUME/FOLDER.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Into this folder, and no service is touched.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Remove the files from before the last restore for good.
    #[arg(long, conflicts_with_all = ["undo", "cancel", "from", "snapshot", "as_of", "path", "to"])]
    keep: bool,
    /// Put the files from before the last restore back; those of now are kept instead.
    #[arg(long, conflicts_with_all = ["cancel", "from", "snapshot", "as_of", "path", "to"])]
    undo: bool,
    /// Give a restore up that has changed nothing yet; a recovered service starts with what it has.
    #[arg(long, conflicts_with_all = ["from", "snapshot", "as_of", "path", "to"])]
    cancel: bool,
    /// Don't wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

pub fn main(paths: &Paths, args: RestoreArgs) -> Result<(), Refused> {
    let as_of_s = args.as_of.as_deref().map(moment_s).transpose()?;
    let wish = RestoreWish { from: args.from, snapshot: args.snapshot, as_of_s, path: args.path };
    let service = args.service;
    if let Some(dir) = args.to {
        let dir =
            std::path::absolute(&dir).map_err(|e| Refused::because(format!("{}: {e}", dir.display())))?;
        return into_folder(paths, service, wish, dir);
    }
    let ask = match (args.keep, args.undo, args.cancel) {
        (true, ..) => RestoreAsk::Keep,
        (_, true, _) => RestoreAsk::Undo,
        (_, _, true) => RestoreAsk::Cancel,
        _ => RestoreAsk::Begin { wish },
    };
    let begins = matches!(ask, RestoreAsk::Begin { .. });
    client::ask(paths, &Request::Restore { service: service.clone(), ask })?;
    if args.no_wait {
        print_line("It goes on in the home: `thermidor status` shows how far it is.");
        return Ok(());
    }
    follow(paths, &service, begins)
}

/// Shows each stage until nothing is under way. Whoever stops listening stops nothing.
fn follow(paths: &Paths, service: &ServiceName, begins: bool) -> Result<(), Refused> {
    let (mut said, asked) = (String::new(), Instant::now());
    let mut meter = Meter::new(std::io::stderr().is_terminal());
    loop {
        let home = home(paths)?;
        let Some(line) = home.restores.iter().find(|r| r.service == service.as_str()) else {
            if begins && said.is_empty() && asked.elapsed() < HEARD_WITHIN {
                std::thread::sleep(LOOK_EVERY / 4);
                continue;
            }
            eprint!("{}", meter.gives_way());
            print_line(&format!("No restore of {service} is under way."));
            return Ok(());
        };
        let is_at_rest = line.waits_for_a_person || !line.trouble.is_empty();
        if is_at_rest && !begins && asked.elapsed() < HEARD_WITHIN {
            // As it stood before what was asked.
            std::thread::sleep(LOOK_EVERY / 4);
            continue;
        }
        let words = stage_words(line);
        if words != said {
            eprintln!("{}{words}", meter.gives_way());
            said = words;
        }
        let shown = line.progress.and_then(|(done, total)| meter.shows(asked.elapsed(), done, total));
        if let Some(shown) = shown {
            eprint!("{shown}");
            // Nothing is lost with a line that is drawn anew in a second.
            let _ = std::io::stderr().flush();
        }
        if line.waits_for_a_person {
            print_line(&format!(
                "{service} runs on what was restored. `thermidor restore {service} --keep` removes the earlier files, \
                 --undo puts them back."
            ));
            return Ok(());
        }
        if !line.trouble.is_empty() {
            return Err(Refused::because(format!(
                "{}; it is tried again by itself, `thermidor restore {service} --cancel` gives it up",
                line.trouble
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn into_folder(paths: &Paths, service: ServiceName, wish: RestoreWish, dir: PathBuf) -> Result<(), Refused> {
    let mut done = None;
    client::follow(paths, &Request::RestoreTo { service, wish, dir }, None, |reply| match reply {
        Reply::Line(text) => {
            eprintln!("{text}");
            true
        }
        Reply::Ok(text) => {
            done = text.as_str().map(str::to_owned);
            false
        }
        Reply::Refused(_) => false,
    })?;
    let done =
        done.ok_or_else(|| Refused::because("the daemon hung up; run it again with another, empty folder"))?;
    print_line(&done);
    Ok(())
}

/// A moment in the past, in seconds since the Unix epoch: a date, a date with time, or so long ago.
pub fn moment_s(text: &str) -> Result<u64, Refused> {
    let now = jiff::Timestamp::now().as_second().max(0) as u64;
    if let Ok(seconds) = super::home::duration_s(text) {
        return Ok(now.saturating_sub(seconds));
    }
    let local =
        |at: jiff::civil::DateTime| at.to_zoned(jiff::tz::TimeZone::system()).map(|at| at.timestamp());
    // A day alone would be read as its first moment too, and a day is meant to its end.
    let is_day = !text.contains(['T', 't', ' ', ':']);
    let at = match text.parse::<jiff::civil::Date>() {
        Ok(day) if is_day => local(day.at(23, 59, 59, 0)),
        _ => {
            text.parse::<jiff::Timestamp>().or_else(|_| text.parse::<jiff::civil::DateTime>().and_then(local))
        }
    };
    match at {
        Ok(at) if at.as_second() >= 0 => Ok(at.as_second() as u64),
        _ => Err(Refused::because(format!(
            "`{text}` is no time: give 2026-11-25, 2026-11-25T18:00, or so long ago: 12h, 3d"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_a_time_or_so_long_ago() {
        let now = jiff::Timestamp::now().as_second() as u64;
        assert!((now - 3 * 86400 - 5..=now - 3 * 86400).contains(&moment_s("3d").unwrap()));
        assert_eq!(moment_s("2026-11-25T18:00:00Z").unwrap(), 1_795_629_600);
        let day = moment_s("2026-11-25").unwrap();
        assert!(day > moment_s("2026-11-25T18:00").unwrap(), "a day is meant to its end");
        assert!(moment_s("soon").unwrap_err().text.contains("2026-11-25"));
    }
}
