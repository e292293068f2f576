//! The recovery kit: 24 words (BIP 39) on paper, from which a burnt-down home comes back. They are the seed of the home's
//! signing key, of the keys of its repositories and of what its other secrets are sealed with.

mod field;
mod page;
mod read;
mod share;
mod share_page;

pub use page::{Friend, Paper};
pub use read::KitError;
pub use share::{PERSONS_MAX, Share, SplitError, SplitId, Terms};
pub use share_page::{Pages, persons};

use crate::line::Transport;
use crate::restic::Secret;
use crate::vault::{NotBelieved, Signer};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bip39::{Language, Mnemonic};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use thermidor_model::name::HomeName;
use zeroize::Zeroizing;

/// Words of a kit.
pub const WORDS: usize = 24;

/// A recovery kit. Whoever has it is the home.
#[derive(Clone, PartialEq, Eq)]
pub struct Kit(Zeroizing<[u8; 32]>);

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kit(..)")
    }
}

/// Why there is no kit, or nothing comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's cryptography fails")]
pub struct CryptoFailed;

struct Key;

impl KeyType for Key {
    fn len(&self) -> usize {
        32
    }
}

impl Kit {
    /// Draws a kit.
    pub fn draw() -> Result<Self, CryptoFailed> {
        let mut entropy = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut entropy[..]).map_err(|_| CryptoFailed)?;
        Ok(Self(entropy))
    }

    /// The 32 bytes from which all comes: a secret, to be kept sealed.
    pub fn entropy(&self) -> &Zeroizing<[u8; 32]> {
        &self.0
    }

    /// The kit of those bytes; `None` if they are not 32.
    pub fn from_entropy(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// The words, in their order.
    pub fn words(&self) -> Result<[&'static str; WORDS], CryptoFailed> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, &self.0[..]).map_err(|_| CryptoFailed)?;
        let mut words = [""; WORDS];
        for (place, word) in words.iter_mut().zip(mnemonic.words()) {
            *place = word;
        }
        Ok(words)
    }

    /// The key with which the home signs what it says to vaults.
    pub fn signer(&self) -> Result<Signer, NotBelieved> {
        let seed = self.derive(&["signing"]).map_err(|_| NotBelieved::Seed)?;
        Signer::from_seed(&seed)
    }

    /// The key that the home shows to its friends on the way to their vaults.
    pub fn transport(&self) -> Result<Transport, CryptoFailed> {
        Transport::from_seed(self.derive(&["transport"])?).ok_or(CryptoFailed)
    }

    /// The password of the repository at a friend's: each friend's is another.
    pub fn repository(&self, friend: &HomeName) -> Result<Secret, CryptoFailed> {
        let key = self.derive(&["repository", friend.as_str()])?;
        Ok(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(&key[..])))
    }

    /// What the key of the home's authority is sealed with, where it lies beside the backups.
    pub fn authority_seal(&self) -> Result<Zeroizing<[u8; 32]>, CryptoFailed> {
        self.derive(&["authority seal"])
    }

    /// What the home key is sealed with there.
    pub fn home_seal(&self) -> Result<Zeroizing<[u8; 32]>, CryptoFailed> {
        self.derive(&["home seal"])
    }

    /// HKDF over SHA-256. The words are 256 bits that were drawn, no passphrase: nothing is gained by taking long.
    fn derive(&self, purpose: &[&str]) -> Result<Zeroizing<[u8; 32]>, CryptoFailed> {
        let seed = Salt::new(HKDF_SHA256, b"thermidor recovery kit 1").extract(&self.0[..]);
        // A zero byte ends each part: no two purposes run into one another.
        let parts: Vec<&[u8]> = purpose.iter().flat_map(|part| [part.as_bytes(), &[0]]).collect();
        let mut key = Zeroizing::new([0; 32]);
        let expanded = seed.expand(&parts, Key).map_err(|_| CryptoFailed)?;
        expanded.fill(&mut key[..]).map_err(|_| CryptoFailed)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn home(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What a kit on paper gave once it must give for ever.
    #[test]
    fn a_kit_gives_the_same_keys_in_every_version() {
        let kit = Kit(Zeroizing::new([0; 32]));
        let words = kit.words().unwrap();
        assert!(words[..23].iter().all(|word| *word == "abandon") && words[23] == "art", "{words:?}");
        assert_eq!(
            hex(&kit.signer().unwrap().public().0),
            "f3fabd9a6afc1e03315a34ec3080bc7545aa1c91f4a9b45c085ade842b617329"
        );
        assert_eq!(
            hex(&kit.transport().unwrap().public().0),
            "da563336e1ebbe82abbd84cb93fded7ca8132c4682509180e547ba43efe359df"
        );
        assert_eq!(
            kit.repository(&home("alice")).unwrap().expose(),
            "_yrxgk4S1uYX4TC2QsKebGcWGZolSGpKBrYFHMM1Rvs"
        );
        assert_eq!(
            hex(&kit.authority_seal().unwrap()[..]),
            "27056143e57de6477d05bc4f87ea34d25645bf08aaa628570eb8b07b33cf052e"
        );
        assert_eq!(
            hex(&kit.home_seal().unwrap()[..]),
            "fb6e7299d42cd469ffe6358a33495ecfc21f299c66ebb2c46f5976ebb12a68e1"
        );
    }

    #[test]
    fn no_two_keys_of_a_kit_or_of_two_kits_are_the_same() {
        let mut all = BTreeSet::new();
        for kit in [Kit::draw().unwrap(), Kit::draw().unwrap()] {
            all.insert(hex(&kit.signer().unwrap().public().0));
            all.insert(hex(&kit.transport().unwrap().public().0));
            all.insert(hex(&kit.authority_seal().unwrap()[..]));
            all.insert(hex(&kit.home_seal().unwrap()[..]));
            for friend in ["alice", "carol"] {
                all.insert(kit.repository(&home(friend)).unwrap().expose().to_owned());
            }
        }
        assert_eq!(all.len(), 12);
        assert_eq!(format!("{:?}", Kit::draw().unwrap()), "Kit(..)");
    }
}
