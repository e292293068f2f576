//! The vault's doors: friends come in by one, the daemon asks at the other, and guests are led on to the daemon.

use super::judge::{Judged, judge, outlived};
use super::left::Left;
use super::status::{AnnouncedStatus, FriendStatus, Status};
use super::{PAIRING_SOCKET, Present};
use crate::line::{Coming, TransportKey, Welcome, refuse, take_all, welcome};
use crate::vault::{List, Signed, Vault};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thermidor_model::name::HomeName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Connections at once, of whomever; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// Guests at once; more are hung up on.
const GUESTS_MAX: usize = 4;
/// How long a pairing may take: two people wait for it.
const PAIRING_MAX: Duration = Duration::from_secs(120);
/// How long a caller may take to hear the first words, and the daemon to hear how the vault stands.
const FIRST_MAX: Duration = Duration::from_secs(10);

/// What was seen of a friend since the start.
#[derive(Debug, Clone, Default)]
struct Visits {
    last: u64,
    now: u32,
    generation: u64,
}

/// The doors.
pub(super) struct Doors {
    vault: Vault,
    present: watch::Receiver<Option<Arc<Present>>>,
    run: PathBuf,
    visits: Mutex<BTreeMap<HomeName, Visits>>,
    left: Left,
    guests: Semaphore,
}

/// A friend's connection is counted as long as this lives.
struct Visiting<'a>(&'a Doors, HomeName);

impl Drop for Visiting<'_> {
    fn drop(&mut self) {
        let mut visits = self.0.visits();
        let visit = visits.entry(self.1.clone()).or_default();
        visit.now = visit.now.saturating_sub(1);
        visit.last = now();
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_millis() as u64)
}

/// Listens on a socket of the file system; a predecessor's is taken away.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(path)
}

impl Doors {
    pub(super) fn new(
        vault: Vault,
        present: watch::Receiver<Option<Arc<Present>>>,
        left: Left,
        run: PathBuf,
    ) -> Self {
        Self { vault, present, run, visits: Mutex::default(), left, guests: Semaphore::new(GUESTS_MAX) }
    }

    fn visits(&self) -> MutexGuard<'_, BTreeMap<HomeName, Visits>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes whoever comes. Dropped, it hangs up on all of them.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        take_all(listener, CONNECTIONS_MAX, move |stream, from| {
            let doors = self.clone();
            async move {
                if let Err(error) = doors.receive(stream).await {
                    tracing::debug!(%from, "{}", super::chain(error.as_ref()));
                }
            }
        })
        .await;
    }

    async fn receive(&self, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let acceptor = self.present.borrow().as_ref().map(|present| present.acceptor.clone());
        let Some(acceptor) = acceptor else { return Ok(()) };
        match acceptor.accept(stream).await? {
            Coming::Friend { key, generation, mut stream } => {
                let judged = self.judged(key, generation);
                self.note_generation(key, generation);
                match judged {
                    Ok(judged) => self.visit(judged, key, generation, stream).await?,
                    Err(why) => {
                        let word = self.word_for(key, generation).await;
                        timeout(FIRST_MAX, refuse(&mut stream, &why, word.as_ref())).await??;
                    }
                }
            }
            Coming::Guest(stream) => self.lead_on(stream).await?,
        }
        Ok(())
    }

    fn judged(&self, key: TransportKey, generation: u64) -> Result<Judged, String> {
        match self.present.borrow().as_ref() {
            Some(present) => judge(&present.config, key, generation),
            None => Err("the vault is not ready yet".into()),
        }
    }

    /// The word of a later generation, for a friend that comes as an earlier one.
    async fn word_for(&self, key: TransportKey, generation: u64) -> Option<Signed> {
        let friend = {
            let present = self.present.borrow();
            present.as_ref().and_then(|present| outlived(&present.config, key, generation))
        }?;
        let vault = self.vault.clone();
        let read = tokio::task::spawn_blocking(move || vault.generation_word(&friend)).await;
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "a word about a generation can't be read");
            None
        })
    }

    fn note_generation(&self, key: TransportKey, generation: u64) {
        let friend = {
            let present = self.present.borrow();
            let friends = present.iter().flat_map(|present| &present.config.friends);
            friends.filter(|(_, friend)| friend.transport == key).map(|(name, _)| name.clone()).next()
        };
        if let Some(friend) = friend {
            let mut visits = self.visits();
            let visit = visits.entry(friend).or_default();
            visit.generation = visit.generation.max(generation);
        }
    }

    /// Serves a friend until it goes, or until it is judged otherwise than when it came.
    async fn visit<IO>(
        &self,
        judged: Judged,
        key: TransportKey,
        generation: u64,
        mut io: IO,
    ) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut present = self.present.clone();
        let home = present.borrow().as_ref().map(|present| present.config.home.clone());
        let Some(vault) = home else { return Ok(()) };
        let friend = judged.friend.clone();
        let first =
            Welcome { vault, home: friend.clone(), generation: judged.believed, read_only: judged.read_only };
        timeout(FIRST_MAX, welcome(&mut io, first)).await.map_err(io::Error::other)??;
        {
            let mut visits = self.visits();
            let visit = visits.entry(friend.clone()).or_default();
            visit.now += 1;
            visit.last = now();
        }
        let _visiting = Visiting(self, friend.clone());
        let caller = judged.caller();
        let otherwise = present.wait_for(|present| {
            let now = present.as_ref().map(|present| judge(&present.config, key, generation));
            now != Some(Ok(judged.clone()))
        });
        tokio::select! {
            () = self.vault.serve(io, caller) => {}
            _ = otherwise => tracing::info!(%friend, "its connection is closed: what was agreed has changed"),
        }
        Ok(())
    }

    /// Leads a guest on to the daemon, which knows the code.
    async fn lead_on(&self, mut guest: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let Ok(_place) = self.guests.try_acquire() else {
            return Err(io::Error::other("enough guests are here already"));
        };
        let mut daemon = UnixStream::connect(self.run.join(PAIRING_SOCKET)).await?;
        let paired = timeout(PAIRING_MAX, copy_bidirectional(&mut guest, &mut daemon)).await;
        paired.map_err(io::Error::other)?.map(drop)
    }

    /// Tells whoever asks how the vault stands. Only the daemon reaches the socket.
    pub(super) async fn tell(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let told = timeout(FIRST_MAX, self.say_status(stream)).await;
                    if let Ok(Err(error)) = told {
                        tracing::debug!(%error, "whoever asked how the vault stands is gone");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "nobody can ask how the vault stands");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn say_status(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.status())?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        stream.shutdown().await
    }

    fn status(&self) -> Status {
        let names: Vec<HomeName> = {
            let present = self.present.borrow();
            present.iter().flat_map(|present| present.config.friends.keys().cloned()).collect()
        };
        let friends = names.into_iter().map(|name| {
            let mut status = FriendStatus::default();
            if let Some(usage) = self.vault.usage(&name) {
                status.used = usage.used;
                status.quota = usage.quota;
                status.waiting = usage.waiting;
                status.newest = usage.newest;
            }
            status.kit_said = self.vault.kit_said(&name);
            status.announced = self.vault.deletions(&name).iter().map(announced).collect();
            if let Some(visits) = self.visits().get(&name) {
                status.last_seen = (visits.last > 0).then_some(visits.last);
                status.connections = visits.now;
                status.generation_heard = visits.generation;
            }
            (name, status)
        });
        // Who is a friend again since the count has its bytes among the friends'.
        let mut left = self.left.told();
        let friends: BTreeMap<_, _> = friends.collect();
        left.iter_mut().for_each(|left| left.retain(|name, _| !friends.contains_key(name)));
        Status { version: Status::VERSION, friends, left }
    }
}

fn announced(list: &List) -> AnnouncedStatus {
    AnnouncedStatus {
        number: list.number,
        folder: list.folder.clone(),
        announced: list.announced,
        blobs: list.blobs.len(),
        bytes: list.bytes(),
    }
}
