//! Why restic did not do what it was asked, in words that a person understands. restic 0.14 has one exit code for
//! everything: its words are read.

use super::repository::Repository;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why restic did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ResticError {
    /// It is not installed.
    #[error("restic is not installed: install Debian's package `restic`")]
    NotInstalled,
    /// It is older than what is supported.
    #[error("restic {0} is too old: 0.14 or newer is needed")]
    TooOld(String),
    /// Nobody answers.
    #[error("the friend's vault can't be reached: {0}")]
    Unreachable(String),
    /// The vault does not know this home.
    #[error("the vault does not take this home's credentials: pair with the friend again")]
    Credentials,
    /// Not at this hour.
    #[error("the friend's vault takes no backups at this hour")]
    NotNow,
    /// The quota is used up, or the vault's disk full: restic does not tell which.
    #[error("the friend's vault has no room left: its quota for this home is used up, or its disk is full")]
    NoRoom,
    /// The vault says no.
    #[error("the friend's vault refuses: {0}")]
    Refused(String),
    /// There is no repository.
    #[error("there is no repository at this friend's yet")]
    Missing,
    /// There is one already.
    #[error("there is a repository at this friend's already")]
    Exists,
    /// The repository's password is another.
    #[error("the repository was made with another password: it belongs to another recovery kit")]
    WrongPassword,
    /// Somebody else works on it.
    #[error("the repository is locked: {0}")]
    Locked(String),
    /// This machine's disk.
    #[error("this radiator's disk is full")]
    DiskFull,
    /// What was asked for is not in the repository.
    #[error("the repository has no such snapshot")]
    NoSnapshot,
    /// The repository is broken.
    #[error("the repository is damaged: {0}")]
    Damaged(String),
    /// A snapshot was made, without some of the files.
    #[error("snapshot {snapshot} lacks {count} files that could not be read, {first} among them")]
    Incomplete {
        /// Which.
        snapshot: String,
        /// How many are missing.
        count: u64,
        /// The first of them, and why.
        first: String,
    },
    /// It gave no sign for too long and was ended.
    #[error("restic has given no sign of life in {} s and was ended", .0.as_secs())]
    Stuck(Duration),
    /// It took too long in all and was ended.
    #[error("restic was not done in {} s and was ended", .0.as_secs())]
    TooLong(Duration),
    /// Somebody killed it.
    #[error("restic was killed by signal {0}")]
    Killed(i32),
    /// A snapshot claims to be made later than now: by its time others would be forgotten.
    #[error("snapshot {0} claims to come from the future: nothing is forgotten")]
    Future(String),
    /// It says what can't be understood.
    #[error("restic says what can't be read: {0}")]
    Unreadable(String),
    /// It fails for another reason.
    #[error("restic failed: {0}")]
    Failed(String),
    /// The system fails.
    #[error("{0} can't be used")]
    Io(PathBuf, #[source] io::Error),
}

/// The longest text of restic's that is handed on.
const TEXT_MAX: usize = 500;

/// How restic says that it tries something again.
pub(super) fn is_complaint(line: &str) -> bool {
    line.contains("returned error, retrying after") || line.contains("operation failed, retrying")
}

/// What to make of a complaint: an error if trying again is of no use.
pub(super) fn hopeless(line: &str) -> Option<ResticError> {
    let of = |status: &str| line.contains(&format!("({status})")) || line.contains(&format!(" {status} "));
    if of("507") {
        return Some(ResticError::NoRoom);
    }
    if of("401") {
        return Some(ResticError::Credentials);
    }
    if of("503") {
        return Some(ResticError::NotNow);
    }
    if of("403") {
        return Some(ResticError::Refused("it keeps what is there: only a signed list deletes".into()));
    }
    line.contains("no space left on device").then_some(ResticError::DiskFull)
}

/// What restic's last words mean.
pub(super) fn read(words: &[String], repository: &Repository) -> ResticError {
    let all = words.join("\n");
    let has = |text: &str| all.contains(text);
    let short = || brief(words, repository);
    if has("no space left on device") {
        return ResticError::DiskFull;
    }
    if has("wrong password or no key found") {
        return ResticError::WrongPassword;
    }
    if has("already locked") {
        return ResticError::Locked(short());
    }
    if has("config file already exists") || has("repository master key and config already initialized") {
        return ResticError::Exists;
    }
    if ["connection refused", "no such host", "i/o timeout", "connection reset", "no route to host"]
        .iter()
        .chain(&["network is unreachable", ": EOF", "unexpected EOF", "broken pipe"])
        .any(|text| has(text))
        && (has("http://") || has("dial tcp"))
    {
        return ResticError::Unreachable(short());
    }
    if let Some(error) = hopeless(&all) {
        return error;
    }
    if has("no snapshot found") || has("no matching ID found") || has("failed to find snapshot") {
        return ResticError::NoSnapshot;
    }
    // A repository without a config, or none at all.
    if has("Is there a repository at the following location?") || has("repository does not exist") {
        return if has("(404)") || has("does not exist") || has("404 Not Found") {
            ResticError::Missing
        } else {
            ResticError::Unreachable(short())
        };
    }
    if has("repository contains errors") {
        // What it found stands before that.
        let found = words.iter().find(|line| !line.trim().is_empty());
        return ResticError::Damaged(brief(&found.cloned().into_iter().collect::<Vec<_>>(), repository));
    }
    let damage = ["ciphertext verification failed", "does not match", "invalid data"];
    if damage.iter().any(|text| has(text)) {
        return ResticError::Damaged(short());
    }
    ResticError::Failed(short())
}

/// The words that say most, without passwords: what is fatal first, and not too much of it.
pub(super) fn brief(words: &[String], repository: &Repository) -> String {
    let fatal = words.iter().find(|line| line.contains("Fatal: "));
    let line = fatal.or(words.iter().rev().find(|line| !line.trim().is_empty()));
    let text = line.map_or("it said nothing", |line| line.trim());
    let text = text.split_once("Fatal: ").map_or(text, |(_, rest)| rest);
    repository.hide(text).chars().take(TEXT_MAX).collect()
}
