//! The radiator's side: until when it may serve what, and what is to be fenced now.

use super::{MS, Right};
use crate::name::NodeId;
use crate::observe::{LeaseGrant, LeaseRequest};
use crate::timing::Timing;
use std::collections::BTreeMap;

/// How much BOOTTIME may gain on MONOTONIC before it counts as a wake, ns: more than two
/// readings of the clocks can be apart, less than any sleep worth the name.
const WAKE_NS: u64 = 10 * MS;

/// The leases of one radiator.
#[derive(Debug, Clone)]
pub struct Holder {
    node: NodeId,
    timing: Timing,
    leases: BTreeMap<Right, Lease>,
    /// The last epoch of each right that ended here for good: given back, never served again.
    ended: BTreeMap<Right, u64>,
    daemon_heard_ns: u64,
    asleep_ns: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    epoch: u64,
    serve_until_ns: u64,
    fencing: bool,
}

/// What the guard is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Serving is right until then: write it on the page.
    Serve {
        /// What.
        right: Right,
        /// In which epoch.
        epoch: u64,
        /// Until when, ns.
        until_ns: u64,
    },
    /// The right is lost: end it on the page, then kill, then call [`Holder::fenced`].
    Fence {
        /// What.
        right: Right,
        /// In which epoch.
        epoch: u64,
        /// Why, for people.
        why: &'static str,
    },
}

/// How a right stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Held until then, ns.
    Held {
        /// In which epoch.
        epoch: u64,
        /// Until when, ns.
        until_ns: u64,
    },
    /// Being fenced.
    Fencing {
        /// In which epoch.
        epoch: u64,
    },
    /// Ended, or never held.
    None,
}

impl Holder {
    /// A radiator that holds nothing yet. Its daemon counts as heard now.
    pub fn new(node: NodeId, timing: Timing, now_ns: u64) -> Self {
        Self {
            node,
            timing,
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            daemon_heard_ns: now_ns,
            asleep_ns: None,
        }
    }

    /// Takes up a lease that an earlier guard of this radiator wrote on the page; one that
    /// has run out, or is about to, is due for fencing at the next [`Holder::tick`].
    pub fn resume(&mut self, right: Right, epoch: u64, until_ns: u64) {
        if until_ns == 0 {
            self.ended.insert(right, epoch);
        } else {
            self.leases.insert(right, Lease { epoch, serve_until_ns: until_ns, fencing: false });
        }
    }

    /// The daemon was heard.
    pub fn daemon_heard(&mut self, now_ns: u64) {
        self.daemon_heard_ns = self.daemon_heard_ns.max(now_ns);
    }

    /// Whether the daemon was heard within `daemon_absent_max_ms`.
    pub fn daemon_alive(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.daemon_heard_ns) <= self.timing.daemon_absent_max_ms * MS
    }

    /// What to ask the leader, now. What ended here is given back with every request, for
    /// no answer tells that the leader heard it.
    pub fn request(&self, now_ns: u64) -> LeaseRequest {
        let mut returned = BTreeMap::new();
        for (right, epoch) in &self.ended {
            if let Right::Service(name) = right {
                returned.insert(name.clone(), *epoch);
            }
        }
        LeaseRequest {
            node: self.node,
            returned,
            returned_address: self.ended.get(&Right::Address).copied(),
            daemon_alive: self.daemon_alive(now_ns),
        }
    }

    /// Takes the leader's answer to the request sent at `sent_ns`. Late and older answers do no harm:
    /// the lease counts from the sending, and an epoch that ended here stays ended.
    pub fn granted(&mut self, sent_ns: u64, now_ns: u64, grant: &LeaseGrant) -> Vec<Change> {
        let fence_ns = self.timing.fence_ms * MS;
        // Fencing begins fence_ms before the lease ends; service ends half-way between the two,
        // so that an operation checked in the last moment is over in time.
        let end_ns = sent_ns.saturating_add(grant.lease_ms.min(self.timing.lease_ms) * MS);
        let until_ns = end_ns.saturating_sub(fence_ns / 2);
        if !self.daemon_alive(now_ns) || now_ns.saturating_add(fence_ns) >= end_ns {
            return Vec::new();
        }
        let services = grant.services.iter().map(|(name, epoch)| (Right::Service(name.clone()), *epoch));
        let granted = services.chain(grant.address.map(|epoch| (Right::Address, epoch)));
        let mut changes = Vec::new();
        for (right, epoch) in granted {
            if self.ended.get(&right).is_some_and(|ended| *ended >= epoch) {
                continue;
            }
            match self.leases.get_mut(&right) {
                Some(lease) if lease.fencing || lease.epoch > epoch => {}
                Some(lease) if lease.epoch == epoch => {
                    if until_ns > lease.serve_until_ns && lease.serve_until_ns > now_ns {
                        lease.serve_until_ns = until_ns;
                        changes.push(Change::Serve { right, epoch, until_ns });
                    }
                }
                // A newer epoch waits until what runs in the older one is dead.
                Some(lease) => {
                    lease.fencing = true;
                    let epoch = lease.epoch;
                    changes.push(Change::Fence { right, epoch, why: "a newer epoch began" });
                }
                None => {
                    let lease = Lease { epoch, serve_until_ns: until_ns, fencing: false };
                    self.leases.insert(right.clone(), lease);
                    changes.push(Change::Serve { right, epoch, until_ns });
                }
            }
        }
        changes
    }

    /// What is to be fenced now. `asleep_ns` is BOOTTIME - MONOTONIC: when it has grown, the
    /// machine slept, and everything held before is dropped.
    pub fn tick(&mut self, now_ns: u64, asleep_ns: u64) -> Vec<Change> {
        let woke = self.asleep_ns.is_some_and(|before| asleep_ns > before + WAKE_NS);
        self.asleep_ns = Some(self.asleep_ns.map_or(asleep_ns, |before| before.max(asleep_ns)));
        let ahead_ns = self.timing.fence_ms * MS / 2;
        let mut changes = Vec::new();
        for (right, lease) in self.leases.iter_mut().filter(|(_, lease)| !lease.fencing) {
            let due = now_ns.saturating_add(ahead_ns) >= lease.serve_until_ns;
            if woke || due {
                lease.fencing = true;
                let why = if woke { "the machine slept" } else { "its lease was not renewed" };
                changes.push(Change::Fence { right: right.clone(), epoch: lease.epoch, why });
            }
        }
        changes
    }

    /// When [`Holder::tick`] has something to do at the latest, ns, if nothing is renewed.
    pub fn due_ns(&self) -> Option<u64> {
        let ahead_ns = self.timing.fence_ms * MS / 2;
        let held = self.leases.values().filter(|lease| !lease.fencing);
        held.map(|lease| lease.serve_until_ns.saturating_sub(ahead_ns)).min()
    }

    /// Nothing of that epoch runs any more: it is given back with the next request.
    pub fn fenced(&mut self, right: &Right, epoch: u64) {
        if self.leases.get(right).is_some_and(|lease| lease.epoch <= epoch) {
            self.leases.remove(right);
        }
        let ended = self.ended.entry(right.clone()).or_insert(epoch);
        *ended = (*ended).max(epoch);
    }

    /// The daemon stopped it in good order. Same as [`Holder::fenced`], but nothing for an epoch
    /// that is being fenced: there the guard itself must see the end.
    pub fn release(&mut self, right: &Right, epoch: u64) -> bool {
        let fencing = self.leases.get(right).is_some_and(|lease| lease.fencing && lease.epoch <= epoch);
        if !fencing {
            self.fenced(right, epoch);
        }
        !fencing
    }

    /// Begins to fence that epoch, or an older one, though its lease has not run out.
    pub fn give_up(&mut self, right: &Right, epoch: u64) -> Vec<Change> {
        match self.leases.get_mut(right).filter(|lease| !lease.fencing && lease.epoch <= epoch) {
            Some(lease) => {
                lease.fencing = true;
                let epoch = lease.epoch;
                vec![Change::Fence { right: right.clone(), epoch, why: "it is to move" }]
            }
            None => Vec::new(),
        }
    }

    /// How a right stands at this moment.
    pub fn standing(&self, right: &Right, now_ns: u64) -> Standing {
        match self.leases.get(right) {
            Some(lease) if lease.fencing => Standing::Fencing { epoch: lease.epoch },
            Some(lease) if lease.serve_until_ns > now_ns => {
                Standing::Held { epoch: lease.epoch, until_ns: lease.serve_until_ns }
            }
            _ => Standing::None,
        }
    }

    /// Whether that very epoch is held now.
    pub fn holds(&self, right: &Right, epoch: u64, now_ns: u64) -> bool {
        matches!(self.standing(right, now_ns), Standing::Held { epoch: held, .. } if held == epoch)
    }

    /// Whether that epoch has ended here for good.
    pub fn has_ended(&self, right: &Right, epoch: u64) -> bool {
        self.ended.get(right).is_some_and(|ended| *ended >= epoch)
    }

    /// Every right held, or being fenced.
    pub fn rights(&self) -> impl Iterator<Item = &Right> {
        self.leases.keys()
    }
}
