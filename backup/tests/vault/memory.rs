//! What a vault takes while many send at once.

use crate::restic::{Orders, start};
use crate::stage::{AUTHORIZATION, ask, noise};
use std::time::Duration;
use thermidor_backup::vault::BlobName;

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_uploads_at_once_take_64_mib_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let vault = start(&Orders { root: dir.path().to_owned(), at, up: 1 << 30 }).await;
    let headers = [("Authorization", AUTHORIZATION)];
    assert_eq!(ask(at, "POST", "/bob/?create=true", &headers, b"").await.status, 200);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..64 {
        all.spawn(async move {
            let content = noise(n, 4 << 20);
            let path = format!("/bob/data/{}", BlobName::of(&content));
            let length = content.len().to_string();
            let headers = [("Authorization", AUTHORIZATION), ("Content-Length", length.as_str())];
            ask(at, "POST", &path, &headers, &content).await.status
        });
    }
    while let Some(done) = all.join_next().await {
        assert_eq!(done.unwrap(), 200);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", vault.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("64 uploads at once: {peak} KiB at most");
    assert!(peak <= 64 << 10, "{peak} KiB");
}
