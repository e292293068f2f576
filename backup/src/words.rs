//! The 2048 English words of BIP 39: what a code or a kit is written in, and what a mistyped one may have been.

use bip39::Language;

/// Words that are proposed for a mistyped one.
const NEAR_MAX: usize = 3;

/// A word that is none of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("word {position}, `{word}`, is none of the list{}", meant(near))]
pub struct Unknown {
    /// Which of those given, from 1.
    pub position: usize,
    /// What was given.
    pub word: String,
    /// What may have been meant.
    pub near: Vec<&'static str>,
}

impl Unknown {
    pub(crate) fn new(position: usize, word: &str) -> Self {
        Self { position, word: word.to_owned(), near: near(word) }
    }
}

fn meant(near: &[&'static str]) -> String {
    if near.is_empty() { String::new() } else { format!("; perhaps `{}`", near.join("` or `")) }
}

/// The word of a number below 2048.
pub(crate) fn word(number: u16) -> &'static str {
    Language::English.word_list()[usize::from(number) % 2048]
}

/// The number of a word. Its first four letters are enough: no two words share them.
pub(crate) fn number(word: &str) -> Option<u16> {
    let word = word.to_lowercase();
    let list = Language::English.word_list();
    let at = list.partition_point(|known| *known < word.as_str());
    let known = list.get(at)?;
    let is_it = *known == word || (word.len() >= 4 && known.starts_with(&word));
    is_it.then(|| u16::try_from(at).ok()).flatten()
}

/// Words that somebody who wrote this may have meant, the likeliest first.
fn near(word: &str) -> Vec<&'static str> {
    let word = word.to_lowercase();
    let mut all: Vec<(usize, &str)> = Language::English
        .word_list()
        .iter()
        .map(|known| (distance(&word, known), *known))
        .filter(|(distance, _)| *distance <= 2)
        .collect();
    all.sort();
    all.into_iter().take(NEAR_MAX).map(|(_, known)| known).collect()
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbours.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_by_four_letters_and_nearly_known_by_likeness() {
        for n in 0..2048 {
            assert_eq!(number(word(n)), Some(n));
            let four: String = word(n).chars().take(4).collect();
            assert_eq!(number(&four), Some(n), "{four}");
        }
        assert_eq!(number("ABANdon"), Some(0));
        for none in ["", "aba", "zzzz", "abandonment", "é"] {
            assert_eq!(number(none), None, "{none}");
        }
        assert_eq!(near("abandno")[0], "abandon");
        assert!(near("cabel").contains(&"cable"));
        assert_eq!(near("xxxxxxxx"), Vec::<&str>::new());
    }

    #[test]
    fn distances_count_slips_of_the_pen() {
        for (one, other, expected) in [
            ("able", "able", 0),
            ("able", "cable", 1),
            ("abel", "able", 1),
            ("a", "abcd", usize::MAX),
            ("zoo", "zone", 2),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
