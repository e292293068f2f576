//! A friend's vault for tests, as it runs in its container, on a port of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermidor_backup::kit::Kit;
use thermidor_backup::line::{Transport, TransportKey};
use thermidor_backup::vault::HomeKey;
use thermidor_backup::vault_process::{FriendConfig, FriendStatus, Places, Status, VaultConfig, run};
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
    dir: TempDir,
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
        let own = Kit::draw().unwrap().transport().unwrap();
        let config = believing(&name, &own, kit, generation);
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
        Self { name, address: at.to_string(), key: own.public(), task, own, dir }
    }

    /// Its person has confirmed another kit, or generation, of maison: seen by its vault within a second or two.
    pub fn believe(&self, kit: &Kit, generation: u64) {
        believing(&self.name, &self.own, kit, generation).write(&self.dir.path().join("config")).unwrap();
    }

    /// How its vault stands with maison.
    pub async fn status(&self) -> FriendStatus {
        let status = Status::ask(&self.dir.path().join("run"), PATIENCE).await.unwrap();
        status.friends[&HomeName::new("maison").unwrap()].clone()
    }
}

fn believing(name: &HomeName, own: &Transport, kit: &Kit, generation: u64) -> VaultConfig {
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
    let maison = HomeName::new("maison").unwrap();
    VaultConfig::new(name.clone(), 1, own, [(maison, agreed)].into())
}
