//! A Podman of the test's own: its service, store and configuration in one folder on the machine's
//! memory file system, where all of it ends with the machine of the lab.

use super::BASE;
use futures::StreamExt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// How long the service may take to listen.
const SERVICE_START: Duration = Duration::from_secs(30);

static SOCKET: OnceCell<PathBuf> = OnceCell::const_new();

/// The socket of the one service of this test process, with the base image in its store. None outside
/// of a machine of the lab, and says so: Podman would change this computer's own network.
pub async fn socket(test: &str) -> Option<PathBuf> {
    let Some(docker) = std::env::var_os("THERMIDOR_TEST_DOCKER") else {
        println!(
            "SKIPPED {test}: THERMIDOR_TEST_DOCKER names no Docker socket: run it by `thermidor lab-run`"
        );
        return None;
    };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED {test}: Podman as radiators use it needs root");
        return None;
    }
    Some(SOCKET.get_or_init(|| begin(PathBuf::from(docker))).await.clone())
}

/// Where its containers go: below this machine's own control group, with which they end.
pub fn cgroup_parent() -> String {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup of version 2");
    format!("{}/podman", own.trim_end_matches('/'))
}

async fn begin(docker: PathBuf) -> PathBuf {
    let dir = PathBuf::from(format!("/run/podman-test-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    // Addresses given out by the network's plugin are noted there, whatever the store.
    let notes = Path::new("/var/lib/cni");
    fs::create_dir_all(notes).unwrap();
    let none = None::<&std::ffi::CStr>;
    rustix::mount::mount("none", notes, "tmpfs", rustix::mount::MountFlags::empty(), none).unwrap();
    configure(&dir);
    let socket = dir.join("podman.sock");
    let log = File::create(dir.join("log")).unwrap();
    let mut service = podman(&dir);
    service.args(["system", "service", "--time=0"]).arg(format!("unix://{}", socket.display()));
    // Its monitors leave notes where it was started.
    service.current_dir(&dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    // Not waited for: it serves all tests of this process, and ends with the machine.
    #[expect(clippy::zombie_processes, reason = "see above")]
    let mut service = service.spawn().expect("podman is missing: run scripts/setup");
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        let ended = service.try_wait().unwrap();
        let log = fs::read_to_string(dir.join("log")).unwrap();
        assert!(
            ended.is_none() && begun.elapsed() < SERVICE_START,
            "podman does not serve: {ended:?}\n{log}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    copy_base(&docker, &socket).await;
    socket
}

/// Podman asks for as many open files and processes as the kernel can give; a machine that
/// may not raise its limits is given what it has.
fn configure(dir: &Path) {
    let limit = |resource| rustix::process::getrlimit(resource).maximum.unwrap_or(1 << 20).min(1 << 20);
    let files = limit(rustix::process::Resource::Nofile);
    let processes = limit(rustix::process::Resource::Nproc).min(8192);
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n"
    );
    fs::write(dir.join("containers.conf"), text).unwrap();
}

fn podman(dir: &Path) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("store")).arg("--runroot").arg(dir.join("run"));
    command.arg("--tmpdir").arg(dir.join("tmp"));
    command.args(["--cgroup-manager=cgroupfs", "--storage-driver=overlay", "--events-backend=file"]);
    command.env("CONTAINERS_CONF", dir.join("containers.conf"));
    command
}

/// There is no registry: the base image comes out of the lab's Docker.
async fn copy_base(docker: &Path, podman: &Path) {
    let client = async |socket: &Path| {
        let path = socket.to_string_lossy();
        let raw = bollard::Docker::connect_with_unix(&path, 120, bollard::API_DEFAULT_VERSION).unwrap();
        raw.negotiate_version().await.unwrap()
    };
    let from = client(docker).await;
    let mut image = from.export_image(BASE);
    let mut archive = Vec::new();
    while let Some(part) = image.next().await {
        archive.extend_from_slice(&part.unwrap());
    }
    let to = client(podman).await;
    let options = bollard::query_parameters::ImportImageOptions::default();
    let mut loaded = to.import_image(options, bollard::body_full(archive.into()), None);
    while let Some(said) = loaded.next().await {
        said.unwrap();
    }
}
