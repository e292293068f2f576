//! Letters that a test delivers into a volume, and finds again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

pub fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(path.parent().unwrap())?.sync_all()
}

pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// What stands in a letter.
pub fn text(number: u32) -> String {
    format!("{number} ").repeat(2000)
}

/// Letters that were fsynced, each with some kilobytes.
pub fn deliver(mount: &Path, letters: std::ops::Range<u32>) -> io::Result<()> {
    for number in letters {
        write_synced(&mount.join(format!("letter{number}")), &text(number))?;
    }
    Ok(())
}

pub fn has_all(mount: &Path, letters: std::ops::Range<u32>) {
    for number in letters {
        let found = read(&mount.join(format!("letter{number}"))).unwrap();
        assert_eq!(found, text(number), "letter {number}");
    }
}
