//! How many messages an account has: as IMAP shows them, and as they lie in its Maildir.

use super::imap::{Imap, quoted};
use std::io;
use std::path::Path;

/// The messages of an account that is logged in, over all of its folders. Nothing is changed there; callers bound it in
/// time.
pub async fn count(imap: &mut Imap) -> Result<u64, String> {
    let mut all = 0;
    for folder in folders(&imap.ask("LIST \"\" \"*\"").await?)? {
        let said = imap.ask(&format!("EXAMINE {}", quoted(&folder))).await?;
        all += exists(&said).ok_or_else(|| format!("IMAP does not say how many messages {folder} holds"))?;
    }
    Ok(all)
}

/// The folders that can be opened, of the answer to LIST.
fn folders(lines: &[String]) -> Result<Vec<String>, String> {
    let strange = |line: &str| format!("IMAP lists a folder in a way that nobody understands: {line:?}");
    let mut found = Vec::new();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("* LIST (") else { continue };
        let (flags, rest) = rest.split_once(") ").ok_or_else(|| strange(line))?;
        let (_, name) = rest.split_once(' ').ok_or_else(|| strange(line))?;
        let name = match name.strip_prefix('"') {
            Some(quoted) => unquoted(quoted).ok_or_else(|| strange(line))?,
            // A literal: its length here, its text on the next line.
            None if name.starts_with('{') => lines.next().ok_or_else(|| strange(line))?.clone(),
            None => name.to_owned(),
        };
        let is_shut = |flag: &str| {
            flag.eq_ignore_ascii_case("\\Noselect") || flag.eq_ignore_ascii_case("\\NonExistent")
        };
        if !flags.split(' ').any(is_shut) {
            found.push(name);
        }
    }
    Ok(found)
}

/// What stands between the quotes; `None`: the second one is missing.
fn unquoted(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some(out),
            '\\' => out.push(rest.next()?),
            c => out.push(c),
        }
    }
}

/// The number of messages, of the answer to EXAMINE.
fn exists(lines: &[String]) -> Option<u64> {
    lines.iter().find_map(|line| line.strip_prefix("* ")?.strip_suffix(" EXISTS")?.parse().ok())
}

/// The messages that lie in a Maildir and its folders; none where there is no Maildir. Blocks on the disk.
pub fn lie_in(maildir: &Path) -> io::Result<u64> {
    let mut all = messages(maildir)?;
    for entry in entries(maildir)? {
        let entry = entry?;
        let name = entry.file_name();
        // Two dots: what is being deleted.
        let is_folder =
            name.as_encoded_bytes().starts_with(b".") && !name.as_encoded_bytes().starts_with(b"..");
        if is_folder && entry.file_type()?.is_dir() {
            all += messages(&entry.path())?;
        }
    }
    Ok(all)
}

fn messages(folder: &Path) -> io::Result<u64> {
    let mut all = 0;
    for part in ["cur", "new"] {
        for entry in entries(&folder.join(part))? {
            let entry = entry?;
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            all += u64::from(!is_hidden && entry.file_type()?.is_file());
        }
    }
    Ok(all)
}

/// What is in a folder; nothing in one that is not there.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>> {
    let there = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        there => Some(there?),
    };
    Ok(there.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn every_folder_that_can_be_opened_is_found_however_its_name_is_written() {
        let said = lines(&[
            "* LIST (\\HasNoChildren \\Sent) \".\" Sent",
            "* LIST (\\HasNoChildren) \".\" \"Aunt \\\"M\\\" & co\"",
            "* LIST (\\NonExistent \\HasChildren) \".\" Parent",
            "* LIST (\\Noselect) \".\" Shut",
            "* LIST (\\HasNoChildren) NIL {5}",
            "a\"b)c",
            "* LIST () \".\" INBOX",
            "* OK still here",
        ]);
        assert_eq!(folders(&said).unwrap(), ["Sent", "Aunt \"M\" & co", "a\"b)c", "INBOX"]);
        for strange in ["* LIST (\\X", "* LIST () INBOX", "* LIST () \".\" \"half", "* LIST () \".\" {9}"] {
            assert!(folders(&lines(&[strange])).unwrap_err().contains("nobody understands"), "{strange}");
        }
    }

    #[test]
    fn the_number_of_messages_is_read_and_nothing_else_is_taken_for_it() {
        let said = lines(&["* FLAGS (\\Seen)", "* 57 EXISTS", "* 3 RECENT", "* OK [UIDNEXT 58] EXISTS"]);
        assert_eq!(exists(&said), Some(57));
        assert_eq!(exists(&lines(&["* OK 5 EXISTS", "* many EXISTS"])), None);
    }

    #[test]
    fn messages_are_what_lies_in_cur_and_new_of_the_maildir_and_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = dir.path().join("Maildir");
        assert_eq!(lie_in(&maildir).unwrap(), 0, "nobody has written to it yet");
        for message in [
            "cur/1.a:2,S",
            "new/2.b",
            ".Sent/cur/3.c:2,S",
            ".A.B/new/4.d",
            "tmp/half",
            ".Sent/dovecot-uidlist",
            "cur/.hidden",
            "..DOVECOT-TRASHED/cur/5.e",
            "other/cur/6.f",
        ] {
            let path = maildir.join(message);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(lie_in(&maildir).unwrap(), 4);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(lie_in(&dir.path().join("file")).is_err(), "what can't be read is no empty mailbox");
    }
}
