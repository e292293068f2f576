//! `rescue`: the majority is gone for good, and one radiator goes on alone in a higher generation.
//! What is to be is built beside what is, then a mark is written, then directories are renamed; the
//! renaming is finished by the next start if it was interrupted.

use crate::clock::wall_ms;
use crate::identity::{Identity, IdentityError, MemberKey, Own, Parts, dir_of};
use crate::log_store::LogStore;
use crate::machine::Stored;
use crate::reserve::Reserve;
use crate::types::C;
use crate::{codec, disk};
use openraft::alias::{LogIdOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, Membership};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thermidor_model::{Command, NodeId, Outcome, Proposal};

/// How to rescue.
#[derive(Debug, Clone)]
pub struct RescueOptions {
    /// The data directory of the radiator that goes on; its daemon must not run.
    pub data: PathBuf,
    /// The person has confirmed that every other member is unplugged for good.
    pub confirmed: bool,
}

/// What a rescue came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RescueReport {
    /// The new generation.
    pub generation: u64,
    /// Members that are no members any more.
    pub gone: Vec<String>,
    /// Members that stay known because they alone hold data.
    pub kept: Vec<String>,
    /// Entries that this radiator held without knowing whether a majority had them; all were taken.
    pub uncertain: u64,
}

/// Why nothing was rescued.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// The person has not confirmed.
    #[error(
        "this ends the membership of {0}: unplug them for good first, then confirm. If one of them runs on, two homes serve at once"
    )]
    Unconfirmed(String),
    /// The identity can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Log or snapshot.
    #[error("the home's log can't be read or written (does the daemon still run?)")]
    Io(#[from] io::Error),
    /// The model refuses.
    #[error("{0}")]
    Refused(String),
}

/// What is to be done once the new directories are complete.
#[derive(Serialize, Deserialize)]
struct Plan {
    generation: u64,
}

/// Where log and snapshot are.
pub(crate) fn raft_dir(data: &Path) -> PathBuf {
    data.join("raft")
}

/// Where they are built before they take their place.
pub(crate) fn built(data: &Path) -> PathBuf {
    raft_dir(data).with_extension("rescued")
}

fn plan_file(data: &Path) -> PathBuf {
    data.join("rescue.json")
}

/// Rewrites a stopped member's directory so that it alone is the home, one generation later.
pub async fn rescue(options: &RescueOptions) -> Result<RescueReport, RescueError> {
    let data = &options.data;
    finish(data)?;
    let identity = Identity::load(data)?;
    let authority = identity.authority()?;
    let me = identity.node();
    let mut stored = Stored::read(&raft_dir(data).join("snapshot"))?;
    let mut log = LogStore::open(&raft_dir(data).join("log.redb"), &Reserve::open(data)?)?;
    let committed = log.read_committed().await?;
    let vote = log.read_vote().await?;
    let mut uncertain = 0;
    for entry in log.entries() {
        if Some(entry.log_id()) > stored.applied {
            uncertain += u64::from(Some(entry.log_id()) > committed);
            stored.apply(entry);
        }
    }
    close(&log).await?;
    drop(log);

    let before = stored.state.clone();
    let name_of = |id: &NodeId| before.name_of(*id);
    let others: Vec<String> = before.members.keys().filter(|id| **id != me).map(name_of).collect();
    if !options.confirmed {
        return Err(RescueError::Unconfirmed(others.join(", ")));
    }
    let raise = Command::RaiseGeneration { generation_was: before.generation, remain: vec![me] };
    let proposal = Proposal { at_ms: wall_ms(), command: raise };
    if let Outcome::Refused(why) = Arc::make_mut(&mut stored.state).apply(&proposal) {
        return Err(RescueError::Refused(why.to_string()));
    }
    let generation = stored.state.generation;
    alone(&mut stored, me, vote.map_or(0, |vote| vote.leader_id.term));

    build_raft(data, &stored).await?;
    // The same key: by it the others know who has raised the generation.
    let key = MemberKey::from_pem(&std::fs::read_to_string(dir_of(data).join("member.key"))?)?;
    let parts = Parts {
        own: Own { ..identity.own.clone() },
        certificate_pem: authority.issue(&key, &identity.own.home, me, generation)?,
        authority_pem: authority.pem().to_string(),
        authority_key_pem: Some(authority.key_pem().to_string()),
        home_keys: identity.home_keys.clone(),
    };
    let new_identity = dir_of(data).with_extension("rescued");
    disk::remove_dir_if_there(&new_identity)?;
    parts.store(&key.pem(), &new_identity)?;
    let plan = codec::encode(&Plan { generation }).map_err(io::Error::from)?;
    disk::write_whole(&plan_file(data), &plan)?;
    finish(data)?;

    let after = &stored.state.members;
    let (kept, gone): (Vec<NodeId>, Vec<NodeId>) =
        before.members.keys().filter(|id| **id != me).partition(|id| after.contains_key(id));
    Ok(RescueReport {
        generation,
        gone: gone.iter().map(name_of).collect(),
        kept: kept.iter().map(name_of).collect(),
        uncertain,
    })
}

/// Makes the member the only one of the Raft group, in a term above every one it has seen.
pub(crate) fn alone(stored: &mut Stored, me: NodeId, term_seen: u64) {
    let index = stored.applied.map_or(0, |id| id.index() + 1);
    let term = stored.applied.map_or(0, |id| id.leader_id.term).max(term_seen) + 1;
    let leader = openraft::alias::LeaderIdOf::<C>::new(term, me);
    let id = LogIdOf::<C>::new(leader.to_committed(), index);
    let address = stored.state.members.get(&me).map(|m| m.address.to_string()).unwrap_or_default();
    let nodes = BTreeMap::from([(me, BasicNode::new(address))]);
    let membership = Membership::new_with_defaults(vec![BTreeSet::from([me])], nodes.keys().copied());
    let membership = Membership::new(membership.get_joint_config().clone(), nodes).unwrap_or(membership);
    stored.membership = StoredMembershipOf::<C>::new(Some(id), membership);
    stored.applied = Some(id);
}

/// A log that begins after the snapshot, and the snapshot, in a directory of their own.
pub(crate) async fn build_raft(data: &Path, stored: &Stored) -> io::Result<()> {
    let building = built(data);
    disk::remove_dir_if_there(&building)?;
    disk::make_dir(&building)?;
    disk::write_whole(&building.join("snapshot"), &codec::encode(stored)?)?;
    let mut log = LogStore::open(&building.join("log.redb"), &Reserve::open(data)?)?;
    if let Some(id) = stored.applied {
        log.save_vote(&VoteOf::<C>::new(id.leader_id.term, id.leader_id.node_id)).await?;
        log.purge(id).await?;
    }
    close(&log).await?;
    disk::sync_dir(&building)
}

async fn close(log: &LogStore) -> io::Result<()> {
    let log = log.clone();
    tokio::task::spawn_blocking(move || log.close()).await.map_err(io::Error::other)
}

/// Finishes a rescue whose plan was written; nothing to do otherwise. Each step may be repeated.
pub(crate) fn finish(data: &Path) -> io::Result<()> {
    let Some(bytes) = disk::read_if_there(&plan_file(data))? else { return Ok(()) };
    let Plan { generation } = codec::decode(&bytes)?;
    for place in [raft_dir(data), dir_of(data)] {
        let new = place.with_extension("rescued");
        if new.exists() {
            let aside = place.with_extension(format!("before-generation-{generation}"));
            if place.exists() {
                disk::remove_dir_if_there(&aside)?;
                std::fs::rename(&place, &aside)?;
            }
            std::fs::rename(&new, &place)?;
        }
    }
    disk::sync_dir(data)?;
    disk::remove_if_there(&plan_file(data))?;
    disk::sync_dir(data)
}
