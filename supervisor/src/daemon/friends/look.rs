//! What `friend ls` shows: who is a friend, whether it is reached at this moment, what is lent, the last backup each way.

use super::super::Context;
use super::super::orders::value;
use super::super::way::pin_of;
use super::vault_of;
use crate::api::Refused;
use crate::api::friends::{FriendLine, FriendList, InvitationLine};
use futures::future::join_all;
use serde_json::Value;
use std::time::Duration;
use thermidor_backup::line::{Own, dial_vault};
use thermidor_model::friends::Friend;
use thermidor_model::name::{HomeName, UnixMs};
use thermidor_model::state::State;

/// How long each address of a friend may take.
const DIAL_MAX: Duration = Duration::from_secs(4);

/// Whether a friend is reached, and in words.
type Reach = (Option<bool>, String);

impl Context {
    /// All friends; with `look` each is dialled.
    pub(in crate::daemon) async fn friends(&self, look: bool) -> Result<Value, Refused> {
        let state = self.node.state().borrow().clone();
        let vault = if look { self.vault_status(&state).await } else { None };
        let (status, vault_trouble) = match vault {
            Some(Ok(status)) => (Some(status), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let own = |home: &HomeName| match self.kit_for(&state, home) {
            Ok(kit) => kit.map(|kit| self.own_on_the_line(&kit, &state)).transpose(),
            Err(e) => Err(e),
        };
        let own = state.friends.keys().map(|home| own(home).map_err(|e| Refused::because(format!("{e:#}"))));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let reached = state.friends.values().zip(&own);
        let reached = reached.map(|(friend, own)| reach(friend, own.as_ref().filter(|_| look)));
        let reached = join_all(reached).await;
        let terms = vault_of(&state).map(|(_, _, settings)| settings);
        let lines = state.friends.iter().zip(reached).map(|((home, friend), (reachable, reach))| {
            let seen = status.as_ref().and_then(|status| status.friends.get(home));
            let lent = terms.filter(|_| friend.is_confirmed()).map(|settings| settings.terms(home).0);
            FriendLine {
                home: home.to_string(),
                addresses: friend.identity.addresses.clone(),
                words: friend.words.clone(),
                confirmed: friend.is_confirmed(),
                generation: friend.identity.generation,
                claims: friend.claims,
                kit_claims: friend.kit_claims.iter().map(|claim| claim.words.clone()).collect(),
                reachable,
                reach,
                lent_bytes: lent,
                used_bytes: seen.map(|seen| seen.used),
                waiting_bytes: seen.map(|seen| seen.waiting),
                last_seen_ms: seen.and_then(|seen| seen.last_seen),
                newest_here_ms: seen.and_then(|seen| seen.newest),
                newest_there_ms: newest_there(&state, home),
                proven_there_ms: proven_there(&state, home),
            }
        });
        let invitation = state.pairing.as_ref().map(|open| InvitationLine {
            id: open.id,
            until_ms: open.expires_ms,
            burnt: open.burnt,
        });
        let left = super::part::left(&state, status.as_ref());
        value(&FriendList { items: lines.collect(), invitation, vault_trouble, left })
    }
}

/// When the last snapshot was made that lies at a friend's.
fn newest_there(state: &State, home: &HomeName) -> Option<UnixMs> {
    state.backups.values().filter_map(|records| records.get(home)?.made).max()
}

/// Of when the oldest last proof of a backup at a friend's is: what everything there can be trusted to be as of.
fn proven_there(state: &State, home: &HomeName) -> Option<UnixMs> {
    let records: Vec<_> = state.backups.values().filter_map(|records| records.get(home)).collect();
    let proven: Option<Vec<UnixMs>> = records.iter().map(|record| record.proven).collect();
    proven?.into_iter().min()
}

async fn reach(friend: &Friend, own: Option<&Own>) -> Reach {
    if !friend.is_confirmed() {
        return (None, "not confirmed".into());
    }
    if friend.identity.addresses.is_empty() {
        return (None, "lends nothing".into());
    }
    let Some(own) = own else { return (None, "not looked".into()) };
    match dial_vault(&friend.identity.addresses, own, pin_of(friend), DIAL_MAX).await {
        Ok(to) if to.welcome.read_only => (
            Some(true),
            "reachable, for reading: its person has to confirm this home's new generation".into(),
        ),
        Ok(_) => (Some(true), "reachable".into()),
        Err(why) => (Some(false), why.to_string()),
    }
}
