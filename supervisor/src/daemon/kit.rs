//! The recovery kit in the home: drawn by whoever first needs it, sealed under the home key in the state, opened by
//! every radiator.

use super::orders::{ORDER_MAX, value};
use super::{Context, within};
use crate::api::Refused;
use crate::api::recovery::kit_waits;
use crate::api::view::{KitPrint, KitReplaced, VERSION};
use crate::clock::unix_ms;
use anyhow::Context as _;
use serde_json::Value;
use thermidor_backup::generations::Between;
use thermidor_backup::kit::{Friend, Kit};
use thermidor_backup::kit_change::NewKeys;
use thermidor_backup::vault::HomeKey;
use thermidor_model::friends::{KIT_BEFORE_SECRET, KIT_SECRET, KitRecord, KitSplit, PublicKey};
use thermidor_model::name::{HomeName, UnixMs};
use thermidor_model::state::{Role, State};
use thermidor_model::{Command, Outcome, Refusal};
use thermidor_raft::ProposeError;
use tracing::info;

/// How often drawing is tried where somebody else draws at the same moment, or changes the home's keys.
const DRAWN_MAX: u32 = 5;

impl Context {
    /// The home's kit; `None`: none has been drawn yet. A witness can't open it.
    pub fn kit(&self) -> anyhow::Result<Option<Kit>> {
        let state = self.node.state().borrow().clone();
        self.kit_in(&state, KIT_SECRET)
    }

    /// The kit that a friend holds to: the one before, until its person has confirmed that it was replaced.
    pub fn kit_for(&self, state: &State, friend: &HomeName) -> anyhow::Result<Option<Kit>> {
        if state.holds_to_kit_before(friend) {
            self.kit_before(state)
        } else {
            self.kit_in(state, KIT_SECRET)
        }
    }

    /// The kit before, as long as a friend holds to it.
    pub fn kit_before(&self, state: &State) -> anyhow::Result<Option<Kit>> {
        self.kit_in(state, KIT_BEFORE_SECRET)
    }

    /// The home's state as it is left at a friend's, and what its keys are sealed with there. Who holds to the kit before is
    /// left that one alone: the home key lies beside the state, and would open the new one.
    pub fn home_to_leave(&self, state: &State, before: bool) -> anyhow::Result<(State, Kit)> {
        if !before {
            let kit = self.kit_in(state, KIT_SECRET)?.context("the home has no recovery kit")?;
            return Ok((state.clone(), kit));
        }
        let kit = self.kit_before(state)?.context("no friend holds to a kit before")?;
        let sealed = self.node.identity().seal(state.keys.sealed_under, KIT_SECRET, &kit.entropy()[..])?;
        Ok((state.with_kit_before(sealed), kit))
    }

    fn kit_in(&self, state: &State, name: &str) -> anyhow::Result<Option<Kit>> {
        let (Some(_), Some(sealed)) = (&state.kit, state.secrets.get(name)) else { return Ok(None) };
        let entropy = self.node.identity().open(name, sealed).context("the recovery kit")?;
        Ok(Some(Kit::from_entropy(&entropy).context("the recovery kit in the state is none")?))
    }

    fn holds_keys(&self) -> Result<(), Refused> {
        match self.node.identity().own.role {
            Role::Witness => Err(Refused::because("a witness holds no keys: run it on a radiator")),
            Role::Radiator => Ok(()),
        }
    }

    /// The home's kit, drawn now if there is none.
    pub async fn kit_or_new(&self) -> Result<Kit, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(format!("{e:#}"));
        self.holds_keys()?;
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
            match self.node.propose_once(command, within(ORDER_MAX)).await {
                // Somebody else's came first: that one counts.
                Ok(Outcome::Refused(Refusal::Stale(_))) => {}
                Ok(Outcome::Refused(why)) => return Err(refused(&why)),
                Ok(_) => info!("the home has a recovery kit: print it with `thermidor kit print`"),
                Err(e) => return Err(Refused::no_quorum(e.to_string())),
            }
        }
        Err(Refused::because("the home's keys are being changed: try again in a moment"))
    }

    /// Draws another kit; every friend holds to the one before until its person has confirmed. Answers a [`KitReplaced`].
    pub(super) async fn replace_kit(&self) -> Result<Value, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(format!("{e:#}"));
        self.holds_keys()?;
        for _ in 0..DRAWN_MAX {
            let command = self.replacement().await.map_err(|e| refused(&e))?;
            match self.node.propose_once(command, within(ORDER_MAX)).await {
                // A friend came, or the home's keys were changed: once more, from what is there now.
                Ok(Outcome::Refused(Refusal::Stale(_))) => {}
                Ok(Outcome::Refused(why)) => return Err(refused(&why)),
                Ok(_) => {
                    let state = self.node.state().borrow().clone();
                    return value(&KitReplaced { version: VERSION, waits: kit_waits(&state) });
                }
                Err(e @ ProposeError::Unknown(_)) => {
                    return Err(Refused::because(format!(
                        "{e}: it may have been replaced or not; look with `thermidor kit show` before you try again"
                    )));
                }
                Err(e) => return Err(Refused::no_quorum(e.to_string())),
            }
        }
        Err(Refused::because("the home's keys or friends are being changed: try again in a moment"))
    }

    /// The command by which another kit takes the present one's place.
    async fn replacement(&self) -> anyhow::Result<Command> {
        let state = self.node.state().borrow().clone();
        let (Some(record), Some(before)) = (&state.kit, self.kit_in(&state, KIT_SECRET)?) else {
            anyhow::bail!(
                "there is no recovery kit yet that could be replaced: `thermidor kit print` makes one"
            );
        };
        let home = state.home.clone().context("this home is not founded yet")?;
        let new = Kit::draw()?;
        let (keys, was) = (NewKeys::of(&new)?, record.key);
        let friends: Vec<HomeName> = state.friends.keys().cloned().collect();
        // A tenth of a second for each.
        let waiting = tokio::task::spawn_blocking(move || {
            let words = |vault: HomeName| {
                let between = Between { home: home.clone(), vault: vault.clone() };
                (vault, keys.words(&HomeKey(was.0), &between).map(str::to_owned))
            };
            friends.into_iter().map(words).collect()
        });
        let seal = |name: &str, kit: &Kit| {
            self.node.identity().seal(state.keys.sealed_under, name, &kit.entropy()[..])
        };
        let key = PublicKey(keys.key.0);
        Ok(Command::ReplaceKit {
            was,
            record: KitRecord { made_ms: unix_ms(), printed_ms: None, rehearsed_ms: None, split: None, key },
            sealed: seal(KIT_SECRET, &new)?,
            before: Box::new(seal(KIT_BEFORE_SECRET, &before)?),
            waiting: waiting.await?,
        })
    }

    /// The page and the words, to be printed: who asks has them from then on, which is noted.
    pub(super) async fn print_kit(&self) -> Result<Value, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(e.to_string());
        let kit = self.kit_or_new().await?;
        let state = self.node.state().borrow().clone();
        let home = state.home.clone().ok_or_else(|| Refused::because("this home is not founded yet"))?;
        let page = kit.page(&home, &today(), &printed_friends(&state)).map_err(|e| refused(&e))?;
        let words = kit.words().map_err(|e| refused(&e))?.map(str::to_owned).to_vec();
        self.note_printed(Some(unix_ms()), None).await;
        value(&KitPrint { version: VERSION, page, words })
    }

    /// Printed it is, as a page or in shares, whether the home could take note of it or not.
    pub(super) async fn note_printed(&self, printed_ms: Option<UnixMs>, split: Option<KitSplit>) {
        let printed = Command::NoteKit { printed_ms, rehearsed_ms: None, split };
        if let Err(e) = self.node.propose_once(printed, within(ORDER_MAX)).await {
            tracing::warn!("that the kit was printed is not noted: {e}");
        }
    }
}

/// The date that stands on a page.
pub(super) fn today() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d").to_string()
}

/// The friends who stand on a page: those who can keep backups.
pub(super) fn printed_friends(state: &State) -> Vec<Friend> {
    let keepers = state.friends.iter().filter(|(_, friend)| friend.lends());
    keepers
        .map(|(home, friend)| Friend { home: home.clone(), addresses: friend.identity.addresses.clone() })
        .collect()
}
