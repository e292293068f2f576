//! One GET over plain HTTP/1.1: enough to see whether a server answers.

use super::Legs;
use std::fmt::Display;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much of an answer is read to find its status line.
const STATUS_MAX: usize = 1024;

pub(super) async fn get(address: SocketAddr, path: &str, legs: &mut Legs) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    legs.pass("connect");
    page(stream, &address, path).await?;
    legs.pass("answer");
    Ok(())
}

/// One GET over an open connection, whose other end is called so: 2xx and 3xx are well. Callers bound it in time.
pub async fn page(mut stream: TcpStream, address: &impl Display, path: &str) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{address}: {e}");
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.map_err(told)?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') {
        if head.len() >= STATUS_MAX {
            return Err(format!("{address} does not speak HTTP"));
        }
        let mut part = [0; STATUS_MAX];
        match stream.read(&mut part).await.map_err(told)? {
            0 => return Err(format!("{address} hung up without an answer")),
            n => head.extend_from_slice(&part[..n]),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("{path} answers {code}")),
        None => Err(format!("{address} does not speak HTTP: {line:?}")),
    }
}
