//! The word by which a home that was recovered or rescued calls its generation its own, signed with the recovery kit. A vault
//! keeps it and hands it to whoever comes as an earlier generation. That one stops only for this word: what a vault says
//! of itself stops nobody.

use crate::vault::{HomeKey, NotBelieved, Says, Signed, Signer, Statement, VERSION};
use thermidor_model::name::{HomeName, UnixMs};

/// Who says it, or to whom it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Between {
    /// The home.
    pub home: HomeName,
    /// The friend whose vault keeps it.
    pub vault: HomeName,
}

/// A later generation of one's own home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    /// Its number.
    pub generation: u64,
    /// When it began, by its own clock, in ms since the Unix epoch; 0: it did not say.
    pub since: UnixMs,
}

/// Why a word stops nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHeard {
    /// It is not signed with this home's kit.
    #[error(transparent)]
    NotBelieved(#[from] NotBelieved),
    /// It is signed and was meant for another vault, or another home has the same kit.
    #[error("the word was said by {home} to {vault}")]
    Elsewhere {
        /// Who said it.
        home: HomeName,
        /// To whom.
        vault: HomeName,
    },
    /// The home has signed it, and it says something else.
    #[error("the word says nothing of a generation")]
    Other,
    /// It is of this generation or one before: of ourselves, or an old one that is said again.
    #[error("the word is of generation {0}, which is no later one")]
    NotLater(u64),
}

/// Signs the word for one vault.
pub fn sign(signer: &Signer, between: &Between, later: Later) -> Result<Signed, NotBelieved> {
    let Between { home, vault } = between.clone();
    let Later { generation, since } = later;
    let says = Says::Mine { since };
    let folder = String::new();
    signer.sign(&Statement { version: VERSION, home, vault, generation, number: generation, folder, says })
}

/// Hears a word that a vault has handed on; `own` is the generation of whoever hears it. Only a later one is answered.
pub fn hear(signed: &Signed, key: &HomeKey, between: &Between, own: u64) -> Result<Later, NotHeard> {
    let statement = signed.open(key)?;
    let Says::Mine { since } = statement.says else { return Err(NotHeard::Other) };
    let Statement { home, vault, generation, .. } = statement;
    if home != between.home || vault != between.vault {
        return Err(NotHeard::Elsewhere { home, vault });
    }
    if generation <= own {
        return Err(NotHeard::NotLater(generation));
    }
    Ok(Later { generation, since })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Head;

    fn name(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    fn between() -> Between {
        Between { home: name("maison"), vault: name("alpes") }
    }

    fn signer(n: u8) -> Signer {
        Signer::from_seed(&[n; 32]).unwrap()
    }

    #[test]
    fn only_a_later_generation_of_the_same_home_and_kit_is_heard() {
        let key = signer(7).public();
        let later = Later { generation: 3, since: 99 };
        let word = sign(&signer(7), &between(), later).unwrap();
        for own in [1, 2] {
            assert_eq!(hear(&word, &key, &between(), own), Ok(later));
        }
        // An equal one is one's own, and a lower one is old: after a further raise it is played in vain.
        for own in [3, 4, u64::MAX] {
            assert_eq!(hear(&word, &key, &between(), own), Err(NotHeard::NotLater(3)));
        }
    }

    #[test]
    fn nobody_else_can_say_it() {
        let key = signer(7).public();
        let later = Later { generation: 3, since: 99 };
        // A hostile friend, with a key of its own, or with a word that it changed.
        let forged = sign(&signer(8), &between(), later).unwrap();
        let signature = Err(NotHeard::NotBelieved(NotBelieved::Signature));
        assert_eq!(hear(&forged, &key, &between(), 1), signature);
        let mut changed = sign(&signer(7), &between(), Later { generation: 1, since: 0 }).unwrap();
        changed.statement = changed.statement.replace("\"generation\":1", "\"generation\":9");
        assert!(changed.statement.contains("\"generation\":9"));
        assert_eq!(hear(&changed, &key, &between(), 1), signature);
        let bare = Signed { signature: String::new(), ..changed };
        assert_eq!(hear(&bare, &key, &between(), 1), signature);
        // Another home's word, or one that was meant for another vault.
        let word = sign(&signer(7), &between(), later).unwrap();
        let other_home = Between { home: name("chalet"), ..between() };
        let other_vault = Between { vault: name("carol"), ..between() };
        for other in [other_home, other_vault] {
            let heard = hear(&word, &key, &other, 1);
            assert!(matches!(heard, Err(NotHeard::Elsewhere { .. })), "{heard:?}");
        }
        // The home's own signature under something else that names a later generation.
        let head = Statement {
            version: VERSION,
            home: name("maison"),
            vault: name("alpes"),
            generation: 3,
            number: 3,
            folder: String::new(),
            says: Says::Head(Head::default()),
        };
        let head = signer(7).sign(&head).unwrap();
        assert_eq!(hear(&head, &key, &between(), 1), Err(NotHeard::Other));
    }
}
