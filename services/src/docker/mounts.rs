//! What is mounted where, as the kernel tells it.

use std::io;
use std::path::{Path, PathBuf};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct MountLine {
    at: PathBuf,
    shared: bool,
}

fn parse(text: &str) -> Vec<MountLine> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let at = PathBuf::from(unescape(fields.nth(4)?));
        let shared = fields
            .skip(1)
            .take_while(|field| *field != "-")
            .any(|field| field.starts_with("shared:") || field.starts_with("master:"));
        Some(MountLine { at, shared })
    };
    text.lines().filter_map(line).collect()
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Whether something is mounted exactly there.
pub(super) fn is_mountpoint(path: &Path) -> io::Result<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(parse(&text).iter().any(|line| line.at == path))
}

/// Whether mounts made below this path on the host are carried into other namespaces,
/// so that a bind mount may be `rslave`: then nothing that the container mounts comes back.
pub(super) fn is_shared(path: &Path) -> io::Result<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(covering_is_shared(&parse(&text), path))
}

fn covering_is_shared(lines: &[MountLine], path: &Path) -> bool {
    // Of several mounts on one path the last one covers the others.
    let covering = lines.iter().filter(|line| path.starts_with(&line.at));
    covering.max_by_key(|line| line.at.components().count()).is_some_and(|line| line.shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:5 / /proc rw - proc proc rw
30 21 7:0 / /srv/my\\040mail rw,noatime - ext4 /dev/loop0 rw
31 21 7:1 / /srv/slave rw master:4 - ext4 /dev/loop1 rw
";

    #[test]
    fn the_deepest_mount_above_a_path_tells_whether_mounts_travel() {
        let lines = parse(TEXT);
        assert_eq!(lines[2], MountLine { at: "/srv/my mail".into(), shared: false });
        assert!(covering_is_shared(&lines, Path::new("/srv/other")));
        assert!(!covering_is_shared(&lines, Path::new("/srv/my mail/box")));
        assert!(covering_is_shared(&lines, Path::new("/srv/slave")));
        assert!(!covering_is_shared(&[], Path::new("/")));
    }

    #[test]
    fn the_root_is_a_mountpoint_and_a_fresh_folder_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mountpoint(Path::new("/")).unwrap());
        assert!(!is_mountpoint(dir.path()).unwrap());
        assert_eq!(unescape("a\\134b\\"), "a\\b\\");
    }
}
