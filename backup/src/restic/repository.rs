//! Which repository is meant, as the environment of a child says it. Passwords stand in no command line, no file and no
//! log: what restic says is searched for them before anybody reads it.

use crate::vault::Folder;
use std::fmt;
use std::net::SocketAddr;
use thermidor_model::name::HomeName;
use zeroize::Zeroizing;

/// A text that is shown nowhere.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A repository in a friend's vault.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Where the vault is reached on this machine: whatever leads to the friend listens there, and encrypts.
    pub at: SocketAddr,
    /// This home, as the friend knows it.
    pub home: HomeName,
    /// The folder of it.
    pub folder: Folder,
    /// What is shown to the vault; `None` if the transport proves who calls.
    pub password: Option<Secret>,
    /// The key of all content, which the friend never has.
    pub key: Secret,
    /// The repository as it stood then, in seconds since the Unix epoch, to be read only.
    pub as_of: Option<u64>,
}

impl Repository {
    /// The address with its password, as restic's environment takes it.
    pub(super) fn url(&self) -> Secret {
        let password = self.password.as_ref().map(|p| Zeroizing::new(escape(p.expose())));
        let user = password.map_or(String::new(), |password| format!("{}:{}@", self.home, &*password));
        let past = self.as_of.map_or(String::new(), |time| format!("-/as-of/{time}/"));
        let folder = self.folder.as_str();
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Secret::new(format!("rest:http://{user}{}/{}/{past}{folder}", self.at, self.home))
    }

    /// A text without any of the passwords.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.password.iter().chain([&self.key]) {
            for form in [secret.expose(), &*Zeroizing::new(escape(secret.expose()))] {
                if !form.is_empty() {
                    text = text.replace(form, "***");
                }
            }
        }
        text
    }
}

/// What stands in a URL for a text.
fn escape(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository {
            at: "127.0.0.1:8000".parse().unwrap(),
            home: HomeName::new("bob").unwrap(),
            folder: Folder::new("mail").unwrap(),
            password: Some(Secret::new("p@ss/word")),
            key: Secret::new("words of his own"),
            as_of: None,
        }
    }

    #[test]
    fn a_repository_has_an_address_now_and_in_the_past() {
        let mut it = repository();
        assert_eq!(it.url().expose(), "rest:http://bob:p%40ss%2Fword@127.0.0.1:8000/bob/mail/");
        it.as_of = Some(1_764_000_000);
        it.folder = Folder::ROOT;
        it.password = None;
        assert_eq!(it.url().expose(), "rest:http://127.0.0.1:8000/bob/-/as-of/1764000000/");
    }

    #[test]
    fn no_form_of_a_password_is_shown() {
        let it = repository();
        let said = format!("can't open {}: words of his own, p@ss/word", it.url().expose());
        let hidden = it.hide(&said);
        assert_eq!(hidden, "can't open rest:http://bob:***@127.0.0.1:8000/bob/mail/: ***, ***");
        let shown = format!("{it:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("words"), "{shown}");
    }
}
