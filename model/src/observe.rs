//! What radiators tell the leader, and what the leader makes of it. Kept in memory only.

use crate::name::{NodeId, ServiceName, UnixMs, VolumeName};
use crate::replication::Grade;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A radiator's report to the leader, sent every `report_ms` and when something happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub node: NodeId,
    /// Heat it wants now, W; negative when too warm; `None`: unknown (no sensor, or a stale reading).
    pub demand_w: Option<f64>,
    /// Temperature of its room or water, °C.
    pub temperature_c: Option<f64>,
    /// What is wanted, °C.
    pub target_c: Option<f64>,
    /// Electric power now, W.
    pub power_w: f64,
    /// Of that, by service, W.
    pub service_w: BTreeMap<ServiceName, f64>,
    /// Free memory, bytes.
    pub memory_free_bytes: u64,
    /// Cores.
    pub cores: u32,
    /// Services whose image is here, and why not for the others.
    pub images: BTreeMap<ServiceName, Readiness>,
    /// What its containers do.
    pub instances: BTreeMap<ServiceName, Instance>,
    /// What its replicas do; a replica whose process does not answer, or has no image yet, is not told.
    pub replicas: BTreeMap<VolumeName, ReplicaReport>,
    /// Last probes of the services that run here.
    #[serde(default)]
    pub probes: BTreeMap<ServiceName, ProbeReport>,
    /// What is wrong here, in words.
    pub troubles: Vec<String>,
}

/// What came of a service's last probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether the service does its job, after the second look that a failure gets; `None`: not known.
    pub healthy: Option<bool>,
    /// How long ago it ended, ms.
    pub age_ms: u64,
    /// What went wrong the last time, in words; empty: nothing.
    pub trouble: String,
    /// The parts that were passed, in order.
    pub legs: Vec<ProbeLeg>,
}

/// One timed part of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeLeg {
    /// `submit`, `deliver`, ...
    pub name: String,
    /// ms
    pub took_ms: u64,
}

/// Whether a service could start here at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// Image present, container created.
    Ready,
    /// In the works, and what.
    Preparing(String),
    /// Can't, and why.
    Failed(String),
}

/// A service's instance as seen by its radiator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The epoch it was started in.
    pub epoch: u64,
    /// Whether the container runs.
    pub running: bool,
    /// Docker's health or the recipe's probe; `None`: not known.
    pub healthy: Option<bool>,
    /// How often it ended by itself since it was placed here.
    pub ended_count: u32,
    /// Last words: exit code, out of memory, the probe's error.
    pub detail: String,
}

/// A replica as seen by its radiator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Epoch its header holds.
    pub epoch: u64,
    /// What it does.
    pub state: ReplicaState,
    /// Bytes still to come before it is in sync; on the active: 0.
    pub behind_bytes: u64,
    /// Bytes allocated on disk.
    pub used_bytes: u64,
    /// On the active: how far the search for bit rot is, and what it found.
    #[serde(default)]
    pub examination: Option<crate::replication::scrub::Record>,
    /// On the active: whom it brings up to date.
    #[serde(default)]
    pub catch_ups: BTreeMap<NodeId, CatchUp>,
}

/// How far a replica that returned has been brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// By what.
    pub grade: Grade,
    /// Extents of 1 MiB compared or copied so far.
    pub extents_done: u64,
    /// Of so many.
    pub extents_total: u64,
    /// Of those done, the ones that were copied.
    pub extents_copied: u64,
    /// Bytes done in a second.
    pub bytes_per_s: u64,
    /// At that speed, s; `None`: not known yet.
    pub seconds_left: Option<u64>,
}

/// What a replica does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Exports the device.
    Active,
    /// Takes the stream.
    Following,
    /// Is being caught up.
    CatchingUp,
    /// Hears nothing from an active.
    Waiting,
    /// Its process does not answer or the image is missing, foreign or broken, and why.
    Failed(String),
}

/// Everything the leader's planner looks at beside the state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The leader itself.
    pub leader: NodeId,
    /// Members heard within two seconds, with their last report.
    pub reports: BTreeMap<NodeId, Report>,
    /// Milliseconds since each member was last heard by any way; absent: not since this leader began.
    pub silent_ms: BTreeMap<NodeId, u64>,
    /// Leases by service.
    pub leases: BTreeMap<ServiceName, Lease>,
    /// The floating address's lease.
    pub address_lease: Lease,
    /// The floating address was given back in its present epoch, in which nobody can hold it again.
    pub address_given_back: bool,
    /// Present voters of the Raft group.
    pub voters: std::collections::BTreeSet<NodeId>,
    /// This leader has been leader for so long, ms.
    pub leading_ms: u64,
}

/// What the leader knows of a lease it may have granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lease {
    /// Could still be held: granted within lease + margin, or this leader is too fresh to know.
    #[default]
    MayBeHeld,
    /// Surely not held by anyone.
    Ended,
}

/// The guard's request to the leader: sent every `renew_ms` over the home's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Who asks.
    pub node: NodeId,
    /// Services whose lease it gives back (stopped, or fenced): the leader need not wait for these.
    pub returned: BTreeMap<ServiceName, u64>,
    /// The floating address's epoch it gives back.
    pub returned_address: Option<u64>,
    /// Whether the radiator's daemon was heard within `daemon_absent_max_ms`; no grant without.
    pub daemon_alive: bool,
}

/// What the leader grants, after a quorum round begun after it received the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// Services granted, with their epoch.
    pub services: BTreeMap<ServiceName, u64>,
    /// The floating address, with its epoch.
    pub address: Option<u64>,
    /// Length of the lease, counted from when the request was *sent*, ms.
    pub lease_ms: u64,
    /// Members and their listeners, so that a guard whose daemon is down finds the next leader.
    pub members: BTreeMap<NodeId, std::net::SocketAddr>,
    /// Wall clock of the leader.
    pub at_ms: UnixMs,
}
