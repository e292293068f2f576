//! The real restic against a vault: its whole round, an append-only refusal, a server killed in the middle, a quota.

use crate::stage::{PASSWORD, PATIENCE, Stage, accept, home, noise, terms};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use thermidor_backup::vault::{Caller, Settings, Vault};
use tokio::process::{Child, Command};

const ROLE: &str = "THERMIDOR_VAULT_TEST";
/// A whole backup of a few tens of megabytes takes seconds.
const LONG: Duration = Duration::from_secs(180);

/// What a process under test is told.
#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub root: PathBuf,
    pub at: SocketAddr,
    /// Bytes a second that are taken.
    pub up: u64,
}

/// Not a test by itself: the process that other tests start and kill.
#[test]
fn a_vault_as_a_process_of_its_own() {
    let Ok(orders) = std::env::var(ROLE) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let vault = Vault::open(&orders.root, Settings::new(home("alice"))).unwrap();
        let mut terms = terms();
        terms.hours.up = Some(orders.up);
        vault.lend(&home("bob"), terms).unwrap();
        let listener = tokio::net::TcpListener::bind(orders.at).await.unwrap();
        accept(listener, vault, Caller::ByPassword).await;
    });
}

/// Starts that process and waits until it serves.
pub async fn start(orders: &Orders) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restic::a_vault_as_a_process_of_its_own", "--nocapture"])
        .env(ROLE, serde_json::to_string(orders).unwrap())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(orders.at).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the vault does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child
}

pub fn skip(test: &str) -> bool {
    let found = std::process::Command::new("restic").arg("version").output().is_ok();
    if !found {
        println!("SKIPPED {test}: there is no restic: scripts/setup installs it");
    }
    !found
}

/// restic on a repository of bob's, with a cache of its own below `dir`.
pub fn restic(dir: &Path, at: SocketAddr, below: &str, args: &[&str]) -> Command {
    // 0.14 takes credentials from the repository's address only, which stands in a file: not on the command line.
    let repository = dir.join(format!("repository-{}", below.replace('/', "_")));
    std::fs::write(&repository, format!("rest:http://bob:{PASSWORD}@{at}/bob/{below}")).unwrap();
    let mut command = Command::new("restic");
    command
        .args(args)
        .env("RESTIC_REPOSITORY_FILE", repository)
        .env("RESTIC_PASSWORD", "words of bob's own")
        .env("RESTIC_CACHE_DIR", dir.join("cache"))
        .env("RESTIC_PROGRESS_FPS", "0.1")
        .env_remove("RESTIC_REPOSITORY")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub async fn run(mut command: Command) -> Output {
    tokio::time::timeout(LONG, command.output()).await.expect("restic does not end").unwrap()
}

pub async fn good(command: Command) -> String {
    let shown = format!("{command:?}");
    let done = run(command).await;
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{shown}\n{out}\n{}", String::from_utf8_lossy(&done.stderr));
    out
}

/// Files to be backed up, `megabytes` of them; and a place to restore to.
pub fn mail(dir: &Path, megabytes: u64) -> PathBuf {
    let mail = dir.join("mail");
    std::fs::create_dir_all(mail.join("cur")).unwrap();
    for n in 0..megabytes {
        std::fs::write(mail.join(format!("cur/{n}")), noise(n, 1 << 20)).unwrap();
    }
    mail
}

pub fn same(one: &Path, other: &Path) {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir.join("cur")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other));
    for name in names(one) {
        let read = |dir: &Path| std::fs::read(dir.join("cur").join(&name)).unwrap();
        assert!(read(one) == read(other), "{name:?} differs");
    }
}

/// Where restic puts a folder that it restores below `to`.
pub fn restored(to: &Path, folder: &Path) -> PathBuf {
    to.join(folder.strip_prefix("/").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn init_backup_check_restore_and_a_refused_prune() {
    if skip("init_backup_check_restore_and_a_refused_prune") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 12);
    let to = |args: &[&str]| restic(dir.path(), stage.at, "mail/", args);
    good(to(&["init"])).await;
    let again = run(to(&["init"])).await;
    assert!(!again.status.success(), "a repository was made twice");
    good(to(&["backup", mail.to_str().unwrap()])).await;
    std::fs::write(mail.join("cur/new"), noise(99, 1 << 20)).unwrap();
    good(to(&["backup", mail.to_str().unwrap()])).await;
    good(to(&["check", "--read-data"])).await;
    let out = dir.path().join("out");
    good(to(&["restore", "latest", "--target", out.to_str().unwrap()])).await;
    same(&mail, &restored(&out, &mail));

    // The folder is restic's own layout: it can be read without a server.
    let local = stage.folder("repo/mail");
    let mut beside = to(&["check", "--no-lock"]);
    beside.env("RESTIC_REPOSITORY", &local).env_remove("RESTIC_REPOSITORY_FILE");
    good(beside).await;

    // restic retries a refused deletion for long: it is ended once it has said so.
    let before = stage.vault.usage(&home("bob")).unwrap();
    let mut prune = to(&["forget", "--keep-last", "1", "--prune"]);
    prune.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut prune = prune.spawn().unwrap();
    said(&mut prune, "403").await;
    prune.kill().await.unwrap();
    good(to(&["unlock"])).await;
    let snapshots: Vec<serde_json::Value> =
        serde_json::from_str(&good(to(&["snapshots", "--json"])).await).unwrap();
    assert_eq!(snapshots.len(), 2);
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, before.used);
    good(to(&["check", "--read-data"])).await;
}

/// Waits until a program has said something on its standard error.
async fn said(child: &mut Child, what: &str) {
    use tokio::io::AsyncReadExt;
    let mut errors = child.stderr.take().unwrap();
    let mut all = String::new();
    let listen = async {
        let mut piece = [0; 4096];
        while !all.contains(what) {
            let count = errors.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "it ended without {what}: {all}");
            all += &String::from_utf8_lossy(&piece[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, listen).await.unwrap_or_else(|_| panic!("it never says {what}"));
    // It must not wait for somebody to read what else it says.
    tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
}

/// Packs that a vault holds.
fn packs(root: &Path) -> usize {
    let Ok(prefixes) = std::fs::read_dir(root.join("friends/bob/repo/data")) else { return 0 };
    prefixes.map(|p| std::fs::read_dir(p.unwrap().path()).unwrap().count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_killed_in_the_middle_of_a_backup_is_gone_on_with() {
    if skip("a_vault_killed_in_the_middle_of_a_backup_is_gone_on_with") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("vault");
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut orders = Orders { root: root.clone(), at, up: 8 << 20 };
    let mut vault = start(&orders).await;
    let mail = mail(dir.path(), 60);
    let to = |args: &[&str]| restic(dir.path(), at, "", args);
    good(to(&["init"])).await;
    let mut backup = to(&["backup", mail.to_str().unwrap()]);
    backup.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut backup = backup.spawn().unwrap();
    let tmp = root.join("friends/bob/tmp");
    let begun = Instant::now();
    let half =
        || std::fs::read_dir(&tmp).unwrap().filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).max();
    let mut hits = 0;
    for _ in 0..2 {
        while half() < Some(1 << 20) {
            assert!(begun.elapsed() < LONG, "no backup is under way");
            assert!(backup.try_wait().unwrap().is_none(), "the backup is through already");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        vault.kill().await.unwrap();
        hits += usize::from(half().is_some());
        vault = start(&orders).await;
    }
    assert_ne!(hits, 0, "the kill hit no upload");
    orders.up = 1 << 30;
    let done =
        tokio::time::timeout(LONG, backup.wait_with_output()).await.expect("it does not go on").unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    vault.kill().await.unwrap();
    let mut vault = start(&orders).await;
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
    good(to(&["check", "--read-data"])).await;

    // Client and vault are killed both; the next backup takes up what is there.
    std::fs::write(mail.join("cur/new"), noise(500, 20 << 20)).unwrap();
    let mut second = to(&["backup", mail.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    let before = packs(&root);
    while packs(&root) == before && second.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.kill().await.unwrap();
    vault.kill().await.unwrap();
    let _vault = start(&orders).await;
    good(to(&["unlock"])).await;
    good(to(&["backup", mail.to_str().unwrap()])).await;
    good(to(&["check", "--read-data"])).await;
    let out = dir.path().join("out");
    good(to(&["restore", "latest", "--target", out.to_str().unwrap()])).await;
    same(&mail, &restored(&out, &mail));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_reached_in_the_middle_of_a_backup() {
    if skip("a_quota_reached_in_the_middle_of_a_backup") {
        return;
    }
    let mut small = terms();
    small.quota = 20 << 20;
    let stage = Stage::with(small, |_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 4);
    let to = |args: &[&str]| restic(dir.path(), stage.at, "", args);
    good(to(&["init"])).await;
    good(to(&["backup", mail.to_str().unwrap()])).await;
    for n in 100..140 {
        std::fs::write(mail.join(format!("cur/{n}")), noise(n, 1 << 20)).unwrap();
    }
    let mut backup = to(&["backup", mail.to_str().unwrap()]);
    backup.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut backup = backup.spawn().unwrap();
    said(&mut backup, "507").await;
    assert!(stage.vault.usage(&home("bob")).unwrap().used <= 20 << 20);
    // What is there can be restored meanwhile, locks and all.
    let out = dir.path().join("out");
    good(to(&["restore", "latest", "--target", out.to_str().unwrap()])).await;
    assert_eq!(std::fs::read_dir(restored(&out, &mail).join("cur")).unwrap().count(), 4);
    // More is agreed: the backup that waits goes on by itself.
    stage.vault.lend(&home("bob"), terms()).unwrap();
    let done = tokio::time::timeout(LONG, backup.wait()).await.expect("it does not go on").unwrap();
    assert!(done.success());
    good(to(&["check", "--read-data"])).await;
    stage.nothing_left().await;
}
