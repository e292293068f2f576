//! What a repository is made of, and how it is named.

use super::path::Folder;
use std::fmt;

/// What a repository is made of, beside its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Packs.
    Data,
    /// Keys.
    Keys,
    /// Locks, which may be deleted by whoever holds the credentials.
    Locks,
    /// Snapshots.
    Snapshots,
    /// Indexes.
    Index,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Data, Kind::Keys, Kind::Locks, Kind::Snapshots, Kind::Index];

    /// The kind a word of the protocol names.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The protocol's word, which is the folder's name too.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Data => "data",
            Kind::Keys => "keys",
            Kind::Locks => "locks",
            Kind::Snapshots => "snapshots",
            Kind::Index => "index",
        }
    }
}

/// A blob's name: the SHA-256 of its content, 64 lower hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobName([u8; 32]);

impl BlobName {
    /// Reads a name; `None` if it is none.
    pub fn read(text: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut name = [0; 32];
        for (byte, pair) in name.iter_mut().zip(text.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(name))
    }

    /// The name of a content.
    pub fn of(content: &[u8]) -> Self {
        Self::digest(ring::digest::digest(&ring::digest::SHA256, content))
    }

    /// Its first eight digits, as restic shows them.
    pub fn short(self) -> String {
        self.to_string()[..8].to_owned()
    }

    /// The name a finished SHA-256 stands for.
    pub(super) fn digest(digest: ring::digest::Digest) -> Self {
        let mut name = [0; 32];
        name.copy_from_slice(digest.as_ref());
        Self(name)
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BlobName> for String {
    fn from(name: BlobName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for BlobName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::read(&text).ok_or("a blob's name is 64 lower hexadecimal digits")
    }
}

/// A blob, or the config, of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Item {
    pub folder: Folder,
    /// `None` is the config.
    pub blob: Option<(Kind, BlobName)>,
}

impl Item {
    pub fn is_lock(&self) -> bool {
        matches!(self.blob, Some((Kind::Locks, _)))
    }
}

/// What is known of a file that lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// In bytes.
    pub size: u64,
    /// In ms since the Unix epoch.
    pub arrived: u64,
}
