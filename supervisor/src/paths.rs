//! Where a radiator keeps its things, and where its processes meet.

use std::path::{Path, PathBuf};

/// State that survives a reboot.
pub const DATA_DEFAULT: &str = "/var/lib/thermidor";

/// TCP port of the home's listener.
pub const HOME_PORT: u16 = 7470;

/// TCP port of the ingress' tunnel.
pub const TUNNEL_PORT: u16 = 7471;

/// The folders of one radiator on this machine.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `--data`: the log, keys, volumes.
    pub data: PathBuf,
    /// Sockets, leases, routes: a memory file system, gone with a reboot.
    pub run: PathBuf,
}

impl Paths {
    /// The folders that belong to a data folder. The run folder's name is drawn from the data
    /// folder's, so that several radiators can share a machine.
    pub fn of(data: &Path) -> Self {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_path_buf());
        let run = std::env::var_os("THERMIDOR_RUN").map_or_else(|| default_run(&data), PathBuf::from);
        Self { data, run }
    }

    /// Makes both folders, for root only.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for dir in [&self.data, &self.run] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }

    /// Where the CLI speaks to the daemon.
    pub fn api_socket(&self) -> PathBuf {
        self.data.join("thermidor.sock")
    }

    /// Where the daemon speaks to the guard.
    pub fn guard_socket(&self) -> PathBuf {
        self.run.join("guard.sock")
    }

    /// The guard's lease page.
    pub fn lease_page(&self) -> PathBuf {
        self.run.join("leases")
    }

    /// The ingress' routing table.
    pub fn routes(&self) -> PathBuf {
        self.run.join("routes.json")
    }

    /// A volume's folder: image, header, mountpoint.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    /// What the daemon writes for a service's container to read.
    pub fn service(&self, name: &str) -> PathBuf {
        self.data.join("services").join(name)
    }
}

fn default_run(data: &Path) -> PathBuf {
    if data == Path::new(DATA_DEFAULT) {
        return PathBuf::from("/run/thermidor");
    }
    let hash = blake3::hash(data.as_os_str().as_encoded_bytes()).to_hex();
    // On a memory file system, whatever /run is: the guard must not wait for a disk.
    PathBuf::from("/dev/shm").join(format!("thermidor-{}", &hash[..12]))
}
