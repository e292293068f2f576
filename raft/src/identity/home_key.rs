//! The home key: 32 random bytes that every radiator holds, under which secrets are sealed.

use super::IdentityError;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use thermidor_model::state::Sealed;
use zeroize::{Zeroize, Zeroizing};

/// The home key. Never printed: it has no Debug.
#[derive(Clone, Serialize, Deserialize)]
pub struct HomeKey([u8; 32]);

impl Drop for HomeKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl HomeKey {
    /// A new key.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::Random)?;
        Ok(Self(bytes))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let damaged = |_| IdentityError::Damaged("home.key", "it is not 32 bytes long".into());
        Ok(Self(bytes.try_into().map_err(damaged)?))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn as_array(&self) -> &[u8; 32] {
        &self.0
    }

    /// By which others are told which key it is: nobody guesses 32 random bytes.
    pub(crate) fn hash(&self) -> String {
        blake3::hash(&self.0).to_hex().to_string()
    }

    fn cipher(&self) -> Result<LessSafeKey, IdentityError> {
        Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).map_err(|_| IdentityError::Random)?))
    }

    /// Secret bytes for a purpose: the same on every radiator, for as long as this key is the home's.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = blake3::derive_key("thermidor home key, version 1: what is derived from it", &self.0);
        let bytes = *blake3::keyed_hash(&key, purpose.as_bytes()).as_bytes();
        key.zeroize();
        bytes
    }

    /// Seals a secret under its name, as key number 0: opened under another name it is refused.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Sealed, IdentityError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| IdentityError::Random)?;
        let mut bytes = secret.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut bytes,
            )
            .map_err(|_| IdentityError::Random)?;
        Ok(Sealed { nonce, bytes, key: 0 })
    }

    /// Opens what was sealed under that name.
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let mut bytes = Zeroizing::new(sealed.bytes.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let length = self
            .cipher()?
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut bytes)
            .map_err(|_| IdentityError::Sealed(name.to_string()))?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }
}
