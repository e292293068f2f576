//! `recover`: nothing of the home is left but its export, and a bare machine becomes the home, one generation later.
//! Like a rescue it makes a home of one member; unlike it there is nothing here that could be lost.

use crate::clock::wall_ms;
use crate::disk;
use crate::identity::{Authority, Identity, IdentityError, KeptKeys, MemberKey, Own, Parts, dir_of};
use crate::machine::Stored;
use crate::rescue::{alone, build_raft, built, raft_dir};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use thermidor_model::recovered::Recoverer;
use thermidor_model::state::Role;
use thermidor_model::{RadiatorName, State};

/// What the home comes back from, and as what.
#[derive(Clone)]
pub struct RecoverOptions {
    /// The data directory; must hold no member.
    pub data: PathBuf,
    /// The home's state, as it was exported.
    pub state: State,
    /// Its keys.
    pub keys: KeptKeys,
    /// This radiator's name.
    pub radiator: RadiatorName,
    /// Where it listens, as the others reach it.
    pub address: SocketAddr,
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory holds a member.
    #[error("{0} belongs to a home already: recover on a bare machine, or with another --data")]
    Already(PathBuf),
    /// It was never founded.
    #[error("the export is of no home that was founded")]
    NoHome,
    /// The listener's address is no address to reach it at.
    #[error("it would listen on all addresses: say with --listen which one the others reach")]
    Address,
    /// The keys are not those of that state, or can't be stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file can't be written.
    #[error("the home's log can't be written")]
    Io(#[from] io::Error),
}

/// Makes a home of this one radiator from an export. It counts as a member's directory with the last step, so
/// an interrupted one is simply run again. Answers with what state it begins, at the first [`crate::Node::start`].
pub async fn found_again(options: RecoverOptions) -> Result<State, RecoverError> {
    let RecoverOptions { data, state, keys, radiator, address } = options;
    if Identity::exists(&data) {
        return Err(RecoverError::Already(data));
    }
    if address.ip().is_unspecified() {
        return Err(RecoverError::Address);
    }
    let home = state.home.clone().ok_or(RecoverError::NoHome)?;
    let home_keys = keys.check(&state)?;
    let authority = Authority::load(&state.authority_pem, &keys.authority_key_pem)?;
    disk::make_dir(&data)?;
    let key = MemberKey::generate()?;
    let recoverer = Recoverer { radiator, address, key: key.hash() };
    let (node, state) = state.recovered(wall_ms(), &recoverer);
    let generation = state.generation;
    let own = Own {
        node,
        home: home.clone(),
        role: Role::Radiator,
        advertise_ip: address.ip(),
        timing: state.timing,
        keys: state.keys.number,
    };

    let mut stored = Stored::empty();
    stored.state = Arc::new(state.clone());
    alone(&mut stored, node, 0);
    build_raft(&data, &stored).await?;
    // What an interrupted recovery left: nobody has started on it, for there was no identity.
    disk::remove_dir_if_there(&raft_dir(&data))?;
    std::fs::rename(built(&data), raft_dir(&data))?;
    disk::sync_dir(&data)?;
    let parts = Parts {
        own,
        certificate_pem: authority.issue(&key, &home, node, generation)?,
        authority_pem: authority.pem().to_string(),
        authority_key_pem: Some(authority.key_pem().to_string()),
        home_keys,
    };
    parts.store(&key.pem(), &dir_of(&data))?;
    Ok(state)
}
