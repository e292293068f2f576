//! Looks whether the home's own vault lets friends in: through the published port, as they come, and whether each friend's
//! space is open behind it.

use super::Context;
use super::friends::vault_status_of;
use super::prober::door;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use thermidor_backup::line::{DialError, Failed, Own, Pin, Transport, dial_vault};
use thermidor_backup::vault_process::Status;
use thermidor_model::ServiceName;
use thermidor_model::spec::{ServiceSpec, VAULT_PORT, VaultSpec};
use thermidor_model::state::State;
use thermidor_services::probe::{Leg, Probed};

/// How long the door may take to answer: longer than connections are parked during a move.
const DOOR_MAX: Duration = Duration::from_secs(12);

impl Context {
    /// Comes to the vault as a friend does. It is asked nothing before there is a kit, for until then it listens to nobody.
    pub(super) async fn probe_vault(
        &self,
        state: &State,
        service: &ServiceName,
        spec: &ServiceSpec,
        settings: &VaultSpec,
    ) -> Probed {
        let unknown = |trouble: String| Probed { healthy: None, legs: vec![], trouble };
        let key = match self.kit() {
            Ok(Some(kit)) => kit.transport().map_err(anyhow::Error::from),
            Ok(None) => return unknown("it waits for the home's first friend".into()),
            Err(e) => Err(e),
        };
        let key = match key {
            Ok(key) => key,
            Err(e) => return unknown(format!("{e:#}")),
        };
        let Some(door) = door(state, self.node.address().ip(), spec, &[VAULT_PORT]) else {
            return unknown(format!("its port {VAULT_PORT} is not published"));
        };
        let begun = Instant::now();
        let mut legs = Vec::new();
        let looked = async {
            knock(door, &key, state.generation, DOOR_MAX).await?;
            legs.push(Leg { name: "door", took: begun.elapsed() });
            let status = vault_status_of(&self.paths, service).await?;
            all_open(state, service, settings, &status)
        };
        let trouble = looked.await.err();
        Probed { healthy: Some(trouble.is_none()), legs, trouble: trouble.unwrap_or_default() }
    }
}

/// Whether whoever answers there holds this home's key and speaks as a vault: it knows its own home, and lets it in to
/// nothing.
async fn knock(door: SocketAddr, key: &Transport, generation: u64, patience: Duration) -> Result<(), String> {
    let own = Own::new(key, generation).map_err(|e| e.to_string())?;
    match dial_vault(&[door.to_string()], &own, Pin::Key(key.public()), patience).await {
        Ok(_) => Ok(()),
        Err(DialError(failed)) if failed.iter().any(|(_, why)| is_vaults_own(why)) => Ok(()),
        Err(why) => Err(format!("no friend gets in: {why}")),
    }
}

/// A vault of an earlier program, which goes on over an upgrade, knows its own home as little as any stranger.
fn is_vaults_own(why: &Failed) -> bool {
    matches!(why, Failed::Refused(_) | Failed::NotKnown)
}

/// Whether each friend's space is open.
fn all_open(
    state: &State,
    service: &ServiceName,
    settings: &VaultSpec,
    status: &Status,
) -> Result<(), String> {
    let confirmed = state.friends.iter().filter(|(_, friend)| friend.is_confirmed());
    let lent = confirmed.map(|(home, _)| home).filter(|home| settings.terms(home).0 > 0);
    let is_shut = |home: &&_| status.friends.get(*home).is_none_or(|space| space.quota == 0);
    match lent.into_iter().find(is_shut) {
        None => Ok(()),
        Some(home) => Err(format!("the space of {home} stays shut: `thermidor logs {service}` says why")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Friend as Lender, free_port};
    use std::collections::BTreeMap;
    use thermidor_backup::kit::Kit;
    use thermidor_backup::vault_process::FriendStatus;
    use thermidor_model::friends::{Friend, FriendIdentity, PublicKey};
    use thermidor_model::name::HomeName;

    const SOON: Duration = Duration::from_millis(500);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_vault_answers_its_own_home_and_one_that_is_silent_gone_or_a_stranger_is_told() {
        let lender = Lender::new("alpes", &Kit::draw().unwrap(), 1).await;
        let door: SocketAddr = lender.address.parse().unwrap();
        assert_eq!(knock(door, &lender.own, 1, DOOR_MAX).await, Ok(()));
        let other = Kit::draw().unwrap().transport().unwrap();
        let stranger = knock(door, &other, 1, DOOR_MAX).await.unwrap_err();
        assert!(stranger.contains("answers with another key"), "{stranger}");

        let nobody = knock(([127, 0, 0, 1], free_port()).into(), &lender.own, 1, DOOR_MAX).await;
        assert!(nobody.unwrap_err().contains("can't be reached"));
        // Connections are taken by the kernel, and whoever should read them does not.
        let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = knock(frozen.local_addr().unwrap(), &lender.own, 1, SOON).await.unwrap_err();
        assert!(silent.contains("has not answered"), "{silent}");
    }

    #[test]
    fn a_friend_whose_space_stays_shut_makes_a_vault_sick() {
        let [alice, bob] = ["alice", "bob"].map(|name| HomeName::new(name).unwrap());
        let friend = |confirmed_ms| Friend {
            identity: FriendIdentity {
                key: PublicKey([1; 32]),
                transport: PublicKey([2; 32]),
                generation: 1,
                addresses: vec![],
            },
            words: ["a", "b", "c", "d"].map(String::from),
            confirmed_ms,
            claims: None,
            kit_claims: vec![],
        };
        let mut state = State::default();
        state.friends.insert(alice.clone(), friend(Some(1)));
        state.friends.insert(bob.clone(), friend(None));
        let settings = VaultSpec { addresses: vec![], lend_bytes: 9, friends: BTreeMap::new() };
        let service = ServiceName::new("vault").unwrap();
        let mut status = Status { version: Status::VERSION, friends: BTreeMap::new(), left: None };
        let shut = all_open(&state, &service, &settings, &status).unwrap_err();
        assert_eq!(shut, "the space of alice stays shut: `thermidor logs vault` says why");
        status.friends.insert(alice.clone(), FriendStatus::default());
        assert_eq!(all_open(&state, &service, &settings, &status), Err(shut));
        status.friends.insert(alice, FriendStatus { quota: 9, ..FriendStatus::default() });
        assert_eq!(all_open(&state, &service, &settings, &status), Ok(()), "bob is no friend yet");
    }
}
