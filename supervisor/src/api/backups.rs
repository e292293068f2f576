//! What people see of backups.

use serde::{Deserialize, Serialize};
use thermidor_backup::schedule::{Task, Wish, standing};
use thermidor_model::backup::{Drill, Passes, Record};
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
    /// When a restore was tried last, and went well.
    pub drilled_ms: Option<UnixMs>,
    /// What the last restore that was tried came to, also one that failed.
    pub drill: Option<DrillLine>,
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

/// A restore that was tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrillLine {
    /// When it ended.
    pub at_ms: UnixMs,
    /// Files that came back, each compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that lie in the mailboxes that came back.
    pub message_files: Option<u64>,
    /// Messages that the service, started on them, shows by IMAP.
    pub by_imap: Option<u64>,
    /// How long the service took to start on them, ms.
    pub started_ms: Option<u64>,
    /// All that in words.
    pub text: String,
    /// Why it counts as failed.
    pub failure: Option<String>,
    /// How often it has failed in a row.
    pub failures: u32,
}

impl From<&Drill> for DrillLine {
    fn from(drill: &Drill) -> Self {
        Self {
            at_ms: drill.at,
            files: drill.files,
            bytes: drill.bytes,
            message_files: drill.message_files,
            by_imap: drill.by_imap,
            started_ms: drill.started_ms,
            text: drill.to_string(),
            failure: drill.failure.as_ref().map(|f| f.why.clone()),
            failures: drill.failure.as_ref().map_or(0, |f| f.count),
        }
    }
}

/// What can be ordered of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupTask {
    /// To make one.
    Make,
    /// To read a part of the last one back.
    Prove,
    /// To restore the last one aside, and to start its service there.
    Drill,
}

impl From<BackupTask> for Task {
    fn from(task: BackupTask) -> Self {
        match task {
            BackupTask::Make => Self::Backup,
            BackupTask::Prove => Self::Prove,
            BackupTask::Drill => Self::Drill,
        }
    }
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
            drill: record.drill.as_ref().map(DrillLine::from),
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

/// What `status` says of backups: a line for each service, louder where it is too old or a person is needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupStanding {
    /// The service's name, or `home-itself`.
    pub subject: String,
    /// Age of the last proved backup, ms.
    pub age_ms: Option<u64>,
    /// Whether that is too old.
    pub late: bool,
    /// Whether a friend fails in a way that does not pass before a person has done something.
    #[serde(default)]
    pub person: bool,
    /// Whether the last restore that was tried failed, or none was for too long.
    pub untried: bool,
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
        Self {
            subject: wish.subject.to_string(),
            age_ms: stands.age,
            late: stands.late,
            person: stands.person,
            untried: stands.untried,
            text: stands.text,
        }
    }

    /// Whether it is a warning: other friends' backups may be in time, and still one has lost something.
    pub fn is_loud(&self) -> bool {
        self.late || self.person || self.untried
    }
}
