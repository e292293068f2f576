//! Alice's end of the way, and keys of others.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thermidor_backup::line::{Acceptor, Coming, Own, Pins, Transport, Welcome, welcome};
use thermidor_model::name::HomeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub const PATIENCE: Duration = Duration::from_secs(5);

pub fn home(name: &str) -> HomeName {
    HomeName::new(name).unwrap()
}

pub fn key(n: u8) -> Transport {
    Transport::from_seed(Zeroizing::new([n; 32])).unwrap()
}

pub fn own(n: u8, generation: u64) -> Own {
    Own::new(&key(n), generation).unwrap()
}

/// Alice (key 1) listens, lets bob (key 2) in and echoes what he says; guests hear their own words back too.
pub struct Alice {
    pub at: SocketAddr,
    pub pins: Pins,
    /// Why connections were not taken.
    pub refused: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Alice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Alice {
    pub async fn listens(patience: Duration) -> Self {
        let pins = Pins::default();
        pins.set([key(2).public()].into());
        let acceptor = Acceptor::new(&[own(1, 7)], pins.clone(), patience).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = refused.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, told) = (acceptor.clone(), told.clone());
                tokio::spawn(async move {
                    let mut stream = match acceptor.accept(stream).await {
                        Ok(Coming::Friend { mut stream, generation, .. }) => {
                            let (vault, home) = (home("alice"), home("bob"));
                            let first = Welcome { vault, home, generation, read_only: false };
                            welcome(&mut stream, first).await.unwrap();
                            stream
                        }
                        Ok(Coming::Guest(stream)) => stream,
                        Err(error) => return told.lock().unwrap().push(error.to_string()),
                    };
                    let mut piece = [0; 1024];
                    while let Ok(count @ 1..) = stream.read(&mut piece).await {
                        if stream.write_all(&piece[..count]).await.is_err() {
                            return;
                        }
                        let _ = stream.flush().await;
                    }
                });
            }
        });
        Self { at, pins, refused, task }
    }

    pub fn addresses(&self) -> Vec<String> {
        vec![self.at.to_string()]
    }

    /// Waits until so many connections were not taken.
    pub async fn has_refused(&self, count: usize) -> Vec<String> {
        for _ in 0..500 {
            let refused = self.refused.lock().unwrap().clone();
            if refused.len() >= count {
                return refused;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.refused.lock().unwrap());
    }
}
