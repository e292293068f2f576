//! `backup ls`, `run` and `check`.

use super::show::{bytes, local_time, print_line, print_list, table};
use super::{Format, Output};
use crate::api::backups::{BackupLine, BackupList, BackupTask, Ordered};
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::Subcommand;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use thermidor_model::backup::{HOME_ITSELF, Subject};
use thermidor_model::name::HomeName;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// Whoever was to do something and neither does it nor has done it for so long has lost its power, or was started again.
const GONE: Duration = Duration::from_secs(15);

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
        /// Restore all of it aside, start its service there without network, and count what it shows. The service
        /// itself goes on; that needs room and memory for a second one.
        #[arg(long)]
        drill: bool,
    },
}

pub fn main(paths: &Paths, verb: BackupVerb) -> Result<(), Refused> {
    match verb {
        BackupVerb::Ls(output) => list(paths, output.format),
        BackupVerb::Run { service, to } => order(paths, service.as_deref(), to, BackupTask::Make),
        BackupVerb::Check { service, from, drill } => {
            let task = if drill { BackupTask::Drill } else { BackupTask::Prove };
            order(paths, service.as_deref(), from, task)
        }
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
        tried(line),
        asked(line),
        state,
    ]
}

/// What the last restore that was tried came to.
fn tried(line: &BackupLine) -> String {
    match &line.drill {
        Some(drill) if drill.failure.is_some() => {
            format!("failed {}: {}", local_time(drill.at_ms), drill.failure.as_deref().unwrap_or_default())
        }
        Some(drill) => match drill.by_imap {
            Some(shown) => format!("{}, {shown} messages", local_time(drill.at_ms)),
            None => local_time(drill.at_ms),
        },
        None => line.drilled_ms.map_or("-".into(), local_time),
    }
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

fn order(
    paths: &Paths,
    service: Option<&str>,
    to: Option<HomeName>,
    task: BackupTask,
) -> Result<(), Refused> {
    let subject = service.map(subject).transpose()?;
    let ordered: Ordered = client::ask_for(paths, &Request::RunBackup { subject, to, task })?;
    eprintln!("Begun; Ctrl-C does not end that: `thermidor backup ls` tells how far it is.");
    let mut failed = Vec::new();
    for (subject, friend, at_ms) in &ordered.pairs {
        match wait(paths, subject, friend, *at_ms)? {
            (line, None) => match line.drill.filter(|d| task == BackupTask::Drill && d.at_ms >= *at_ms) {
                Some(drill) => println!("{subject} at {friend}'s: done: {}", drill.text),
                None => println!("{subject} at {friend}'s: done"),
            },
            (_, Some(why)) => {
                println!("{subject} at {friend}'s: {why}");
                failed.push(format!("{subject} at {friend}'s"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Refused::because(format!("failed: {}", failed.join(", ")))) }
}

/// Waits until what was ordered of a pair has ended; how it stands then, and why that failed, if it did.
fn wait(
    paths: &Paths,
    subject: &str,
    friend: &str,
    at_ms: u64,
) -> Result<(BackupLine, Option<String>), Refused> {
    let on_terminal = std::io::stderr().is_terminal();
    let mut seen = Instant::now();
    loop {
        let list: BackupList = client::ask_for(paths, &Request::Backups)?;
        let line = list.items.iter().find(|l| l.subject == subject && l.friend == friend);
        let line = line.ok_or_else(|| Refused::because(format!("{friend} is no friend any more")))?;
        let ended = line.ended.as_ref().filter(|(ended, _)| *ended >= at_ms && line.state != "runs");
        if let Some((_, why)) = ended {
            return Ok((line.clone(), why.clone()));
        }
        if line.state == "runs" {
            seen = Instant::now();
        } else if seen.elapsed() > GONE {
            let why = format!(
                "nobody works on it any more: the radiator that did is gone, or was started again; run it once more{}",
                list.silent.iter().map(|silent| format!(" (not heard: {silent})")).collect::<String>()
            );
            return Ok((line.clone(), Some(why)));
        }
        if let (Some((done, total)), true) = (line.progress, on_terminal) {
            eprint!("\r{subject} to {friend}: {} of {}   ", bytes(done), bytes(total));
            // Nothing is lost with a line that is drawn anew in half a second.
            let _ = std::io::stderr().flush();
        }
        std::thread::sleep(LOOK);
    }
}
