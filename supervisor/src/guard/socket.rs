//! The guard's socket: reads calls, hands them to the owner loop, writes its replies.

use super::daemon::{Call, LINE_MAX, Reply};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections at once: the daemon's, and a few for people.
const CONNECTIONS_MAX: usize = 16;
/// A connection that says nothing for so long is closed: the daemon says hello several times a second,
/// and must always find a place.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may wait for whoever asked to take it.
const TAKE_MAX: Duration = Duration::from_secs(1);

/// A call and where its reply goes.
pub type Asked = (Call, oneshot::Sender<Reply>);

/// Listens, for root alone. A socket left by an earlier guard is replaced.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts until the owner loop is gone.
pub async fn accept(listener: UnixListener, calls: mpsc::Sender<Asked>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(e) = converse(stream, &calls).await {
                        tracing::debug!(error = %e, "a conversation with the guard broke off");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "the guard's socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, calls: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut heard = (&mut read).take(LINE_MAX);
        let count = timeout(SILENT_MAX, heard.read_until(b'\n', &mut line)).await??;
        if count == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let reply = match serde_json::from_slice::<Call>(&line) {
            Ok(call) => {
                let (send, receive) = oneshot::channel();
                let sent = calls.send((call, send)).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
                receive.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
            }
            Err(e) => Reply::Refused { why: format!("not understood: {e}") },
        };
        let mut answer = serde_json::to_vec(&reply)?;
        answer.push(b'\n');
        timeout(TAKE_MAX, write.write_all(&answer)).await??;
        if !whole {
            return Ok(()); // the rest of an overlong line would be taken for calls
        }
    }
}
