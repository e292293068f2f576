//! The keys of a home as they leave it: sealed by whoever takes them, beside the backups, so that the home can come back
//! when every disk is gone.

use super::{HomeKey, Identity, IdentityError};
use std::collections::BTreeMap;
use thermidor_model::State;
use zeroize::Zeroizing;

/// Everything that a home's radiators hold and its state does not. Never printed: it has no Debug.
#[derive(Clone)]
pub struct KeptKeys {
    /// The key of the authority whose certificate the state holds, PEM.
    pub authority_key_pem: Zeroizing<String>,
    /// The home keys by their numbers: secrets may still be sealed under an earlier one.
    pub home_keys: BTreeMap<u64, Zeroizing<[u8; 32]>>,
}

impl KeptKeys {
    /// Whether these are the keys of the home whose state this is, and all of them.
    pub(crate) fn check(&self, state: &State) -> Result<BTreeMap<u64, HomeKey>, IdentityError> {
        let keys: BTreeMap<u64, HomeKey> = self
            .home_keys
            .iter()
            .map(|(number, key)| Ok((*number, HomeKey::from_bytes(&key[..])?)))
            .collect::<Result<_, IdentityError>>()?;
        let sealed = state.secrets.values().map(|sealed| sealed.key);
        for number in sealed.chain([state.keys.number, state.keys.sealed_under]) {
            if !keys.contains_key(&number) {
                return Err(IdentityError::NotYet(number));
            }
        }
        let hash = keys.get(&state.keys.number).map(HomeKey::hash);
        if !state.keys.home_key_hash.is_empty() && hash.as_ref() != Some(&state.keys.home_key_hash) {
            return Err(IdentityError::Damaged("home.key", "it is another home's".into()));
        }
        super::Authority::load(&state.authority_pem, &self.authority_key_pem)?;
        Ok(keys)
    }
}

impl Identity {
    /// The home's keys, for an export of the home whose state this is. A witness has none; a radiator that has not
    /// got the present ones yet says so.
    pub fn keep(&self, state: &State) -> Result<KeptKeys, IdentityError> {
        let authority = self.authority()?;
        let key = |(number, key): (&u64, &HomeKey)| (*number, Zeroizing::new(*key.as_array()));
        let kept = KeptKeys {
            authority_key_pem: Zeroizing::new(authority.key_pem().to_owned()),
            home_keys: self.home_keys.iter().map(key).collect(),
        };
        if self.own.keys != state.keys.number {
            return Err(IdentityError::NotYet(state.keys.number));
        }
        kept.check(state)?;
        Ok(kept)
    }
}
