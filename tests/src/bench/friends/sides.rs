//! The three places to which restic sends: the friend's vault in a process of its own over TLS, a folder, and rclone.

use crate::bench::processes::Process;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thermidor_backup::line::{Forwarder, Own, Pin, Transport};
use thermidor_backup::restic::{Repository, Secret, Watch};
use thermidor_backup::stock::Stock;
use thermidor_backup::vault::{Folder, Signer};
use thermidor_backup::vault_process::{FriendConfig, Places, VaultConfig};
use thermidor_model::name::HomeName;
use zeroize::Zeroizing;

/// How long a server may take to open.
const OPEN: Duration = Duration::from_secs(20);
/// The quota: nobody comes near it.
const QUOTA: u64 = 1 << 40;
const PASSWORD: &str = "of the bench";

/// Where restic sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Vault,
    /// A folder of the disk.
    Folder,
    /// `rclone serve restic` on loopback, without TLS.
    Rclone,
}

impl Side {
    /// All, in the order of their turns.
    pub const ALL: [Side; 3] = [Side::Vault, Side::Folder, Side::Rclone];
}

/// What one turn took, s.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// restic's whole run.
    pub backup_s: f64,
    /// The same of the restore.
    pub restore_s: f64,
}

/// The vault's process, and the way to it.
pub struct Vault {
    /// The process.
    pub process: Process,
    at: SocketAddr,
}

fn key(seed: u8) -> Result<Transport> {
    Transport::from_seed(Zeroizing::new([seed; 32])).context("a transport key")
}

fn home(name: &str) -> Result<HomeName> {
    Ok(HomeName::new(name)?)
}

impl Vault {
    /// Starts it over an empty folder.
    pub fn start(place: &Path) -> Result<Self> {
        for folder in ["config", "data", "run"] {
            std::fs::create_dir(place.join(folder)).context("a folder of the vault")?;
        }
        let friend = FriendConfig {
            transport: key(2)?.public(),
            key: Signer::from_seed(&[3; 32])?.public(),
            generation: 1,
            quota: QUOTA,
            keep_s: 1,
            up: None,
            down: None,
            windows: Vec::new(),
        };
        let config = VaultConfig::new(home("alice")?, 1, &key(1)?, [(home("bob")?, friend)].into());
        config.write(&place.join("config"))?;
        let at = free_port()?;
        let this = std::env::current_exe()?;
        let (root, listen) = (place.display().to_string(), at.to_string());
        let process = Process::start(&this, [super::VAULT, &root, &listen], &[], &place.join("log"))?;
        opens(at)?;
        Ok(Self { process, at })
    }

    /// A door on loopback that leads to it over TLS.
    pub async fn door(&self) -> Result<Forwarder> {
        let own = Own::new(&key(2)?, 1)?;
        let pin = Pin::Key(key(1)?.public());
        Ok(Forwarder::open(vec![self.at.to_string()], own, pin, OPEN).await?)
    }
}

/// Serves a vault until the process is ended.
pub fn serve(root: &Path, listen: SocketAddr) -> Result<()> {
    let places =
        Places { config: root.join("config"), data: root.join("data"), run: root.join("run"), listen };
    // As the program itself runs it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(thermidor_backup::vault_process::run(places, std::future::pending()))?)
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn opens(at: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(at).is_err() {
        ensure!(begun.elapsed() < OPEN, "nobody listens on {at}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One turn: a fresh repository, a backup, a restore that is counted.
pub async fn measure(side: Side, place: &Path, source: &Path, messages: u64) -> Result<Took> {
    let (mut servers, mut door, mut watch) = (Vec::new(), None, None);
    let repository = match side {
        Side::Folder => place.join("repository").display().to_string(),
        Side::Vault => {
            let vault = Vault::start(place)?;
            let open = vault.door().await?;
            let url = format!("rest:http://{}/bob/mail/", open.at());
            watch = Some(Watch::begin(&at_the_friends(open.at())?, Stock::default()).await?);
            (servers, door) = (vec![vault.process], Some(open));
            url
        }
        Side::Rclone => {
            let at = free_port()?;
            let (folder, listen) = (place.join("repository").display().to_string(), at.to_string());
            let args = ["serve", "restic", "--addr", &listen, &folder];
            servers.push(Process::start(Path::new("rclone"), args, &[], &place.join("log"))?);
            opens(at)?;
            format!("rest:http://{at}/")
        }
    };
    // A backup is watched for its challenges, a restore is not.
    let filled = watch.as_ref().map(|watch| url(watch.repository())).unwrap_or_else(|| repository.clone());
    let (place, source) = (place.to_owned(), source.to_owned());
    let took =
        tokio::task::spawn_blocking(move || turn(&filled, &repository, &place, &source, messages)).await??;
    if let Some(watch) = watch {
        ensure!(watch.stock() != Stock::default(), "no challenge was drawn of what was backed up");
    }
    drop(door);
    for mut server in servers {
        server.runs()?;
    }
    Ok(took)
}

fn at_the_friends(at: SocketAddr) -> Result<Repository> {
    Ok(Repository {
        at,
        home: home("bob")?,
        folder: Folder::new("mail").context("a folder")?,
        password: None,
        key: Secret::new(PASSWORD),
        as_of: None,
    })
}

fn url(repository: &Repository) -> String {
    let password = repository.password.as_ref().map_or("", Secret::expose);
    format!("rest:http://bob:{password}@{}/bob/mail/", repository.at)
}

fn restic(repository: &str, place: &Path, dir: &Path, args: &[&str]) -> Result<f64> {
    let mut command = Command::new("restic");
    command
        .args(args)
        .current_dir(dir)
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("RESTIC_CACHE_DIR", place.join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let begun = Instant::now();
    let done = command.output().context("start restic")?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(done.status.success(), "restic {}: {}", args[0], String::from_utf8_lossy(&done.stderr));
    Ok(took)
}

fn turn(filled: &str, repository: &str, place: &Path, source: &Path, messages: u64) -> Result<Took> {
    restic(filled, place, source, &["init", "--repository-version", "2"])?;
    let backup_s = restic(filled, place, source, &["backup", "."])?;
    let restored = place.join("restored");
    let target = restored.display().to_string();
    let restore_s = restic(repository, place, source, &["restore", "latest", "--target", &target])?;
    let there = count(&restored)?;
    ensure!(there == messages, "{there} of {messages} messages were restored");
    Ok(Took { backup_s, restore_s })
}

fn count(dir: &Path) -> Result<u64> {
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { count += 1 }
        }
    }
    Ok(count)
}
