//! Where a request wants to go: a strict reading of its path, before any file is touched. What is not exactly
//! a place of the protocol does not exist; nothing is decoded, joined or cleaned up.

use super::blob::{BlobName, Kind};
use std::fmt;
use thermidor_model::name::HomeName;

/// A repository of a friend: the friend's own, or one in a folder of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder(Option<String>);

impl Folder {
    /// The friend's own repository.
    pub const ROOT: Folder = Folder(None);

    /// A folder by its name: 1 to 40 of a-z, 0-9 and `-`, beginning with a letter, and no word of the protocol.
    pub fn new(name: &str) -> Option<Self> {
        let shaped = HomeName::new(name).is_ok();
        (shaped && name != "config" && Kind::of(name).is_none()).then(|| Self(Some(name.to_owned())))
    }

    /// Its name, empty for the friend's own repository.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which state of a repository a request speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Live,
    /// As it stood at a time, in ms since the Unix epoch; read-only.
    AsOf(u64),
}

/// A place in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The repository itself.
    Whole,
    /// Its `config`.
    Config,
    /// All blobs of a kind.
    List(Kind),
    /// One blob.
    Blob(Kind, BlobName),
}

/// What the path of a request names, after the friend's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A place of restic's protocol.
    Restic(Folder, View, Place),
    /// Something that rest-server does not have: `/FRIEND/-/VERB[/FOLDER]`.
    Own(Verb, Folder),
}

/// What a vault can be asked beyond restic's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Signed deletion lists and their cancelling.
    Deletions,
    /// The signed head of a repository.
    Head,
    /// A retention challenge.
    Challenge,
    /// The signed word that a generation is the home's own.
    Generation,
    /// The signed word that the home's kit was replaced.
    Kit,
    /// What room there is.
    Room,
}

/// The friend's name in a path, which is looked at before anything else.
pub fn friend_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}

/// Reads a path; `None` is a place that does not exist.
pub fn read(path: &str) -> Option<Address> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    match &parts[1..] {
        ["-", "as-of", time, rest @ ..] => {
            let (folder, place) = within(rest)?;
            Some(Address::Restic(folder, View::AsOf(moment(time)?), place))
        }
        ["-", verb] | ["-", verb, ""] => Some(Address::Own(verb_of(verb)?, Folder::ROOT)),
        ["-", verb, folder] | ["-", verb, folder, ""] => {
            Some(Address::Own(verb_of(verb)?, Folder::new(folder)?))
        }
        rest => {
            let (folder, place) = within(rest)?;
            Some(Address::Restic(folder, View::Live, place))
        }
    }
}

fn verb_of(word: &str) -> Option<Verb> {
    match word {
        "deletions" => Some(Verb::Deletions),
        "head" => Some(Verb::Head),
        "challenge" => Some(Verb::Challenge),
        "generation" => Some(Verb::Generation),
        "kit" => Some(Verb::Kit),
        "room" => Some(Verb::Room),
        _ => None,
    }
}

/// A time in a path: seconds since the Unix epoch, or RFC 3339. In ms since the Unix epoch.
fn moment(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // The whole second: what arrived within it is shown.
        return text.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(999);
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

fn within(parts: &[&str]) -> Option<(Folder, Place)> {
    let is_word = |part: &str| part == "config" || Kind::of(part).is_some();
    match parts {
        [] | [""] => Some((Folder::ROOT, Place::Whole)),
        [first, ..] if is_word(first) => Some((Folder::ROOT, place(parts)?)),
        [folder] | [folder, ""] => Some((Folder::new(folder)?, Place::Whole)),
        [folder, rest @ ..] => Some((Folder::new(folder)?, place(rest)?)),
    }
}

fn place(parts: &[&str]) -> Option<Place> {
    match parts {
        ["config"] => Some(Place::Config),
        [kind] | [kind, ""] => Some(Place::List(Kind::of(kind)?)),
        [kind, name] => Some(Place::Blob(Kind::of(kind)?, BlobName::read(name)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2";

    fn at(folder: &str, place: Place) -> Option<Address> {
        let folder = if folder.is_empty() { Folder::ROOT } else { Folder::new(folder).unwrap() };
        Some(Address::Restic(folder, View::Live, place))
    }

    #[test]
    fn split_url_path() {
        let blob = Place::Blob(Kind::Locks, BlobName::read(NAME).unwrap());
        assert_eq!(read("/alice"), at("", Place::Whole));
        assert_eq!(read("/alice/"), at("", Place::Whole));
        assert_eq!(read("/alice/mail/"), at("mail", Place::Whole));
        assert_eq!(read("/alice/config"), at("", Place::Config));
        assert_eq!(read("/alice/mail/config"), at("mail", Place::Config));
        assert_eq!(read("/alice/data/"), at("", Place::List(Kind::Data)));
        assert_eq!(read("/alice/mail/index/"), at("mail", Place::List(Kind::Index)));
        assert_eq!(read(&format!("/alice/locks/{NAME}")), at("", blob));
        assert_eq!(read(&format!("/alice/mail/locks/{NAME}")), at("mail", blob));
    }

    #[test]
    fn join_never_leaves_the_folder() {
        let odd = [
            "/alice/..",
            "/alice/../bob/config",
            "/alice/./config",
            "/alice//config",
            "/alice/mail//config",
            "/alice/%2e%2e/config",
            "/alice/mail/..",
            "/alice/data/..",
            "/alice/data/../config",
            "/alice/a/b/c/config",
            "/alice/a/b/config",
            "/alice/mail/data/ab/cd",
            "/alice/config/",
            "alice/config",
            "/alice/.hidden/config",
            "/alice/Mail/config",
            "/alice/ma\\il/config",
            "/alice/ma\0il/config",
            "/alice/tmp/../../x",
            "/alice/data/c3ab",
            "/alice/-/..",
            "/alice/-/as-of/tomorrow/config",
            "/alice/-/as-of//config",
            "/alice/-/as-of/1/../config",
            "/alice/-/secrets",
            "/alice/-/head/..",
            "/alice/-/as-of/99999999999999999999/config",
            "/alice/-/as-of/18446744073709551615/config",
        ];
        for path in odd {
            assert_eq!(read(path), None, "{path}");
        }
        let upper = NAME.to_uppercase();
        for name in [&NAME[1..], &format!("{NAME}0"), &upper, &format!("{}g", &NAME[1..])] {
            assert_eq!(read(&format!("/alice/data/{name}")), None, "{name}");
        }
    }

    #[test]
    fn a_repository_as_it_stood_is_named_by_seconds_or_by_a_date() {
        let as_of = |ms| Some(Address::Restic(Folder::new("mail").unwrap(), View::AsOf(ms), Place::Config));
        assert_eq!(read("/alice/-/as-of/1764000000/mail/config"), as_of(1_764_000_000_999));
        assert_eq!(read("/alice/-/as-of/2025-11-24T16:00:00Z/mail/config"), as_of(1_764_000_000_000));
        assert_eq!(read("/alice/-/head/mail"), Some(Address::Own(Verb::Head, Folder::new("mail").unwrap())));
        assert_eq!(read("/alice/-/deletions"), Some(Address::Own(Verb::Deletions, Folder::ROOT)));
    }
}
