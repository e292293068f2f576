//! openraft's type configuration: what a log entry carries and what it answers.

use crate::machine::Machine;
use thermidor_model::{Outcome, Proposal};

openraft::declare_raft_types!(
    /// The home's Raft: entries are [`Proposal`]s, answers are [`Outcome`]s.
    pub C: D = Proposal, R = Outcome
);

/// The home's consensus engine.
pub type Raft = openraft::Raft<C, Machine>;
