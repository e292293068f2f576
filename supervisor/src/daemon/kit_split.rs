//! The recovery kit in shares, one page for each person. Nothing of the shares is kept: only that there are some is noted.

use super::Context;
use super::kit::{printed_friends, today};
use super::orders::value;
use crate::api::Refused;
use crate::api::recovery::{KitShares, SharePage};
use crate::api::view::VERSION;
use crate::clock::unix_ms;
use serde_json::Value;
use thermidor_backup::kit::{Terms, persons};
use thermidor_model::friends::KitSplit;

impl Context {
    /// A new split of the home's kit, of which any `needed` give it back.
    pub(super) async fn split_kit(&self, among: &[String], needed: usize) -> Result<Value, Refused> {
        let refused = |e: &dyn std::fmt::Display| Refused::because(e.to_string());
        let persons = persons(among).map_err(|e| refused(&e))?;
        let terms = Terms::new(needed, persons.len()).map_err(|e| refused(&e))?;
        let kit = self.kit_or_new().await?;
        let state = self.node.state().borrow().clone();
        let home = state.home.clone().ok_or_else(|| Refused::because("this home is not founded yet"))?;
        let shares = kit.split(terms).map_err(|e| refused(&e))?;
        let (date, friends) = (today(), printed_friends(&state));
        let mut pages = Vec::new();
        let mut split = String::new();
        for (share, person) in shares.iter().zip(persons) {
            split = share.id.to_string();
            let page = share.page(&person, &home, &date, &friends).map_err(|e| refused(&e))?;
            pages.push(SharePage { person, number: share.number, page });
        }
        let noted = KitSplit { at_ms: unix_ms(), needed: terms.needed() as u8, of: terms.of() as u8 };
        self.note_printed(None, Some(noted)).await;
        value(&KitShares { version: VERSION, split, needed: terms.needed(), pages })
    }
}
