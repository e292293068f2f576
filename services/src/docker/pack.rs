//! Packs the folder of `build:` so that the same files give the same bytes on every machine.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// An uncompressed tar of a folder: sorted, without times or owners; `.git` is left out.
/// Links and regular files are taken, anything else is refused.
pub fn pack_context(folder: &Path) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    pack(&mut builder, folder, Path::new(""))?;
    builder.into_inner()
}

fn pack(builder: &mut tar::Builder<Vec<u8>>, root: &Path, below: &Path) -> io::Result<()> {
    let mut names = std::fs::read_dir(root.join(below))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names.into_iter().filter(|n| n != ".git") {
        let path = below.join(&name);
        let full = root.join(&path);
        let meta = full.symlink_metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, &path, io::empty())?;
            pack(builder, root, &path)?;
        } else if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, &path, std::fs::read_link(&full)?)?;
        } else if meta.is_file() {
            let bytes = std::fs::read(&full)?;
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, &path, bytes.as_slice())?;
        } else {
            return Err(io::Error::other(format!("{} is neither file, folder nor link", full.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes_whenever_they_were_written() {
        let make = || {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("sub")).unwrap();
            std::fs::create_dir_all(dir.path().join(".git")).unwrap();
            std::fs::write(dir.path().join("sub/b"), "b").unwrap();
            std::fs::write(dir.path().join("Dockerfile"), "FROM x").unwrap();
            std::os::unix::fs::symlink("sub/b", dir.path().join("link")).unwrap();
            (pack_context(dir.path()).unwrap(), dir)
        };
        let (one, _kept) = make();
        assert_eq!(one, make().0);
        let mut archive = tar::Archive::new(one.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["Dockerfile", "link", "sub", "sub/b"].map(String::from));
        assert!(pack_context(Path::new("/nonexistent")).is_err());
    }
}
