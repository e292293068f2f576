//! The way to a friend's vault for restic: a door on this machine that is open while it is held.

use super::Context;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thermidor_backup::kit::Kit;
use thermidor_backup::line::{Forwarder, Own, Pin, TransportKey, Welcome, dial_vault};
use thermidor_backup::vault_process::COMES_BACK;
use thermidor_model::friends::Friend;
use thermidor_model::name::HomeName;
use thermidor_model::state::State;

/// How long each address of a friend may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A door to a friend's vault. Clones hold the same one open.
#[derive(Clone)]
pub struct Door {
    /// The home whose vault it is.
    pub vault: HomeName,
    /// This home, as it is known there.
    pub home: HomeName,
    /// The kit by which this home is known there.
    pub kit: Kit,
    /// Whether nothing may be written there: its person has not confirmed this home's generation yet.
    pub read_only: bool,
    forwarder: Arc<Forwarder>,
}

impl Door {
    /// Where restic finds it.
    pub fn at(&self) -> SocketAddr {
        self.forwarder.at()
    }

    /// What was in the way of the last connection: restic calls that unreachable.
    pub fn trouble(&self) -> Option<String> {
        self.forwarder.trouble().map(|why| format!("{} {why}", self.vault))
    }

    /// Waits until the vault refuses this home in words, having let it in before: what it says.
    pub async fn refused(&self) -> String {
        format!("{} {}", self.vault, self.forwarder.refused().await)
    }
}

/// Dials once, so that who answers is known and a refusal is told in its own words, then opens the door.
async fn open(addresses: &[String], kit: &Kit, generation: u64, pin: Pin) -> anyhow::Result<Door> {
    let own = Own::new(&kit.transport()?, generation)?;
    let met = dial_vault(addresses, &own, pin, PATIENCE).await?;
    // Whoever was met is who is spoken to from here on.
    let (pin, welcome) = (Pin::Key(met.key), met.welcome);
    let forwarder =
        Forwarder::open(addresses.to_vec(), own, pin, PATIENCE).await.context("a door on this machine")?;
    let Welcome { vault, home, read_only, .. } = welcome;
    Ok(Door { vault, home, kit: kit.clone(), read_only, forwarder: Arc::new(forwarder) })
}

/// How a home that has nothing yet but its kit gets to a friend: nobody is pinned, for what comes back authenticates
/// itself by the kit.
pub struct ByKit<'a>(pub &'a Kit);

impl ByKit<'_> {
    /// The door to whoever answers at one of these addresses.
    pub async fn open(&self, addresses: &[String]) -> anyhow::Result<Door> {
        open(addresses, self.0, COMES_BACK, Pin::Anybody).await
    }
}

/// Who must answer at a friend's addresses.
pub fn pin_of(friend: &Friend) -> Pin {
    Pin::Key(TransportKey(friend.identity.transport.0))
}

impl Context {
    /// The door to a friend's vault, known by its pinned key; this home shows the kit that the friend holds to.
    pub async fn door_to(&self, friend: &HomeName) -> anyhow::Result<Door> {
        let state = self.node.state().borrow().clone();
        let kit = self.kit_for(&state, friend)?.context("the home has no recovery kit")?;
        self.door_by(&state, friend, &kit).await
    }

    /// The same, with a kit of which it is not known yet that the friend believes in it.
    pub async fn door_by(&self, state: &State, friend: &HomeName, kit: &Kit) -> anyhow::Result<Door> {
        let known = state.friends.get(friend).filter(|known| known.is_confirmed());
        let known =
            known.with_context(|| format!("{friend} is no friend: `thermidor friend ls` lists them"))?;
        let door = open(&known.identity.addresses, kit, state.generation, pin_of(known)).await?;
        anyhow::ensure!(door.vault == *friend, "{friend} calls itself {} by now", door.vault);
        Ok(door)
    }
}
