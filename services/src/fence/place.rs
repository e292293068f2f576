//! Where a container is to be killed: in a cgroup that is known, or, before its engine has said
//! where that is, wherever its id turns up. The id is known from the creation on.

use super::{FenceError, check_path, gone, is_empty, kill};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where cgroup file systems are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// What a lost lease kills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A cgroup, absolute.
    Cgroup(PathBuf),
    /// A container by the 64 hexadecimal digits of its id, wherever its engine puts it. Looking for it walks
    /// all cgroups of one hierarchy, so it is for the moment between creation and start.
    Container(String),
}

impl Place {
    /// Refuses what would kill more than a container.
    pub fn check(&self) -> Result<(), FenceError> {
        match self {
            Self::Cgroup(path) => check_path(path),
            Self::Container(id) if is_id(id) => Ok(()),
            Self::Container(id) => Err(FenceError::NoId(id.clone())),
        }
    }

    /// Whether both are of one container: a cgroup's path names its container.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cgroup(path), Self::Container(id)) | (Self::Container(id), Self::Cgroup(path)) => {
                path.iter().any(|part| part.to_str().is_some_and(|part| names(part, id)))
            }
            (one, other) => one == other,
        }
    }

    /// Whether nothing runs there; also if there is no such place.
    pub fn is_empty(&self) -> Result<bool, FenceError> {
        for cgroup in self.cgroups()? {
            if !is_empty(&cgroup)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills everything there and returns once nothing is left: after `within` at the latest with an
    /// error. Blocks.
    pub fn kill(&self, within: Duration) -> Result<(), FenceError> {
        self.check()?;
        let deadline = Instant::now() + within;
        for cgroup in self.cgroups()? {
            kill(&cgroup, deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// The cgroup, where it is known.
    pub fn cgroup(&self) -> Option<&Path> {
        match self {
            Self::Cgroup(path) => Some(path),
            Self::Container(_) => None,
        }
    }

    fn cgroups(&self) -> Result<Vec<PathBuf>, FenceError> {
        match self {
            Self::Cgroup(path) => Ok(vec![path.clone()]),
            Self::Container(id) => {
                let root = hierarchy(Path::new(ROOT));
                search(&root, id).map_err(|source| FenceError::Kernel { path: root, source })
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "{}", path.display()),
            Self::Container(id) => write!(f, "container {id}"),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a cgroup of that name is a container's: `ID`, `docker-ID.scope`, `libpod-ID`, and not
/// that of its monitor (`libpod-conmon-ID.scope`), without which Podman never hears of its end.
fn names(part: &str, id: &str) -> bool {
    part.strip_suffix(".scope").unwrap_or(part).ends_with(id) && !part.contains("conmon")
}

/// The hierarchy in which every container has a cgroup: that of the freezer, or version 2's only one.
fn hierarchy(root: &Path) -> PathBuf {
    let freezer = root.join("freezer");
    if freezer.is_dir() { freezer } else { root.to_owned() }
}

/// The topmost cgroups of a container. What goes away meanwhile is passed over.
fn search(root: &Path, id: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if gone(&e) => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if gone(&e) => break,
                Err(e) => return Err(e),
            };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_str().is_some_and(|name| names(name, id)) {
                found.push(entry.path());
            } else {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// What Docker and Podman make of a container, with either driver of cgroups.
    const PLACES: [&str; 6] = [
        "docker/ID",
        "system.slice/docker-ID.scope",
        "libpod_parent/libpod-ID",
        "machine.slice/libpod-ID.scope",
        "machine.slice/libpod-ID.scope/container",
        "thermidor-lab/demo/salon/containers/ID",
    ];

    #[test]
    fn a_container_is_found_wherever_its_engine_puts_it() {
        for place in PLACES.map(|place| place.replace("ID", ID)) {
            for v1 in [true, false] {
                let dir = tempfile::tempdir().unwrap();
                let root = if v1 { dir.path().join("freezer") } else { dir.path().to_owned() };
                std::fs::create_dir_all(root.join(&place)).unwrap();
                std::fs::create_dir_all(root.join("docker").join("f".repeat(64))).unwrap();
                std::fs::create_dir_all(root.join(format!("machine.slice/libpod-conmon-{ID}.scope")))
                    .unwrap();
                let top = root.join(place.trim_end_matches("/container"));
                let hierarchy = hierarchy(dir.path());
                assert_eq!(search(&hierarchy, ID).unwrap(), std::slice::from_ref(&top));
                let (known, told) = (Place::Cgroup(root.join(&place)), Place::Container(ID.into()));
                assert!(known.is_same(&told) && told.is_same(&known) && !known.is_same(&Place::Cgroup(root)));
                assert!(!known.is_same(&Place::Container("f".repeat(64))));
            }
        }
    }

    #[test]
    fn what_is_no_id_is_refused_and_one_that_is_nowhere_is_empty() {
        for bad in ["", "mail", "..", &ID[1..], &format!("{ID}0"), &ID.replace('0', "/")] {
            let place = Place::Container(bad.into());
            assert!(matches!(place.check(), Err(FenceError::NoId(_))), "{bad}");
            assert!(place.kill(Duration::ZERO).is_err(), "{bad}");
        }
        let nowhere = Place::Container("0".repeat(64));
        assert!(nowhere.is_empty().unwrap());
        nowhere.kill(Duration::ZERO).unwrap();
    }
}
