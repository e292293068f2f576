//! Mail to be backed up: messages of the sizes that mail has, that no compression makes small.

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt::Write;
use std::path::Path;

/// Messages of a folder of a Maildir.
const PER_FOLDER: u64 = 2000;

/// Writes messages until they are so many bytes; answers how many.
pub fn write(dir: &Path, bytes: u64) -> Result<u64> {
    let mut drawn = StdRng::seed_from_u64(1789);
    let (mut written, mut count) = (0, 0);
    while written < bytes {
        let folder = dir.join(format!("volumes/mail/{}/cur", count / PER_FOLDER));
        if count % PER_FOLDER == 0 {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let text = message(count, &mut drawn);
        written += text.len() as u64;
        let path = folder.join(format!("{count}.bench:2,S"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        count += 1;
    }
    Ok(count)
}

/// Nine of ten are some KB of text, one carries an attachment.
pub fn message(number: u64, drawn: &mut StdRng) -> Vec<u8> {
    let mut text = format!("Message-ID: <{number}@bench.example>\nSubject: {number}\n\n");
    let (lines, wide) = if drawn.random_ratio(1, 10) {
        (drawn.random_range(500..8000), 57)
    } else {
        (drawn.random_range(20..200), 24)
    };
    for _ in 0..lines {
        for _ in 0..wide / 3 {
            // Writing to a string does not fail.
            let _ = write!(text, "{:04x}", drawn.random::<u16>());
        }
        text.push('\n');
    }
    text.into_bytes()
}
