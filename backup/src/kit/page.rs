//! The page that is printed: what it is, the words in rows with their checks, a QR code of them, and where the friends
//! are. Plain text, 80 columns, one page.

use super::read::{Form, KIT, KitError, ROW, check_of};
use super::share_page;
use super::{CryptoFailed, Kit};
use crate::words;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use std::fmt::Write;
use thermidor_model::name::HomeName;

/// How the page begins, and what stands above its friends: by them it is known when it is read again.
const TITLE: &str = "RECOVERY KIT";
const FRIENDS: &str = "Friends who keep its backups:";

/// A friend on the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Friend {
    /// Its name.
    pub home: HomeName,
    /// Where it can be reached.
    pub addresses: Vec<String>,
}

impl Kit {
    /// The page of a home, as of a date that a person reads.
    pub fn page(&self, home: &HomeName, date: &str, friends: &[Friend]) -> Result<String, CryptoFailed> {
        let words = self.words()?;
        let mut page = format!(
            "{TITLE} of the home `{home}`, {date}\n\n\
             Whoever has these {} words is this home: they read its backups, and they are all\n\
             that is needed to have everything back. Keep this page away from the house, and\n\
             keep it to yourself.\n\n\
             On a new machine:  thermidor recover\n\n",
            words.len()
        );
        write_words(&mut page, &KIT, &words)?;
        write_friends(&mut page, friends);
        Ok(page)
    }
}

/// The words in rows with their checks, and the QR code of them.
pub(super) fn write_words(page: &mut String, form: &Form, all: &[&str]) -> Result<(), CryptoFailed> {
    for (row, four) in all.chunks(ROW).enumerate() {
        for (column, word) in four.iter().enumerate() {
            let _ = write!(page, "{:>4} {word:<11}", row * ROW + column + 1);
        }
        let numbers: Vec<u16> = four.iter().filter_map(|word| words::number(word)).collect();
        let _ = writeln!(page, "  #{:02}", check_of(form, row, &numbers));
    }
    page.push_str("\nThe # and two digits check the words of their row.\n\n");
    page.push_str(&qr(&all.join(" "))?);
    page.push('\n');
    Ok(())
}

/// Where the friends are.
pub(super) fn write_friends(page: &mut String, friends: &[Friend]) {
    if friends.is_empty() {
        page.push_str("\nNo friend keeps a backup of this home yet: print this page again once one does.\n");
        return;
    }
    let _ = writeln!(page, "\n{FRIENDS}");
    for friend in friends {
        let _ = writeln!(page, "  {}  {}", friend.home, friend.addresses.join("  "));
    }
}

/// The rows of words of a page.
pub(super) fn rows_of(page: &str) -> String {
    let is_row = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    page.lines().filter(is_row).filter(|line| line.contains('#')).collect::<Vec<_>>().join("\n")
}

/// The friends that a page names.
pub(super) fn friends_of(page: &str) -> Vec<Friend> {
    let below = page.lines().skip_while(|line| !line.starts_with(FRIENDS)).skip(1);
    let friend = |line: &str| {
        let mut parts = line.split_whitespace();
        let home = HomeName::new(parts.next()?).ok()?;
        Some(Friend { home, addresses: parts.map(str::to_owned).collect() })
    };
    below.map_while(friend).collect()
}

/// What a person hands over to have the home back: the whole page as it was printed, or the words alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paper {
    /// The kit.
    pub kit: Kit,
    /// The friends that the page names; none where only words are given.
    pub friends: Vec<Friend>,
}

impl Paper {
    /// Reads a file or what was typed.
    pub fn read(text: &str) -> Result<Self, KitError> {
        if share_page::is_one(text) {
            return Err(KitError::IsShare);
        }
        if !is_one(text) {
            return Ok(Self { kit: Kit::read(text)?, friends: Vec::new() });
        }
        Ok(Self { kit: Kit::read(&rows_of(text))?, friends: friends_of(text) })
    }
}

/// Whether a text is the page of a kit.
pub(super) fn is_one(text: &str) -> bool {
    text.contains(TITLE)
}

/// A QR code as text: what is ink on paper is a block.
fn qr(text: &str) -> Result<String, CryptoFailed> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| CryptoFailed)?;
    Ok(code.render::<Dense1x2>().build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qrcode::Color;
    use zeroize::Zeroizing;

    fn friends() -> Vec<Friend> {
        let home = HomeName::new("alice").unwrap();
        vec![Friend { home, addresses: vec!["alice.example:7474".into(), "192.0.2.7:7474".into()] }]
    }

    #[test]
    fn what_is_printed_can_be_typed_in_again() {
        let home = HomeName::new("maison").unwrap();
        for _ in 0..10 {
            let kit = Kit::draw().unwrap();
            let page = kit.page(&home, "2026-11-26", &friends()).unwrap();
            println!("{page}");
            let rows: Vec<&str> = page.lines().filter(|line| line.contains('#')).take(6).collect();
            assert_eq!(Kit::read(&rows.join("\n")), Ok(kit.clone()), "{page}");
            assert_eq!(
                Paper::read(&page),
                Ok(Paper { kit: kit.clone(), friends: friends() }),
                "the page as it is"
            );
            let words = kit.words().unwrap().join(" ");
            assert_eq!(Paper::read(&words), Ok(Paper { kit, friends: vec![] }));
            // In its row: the text above may have the same word.
            let worn_row = rows[0].replacen(rows[0].split_whitespace().nth(1).unwrap(), "zzzz", 1);
            let worn = page.replacen(rows[0], &worn_row, 1);
            assert!(matches!(Paper::read(&worn), Err(KitError::Unknown(_))), "{worn}");
            assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
            assert!(page.lines().count() <= 66, "{} lines", page.lines().count());
            assert!(page.contains("alice  alice.example:7474  192.0.2.7:7474"), "{page}");
        }
        let page = Kit::draw().unwrap().page(&home, "2026-11-26", &[]).unwrap();
        assert!(page.contains("No friend keeps a backup"), "{page}");
    }

    #[test]
    fn the_qr_code_on_paper_is_the_one_that_was_made() {
        let kit = Kit(Zeroizing::new([0x5a; 32]));
        let text = kit.words().unwrap().join(" ");
        let shown = qr(&text).unwrap();
        let code = QrCode::with_error_correction_level(&text, EcLevel::L).unwrap();
        let width = code.width();
        let ink: Vec<Vec<bool>> = shown
            .lines()
            .flat_map(|line| {
                let half = |upper: bool| -> Vec<bool> {
                    line.chars()
                        .map(|c| match c {
                            '█' => true,
                            '▀' => upper,
                            '▄' => !upper,
                            _ => false,
                        })
                        .collect()
                };
                [half(true), half(false)]
            })
            .collect();
        // A margin of four all round.
        for y in 0..width {
            for x in 0..width {
                assert_eq!(ink[y + 4][x + 4], code[(x, y)] == Color::Dark, "{x} {y}");
            }
        }
        assert!(ink[..4].iter().flatten().all(|is| !is));
        assert!(width <= 61, "{width}");
    }
}
