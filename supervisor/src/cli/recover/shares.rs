//! The kit from shares of a split, out of files or typed in one after another.

use super::{read_paper, refused};
use crate::api::Refused;
use std::path::{Path, PathBuf};
use thermidor_backup::kit::{Pages, Paper, SplitError};

/// The kit that the shares give, and the friends on their pages. `typed` prompts for a share and answers what came, and
/// whether somebody is there to be asked again.
pub(super) fn paper(
    files: &[PathBuf],
    mut typed: impl FnMut(&str) -> Result<(String, bool), Refused>,
) -> Result<Paper, Refused> {
    let mut pages = Pages::default();
    for file in files.iter().filter(|file| *file != Path::new("-")) {
        let read = pages.add(&read_paper(file)?);
        read.map_err(|why| refused(format!("{}: {why}", file.display())))?;
    }
    if files.iter().any(|file| file == Path::new("-")) {
        type_in(&mut pages, &mut typed)?;
    }
    let kit = pages.kit().map_err(refused)?;
    Ok(Paper { kit, friends: pages.friends })
}

/// Asks for shares until there are enough, or nobody types any more. A mistyped one is asked for again.
fn type_in(
    pages: &mut Pages,
    typed: &mut impl FnMut(&str) -> Result<(String, bool), Refused>,
) -> Result<(), Refused> {
    let mut prompt = "Type the 32 words of a share, then an empty line:".to_owned();
    loop {
        let (text, asked_again) = typed(&prompt)?;
        let known = pages.clone();
        let why = match pages.add(&text) {
            Err(why) => why.to_string(),
            Ok(_) => match pages.kit() {
                Ok(_) => return Ok(()),
                Err(why @ SplitError::TooFew { .. }) if asked_again => {
                    prompt = format!("{why}. Type its 32 words, then an empty line:");
                    continue;
                }
                Err(why) => why.to_string(),
            },
        };
        if !asked_again {
            return Err(refused(why));
        }
        *pages = known;
        prompt = format!("{why}\nNot taken. Type the share again, or another one, then an empty line:");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use thermidor_backup::kit::{Friend, Kit, Terms};
    use thermidor_model::name::HomeName;

    struct Split {
        dir: tempfile::TempDir,
        kit: Kit,
        words: Vec<String>,
        files: Vec<PathBuf>,
    }

    fn alice() -> Friend {
        Friend { home: HomeName::new("alice").unwrap(), addresses: vec!["alice.example:7746".into()] }
    }

    /// Two of three, as files.
    fn split() -> Split {
        let (dir, kit) = (tempfile::tempdir().unwrap(), Kit::draw().unwrap());
        let (mut words, mut files) = (Vec::new(), Vec::new());
        for share in kit.split(Terms::new(2, 3).unwrap()).unwrap() {
            let home = HomeName::new("maison").unwrap();
            let page = share.page("carol", &home, "2026-11-27", &[alice()]).unwrap();
            let file = dir.path().join(format!("{}.txt", share.number));
            std::fs::write(&file, page).unwrap();
            words.push(share.words().join(" "));
            files.push(file);
        }
        Split { dir, kit, words, files }
    }

    fn nobody(_: &str) -> Result<(String, bool), Refused> {
        panic!("nobody is asked")
    }

    #[test]
    fn shares_out_of_files_give_the_kit_and_its_friends() {
        let split = split();
        let paper = paper(&[split.files[2].clone(), split.files[0].clone()], nobody).unwrap();
        assert_eq!(paper, Paper { kit: split.kit, friends: vec![alice()] });
    }

    #[test]
    fn what_does_not_go_together_is_said_with_the_file_where_one_is_to_blame() {
        let (one, other) = (split(), split());
        let refuse = |files: &[&PathBuf], words: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(|file| (*file).clone()).collect();
            let why = paper(&files, nobody).unwrap_err().text;
            for word in words {
                assert!(why.contains(word), "`{word}` is not in: {why}");
            }
        };
        refuse(&[&one.files[1]], &["one more share of the split", "is needed: it takes 2, any of 1, 3"]);
        refuse(&[&one.files[1], &one.files[1]], &["share 2", "twice"]);
        refuse(&[&one.files[0], &other.files[1]], &["of the splits", "go together"]);
        let away = one.dir.path().join("away.txt");
        refuse(&[&away], &["away.txt", "No such file"]);
        let whole = one.dir.path().join("whole.txt");
        std::fs::write(&whole, one.kit.words().unwrap().join(" ")).unwrap();
        refuse(&[&one.files[0], &whole], &["whole.txt", "--kit"]);
        let worn = one.dir.path().join("worn.txt");
        let wrong = one.words[0].replacen(' ', "qq ", 1);
        std::fs::write(&worn, &wrong).unwrap();
        let first = one.words[0].split(' ').next().unwrap();
        refuse(&[&worn, &one.files[1]], &["worn.txt", "word 1", &format!("perhaps `{first}`")]);
    }

    #[test]
    fn shares_are_typed_one_after_another_and_a_mistyped_one_again() {
        let split = split();
        let mut answers: VecDeque<String> = [
            split.words[0].replacen(' ', "qq ", 1),
            split.words[0].clone(),
            split.words[0].clone(),
            split.words[2].clone(),
        ]
        .into();
        let mut prompts = Vec::new();
        let paper = paper(&["-".into()], |prompt| {
            prompts.push(prompt.to_owned());
            Ok((answers.pop_front().unwrap(), true))
        });
        assert_eq!(paper.unwrap().kit, split.kit);
        let expected = ["Type the 32 words", "word 1", "one more share", "given twice"];
        assert_eq!(prompts.len(), expected.len());
        for (prompt, expected) in prompts.iter().zip(expected) {
            assert!(prompt.contains(expected), "{prompts:?}");
        }
    }

    #[test]
    fn a_kit_or_shares_are_given_and_not_both() {
        use clap::Parser;
        let parsed = |more: &[&str]| {
            let head = ["thermidor", "recover", "--radiator", "salon"];
            crate::cli::Cli::try_parse_from(head.iter().chain(more)).map(drop).map_err(|why| why.to_string())
        };
        assert_eq!(parsed(&["--kit", "page"]), Ok(()));
        assert_eq!(parsed(&["--share", "one", "--share", "other"]), Ok(()));
        assert!(parsed(&[]).unwrap_err().contains("--kit"));
        assert!(parsed(&["--kit", "page", "--share", "one"]).unwrap_err().contains("cannot be used"));
    }

    #[test]
    fn shares_that_are_piped_in_are_all_there_is() {
        let split = split();
        let piped = |text: String| paper(&["-".into()], move |_| Ok((text.clone(), false)));
        let both = format!("{}\n\n{}\n", split.words[0], split.words[1]);
        assert_eq!(piped(both).unwrap().kit, split.kit);
        assert!(piped(split.words[0].clone()).unwrap_err().text.contains("one more share"));
        assert!(piped(String::new()).unwrap_err().text.contains("these are 0"));
        let files = [split.files[1].clone(), "-".into()];
        let mixed = paper(&files, |_| Ok((split.words[0].clone(), false)));
        assert_eq!(mixed.unwrap().kit, split.kit, "one out of a file, one piped in");
    }
}
