//! New keys for a running home, after a theft: an authority and a home key are made on one radiator's disk, the
//! state says which ones count, every other member fetches its part from whoever has it, and once two
//! radiators hold the new home key the secrets are sealed anew. Each step follows from the applied state and from
//! what is on one's own disk, so whoever crashes, leads or was away goes on from there.
//!
//! Members know one another by their own keys all the while (see `identity::papers`), so none of this
//! interrupts anything, and the thief, who has everything but those, is out from the first step.

use crate::disk;
use crate::identity::{
    self, Authority, HomeKey, Identity, IdentityError, MemberKey, Own, Parts, dir_of, key_of_request, next_of,
};
use crate::line::{Lane, LineError};
use crate::node::{Node, decode, encode};
use crate::proposing::ProposeError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use thermidor_model::state::{Role, State};
use thermidor_model::{Command, NodeId, Outcome};
use tokio::time::{Instant, timeout};

/// Between two attempts at a step.
const AGAIN: Duration = Duration::from_millis(200);
/// One member is given this long to hand over what is ours.
const FETCH_MAX: Duration = Duration::from_secs(2);
/// A step is agreed on within this time, or tried again.
const AGREE_MAX: Duration = Duration::from_secs(5);
/// How long secrets stay sealed under the old key once two radiators hold the new one, for the others'
/// sake: a service that starts on one of those meanwhile would have to wait for its secrets.
const WAIT_FOR_ALL: Duration = Duration::from_secs(5);

/// Why the keys are not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The new keys can't be made or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A witness would hold keys.
    #[error("new keys are made on a radiator, and this is a witness: run it there")]
    Witness,
    /// The home does not say what became of it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The model refuses.
    #[error("{0}")]
    Refused(String),
    /// Not a file's fault.
    #[error("the new keys can't be made ready: {0}")]
    Ready(String),
}

/// Why a step has to be tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("{0}")]
    Failed(String),
}

/// What a member asks for.
#[derive(Serialize, Deserialize)]
struct Request {
    number: u64,
    /// Carries its own public key.
    request_pem: String,
}

/// What is a member's own of the home's keys. A witness is sent no key.
#[derive(Serialize, Deserialize)]
struct Share {
    certificate_pem: String,
    authority_pem: String,
    authority_key_pem: Option<String>,
    home_keys: BTreeMap<u64, HomeKey>,
}

impl Node {
    /// Makes a new authority and a new home key and has them agreed on. They are on this radiator's disk before
    /// anybody hears of them. Answers their number; `follow` does the rest on each member.
    pub async fn change_keys(&self, deadline: Instant) -> Result<u64, RotationError> {
        let identity = self.identity();
        if identity.own.role == Role::Witness {
            return Err(RotationError::Witness);
        }
        let _alone = self.0.rekeying.lock().await;
        let state = self.state().borrow().clone();
        let number = state.keys.number + 1;
        // Made ready before, and nobody knows whether it was agreed on: the same ones again.
        let before = self.ready().await.filter(|ready| {
            ready.own.keys == number && ready.generation == identity.generation && ready.home_key.is_some()
        });
        let ready = match before {
            Some(ready) => ready,
            None => self.make_keys(&identity, number).await?,
        };
        let Some(home_key) = &ready.home_key else { return Err(RotationError::Witness) };
        let command = Command::ChangeKeys {
            number_was: state.keys.number,
            authority_pem: ready.authority_pem.clone(),
            home_key_hash: home_key.hash(),
        };
        match self.propose_once(command, deadline).await? {
            Outcome::Refused(why) => Err(RotationError::Refused(why.to_string())),
            _ => Ok(number),
        }
    }

    /// A new authority and a new home key, on this disk.
    async fn make_keys(&self, identity: &Identity, number: u64) -> Result<Identity, RotationError> {
        let unready = |e: StepError| RotationError::Ready(e.to_string());
        let key = self.member_key().await.map_err(unready)?;
        let authority = Authority::generate(&identity.own.home)?;
        let mut home_keys = identity.home_keys.clone();
        home_keys.insert(number, HomeKey::generate()?);
        let parts = Parts {
            own: Own { keys: number, ..identity.own.clone() },
            certificate_pem: authority.issue(&key, &identity.own.home, self.id(), identity.generation)?,
            authority_pem: authority.pem().to_string(),
            authority_key_pem: Some(authority.key_pem().to_string()),
            home_keys,
        };
        self.make_ready(parts, &key).await.map_err(unready)?;
        self.ready().await.ok_or_else(|| RotationError::Ready("they can't be read back".into()))
    }

    /// The identity that was made ready, if there is one.
    async fn ready(&self) -> Option<Identity> {
        let data = self.0.data.clone();
        tokio::task::spawn_blocking(move || Identity::ready(&data)).await.ok().flatten()
    }

    /// Has written down by which key this member is known.
    pub(crate) async fn pin_key(&self, deadline: Instant) -> Result<Outcome, ProposeError> {
        let key = self.identity().member_key.clone();
        self.propose(Command::PinKey { node: self.id(), key }, deadline).await
    }

    /// This member's own key, off the runtime's threads.
    async fn member_key(&self) -> Result<MemberKey, StepError> {
        let file = dir_of(&self.0.data).join("member.key");
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file));
        let pem = read.await.map_err(std::io::Error::other).and_then(|read| read);
        Ok(MemberKey::from_pem(&pem.map_err(|e| StepError::Failed(format!("member.key: {e}")))?)?)
    }

    /// Stores an identity beside the present one.
    async fn make_ready(&self, parts: Parts, key: &MemberKey) -> Result<(), StepError> {
        let (place, key_pem) = (next_of(&self.0.data), key.pem());
        let storing = tokio::task::spawn_blocking(move || {
            disk::remove_dir_if_there(&place).map_err(|e| IdentityError::Io("identity.next".into(), e))?;
            parts.store(&key_pem, &place)
        });
        Ok(storing.await.map_err(|e| StepError::Failed(e.to_string()))??)
    }
}

/// Tells the home by which key this member is known, if it does not know: a home that was founded by an older
/// program.
pub(crate) async fn tell_key(node: Node) {
    let mut state = node.state();
    loop {
        let missing = {
            let state = state.borrow_and_update();
            state.members.contains_key(&node.id()) && !state.keys.members.contains_key(&node.id())
        };
        if missing {
            let outcome = node.pin_key(Instant::now() + AGREE_MAX).await;
            tracing::info!(?outcome, "tells the home its key");
            tokio::time::sleep(AGAIN).await;
        } else if state.changed().await.is_err() {
            return;
        }
    }
}

/// Does what is this member's part in a change of keys, until the member stops.
pub(crate) async fn follow(node: Node) {
    let mut state = node.state();
    // Since when two radiators hold keys of a number.
    let mut safe_since = None;
    loop {
        let now = state.borrow_and_update().clone();
        node.pool().keep_only(|id| id >= now.next_node || now.members.contains_key(&id));
        let settled = match step(&node, &now, &mut safe_since).await {
            Ok(settled) => settled,
            Err(e) => {
                tracing::debug!(error = %e, number = now.keys.number, "the change of keys waits");
                false
            }
        };
        let pause = if settled { Duration::MAX } else { AGAIN };
        if let Ok(Err(_)) = timeout(pause, state.changed()).await {
            return;
        }
    }
}

/// The next thing to do; true: nothing is left.
async fn step(
    node: &Node,
    state: &State,
    safe_since: &mut Option<(u64, Instant)>,
) -> Result<bool, StepError> {
    let (me, number) = (node.id(), state.keys.number);
    if number == 0 || !state.members.contains_key(&me) {
        return Ok(true);
    }
    if node.identity().own.keys != number {
        obtain(node, state).await?;
    }
    if !state.keys.holders.contains(&me) {
        let holds = Command::HoldsKeys { node: me, number };
        node.propose(holds, Instant::now() + AGREE_MAX).await?;
        return Ok(false);
    }
    if !state.keys.changing() || node.identity().own.role == Role::Witness {
        return Ok(true);
    }
    if !state.keys_are_safe() {
        return Ok(false);
    }
    let since = match *safe_since {
        Some((of, since)) if of == number => since,
        _ => Instant::now(),
    };
    *safe_since = Some((number, since));
    if state.without_keys().is_empty() || since.elapsed() > WAIT_FOR_ALL {
        // One after another, so that the others find it done.
        let before_me = state.keys.holders.iter().take_while(|id| **id != me).count();
        tokio::time::sleep(AGAIN * u32::try_from(before_me).unwrap_or(1)).await;
        let fresh = node.state().borrow().clone();
        if fresh.keys.number == number && fresh.keys.changing() {
            reseal(node, &fresh).await?;
        }
    }
    Ok(false)
}

/// Gets what is ours of the keys that the state names, from our own disk or from another member, and goes on with it.
async fn obtain(node: &Node, state: &State) -> Result<(), StepError> {
    let _alone = node.0.rekeying.lock().await;
    let number = state.keys.number;
    let fits = |own: &Own, authority_pem: &str, home_key: Option<&HomeKey>| {
        let key = home_key.is_none_or(|key| key.hash() == state.keys.home_key_hash);
        let has_key = home_key.is_some() || own.role == Role::Witness;
        own.keys == number && authority_pem == state.authority_pem && key && has_key
    };
    let ready = node.ready().await;
    let ready = ready.is_some_and(|i| fits(&i.own, &i.authority_pem, i.home_key.as_ref()));
    if !ready {
        let key = node.member_key().await?;
        let share = fetch(node, state, &key).await?;
        let own = Own { keys: number, ..node.identity().own.clone() };
        if !fits(&own, &share.authority_pem, share.home_keys.get(&number)) {
            return Err(StepError::Failed("other keys than the home has agreed on".into()));
        }
        if let Some(key_pem) = &share.authority_key_pem {
            Authority::load(&share.authority_pem, key_pem)?;
        }
        let mut home_keys = node.identity().home_keys.clone();
        home_keys.extend(share.home_keys);
        let parts = Parts {
            own,
            certificate_pem: share.certificate_pem,
            authority_pem: share.authority_pem,
            authority_key_pem: share.authority_key_pem,
            home_keys,
        };
        node.make_ready(parts, &key).await?;
    }
    let data = node.0.data.clone();
    let adopting = tokio::task::spawn_blocking(move || identity::adopt(&data)).await;
    node.rekey(adopting.map_err(|e| StepError::Failed(e.to_string()))??);
    tracing::info!(number, "this member has the home's new keys");
    Ok(())
}

/// Asks the radiators for what is ours, those first that are known to hold it.
async fn fetch(node: &Node, state: &State, key: &MemberKey) -> Result<Share, StepError> {
    let body = encode(&Request { number: state.keys.number, request_pem: key.request()? })?;
    let radiators = state.members.iter().filter(|(id, m)| m.role == Role::Radiator && **id != node.id());
    let mut ask: Vec<NodeId> = radiators.map(|(id, _)| *id).collect();
    ask.sort_by_key(|id| !state.keys.holders.contains(id));
    let mut last = StepError::Failed("no other radiator holds the new keys".into());
    for id in ask {
        let deadline = Instant::now() + FETCH_MAX;
        match node.pool().call(id, Lane::App, "home/keys", body.clone(), deadline).await {
            Ok(bytes) => return Ok(decode(&bytes)?),
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

/// A member asks for what is its own. It has proven by its key who it is; the state says what that one may hold.
pub(crate) fn hand_over(node: &Node, from: NodeId, body: &[u8]) -> Result<Bytes, LineError> {
    let failed = |why: &dyn std::fmt::Display| LineError::Failed(why.to_string());
    let Request { number, request_pem } = decode(body)?;
    let identity = node.identity();
    let state = node.state().borrow().clone();
    let Some(member) = state.members.get(&from) else { return Err(failed(&"no member of this home")) };
    if identity.own.keys != number || state.keys.number != number {
        return Err(LineError::Failed(format!("the keys number {number} are not here")));
    }
    let key = key_of_request(&request_pem).map_err(|e| failed(&e))?;
    if state.keys.members.get(&from) != Some(&key) {
        return Err(LineError::Failed(format!("that is not the key of {}", member.name)));
    }
    let authority = identity.authority().map_err(|e| failed(&e))?;
    let certificate_pem = authority
        .issue_for(&request_pem, &identity.own.home, from, identity.generation)
        .map_err(|e| failed(&e))?;
    let radiator = member.role == Role::Radiator;
    tracing::info!(member = from, number, "was given what is its own of the home's keys");
    encode(&Share {
        certificate_pem,
        authority_pem: authority.pem().to_string(),
        authority_key_pem: radiator.then(|| authority.key_pem().to_string()),
        home_keys: if radiator { identity.home_keys.clone() } else { BTreeMap::new() },
    })
}

/// Seals every secret under the new home key. One that no key opens stays as it is.
async fn reseal(node: &Node, state: &State) -> Result<(), StepError> {
    let (identity, number) = (node.identity(), state.keys.number);
    let mut secrets = state.secrets.clone();
    for (name, sealed) in &mut secrets {
        match identity.open(name, sealed) {
            Ok(value) => *sealed = identity.seal(number, name, &value)?,
            Err(e @ IdentityError::Sealed(_)) => tracing::warn!(error = %e, "it stays as it is"),
            Err(e) => return Err(e.into()),
        }
    }
    let command = Command::Reseal { number, secrets_was: state.secrets.clone(), secrets };
    match node.propose(command, Instant::now() + AGREE_MAX).await? {
        Outcome::Refused(why) => Err(StepError::Failed(why.to_string())),
        _ => Ok(()),
    }
}
