//! A kit split among friends' persons (Shamir): any so many shares give it back, fewer say nothing. What a share is in
//! words is fixed here for ever: 22 bits of the split's number, two that are 0, four each for how many are needed, how
//! many there are and which this is (each less one), four that are 0, 36 bytes of the share itself, 24 bits of checksum.

use super::field::{times, value_at, weights};
use super::read::{Form, KitError, read_words};
use super::{CryptoFailed, Kit};
use crate::words;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::fmt;
use thermidor_model::name::HomeName;
use zeroize::Zeroizing;

/// Words of a share.
pub const SHARE_WORDS: usize = 32;
/// Persons among whom a kit is split at most.
pub const PERSONS_MAX: usize = 16;

/// Longest name of a person, letters.
pub(super) const PERSON_MAX: usize = 40;

/// Bytes of a share in words, and of those before its checksum.
const BYTES: usize = SHARE_WORDS * 11 / 8;
const COVERED: usize = BYTES - 3;
/// Bytes that are split: the kit's, and four that check what comes of combining.
const SPLIT: usize = 36;

pub(super) const FORM: Form = Form {
    what: "a share",
    words: SHARE_WORDS,
    row: b"thermidor share row 1",
    fits: |numbers| unpack(numbers).is_some(),
};

/// Which split a share is of. It is shown as the two words with which each of its shares begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitId(u32);

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", words::word((self.0 >> 11 & 2047) as u16), words::word((self.0 & 2047) as u16))
    }
}

/// How many shares there are, and how many give the kit back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    needed: u8,
    of: u8,
}

impl Terms {
    /// Two are needed at least, and no more than there are.
    pub fn new(needed: usize, of: usize) -> Result<Self, SplitError> {
        if of > PERSONS_MAX || needed < 2 || needed > of {
            return Err(SplitError::Terms { needed, of });
        }
        Ok(Self { needed: needed as u8, of: of as u8 })
    }

    /// Shares that give the kit back.
    pub fn needed(self) -> usize {
        self.needed.into()
    }

    /// Shares that there are.
    pub fn of(self) -> usize {
        self.of.into()
    }
}

/// Why a kit is not split, or shares don't give one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// No such split is made.
    #[error(
        "{needed} of {of} is no split: it is among 2 to {PERSONS_MAX} persons, of whom 2 are needed at least, and no more \
         than there are"
    )]
    Terms {
        /// Shares that would give the kit back.
        needed: usize,
        /// Shares that there would be.
        of: usize,
    },
    /// There is no randomness.
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
    /// Of a later program.
    #[error("share {0} is of a form that this program does not know: take a newer one")]
    Form(SplitId),
    /// Some more have to be found.
    #[error("{} of the split {id} {}: it takes {needed}, any of {}", more(*.missing), are(*.missing), numbers(.others))]
    TooFew {
        /// Of which split.
        id: SplitId,
        /// How many more.
        missing: usize,
        /// How many in all.
        needed: usize,
        /// Those that were not given.
        others: Vec<u8>,
    },
    /// One was given twice.
    #[error("share {number} of the split {id} was given twice")]
    Twice {
        /// Of which split.
        id: SplitId,
        /// Which.
        number: u8,
    },
    /// Nobody is called so.
    #[error("`{0}` is no name of a person: 1 to {PERSON_MAX} letters, without a comma")]
    Person(String),
    /// Who has two shares is two persons.
    #[error("{0} is named twice: each person gets one share")]
    PersonTwice(String),
    /// Of two homes.
    #[error("these are shares of two homes, {0} and {1}")]
    Homes(HomeName, HomeName),
    /// Of two splits.
    #[error(
        "these are shares of the splits {0} and {1}: only those that begin with the same two words go together, and of an \
         earlier split none is needed"
    )]
    Mixed(SplitId, SplitId),
    /// All fit in themselves, and not together.
    #[error(
        "these shares of the split {0} don't give a kit: at least one of them was not made with the others. Leave out one, \
         or ask another person"
    )]
    Checksum(SplitId),
}

fn more(missing: usize) -> String {
    if missing == 1 { "one more share".into() } else { format!("{missing} more shares") }
}

fn are(missing: usize) -> &'static str {
    if missing == 1 { "is needed" } else { "are needed" }
}

fn numbers(all: &[u8]) -> String {
    all.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// What one person keeps. A secret, though one alone says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// Of which split.
    pub id: SplitId,
    /// How many there are, and are needed.
    pub terms: Terms,
    /// Which, from 1.
    pub number: u8,
    values: Zeroizing<[u8; SPLIT]>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({}, {}, ..)", self.id, self.number)
    }
}

impl Kit {
    /// Draws a split.
    pub fn split(&self, terms: Terms) -> Result<Vec<Share>, SplitError> {
        let system = SystemRandom::new();
        let mut id = [0; 4];
        system.fill(&mut id).map_err(|_| CryptoFailed)?;
        let id = SplitId(u32::from_be_bytes(id) >> 10);
        self.split_with(id, terms, |drawn| system.fill(drawn).map_err(|_| CryptoFailed))
    }

    /// A split with coefficients that come from `draw`: each is any byte, 0 too.
    fn split_with(
        &self,
        id: SplitId,
        terms: Terms,
        mut draw: impl FnMut(&mut [u8]) -> Result<(), CryptoFailed>,
    ) -> Result<Vec<Share>, SplitError> {
        let share = |number| Share { id, terms, number, values: Zeroizing::new([0; SPLIT]) };
        let mut shares: Vec<Share> = (1..=terms.of).map(share).collect();
        let secret = Zeroizing::new([&self.0[..], &sum_of(id, &self.0)].concat());
        let mut coefficients = Zeroizing::new([0; PERSONS_MAX]);
        for (at, byte) in secret.iter().enumerate() {
            let coefficients = &mut coefficients[..terms.needed()];
            coefficients[0] = *byte;
            draw(&mut coefficients[1..])?;
            for share in &mut shares {
                share.values[at] = value_at(share.number, coefficients);
            }
        }
        Ok(shares)
    }

    /// The kit of as many shares as are needed, or of more of them.
    pub fn combine(shares: &[Share]) -> Result<Self, SplitError> {
        let Some(first) = shares.first() else { return Err(SplitError::Terms { needed: 0, of: 0 }) };
        let (id, terms) = (first.id, first.terms);
        let mut by_number = BTreeMap::new();
        for share in shares {
            if share.id != id {
                return Err(SplitError::Mixed(id, share.id));
            }
            if share.terms != terms {
                return Err(SplitError::Checksum(id));
            }
            if by_number.insert(share.number, share).is_some() {
                return Err(SplitError::Twice { id, number: share.number });
            }
        }
        if by_number.len() < terms.needed() {
            let others = (1..=terms.of).filter(|number| !by_number.contains_key(number)).collect();
            let missing = terms.needed() - by_number.len();
            return Err(SplitError::TooFew { id, missing, needed: terms.needed(), others });
        }
        let weights = weights(&by_number.keys().copied().collect::<Vec<_>>());
        let mut secret = Zeroizing::new([0; SPLIT]);
        for (share, weight) in by_number.values().zip(weights) {
            for (byte, value) in secret.iter_mut().zip(share.values.iter()) {
                *byte ^= times(*value, weight);
            }
        }
        let kit = Self::from_entropy(&secret[..32]).ok_or(CryptoFailed)?;
        if sum_of(id, &kit.0) != secret[32..] {
            return Err(SplitError::Checksum(id));
        }
        Ok(kit)
    }
}

/// By which is noticed that shares don't belong together. It is split with the kit: no share tells anything of it.
fn sum_of(id: SplitId, kit: &[u8; 32]) -> [u8; SPLIT - 32] {
    let covered = Zeroizing::new([b"thermidor kit split 1".as_slice(), &id.0.to_be_bytes(), kit].concat());
    let sum = digest(&SHA256, &covered);
    std::array::from_fn(|at| sum.as_ref()[at])
}

impl Share {
    /// The words, in their order.
    pub fn words(&self) -> [&'static str; SHARE_WORDS] {
        let head = u64::from(self.id.0) << 18
            | u64::from(self.terms.needed - 1) << 12
            | u64::from(self.terms.of - 1) << 8
            | u64::from(self.number - 1) << 4;
        let mut bytes = Zeroizing::new([0; BYTES]);
        bytes[..5].copy_from_slice(&head.to_be_bytes()[3..]);
        bytes[5..COVERED].copy_from_slice(&self.values[..]);
        let check = check_of(&bytes);
        bytes[COVERED..].copy_from_slice(&check);
        std::array::from_fn(|at| word_at(&bytes, at))
    }

    /// Reads what somebody typed or scanned, as [`Kit::read`] does.
    pub fn read(text: &str) -> Result<Self, KitError> {
        let numbers = read_words(text, &FORM)?;
        let bytes = unpack(&numbers).ok_or_else(|| KitError::Checksum(Vec::new()))?;
        let head = bytes[..5].iter().fold(0, |head: u64, byte| head << 8 | u64::from(*byte));
        let id = SplitId((head >> 18) as u32);
        let nibble = |shift: u32| (head >> shift & 15) as usize + 1;
        if head & 0x3_000f != 0 {
            return Err(SplitError::Form(id).into());
        }
        let terms = Terms::new(nibble(12), nibble(8))?;
        let number = nibble(4) as u8;
        if number > terms.of {
            return Err(SplitError::Form(id).into());
        }
        let mut values = Zeroizing::new([0; SPLIT]);
        values.copy_from_slice(&bytes[5..COVERED]);
        Ok(Self { id, terms, number, values })
    }
}

fn word_at(bytes: &[u8; BYTES], at: usize) -> &'static str {
    let bit = |bit: usize| u16::from(bytes[bit / 8] >> (7 - bit % 8) & 1);
    words::word((at * 11..(at + 1) * 11).fold(0, |number, place| number << 1 | bit(place)))
}

/// The 24 bits by which a mistyped word is noticed.
fn check_of(bytes: &[u8; BYTES]) -> [u8; 3] {
    let covered = Zeroizing::new([b"thermidor kit share 1".as_slice(), &bytes[..COVERED]].concat());
    let sum = digest(&SHA256, &covered);
    std::array::from_fn(|at| sum.as_ref()[at])
}

/// The bytes of the words, if their checksum fits.
fn unpack(numbers: &[u16]) -> Option<Zeroizing<[u8; BYTES]>> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    for bit in 0..BYTES * 8 {
        let is_set = numbers.get(bit / 11)? >> (10 - bit % 11) & 1;
        bytes[bit / 8] |= (is_set as u8) << (7 - bit % 8);
    }
    (check_of(&bytes) == bytes[COVERED..]).then_some(bytes)
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
