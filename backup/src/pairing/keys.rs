//! What follows from the secret that two homes share once both knew the code: a proof each, a sealed letter each, and
//! words that two people compare.

use crate::words;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

/// The side of a pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who gave out the code.
    Host,
    /// Who typed it.
    Guest,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Side::Host => Side::Guest,
            Side::Guest => Side::Host,
        }
    }

    pub fn name(self) -> &'static [u8] {
        match self {
            Side::Host => b"thermidor pairing host 1",
            Side::Guest => b"thermidor pairing guest 1",
        }
    }
}

/// Words that two people compare. 44 bits: somebody between the two, who knows the code, would have to try so many keys
/// while they wait.
const WORDS: usize = 4;

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The shared secret. Each letter is sealed under a key of its own, which is used once.
pub(super) struct Keys(Prk);

impl Keys {
    /// What the exchange gave, which covers all that was said in it.
    pub fn new(shared: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, b"thermidor pairing 1").extract(shared))
    }

    fn expand<const N: usize>(&self, what: &[u8], side: &[u8]) -> Result<Zeroizing<[u8; N]>, Unspecified> {
        let mut key = Zeroizing::new([0; N]);
        self.0.expand(&[what, side], Length(N))?.fill(&mut key[..])?;
        Ok(key)
    }

    /// The proof that a side knows the secret.
    pub fn proof(&self, side: Side) -> Result<[u8; 32], Unspecified> {
        self.expand::<32>(b"proof ", side.name()).map(|proof| *proof)
    }

    fn letter(&self, side: Side, which: &[u8]) -> Result<LessSafeKey, Unspecified> {
        let key = self.expand::<32>(which, side.name())?;
        UnboundKey::new(&CHACHA20_POLY1305, &key[..]).map(LessSafeKey::new)
    }

    /// Seals a side's letter of a kind. To be called once for each.
    pub fn seal(&self, side: Side, which: &[u8], text: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut sealed = text.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.letter(side, which)?.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed)?;
        Ok(sealed)
    }

    /// Opens it.
    pub fn open(&self, side: Side, which: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let length = self.letter(side, which)?.open_in_place(nonce, Aad::empty(), &mut text)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// The words.
    pub fn words(&self) -> Result<[&'static str; WORDS], Unspecified> {
        let bytes = self.expand::<{ WORDS * 2 }>(b"words", b"")?;
        let mut words = [""; WORDS];
        for (word, pair) in words.iter_mut().zip(bytes.chunks(2)) {
            *word = words::word(u16::from_be_bytes([pair[0], pair[1]]) & 2047);
        }
        Ok(words)
    }
}
