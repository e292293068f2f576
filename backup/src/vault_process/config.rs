//! What the daemon tells the vault: who this home is, who its friends are, and what was agreed with each. One file that
//! only root reads, replaced by a rename.

use crate::line::{Transport, TransportKey};
use crate::vault::{HomeKey, Hours, Terms, Window};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::name::HomeName;
use zeroize::Zeroizing;

/// The file.
const FILE: &str = "vault.json";
/// The radiator's time zone beside it: the agreed hours are meant in it, and the container has none.
const LOCAL_TIME: &str = "localtime";

/// Everything the vault is told.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The form of this record.
    pub version: u8,
    /// This home.
    pub home: HomeName,
    /// Its generation.
    pub generation: u64,
    /// Its transport key's seed, base64: a secret.
    seed: String,
    /// That of the kit before, as long as a friend expects its key: a secret too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed_before: Option<String>,
    /// To whom space is lent.
    pub friends: BTreeMap<HomeName, FriendConfig>,
    /// Homes of whose nothing is to be kept. Left out where there are none: an earlier program knows no such thing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<HomeName>,
}

impl std::fmt::Debug for VaultConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultConfig")
            .field("home", &self.home)
            .field("generation", &self.generation)
            .field("friends", &self.friends)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

/// A friend, and what was agreed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FriendConfig {
    /// The key it shows.
    pub transport: TransportKey,
    /// The key it signs with.
    pub key: HomeKey,
    /// The generation that a person here has confirmed.
    pub generation: u64,
    /// Bytes it may keep here.
    pub quota: u64,
    /// How long what it announces for deletion is kept, in s.
    pub keep_s: u64,
    /// Bytes a second that are taken; `None` is without limit.
    pub up: Option<u64>,
    /// Bytes a second that are given; `None` is without limit.
    pub down: Option<u64>,
    /// When it may send: from and to, in minutes of the day; none at all is always.
    pub windows: Vec<(u16, u16)>,
}

impl FriendConfig {
    pub(super) fn terms(&self) -> Terms {
        let windows = self.windows.iter().map(|&(from, to)| Window { from, to }).collect();
        Terms {
            key: Some(self.key),
            generation: self.generation,
            keep: Duration::from_secs(self.keep_s),
            hours: Hours { up: self.up, down: self.down, windows },
            ..Terms::new(self.quota)
        }
    }
}

/// Why a configuration can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The disk.
    #[error("{0} can't be read or written")]
    Io(PathBuf, #[source] io::Error),
    /// What is in it.
    #[error("{0} is no configuration of a vault")]
    Unreadable(PathBuf, #[source] serde_json::Error),
    /// A form that is not known here.
    #[error("{0} has form {1}: this program is older than the daemon's")]
    Version(PathBuf, u8),
}

impl VaultConfig {
    /// The record's form.
    pub const VERSION: u8 = 1;

    /// What a home tells its vault.
    pub fn new(
        home: HomeName,
        generation: u64,
        key: &Transport,
        friends: BTreeMap<HomeName, FriendConfig>,
    ) -> Self {
        let seed = BASE64_STANDARD.encode(&key.seed()[..]);
        Self {
            version: Self::VERSION,
            home,
            generation,
            seed,
            seed_before: None,
            friends,
            gone: BTreeSet::new(),
        }
    }

    /// The same, with the key of the kit before: it is shown to everybody who does not say to expect the new one.
    pub fn with_key_before(mut self, key: &Transport) -> Self {
        self.seed_before = Some(BASE64_STANDARD.encode(&key.seed()[..]));
        self
    }

    /// The same, with homes of whose nothing is to be kept.
    pub fn without(self, gone: BTreeSet<HomeName>) -> Self {
        Self { gone, ..self }
    }

    /// The transport key; `None` if the seed is none.
    pub fn transport(&self) -> Option<Transport> {
        transport(&self.seed)
    }

    /// All keys that friends may expect, the one first that is shown to who does not say which; `None` if a seed is none.
    pub(super) fn transports(&self) -> Option<Vec<Transport>> {
        self.seed_before.iter().chain([&self.seed]).map(|seed| transport(seed)).collect()
    }

    /// Writes it into a folder; says whether anything changed. An equal one is left alone.
    pub fn write(&self, folder: &Path) -> Result<bool, ConfigError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(self).map_err(|e| ConfigError::Unreadable(path.clone(), e))?;
        write_whole(&path, &Zeroizing::new(text)).map_err(|e| ConfigError::Io(path, e))
    }
}

fn transport(seed: &str) -> Option<Transport> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(seed.as_bytes()).ok()?);
    let mut seed = Zeroizing::new([0; 32]);
    if bytes.len() != seed.len() {
        return None;
    }
    seed.copy_from_slice(&bytes);
    Transport::from_seed(seed)
}

/// Takes the radiator's time zone along, if it has one that can be read.
pub fn write_local_time(folder: &Path) -> Result<bool, ConfigError> {
    let Ok(zone) = fs::read("/etc/localtime") else { return Ok(false) };
    let path = folder.join(LOCAL_TIME);
    write_whole(&path, &zone).map_err(|e| ConfigError::Io(path, e))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match fs::read(path) {
        Ok(there) if there == bytes => return Ok(false),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let half = path.with_extension("new");
    match fs::remove_file(&half) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(true)
}

/// The zone that the daemon has left there; UTC without one.
pub(super) fn zone(folder: &Path) -> TimeZone {
    let Ok(bytes) = fs::read(folder.join(LOCAL_TIME)) else { return TimeZone::UTC };
    TimeZone::tzif("the radiator's", &bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "the radiator's time zone can't be read: hours are meant in UTC");
        TimeZone::UTC
    })
}

/// What was read last, so that only changes are acted on.
#[derive(Default)]
pub(super) struct Seen(Option<blake3::Hash>);

impl Seen {
    /// The configuration, if there is one and it is another than before. One that can't be read is told once.
    pub(super) fn look(&mut self, folder: &Path) -> Result<Option<VaultConfig>, ConfigError> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ConfigError::Io(path, e)),
        };
        let hash = blake3::hash(&text);
        if self.0.replace(hash) == Some(hash) {
            return Ok(None);
        }
        let config: VaultConfig =
            serde_json::from_slice(&text).map_err(|e| ConfigError::Unreadable(path.clone(), e))?;
        match config.version {
            VaultConfig::VERSION => Ok(Some(config)),
            other => Err(ConfigError::Version(path, other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_the_file_is_roots_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let key = Transport::from_seed(Zeroizing::new([7; 32])).unwrap();
        let mut config = VaultConfig::new(HomeName::new("alice").unwrap(), 1, &key, BTreeMap::new());
        let mut seen = Seen::default();
        assert_eq!(seen.look(dir.path()).unwrap(), None);
        assert!(config.write(dir.path()).unwrap());
        assert!(!config.write(dir.path()).unwrap());
        assert_eq!(seen.look(dir.path()).unwrap().as_ref(), Some(&config));
        assert_eq!(seen.look(dir.path()).unwrap(), None);
        assert_eq!(config.transport().unwrap().public(), key.public());
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        config.generation = 2;
        assert!(config.write(dir.path()).unwrap());
        assert_eq!(seen.look(dir.path()).unwrap().unwrap().generation, 2);
        let config = config.without([HomeName::new("bob").unwrap()].into());
        assert!(config.write(dir.path()).unwrap());
        assert_eq!(seen.look(dir.path()).unwrap(), Some(config.clone()));
        let text = serde_json::to_string(&VaultConfig { gone: BTreeSet::new(), ..config.clone() }).unwrap();
        assert!(!text.contains("gone"), "a program before it reads what it is told nothing new in");
        // Rubbish is told once, and what was there before stays.
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(seen.look(dir.path()), Err(ConfigError::Unreadable(..))));
        assert_eq!(seen.look(dir.path()).unwrap(), None);
        assert!(!format!("{config:?}").contains(&config.seed[..]), "{config:?}");
    }
}
