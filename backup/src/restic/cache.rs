//! restic's cache, bounded: what is in it can always be had from the vault again.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Removes what a killed restic left, and whole repositories' caches, the ones unused for longest first, until at most
/// `max` bytes are left. Answers the bytes that are left. No restic may be using the cache meanwhile.
pub(super) fn trim(dir: &Path, max: u64) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut all: Vec<(SystemTime, u64, std::path::PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let (path, name) = (entry.path(), entry.file_name());
        if name == "tmp" || name.to_string_lossy().starts_with("restic-check-cache-") {
            fs::remove_dir_all(path)?;
        } else {
            all.push((entry.metadata()?.modified()?, size(&path)?, path));
        }
    }
    let mut left: u64 = all.iter().map(|(_, size, _)| size).sum();
    all.sort();
    for (_, size, path) in all {
        if left <= max {
            break;
        }
        fs::remove_dir_all(path)?;
        left -= size;
    }
    Ok(left)
}

/// Bytes in a folder and all below it.
fn size(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_goes_first_and_leftovers_always() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(trim(&at("none"), 0).unwrap(), 0);
        for (n, name) in ["old", "new", "tmp", "restic-check-cache-17"].iter().enumerate() {
            fs::create_dir_all(at(name).join("index")).unwrap();
            fs::write(at(name).join("index/x"), [0; 1000]).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + n as u64);
            fs::File::open(at(name)).unwrap().set_modified(time).unwrap();
        }
        fs::write(at("CACHEDIR.TAG"), "tag").unwrap();
        assert_eq!(trim(dir.path(), 2000).unwrap(), 2000);
        assert!(!at("tmp").exists() && !at("restic-check-cache-17").exists());
        assert_eq!(trim(dir.path(), 1999).unwrap(), 1000);
        assert!(!at("old").exists() && at("new").exists() && at("CACHEDIR.TAG").exists());
        assert_eq!(trim(dir.path(), 0).unwrap(), 0);
    }
}
