//! The keys of a repository: each is its master key sealed with another password. One is added before the password changes;
//! none is removed here, for the vault deletes nothing but by a signed list.

use super::child::{self, Heard, Orders};
use super::repository::{Repository, Secret};
use super::trouble::ResticError;
use super::{NO_LOCK, Restic, Settings};
use crate::vault::BlobName;
use serde::Deserialize;
use std::ffi::OsString;

/// A key of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Key {
    /// The beginning of its name, eight digits at least.
    pub id: String,
    /// Whether it is the one that opened the repository.
    pub current: bool,
}

impl Key {
    /// Whether that is its name.
    pub fn is(&self, name: &BlobName) -> bool {
        self.id.len() >= 8 && name.to_string().starts_with(&self.id)
    }
}

impl Restic {
    /// Which keys there are; exactly one of them is current.
    pub async fn keys(&self, repository: &Repository) -> Result<Vec<Key>, ResticError> {
        let arguments = ["key", "list", "--json", NO_LOCK].map(OsString::from).to_vec();
        let ended = self.run(repository, arguments, None, |_| Heard::Kept).await?;
        let said = ended.good(repository)?;
        let keys: Vec<Key> =
            serde_json::from_str(&said).map_err(|e| ResticError::Unreadable(e.to_string()))?;
        match keys.iter().filter(|key| key.current).count() {
            1 => Ok(keys),
            count => Err(ResticError::Unreadable(format!("{count} keys are current"))),
        }
    }

    /// Has another password open the repository as well. It goes to restic by a pipe: it stands in no command line and no
    /// file, and the environment has the one that opens it now.
    pub async fn add_key(&self, repository: &Repository, password: &Secret) -> Result<(), ResticError> {
        self.trim().await?;
        let _in_use = self.cache.read().await;
        let Settings { program, cache, patience, .. } = &self.settings;
        let arguments = ["key", "add", "--new-password-file=/dev/stdin"].map(OsString::from).to_vec();
        let input = Some(password);
        let orders = Orders { program, arguments, dir: None, cache, patience: *patience, input };
        child::run(orders, repository, |_| Heard::Kept).await?.good(repository).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_the_beginning_of_its_name() {
        let name = BlobName::of(b"a key");
        let key = |id: &str| Key { id: id.into(), current: false };
        assert!(key(&name.short()).is(&name) && key(&name.to_string()).is(&name));
        assert!(!key(&BlobName::of(b"another").short()).is(&name));
        assert!(!key("").is(&name) && !key(&name.short()[..7]).is(&name));
    }
}
