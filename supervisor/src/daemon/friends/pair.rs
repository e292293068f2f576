//! Becoming friends: a code is given out and guests are received, or a code is typed and this home is the guest. What
//! comes of it is a friend that counts once both people have compared the words.

use super::super::orders::{ORDER_MAX, value};
use super::super::{Context, within};
use super::{FRAME_MAX, own_addresses, vault_of};
use crate::api::Refused;
use crate::api::friends::{FriendInvitation, FriendMet};
use crate::clock::unix_ms;
use serde_json::Value;
use std::io;
use std::time::Duration;
use thermidor_backup::line::dial_pairing;
use thermidor_backup::pairing::{self, Code, Invitation, Paired};
use thermidor_model::friends::{ADDRESSES_MAX, FriendIdentity, PairingInvitation, PublicKey};
use thermidor_model::name::HomeName;
use thermidor_model::{Command, Outcome};
use tokio::net::UnixStream;
use tracing::{info, warn};

/// As what a code is sealed.
const CODE_SECRET: &str = "thermidor/pairing";

/// How long each address of the home that gave out a code may take.
const DIAL_MAX: Duration = Duration::from_secs(8);

/// How long a code may be good at most, s: it is meant for two people who speak with one another.
const TTL_MAX_S: u64 = 7 * 86_400;

fn refused(error: impl std::fmt::Display) -> Refused {
    Refused::because(format!("{error:#}"))
}

impl Context {
    /// Gives out a code, once there is a vault that a friend can come to.
    pub(in crate::daemon) async fn invite_friend(&self, ttl_s: u64) -> Result<Value, Refused> {
        let state = self.node.state().borrow().clone();
        let Some((vault, _, _)) = vault_of(&state) else {
            return Err(Refused::because(
                "this home has no vault at which a friend could come in: declare a service of the recipe vault in \
                 home.yaml, or let the other home invite and run `thermidor friend accept` here",
            ));
        };
        let addresses = own_addresses(&state);
        if addresses.is_empty() {
            return Err(Refused::because(format!(
                "nothing says where friends reach this home: give `addresses` in the settings of {vault} in home.yaml"
            )));
        }
        if ttl_s > TTL_MAX_S {
            return Err(Refused::because("a code is good for seven days at most"));
        }
        self.kit_or_new().await?;
        let drawn = Invitation::draw(unix_ms(), ttl_s * 1000);
        let sealed = self.keys.seal(CODE_SECRET, drawn.code.to_string().as_bytes()).map_err(refused)?;
        let id = rand::random();
        let invitation = PairingInvitation { id, sealed, expires_ms: drawn.until, burnt: false };
        self.order(Command::InviteFriend { invitation }).await?;
        value(&FriendInvitation { id, code: drawn.code.to_string(), until_ms: drawn.until, addresses })
    }

    /// Receives a guest whom the vault has led here.
    pub(super) async fn receive_guest(&self, stream: UnixStream) -> anyhow::Result<()> {
        let state = self.node.state().borrow().clone();
        // Without a code that was given out the guest hears the same as of one that is too old.
        let nobody = Invitation { version: Invitation::VERSION, code: Code::draw(), until: 0 };
        let (id, invitation) = match &state.pairing {
            Some(open) => {
                let code = Code::read(&self.keys.open(CODE_SECRET, &open.sealed)?)?;
                (open.id, Invitation { version: Invitation::VERSION, code, until: open.expires_ms })
            }
            None => (0, nobody),
        };
        let Some(kit) = self.kit()? else { anyhow::bail!("somebody came to pair, and there is no kit yet") };
        let own = self.introduction(&kit, &state)?;
        let burn = async || match self.node.propose(Command::BurnPairing { id }, within(ORDER_MAX)).await {
            Ok(Outcome::Refused(_)) => Ok(false),
            Ok(_) => Ok(true),
            Err(e) => Err(io::Error::other(e.to_string())),
        };
        let paired = pairing::host(stream, invitation, own, burn, unix_ms, FRAME_MAX).await?;
        info!(friend = %paired.friend.home, "it knew the code");
        if let Err(why) = self.order(meet(&paired)).await {
            anyhow::bail!("{} knew the code and is not noted: {why}", paired.friend.home);
        }
        Ok(())
    }

    /// Comes as a guest to the home that gave out the code.
    pub(in crate::daemon) async fn accept_friend(
        &self,
        code: &str,
        addresses: &[String],
    ) -> Result<Value, Refused> {
        // A slip of the tongue is noticed before the guess is spent.
        let code = Code::read(code).map_err(refused)?;
        let kit = self.kit_or_new().await?;
        let state = self.node.state().borrow().clone();
        let own = self.introduction(&kit, &state).map_err(refused)?;
        let stream = dial_pairing(addresses, DIAL_MAX).await.map_err(refused)?;
        let mut paired = pairing::guest(stream, &code, own, FRAME_MAX).await.map_err(refused)?;
        reached_at(&mut paired.friend.addresses, addresses);
        if let Err(why) = self.order(meet(&paired)).await {
            warn!(friend = %paired.friend.home, "it was met and is not noted: {why}");
            return Err(why);
        }
        let words = paired.words.map(str::to_owned);
        value(&FriendMet { home: paired.friend.home.to_string(), words, addresses: paired.friend.addresses })
    }

    pub(in crate::daemon) async fn readdress_friend(
        &self,
        home: HomeName,
        addresses: Vec<String>,
    ) -> Result<Value, Refused> {
        self.order(Command::ReaddressFriend { home, addresses }).await
    }
}

/// A home that lends is dialled also where it was found, after what it told.
fn reached_at(told: &mut Vec<String>, dialled: &[String]) {
    if told.is_empty() {
        return;
    }
    for address in dialled {
        if told.len() < ADDRESSES_MAX && !told.contains(address) {
            told.push(address.clone());
        }
    }
}

fn meet(paired: &Paired) -> Command {
    let friend = &paired.friend;
    let identity = FriendIdentity {
        key: PublicKey(friend.key.0),
        transport: PublicKey(friend.transport.0),
        generation: friend.generation,
        addresses: friend.addresses.clone(),
    };
    Command::MeetFriend { home: friend.home.clone(), identity, words: paired.words.map(str::to_owned) }
}
