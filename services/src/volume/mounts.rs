//! What the kernel says is mounted where, and the small mount operations that a volume needs.

use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use std::io;
use std::path::{Path, PathBuf};

/// Stacked mounts on one point that a cleaning takes off at most.
const STACKED_MAX: usize = 32;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Minor number of its device; for FUSE the number of the connection.
    pub minor: u32,
    /// Where.
    pub point: PathBuf,
    /// Whether mounts below it are seen by the other mount namespaces.
    pub shared: bool,
    /// Kind of file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

/// Mountinfo writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<&str> = before.split(' ').collect();
    let mut tail = after.split(' ');
    Some(Mounted {
        minor: fields.get(2)?.split_once(':')?.1.parse().ok()?,
        point: unescape(fields.get(4)?).into(),
        shared: fields.iter().skip(6).any(|f| f.starts_with("shared:")),
        kind: tail.next()?.to_string(),
        source: unescape(tail.next()?),
    })
}

/// Everything mounted in this namespace, in the order of mounting.
pub fn all() -> io::Result<Vec<Mounted>> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// The topmost mount on exactly that point.
pub fn on(point: &Path) -> io::Result<Option<Mounted>> {
    Ok(all()?.into_iter().rfind(|m| m.point == point))
}

/// The mount that a path lies on; of those stacked on one point the last. Asks no file system.
pub fn over(path: &Path) -> io::Result<Option<Mounted>> {
    let above = all()?.into_iter().filter(|m| path.starts_with(&m.point));
    Ok(above.max_by_key(|m| m.point.components().count()))
}

/// Takes every mount off a point; `lazy` also where it is in use.
pub fn take_off(point: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    for _ in 0..STACKED_MAX {
        if on(point)?.is_none() {
            return Ok(());
        }
        unmount(point, flags)?;
    }
    Err(io::Error::other(format!("more than {STACKED_MAX} mounts are stacked on {}", point.display())))
}

/// Sees to it that what is mounted below a directory reaches, and leaves, the other mount
/// namespaces: where its file system is not shared, the directory is bound onto itself.
/// Answers whether it had to be.
pub fn share(dir: &Path) -> io::Result<bool> {
    if over(dir)?.is_some_and(|m| m.shared) {
        return Ok(false);
    }
    mount_bind(dir, dir)?;
    mount_change(dir, MountPropagationFlags::SHARED)?;
    Ok(true)
}

/// Lets nobody write into a mountpoint while nothing is mounted on it (or again lets them).
/// Answers false where the file system knows no such flag.
pub fn set_immutable(dir: &Path, on: bool) -> io::Result<bool> {
    let handle = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let unknown = |e: rustix::io::Errno| {
        matches!(e, rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM)
    };
    let flags = match ioctl_getflags(&handle) {
        Err(e) if unknown(e) => return Ok(false),
        other => other?,
    };
    let wanted = if on { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
    if wanted != flags {
        match ioctl_setflags(&handle, wanted) {
            Err(e) if unknown(e) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = r"36 35 0:47 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse thermidor\040mail rw";
        assert_eq!(
            parse(line),
            Some(Mounted {
                minor: 47,
                point: "/mnt/a b".into(),
                shared: true,
                kind: "fuse".into(),
                source: "thermidor mail".into()
            })
        );
        let private = parse("22 27 0:21 / /proc rw,relatime - proc proc rw").unwrap();
        assert!(!private.shared);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(on(Path::new("/")).unwrap().is_some());
        assert_eq!(on(dir.path()).unwrap(), None);
        take_off(dir.path(), true).unwrap();
    }
}
