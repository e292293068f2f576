//! The one-time code: three words that one person reads to the other. Good for one guess and a short time; a slip of the
//! tongue is noticed before the guess is spent.

use crate::words;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// Words of a code.
const WORDS: usize = 3;
/// Bits that are drawn; the other eight are their checksum. One guess of 33 million.
const DRAWN: u32 = 25;

/// A one-time code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Code(u32, u8);

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

/// Why a text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCode {
    /// Too many words, or too few.
    #[error("a code is {WORDS} words, these are {0}")]
    Count(usize),
    /// No word of the list.
    #[error(transparent)]
    Unknown(#[from] words::Unknown),
    /// All are words, but not of one code.
    #[error("the words don't belong together: one was misheard, or they are in another order")]
    Checksum,
}

impl Code {
    /// Draws a code.
    pub fn draw() -> Self {
        Self::of(rand::random::<u32>() >> (32 - DRAWN))
    }

    fn of(drawn: u32) -> Self {
        let sum = digest(&SHA256, &[b"thermidor code 1".as_slice(), &drawn.to_be_bytes()].concat());
        Self(drawn, sum.as_ref()[0])
    }

    /// Reads what somebody typed: words in any case, their first four letters at least, with whatever between them.
    pub fn read(text: &str) -> Result<Self, NoCode> {
        let given: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
        if given.len() != WORDS {
            return Err(NoCode::Count(given.len()));
        }
        let mut all: u64 = 0;
        for (position, word) in (1..).zip(given) {
            let number = words::number(word).ok_or_else(|| words::Unknown::new(position, word))?;
            all = all << 11 | u64::from(number);
        }
        let (drawn, sum) = ((all >> 8) as u32, all as u8);
        let code = Self::of(drawn);
        if code.1 == sum { Ok(code) } else { Err(NoCode::Checksum) }
    }

    /// What both sides prove to know.
    pub(super) fn password(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.to_string().into_bytes())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = u64::from(self.0) << 8 | u64::from(self.1);
        let word = |shift: u32| words::word((all >> shift & 2047) as u16);
        write!(f, "{}-{}-{}", word(22), word(11), word(0))
    }
}

impl From<Code> for String {
    fn from(code: Code) -> String {
        code.to_string()
    }
}

impl TryFrom<String> for Code {
    type Error = NoCode;
    fn try_from(text: String) -> Result<Self, NoCode> {
        Self::read(&text)
    }
}

/// A code that was given out, and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// The form of this record.
    pub version: u8,
    /// The code.
    pub code: Code,
    /// When it ends, in ms since the Unix epoch.
    pub until: u64,
}

impl Invitation {
    /// The record's form.
    pub const VERSION: u8 = 1;

    /// A new code, good for `ttl_ms` from now on, in ms since the Unix epoch.
    pub fn draw(now: u64, ttl_ms: u64) -> Self {
        Self { version: Self::VERSION, code: Code::draw(), until: now.saturating_add(ttl_ms) }
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it() {
        for _ in 0..200 {
            let code = Code::draw();
            let text = code.to_string();
            assert_eq!(Code::read(&text), Ok(code.clone()));
            assert_eq!(Code::read(&text.to_uppercase().replace('-', " , ")), Ok(code.clone()));
            let short: Vec<String> = text.split('-').map(|w| w.chars().take(4).collect()).collect();
            assert_eq!(Code::read(&short.join(" ")), Ok(code.clone()));
            assert!(!format!("{code:?}").contains(text.split('-').next().unwrap()));
        }
        assert_eq!(Code::read("abandon ability"), Err(NoCode::Count(2)));
        let why = Code::read("abandon abilty able").unwrap_err().to_string();
        assert!(why.starts_with("word 2, `abilty`") && why.contains("perhaps `ability`"), "{why}");
    }

    #[test]
    fn a_word_misheard_is_noticed_before_the_guess_is_spent() {
        let mut noticed = 0;
        for n in 0..1000u32 {
            let text = Code::of(n * 33_000).to_string();
            let mut parts: Vec<&str> = text.split('-').collect();
            let at = n as usize % 3;
            let number = words::number(parts[at]).unwrap();
            parts[at] = words::word((number + 1 + n as u16) % 2048);
            noticed += usize::from(Code::read(&parts.join("-")).is_err());
        }
        assert!(noticed >= 985, "{noticed} of 1000");
    }

    #[test]
    fn an_invitation_ends() {
        let it = Invitation::draw(1000, 60_000);
        assert!(!it.is_over(60_999) && it.is_over(61_000));
        let text = serde_json::to_string(&it).unwrap();
        assert_eq!(serde_json::from_str::<Invitation>(&text).unwrap(), it);
    }
}
