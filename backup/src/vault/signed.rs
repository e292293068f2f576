//! What a home says to a friend's vault under its own key: lists of what may be deleted, their cancelling, and the
//! head of a repository. Credentials alone can say none of this.

use super::blob::{BlobName, Kind};
use super::head::Head;
use crate::line::TransportKey;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use thermidor_model::name::HomeName;

/// What is signed begins with this: a signature made for something else is none here.
const DOMAIN: &[u8] = b"thermidor statement to a vault 1\0";

/// The public key of a home, Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeKey(pub [u8; 32]);

/// A home's signing key.
pub struct Signer(Ed25519KeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({:?})", self.public())
    }
}

/// What a home says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The form of this record.
    pub version: u8,
    /// Who says it.
    pub home: HomeName,
    /// To whose vault; one friend can't show another what was meant for it.
    pub vault: HomeName,
    /// The home's generation.
    pub generation: u64,
    /// Rises with every statement to this vault: none can be said again by somebody else later.
    pub number: u64,
    /// The folder it speaks of, empty for the friend's own repository.
    pub folder: String,
    /// What is said.
    pub says: Says,
}

/// The form of statements that is written and read today.
pub const VERSION: u8 = 1;

/// The kinds of statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Says {
    /// These may be deleted once the agreed time has passed.
    Delete(Vec<(Kind, BlobName)>),
    /// The deletion list of that number is taken back.
    Cancel(u64),
    /// So the repository stands.
    Head(Head),
    /// The generation that this statement names is mine. Whoever else is this home, of an earlier one, is it no more.
    Mine {
        /// When it began, in ms since the Unix epoch; 0: not known.
        since: u64,
    },
    /// From now on I sign with this key and show that one: my recovery kit was replaced.
    Kit {
        /// The new signing key.
        key: HomeKey,
        /// The new transport key.
        transport: TransportKey,
    },
}

/// A statement as it travels and is kept: its text, and the signature over exactly that text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The statement in JSON.
    pub statement: String,
    /// Ed25519, base64.
    pub signature: String,
}

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBelieved {
    /// Somebody else's signature, or other words.
    #[error("the signature is not this home's over this text")]
    Signature,
    /// It is signed but can't be read.
    #[error("the statement can't be read: {0}")]
    Unreadable(String),
    /// A form that is not known here.
    #[error("the statement has form {0}: this radiator reads form {VERSION}")]
    Version(u8),
    /// The system gives no key.
    #[error("that is no seed of a key")]
    Seed,
}

impl Signer {
    /// The key that a seed of 32 bytes stands for.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, NotBelieved> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| NotBelieved::Seed)
    }

    /// A fresh seed from the system.
    pub fn seed() -> Result<[u8; 32], NotBelieved> {
        let seed: ring::rand::Random<[u8; 32]> =
            ring::rand::generate(&SystemRandom::new()).map_err(|_| NotBelieved::Seed)?;
        Ok(seed.expose())
    }

    /// The public half.
    pub fn public(&self) -> HomeKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        HomeKey(key)
    }

    /// Signs a statement.
    pub fn sign(&self, statement: &Statement) -> Result<Signed, NotBelieved> {
        let statement =
            serde_json::to_string(statement).map_err(|e| NotBelieved::Unreadable(e.to_string()))?;
        let signature = BASE64_STANDARD.encode(self.0.sign(&covered(&statement)));
        Ok(Signed { statement, signature })
    }
}

impl Signed {
    /// The statement, if that key signed it.
    pub fn open(&self, key: &HomeKey) -> Result<Statement, NotBelieved> {
        let signature = BASE64_STANDARD.decode(&self.signature).map_err(|_| NotBelieved::Signature)?;
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&covered(&self.statement), &signature)
            .map_err(|_| NotBelieved::Signature)?;
        let statement: Statement =
            serde_json::from_str(&self.statement).map_err(|e| NotBelieved::Unreadable(e.to_string()))?;
        match statement.version {
            VERSION => Ok(statement),
            other => Err(NotBelieved::Version(other)),
        }
    }
}

fn covered(statement: &str) -> Vec<u8> {
    [DOMAIN, statement.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_believed_only_as_it_was_signed_and_by_whom() {
        let signer = Signer::from_seed(&[7; 32]).unwrap();
        let statement = Statement {
            version: VERSION,
            home: HomeName::new("bob").unwrap(),
            vault: HomeName::new("alice").unwrap(),
            generation: 3,
            number: 9,
            folder: "mail".into(),
            says: Says::Delete(vec![(Kind::Data, BlobName::of(b"x"))]),
        };
        let signed = signer.sign(&statement).unwrap();
        assert_eq!(signed.open(&signer.public()), Ok(statement.clone()));
        let other = Signer::from_seed(&[8; 32]).unwrap().public();
        assert_eq!(signed.open(&other), Err(NotBelieved::Signature));
        let mut changed = signed.clone();
        changed.statement = changed.statement.replace("\"number\":9", "\"number\":8");
        assert_ne!(changed.statement, signed.statement);
        assert_eq!(changed.open(&signer.public()), Err(NotBelieved::Signature));
        let newer = signer.sign(&Statement { version: 2, ..statement }).unwrap();
        assert_eq!(newer.open(&signer.public()), Err(NotBelieved::Version(2)));
        assert!(!format!("{signer:?}").contains("07, 07"));
    }
}
