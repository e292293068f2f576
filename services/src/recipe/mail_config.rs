//! The files that carry accounts, aliases, certificate and names into the mail container.
//! A set of files is written beside the old one and becomes current with one rename, so the
//! container sees all of a change or nothing of it; it looks once a second.

use rand::RngCore;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use thermidor_model::spec::PROBE_ACCOUNT;

/// Rounds of SHA512-crypt: the algorithm's own default.
const ROUNDS: usize = 5000;
/// Salt of SHA512-crypt, characters.
pub const SALT: usize = 16;
const SALT_OF: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Everything the mail container is told.
#[derive(Clone, PartialEq, Eq)]
pub struct MailConfig {
    /// The mail domain.
    pub domain: String,
    /// `myhostname`.
    pub hostname: String,
    /// Largest message, bytes.
    pub message_max_bytes: u64,
    /// By local part.
    pub accounts: BTreeMap<String, Account>,
    /// SHA512-crypt of the probe's password; its mailbox is [`PROBE_ACCOUNT`].
    pub probe_hash: Option<String>,
    /// Certificate chain, PEM, the server's own first.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

/// One mailbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// SHA512-crypt, from [`hash_password`].
    pub password_hash: String,
    /// Other local parts that reach it.
    pub aliases: BTreeSet<String>,
}

/// Leaves out the hashes and the key.
impl fmt::Debug for MailConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailConfig")
            .field("domain", &self.domain)
            .field("hostname", &self.hostname)
            .field("accounts", &self.accounts.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Why a configuration was not written. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value would break the files' format.
    #[error("`{given}` is no {what}")]
    Bad {
        /// What was expected.
        what: &'static str,
        /// What was given; not for secrets.
        given: String,
    },
    /// Two accounts claim one address.
    #[error("{alias} is claimed by {first} and by {second}")]
    Claimed {
        /// The local part.
        alias: String,
        /// Who has it.
        first: String,
        /// Who wants it too.
        second: String,
    },
    /// The disk failed.
    #[error("could not write {path}")]
    Files {
        /// Where.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
}

/// A password as Dovecot takes it: SHA512-crypt under a fresh salt. Takes some milliseconds.
pub fn hash_password(password: &str) -> Result<String, ConfigError> {
    let mut random = [0; SALT];
    rand::rng().fill_bytes(&mut random);
    hash_password_with(password, &random)
}

/// The same under a salt drawn from secret bytes of the home's, so that every radiator, and the
/// same one after a restart, writes the same file.
pub fn hash_password_with(password: &str, seed: &[u8; SALT]) -> Result<String, ConfigError> {
    let bad = |_| ConfigError::Bad { what: "password that can be hashed", given: "(hidden)".into() };
    let salt: String = seed.iter().map(|byte| char::from(SALT_OF[usize::from(byte % 64)])).collect();
    let params = sha_crypt::Sha512Params::new(ROUNDS).map_err(bad)?;
    let hash = sha_crypt::sha512_crypt_b64(password.as_bytes(), salt.as_bytes(), &params).map_err(bad)?;
    Ok(format!("$6${salt}${hash}"))
}

/// Writes a configuration into the folder that the container sees as `/etc/thermidor`.
/// Says whether anything changed; an equal one is left alone.
pub fn write_config(folder: &Path, config: &MailConfig) -> Result<bool, ConfigError> {
    let files = render(config)?;
    let mut hash = blake3::Hasher::new();
    for (name, text) in &files {
        hash.update(name.as_bytes()).update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let version = hash.finalize().to_hex()[..16].to_owned();
    let name = format!("v-{version}");
    let current = folder.join("current");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigError::Files { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let before = fs::read_link(&current).ok();
    if before.as_deref() == Some(Path::new(&name)) {
        return Ok(false);
    }
    let fresh = folder.join(&name);
    let half = folder.join(format!(".{name}.half"));
    let write = || -> io::Result<()> {
        remove_tree(&half)?;
        remove_tree(&fresh)?;
        fs::create_dir(&half)?;
        for (name, text) in files.iter().map(|(n, t)| (*n, t.as_str())).chain([("version", version.as_str())])
        {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(half.join(name))?;
            file.write_all(text.as_bytes())?;
            if name == "version" {
                file.write_all(b"\n")?;
            }
            file.sync_all()?;
        }
        fs::rename(&half, &fresh)?;
        let link = folder.join(".current.new");
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(&name, &link)?;
        fs::rename(&link, &current)?;
        File::open(folder)?.sync_all()?;
        // The container may be reading the one before; those before that it has long left.
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let old = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("v-"));
            let kept = path == fresh || before.as_ref().is_some_and(|b| path == folder.join(b));
            if old && !kept {
                remove_tree(&path)?;
            }
        }
        Ok(())
    };
    write().map_err(failed(&fresh))?;
    Ok(true)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The files by name. Every value is checked: the formats know no quoting.
fn render(config: &MailConfig) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    check("domain", &config.domain, is_host)?;
    check("host name", &config.hostname, is_host)?;
    let domain = &config.domain;
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut passwd, mut accounts) = (String::new(), String::new());
    for (local, account) in &config.accounts {
        check("mail account", local, is_account)?;
        passwd.push_str(&login(local, &account.password_hash)?);
        accounts.push_str(&format!("{local}@{domain} {local}\n"));
        claim(&mut owners, local, local)?;
    }
    for (local, account) in &config.accounts {
        for alias in &account.aliases {
            check("alias", alias, |a| is_local(a) && a != PROBE_ACCOUNT)?;
            claim(&mut owners, alias, local)?;
        }
    }
    // RFC 2142 wants these two read by someone: whoever comes first, unless it is said.
    if let Some(first) = config.accounts.keys().next() {
        for duty in ["abuse", "postmaster"] {
            owners.entry(duty).or_insert(first);
        }
    }
    let aliases: String = owners
        .iter()
        .filter(|(alias, owner)| alias != owner)
        .map(|(alias, owner)| format!("{alias}@{domain} {owner}@{domain}\n"))
        .collect();
    if let Some(hash) = &config.probe_hash {
        passwd.push_str(&login(PROBE_ACCOUNT, hash)?);
        accounts.push_str(&format!("{PROBE_ACCOUNT}@{domain} {PROBE_ACCOUNT}\n"));
    }
    let settings = format!(
        "domain={domain}\nhostname={}\nmessage_max_bytes={}\n",
        config.hostname, config.message_max_bytes
    );
    Ok(BTreeMap::from([
        ("accounts", accounts),
        ("aliases", aliases),
        ("passwd", passwd),
        ("settings", settings),
        ("tls.crt", config.certificate_pem.clone()),
        ("tls.key", config.key_pem.clone()),
    ]))
}

/// A line of the passwd file.
fn login(local: &str, hash: &str) -> Result<String, ConfigError> {
    check("password hash", hash, |h| {
        h.starts_with("$6$") && h.bytes().all(|b| b.is_ascii_graphic() && b != b':')
    })
    .map_err(|_| ConfigError::Bad { what: "SHA512-crypt hash", given: format!("that of {local}") })?;
    Ok(format!("{local}:{{SHA512-CRYPT}}{hash}::::::\n"))
}

fn claim<'a>(
    owners: &mut BTreeMap<&'a str, &'a str>,
    alias: &'a str,
    owner: &'a str,
) -> Result<(), ConfigError> {
    match owners.insert(alias, owner) {
        Some(first) if first != owner => Err(ConfigError::Claimed {
            alias: alias.to_owned(),
            first: first.to_owned(),
            second: owner.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check(what: &'static str, given: &str, good: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
    if good(given) { Ok(()) } else { Err(ConfigError::Bad { what, given: given.to_owned() }) }
}

/// Whether an account can have that name.
pub fn is_account(name: &str) -> bool {
    is_local(name) && name != PROBE_ACCOUNT
}

fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Lower case, for Dovecot folds names; no `+`, which parts off a detail.
fn is_local(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && !text.ends_with('.')
        && !text.contains("..")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
}

#[cfg(test)]
#[path = "mail_config_tests.rs"]
mod tests;
