//! Broken and slow clients, many at once, a quota, a full disk, and what a crash leaves.

use crate::stage::{AUTHORIZATION, PATIENCE, Stage, hear, home, noise, terms};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use thermidor_backup::vault::{BlobName, LOCKS_MAX, OpenError, Settings, Vault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn post(path: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\nAuthorization: {AUTHORIZATION}\r\n{more}\r\n\r\n"
    )
}

fn used(stage: &Stage) -> u64 {
    stage.vault.usage(&home("bob")).unwrap().used
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_request() {
    let stage = Stage::new().await;
    stage.create().await;
    let content = noise(1, 1 << 20);
    let path = format!("/bob/data/{}", BlobName::of(&content));
    let head = post(&path, &format!("Content-Length: {}", content.len()));
    for sent in [0, 1, 1000, content.len() - 1] {
        let stream = stage.raw(&[head.as_bytes(), &content[..sent]].concat()).await;
        drop(stream);
    }
    // A chunked one, whose end never comes.
    let head = post(&path, "Transfer-Encoding: chunked");
    drop(stage.raw(format!("{head}5\r\nhello\r\n").as_bytes()).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.nothing_left().await;
    assert_eq!(stage.get("/bob/data/").await.text(), "[]");
    // What was reserved for them is free again, and the client goes on.
    let begun = Instant::now();
    while stage.ask("POST", &path, &content).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(used(&stage), content.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_silent_is_hung_up_on() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = format!("/bob/data/{}", BlobName::of(b"0123456789"));
    let begun = Instant::now();
    let said = hear(stage.raw(format!("{}01234", post(&path, "Content-Length: 10")).as_bytes()).await).await;
    assert_eq!(said.status, 408);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    stage.nothing_left().await;
    assert_eq!(stage.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_hung_up_on() {
    let stage = Stage::new().await;
    stage.create().await;
    let content = noise(1, 16 << 20);
    let path = stage.save("data", &content).await;
    let head = format!("GET {path} HTTP/1.1\r\nHost: v\r\nAuthorization: {AUTHORIZATION}\r\n\r\n");
    let mut stream = stage.raw(head.as_bytes()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut all = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("still waiting");
    assert!(end.is_err() || all.len() < content.len(), "it waited for a client that took nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_hold_up_no_other_friend() {
    let stage = Stage::new().await;
    stage.vault.lend(&home("carol"), terms()).unwrap();
    stage.create().await;
    let path = format!("/bob/data/{}", BlobName::of(b"0123456789"));
    let mut slow = Vec::new();
    for _ in 0..40 {
        slow.push(stage.raw(format!("{}01234", post(&path, "Content-Length: 10")).as_bytes()).await);
    }
    let (at, accepting) =
        crate::stage::listen(stage.vault.clone(), thermidor_backup::vault::Caller::Proved(home("carol")))
            .await;
    let begun = Instant::now();
    assert_eq!(crate::stage::ask(at, "POST", "/carol/?create=true", &[], b"").await.status, 200);
    let path = format!("/carol/data/{}", BlobName::of(b"x"));
    assert_eq!(crate::stage::ask(at, "POST", &path, &[], b"x").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    accepting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlong_body_is_another_request() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = format!("/bob/data/{}", BlobName::of(b"12345"));
    let said =
        hear(stage.raw(format!("{}12345678", post(&path, "Content-Length: 5")).as_bytes()).await).await;
    assert_eq!(said.status, 200);
    assert_eq!(stage.get(&path).await.body, b"12345");
    // What is no HTTP gets an answer too, and costs nothing.
    for nonsense in [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"[..], b"GET\r\n\r\n"] {
        let mut stream = stage.raw(nonsense).await;
        let mut all = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("no end");
        assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&all));
    }
    let head = format!("GET /bob/config HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut stream = tokio::net::TcpStream::connect(stage.at).await.unwrap();
    let _ = stream.write_all(head.as_bytes()).await;
    let mut all = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("no end");
    assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_uploads_of_one_name_are_one_blob() {
    let stage = std::sync::Arc::new(Stage::new().await);
    stage.create().await;
    let content = std::sync::Arc::new(noise(3, 300_000));
    let path = format!("/bob/data/{}", BlobName::of(&content));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (stage, content, path) = (stage.clone(), content.clone(), path.clone());
        all.spawn(async move {
            let mut sent = (*content).clone();
            if n % 4 == 0 {
                sent[n] ^= 1;
            }
            (n % 4 == 0, stage.ask("POST", &path, &sent).await.status)
        });
    }
    while let Some(done) = all.join_next().await {
        let (is_wrong, status) = done.unwrap();
        let expected: &[u16] = if is_wrong { &[400, 403] } else { &[200] };
        assert!(expected.contains(&status), "{is_wrong}: {status}");
    }
    assert!(stage.get(&path).await.body == *content);
    assert_eq!(used(&stage), content.len() as u64);
    stage.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_kept_while_streaming() {
    let mut terms = terms();
    terms.quota = 1_000_000;
    let stage = Stage::with(terms.clone(), |_| {}).await;
    stage.create().await;
    stage.save("data", &noise(1, 600_000)).await;
    let content = noise(2, 500_000);
    let path = format!("/bob/data/{}", BlobName::of(&content));
    // Said beforehand: refused before a byte is sent.
    let said =
        hear(stage.raw(post(&path, "Expect: 100-continue\r\nContent-Length: 500000").as_bytes()).await).await;
    assert_eq!(said.status, 507);
    let said = stage.ask("POST", &path, &content).await;
    assert_eq!(said.status, 507);
    assert!(said.text().contains("quota of 1000000 bytes is used up"), "{}", said.text());
    // Not said: refused when it is too much.
    let mut chunked = format!("{:x}\r\n", content.len()).into_bytes();
    chunked.extend_from_slice(&content);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let headers = [("Authorization", AUTHORIZATION), ("Transfer-Encoding", "chunked")];
    assert_eq!(stage.ask_with("POST", &path, &headers, &chunked).await.status, 507);
    stage.nothing_left().await;
    assert_eq!(stage.get(&path).await.status, 404);
    // Exactly full is not too much; a lock still fits, and what is there can be read.
    let exact = noise(3, 400_000);
    stage.save("data", &exact).await;
    assert_eq!(used(&stage), 1_000_000);
    let lock = stage.save("locks", b"a lock").await;
    assert_eq!(stage.ask("DELETE", &lock, b"").await.status, 200);
    let locks = noise(4, LOCKS_MAX as usize + 1);
    assert_eq!(stage.ask("POST", &format!("/bob/locks/{}", BlobName::of(&locks)), &locks).await.status, 507);
    // The count outlives the process.
    let stage = stage.reopened(terms).await;
    assert_eq!(used(&stage), 1_000_000);
    let one = format!("/bob/data/{}", BlobName::of(b"1"));
    assert_eq!(stage.ask("POST", &one, b"1").await.status, 507);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_once_do_not_pass_the_quota_together() {
    let mut terms = terms();
    terms.quota = 1_000_000;
    let stage = std::sync::Arc::new(Stage::with(terms, |_| {}).await);
    stage.create().await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..40 {
        let stage = stage.clone();
        all.spawn(async move {
            let content = noise(n, 100_000);
            let path = format!("/bob/data/{}", BlobName::of(&content));
            stage.ask("POST", &path, &content).await.status
        });
    }
    let mut kept = 0;
    while let Some(done) = all.join_next().await {
        match done.unwrap() {
            200 => kept += 1,
            507 => {}
            other => panic!("{other}"),
        }
    }
    assert!((1..=10).contains(&kept), "{kept} were kept");
    assert_eq!(used(&stage), kept * 100_000);
    stage.nothing_left().await;
}

/// A small file system that ends with the test.
pub struct Small(PathBuf);

impl Small {
    pub fn new(test: &str, at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED {test}: mounting a small file system takes root");
            return None;
        }
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(at).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Some(Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_small) = Small::new("a_full_disk_is_told_and_leaves_nothing_half", dir.path()) else { return };
    let stage = Stage::over(dir.path(), terms(), |_| {}).await;
    stage.create().await;
    let kept = stage.save("data", &noise(1, 1_000_000)).await;
    let content = noise(2, 8_000_000);
    let path = format!("/bob/data/{}", BlobName::of(&content));
    let said = stage.ask("POST", &path, &content).await;
    assert_eq!(said.status, 507, "{}", said.text());
    assert!(said.text().contains("disk is full"), "{}", said.text());
    stage.nothing_left().await;
    assert_eq!(stage.get(&path).await.status, 404);
    assert_eq!(used(&stage), 1_000_000);
    assert_eq!(stage.get(&kept).await.body, noise(1, 1_000_000));
    // Full to the last byte: what is there is still served, and room helps at once.
    let filler = dir.path().join("filler");
    let _ = std::fs::write(&filler, noise(3, 4 << 20));
    let small = noise(4, 10_000);
    let path = format!("/bob/data/{}", BlobName::of(&small));
    assert_eq!(stage.ask("POST", &path, &small).await.status, 507);
    assert_eq!(stage.get(&kept).await.status, 200);
    assert!(stage.get("/bob/data/").await.body.len() > 64);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(stage.ask("POST", &path, &small).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_swept_at_the_start() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = stage.save("data", b"whole").await;
    std::fs::write(stage.folder("tmp/17"), b"hal").unwrap();
    let stage = stage.reopened(terms()).await;
    assert_eq!(stage.temporary(), Vec::<String>::new());
    assert_eq!(stage.get(&path).await.body, b"whole");
    assert_eq!(used(&stage), 5);
    // A repository that was made in part is made whole by the next attempt.
    std::fs::remove_dir(stage.folder("repo/data/ab")).unwrap();
    std::fs::remove_dir(stage.folder("repo/keys")).unwrap();
    stage.create().await;
    assert!(stage.folder("repo/data/ab").is_dir() && stage.folder("repo/keys").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_serve_one_folder() {
    let stage = Stage::new().await;
    match Vault::open(&stage.root, Settings::new(home("alice"))) {
        Err(OpenError::Taken(root)) => assert_eq!(root, stage.root),
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friend_that_is_removed_while_it_sends_has_sent_nothing() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = format!("/bob/data/{}", BlobName::of(b"0123456789"));
    let mut stream = stage.raw(format!("{}01234", post(&path, "Content-Length: 10")).as_bytes()).await;
    let begun = Instant::now();
    while stage.temporary().is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Removed, and taken again at once: what began before is not of the new time.
    stage.vault.close(&home("bob"));
    stage.vault.lend(&home("bob"), terms()).unwrap();
    stream.write_all(b"56789").await.unwrap();
    assert_eq!(hear(stream).await.status, 401);
    assert_eq!(stage.get(&path).await.status, 404);
    stage.nothing_left().await;
    stage.save("data", b"0123456789").await;
}
