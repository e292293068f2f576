//! A cable between a client and a server on this machine, that can be cut or go dead after so many bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

#[derive(Default)]
struct State {
    sent: AtomicU64,
    max: AtomicU64,
    cuts: AtomicBool,
    hits: AtomicU64,
}

pub struct Cable {
    pub at: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cable {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::new(State { max: AtomicU64::new(u64::MAX), ..State::default() });
        let held = state.clone();
        let task = tokio::spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let held = held.clone();
                all.spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let free = State { max: AtomicU64::new(u64::MAX), ..State::default() };
                    // Whichever ends first takes the other with it.
                    tokio::select! {
                        () = carry(from_client, to_server, &held) => {}
                        () = carry(from_server, to_client, &free) => {}
                    }
                });
            }
        });
        Self { at, state, task }
    }

    /// After so many more bytes it goes dead, or is cut.
    pub fn fail_after(&self, bytes: u64, cuts: bool) {
        self.state.cuts.store(cuts, Ordering::SeqCst);
        self.state.max.store(self.sent() + bytes, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        self.state.max.store(u64::MAX, Ordering::SeqCst);
    }

    /// Bytes that the client has sent.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// How often something did not get through.
    pub fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::SeqCst)
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: &State,
) {
    let mut piece = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut piece).await else { return };
        let sent = state.sent.fetch_add(count as u64, Ordering::SeqCst) + count as u64;
        if sent > state.max.load(Ordering::SeqCst) {
            state.hits.fetch_add(1, Ordering::SeqCst);
        }
        while sent > state.max.load(Ordering::SeqCst) {
            if state.cuts.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
