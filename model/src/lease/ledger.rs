//! The leader's side: which leases it granted, and whether one may still be held.

use super::{MS, Right};
use crate::name::{NodeId, ServiceName, UnixMs};
use crate::observe::{Lease, LeaseGrant, LeaseRequest};
use crate::state::{Role, State};
use crate::timing::Timing;
use std::collections::BTreeMap;

/// How a leader came to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// By an election in which every voter had heard no leader for `election_max_ms`, a voter
    /// whose process is younger than that having kept still until then.
    Elected,
    /// By transfer, by rescue, or as the one voter after a restart: grants may be as young as its term.
    Handed,
}

/// What one leader knows of leases. Begins anew with every term.
#[derive(Debug, Clone)]
pub struct Ledger {
    timing: Timing,
    /// Until then leases of an earlier leader may be held, ns.
    fresh_until_ns: u64,
    granted: BTreeMap<Right, Granted>,
    /// Epochs given back.
    returned: BTreeMap<Right, u64>,
    /// Epochs that are to be raised: granted no more.
    barred: BTreeMap<Right, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Granted {
    epoch: u64,
    until_ns: u64,
}

impl Ledger {
    /// A leader that began to lead at `now_ns`.
    pub fn begin(timing: Timing, now_ns: u64, beginning: Beginning) -> Self {
        let spent_ms = match beginning {
            Beginning::Elected => timing.election_max_ms,
            Beginning::Handed => 0,
        };
        let wait_ms = (timing.lease_ms + timing.margin_ms).saturating_sub(spent_ms);
        Self {
            timing,
            fresh_until_ns: now_ns.saturating_add(wait_ms * MS),
            granted: BTreeMap::new(),
            returned: BTreeMap::new(),
            barred: BTreeMap::new(),
        }
    }

    /// Every guard that holds a lease of an earlier leader had asked for it before `quiet_ns`. May be said
    /// at any time, and only shortens the wait.
    pub fn quiet_since(&mut self, quiet_ns: u64) {
        let until_ns = quiet_ns.saturating_add((self.timing.lease_ms + self.timing.margin_ms) * MS);
        self.fresh_until_ns = self.fresh_until_ns.min(until_ns);
    }

    /// Answers a request received at `received_ns`. Call it only after a quorum round begun after
    /// that moment, with the state applied up to it. Granted is what the state says and nothing more:
    /// the asker is the active in the present epoch, which it has not given back and nobody is about to raise.
    pub fn grant(
        &mut self,
        state: &State,
        request: &LeaseRequest,
        received_ns: u64,
        at_ms: UnixMs,
    ) -> LeaseGrant {
        self.take_back(state, request);
        let mut grant = LeaseGrant {
            lease_ms: self.timing.lease_ms,
            members: state.members.iter().map(|(node, member)| (*node, member.address)).collect(),
            at_ms,
            ..LeaseGrant::default()
        };
        let radiator = state.members.get(&request.node).is_some_and(|m| m.role == Role::Radiator);
        if !radiator || !request.daemon_alive {
            return grant;
        }
        for (name, service) in &state.services {
            let mine = service.active == Some(request.node);
            if mine && self.enter(Right::Service(name.clone()), service.epoch, received_ns) {
                grant.services.insert(name.clone(), service.epoch);
            }
        }
        let mine = state.address.holder == Some(request.node);
        if mine && self.enter(Right::Address, state.address.epoch, received_ns) {
            grant.address = Some(state.address.epoch);
        }
        grant
    }

    /// Notes what a radiator gives back; can be done at once, before any quorum round. Whether any of it is news:
    /// it is given back with every request.
    pub fn take_back(&mut self, state: &State, request: &LeaseRequest) -> bool {
        let mut news = false;
        for (name, epoch) in &request.returned {
            // An epoch has one active ever, so whoever gives the present one back held it.
            let present = state.services.get(name).is_some_and(|service| {
                service.epoch == *epoch && service.active.is_none_or(|active| active == request.node)
            });
            if present {
                news |= self.note_returned(Right::Service(name.clone()), *epoch);
            }
        }
        if let Some(epoch) = request.returned_address {
            let address = &state.address;
            let present =
                address.epoch == epoch && address.holder.is_none_or(|holder| holder == request.node);
            // It is taken from its holder by raising the epoch: what comes back is of the one before.
            if present || epoch < address.epoch {
                news |= self.note_returned(Right::Address, epoch);
            }
        }
        news
    }

    fn note_returned(&mut self, right: Right, epoch: u64) -> bool {
        let known = self.returned.entry(right).or_default();
        let news = epoch > *known;
        *known = (*known).max(epoch);
        news
    }

    /// Whether a request asks for nothing but what this leader has granted in the same epochs: then it may be kept
    /// waiting for a moment, for nothing begins with the answer.
    pub fn only_renews(&self, state: &State, node: NodeId) -> bool {
        let known = |right: Right, epoch: u64| self.granted.get(&right).is_some_and(|g| g.epoch == epoch);
        let services = state.services.iter().filter(|(_, service)| service.active == Some(node));
        let mut services = services.map(|(name, service)| (Right::Service(name.clone()), service.epoch));
        services.all(|(right, epoch)| known(right, epoch))
            && (state.address.holder != Some(node) || known(Right::Address, state.address.epoch))
    }

    fn enter(&mut self, right: Right, epoch: u64, received_ns: u64) -> bool {
        let gone = |ends: &BTreeMap<Right, u64>| ends.get(&right).is_some_and(|ended| *ended >= epoch);
        if gone(&self.returned) || gone(&self.barred) {
            return false;
        }
        let until_ns = received_ns.saturating_add((self.timing.lease_ms + self.timing.margin_ms) * MS);
        let entry = self.granted.entry(right).or_insert(Granted { epoch, until_ns });
        *entry = Granted { epoch: entry.epoch.max(epoch), until_ns: entry.until_ns.max(until_ns) };
        true
    }

    /// Whether a right may still be held in the present `epoch` or an older one. Epoch 0 is before the first.
    pub fn lease(&self, right: &Right, epoch: u64, now_ns: u64) -> Lease {
        if epoch == 0 || self.returned.get(right).is_some_and(|returned| *returned >= epoch) {
            return Lease::Ended;
        }
        // The address's epoch is raised to take it from its holder: once what was granted last has come back,
        // nobody holds it. (A service's is raised for the new active, who is to be given the time to ask.)
        let back = |granted: &Granted| {
            *right == Right::Address && self.returned.get(right).is_some_and(|r| *r >= granted.epoch)
        };
        let held = self.granted.get(right).is_some_and(|g| g.until_ns > now_ns && !back(g));
        if held || now_ns < self.fresh_until_ns { Lease::MayBeHeld } else { Lease::Ended }
    }

    /// A service's lease, for the planner.
    pub fn lease_of(&self, state: &State, service: &ServiceName, now_ns: u64) -> Lease {
        let epoch = state.services.get(service).map_or(0, |s| s.epoch);
        self.lease(&Right::Service(service.clone()), epoch, now_ns)
    }

    /// The floating address's lease, for the planner. With no holder ever since epoch 0 it has ended.
    pub fn lease_of_address(&self, state: &State, now_ns: u64) -> Lease {
        self.lease(&Right::Address, state.address.epoch, now_ns)
    }

    /// Must be called right before a command is proposed that raises this epoch on the strength of
    /// [`Lease::Ended`]: from now on the epoch is granted no more, though its old active ask again
    /// in the meantime. False: the lease may be held after all, don't propose. Propose in
    /// the same term only: another leader may have granted what this one did not.
    #[must_use]
    pub fn bar(&mut self, right: Right, epoch: u64, now_ns: u64) -> bool {
        let ended = self.lease(&right, epoch, now_ns) == Lease::Ended;
        if ended {
            self.barred.insert(right, epoch);
        }
        ended
    }

    /// The proposal was refused, for certain: the epoch may be granted again.
    pub fn unbar(&mut self, right: &Right) {
        self.barred.remove(right);
    }

    /// When a leader that has granted nothing since knows every older lease ended, ns.
    pub fn fresh_until_ns(&self) -> u64 {
        self.fresh_until_ns
    }

    /// When the next lease ends if it is not renewed, ns: the planner should look again then.
    pub fn next_end_ns(&self, now_ns: u64) -> Option<u64> {
        let ends = self.granted.values().map(|granted| granted.until_ns).chain([self.fresh_until_ns]);
        ends.filter(|end| *end > now_ns).min()
    }

    /// Forgets rights of services that are no more, so that the ledger stays as small as the home.
    pub fn prune(&mut self, state: &State) {
        let known = |right: &Right| match right {
            Right::Service(name) => state.services.contains_key(name),
            Right::Address => true,
        };
        self.returned.retain(|right, _| known(right));
        self.barred.retain(|right, _| known(right));
    }
}
