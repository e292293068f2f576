//! A friend's vault for tests, as it runs in its container, on a port of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermidor_backup::kit::Kit;
use thermidor_backup::line::{Transport, TransportKey};
use thermidor_backup::vault::HomeKey;
use thermidor_backup::vault_process::{FriendConfig, Places, VaultConfig, run};
use thermidor_model::name::HomeName;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

/// The friend.
pub struct Friend {
    pub name: HomeName,
    pub address: String,
    pub key: TransportKey,
    pub own: Transport,
    pub task: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Friend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Friend {
    /// `name`, who lends space to maison, whose kit it is and of which it believes a generation.
    pub async fn new(name: &str, kit: &Kit, generation: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = HomeName::new(name).unwrap();
        let at: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let agreed = FriendConfig {
            transport: kit.transport().unwrap().public(),
            key: HomeKey(kit.signer().unwrap().public().0),
            generation,
            quota: 1 << 30,
            keep_s: 3600,
            up: None,
            down: None,
            windows: vec![],
        };
        let own = Kit::draw().unwrap().transport().unwrap();
        let maison = HomeName::new("maison").unwrap();
        let config = VaultConfig::new(name.clone(), 1, &own, [(maison, agreed)].into());
        let place = |below: &str| {
            let path = dir.path().join(below);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let places = Places { config: place("config"), data: place("data"), run: place("run"), listen: at };
        config.write(&places.config).unwrap();
        let task = tokio::spawn(async move { run(places, std::future::pending()).await.unwrap() });
        let until = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(at).await.is_err() {
            assert!(Instant::now() < until, "the vault does not open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { name, address: at.to_string(), key: own.public(), own, task, _dir: dir }
    }
}
