//! Which engine's socket is taken where nobody has named one.

use std::path::{Path, PathBuf};

/// Docker's.
const DOCKER: &str = "var/run/docker.sock";
/// Podman's, once `podman.socket` is enabled.
const PODMAN: &str = "run/podman/podman.sock";
/// Where Docker's engine is installed.
const DOCKERD: [&str; 4] =
    ["usr/bin/dockerd", "usr/sbin/dockerd", "usr/local/bin/dockerd", "snap/bin/docker"];

/// The socket of this radiator's engine: Docker's; Podman's where that is there and Docker is not installed.
/// A Docker that is installed and not up yet is waited for: its containers must not be forgotten for a
/// radiator that was quick to start.
pub fn usual_socket() -> PathBuf {
    below(Path::new("/"))
}

/// Podman's socket, where it is there.
pub fn podman_socket() -> Option<PathBuf> {
    Some(Path::new("/").join(PODMAN)).filter(|path| path.exists())
}

fn below(root: &Path) -> PathBuf {
    let (docker, podman) = (root.join(DOCKER), root.join(PODMAN));
    let has_docker = docker.exists() || DOCKERD.iter().any(|program| root.join(program).exists());
    if !has_docker && podman.exists() { podman } else { docker }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn podman_is_taken_where_docker_is_missing_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let touch = |path: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        };
        assert_eq!(below(root), root.join(DOCKER), "neither: Docker's is named");
        touch(PODMAN);
        assert_eq!(below(root), root.join(PODMAN));
        touch("usr/sbin/dockerd");
        assert_eq!(below(root), root.join(DOCKER), "installed, and not up yet");
        fs::remove_file(root.join("usr/sbin/dockerd")).unwrap();
        touch(DOCKER);
        assert_eq!(below(root), root.join(DOCKER), "both listen");
    }
}
