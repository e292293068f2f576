//! The vault's process: friends come and go by its file, generations are judged, guests are led on, it ends in order.

use crate::stage::{PATIENCE, home, key, own};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_backup::generations::{self, Between, Later, NotHeard};
use thermidor_backup::line::{DialError, Forwarder, Pin, ToVault, dial_pairing, dial_vault};
use thermidor_backup::pairing::{self, Code, Introduction, Invitation, PairingError};
use thermidor_backup::vault::{BlobName, HomeKey, Signer};
use thermidor_backup::vault_process::{FriendConfig, PAIRING_SOCKET, Places, Status, VaultConfig, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Alice's vault as a task, with bob (key 2, generation 3) as a friend.
struct Vault {
    dir: TempDir,
    at: SocketAddr,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn friend(n: u8, generation: u64) -> FriendConfig {
    FriendConfig {
        transport: key(n).public(),
        key: HomeKey([n; 32]),
        generation,
        quota: 1 << 20,
        keep_s: 3600,
        up: None,
        down: None,
        windows: vec![],
    }
}

fn tell(dir: &Path, friends: &[(&str, FriendConfig)]) {
    let friends: BTreeMap<_, _> = friends.iter().map(|(name, it)| (home(name), it.clone())).collect();
    VaultConfig::new(home("alice"), 7, &key(1), friends).write(&dir.join("config")).unwrap();
}

impl Vault {
    async fn runs() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["config", "data", "run"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        tell(dir.path(), &[("bob", friend(2, 3))]);
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        Self::over(dir, at)
    }

    fn over(dir: TempDir, at: SocketAddr) -> Self {
        let places = Places {
            config: dir.path().join("config"),
            data: dir.path().join("data"),
            run: dir.path().join("run"),
            listen: at,
        };
        let (end, ending) = oneshot::channel();
        let task = tokio::spawn(async move {
            run(places, async { drop(ending.await) }).await.unwrap();
        });
        Self { dir, at, end, task }
    }

    async fn dial(&self, n: u8, generation: u64) -> Result<ToVault, DialError> {
        let pin = Pin::Key(key(1).public());
        dial_vault(&[self.at.to_string()], &own(n, generation), pin, PATIENCE).await
    }

    /// Dials until it comes out as wanted: the file is looked at once a second, and the start takes a moment.
    async fn until(
        &self,
        n: u8,
        generation: u64,
        wanted: impl Fn(&Result<ToVault, DialError>) -> bool,
    ) -> Result<ToVault, DialError> {
        let mut last = String::new();
        for _ in 0..200 {
            let came = self.dial(n, generation).await;
            if wanted(&came) {
                return came;
            }
            last = format!("{came:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{last}");
    }

    async fn status(&self) -> Status {
        Status::ask(&self.dir.path().join("run"), PATIENCE).await.unwrap()
    }
}

/// Says one request and hears the whole answer.
async fn ask(to: &mut ToVault, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    to.stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    to.stream.flush().await.unwrap();
    let mut heard = Vec::new();
    loop {
        heard.push(to.stream.read_u8().await.unwrap());
        if heard.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(heard).unwrap();
    let length = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    to.stream.read_exact(&mut body).await.unwrap();
    (head[9..12].parse().unwrap(), String::from_utf8_lossy(&body).into_owned())
}

fn blob(content: &[u8]) -> String {
    format!("/bob/data/{}", BlobName::of(content))
}

#[tokio::test]
async fn friends_come_and_go_by_the_file_and_open_connections_with_them() {
    let vault = Vault::runs().await;
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"one"), b"one").await.0, 200);
    // A friend sees nothing of another's.
    assert_eq!(ask(&mut bob, "GET", "/carol/data/", b"").await.0, 401);
    assert!(vault.dial(4, 1).await.is_err());
    tell(vault.dir.path(), &[("bob", friend(2, 3)), ("carol", friend(4, 1))]);
    vault.until(4, 1, Result::is_ok).await.unwrap();
    // Bob's connection has outlived carol's coming, and ends with bob's going.
    assert_eq!(ask(&mut bob, "GET", &blob(b"one"), b"").await, (200, "one".into()));
    let status = vault.status().await.friends.remove(&home("bob")).unwrap();
    assert_eq!((status.used, status.quota, status.connections), (3, 1 << 20, 1));
    assert_eq!(status.generation_heard, 3);
    tell(vault.dir.path(), &[("carol", friend(4, 1))]);
    let closed = tokio::time::timeout(PATIENCE, bob.stream.read_u8()).await.unwrap();
    assert!(closed.is_err());
    let error = vault.until(2, 3, Result::is_err).await.unwrap_err().to_string();
    assert!(error.contains("does not know this home"), "{error}");
    assert!(!vault.status().await.friends.contains_key(&home("bob")));
    vault.end.send(()).unwrap();
    vault.task.await.unwrap();
}

#[tokio::test]
async fn a_home_that_came_back_reads_until_a_person_confirms_and_the_one_before_it_is_told() {
    let vault = Vault::runs().await;
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"one"), b"one").await.0, 200);
    let lock = format!("/bob/locks/{}", BlobName::of(b"lock"));
    assert_eq!(ask(&mut bob, "POST", &lock, b"lock").await.0, 200);

    let mut back = vault.dial(2, 4).await.unwrap();
    assert!(back.welcome.read_only && back.welcome.generation == 3);
    assert_eq!(ask(&mut back, "GET", &blob(b"one"), b"").await, (200, "one".into()));
    let (status, why) = ask(&mut back, "POST", &blob(b"two"), b"two").await;
    assert!(status == 403 && why.contains("until its friend has confirmed"), "{status} {why}");
    for (method, path) in
        [("DELETE", blob(b"one")), ("POST", "/bob/-/deletions".into()), ("POST", "/bob/-/head".into())]
    {
        assert_eq!(ask(&mut back, method, &path, b"").await.0, 403, "{method} {path}");
    }
    // restic takes a lock to restore, finds it taken, and the old home's is not in its way: nothing of it is kept.
    let own = format!("/bob/locks/{}", BlobName::of(b"mine"));
    assert_eq!(ask(&mut back, "POST", &own, b"mine").await.0, 200);
    assert_eq!(ask(&mut back, "DELETE", &lock, b"").await.0, 200);
    assert_eq!(ask(&mut back, "GET", &lock, b"").await.0, 404);
    assert_eq!(ask(&mut bob, "GET", &lock, b"").await.0, 200);
    assert_eq!(ask(&mut bob, "GET", &own, b"").await.0, 404);
    assert_eq!(vault.status().await.friends[&home("bob")].generation_heard, 4);

    // Confirmed: the one that came back writes, the one before it is told why it can't.
    tell(vault.dir.path(), &[("bob", friend(2, 4))]);
    let closed = tokio::time::timeout(PATIENCE, bob.stream.read_u8()).await.unwrap();
    assert!(closed.is_err());
    let mut back =
        vault.until(2, 4, |came| came.as_ref().is_ok_and(|to| !to.welcome.read_only)).await.unwrap();
    assert_eq!(ask(&mut back, "POST", &blob(b"two"), b"two").await.0, 200);
    let error = vault.dial(2, 3).await.unwrap_err();
    let words = error.refusal().unwrap().to_string();
    assert!(words.contains("recovered or rescued: generation 4"), "{words}");
}

#[tokio::test]
async fn a_later_generation_leaves_a_signed_word_and_only_the_earlier_one_is_handed_it() {
    let vault = Vault::runs().await;
    let kit = Signer::from_seed(&[42; 32]).unwrap();
    let agreed = |generation| FriendConfig { key: kit.public(), ..friend(2, generation) };
    tell(vault.dir.path(), &[("bob", agreed(3))]);
    let between = Between { home: home("bob"), vault: home("alice") };
    let later = Later { generation: 4, since: 77 };
    let word = |later| serde_json::to_vec(&generations::sign(&kit, &between, later).unwrap()).unwrap();
    let path = "/bob/-/generation";

    // Before a person of alice's has confirmed it, no word of the new generation is kept, whoever brings it.
    let mut back = vault.until(2, 4, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut back, "POST", path, &word(later)).await.0, 403);
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", path, &word(later)).await.0, 403);
    assert_eq!(ask(&mut bob, "GET", path, b"").await.0, 404);

    tell(vault.dir.path(), &[("bob", agreed(4))]);
    let mut back =
        vault.until(2, 4, |came| came.as_ref().is_ok_and(|to| !to.welcome.read_only)).await.unwrap();
    // Confirmed, and nothing was left yet: the refusal is words alone, which stop nobody.
    let refused = vault.dial(2, 3).await.unwrap_err().refusal().unwrap().clone();
    assert!(refused.why.contains("recovered or rescued: generation 4") && refused.word.is_none());
    let thief = Signer::from_seed(&[9; 32]).unwrap();
    let forged = serde_json::to_vec(&generations::sign(&thief, &between, later).unwrap()).unwrap();
    assert_eq!(ask(&mut back, "POST", path, &forged).await.0, 403);
    let not_this = word(Later { generation: 5, since: 0 });
    assert_eq!(ask(&mut back, "POST", path, &not_this).await.0, 403);
    assert_eq!(ask(&mut back, "POST", "/bob/-/generation/mail", &word(later)).await.0, 404);
    for _ in 0..2 {
        assert_eq!(ask(&mut back, "POST", path, &word(later)).await.0, 200);
    }
    assert_eq!(ask(&mut back, "GET", path, b"").await.1.as_bytes(), word(later));

    let refused = vault.dial(2, 3).await.unwrap_err().refusal().unwrap().clone();
    let heard = generations::hear(&refused.word.unwrap(), &kit.public(), &between, 3);
    assert_eq!(heard, Ok(later));
    // Also after the vault was started again, and after a further raise, until the next one leaves its own.
    let Vault { dir, at, end, task } = vault;
    end.send(()).unwrap();
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    tell(dir.path(), &[("bob", agreed(5))]);
    let vault = Vault::over(dir, at);
    vault.until(2, 5, Result::is_ok).await.unwrap();
    for (own, expected) in [(3, Ok(later)), (4, Err(NotHeard::NotLater(4)))] {
        let refused = vault.dial(2, own).await.unwrap_err().refusal().unwrap().clone();
        assert_eq!(generations::hear(&refused.word.unwrap(), &kit.public(), &between, own), expected);
    }
}

#[tokio::test]
async fn it_ends_in_order_and_another_goes_on_with_what_was_acknowledged() {
    let vault = Vault::runs().await;
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"one"), b"one").await.0, 200);
    // An upload is under way.
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nt", blob(b"two"));
    bob.stream.write_all(head.as_bytes()).await.unwrap();
    let Vault { dir, at, end, task } = vault;
    end.send(()).unwrap();
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    let vault = Vault::over(dir, at);
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "GET", &blob(b"one"), b"").await, (200, "one".into()));
    assert_eq!(ask(&mut bob, "GET", &blob(b"two"), b"").await.0, 404);
    assert_eq!(ask(&mut bob, "POST", &blob(b"two"), b"two").await.0, 200);
}

fn introduction(name: &str, n: u8) -> Introduction {
    Introduction {
        version: Introduction::VERSION,
        home: home(name),
        generation: 1,
        key: HomeKey([n; 32]),
        transport: key(n).public(),
        addresses: vec![format!("{name}.example")],
    }
}

#[tokio::test]
async fn a_guest_is_led_on_to_the_daemon_and_hung_up_on_without_one() {
    let vault = Vault::runs().await;
    vault.until(2, 3, Result::is_ok).await.unwrap();
    let addresses = [vault.at.to_string()];
    let invitation = Invitation::draw(0, 1000);
    let code: Code = invitation.code.clone();
    // Nobody listens behind: the code stays good.
    let stream = dial_pairing(&addresses, PATIENCE).await.unwrap();
    let cut = pairing::guest(stream, &code, introduction("dave", 5), PATIENCE).await;
    assert!(matches!(cut, Err(PairingError::Cut { spent: false })), "{cut:?}");

    let daemon = UnixListener::bind(vault.dir.path().join("run").join(PAIRING_SOCKET)).unwrap();
    let host = tokio::spawn(async move {
        let (stream, _) = daemon.accept().await.unwrap();
        let own = introduction("alice", 1);
        pairing::host(stream, invitation, own, async || Ok(true), || 1, PATIENCE).await.unwrap()
    });
    let stream = dial_pairing(&addresses, PATIENCE).await.unwrap();
    let guest = pairing::guest(stream, &code, introduction("dave", 5), PATIENCE).await.unwrap();
    let host = host.await.unwrap();
    assert_eq!((guest.friend.home, host.friend.home), (home("alice"), home("dave")));
    assert_eq!(guest.words, host.words);
}

#[tokio::test]
async fn a_door_tells_when_whoever_was_let_in_is_refused_in_words() {
    let vault = Vault::runs().await;
    vault.until(2, 3, Result::is_ok).await.unwrap();
    let pin = Pin::Key(key(1).public());
    let door = Forwarder::open(vec![vault.at.to_string()], own(2, 3), pin, PATIENCE).await.unwrap();
    let let_in = TcpStream::connect(door.at()).await.unwrap();
    let soon = Duration::from_millis(300);
    assert!(tokio::time::timeout(soon, door.refused()).await.is_err(), "nobody was refused");
    tell(vault.dir.path(), &[("bob", friend(2, 4))]);
    let refused = vault.until(2, 3, Result::is_err).await.unwrap_err();
    assert!(refused.refusal().is_some(), "{refused}");
    drop(let_in);
    let _again = TcpStream::connect(door.at()).await.unwrap();
    let said = tokio::time::timeout(PATIENCE, door.refused()).await.unwrap();
    assert!(said.contains("recovered or rescued: generation 4"), "{said}");
}

#[tokio::test]
async fn its_own_home_is_known_and_let_in_to_nothing() {
    let vault = Vault::runs().await;
    vault.until(2, 3, Result::is_ok).await.unwrap();
    let error = vault.dial(1, 7).await.unwrap_err();
    let words = error.refusal().unwrap().to_string();
    assert_eq!(words, "this is the vault of alice itself: it is open to its friends");
}
