//! The same containers on a real Podman, behind Docker's API on a socket of its own.

mod containers;
mod stage;

use stage::{Stage, podman};

/// Where control groups are of version 1, Podman 4.3's monitor notes it in the folder in which the
/// service was started, and Podman looks for it elsewhere.
const TELLS_OOM: bool = false;

/// A stage on Podman.
async fn set(test: &str) -> Option<Stage> {
    let socket = podman::socket(test).await?;
    Some(Stage::on(socket, Some(podman::cgroup_parent())).await)
}
