//! A friend's folder on disk: restic's own layout below `repo/`, temporary files beside it in `tmp/`. A blob
//! is there whole and for good, or not at all: temporary file, fsync, rename, fsync of the folder. The time of
//! a blob's arrival is its time of modification, set before the fsync: it can't be lost without the blob.

use super::blob::{BlobName, Found, Item, Kind};
use super::path::Folder;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A friend's folder.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

/// Numbers temporary files, for a folder that is opened again while an upload to it ends.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Disk {
    /// Opens or makes a friend's folder and throws away what a crash left half-written.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        let disk = Self { root };
        make_dir(&disk.root)?;
        for name in ["repo", "tmp", "records"] {
            make_dir(&disk.root.join(name))?;
        }
        for left in fs::read_dir(disk.root.join("tmp"))? {
            let left = left?.path();
            tracing::info!(file = %left.display(), "an upload that a crash broke off is thrown away");
            fs::remove_file(left)?;
        }
        Ok(disk)
    }

    /// What may still be written, bytes.
    pub fn free(&self) -> io::Result<u64> {
        crate::restore::free_in(&self.root)
    }

    fn repository(&self, folder: &Folder) -> PathBuf {
        let repo = self.root.join("repo");
        if *folder == Folder::ROOT { repo } else { repo.join(folder.as_str()) }
    }

    fn dir(&self, folder: &Folder, kind: Kind) -> PathBuf {
        self.repository(folder).join(kind.as_str())
    }

    /// Where an item lies.
    pub fn path(&self, item: &Item) -> PathBuf {
        match &item.blob {
            None => self.repository(&item.folder).join("config"),
            Some((kind @ Kind::Data, name)) => {
                let name = name.to_string();
                self.dir(&item.folder, *kind).join(&name[..2]).join(name)
            }
            Some((kind, name)) => self.dir(&item.folder, *kind).join(name.to_string()),
        }
    }

    /// Makes a repository's folders; nothing is lost of one that is there. They outlive a crash, also those that
    /// an earlier attempt left.
    pub fn create(&self, folder: &Folder) -> io::Result<()> {
        let repository = self.repository(folder);
        make_dir(&repository)?;
        for kind in Kind::ALL {
            make_dir(&self.dir(folder, kind))?;
        }
        let data = self.dir(folder, Kind::Data);
        for prefix in 0..=u8::MAX {
            match fs::create_dir(data.join(format!("{prefix:02x}"))) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        sync_dir(&data)?;
        sync_dir(&repository)
    }

    /// Folders that hold a repository.
    pub fn folders(&self) -> io::Result<Vec<Folder>> {
        let mut found = Vec::new();
        if self.dir(&Folder::ROOT, Kind::Data).is_dir() {
            found.push(Folder::ROOT);
        }
        for entry in fs::read_dir(self.root.join("repo"))? {
            let entry = entry?;
            let folder = entry.file_name().to_str().and_then(Folder::new);
            found.extend(folder.filter(|folder| self.dir(folder, Kind::Data).is_dir()));
        }
        found.sort();
        Ok(found)
    }

    /// Whether the folder holds a repository.
    pub fn holds(&self, folder: &Folder) -> bool {
        self.dir(folder, Kind::Data).is_dir()
    }

    /// Opens an item for reading. A symbolic link is never followed.
    pub fn open_item(&self, item: &Item) -> io::Result<(File, Found)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(CWD, self.path(item), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("no regular file lies there"));
        }
        Ok((file, found(&metadata)))
    }

    /// What lies there, `None` if nothing does.
    pub fn look(&self, item: &Item) -> io::Result<Option<Found>> {
        match fs::symlink_metadata(self.path(item)) {
            Ok(metadata) => Ok(Some(found(&metadata))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Calls `each` for every blob of a kind; what is no blob is passed over. Errors with the first that `each`
    /// gives, or if the folder can't be read.
    pub fn list(
        &self,
        folder: &Folder,
        kind: Kind,
        each: &mut dyn FnMut(BlobName, Found) -> io::Result<()>,
    ) -> io::Result<()> {
        let top = self.dir(folder, kind);
        if kind != Kind::Data {
            return list_dir(&top, each);
        }
        for entry in fs::read_dir(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            let prefix = name.to_str().is_some_and(|n| n.len() == 2 && u8::from_str_radix(n, 16).is_ok());
            if prefix && entry.file_type()?.is_dir() {
                list_dir(&entry.path(), each)?;
            }
        }
        Ok(())
    }

    /// A fresh temporary file, which vanishes when it is dropped without being kept.
    pub fn temporary(&self) -> io::Result<Temporary> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(number.to_string());
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Temporary { path, file, kept: false })
    }

    /// Puts a temporary file in its place for good, with its time of arrival. `false` if something lies there
    /// already; that is then on disk for good too, whatever crash came between.
    pub fn keep(&self, mut temporary: Temporary, item: &Item, arrived: u64) -> io::Result<bool> {
        stamp(&temporary.file, arrived)?;
        temporary.file.sync_all()?;
        let to = self.path(item);
        let dir = to.parent().unwrap_or(&self.root);
        if matches!(item.blob, Some((Kind::Data, _))) {
            make_dir(dir)?;
        }
        match rustix::fs::renameat_with(CWD, &temporary.path, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => temporary.kept = true,
            Err(rustix::io::Errno::EXIST) => {
                self.confirm(item)?;
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
        sync_dir(dir)?;
        Ok(true)
    }

    /// Makes sure that what lies there outlives a crash.
    pub fn confirm(&self, item: &Item) -> io::Result<()> {
        let (file, _) = self.open_item(item)?;
        file.sync_all()?;
        sync_dir(self.path(item).parent().unwrap_or(&self.root))
    }

    /// Removes an item; `false` if there was none.
    pub fn remove(&self, item: &Item) -> io::Result<bool> {
        let path = self.path(item);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&self.root)).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Replaces a record of our own, whole or not at all.
    pub fn write_record(&self, name: &str, content: &[u8]) -> io::Result<()> {
        use std::io::Write;
        let mut temporary = self.temporary()?;
        temporary.file.write_all(content)?;
        temporary.file.sync_all()?;
        let records = self.root.join("records");
        fs::rename(&temporary.path, records.join(name))?;
        temporary.kept = true;
        sync_dir(&records)
    }

    /// A record of our own, `None` if there is none.
    pub fn read_record(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.root.join("records").join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes a record; nothing happens if there is none.
    pub fn remove_record(&self, name: &str) -> io::Result<()> {
        let records = self.root.join("records");
        match fs::remove_file(records.join(name)) {
            Ok(()) => sync_dir(&records),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Names of the records that begin with a word.
    pub fn records(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join("records"))? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| name.starts_with(prefix)));
        }
        names.sort();
        Ok(names)
    }
}

/// A file that is not anywhere yet.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    /// To be written to.
    pub file: File,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "an upload's remains stay until the next start");
        }
    }
}

fn list_dir(dir: &Path, each: &mut dyn FnMut(BlobName, Found) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(BlobName::read) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => each(name, found(&metadata))?,
            Ok(_) => {}
            // Removed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn found(metadata: &fs::Metadata) -> Found {
    use std::os::unix::fs::MetadataExt;
    let ms = metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
    Found { size: metadata.len(), arrived: u64::try_from(ms).unwrap_or(0) }
}

fn stamp(file: &File, arrived: u64) -> io::Result<()> {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let at = time((arrived / 1000) as i64, ((arrived % 1000) * 1_000_000) as _);
    Ok(rustix::fs::futimens(
        file,
        &Timestamps { last_access: time(0, UTIME_OMIT as _), last_modification: at },
    )?)
}

/// Makes a folder unless it is there; it outlives a crash either way.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(e),
    }
    path.parent().map_or(Ok(()), sync_dir)
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
