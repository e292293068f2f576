//! What is wished of backups and what is known of them: kept in the home, so that whichever radiator goes on knows it
//! too. When which is made is decided in the crate `backup`.

use crate::name::{HomeName, NodeId, ServiceName, UnixMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How often a restore is tried unless said, ms.
pub const DRILL_DEFAULT_MS: u64 = 7 * 86_400_000;
/// How long is waited before something that passes by itself is tried again unless said, ms.
pub const RETRY_DEFAULT_MS: u64 = 120_000;
/// The longest such wait, however often it failed, ms.
pub const RETRY_MAX_MS: u64 = 2 * 3_600_000;

/// `backup:` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSpec {
    /// How often, ms.
    pub every_ms: u64,
    /// To which friends, in the order written.
    pub to: Vec<HomeName>,
    /// At which times of the day backups may begin; none at all is the whole day.
    pub windows: Vec<Window>,
    /// How often a restore is tried, ms; 0 is never.
    pub drill_ms: u64,
    /// How long is waited before what passes by itself is tried again, ms; doubles each time. So long after a start, too.
    #[serde(default = "retry_default")]
    pub retry_ms: u64,
}

fn retry_default() -> u64 {
    RETRY_DEFAULT_MS
}

/// A part of the day, in minutes since midnight, local time. One that ends before it begins goes over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first minute inside.
    pub from: u16,
    /// The first minute outside.
    pub to: u16,
}

impl Window {
    /// Whether a minute of the day is inside.
    pub fn holds(self, minute: u16) -> bool {
        if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// What is backed up: a service, or the home itself (declaration, accounts, secrets, keys).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// What a home is rebuilt from.
    HomeItself,
    /// A service's volumes.
    Service(ServiceName),
}

/// The folder of a friend's vault in which the home itself lies, which no service may be called.
pub const HOME_ITSELF: &str = "home-itself";

impl Subject {
    /// The name of its repository's folder in a vault, and its tag.
    pub fn as_str(&self) -> &str {
        match self {
            Self::HomeItself => HOME_ITSELF,
            Self::Service(name) => name.as_str(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a failure passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// By itself: the friend is away, the line is cut.
    ByItself,
    /// When a person has done something.
    ByAPerson,
}

/// The last failure of a subject at a friend's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// When.
    pub at: UnixMs,
    /// Since when nothing else has come.
    pub since: UnixMs,
    /// How many in a row.
    pub count: u32,
    /// How it passes.
    pub passes: Passes,
    /// In words.
    pub why: String,
}

impl Failure {
    /// A failure after what was known of earlier ones.
    pub fn next(before: Option<&Failure>, at: UnixMs, passes: Passes, why: String) -> Self {
        let since = before.map_or(at, |failure| failure.since.min(at));
        let count = before.map_or(0, |failure| failure.count).saturating_add(1);
        Self { at, since, count, passes, why }
    }
}

/// A restore that was tried: what came back, and what the service made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// When it ended.
    pub at: UnixMs,
    /// Files that came back, each compared with what the repository says of it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that lie in the mailboxes that came back; `None`: it is no mail, or nobody looked.
    pub message_files: Option<u64>,
    /// Messages that the restored service shows by IMAP.
    pub by_imap: Option<u64>,
    /// How long the service took to start on them, ms; `None`: it was not started, or did not start.
    pub started_ms: Option<u64>,
    /// Why it counts as failed.
    pub failure: Option<Failure>,
}

/// What came back, whether it is enough or not.
impl std::fmt::Display for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files, {} MiB", self.files, self.bytes >> 20)?;
        match (self.by_imap, self.message_files) {
            (Some(shown), Some(lie)) if shown == lie => write!(f, ", {shown} messages by IMAP")?,
            (Some(shown), Some(lie)) => write!(f, ", {shown} messages by IMAP, {lie} message files")?,
            (None, Some(lie)) => write!(f, ", {lie} message files")?,
            (_, None) => {}
        }
        match self.started_ms {
            Some(ms) => write!(f, ", the service started in {}.{} s", ms / 1000, ms % 1000 / 100),
            None => Ok(()),
        }
    }
}

/// What is known of a subject at a friend's. A field that a later program knows is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of when the last snapshot is.
    pub made: Option<UnixMs>,
    /// Of when the last snapshot is after which a part was read back and found whole.
    pub proven: Option<UnixMs>,
    /// When a restore was tried last, and went well.
    pub drilled: Option<UnixMs>,
    /// What the last restore that was tried came to. It is no failure of the backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
    /// When old snapshots were last looked for, to be forgotten.
    #[serde(default)]
    pub tidied: Option<UnixMs>,
    /// The failure that nothing good has followed.
    pub failure: Option<Failure>,
    /// Whose replica the last snapshot was taken of.
    pub by: Option<NodeId>,
    /// restic's name of it.
    pub snapshot: Option<String>,
    /// What was backed up: BLAKE3, hex, where a change is noticed by it.
    pub content: Option<String>,
    /// The last head that was signed: a vault that shows another one has lost something.
    pub head: Option<HeadMark>,
    /// What came of asking the vault about random ranges of packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Keys that were another kit's, by name: the vault is still to be told that they may be deleted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub old_keys: BTreeSet<String>,
}

/// Packs of which is told at most that they are in doubt.
pub const DOUBTS_MAX: usize = 16;

/// What came of asking a vault about random ranges of packs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// When it was last asked.
    pub at: UnixMs,
    /// About how many ranges so far.
    pub ranges: u64,
    /// Of how many it had the bytes.
    pub kept: u64,
    /// Packs of which it had not, and that nobody has seen whole since, by name; at most [`DOUBTS_MAX`].
    #[serde(default)]
    pub doubtful: BTreeSet<String>,
}

impl Asked {
    /// In a few words: `64 ranges, all kept`.
    pub fn in_words(&self) -> String {
        match (self.ranges, self.kept) {
            (1, 1) => "1 range, kept".into(),
            (ranges, kept) if ranges == kept => format!("{ranges} ranges, all kept"),
            (ranges, kept) => format!("{kept} of {ranges} ranges kept"),
        }
    }
}

impl Record {
    /// A restore was tried: what came of it, and how that passes and why where it counts as failed.
    pub fn after_drill(&self, mut drill: Drill, failed: Option<(Passes, String)>, now: UnixMs) -> Self {
        drill.at = now;
        let before = self.drill.as_ref().and_then(|drill| drill.failure.as_ref());
        drill.failure = failed.map(|(passes, why)| Failure::next(before, now, passes, why));
        let drilled = if drill.failure.is_none() { Some(now) } else { self.drilled };
        Self { drilled, drill: Some(drill), ..self.clone() }
    }
}

/// By which a signed head is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadMark {
    /// The number of its statement.
    pub number: u64,
    /// BLAKE3 of the statement, hex.
    pub hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let night = Window { from: 22 * 60, to: 6 * 60 };
        assert!(night.holds(0) && night.holds(22 * 60) && !night.holds(6 * 60) && !night.holds(12 * 60));
        assert!(!Window { from: 60, to: 120 }.holds(120));
    }

    #[test]
    fn a_restore_that_failed_is_told_beside_the_backups_and_one_that_goes_well_ends_it() {
        let whole = Record { made: Some(1), proven: Some(1), drilled: Some(5), ..Record::default() };
        let said = || Some((Passes::ByAPerson, "mail does not start".to_owned()));
        let first = whole.after_drill(Drill { files: 3, ..Drill::default() }, said(), 10);
        let second = first.after_drill(Drill::default(), said(), 20);
        assert_eq!((&second.failure, second.proven, second.drilled), (&None, Some(1), Some(5)));
        let failure = second.drill.as_ref().unwrap().failure.clone().unwrap();
        assert_eq!((failure.since, failure.at, failure.count), (10, 20, 2));
        let well = second.after_drill(Drill::default(), None, 30);
        assert_eq!((well.drilled, well.drill.unwrap().failure), (Some(30), None));
    }

    #[test]
    fn what_came_back_is_said_with_both_counts_where_they_differ() {
        let mut drill = Drill { files: 214, bytes: 3 << 20, ..Drill::default() };
        assert_eq!(drill.to_string(), "214 files, 3 MiB");
        (drill.message_files, drill.by_imap, drill.started_ms) = (Some(57), Some(57), Some(2140));
        assert_eq!(drill.to_string(), "214 files, 3 MiB, 57 messages by IMAP, the service started in 2.1 s");
        drill.by_imap = Some(3);
        assert!(drill.to_string().contains("3 messages by IMAP, 57 message files"), "{drill}");
    }

    #[test]
    fn a_record_of_before_and_one_of_a_later_program_are_read() {
        let before = r#"{"made":1,"proven":1,"drilled":2,"failure":null,"by":1,"snapshot":null,"content":null,"head":null}"#;
        let read: Record = serde_json::from_str(before).unwrap();
        assert_eq!((read.drilled, &read.drill), (Some(2), &None));
        assert!(
            !serde_json::to_string(&read).unwrap().contains("\"drill\""),
            "an older program reads it too"
        );
        let later = before.replace("\"made\"", "\"later\":7,\"made\"");
        assert_eq!(serde_json::from_str::<Record>(&later).unwrap(), read);
    }

    #[test]
    fn failures_in_a_row_are_counted_from_the_first() {
        let first = Failure::next(None, 10, Passes::ByItself, "away".into());
        let second = Failure::next(Some(&first), 20, Passes::ByItself, "away".into());
        assert_eq!((second.since, second.at, second.count), (10, 20, 2));
    }
}
