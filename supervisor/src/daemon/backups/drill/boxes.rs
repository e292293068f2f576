//! The mailboxes of a restored mail service: a login for each, and whether IMAP shows what lies there.

use rand::RngCore;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use thermidor_model::spec::PROBE_ACCOUNT;
use thermidor_services::probe::mailboxes::lie_in;
use thermidor_services::recipe::mail::{self, Account, MailConfig};

/// Bytes of the password that is good for one trial.
const PASSWORD: usize = 24;

/// How many messages lie in each mailbox that came back. The probe's own is nobody's mail, and left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Boxes(BTreeMap<String, u64>);

impl Boxes {
    /// Counts what lies below the folder of the mailboxes. Blocks on the disk.
    pub fn find(dir: &Path) -> io::Result<Self> {
        let entries = match std::fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && name != PROBE_ACCOUNT {
                found.insert(name, lie_in(&entry.path().join(mail::MAILDIR))?);
            }
        }
        Ok(Self(found))
    }

    /// How many messages lie there in all.
    pub fn files(&self) -> u64 {
        self.0.values().sum()
    }

    /// What the service on trial is told: all that the real one is, but there every account has the same password,
    /// which is drawn here and never leaves this radiator; passwords of accounts made by the CLI are known to nobody. A
    /// mailbox whose account was removed since has a login again.
    pub fn opened(&self, mut config: MailConfig) -> Result<(MailConfig, String), String> {
        let mut drawn = [0; PASSWORD];
        rand::rng().fill_bytes(&mut drawn);
        let password: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = mail::hash_password(&password).map_err(|e| e.to_string())?;
        for name in self.0.keys().filter(|name| mail::is_account(name)) {
            let nobody = || Account { password_hash: String::new(), aliases: Default::default() };
            config.accounts.entry(name.clone()).or_insert_with(nobody);
        }
        for account in config.accounts.values_mut() {
            account.password_hash = hash.clone();
            // An alias that was a mailbox once.
            account.aliases.retain(|alias| !self.0.contains_key(alias));
        }
        config.probe_hash = Some(hash);
        Ok((config, password))
    }

    /// Whether IMAP shows all that lies there. It may show more: what waited in the queue is delivered meanwhile.
    pub fn judge(&self, shown: &BTreeMap<String, u64>) -> Result<(), String> {
        let short = self.0.iter().filter_map(|(name, lie)| match shown.get(name) {
            Some(shown) if shown >= lie => None,
            Some(shown) => Some(format!("{name}: IMAP shows {shown} messages of {lie}")),
            None if *lie == 0 => None,
            None => Some(format!("{name}: {lie} messages lie where nobody can log in")),
        });
        let short: Vec<String> = short.collect();
        if short.is_empty() { Ok(()) } else { Err(short.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(all: &[(&str, u64)]) -> Boxes {
        Boxes(all.iter().map(|(name, lie)| ((*name).to_owned(), *lie)).collect())
    }

    #[test]
    fn mailboxes_are_counted_without_the_probes() {
        let dir = tempfile::tempdir().unwrap();
        let messages = ["marie/Maildir/cur/1", "marie/Maildir/.Sent/new/2", "paul/Maildir/tmp/3"];
        for message in messages.iter().chain(&["thermidor-probe/Maildir/new/4"]) {
            let path = dir.path().join(message);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = Boxes::find(dir.path()).unwrap();
        assert_eq!(found, boxes(&[("marie", 2), ("paul", 0)]));
        assert_eq!(found.files(), 2);
        assert_eq!(Boxes::find(&dir.path().join("nowhere")).unwrap(), Boxes::default());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(Boxes::find(&dir.path().join("file")).is_err());
    }

    #[test]
    fn imap_that_shows_less_than_what_lies_there_is_a_failure_and_more_is_none() {
        let found = boxes(&[("marie", 57), ("paul", 0)]);
        let shown = |all: &[(&str, u64)]| found.judge(&boxes(all).0);
        assert_eq!(shown(&[("marie", 57), ("paul", 0)]), Ok(()));
        assert_eq!(shown(&[("marie", 58), ("new", 0)]), Ok(()), "what waited in the queue came");
        let short = shown(&[("marie", 3), ("paul", 9)]).unwrap_err();
        assert_eq!(short, "marie: IMAP shows 3 messages of 57", "others' do not make up for it");
        let shut = boxes(&[("Marie", 2)]).judge(&BTreeMap::new()).unwrap_err();
        assert_eq!(shut, "Marie: 2 messages lie where nobody can log in");
    }

    #[test]
    fn every_mailbox_has_a_login_that_is_good_for_the_trial_alone() {
        let account = |aliases: &[&str]| Account {
            password_hash: "$6$salt$known".into(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        };
        let config = MailConfig {
            domain: "maison.example".into(),
            hostname: "mail.maison.example".into(),
            message_max_bytes: 1,
            accounts: [("marie".to_owned(), account(&["contact", "paul"]))].into(),
            probe_hash: Some("$6$salt$known".into()),
            certificate_pem: "chain".into(),
            key_pem: "key".into(),
        };
        let (opened, password) = boxes(&[("paul", 1), ("Strange", 1)]).opened(config.clone()).unwrap();
        assert_eq!(opened.accounts.keys().collect::<Vec<_>>(), ["marie", "paul"]);
        let hash = opened.probe_hash.clone().unwrap();
        assert!(hash != "$6$salt$known" && !hash.contains(&password), "{hash}");
        assert!(opened.accounts.values().all(|account| account.password_hash == hash));
        assert_eq!(opened.accounts["marie"].aliases, ["contact".to_owned()].into(), "paul has a mailbox");
        assert_eq!((&opened.hostname, &opened.key_pem), (&config.hostname, &config.key_pem));
        let (_, other) = boxes(&[]).opened(config).unwrap();
        assert_ne!(password, other);
        let dir = tempfile::tempdir().unwrap();
        assert!(mail::write_config(dir.path(), &opened).unwrap(), "the service can be told so");
    }
}
