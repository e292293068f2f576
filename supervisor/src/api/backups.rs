//! What people see of backups.

use serde::{Deserialize, Serialize};
use thermidor_backup::schedule::{Wish, standing};
use thermidor_model::backup::{Passes, Record};
use thermidor_model::name::UnixMs;

/// How the backups stand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BackupList {
    /// Each service, and the home itself, at each friend's.
    pub items: Vec<BackupLine>,
    /// Radiators that did not say what they are doing.
    pub silent: Vec<String>,
}

/// One service, or the home itself, at one friend's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupLine {
    /// The service's name, or `home-itself`.
    pub subject: String,
    /// Whose vault.
    pub friend: String,
    /// `proved`, `not proved`, `failing`, `never`, `runs`.
    pub state: String,
    /// Of when the last snapshot is.
    pub made_ms: Option<UnixMs>,
    /// Of when the last snapshot is that was read back in part.
    pub proved_ms: Option<UnixMs>,
    /// When a restore was tried last.
    pub drilled_ms: Option<UnixMs>,
    /// When the vault was last asked about random ranges of packs.
    pub asked_ms: Option<UnixMs>,
    /// Ranges that it was asked about so far.
    pub asked_ranges: u64,
    /// Those of which it had the bytes.
    pub kept_ranges: u64,
    /// restic's name of the last snapshot.
    pub snapshot: Option<String>,
    /// Where it was made.
    pub by: Option<String>,
    /// Why it fails.
    pub failure: Option<String>,
    /// Whether a person has to do something.
    pub person: bool,
    /// How often it has failed in a row.
    pub failures: u32,
    /// When the last task ended, by the clock of whoever did it, and why it failed.
    pub ended: Option<(UnixMs, Option<String>)>,
    /// Bytes done and found so far, while it runs.
    pub progress: Option<(u64, u64)>,
}

impl BackupLine {
    /// Of a record; `by` is the name of the radiator that it names.
    pub fn of(subject: &str, friend: &str, record: &Record, by: Option<String>) -> Self {
        let state = match record {
            Record { failure: Some(_), .. } => "failing",
            Record { made: None, .. } => "never",
            Record { made, proven, .. } if proven >= made => "proved",
            _ => "not proved",
        };
        let failure = record.failure.as_ref();
        let asked = record.asked.as_ref();
        Self {
            subject: subject.into(),
            friend: friend.into(),
            state: state.into(),
            made_ms: record.made,
            proved_ms: record.proven,
            drilled_ms: record.drilled,
            asked_ms: asked.map(|asked| asked.at),
            asked_ranges: asked.map_or(0, |asked| asked.ranges),
            kept_ranges: asked.map_or(0, |asked| asked.kept),
            snapshot: record.snapshot.clone(),
            by,
            failure: failure.map(|f| f.why.clone()),
            person: failure.is_some_and(|f| f.passes == Passes::ByAPerson),
            failures: failure.map_or(0, |f| f.count),
            ended: None,
            progress: None,
        }
    }
}

/// What was ordered, to be waited for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordered {
    /// Subject, friend, and when it was ordered by the clock of whoever does it: what ends later is what was ordered.
    pub pairs: Vec<(String, String, UnixMs)>,
}

/// What `status` says of backups: a line for each service, louder where it is too old.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupStanding {
    /// The service's name, or `home-itself`.
    pub subject: String,
    /// Age of the last proved backup, ms.
    pub age_ms: Option<u64>,
    /// Whether that is too old.
    pub late: bool,
    /// In words.
    pub text: String,
}

impl BackupStanding {
    /// How a wish is fulfilled.
    pub fn of(
        wish: &Wish,
        records: &std::collections::BTreeMap<thermidor_backup::schedule::Pair, Record>,
        now: UnixMs,
    ) -> Self {
        let stands = standing(wish, records, now);
        Self { subject: wish.subject.to_string(), age_ms: stands.age, late: stands.late, text: stands.text }
    }
}
