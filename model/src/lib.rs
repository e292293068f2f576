//! Thermidor's pure decisions. Nothing here reads a clock, a file or a socket:
//! time, randomness and observations come in as arguments, so every decision
//! can be tested as a table and replayed from a seed.

#![forbid(unsafe_code)]

pub mod apply;
pub mod backup;
pub mod check;
pub mod command;
pub mod friends;
pub mod heat;
pub mod lease;
pub mod membership;
pub mod name;
pub mod observe;
pub mod outlived;
pub mod packed;
pub mod placement;
pub mod reconcile;
pub mod recovered;
pub mod replication;
pub mod restore;
pub mod spec;
pub mod state;
#[doc(hidden)]
pub mod testing;
pub mod timing;

pub use command::{Command, Outcome, Proposal, Refusal};
pub use name::{NodeId, RadiatorName, ReplicaId, ServiceName, SnapshotName, VolumeName};
pub use state::State;
