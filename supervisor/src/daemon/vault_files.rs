//! The file by which a vault's container knows this home's friends and what was agreed with each.

use super::Context;
use std::collections::BTreeMap;
use thermidor_backup::line::TransportKey;
use thermidor_backup::vault::HomeKey;
use thermidor_backup::vault_process::{FriendConfig, VaultConfig, write_local_time};
use thermidor_model::ServiceName;
use thermidor_model::friends::Friend;
use thermidor_model::name::HomeName;
use thermidor_model::spec::VaultSpec;
use thermidor_model::state::State;
use tracing::info;

/// How long what a friend announces for deletion is kept, s.
const KEEP_S: u64 = 14 * 86_400;

impl Context {
    /// Friends whose words were compared, and this home's key. Without a kit there is no key yet, and no friend: the
    /// vault waits for its first file.
    pub(super) fn write_vault_config(
        &self,
        state: &State,
        name: &ServiceName,
        settings: &VaultSpec,
        folder: &std::path::Path,
    ) -> anyhow::Result<()> {
        let (Some(kit), Some(home)) = (self.kit()?, state.home.clone()) else { return Ok(()) };
        write_local_time(folder)?;
        let friends = lent(state, settings);
        let gone = state.parted.keys().filter(|home| !friends.contains_key(*home)).cloned().collect();
        let mut config = VaultConfig::new(home, state.generation, &kit.transport()?, friends).without(gone);
        if let Some(before) = self.kit_before(state)? {
            config = config.with_key_before(&before.transport()?);
        }
        if config.write(folder)? {
            info!(service = %name, "the vault is told of {} friends", config.friends.len());
        }
        Ok(())
    }
}

/// To whom space is lent, and on what terms.
fn lent(state: &State, settings: &VaultSpec) -> BTreeMap<HomeName, FriendConfig> {
    let confirmed = state.friends.iter().filter(|(_, friend)| friend.is_confirmed());
    confirmed.map(|(home, friend)| (home.clone(), agreed(home, friend, settings))).collect()
}

fn agreed(home: &HomeName, friend: &Friend, settings: &VaultSpec) -> FriendConfig {
    let (quota, terms) = settings.terms(home);
    FriendConfig {
        transport: TransportKey(friend.identity.transport.0),
        key: HomeKey(friend.identity.key.0),
        generation: friend.identity.generation,
        quota,
        keep_s: KEEP_S,
        up: terms.up_bytes_s,
        down: terms.down_bytes_s,
        windows: terms.hours.iter().map(|window| (window.from, window.to)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::friends::{FriendIdentity, PublicKey};

    #[test]
    fn nothing_is_lent_to_whom_nobody_has_confirmed() {
        let friend = |n: u8, confirmed_ms| Friend {
            identity: FriendIdentity {
                key: PublicKey([n; 32]),
                transport: PublicKey([n + 1; 32]),
                generation: 2,
                addresses: vec![],
            },
            words: std::array::from_fn(|_| "word".to_owned()),
            confirmed_ms,
            claims: Some(3),
            kit_claims: vec![],
        };
        let name = |name: &str| HomeName::new(name).unwrap();
        let mut state = State::default();
        state.friends.insert(name("alice"), friend(1, Some(5)));
        state.friends.insert(name("bob"), friend(7, None));
        let settings = VaultSpec { addresses: vec![], lend_bytes: 9, friends: BTreeMap::new() };
        let lent = lent(&state, &settings);
        assert_eq!(lent.keys().collect::<Vec<_>>(), [&name("alice")]);
        let alice = &lent[&name("alice")];
        // What it claims to be is not believed before a person has confirmed it.
        assert_eq!((alice.quota, alice.generation, alice.transport.0[0], alice.key.0[0]), (9, 2, 2, 1));
    }
}
