//! The anchor: GlusterFS from Debian, a volume of three replicas with its bricks on the disk that is
//! measured, all else as it comes. Its folders of the system are covered by our own: this runs in a lab,
//! whose mounts and processes end with it.

use crate::bench::processes::Process;
use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const VOLUME: &str = "bench";
/// What glusterd keeps for itself, apart from `/run`, which is the lab's.
const OWN: [&str; 2] = ["/var/lib/glusterd", "/var/log/glusterfs"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted volume. Its processes end with the lab, and before if this is dropped in order.
pub struct Gluster {
    dir: PathBuf,
    _daemon: Process,
}

fn tool(program: &str, args: &[&str]) -> Result<String> {
    let said = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        said.status.success(),
        "`{program} {}`: {} {}",
        args.join(" "),
        text(&said.stdout),
        text(&said.stderr)
    );
    Ok(text(&said.stdout))
}

impl Gluster {
    /// Starts it below that folder, at the machine's own address (loopback is refused), and mounts it.
    pub fn start(dir: &Path, address: Ipv4Addr) -> Result<Self> {
        for folder in OWN {
            let own = dir.join(folder.trim_start_matches('/').replace('/', "-"));
            std::fs::create_dir_all(&own)?;
            std::fs::create_dir_all(folder)?;
            tool("mount", &["--bind", &own.to_string_lossy(), folder])?;
        }
        std::fs::create_dir_all("/run/gluster")?;
        let glusterd = ["/usr/sbin/glusterd", "/usr/bin/glusterd"].map(Path::new);
        let glusterd =
            glusterd.into_iter().find(|path| path.exists()).context("glusterd is not installed")?;
        let daemon = Process::start(glusterd, ["--no-daemon"], &[], &dir.join("glusterd.log"))?;
        let began = Instant::now();
        while let Err(e) = tool("gluster", &["--mode=script", "volume", "list"]) {
            ensure!(began.elapsed() < PATIENCE, "glusterd does not answer: {e:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let brick = |n: usize| format!("{address}:{}", dir.join(format!("brick{n}")).display());
        for n in 1..=3 {
            std::fs::create_dir_all(dir.join(format!("brick{n}")))?;
        }
        // Replicas on one machine are what it warns of, and what is compared here on either side.
        let create = ["--mode=script", "volume", "create", VOLUME, "replica", "3"];
        let bricks = [brick(1), brick(2), brick(3)];
        let bricks: Vec<&str> = bricks.iter().map(String::as_str).collect();
        tool("gluster", &[&create[..], &bricks, &["force"]].concat())?;
        tool("gluster", &["--mode=script", "volume", "start", VOLUME])?;
        let gluster = Self { dir: dir.to_owned(), _daemon: daemon };
        let point = gluster.mount();
        std::fs::create_dir_all(&point)?;
        tool("mount", &["-t", "glusterfs", &format!("{address}:/{VOLUME}"), &point.to_string_lossy()])?;
        // It answers once all bricks are connected; before that, files would be in fewer than three.
        let began = Instant::now();
        loop {
            let probe = point.join("probe");
            let written = std::fs::write(&probe, "x").is_ok();
            let in_all = (1..=3).all(|n| dir.join(format!("brick{n}/probe")).exists());
            if written && in_all {
                std::fs::remove_file(&probe)?;
                return Ok(gluster);
            }
            ensure!(began.elapsed() < PATIENCE, "the bricks are not all connected");
            std::fs::remove_file(&probe).ok();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where it is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Where the bricks are.
    pub fn bricks(&self) -> Vec<PathBuf> {
        (1..=3).map(|n| self.dir.join(format!("brick{n}"))).collect()
    }

    /// Its version.
    pub fn version() -> Result<String> {
        let said = tool("glusterfs", &["--version"])?;
        let first = said.lines().next().unwrap_or_default();
        Ok(first.split_whitespace().nth(1).context("no version")?.to_owned())
    }
}

impl Drop for Gluster {
    fn drop(&mut self) {
        let point = self.mount();
        let steps: [(&str, &[&str]); 2] = [
            ("umount", &["-l", &point.to_string_lossy()]),
            ("gluster", &["--mode=script", "volume", "stop", VOLUME, "force"]),
        ];
        for (program, args) in steps {
            if let Err(e) = tool(program, args) {
                eprintln!("left to the lab's end: {e:#}");
            }
        }
    }
}
