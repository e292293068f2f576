//! A door on this machine that leads to a friend's vault, for restic, which speaks plain HTTP: each connection to it goes
//! on over a connection of its own. It is there as long as its guard; other programs of this machine could use it
//! meanwhile, and would find what the friend can see too: sealed bytes.

use super::accept::take_all;
use super::certificate::Own;
use super::dial::{Pin, ToVault, dial_vault};
use super::welcome::Welcome;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes carried at once in each direction: some records of TLS.
const CARRIED: usize = 64 << 10;
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 64;

#[derive(Default)]
struct Told {
    trouble: Option<String>,
    welcome: Option<Welcome>,
    /// Where the last connection was let in: with one radiator of the friend's gone, dialling it takes seconds each time.
    led_there: Option<String>,
}

/// The door. Dropped, it is shut, and what went through it is cut.
pub struct Forwarder {
    at: SocketAddr,
    told: Arc<Mutex<Told>>,
    refused: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Way {
    addresses: Vec<String>,
    own: Own,
    pin: Pin,
    patience: Duration,
    told: Arc<Mutex<Told>>,
    refused: watch::Sender<Option<String>>,
}

impl Forwarder {
    /// Opens a door on 127.0.0.1 to the vault at these addresses, tried in turn for each connection, each for
    /// `patience` at most; the one that led there last goes first.
    pub async fn open(addresses: Vec<String>, own: Own, pin: Pin, patience: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = listener.local_addr()?;
        let told = Arc::new(Mutex::default());
        let (refused, refusal) = watch::channel(None);
        let way = Arc::new(Way { addresses, own, pin, patience, told: told.clone(), refused });
        let task = tokio::spawn(take_all(listener, CONNECTIONS_MAX, move |client, _| {
            let way = way.clone();
            async move { way.carry(client).await }
        }));
        Ok(Self { at, told, refused: refusal, task })
    }

    /// Where the door is.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// What was in the way of the last connection, if it was not let in or broke: what restic calls unreachable.
    pub fn trouble(&self) -> Option<String> {
        self.told().trouble.clone()
    }

    /// Waits until the vault refuses a connection in words: what it says. Whoever was let in before and tries again would go
    /// on trying.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        let said = refused.wait_for(Option::is_some).await.map(|said| said.clone().unwrap_or_default());
        match said {
            Ok(said) => said,
            // The door is shut: nobody is refused any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// What the vault said to the last connection that it let in.
    pub fn welcome(&self) -> Option<Welcome> {
        self.told().welcome.clone()
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    async fn carry(&self, mut client: TcpStream) {
        let ToVault { mut stream, welcome, address, .. } =
            match dial_vault(&self.in_turn(), &self.own, self.pin, self.patience).await {
                Ok(to) => to,
                Err(error) => {
                    let said = error.to_string();
                    self.note(|told| told.trouble = Some(said.clone()));
                    if error.refusal().is_some() {
                        self.refused.send_replace(Some(said));
                    }
                    return;
                }
            };
        self.note(|told| *told = Told { trouble: None, welcome: Some(welcome), led_there: Some(address) });
        let carried = copy_bidirectional_with_sizes(&mut client, &mut stream, CARRIED, CARRIED).await;
        if let Err(error) = carried {
            // restic closes what it has no more use for without a word, which is no trouble.
            tracing::debug!(%error, "a connection to a friend's vault broke");
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.note(|told| told.trouble = Some(format!("the connection broke: {error}")));
            }
        }
    }

    fn in_turn(&self) -> Vec<String> {
        let mut addresses = self.addresses.clone();
        self.note(|told| addresses.sort_by_key(|address| told.led_there.as_ref() != Some(address)));
        addresses
    }

    fn note(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
