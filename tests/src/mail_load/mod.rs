//! Mail under continuous load while faults happen one after another: after each the home heals, and all
//! that IMAP shows is compared with all that was acknowledged.

mod board;
mod clients;
pub mod compare;
pub mod faults;
mod home;
pub mod imap;
pub mod last_words;
pub mod model;

use crate::program;
use anyhow::{Context, Result, ensure};
use board::{Account, Board};
use compare::{Comparison, Finding, adopt, compare};
use faults::Faults;
use home::MailHome;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections that submit mail.
const SUBMITTERS: u64 = 2;
/// How long clients work before a fault, and after the home has healed.
const QUIET: Duration = Duration::from_millis(1_000);
/// How long clients may take to end what they are at, s: longer than the longest answer is waited for.
const GATE_S: u64 = 60;
/// How long an accepted message may take into its mailbox at the very end, s.
const LAST_DELIVERY_S: u64 = 180;
/// From how old an accepted message that is not delivered is worth a look at the logs.
const LATE: Duration = Duration::from_secs(45);

/// How long, how much.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The name of its lab.
    pub name: &'static str,
    /// Which faults.
    pub seed: u64,
    /// How many at most.
    pub faults: u64,
    /// No fault begins later than that.
    pub limit: Duration,
    /// The volume is detached and every replica checked after so many faults, and at the end.
    pub check_every: u64,
    /// Logs are kept also where nothing was found.
    pub keep: bool,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Summary {
    seed: u64,
    took: Duration,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<String, u64>,
    account: Account,
    /// All that may not be; empty if all is well.
    pub findings: Vec<(u64, Finding)>,
    /// Message-IDs that were there more often than they should be.
    pub twice: BTreeSet<String>,
    longest_heal: Duration,
    /// How often all replicas were found alike and clean.
    pub checked: u64,
    present: usize,
    /// The oldest accepted message that was not yet in its mailbox.
    oldest: Duration,
    /// Where logs are kept, if anything was found.
    pub evidence: Option<PathBuf>,
}

impl Summary {
    /// Operations acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.account.acknowledged()
    }

    fn lost(&self) -> usize {
        let lost = self.findings.iter().filter_map(|(_, finding)| match finding {
            Finding::Lost(id, _) => Some(id),
            _ => None,
        });
        lost.collect::<BTreeSet<_>>().len()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.faults.values().sum();
        writeln!(f, "seed {}: {faults} faults in {} s", self.seed, self.took.as_secs())?;
        for (kind, times) in &self.faults {
            writeln!(f, "  {times:4} {kind}")?;
        }
        for (name, [acknowledged, refused, unknown]) in &self.account.operations {
            writeln!(f, "  {name}: {acknowledged} acknowledged, {refused} refused, {unknown} unknown")?;
        }
        for (why, times) in &self.account.refusals {
            writeln!(f, "  refused {times} times: {why}")?;
        }
        writeln!(f, "  sessions not opened: {}", self.account.not_opened)?;
        writeln!(f, "  acknowledged with a number that was void: {}", self.account.numbers_void)?;
        let delivered = self.twice.iter().filter(|id| id.starts_with(clients::SENT)).count();
        writeln!(
            f,
            "  {} acknowledged, {} lost, {} other findings, {} delivered twice, {} moved or copied to be twice, \
             {} present at the end",
            self.acknowledged(),
            self.lost(),
            self.findings.len() - self.lost(),
            delivered,
            self.twice.len() - delivered,
            self.present
        )?;
        writeln!(
            f,
            "  longest wait {:.2} s, longest healing {:.2} s, longest on its way into a mailbox {:.1} s, \
             all replicas alike and clean {} times",
            self.account.longest_wait.as_secs_f64(),
            self.longest_heal.as_secs_f64(),
            self.oldest.as_secs_f64(),
            self.checked
        )
    }
}

/// Forms a home, puts load on it, lets the faults happen. What may not be is in the summary; an error is a
/// home that does not heal, replicas that differ, a file system with errors.
pub fn run(plan: &Plan) -> Result<Summary> {
    println!("SEED={}", plan.seed);
    let home = MailHome::form(plan.name)?;
    let board = Board::default();
    let done = std::thread::scope(|scope| {
        let doors = home.doors();
        for number in 0..SUBMITTERS {
            let (lab, board, seed) = (home.lab(), &board, plan.seed);
            scope.spawn(move || lab.as_client(|| clients::submit(board, doors, number, seed)));
        }
        for number in 0..clients::SESSIONS {
            let (lab, board, seed) = (home.lab(), &board, plan.seed);
            scope.spawn(move || lab.as_client(|| clients::work(board, doors, number, seed)));
        }
        let done = campaign(plan, &home, &board);
        board.finish();
        done
    });
    if done.is_err() {
        keep(plan, &home, plan.faults)?;
    }
    done
}

/// Keeps what may tell why, after so many faults; returns where.
fn keep(plan: &Plan, home: &MailHome, faults: u64) -> Result<PathBuf> {
    let target = program("thermidor")?.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
    let kept = target.join("mail-load").join(format!("seed-{}-after-{faults}", plan.seed));
    home.keep_evidence(&kept).context("keep the evidence")?;
    println!("logs are kept in {}", kept.display());
    Ok(kept)
}

fn campaign(plan: &Plan, home: &MailHome, board: &Board) -> Result<Summary> {
    let began = Instant::now();
    let mut summary = Summary { seed: plan.seed, ..Summary::default() };
    board.resume();
    for (number, fault) in (1..=plan.faults).zip(Faults::from_seed(plan.seed)) {
        if began.elapsed() > plan.limit {
            break;
        }
        std::thread::sleep(QUIET);
        let whom = home.strike(fault).with_context(|| format!("fault {number}, {fault}"))?;
        let lifted = Instant::now();
        // A status may be older than the fault.
        std::thread::sleep(QUIET);
        home.healed().with_context(|| format!("after fault {number}, {fault} of {whom}"))?;
        let healing = lifted.elapsed();
        summary.longest_heal = summary.longest_heal.max(healing);
        *summary.faults.entry(fault.kind()).or_default() += 1;
        let found = look(plan, home, board, &mut summary, number)?;
        println!(
            "{:6.1} s  {number:3}. {fault} {whom}: healed {:.1} s later, {} acknowledged, {} present, \
             {} on their way, {} twice, {} findings",
            began.elapsed().as_secs_f64(),
            healing.as_secs_f64(),
            board.lock().account.acknowledged(),
            found.present,
            found.on_their_way,
            summary.twice.len(),
            found.findings.len(),
        );
        if !found.findings.is_empty() {
            // What comes next would only hide what led to it.
            break;
        }
        if number % plan.check_every == 0 && number < plan.faults {
            check(home, &mut summary)?;
        }
        board.resume();
    }
    if summary.findings.is_empty() {
        deliver_all(plan, home, board, &mut summary)?;
    }
    if plan.keep && summary.evidence.is_none() {
        // Before the containers are removed, and their logs with them.
        keep(plan, home, plan.faults)?;
    }
    if summary.findings.is_empty() {
        check(home, &mut summary)?;
        look(plan, home, board, &mut summary, 0)?;
    }
    summary.account = board.lock().account.clone();
    summary.took = began.elapsed();
    Ok(summary)
}

/// Stops the clients and compares; whatever may not be is printed with its past.
fn look(
    plan: &Plan,
    home: &MailHome,
    board: &Board,
    summary: &mut Summary,
    fault: u64,
) -> Result<Comparison> {
    ensure!(board.pause(Duration::from_secs(GATE_S)), "a client never ended what it was at");
    let seen = home.list()?;
    let mut shared = board.lock();
    let found = compare(&shared.model, &seen, board.now());
    for finding in &found.findings {
        println!("FOUND {finding:?}");
        let past = finding.message().map_or(&[][..], |id| shared.model.past(id));
        past.iter().for_each(|line| println!("      {line}"));
    }
    adopt(&mut shared.model, &seen, &found);
    summary.twice.extend(found.twice.iter().cloned());
    summary.findings.extend(found.findings.iter().map(|finding| (fault, finding.clone())));
    summary.present = found.present;
    summary.oldest = summary.oldest.max(found.oldest);
    drop(shared);
    if !found.findings.is_empty() || (summary.evidence.is_none() && found.oldest > LATE) {
        summary.evidence = Some(keep(plan, home, summary.faults.values().sum())?);
    }
    Ok(found)
}

/// Waits until everything accepted is in its mailbox.
fn deliver_all(plan: &Plan, home: &MailHome, board: &Board, summary: &mut Summary) -> Result<()> {
    let began = Instant::now();
    loop {
        let found = look(plan, home, board, summary, 0)?;
        if found.on_their_way == 0 || !found.findings.is_empty() {
            return Ok(());
        }
        ensure!(
            began.elapsed() < Duration::from_secs(LAST_DELIVERY_S),
            "{} accepted messages are never delivered",
            found.on_their_way
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn check(home: &MailHome, summary: &mut Summary) -> Result<()> {
    home.detach_and_check().context("a planned detach")?;
    summary.checked += 1;
    Ok(())
}
