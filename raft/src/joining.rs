//! `join TOKEN`: both sides. The newcomer pins the authority's fingerprint, then sends secret and
//! key; the token is consumed through Raft, then the certificate is issued.

use crate::codec;
use crate::founding::advertised;
use crate::identity::{
    Identity, IdentityError, MemberKey, Own, Parts, dir_of, key_of_request, pinned_client, server_name,
};
use crate::invitation::{Token, TokenError, hash_of};
use crate::line::{LineError, tune};
use crate::node::{Node, decode, encode};
use crate::wire::{FRAME_MAX, Frame, framing};
use crate::{disk, members_file};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;
use thermidor_model::state::Role;
use thermidor_model::{Command, NodeId, Outcome, RadiatorName};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::codec::Framed;

/// One member is given this long to let a newcomer in.
const ASK_MAX: Duration = Duration::from_secs(20);
/// A leader is asked to forget a half-joined member within this time.
const UNBORN_MAX: Duration = Duration::from_secs(10);
/// A leader that has led for less may not have heard every member yet.
const LED_MIN_NS: u64 = 2_000_000_000;

/// A machine that wants to join.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The data directory; must hold no member yet.
    pub data: PathBuf,
    /// The token as printed.
    pub token: String,
    /// The newcomer's name.
    pub name: RadiatorName,
    /// Where it will listen.
    pub listen: SocketAddr,
    /// How the others reach it; `None`: as it listens.
    pub advertise: Option<SocketAddr>,
    /// Only votes; gets neither home key nor authority key.
    pub witness: bool,
}

/// Why a machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The directory holds a member.
    #[error("{0} belongs to a home already: `thermidor status` shows it, `thermidor leave` ends it")]
    Already(PathBuf),
    /// The listener's address is no address to reach it at.
    #[error("it would listen on all addresses: say with --address which one the others reach")]
    Address,
    /// Not a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The home says no.
    #[error("the home refuses: {0}")]
    Refused(String),
    /// Nobody to ask.
    #[error("no member of the home can be reached: {0}")]
    Unreachable(String),
    /// The identity can't be made or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file or the listener.
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
}

#[derive(Serialize, Deserialize)]
struct Request {
    secret: String,
    name: RadiatorName,
    address: SocketAddr,
    witness: bool,
    request_pem: String,
}

#[derive(Serialize, Deserialize)]
struct Welcome {
    parts: Parts,
    members: BTreeMap<NodeId, SocketAddr>,
    /// BLAKE3 of their public keys, hex.
    #[serde(default)]
    keys: BTreeMap<NodeId, String>,
}

#[derive(Serialize, Deserialize)]
struct Unborn {
    name: RadiatorName,
    address: SocketAddr,
}

/// Joins a home and stores the identity it gave; [`Node::start`] then runs the new member. Returns its
/// number. Interrupted, it can be repeated with a new token.
pub async fn join(options: &JoinOptions) -> Result<NodeId, JoinError> {
    let JoinOptions { data, token, name, listen, advertise, witness } = options;
    if Identity::exists(data) {
        return Err(JoinError::Already(data.clone()));
    }
    let token: Token = token.parse()?;
    let mut address = advertised(*listen, *advertise).ok_or(JoinError::Address)?;
    let io = |what: String| move |e| JoinError::Io(what, e);
    // Held while we ask, so that nobody else takes the port we name.
    let listener = TcpListener::bind(listen).await.map_err(io(format!("can't listen on {listen}")))?;
    if address.port() == 0 {
        address.set_port(listener.local_addr().map_err(io("the listener has no address".into()))?.port());
    }
    disk::make_dir(data).map_err(io(format!("{} can't be made", data.display())))?;
    let key = MemberKey::generate()?;
    let request = Request {
        secret: token.secret.clone(),
        name: name.clone(),
        address,
        witness: *witness,
        request_pem: key.request()?,
    };
    let welcome = ask_anyone(&token, &request).await?;
    members_file::write(data, welcome.members, welcome.keys)
        .map_err(io(format!("{} can't be written", data.display())))?;
    let node = welcome.parts.own.node;
    welcome.parts.store(&key.pem(), &dir_of(data))?;
    Ok(node)
}

/// Asks the members that the token names, one after another; a clear refusal ends it.
async fn ask_anyone(token: &Token, request: &Request) -> Result<Welcome, JoinError> {
    let body = encode(request).map_err(|e| JoinError::Refused(e.to_string()))?;
    let mut last = String::from("the token names none");
    for address in &token.addresses {
        match timeout(ASK_MAX, ask(token, *address, body.clone())).await {
            Ok(Ok(bytes)) => {
                return codec::decode(&bytes).map_err(|e| JoinError::Refused(e.to_string()));
            }
            Ok(Err(LineError::Failed(why))) => return Err(JoinError::Refused(why)),
            Ok(Err(e)) => last = format!("{address}: {e}"),
            Err(_) => last = format!("{address}: not answered in time"),
        }
    }
    Err(JoinError::Unreachable(last))
}

async fn ask(token: &Token, address: SocketAddr, body: Bytes) -> Result<Bytes, LineError> {
    let not_sent = |e: &dyn std::fmt::Display| LineError::NotSent(e.to_string());
    let stream = TcpStream::connect(address).await.map_err(|e| not_sent(&e))?;
    tune(&stream).map_err(|e| not_sent(&e))?;
    let tls = pinned_client(&token.fingerprint).map_err(|e| not_sent(&e))?;
    let stream = TlsConnector::from(tls).connect(server_name(), stream).await.map_err(|e| {
        LineError::NotSent(format!("this is not the home {} that the token is for ({e})", token.home))
    })?;
    let mut frames = Framed::new(stream, framing(FRAME_MAX));
    let deadline_ms = u32::try_from(ASK_MAX.as_millis()).unwrap_or(u32::MAX);
    let request = Frame::Request { id: 1, deadline_ms, verb: "home/join".into(), body };
    let lost = |e: &dyn std::fmt::Display| LineError::Lost(e.to_string());
    frames.send(request.encode()).await.map_err(|e| lost(&e))?;
    let answer =
        frames.next().await.ok_or_else(|| lost(&"it closed the connection"))?.map_err(|e| lost(&e))?;
    match Frame::decode(answer.freeze()).map_err(|e| lost(&e))? {
        Frame::Answer { body, .. } => Ok(body),
        Frame::Failure { text, .. } => Err(LineError::Failed(text)),
        Frame::NotLeader { leader, .. } => Err(LineError::NotLeader(leader)),
        _ => Err(lost(&"it does not answer the question")),
    }
}

/// The member's side: lets a newcomer in.
pub(crate) async fn admit(node: &Node, body: &[u8], deadline: Instant) -> Result<Bytes, LineError> {
    let request: Request = decode(body)?;
    let failed = |e: &dyn std::fmt::Display| LineError::Failed(e.to_string());
    let identity = node.identity();
    if !identity.may_issue() || identity.own.keys != node.state().borrow().keys.number {
        // Not a refusal: the newcomer asks the next member of its token.
        return Err(LineError::NotLeader(None));
    }
    let authority = identity.authority().map_err(|e| failed(&e))?;
    let token_hash = hash_of(&request.secret);
    let state = node.state();
    let invited = state.borrow().tokens.contains_key(&token_hash);
    if invited && state.borrow().node(&request.name).is_some() {
        // Perhaps it joined before and was interrupted. Err: then the proposal below says what is in its way.
        let unborn = encode(&Unborn { name: request.name.clone(), address: request.address })?;
        if let Err(e) = forget_through_leader(node, unborn).await {
            tracing::debug!(name = %request.name, error = %e, "it was not half joined");
        }
    }
    let role = if request.witness { Role::Witness } else { Role::Radiator };
    let command = Command::Join { token_hash, name: request.name, address: request.address, role };
    let joined = match node.propose_once(command, deadline).await.map_err(|e| failed(&e))? {
        Outcome::Joined(joined) => joined,
        Outcome::Refused(why) => return Err(failed(&why)),
        other => return Err(LineError::Failed(format!("an unexpected outcome: {other:?}"))),
    };
    // Refused: it has left again meanwhile. It tells its key itself if this does not get through.
    let key = key_of_request(&request.request_pem).map_err(|e| failed(&e))?;
    if let Err(e) = node.propose(Command::PinKey { node: joined, key }, deadline).await {
        tracing::warn!(member = joined, error = %e, "its key is not written down yet");
    }
    let own = &identity.own;
    let certificate_pem = authority
        .issue_for(&request.request_pem, &own.home, joined, identity.generation)
        .map_err(|e| failed(&e))?;
    let home_keys = if request.witness { BTreeMap::new() } else { identity.home_keys.clone() };
    let welcome = Welcome {
        parts: Parts {
            own: Own {
                node: joined,
                home: own.home.clone(),
                role,
                advertise_ip: request.address.ip(),
                timing: state.borrow().timing,
                keys: own.keys,
            },
            certificate_pem,
            authority_pem: authority.pem().to_string(),
            authority_key_pem: (!request.witness).then(|| authority.key_pem().to_string()),
            home_keys,
        },
        members: state.borrow().members.iter().map(|(id, m)| (*id, m.address)).collect(),
        keys: state.borrow().keys.members.clone(),
    };
    tracing::info!(member = joined, "was let in");
    encode(&welcome)
}

async fn forget_through_leader(node: &Node, body: Bytes) -> Result<(), LineError> {
    let leader = node.leadership().borrow().leader;
    match leader {
        Some(leader) if leader == node.id() => forget_unborn(node, &body).await.map(|_| ()),
        Some(leader) => {
            let deadline = Instant::now() + UNBORN_MAX;
            let lane = crate::line::Lane::App;
            node.pool().call(leader, lane, "home/unborn", body, deadline).await.map(|_| ())
        }
        None => Err(LineError::NotLeader(None)),
    }
}

/// On the leader: takes out a member that has never shown its certificate nor acknowledged anything,
/// of the same name at the same address, which neither votes nor holds data. It is the same machine,
/// whose join was interrupted.
pub(crate) async fn forget_unborn(node: &Node, body: &[u8]) -> Result<Bytes, LineError> {
    let Unborn { name, address } = decode(body)?;
    let refused = |why: &str| Err(LineError::Failed(why.to_string()));
    let state = node.state().borrow().clone();
    let Some(id) = state.node(&name) else { return refused("there is no such member") };
    if state.members.get(&id).is_none_or(|member| member.address.ip() != address.ip()) {
        return refused("that member is elsewhere");
    }
    if state.volumes.values().any(|volume| volume.replicas.contains_key(&id)) {
        return refused("that member holds data");
    }
    let heard = {
        let metrics = node.raft().metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        matched.is_some() || metrics.membership_config.voter_ids().any(|voter| voter == id)
    };
    let contacted = node.0.contacted.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
    if heard || contacted || node.silent_ms().contains_key(&id) {
        return refused("that member is alive");
    }
    let since = node.leadership().borrow().since_boottime_ns;
    if since == 0 || crate::clock::boottime_ns().saturating_sub(since) < LED_MIN_NS {
        return refused("the leader is too fresh to tell: try again in a few seconds");
    }
    let command = Command::Leave { node: id };
    let left = node.propose(command, Instant::now() + UNBORN_MAX).await;
    match left.map_err(|e| LineError::Failed(e.to_string()))? {
        Outcome::Refused(why) => Err(LineError::Failed(why.to_string())),
        _ => Ok(Bytes::new()),
    }
}
