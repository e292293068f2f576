//! The vault's process: friends come and go by its file, generations are judged, guests are led on, it ends in order.

use crate::stage::{PATIENCE, home, key, own};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_backup::generations::{self, Between, Later, NotHeard};
use thermidor_backup::kit::Kit;
use thermidor_backup::kit_change::{Announcement, NewKeys};
use thermidor_backup::line::{DialError, Forwarder, Own, Pin, ToVault, dial_pairing, dial_vault};
use thermidor_backup::pairing::{self, Code, Introduction, Invitation, PairingError};
use thermidor_backup::vault::{BlobName, HomeKey, Signer, Visit, VisitError};
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

impl Vault {
    /// Waits until the vault tells this of what removed friends kept.
    async fn left(&self, wanted: &[(&str, u64)]) {
        let wanted: BTreeMap<_, _> = wanted.iter().map(|(name, bytes)| (home(name), *bytes)).collect();
        let mut last = None;
        for _ in 0..100 {
            // Before its first words the process has no socket.
            last = Status::ask(&self.dir.path().join("run"), PATIENCE).await.ok().and_then(|told| told.left);
            if last.as_ref() == Some(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{last:?}");
    }

    /// Waits until nothing is left of what was moved out of the way.
    async fn is_swept(&self) {
        let gone = self.dir.path().join("data/gone");
        let is_empty = || std::fs::read_dir(&gone).is_ok_and(|mut entries| entries.next().is_none());
        for _ in 0..100 {
            if is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} is not empty", gone.display());
    }

    async fn ends(self) -> TempDir {
        self.end.send(()).unwrap();
        self.task.await.unwrap();
        self.dir
    }
}

fn part(dir: &Path, friends: &[(&str, FriendConfig)], gone: &[&str]) {
    let friends: BTreeMap<_, _> = friends.iter().map(|(name, it)| (home(name), it.clone())).collect();
    let gone = gone.iter().map(|name| home(name)).collect();
    VaultConfig::new(home("alice"), 7, &key(1), friends).without(gone).write(&dir.join("config")).unwrap();
}

#[tokio::test]
async fn a_home_that_is_paired_anew_finds_what_it_kept_unless_that_was_deleted() {
    let vault = Vault::runs().await;
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"one"), b"one").await.0, 200);
    vault.left(&[]).await;
    tell(vault.dir.path(), &[]);
    vault.left(&[("bob", 3)]).await;
    // It is a friend again, and nothing was deleted: its repository is as it was.
    tell(vault.dir.path(), &[("bob", friend(2, 3))]);
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "GET", &blob(b"one"), b"").await, (200, "one".into()));
    assert_eq!(vault.status().await.left, Some(BTreeMap::new()));
    // Removed with its data, in the middle of a connection and of an upload.
    let path = blob(b"two, of which half has come");
    bob.stream
        .write_all(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 27\r\n\r\ntwo, o").as_bytes())
        .await
        .unwrap();
    bob.stream.flush().await.unwrap();
    part(vault.dir.path(), &[], &["bob"]);
    let closed = tokio::time::timeout(PATIENCE, bob.stream.read_u8()).await.unwrap();
    assert!(closed.is_err());
    vault.is_swept().await;
    vault.left(&[]).await;
    assert!(!vault.dir.path().join("data/friends/bob").exists());
    // The order stands, and does not harm whoever comes after; it begins with nothing.
    part(vault.dir.path(), &[("bob", friend(2, 3))], &["bob"]);
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "GET", &blob(b"one"), b"").await.0, 404);
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"new"), b"new").await.0, 200);
    part(vault.dir.path(), &[("bob", friend(2, 3)), ("carol", friend(4, 1))], &["bob"]);
    vault.until(4, 1, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "GET", &blob(b"new"), b"").await, (200, "new".into()));
    vault.ends().await;
}

#[tokio::test]
async fn a_deletion_that_the_vaults_end_broke_off_is_finished_at_its_start() {
    let vault = Vault::runs().await;
    let mut bob = vault.until(2, 3, Result::is_ok).await.unwrap();
    assert_eq!(ask(&mut bob, "POST", "/bob/?create=true", b"").await.0, 200);
    assert_eq!(ask(&mut bob, "POST", &blob(b"one"), b"one").await.0, 200);
    drop(bob);
    let at = vault.at;
    let dir = vault.ends().await;
    let data = dir.path().join("data");
    // It ended after the rename and half of the files of an earlier bob; and before the rename of this one.
    std::fs::create_dir_all(data.join("gone/bob.0/repo/data/00")).unwrap();
    std::fs::write(data.join("gone/bob.0/repo/data/00/left"), "left").unwrap();
    part(dir.path(), &[("carol", friend(4, 1))], &["bob", "never-was-here"]);
    let vault = Vault::over(dir, at);
    vault.until(4, 1, Result::is_ok).await.unwrap();
    vault.is_swept().await;
    vault.left(&[]).await;
    assert!(!data.join("friends/bob").exists() && data.join("friends/carol").exists());
    vault.ends().await;
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

/// Bob with a kit: what alice is told of him.
fn bob_by(kit: &Kit) -> FriendConfig {
    let NewKeys { key, transport } = NewKeys::of(kit).unwrap();
    FriendConfig { transport, key, ..friend(2, 3) }
}

async fn come(vault: &Vault, kit: &Kit) -> Result<ToVault, DialError> {
    let own = Own::new(&kit.transport().unwrap(), 3).unwrap();
    dial_vault(&[vault.at.to_string()], &own, Pin::Key(key(1).public()), PATIENCE).await
}

async fn come_until(vault: &Vault, kit: &Kit) -> ToVault {
    for _ in 0..200 {
        match come(vault, kit).await {
            Ok(to) => return to,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("{:?}", come(vault, kit).await.unwrap_err());
}

async fn announce(vault: &Vault, known: &Kit, said: &Announcement) -> Result<(), VisitError> {
    let to = come_until(vault, known).await;
    let mut visit = Visit::begin(to.stream, home("bob"), home("alice"), None, PATIENCE).await.unwrap();
    visit.announce_kit(said).await
}

async fn said(vault: &Vault) -> Option<NewKeys> {
    vault.status().await.friends[&home("bob")].kit_said
}

#[tokio::test]
async fn a_new_kit_is_a_claim_until_the_friend_is_told_to_believe_it_and_then_the_old_one_is_refused() {
    let [old, new, thief, stranger] = std::array::from_fn(|_| Kit::draw().unwrap());
    let vault = Vault::runs().await;
    tell(vault.dir.path(), &[("bob", bob_by(&old))]);
    let mut open = come_until(&vault, &old).await;
    assert_eq!(said(&vault).await, None);
    let between = Between { home: home("bob"), vault: home("alice") };
    let sign = |old, new| Announcement::sign(old, new, &between, 3).unwrap();
    // Signed with another kit; named without the new key's own signature; by another generation; for another vault.
    let bare = Announcement { new: sign(&old, &new).old, ..sign(&old, &new) };
    let later = Announcement::sign(&old, &new, &between, 4).unwrap();
    let elsewhere = Between { vault: home("carol"), ..between.clone() };
    let elsewhere = Announcement::sign(&old, &new, &elsewhere, 3).unwrap();
    for forged in [sign(&stranger, &new), bare, later, elsewhere] {
        let refused = announce(&vault, &old, &forged).await.unwrap_err();
        assert!(matches!(refused, VisitError::Refused { status, .. } if status == 403), "{refused}");
        assert_eq!(said(&vault).await, None);
    }
    // A thief with the old paper is heard like the home itself: which one is meant a person has to say.
    announce(&vault, &old, &sign(&old, &thief)).await.unwrap();
    assert_eq!(said(&vault).await, Some(NewKeys::of(&thief).unwrap()));
    announce(&vault, &old, &sign(&old, &new)).await.unwrap();
    assert_eq!(said(&vault).await, Some(NewKeys::of(&new).unwrap()));
    // Nothing follows from it.
    assert!(come(&vault, &new).await.is_err() && come(&vault, &thief).await.is_err());
    assert_eq!(ask(&mut open, "POST", "/bob/?create=true", b"").await.0, 200);

    tell(vault.dir.path(), &[("bob", bob_by(&new))]);
    come_until(&vault, &new).await;
    assert!(come(&vault, &old).await.is_err() && come(&vault, &thief).await.is_err());
    let ended = tokio::time::timeout(PATIENCE, open.stream.read_u8()).await.unwrap();
    assert!(ended.is_err(), "an open connection ends");
    assert_eq!(said(&vault).await, None, "what the old kit has said is of no meaning any more");
}

#[tokio::test]
async fn while_a_kit_is_replaced_each_friend_is_shown_the_key_that_it_expects() {
    let vault = Vault::runs().await;
    let expects = async |n: Option<u8>| {
        let pin = n.map_or(Pin::Anybody, |n| Pin::Key(key(n).public()));
        dial_vault(&[vault.at.to_string()], &own(2, 3), pin, PATIENCE).await.map(|to| to.key)
    };
    vault.until(2, 3, Result::is_ok).await.unwrap();
    assert!(expects(Some(9)).await.is_err());
    let friends: BTreeMap<_, _> = [(home("bob"), friend(2, 3))].into();
    let config = VaultConfig::new(home("alice"), 7, &key(9), friends);
    config.clone().with_key_before(&key(1)).write(&vault.dir.path().join("config")).unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    while expects(Some(9)).await.is_err() {
        assert!(std::time::Instant::now() < until, "the new key is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(expects(Some(1)).await.unwrap(), key(1).public());
    // Whoever says nothing, as an earlier program does, is shown the one that it knows.
    assert_eq!(expects(None).await.unwrap(), key(1).public());
    assert!(expects(Some(8)).await.is_err());
    config.write(&vault.dir.path().join("config")).unwrap();
    while expects(Some(1)).await.is_ok() {
        assert!(std::time::Instant::now() < until, "the old key is still shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(expects(None).await.unwrap(), key(9).public());
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
