//! The leader's decision: what the home should do next, and why, in one sentence per service.
//!
//! [`plan`] is pure: the same state, observations and time give the same actions. It is asked
//! again and again, so it proposes only what is due now and bears being asked twice: every
//! command names the epoch or set version it was computed from.

mod address;
mod feasible;
mod home;
mod rank;
mod service;
mod takeover;
mod view;
mod volumes;
mod words;

pub use rank::{Rank, worth_w};
pub(crate) use view::{principal, silence_ms};
pub use volumes::replica_id;

use crate::command::Command;
use crate::name::{NodeId, RadiatorName, ServiceName, UnixMs};
use crate::observe::Observed;
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use view::View;

/// How long a fresh leader waits to hear all radiators before it starts a service for the
/// first time, ms: so that the coldest room is chosen and not the first one heard.
pub const FIRST_START_WAIT_MS: u64 = 3_000;

/// How long an active that was just chosen may take to ask for its lease, ms.
pub const START_GRACE_MS: u64 = 2_000;

/// An active that is silent for so long, while nobody can take over, is the active no more, ms.
pub const GONE_MS: u64 = 10_000;

/// An active that loses its lease again within this time goes elsewhere, ms.
pub const AGAIN_MIN_MS: u64 = 30_000;

/// How often an instance may end by itself before it is tried elsewhere.
pub const ENDED_MAX: u32 = 5;

/// How long a service is kept away from a radiator on which it kept ending, ms.
pub const AVOID_MS: u64 = 10 * 60 * 1000;

/// How long after a replica was taken out it is made anew on the same radiator, ms.
pub const REPLICA_AGAIN_MS: u64 = 10_000;

/// The moment for which is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The leader's wall clock, ms. Spans of minutes are measured with it; no safety rests on it.
    pub unix_ms: UnixMs,
    /// Minute of the local day, 0..1440, for comfort schedules.
    pub minute_of_day: u16,
}

/// Something to do for the leader.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Propose a command to the home.
    Propose(Command),
    /// Make these members the voters.
    SetVoters(BTreeSet<NodeId>),
    /// Give up leadership to this voter.
    TransferLeader(NodeId),
}

/// What to do now, and why things are as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they should be carried out.
    pub actions: Vec<Action>,
    /// For every service.
    pub reasons: BTreeMap<ServiceName, Reason>,
}

/// Why a service is where it is, or what is being done with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The same sentence in the log, the command line and the dashboard.
    pub sentence: String,
    /// Every radiator, the best first, those that can't after those that can.
    pub ranks: Vec<RankedRadiator>,
}

/// One radiator's standing for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedRadiator {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: RadiatorName,
    /// Its rank; `None` where the service can't run there now.
    pub rank: Option<Rank>,
    /// The rank in words, or why the service can't run there.
    pub words: String,
}

/// Decides what is to be done now.
pub fn plan(state: &State, observed: &Observed, now: Now) -> Plan {
    let mut plan = Plan::default();
    home::members(state, observed, now, &mut plan.actions);
    let Some(spec) = state.spec() else { return plan };
    let view = View { state, observed, now, spec };
    if let Some(outlived) = state.stands_down() {
        service::stand_down(&view, outlived, &mut plan);
        return plan;
    }
    service::reconcile(&view, &mut plan);
    volumes::reconcile(&view, &mut plan.actions);
    address::reconcile(&view, &mut plan.actions);
    plan
}

#[cfg(test)]
mod tests;
