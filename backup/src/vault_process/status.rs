//! How the vault stands, as one line of JSON on its socket, and the daemon's end of that.

use crate::kit_change::NewKeys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::name::HomeName;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// How the vault stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The form of this record.
    pub version: u8,
    /// Each friend's space.
    pub friends: BTreeMap<HomeName, FriendStatus>,
    /// Bytes of homes that are no friends any more; `None`: they are not counted yet.
    #[serde(default)]
    pub left: Option<BTreeMap<HomeName, u64>>,
}

/// A friend's space, and when it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FriendStatus {
    /// Bytes kept.
    pub used: u64,
    /// Bytes agreed.
    pub quota: u64,
    /// Bytes that wait for deletion.
    pub waiting: u64,
    /// When its newest snapshot came, in ms since the Unix epoch.
    pub newest: Option<u64>,
    /// The deletions it has announced.
    pub announced: Vec<AnnouncedStatus>,
    /// When it was last here, in ms since the Unix epoch; `None`: not since the vault's start.
    pub last_seen: Option<u64>,
    /// Connections at this moment.
    pub connections: u32,
    /// The highest generation that it has said, under its key; 0: none since the vault's start.
    pub generation_heard: u64,
    /// The keys of another kit that it says to have by now, signed with the known one.
    #[serde(default)]
    pub kit_said: Option<NewKeys>,
}

/// A deletion that a friend has announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedStatus {
    /// Its number.
    pub number: u64,
    /// The repository's folder.
    pub folder: String,
    /// When it was announced, in ms since the Unix epoch.
    pub announced: u64,
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why the vault does not tell.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It does not answer.
    #[error("no vault answers at {0}")]
    Io(PathBuf, #[source] io::Error),
    /// Not in time.
    #[error("the vault has not told in {} s how it stands", .0.as_secs())]
    Silent(Duration),
    /// It can't be read.
    #[error("the vault's answer can't be read")]
    Unreadable(#[source] serde_json::Error),
}

impl Status {
    /// The record's form.
    pub const VERSION: u8 = 1;

    /// Asks the vault whose run folder this is; waits `patience` at most.
    pub async fn ask(run: &Path, patience: Duration) -> Result<Self, StatusError> {
        let path = run.join(super::STATUS_SOCKET);
        let ask = async {
            let stream = UnixStream::connect(&path).await?;
            let mut text = Vec::new();
            stream.take(ANSWER_MAX).read_to_end(&mut text).await?;
            Ok(text)
        };
        let text = timeout(patience, ask).await.map_err(|_| StatusError::Silent(patience))?;
        let text = text.map_err(|e| StatusError::Io(path, e))?;
        serde_json::from_slice(&text).map_err(StatusError::Unreadable)
    }
}
