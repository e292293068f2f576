//! `backup ls`, `run` and `check`.

use super::show::{bytes, local_time, print_line, print_list, table};
use super::{Format, Output};
use crate::api::backups::{BackupLine, BackupList, Ordered};
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::Subcommand;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use thermidor_model::ServiceName;
use thermidor_model::backup::{HOME_ITSELF, Subject};
use thermidor_model::name::HomeName;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum BackupVerb {
    /// How they stand, at each friend's.
    Ls(Output),
    /// Back up now; waits until it is done.
    Run {
        /// Which service, or `home-itself`; everything unless given.
        service: Option<String>,
        /// To which friend; to all of its friends unless given.
        #[arg(long)]
        to: Option<HomeName>,
    },
    /// Read a part of the last backup back, and see whether it is whole.
    Check {
        /// Of which service, or `home-itself`; of everything unless given.
        service: Option<String>,
        /// At which friend's.
        #[arg(long)]
        from: Option<HomeName>,
    },
}

pub fn main(paths: &Paths, verb: BackupVerb) -> Result<(), Refused> {
    match verb {
        BackupVerb::Ls(output) => list(paths, output.format),
        BackupVerb::Run { service, to } => order(paths, service.as_deref(), to, false),
        BackupVerb::Check { service, from } => order(paths, service.as_deref(), from, true),
    }
}

fn row(line: &BackupLine) -> [String; 7] {
    let time = |ms: Option<u64>| ms.map_or("-".into(), local_time);
    let state = match (&line.progress, &line.failure) {
        (Some((done, total)), _) if *total > 0 => format!("runs: {} of {}", bytes(*done), bytes(*total)),
        (_, Some(why)) => format!("{}: {why}", line.state),
        _ => line.state.clone(),
    };
    [
        line.subject.clone(),
        line.friend.clone(),
        time(line.made_ms),
        time(line.proved_ms),
        time(line.drilled_ms),
        asked(line),
        state,
    ]
}

/// How many random ranges of what lies there were asked about, and whether all of them are kept.
fn asked(line: &BackupLine) -> String {
    match (line.kept_ranges, line.asked_ranges) {
        (_, 0) => "-".into(),
        (kept, ranges) if kept == ranges => format!("{ranges}, all kept"),
        (kept, ranges) => format!("{kept} of {ranges} kept"),
    }
}

fn list(paths: &Paths, format: Format) -> Result<(), Refused> {
    let list: BackupList = client::ask_for(paths, &Request::Backups)?;
    for silent in &list.silent {
        eprintln!("not heard: {silent}");
    }
    match format {
        Format::Table if list.items.is_empty() => {
            print_line(
                "Nothing is backed up: pair with a friend (`thermidor friend invite`) and write `backup:` in home.yaml.",
            );
            Ok(())
        }
        Format::Table => {
            let header = ["SERVICE", "FRIEND", "LAST", "PROVED", "RESTORE TRIED", "ASKED", "STATE"];
            print_line(&table(header, list.items.iter().map(row)));
            Ok(())
        }
        format => print_list(list.items, format),
    }
}

/// A service's name, or `home-itself`.
fn subject(text: &str) -> Result<Subject, Refused> {
    if text == HOME_ITSELF {
        return Ok(Subject::HomeItself);
    }
    ServiceName::new(text).map(Subject::Service).map_err(|e| Refused::because(e.to_string()))
}

fn order(paths: &Paths, service: Option<&str>, to: Option<HomeName>, prove: bool) -> Result<(), Refused> {
    let subject = service.map(subject).transpose()?;
    let ordered: Ordered = client::ask_for(paths, &Request::RunBackup { subject, to, prove })?;
    eprintln!("Begun; Ctrl-C does not end that: `thermidor backup ls` tells how far it is.");
    let mut failed = Vec::new();
    for (subject, friend, at_ms) in &ordered.pairs {
        match wait(paths, subject, friend, *at_ms)? {
            None => println!("{subject} at {friend}'s: done"),
            Some(why) => {
                println!("{subject} at {friend}'s: {why}");
                failed.push(format!("{subject} at {friend}'s"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Refused::because(format!("failed: {}", failed.join(", ")))) }
}

/// Waits until what was ordered of a pair has ended; why it failed, if it did.
fn wait(paths: &Paths, subject: &str, friend: &str, at_ms: u64) -> Result<Option<String>, Refused> {
    let on_terminal = std::io::stderr().is_terminal();
    loop {
        let list: BackupList = client::ask_for(paths, &Request::Backups)?;
        let line = list.items.iter().find(|l| l.subject == subject && l.friend == friend);
        let line = line.ok_or_else(|| Refused::because(format!("{friend} is no friend any more")))?;
        let ended = line.ended.as_ref().filter(|(ended, _)| *ended >= at_ms && line.state != "runs");
        if let Some((_, why)) = ended {
            return Ok(why.clone());
        }
        if let (Some((done, total)), true) = (line.progress, on_terminal) {
            eprint!("\r{subject} to {friend}: {} of {}   ", bytes(done), bytes(total));
            // Nothing is lost with a line that is drawn anew in half a second.
            let _ = std::io::stderr().flush();
        }
        std::thread::sleep(LOOK);
    }
}
