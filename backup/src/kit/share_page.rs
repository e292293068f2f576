//! A share's page: whose it is, what it is good for, the words, a QR code, and where the friends are. Shares are read
//! again from pages, one or several in a text, or from their words alone.

use super::page::{self, Friend, friends_of, rows_of, write_friends, write_words};
use super::read::KitError;
use super::share::{FORM, PERSON_MAX, SHARE_WORDS, Share, SplitError};
use super::{CryptoFailed, Kit};
use std::collections::BTreeSet;
use thermidor_model::name::HomeName;

/// How a share's page begins.
const TITLE: &str = "KIT SHARE";

/// The persons among whom a kit is split, each once.
pub fn persons(given: &[String]) -> Result<Vec<String>, SplitError> {
    let mut known = BTreeSet::new();
    let mut persons = Vec::new();
    for person in given.iter().map(|person| person.trim()) {
        let is_name = (1..=PERSON_MAX).contains(&person.chars().count())
            && !person.chars().any(|c| c.is_control() || c == ',');
        if !is_name {
            return Err(SplitError::Person(person.chars().take(PERSON_MAX).collect()));
        }
        if !known.insert(person) {
            return Err(SplitError::PersonTwice(person.to_owned()));
        }
        persons.push(person.to_owned());
    }
    Ok(persons)
}

impl Share {
    /// The page for a person, of a home, as of a date that a person reads.
    pub fn page(
        &self,
        person: &str,
        home: &HomeName,
        date: &str,
        friends: &[Friend],
    ) -> Result<String, CryptoFailed> {
        let (needed, of) = (self.terms.needed(), self.terms.of());
        let mut page = format!(
            "{TITLE} {} of {of}, of the home `{home}`, {date}\n\
             for {person}\n\n\
             Split {}: any {needed} of its {of} shares are the recovery kit,\n\
             and whoever has {needed} of them is this home. Fewer say nothing. Keep this page where\n\
             no other share is, and give it to nobody but the home's person, who asks you\n\
             by voice.\n\n\
             On a new machine:  thermidor recover{}\n\n",
            self.number,
            self.id,
            " --share FILE".repeat(needed.min(3)),
        );
        write_words(&mut page, &FORM, &self.words())?;
        write_friends(&mut page, friends);
        Ok(page)
    }
}

/// Whether a text holds a share's page.
pub(super) fn is_one(text: &str) -> bool {
    text.contains(TITLE)
}

/// Shares that were handed over, and what their pages say beside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// The shares, as they were given.
    pub shares: Vec<Share>,
    /// The friends that the pages name, each once; none where only words were given.
    pub friends: Vec<Friend>,
    homes: BTreeSet<HomeName>,
}

impl Pages {
    /// Reads a file or what was typed: pages one after another, or the words of a share, or several with empty lines
    /// between them. Answers how many shares there were.
    pub fn add(&mut self, text: &str) -> Result<usize, KitError> {
        if page::is_one(text) {
            return Err(KitError::IsKit);
        }
        let before = self.shares.len();
        if !is_one(text) {
            match Share::read(text) {
                Ok(share) => self.shares.push(share),
                Err(KitError::Count { given, .. }) if given > SHARE_WORDS && given % SHARE_WORDS == 0 => {
                    for part in text.replace('\r', "").split("\n\n").filter(|part| !part.trim().is_empty()) {
                        self.shares.push(Share::read(part)?);
                    }
                }
                Err(why) => return Err(why),
            }
            return Ok(self.shares.len() - before);
        }
        for (at, _) in text.match_indices(TITLE) {
            let end = text[at + TITLE.len()..].find(TITLE).map_or(text.len(), |next| at + TITLE.len() + next);
            let page = &text[at..end];
            self.shares.push(Share::read(&rows_of(page))?);
            let home = page.lines().next().and_then(|title| title.split('`').nth(1));
            self.homes.extend(home.and_then(|home| HomeName::new(home).ok()));
            for friend in friends_of(page) {
                if self.friends.iter().all(|known| known.home != friend.home) {
                    self.friends.push(friend);
                }
            }
        }
        Ok(self.shares.len() - before)
    }

    /// The kit of all of them.
    pub fn kit(&self) -> Result<Kit, SplitError> {
        let mut homes = self.homes.iter();
        if let (Some(one), Some(other)) = (homes.next(), homes.next()) {
            return Err(SplitError::Homes(one.clone(), other.clone()));
        }
        Kit::combine(&self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Paper, Terms};
    use super::*;

    fn home() -> HomeName {
        HomeName::new("maison").unwrap()
    }

    fn friends(count: usize) -> Vec<Friend> {
        let friend = |n| Friend {
            home: HomeName::new(format!("alice{n}")).unwrap(),
            addresses: vec!["alice.example:7474".into(), "192.0.2.7:7474".into()],
        };
        (0..count).map(friend).collect()
    }

    fn pages(kit: &Kit, needed: usize, of: usize) -> Vec<String> {
        let shares = kit.split(Terms::new(needed, of).unwrap()).unwrap();
        let page = |share: &Share| share.page("Plaine & fils", &home(), "2026-11-27", &friends(2)).unwrap();
        shares.iter().map(page).collect()
    }

    #[test]
    fn what_is_printed_for_persons_gives_the_kit_again() {
        let kit = Kit::draw().unwrap();
        let pages = pages(&kit, 2, 3);
        println!("{}", pages[1]);
        for page in &pages {
            assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
            assert!(page.lines().count() <= 66, "{} lines", page.lines().count());
        }
        for (one, other) in [(0, 1), (2, 0), (1, 2)] {
            let mut files = Pages::default();
            assert_eq!(files.add(&pages[one]), Ok(1));
            assert!(matches!(files.kit(), Err(SplitError::TooFew { missing: 1, .. })));
            assert_eq!(files.add(&pages[other]), Ok(1));
            assert_eq!(files.kit(), Ok(kit.clone()));
            assert_eq!(files.friends, friends(2), "each once, from whichever page");
        }
        let mut all = Pages::default();
        assert_eq!(all.add(&pages.join("\n")), Ok(3), "as they come out of `kit split`");
        assert_eq!(all.kit(), Ok(kit));
    }

    #[test]
    fn shares_are_read_from_their_words_alone_too() {
        let kit = Kit::draw().unwrap();
        let shares = kit.split(Terms::new(2, 2).unwrap()).unwrap();
        let words: Vec<String> = shares.iter().map(|share| share.words().join(" ")).collect();
        let mut one_each = Pages::default();
        assert_eq!((one_each.add(&words[0]), one_each.add(&words[1])), (Ok(1), Ok(1)));
        let mut at_once = Pages::default();
        assert_eq!(at_once.add(&format!("\n{}\r\n\r\n{}\n\n", words[0], words[1].to_uppercase())), Ok(2));
        for pages in [one_each, at_once] {
            assert_eq!(pages.kit(), Ok(kit.clone()));
            assert_eq!(pages.friends, []);
        }
    }

    #[test]
    fn a_page_of_the_other_kind_is_known_as_such() {
        let kit = Kit::draw().unwrap();
        let share = &pages(&kit, 2, 2)[0];
        assert_eq!(Paper::read(share), Err(KitError::IsShare));
        let whole = kit.page(&home(), "2026-11-27", &[]).unwrap();
        assert_eq!(Pages::default().add(&whole), Err(KitError::IsKit));
        let why = Pages::default().add(&kit.words().unwrap().join(" ")).unwrap_err().to_string();
        assert!(why.contains("a share is 32 words, these are 24") && why.contains("--kit"), "{why}");
        let why = Paper::read(&rows_of(share)).unwrap_err().to_string();
        assert!(why.contains("a recovery kit is 24 words, these are 32") && why.contains("--share"), "{why}");
    }

    #[test]
    fn pages_of_two_homes_are_told_apart() {
        let mut both = Pages::default();
        both.add(&pages(&Kit::draw().unwrap(), 2, 2)[0]).unwrap();
        let chalet = HomeName::new("chalet").unwrap();
        let share = &Kit::draw().unwrap().split(Terms::new(2, 2).unwrap()).unwrap()[1];
        both.add(&share.page("carol", &chalet, "2026-11-27", &[]).unwrap()).unwrap();
        assert_eq!(both.kit(), Err(SplitError::Homes(chalet, home())));
    }

    #[test]
    fn persons_have_names_and_each_has_one_share() {
        let named = |all: &[&str]| persons(&all.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        assert_eq!(named(&["alpes", " La Plaine "]), Ok(vec!["alpes".into(), "La Plaine".into()]));
        assert_eq!(named(&["alpes", "alpes "]), Err(SplitError::PersonTwice("alpes".into())));
        for none in ["", "  ", "a\nb", "a,b", &"x".repeat(41)] {
            assert!(matches!(named(&["alpes", none]), Err(SplitError::Person(_))), "{none}");
        }
    }
}
