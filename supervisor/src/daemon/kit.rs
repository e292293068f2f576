//! The recovery kit in the home: drawn by whoever first needs it, sealed under the home key in the state, opened by
//! every radiator.

use super::orders::{ORDER_MAX, value};
use super::{Context, within};
use crate::api::Refused;
use crate::api::view::{KitPrint, VERSION};
use crate::clock::unix_ms;
use anyhow::Context as _;
use serde_json::Value;
use thermidor_backup::kit::{Friend, Kit};
use thermidor_model::friends::{KIT_SECRET, KitRecord, PublicKey};
use thermidor_model::state::Role;
use thermidor_model::{Command, Outcome, Refusal, State};
use tracing::info;

/// How often drawing is tried where somebody else draws at the same moment, or changes the home's keys.
const DRAWN_MAX: u32 = 5;

impl Context {
    /// The home's kit; `None`: none has been drawn yet. A witness can't open it.
    pub fn kit(&self) -> anyhow::Result<Option<Kit>> {
        let state = self.node.state().borrow().clone();
        let (Some(_), Some(sealed)) = (&state.kit, state.secrets.get(KIT_SECRET)) else { return Ok(None) };
        let entropy = self.node.identity().open(KIT_SECRET, sealed).context("the recovery kit")?;
        Ok(Some(Kit::from_entropy(&entropy).context("the recovery kit in the state is none")?))
    }

    /// The home's kit, drawn now if there is none.
    pub async fn kit_or_new(&self) -> Result<Kit, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(format!("{e:#}"));
        if self.node.identity().own.role == Role::Witness {
            return Err(Refused::because("a witness holds no keys: run it on a radiator"));
        }
        for _ in 0..DRAWN_MAX {
            if let Some(kit) = self.kit().map_err(|e| refused(&e))? {
                return Ok(kit);
            }
            let kit = Kit::draw().map_err(|e| refused(&e))?;
            let key = PublicKey(kit.signer().map_err(|e| refused(&e))?.public().0);
            let number = self.node.state().borrow().keys.sealed_under;
            let sealed = self.node.identity().seal(number, KIT_SECRET, &kit.entropy()[..]);
            let record =
                KitRecord { made_ms: unix_ms(), printed_ms: None, rehearsed_ms: None, key, split: None };
            let command = Command::SetKit { was: None, record, sealed: sealed.map_err(|e| refused(&e))? };
            match self.node.propose(command, within(ORDER_MAX)).await {
                // Somebody else's came first: that one counts.
                Ok(Outcome::Refused(Refusal::Stale(_))) => {}
                Ok(Outcome::Refused(why)) => return Err(refused(&why)),
                Ok(_) => info!("the home has a recovery kit: print it with `thermidor kit print`"),
                Err(e) => return Err(Refused::no_quorum(e.to_string())),
            }
        }
        Err(Refused::because("the home's keys are being changed: try again in a moment"))
    }

    /// The page and the words, to be printed: who asks has them from then on, which is noted.
    pub(super) async fn print_kit(&self) -> Result<Value, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(e.to_string());
        let kit = self.kit_or_new().await?;
        let state = self.node.state().borrow().clone();
        let home = state.home.clone().ok_or_else(|| Refused::because("this home is not founded yet"))?;
        let page = kit.page(&home, &today(), &printed_friends(&state)).map_err(|e| refused(&e))?;
        let words = kit.words().map_err(|e| refused(&e))?.map(str::to_owned).to_vec();
        let printed = Command::NoteKit { printed_ms: Some(unix_ms()), rehearsed_ms: None, split: None };
        // Printed it is, whether the home could take note of it or not.
        if let Err(e) = self.node.propose(printed, within(ORDER_MAX)).await {
            tracing::warn!("that the kit was printed is not noted: {e}");
        }
        value(&KitPrint { version: VERSION, page, words })
    }
}

/// The date that stands on a page.
pub(super) fn today() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d").to_string()
}

/// The friends who stand on a page: those who can keep backups.
pub(super) fn printed_friends(state: &State) -> Vec<Friend> {
    let keepers = state
        .friends
        .iter()
        .filter(|(_, friend)| friend.is_confirmed() && !friend.identity.addresses.is_empty());
    keepers
        .map(|(home, friend)| Friend { home: home.clone(), addresses: friend.identity.addresses.clone() })
        .collect()
}
