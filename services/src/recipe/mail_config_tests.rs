//! The files by which the mail container knows its accounts.

use super::*;

fn config() -> MailConfig {
    let account = |aliases: &[&str]| Account {
        password_hash: "$6$salt$hash".into(),
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
    };
    MailConfig {
        domain: "example.org".into(),
        hostname: "mail.example.org".into(),
        message_max_bytes: 1000,
        accounts: BTreeMap::from([
            ("marie".to_owned(), account(&["contact"])),
            ("paul".to_owned(), account(&["postmaster"])),
        ]),
        probe_hash: None,
        certificate_pem: "CERT".into(),
        key_pem: "KEY".into(),
    }
}

#[test]
fn a_hash_is_sha512_crypt_under_a_fresh_salt() {
    let one = hash_password("sesame").unwrap();
    assert!(one.starts_with("$6$") && one != hash_password("sesame").unwrap());
    assert_eq!(one.split('$').nth(2).unwrap().len(), SALT);
    let salt = one.split('$').nth(2).unwrap();
    let params = sha_crypt::Sha512Params::new(ROUNDS).unwrap();
    let again = sha_crypt::sha512_crypt_b64(b"sesame", salt.as_bytes(), &params).unwrap();
    assert!(one.ends_with(&again));
}

#[test]
fn files_say_who_is_who_and_somebody_is_always_postmaster_and_abuse() {
    let files = render(&config()).unwrap();
    assert_eq!(files["accounts"], "marie@example.org marie\npaul@example.org paul\n");
    assert_eq!(
        files["aliases"],
        "abuse@example.org marie@example.org\ncontact@example.org marie@example.org\n\
         postmaster@example.org paul@example.org\n"
    );
    assert!(files["passwd"].starts_with("marie:{SHA512-CRYPT}$6$salt$hash::::::\n"));
}

#[test]
fn the_probe_has_a_login_of_its_own_and_is_nobodys_postmaster() {
    let with = MailConfig { accounts: BTreeMap::new(), probe_hash: Some("$6$a$b".into()), ..config() };
    let files = render(&with).unwrap();
    assert_eq!(files["accounts"], format!("{PROBE_ACCOUNT}@example.org {PROBE_ACCOUNT}\n"));
    assert_eq!(files["passwd"], format!("{PROBE_ACCOUNT}:{{SHA512-CRYPT}}$6$a$b::::::\n"));
    assert_eq!(files["aliases"], "");
    let account = config().accounts["marie"].clone();
    let taken = MailConfig { accounts: [(PROBE_ACCOUNT.to_owned(), account)].into(), ..config() };
    assert!(render(&taken).unwrap_err().to_string().contains("is no mail account"));
}

#[test]
fn a_salt_of_the_homes_gives_the_same_hash_again() {
    let seed = *b"0123456789abcdef";
    assert_eq!(hash_password_with("x", &seed).unwrap(), hash_password_with("x", &seed).unwrap());
    assert_ne!(hash_password_with("x", &seed).unwrap(), hash_password_with("y", &seed).unwrap());
}

#[test]
fn what_would_break_the_formats_or_be_ambiguous_is_refused() {
    type Spoil = fn(&mut MailConfig);
    let cases: [(Spoil, &str); 6] = [
        (|c| c.domain = "example.org\nmynetworks = 0.0.0.0/0".into(), "is no domain"),
        (|c| c.hostname = "a b".into(), "is no host name"),
        (
            |c| {
                let account = c.accounts["marie"].clone();
                c.accounts.insert("x:y".into(), account);
            },
            "is no mail account",
        ),
        (
            |c| {
                c.accounts.get_mut("marie").unwrap().password_hash = "$6$a:b".into();
            },
            "that of marie",
        ),
        (
            |c| {
                c.accounts.get_mut("marie").unwrap().aliases.insert("Upper".into());
            },
            "is no alias",
        ),
        (
            |c| {
                c.accounts.get_mut("marie").unwrap().aliases.insert("paul".into());
            },
            "claimed by paul and by marie",
        ),
    ];
    for (spoil, words) in cases {
        let mut bad = config();
        spoil(&mut bad);
        let dir = tempfile::tempdir().unwrap();
        let error = write_config(dir.path(), &bad).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!dir.path().join("current").exists(), "refused input changes nothing");
    }
}

#[test]
fn a_change_becomes_current_as_a_whole_and_only_the_one_before_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert!(write_config(dir.path(), &config()).unwrap());
    assert!(!write_config(dir.path(), &config()).unwrap(), "equal: left alone");
    let version = || fs::read_to_string(dir.path().join("current/version")).unwrap();
    let first = version();
    for size in 2..5 {
        let next = MailConfig { message_max_bytes: size, ..config() };
        assert!(write_config(dir.path(), &next).unwrap());
    }
    assert_ne!(version(), first);
    let kept = fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("v-"));
    assert_eq!(kept.count(), 2);
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.path().join("current/tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_disk_that_fails_leaves_the_one_in_force_and_a_half_written_one_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config()).unwrap();
    let before = fs::read_link(dir.path().join("current")).unwrap();
    let next = MailConfig { message_max_bytes: 7, ..config() };
    // A folder where the new link is to be made cannot be removed as a file.
    fs::create_dir(dir.path().join(".current.new")).unwrap();
    let error = write_config(dir.path(), &next).unwrap_err();
    assert!(error.to_string().contains("could not write"), "{error}");
    assert_eq!(fs::read_link(dir.path().join("current")).unwrap(), before);
    fs::remove_dir(dir.path().join(".current.new")).unwrap();
    assert!(write_config(dir.path(), &next).unwrap());
}

#[test]
fn neither_hash_nor_key_is_printed() {
    let printed = format!("{:?}", config());
    assert!(!printed.contains("$6$") && !printed.contains("KEY"), "{printed}");
}
