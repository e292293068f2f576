//! The home's vault on this radiator: guests that it leads here, and what it says of the friends that it heard.

use super::super::{Context, within};
use super::vault_of;
use crate::clock::unix_ms;
use crate::paths::Paths;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_backup::generations::Between;
use thermidor_backup::kit_change::NewKeys;
use thermidor_backup::vault::HomeKey;
use thermidor_backup::vault_process::{PAIRING_SOCKET, Status};
use thermidor_model::friends::{Friend, KIT_CLAIMS_MAX, KitClaim, PublicKey};
use thermidor_model::name::{HomeName, UnixMs};
use thermidor_model::spec::RecipeSpec;
use thermidor_model::state::State;
use thermidor_model::{Command, Outcome, ServiceName};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often the declared vaults are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a vault is asked whom it has heard.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// How long another radiator may take to answer for its vault.
const CALL_MAX: Duration = Duration::from_secs(4);
/// Guests at once.
const GUESTS_MAX: usize = 4;
/// How long a command about what was heard may take.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Whoever has left backups here and sends nothing new for longer is told of: over there nobody may have noticed.
const QUIET_MS: u64 = 7 * DAY_MS;

/// The words for such a friend; its newest backup came at that time.
fn quiet(friend: &HomeName, newest: Option<UnixMs>, now: UnixMs) -> Option<String> {
    let age = now.saturating_sub(newest?);
    (age > QUIET_MS)
        .then(|| format!("{friend} has sent no backup here for {} days: ask its person", age / DAY_MS))
}

/// The folder of sockets between the daemon and a service's container.
pub(in crate::daemon) fn run_folder(paths: &Paths, service: &ServiceName) -> PathBuf {
    paths.run.join("services").join(service.as_str())
}

fn vaults(state: &State) -> impl Iterator<Item = &ServiceName> {
    let services = state.spec().into_iter().flat_map(|spec| &spec.services);
    services.filter(|(_, spec)| matches!(spec.recipe, Some(RecipeSpec::Vault(_)))).map(|(name, _)| name)
}

struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs as long as the daemon.
pub(in crate::daemon) async fn run(context: Context) {
    let mut listening: BTreeMap<ServiceName, Listening> = BTreeMap::new();
    let mut asked = Instant::now();
    let mut applied = context.node.state();
    loop {
        let state = applied.borrow_and_update().clone();
        listening.retain(|name, _| vaults(&state).any(|declared| declared == name));
        for name in vaults(&state) {
            if listening.get(name).is_none_or(|task| task.0.is_finished()) {
                match listen(&context, name) {
                    Ok(listener) => {
                        let task = tokio::spawn(receive(context.clone(), listener));
                        listening.insert(name.clone(), Listening(task));
                    }
                    Err(e) => warn!(service = %name, "nobody can come to pair: {e}"),
                }
            }
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            context.note_what_is_heard(&state).await;
        }
        if vaults(&state).next().is_some() {
            tokio::time::sleep(LOOK).await;
        } else if applied.changed().await.is_err() {
            return;
        }
    }
}

fn listen(context: &Context, name: &ServiceName) -> std::io::Result<UnixListener> {
    let folder = run_folder(&context.paths, name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let path = folder.join(PAIRING_SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(&path)
}

async fn receive(context: Context, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(GUESTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = context.clone();
                tokio::spawn(async move {
                    if let Err(e) = context.receive_guest(stream).await {
                        info!("somebody came to pair, and nothing came of it: {e:#}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                warn!("the socket for pairing: {e}");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// What another member is answered.
pub(in crate::daemon) async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let name: ServiceName = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let status = vault_status_of(&context.paths, &name).await?;
    serde_json::to_vec(&status).map(Bytes::from).map_err(|e| e.to_string())
}

/// How the vault stands that runs on this radiator.
pub(in crate::daemon) async fn vault_status_of(paths: &Paths, name: &ServiceName) -> Result<Status, String> {
    Status::ask(&run_folder(paths, name), STATUS_MAX).await.map_err(|e| e.to_string())
}

impl Context {
    /// How the home's vault stands, wherever it runs; `None`: the home has none.
    pub(super) async fn vault_status(&self, state: &State) -> Option<Result<Status, String>> {
        let (name, _, _) = vault_of(state)?;
        let Some(active) = state.services.get(name).and_then(|service| service.active) else {
            return Some(Err(format!("{name} runs nowhere: see `thermidor explain {name}`")));
        };
        if active == self.node.id() {
            return Some(vault_status_of(&self.paths, name).await);
        }
        let body = match serde_json::to_vec(name) {
            Ok(body) => body,
            Err(e) => return Some(Err(e.to_string())),
        };
        let said = self.node.call(active, "vault", body.into(), CALL_MAX).await;
        let silent = |e| format!("{} has {name}, and does not answer: {e}", state.name_of(active));
        Some(said.map_err(silent).and_then(|said| serde_json::from_slice(&said).map_err(|e| e.to_string())))
    }

    /// Tells the home of a friend that says to have another kit.
    async fn note_kit_said(&self, state: &State, home: &HomeName, friend: &Friend, said: NewKeys) {
        let (key, transport) = (PublicKey(said.key.0), PublicKey(said.transport.0));
        let is_known = friend.kit_claims.iter().any(|known| known.key == key && known.transport == transport);
        let Some(own) = state.home.clone().filter(|_| !is_known && friend.identity.key != key) else {
            return;
        };
        // One too many was told when it came, and is said again every few seconds.
        if friend.kit_claims.len() >= KIT_CLAIMS_MAX {
            return debug!(friend = %home, "it says to have yet another kit");
        }
        let (between, known) = (Between { home: home.clone(), vault: own }, HomeKey(friend.identity.key.0));
        let words =
            tokio::task::spawn_blocking(move || said.words(&known, &between).map(str::to_owned)).await;
        let words = match words {
            Ok(words) => words,
            Err(e) => return warn!(friend = %home, "the words of its other kit can't be told: {e}"),
        };
        let claim = KitClaim { key, transport, words, heard_ms: unix_ms() };
        match self.node.propose(Command::HearKit { home: home.clone(), claim }, within(PROPOSE_MAX)).await {
            Ok(Outcome::Refused(why)) => warn!(friend = %home, "its other kit is not noted: {why}"),
            Ok(_) => {}
            Err(e) => warn!(friend = %home, "its other kit is still to be told: {e}"),
        }
    }

    /// Tells the home of friends that have come with a higher generation to the vault that is active here, and of those
    /// that come no more.
    async fn note_what_is_heard(&self, state: &State) {
        let mut quiet_friends = Vec::new();
        for name in vaults(state) {
            if state.services.get(name).and_then(|service| service.active) != Some(self.node.id()) {
                continue;
            }
            let status = match vault_status_of(&self.paths, name).await {
                Ok(status) => status,
                Err(e) => {
                    debug!(service = %name, "{e}");
                    continue;
                }
            };
            for (home, seen) in status.friends {
                let Some(friend) = state.friends.get(&home) else { continue };
                quiet_friends.extend(quiet(&home, seen.newest, unix_ms()));
                if let Some(said) = seen.kit_said {
                    self.note_kit_said(state, &home, friend, said).await;
                }
                let generation = seen.generation_heard;
                let known = friend.claims.unwrap_or(0).max(friend.identity.generation);
                if generation <= known {
                    continue;
                }
                let command = Command::HearGeneration { home: home.clone(), generation };
                if let Err(e) = self.node.propose(command, within(PROPOSE_MAX)).await {
                    warn!(friend = %home, generation, "its generation is still to be told: {e}");
                }
            }
        }
        self.shared.lock().quiet_friends = quiet_friends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_friend_that_left_backups_and_sends_nothing_for_a_week_is_told_of() {
        let friend = HomeName::new("alice").unwrap();
        let now = 1_000 * DAY_MS;
        assert_eq!(quiet(&friend, None, now), None, "it never sent any");
        assert_eq!(quiet(&friend, Some(now - QUIET_MS), now), None);
        let words = quiet(&friend, Some(now - 9 * DAY_MS), now).unwrap();
        assert_eq!(words, "alice has sent no backup here for 9 days: ask its person");
        assert_eq!(quiet(&friend, Some(now + DAY_MS), now), None, "a clock that was set back");
    }
}
