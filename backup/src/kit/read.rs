//! A kit or a share typed in from paper, with all that goes wrong in that: which word is wrong is said, and what it may
//! have been.

use super::share::{SHARE_WORDS, SplitError};
use super::{Kit, WORDS};
use crate::words;
use bip39::{Language, Mnemonic};
use ring::digest::{SHA256, digest};
use std::fmt;
use zeroize::Zeroizing;

/// Words of a row on paper. Each row has two digits of its own to check it.
pub(super) const ROW: usize = 4;
/// Proposals that are made.
const SUSPECTS_MAX: usize = 5;

/// What is written in words.
pub(super) struct Form {
    /// What a person calls it.
    pub what: &'static str,
    /// How many words it has.
    pub words: usize,
    /// What the checks of its rows begin with.
    pub row: &'static [u8],
    /// Whether so many words are one.
    pub fits: fn(&[u16]) -> bool,
}

/// A kit's words.
pub(super) const KIT: Form = Form {
    what: "a recovery kit",
    words: WORDS,
    row: b"thermidor kit row 1",
    fits: |numbers| entropy_of(numbers).is_some(),
};

/// What may be wrong if all words are known and don't fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    /// A word was taken for another.
    Word {
        /// Which, from 1.
        position: usize,
        /// What was given.
        given: &'static str,
        /// With which it would fit.
        fits: &'static str,
    },
    /// This word and the next would fit in the other order.
    Swapped(usize),
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word { position, given, fits } => write!(f, "word {position}, `{given}`, is `{fits}`"),
            Self::Swapped(first) => write!(f, "words {first} and {} are in the other order", first + 1),
        }
    }
}

/// Why a text is no kit, or no share of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KitError {
    /// Too many words, or too few.
    #[error("{what} is {words} words, these are {given}{}", other(*.given))]
    Count {
        /// What was to be read.
        what: &'static str,
        /// How many words it has.
        words: usize,
        /// How many were given.
        given: usize,
    },
    /// No word of the list.
    #[error(transparent)]
    Unknown(#[from] words::Unknown),
    /// A row's own check does not fit.
    #[error("one of the words {first} to {last}, or their order, is not what the row's #{given:02} was made for{}", perhaps(.suspects))]
    Row {
        /// The row's first word, from 1.
        first: usize,
        /// Its last.
        last: usize,
        /// The two digits that were given.
        given: u8,
        /// What it may be.
        suspects: Vec<Suspect>,
    },
    /// All are words, but not of one kit.
    #[error("all words are known, but one of them is wrong or they are in another order{}", perhaps(.0))]
    Checksum(Vec<Suspect>),
    /// It is the page of a share.
    #[error("this is a share of a recovery kit that was split: give it with --share, once for each")]
    IsShare,
    /// It is the page of a whole kit.
    #[error("this is the page of a whole recovery kit: give it with --kit, and no other is needed")]
    IsKit,
    /// All words of a share fit, and what they say does not.
    #[error(transparent)]
    Split(#[from] SplitError),
}

/// What so many words would be.
fn other(given: usize) -> &'static str {
    match given {
        WORDS => ": so many are a whole recovery kit, which is given with --kit",
        SHARE_WORDS => ": so many are a share, which is given with --share",
        _ => "",
    }
}

fn perhaps(suspects: &[Suspect]) -> String {
    if suspects.is_empty() {
        return String::new();
    }
    let all: Vec<String> = suspects.iter().map(Suspect::to_string).collect();
    format!("; perhaps {}", all.join(", or "))
}

/// The two digits that check a row of words.
pub(super) fn check_of(form: &Form, row: usize, words: &[u16]) -> u8 {
    let mut covered = form.row.to_vec();
    covered.push(row as u8);
    covered.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    let sum = digest(&SHA256, &covered);
    (u16::from_be_bytes([sum.as_ref()[0], sum.as_ref()[1]]) % 100) as u8
}

fn entropy_of(numbers: &[u16]) -> Option<Zeroizing<[u8; 32]>> {
    let text: Vec<&str> = numbers.iter().map(|number| words::word(*number)).collect();
    let text = Zeroizing::new(text.join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &text).ok()?;
    let (all, length) = mnemonic.to_entropy_array();
    let all = Zeroizing::new(all);
    Some(Zeroizing::new(all.get(..length)?.try_into().ok()?))
}

impl Kit {
    /// Reads what somebody typed or scanned: the words in any case, their first four letters at least. Numbers before
    /// them don't matter; the `#` and two digits of a row are looked at where they are given.
    pub fn read(text: &str) -> Result<Self, KitError> {
        let numbers = read_words(text, &KIT)?;
        entropy_of(&numbers).map(Self).ok_or_else(|| KitError::Checksum(Vec::new()))
    }
}

/// The words' numbers, which fit together.
pub(super) fn read_words(text: &str, form: &Form) -> Result<Zeroizing<Vec<u16>>, KitError> {
    let mut numbers: Zeroizing<Vec<u16>> = Zeroizing::default();
    let mut checks = Vec::new();
    let mut count = 0;
    let mut unknown = None;
    for token in text.split(|c: char| !(c.is_alphanumeric() || c == '#')).filter(|t| !t.is_empty()) {
        if let Some(check) = token.strip_prefix('#').and_then(|digits| digits.parse().ok()) {
            checks.push((count, check));
        } else if !token.bytes().all(|b| b.is_ascii_digit() || b == b'#') {
            count += 1;
            match words::number(token) {
                Some(number) => numbers.push(number),
                None => {
                    let word = token.chars().take(20).collect();
                    let none = words::Unknown { word, ..words::Unknown::new(count, token) };
                    unknown.get_or_insert(KitError::Unknown(none));
                }
            }
        }
    }
    // A word too many is more often said by its place than by their count.
    if let Some(unknown) = unknown {
        return Err(unknown);
    }
    if count != form.words {
        return Err(KitError::Count { what: form.what, words: form.words, given: count });
    }
    if (form.fits)(&numbers) {
        return Ok(numbers);
    }
    for (end, given) in checks {
        let Some(first) = usize::checked_sub(end, ROW).filter(|first| first % ROW == 0) else { continue };
        if check_of(form, first / ROW, &numbers[first..end]) != given {
            let suspects = suspects(form, &numbers, first..end);
            return Err(KitError::Row { first: first + 1, last: end, given, suspects });
        }
    }
    Err(KitError::Checksum(suspects(form, &numbers, 0..form.words)))
}

/// What would make the words fit: neighbours swapped, or a word for one like it, the likeliest first.
fn suspects(form: &Form, numbers: &[u16], within: std::ops::Range<usize>) -> Vec<Suspect> {
    let mut found = Vec::new();
    let mut tried = Zeroizing::new(numbers.to_vec());
    for at in within.start..within.end.saturating_sub(1) {
        tried.swap(at, at + 1);
        if tried[at] != tried[at + 1] && (form.fits)(&tried) {
            found.push(Suspect::Swapped(at + 1));
        }
        tried.swap(at, at + 1);
    }
    for slips in 1..=2 {
        if slips == 2 && !found.is_empty() {
            break;
        }
        for at in within.clone() {
            let given = words::word(numbers[at]);
            for other in (0..2048).filter(|n| words::distance(given, words::word(*n)) == slips) {
                tried[at] = other;
                if (form.fits)(&tried) {
                    found.push(Suspect::Word { position: at + 1, given, fits: words::word(other) });
                }
            }
            tried[at] = numbers[at];
        }
    }
    found.truncate(SUSPECTS_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit() -> (Kit, Vec<&'static str>) {
        let kit = Kit(Zeroizing::new([0x5a; 32]));
        let words = kit.words().unwrap().to_vec();
        (kit, words)
    }

    #[test]
    fn a_kit_is_read_as_people_type_it() {
        for _ in 0..20 {
            let kit = Kit::draw().unwrap();
            let words = kit.words().unwrap();
            let plain = words.join(" ");
            let numbered: Vec<String> =
                (1..).zip(words).map(|(n, w)| format!("{n}. {}", w.to_uppercase())).collect();
            let short: Vec<String> = words.iter().map(|w| w.chars().take(4).collect()).collect();
            for text in [plain, numbered.join("\n"), short.join(",\t"), words.join("\r\n")] {
                assert_eq!(Kit::read(&text), Ok(kit.clone()), "{text}");
            }
        }
    }

    #[test]
    fn which_word_is_wrong_is_said() {
        let (_, words) = kit();
        assert_eq!(
            Kit::read(&words[..23].join(" ")),
            Err(KitError::Count { what: "a recovery kit", words: 24, given: 23 })
        );
        assert_eq!(Kit::read(""), Err(KitError::Count { what: "a recovery kit", words: 24, given: 0 }));
        for at in 0..WORDS {
            let mut wrong: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            wrong[at].insert(1, 'q');
            let why = Kit::read(&wrong.join(" ")).unwrap_err();
            let KitError::Unknown(words::Unknown { position, near, .. }) = &why else { panic!("{why:?}") };
            assert_eq!((*position, near[0]), (at + 1, words[at]), "{why}");
        }
    }

    #[test]
    fn words_that_are_known_and_wrong_are_suspected() {
        let (_, words) = kit();
        let mut noticed = 0;
        for at in 0..WORDS - 1 {
            let mut wrong = words.clone();
            wrong.swap(at, at + 1);
            if wrong == words {
                continue;
            }
            match Kit::read(&wrong.join(" ")) {
                Ok(_) => {}
                Err(KitError::Checksum(suspects)) => {
                    noticed += 1;
                    assert!(suspects.contains(&Suspect::Swapped(at + 1)), "{suspects:?}");
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(noticed >= 20, "{noticed}");
        // One word for another that is like it.
        let at =
            words.iter().position(|w| (0..2048).any(|n| words::distance(w, words::word(n)) == 1)).unwrap();
        let other = (0..2048).map(words::word).find(|o| words::distance(words[at], o) == 1).unwrap();
        let mut wrong = words.clone();
        wrong[at] = other;
        let why = Kit::read(&wrong.join(" ")).unwrap_err();
        let KitError::Checksum(suspects) = &why else { panic!("{why:?}") };
        let expected = Suspect::Word { position: at + 1, given: other, fits: words[at] };
        assert!(suspects.contains(&expected), "{why}");
        assert!(
            why.to_string().contains(&format!("word {}, `{other}`, is `{}`", at + 1, words[at])),
            "{why}"
        );
    }

    #[test]
    fn a_row_with_its_check_says_where() {
        let (kit, words) = kit();
        let rows = |words: &[&str], original: &[&str]| -> String {
            let number = |w: &&str| words::number(w).unwrap();
            let row = |n: usize| {
                let numbers: Vec<u16> = original[n * ROW..][..ROW].iter().map(number).collect();
                format!("{} #{:02}\n", words[n * ROW..][..ROW].join(" "), check_of(&KIT, n, &numbers))
            };
            (0..WORDS / ROW).map(row).collect()
        };
        assert_eq!(Kit::read(&rows(&words, &words)), Ok(kit));
        let mut wrong = words.clone();
        wrong[9] = if words[9] == "zoo" { "abandon" } else { "zoo" };
        let why = Kit::read(&rows(&wrong, &words)).unwrap_err();
        assert!(matches!(why, KitError::Row { first: 9, last: 12, .. }), "{why:?}");
        assert!(why.to_string().starts_with("one of the words 9 to 12"), "{why}");
        // A check that was mistyped is no reason to refuse the words.
        let text = rows(&words, &words);
        let (before, after) = text.split_once('#').unwrap();
        let other = if after.starts_with("00") { "01" } else { "00" };
        assert!(Kit::read(&format!("{before}#{other}{}", &after[2..])).is_ok());
    }
}
