//! What restic says in JSON: how far a backup has come, what it made, and which snapshots there are.

use super::trouble::ResticError;
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt;

/// How far a backup has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Files found so far.
    pub total_files: u64,
    /// Files done.
    pub files_done: u64,
    /// Bytes found so far.
    pub total_bytes: u64,
    /// Bytes done.
    pub bytes_done: u64,
}

/// What a backup made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that were new.
    pub added: u64,
}

/// A snapshot's name: the SHA-256 of its record in hexadecimal digits, or the beginning of it, at least eight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Takes a text as a name; `None` if it is none.
    pub fn new(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && (8..=64).contains(&text.len())).then(|| Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text).ok_or_else(|| format!("`{text}` is no snapshot: use 8 to 64 of 0-9 and a-f"))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A snapshot in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// Its whole name.
    pub id: SnapshotId,
    /// When it was begun, by the clock of whoever made it.
    #[serde(deserialize_with = "time")]
    pub time: Timestamp,
    /// The home that made it.
    pub hostname: String,
    /// What was backed up: the service's name.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Where that lay.
    #[serde(default)]
    pub paths: Vec<String>,
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

/// What a snapshot holds, or a folder of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Files, folders and links.
    pub files: u64,
    /// Their content, bytes.
    pub bytes: u64,
}

/// Reads a line of `ls --json`: what it adds; `None` is no file.
pub(super) fn listed(text: &str) -> Option<Measured> {
    #[derive(Deserialize)]
    struct Node {
        struct_type: String,
        #[serde(default)]
        size: u64,
    }
    let node: Node = serde_json::from_str(text).ok()?;
    (node.struct_type == "node").then_some(Measured { files: 1, bytes: node.size })
}

/// A line of a backup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Progress(Progress),
    Made(Backup),
    /// A file that can't be read, and why.
    Unread(String),
}

#[derive(Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Message {
    Status(Progress),
    Summary {
        snapshot_id: SnapshotId,
        total_files_processed: u64,
        total_bytes_processed: u64,
        data_added: u64,
    },
    Error {
        #[serde(default)]
        item: String,
        #[serde(default)]
        error: serde_json::Value,
    },
}

/// Reads a line of `backup --json`; `None` is nothing that matters.
pub(super) fn line(text: &str) -> Option<Line> {
    Some(match serde_json::from_str(text).ok()? {
        Message::Status(progress) => Line::Progress(progress),
        Message::Summary { snapshot_id, total_files_processed, total_bytes_processed, data_added } => {
            let (files, bytes) = (total_files_processed, total_bytes_processed);
            Line::Made(Backup { snapshot: snapshot_id, files, bytes, added: data_added })
        }
        Message::Error { item, error } => {
            let why = error.get("message").or_else(|| error.get("Err")).unwrap_or(&error);
            let why = why.as_str().map_or_else(|| why.to_string(), str::to_owned);
            Line::Unread(format!("{item} ({why})"))
        }
    })
}

/// Reads what `snapshots --json` says, the oldest first.
pub(super) fn snapshots(text: &str) -> Result<Vec<Snapshot>, ResticError> {
    let all: Option<Vec<Snapshot>> = json(text)?;
    let mut all = all.unwrap_or_default();
    all.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
    Ok(all)
}

/// Reads which snapshots `forget --dry-run --json` would remove.
pub(super) fn forgotten(text: &str) -> Result<Vec<Snapshot>, ResticError> {
    #[derive(Deserialize)]
    struct Group {
        remove: Option<Vec<Snapshot>>,
    }
    let groups: Option<Vec<Group>> = json(text)?;
    Ok(groups.unwrap_or_default().into_iter().flat_map(|group| group.remove.unwrap_or_default()).collect())
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ResticError> {
    // Newer ones add lines of their own around it.
    let line = text.lines().find(|line| line.starts_with(['[', '{']) || line.trim() == "null");
    serde_json::from_str(line.unwrap_or_default()).map_err(|e| ResticError::Unreadable(e.to_string()))
}

/// The version in what `restic version` says: `restic 0.14.0 compiled with ...`.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("restic ")?.split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_backup_are_read_from_old_and_new_restics() {
        let status = r#"{"message_type":"status","percent_done":0.5,"total_files":4,"files_done":2,"total_bytes":30,"bytes_done":15,"current_files":["/a"]}"#;
        let progress = Progress { total_files: 4, files_done: 2, total_bytes: 30, bytes_done: 15 };
        assert_eq!(line(status), Some(Line::Progress(progress)));
        let made = r#"{"message_type":"summary","files_new":2,"data_added":300,"total_files_processed":2,"total_bytes_processed":30,"total_duration":0.27,"snapshot_id":"c172cae9"}"#;
        let backup =
            Backup { snapshot: SnapshotId::new("c172cae9").unwrap(), files: 2, bytes: 30, added: 300 };
        assert_eq!(line(made), Some(Line::Made(backup)));
        let old = r#"{"message_type":"error","error":{"Op":"open","Path":"/x","Err":13},"during":"archival","item":"/x"}"#;
        assert_eq!(line(old), Some(Line::Unread("/x (13)".into())));
        let new = r#"{"message_type":"error","error":{"message":"permission denied"},"during":"archival","item":"/x"}"#;
        assert_eq!(line(new), Some(Line::Unread("/x (permission denied)".into())));
        for other in ["", "nonsense", "{}", r#"{"message_type":"verbose_status"}"#] {
            assert_eq!(line(other), None, "{other}");
        }
    }

    #[test]
    fn a_version_is_read_or_is_none() {
        assert_eq!(version("restic 0.14.0 compiled with go1.19.8 on linux/amd64"), Some((0, 14)));
        assert_eq!(version("restic 0.18.1-dev (compiled manually)"), Some((0, 18)));
        for none in ["", "restic", "restic x.y", "rustic 0.9.0"] {
            assert_eq!(version(none), None, "{none}");
        }
    }

    #[test]
    fn only_names_go_onto_a_command_line() {
        assert!(SnapshotId::new(&"a".repeat(64)).is_some());
        for bad in ["", "latest", "--help12", "ABCDEF12", "abc", &"a".repeat(65)] {
            assert_eq!(SnapshotId::new(bad), None, "{bad}");
        }
    }
}
