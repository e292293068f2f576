//! The word by which a home says that its recovery kit was replaced: signed with the kit that the friend knows, and with the new
//! one, so that nobody announces keys that are another's. Whoever has found the old paper can say it as well: a friend's
//! home takes note of it, shows four words, and believes it once a person has compared them.

use crate::generations::Between;
use crate::kit::{CryptoFailed, Kit};
use crate::line::TransportKey;
use crate::vault::{HomeKey, NotBelieved, Says, Signed, Statement, VERSION};
use crate::words;
use ring::pbkdf2;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// Words that are compared.
const WORDS: usize = 4;
/// So often is hashed for the words: whoever looks for keys that have the words of another's pays it for each.
const ROUNDS: NonZeroU32 = NonZeroU32::new(200_000).expect("not zero");

/// The public keys that a kit gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKeys {
    /// With which it signs.
    pub key: HomeKey,
    /// By which it is known on the line.
    pub transport: TransportKey,
}

/// One statement under two signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// By the kit that the friend knows.
    pub old: Signed,
    /// The same words, by the new one.
    pub new: Signed,
}

/// Why there is no announcement.
#[derive(Debug, thiserror::Error)]
pub enum NotAnnounced {
    /// A kit gives no signing key.
    #[error(transparent)]
    Sign(#[from] NotBelieved),
    /// A kit gives no transport key.
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
}

impl NewKeys {
    /// Those of a kit.
    pub fn of(kit: &Kit) -> Result<Self, NotAnnounced> {
        Ok(Self { key: kit.signer()?.public(), transport: kit.transport()?.public() })
    }

    /// The words that both people must read where these keys take the place of `old` between those two homes. Takes a
    /// tenth of a second.
    pub fn words(&self, old: &HomeKey, between: &Between) -> [&'static str; WORDS] {
        let (home, vault) = (between.home.as_str().as_bytes(), between.vault.as_str().as_bytes());
        let covered = [home, b"\0", vault, b"\0", &old.0, &self.key.0, &self.transport.0].concat();
        let mut bytes = [0; WORDS * 2];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ROUNDS,
            b"thermidor words of a replaced kit 1",
            &covered,
            &mut bytes,
        );
        let mut words = [""; WORDS];
        for (word, pair) in words.iter_mut().zip(bytes.chunks(2)) {
            *word = words::word(u16::from_be_bytes([pair[0], pair[1]]) & 2047);
        }
        words
    }
}

impl Announcement {
    /// Signs it for one vault.
    pub fn sign(old: &Kit, new: &Kit, between: &Between, generation: u64) -> Result<Self, NotAnnounced> {
        let Between { home, vault } = between.clone();
        let NewKeys { key, transport } = NewKeys::of(new)?;
        let says = Says::Kit { key, transport };
        let folder = String::new();
        // It needs no number: it says the same each time, and a person has the last word.
        let statement = Statement { version: VERSION, home, vault, generation, number: 0, folder, says };
        Ok(Self { old: old.signer()?.sign(&statement)?, new: new.signer()?.sign(&statement)? })
    }

    /// The keys that it names, once the old signature was found to be over `statement`; `None`: it names none. Refused
    /// unless whoever holds the new key has signed the same words.
    pub fn new_keys(&self, statement: &Statement) -> Result<Option<NewKeys>, NotBelieved> {
        let Says::Kit { key, transport } = statement.says else { return Ok(None) };
        if self.new.statement != self.old.statement {
            return Err(NotBelieved::Signature);
        }
        self.new.open(&key)?;
        Ok(Some(NewKeys { key, transport }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Head;
    use thermidor_model::name::HomeName;

    fn between() -> Between {
        let name = |name| HomeName::new(name).unwrap();
        Between { home: name("maison"), vault: name("alpes") }
    }

    fn heard(said: &Announcement, known: &Kit) -> Result<Option<NewKeys>, NotBelieved> {
        said.new_keys(&said.old.open(&known.signer()?.public())?)
    }

    #[test]
    fn keys_are_named_by_who_holds_both_kits() {
        let [old, new, thief] = std::array::from_fn(|_| Kit::draw().unwrap());
        let said = Announcement::sign(&old, &new, &between(), 1).unwrap();
        assert_eq!(heard(&said, &old), Ok(Some(NewKeys::of(&new).unwrap())));
        // Somebody without the kit that is known.
        let forged = Announcement::sign(&thief, &new, &between(), 1).unwrap();
        assert_eq!(heard(&forged, &old), Err(NotBelieved::Signature));
        // Keys of somebody else: without their own signature, or with one over other words.
        let bare = Announcement { new: said.old.clone(), ..said.clone() };
        assert_eq!(heard(&bare, &old), Err(NotBelieved::Signature));
        let other = Announcement::sign(&old, &new, &between(), 2).unwrap();
        let mixed = Announcement { new: other.new, ..said.clone() };
        assert_eq!(heard(&mixed, &old), Err(NotBelieved::Signature));
        // The home's own signature under something else.
        let statement = Statement {
            says: Says::Head(Head::default()),
            ..said.old.open(&old.signer().unwrap().public()).unwrap()
        };
        let head = old.signer().unwrap().sign(&statement).unwrap();
        assert_eq!(heard(&Announcement { old: head.clone(), new: head }, &old), Ok(None));
    }

    #[test]
    fn the_words_are_those_of_these_keys_between_these_homes() {
        let [old, new, thief] = std::array::from_fn(|_| Kit::draw().unwrap());
        let (keys, known) = (NewKeys::of(&new).unwrap(), old.signer().unwrap().public());
        let words = keys.words(&known, &between());
        assert_eq!(words, keys.words(&known, &between()));
        let vault = HomeName::new("carol").unwrap();
        let others = [
            NewKeys::of(&thief).unwrap().words(&known, &between()),
            NewKeys { transport: thief.transport().unwrap().public(), ..keys }.words(&known, &between()),
            keys.words(&thief.signer().unwrap().public(), &between()),
            keys.words(&known, &Between { vault, ..between() }),
        ];
        assert!(others.iter().all(|other| *other != words), "{words:?} {others:?}");
    }
}
