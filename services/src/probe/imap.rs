//! As much of IMAP over TLS as a probe needs: log in, select, search, delete.

use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest line taken from a server, bytes.
const LINE_MAX: u64 = 64 * 1024;
/// Most lines of one answer.
const LINES_MAX: usize = 10_000;

/// A session after login. Callers bound every step in time.
pub struct Imap {
    stream: BufStream<TlsStream<TcpStream>>,
    tag: u32,
}

impl Imap {
    /// Connects over TLS and reads the greeting.
    pub async fn connect(
        address: std::net::SocketAddr,
        name: &ServerName<'static>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        let tcp = TcpStream::connect(address).await.map_err(|e| format!("IMAP at {address}: {e}"))?;
        Self::over(tcp, name, tls).await.map_err(|why| format!("{address}: {why}"))
    }

    /// The same over a connection that is there.
    pub async fn over(
        tcp: TcpStream,
        name: &ServerName<'static>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        let connecting = TlsConnector::from(tls.clone()).connect(name.clone(), tcp);
        let tls = connecting.await.map_err(|e| format!("IMAP: {e}"))?;
        let mut imap = Self { stream: BufStream::new(tls), tag: 0 };
        let greeting = imap.line().await?;
        if !greeting.starts_with("* OK") {
            return Err(format!("IMAP greets with {greeting:?}"));
        }
        Ok(imap)
    }

    /// Sends a command and gives the untagged lines of its answer. A `NO` or `BAD` is an error
    /// that tells the command's first word only: a login holds the password.
    pub async fn ask(&mut self, command: &str) -> Result<Vec<String>, String> {
        self.tag += 1;
        let tag = format!("t{}", self.tag);
        let send = format!("{tag} {command}\r\n");
        let told = |e: std::io::Error| format!("IMAP: {e}");
        self.stream.write_all(send.as_bytes()).await.map_err(told)?;
        self.stream.flush().await.map_err(told)?;
        let mut lines = Vec::new();
        while lines.len() < LINES_MAX {
            let line = self.line().await?;
            match line.strip_prefix(&tag).and_then(|rest| rest.strip_prefix(' ')) {
                Some(done) if done.starts_with("OK") => return Ok(lines),
                Some(refused) => {
                    let verb = command.split(' ').next().unwrap_or_default();
                    return Err(format!("IMAP refuses {verb}: {refused}"));
                }
                None => lines.push(line),
            }
        }
        Err(format!("IMAP's answer has more than {LINES_MAX} lines"))
    }

    /// Numbers of the messages whose header field holds a text.
    pub async fn search(&mut self, field: &str, text: &str) -> Result<Vec<u32>, String> {
        let lines = self.ask(&format!("UID SEARCH HEADER {} {}", quoted(field), quoted(text))).await?;
        let found = lines.iter().filter_map(|line| line.strip_prefix("* SEARCH"));
        Ok(found.flat_map(|rest| rest.split_whitespace()).filter_map(|n| n.parse().ok()).collect())
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut bytes).await;
        match read {
            Ok(0) => Err("IMAP hung up".into()),
            Ok(_) if !bytes.ends_with(b"\n") => Err("IMAP's answer ends in the middle of a line".into()),
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            Err(e) => Err(format!("IMAP: {e}")),
        }
    }
}

/// A quoted string; characters that can't be in one are left out.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
