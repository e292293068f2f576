//! Many uploads at once, each over a connection of its own: what memory the vault takes at most.

use super::sides::Vault;
use crate::bench::footprint::usage::field;
use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::sync::Arc;
use thermidor_backup::vault::BlobName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Uploads at once.
pub const UPLOADS: u64 = 64;
/// Bytes of each: a pack as restic makes them.
const BYTES: usize = 16 << 20;

/// Has them all come, and answers the vault's peak of resident memory in MiB.
pub async fn press(vault: &Vault) -> Result<f64> {
    let door = vault.door().await?;
    let answer = post(door.at(), "/bob/mail/?create=true", &[]).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "no repository: {answer}");
    let mut content = vec![0; BYTES];
    StdRng::seed_from_u64(1789).fill(&mut content[..]);
    let content = Arc::new(content);
    let mut uploads = JoinSet::new();
    for number in 0..UPLOADS {
        let (at, content) = (door.at(), content.clone());
        uploads.spawn(async move {
            // Each differs in its first bytes: the same content is one blob.
            let first = number.to_le_bytes();
            let parts = [&first[..], &content[first.len()..]];
            let name = BlobName::of(&parts.concat());
            post(at, &format!("/bob/mail/data/{name}"), &parts).await
        });
    }
    while let Some(done) = uploads.join_next().await {
        let answer = done??;
        ensure!(answer.starts_with("HTTP/1.1 200"), "an upload was refused: {answer}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", vault.process.id()))?;
    Ok(field(&status, "VmHWM")? as f64 / 1024.0)
}

async fn post(at: SocketAddr, path: &str, parts: &[&[u8]]) -> Result<String> {
    let mut stream = TcpStream::connect(at).await.context("the door")?;
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: vault\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for part in parts {
        stream.write_all(part).await?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
