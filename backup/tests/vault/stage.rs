//! A vault of alice's that lends space to bob, on a port of its own, and a client that says exactly what it is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermidor_backup::vault::{
    BlobName, Caller, OpenError, Password, Says, Settings, Statement, Terms, VERSION, Vault,
};
use thermidor_model::name::HomeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub const PASSWORD: &str = "bob-and-a-long-secret";
/// `bob:PASSWORD`.
pub const AUTHORIZATION: &str = "Basic Ym9iOmJvYi1hbmQtYS1sb25nLXNlY3JldA==";
/// When the stage's clock begins, in ms since the Unix epoch.
pub const BEGIN: u64 = 1_764_000_000_000;
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const V2: &str = "application/vnd.x.restic.rest.v2";
pub const V1: &str = "application/vnd.x.restic.rest.v1";

pub fn home(name: &str) -> HomeName {
    HomeName::new(name).unwrap()
}

/// What bob says to alice's vault of a folder.
pub fn statement(folder: &str, number: u64, says: Says) -> Statement {
    let (home, vault) = (home("bob"), home("alice"));
    Statement { version: VERSION, home, vault, generation: 0, number, folder: folder.into(), says }
}

/// Terms with bob's password and 1 GiB.
pub fn terms() -> Terms {
    let mut terms = Terms::new(1 << 30);
    terms.password = Some(Password::new(PASSWORD));
    terms
}

pub struct Stage {
    pub vault: Vault,
    pub at: SocketAddr,
    pub clock: Arc<AtomicU64>,
    pub uptime: Arc<AtomicU64>,
    pub root: PathBuf,
    accepting: JoinHandle<()>,
    _dir: Option<TempDir>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Said {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn settings(clock: &Arc<AtomicU64>, uptime: &Arc<AtomicU64>) -> Settings {
    let (clock, uptime) = (clock.clone(), uptime.clone());
    let mut settings = Settings::new(home("alice"));
    settings.clock = Arc::new(move || clock.load(Ordering::SeqCst));
    settings.uptime = Arc::new(move || uptime.load(Ordering::SeqCst));
    settings.zone = jiff::tz::TimeZone::UTC;
    settings.silence = Duration::from_secs(2);
    settings
}

impl Stage {
    pub async fn new() -> Self {
        Self::with(terms(), |_| {}).await
    }

    pub async fn with(terms: Terms, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let mut stage = Self::over(&root, terms, change).await;
        stage._dir = Some(dir);
        stage
    }

    pub async fn over(root: &Path, terms: Terms, change: impl FnOnce(&mut Settings)) -> Self {
        let clock = Arc::new(AtomicU64::new(BEGIN));
        let uptime = Arc::new(AtomicU64::new(0));
        let mut settings = settings(&clock, &uptime);
        change(&mut settings);
        let vault = Vault::open(root, settings).unwrap();
        vault.lend(&home("bob"), terms).unwrap();
        let (at, accepting) = listen(vault.clone(), Caller::ByPassword).await;
        Self { vault, at, clock, uptime, root: root.to_owned(), accepting, _dir: None }
    }

    /// The vault is closed and opened again, as after a crash: nothing is said to it before.
    pub async fn reopened(self, terms: Terms) -> Self {
        let Self { vault, clock, uptime, root, accepting, _dir, .. } = self;
        accepting.abort();
        drop(vault);
        let begun = Instant::now();
        let vault = loop {
            match Vault::open(&root, settings(&clock, &uptime)) {
                Ok(vault) => break vault,
                Err(OpenError::Taken(_)) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(e) => panic!("{e}"),
            }
        };
        vault.lend(&home("bob"), terms).unwrap();
        let (at, accepting) = listen(vault.clone(), Caller::ByPassword).await;
        Self { vault, at, clock, uptime, root, accepting, _dir }
    }

    /// Bob makes his repository.
    pub async fn create(&self) {
        assert_eq!(self.ask("POST", "/bob/?create=true", b"").await.status, 200);
    }

    pub async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Said {
        self.ask_with(method, path, &[("Authorization", AUTHORIZATION)], body).await
    }

    pub async fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
        ask(self.at, method, path, headers, body).await
    }

    /// Sends a blob under its right name.
    pub async fn save(&self, kind: &str, content: &[u8]) -> String {
        let path = format!("/bob/{kind}/{}", BlobName::of(content));
        let said = self.ask("POST", &path, content).await;
        assert_eq!(said.status, 200, "{}", said.text());
        path
    }

    pub async fn get(&self, path: &str) -> Said {
        self.ask("GET", path, b"").await
    }

    /// Says something as it is and leaves the connection open.
    pub async fn raw(&self, said: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream
    }

    /// Time passes.
    pub fn pass(&self, time: Duration) -> u64 {
        let ms = time.as_millis() as u64;
        self.uptime.fetch_add(ms, Ordering::SeqCst);
        self.clock.fetch_add(ms, Ordering::SeqCst) + ms
    }

    /// A folder of bob's on the vault's disk.
    pub fn folder(&self, below: &str) -> PathBuf {
        self.root.join("friends/bob").join(below)
    }

    /// Names of what lies in bob's folder for temporary files.
    pub fn temporary(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder("tmp")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Waits until no upload is left on its way.
    pub async fn nothing_left(&self) {
        let begun = Instant::now();
        while !self.temporary().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "uploads are left: {:?}", self.temporary());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Serves a vault on a port of its own.
pub async fn listen(vault: Vault, caller: Caller) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (at, tokio::spawn(accept(listener, vault, caller)))
}

pub async fn accept(listener: TcpListener, vault: Vault, caller: Caller) {
    let mut served = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (vault, caller) = (vault.clone(), caller.clone());
        served.spawn(async move { vault.serve(stream, caller).await });
    }
}

pub async fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: vault\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let is_told = headers.iter().any(|(name, _)| *name == "Content-Length" || *name == "Transfer-Encoding");
    if method == "POST" && !is_told {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    // A body may be refused before it is sent whole.
    let _ = stream.write_all(body).await;
    hear(stream).await
}

/// Reads one answer to its end.
pub async fn hear(mut stream: TcpStream) -> Said {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("no answer");
    read.unwrap();
    let text_end = all.windows(4).position(|w| w == b"\r\n\r\n");
    let text_end = text_end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&all)));
    let head = String::from_utf8(all[..text_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let rest = &all[text_end + 4..];
    let is_chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
    let body = if is_chunked { dechunk(rest) } else { rest.to_vec() };
    Said { status, headers, body }
}

/// Panics if the last chunk is missing: the answer broke off.
fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").expect("the answer broke off");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

/// Bytes that no compression helps with, always the same for a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
