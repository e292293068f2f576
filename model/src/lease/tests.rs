//! Tables for both sides, then both against a naive account of who serves when, over
//! skewed clocks, delays, losses, freezes, sleeps, restarts and changing leaders.

use super::{Beginning, Change, Holder, Ledger, MS, Right, Standing, moment_ago};
use crate::name::NodeId;
use crate::observe::{Lease, LeaseGrant, LeaseRequest};
use crate::state::{Phase, Role, Service, State};
use crate::testing::{joined, mail};
use crate::timing::Timing;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

fn right() -> Right {
    Right::Service(mail())
}

fn home(epoch: u64, active: Option<NodeId>) -> State {
    let mut state = joined(3);
    let service = Service {
        epoch,
        active,
        phase: Phase::Run,
        since_ms: 0,
        wish: None,
        moved_ms: vec![],
        avoid: BTreeMap::new(),
        moving: None,
    };
    state.services.insert(mail(), service);
    state
}

fn ask(node: NodeId) -> LeaseRequest {
    LeaseRequest { node, returned: BTreeMap::new(), returned_address: None, daemon_alive: true }
}

fn grant(epoch: u64) -> LeaseGrant {
    LeaseGrant { services: BTreeMap::from([(mail(), epoch)]), lease_ms: 900, ..LeaseGrant::default() }
}

fn fences(changes: &[Change]) -> Vec<u64> {
    let epoch = |c: &Change| if let Change::Fence { epoch, .. } = c { Some(*epoch) } else { None };
    changes.iter().filter_map(epoch).collect()
}

#[test]
fn a_lease_counts_from_the_sending_and_fencing_begins_before_its_end() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    let changes = holder.granted(1000 * MS, 1500 * MS, &grant(3));
    assert_eq!(changes, [Change::Serve { right: right(), epoch: 3, until_ns: 1850 * MS }]);
    assert_eq!(holder.due_ns(), Some(1800 * MS));
    assert!(holder.tick(1799 * MS, 0).is_empty());
    assert_eq!(fences(&holder.tick(1800 * MS, 0)), [3]);
    assert!(holder.tick(1801 * MS, 0).is_empty(), "told once");
    assert_eq!(holder.standing(&right(), 1801 * MS), Standing::Fencing { epoch: 3 });
    assert!(holder.request(1802 * MS).returned.is_empty(), "not given back while something may run");
    holder.fenced(&right(), 3);
    assert_eq!(holder.request(1803 * MS).returned, BTreeMap::from([(mail(), 3)]));
    assert!(holder.granted(1810 * MS, 1811 * MS, &grant(3)).is_empty(), "an ended epoch stays ended");
    assert_eq!(holder.granted(1820 * MS, 1821 * MS, &grant(4)).len(), 1, "a newer one does not");
}

#[test]
fn late_older_and_foreign_answers_change_nothing() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    assert!(holder.granted(0, 800 * MS, &grant(3)).is_empty(), "too late to be of use");
    holder.granted(1000 * MS, 1001 * MS, &grant(4));
    assert!(holder.granted(900 * MS, 1002 * MS, &grant(4)).is_empty(), "an answer overtaken by a later one");
    assert!(holder.granted(1100 * MS, 1101 * MS, &grant(3)).is_empty(), "an older epoch");
    let endless = LeaseGrant { lease_ms: u64::MAX, ..grant(4) };
    let changes = holder.granted(1100 * MS, 1101 * MS, &endless);
    assert_eq!(
        changes,
        [Change::Serve { right: right(), epoch: 4, until_ns: 1950 * MS }],
        "no more than its own"
    );
}

#[test]
fn a_newer_epoch_fences_the_older_one_first() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    holder.granted(0, MS, &grant(3));
    assert_eq!(fences(&holder.granted(100 * MS, 101 * MS, &grant(4))), [3]);
    assert!(holder.granted(150 * MS, 151 * MS, &grant(4)).is_empty(), "not before the old one is dead");
    assert!(!holder.release(&right(), 3), "the guard itself sees the end of what it fences");
    holder.fenced(&right(), 3);
    assert_eq!(holder.granted(200 * MS, 201 * MS, &grant(4)).len(), 1);
    assert!(holder.holds(&right(), 4, 201 * MS));
}

#[test]
fn what_is_to_move_is_fenced_at_once_and_given_back_when_it_is_gone() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    holder.granted(0, MS, &LeaseGrant { address: Some(7), lease_ms: 900, ..LeaseGrant::default() });
    assert!(holder.give_up(&Right::Address, 6).is_empty(), "a stale word");
    assert_eq!(fences(&holder.give_up(&Right::Address, 7)), [7]);
    assert!(holder.give_up(&Right::Address, 7).is_empty() && !holder.holds(&Right::Address, 7, 2 * MS));
    assert_eq!(holder.request(2 * MS).returned_address, None);
    holder.fenced(&Right::Address, 7);
    assert_eq!(holder.request(3 * MS).returned_address, Some(7));
}

#[test]
fn a_wake_drops_everything_and_a_preempted_reading_does_not() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    holder.tick(0, 5000 * MS);
    holder.granted(0, MS, &grant(3));
    assert!(holder.tick(2 * MS, 5009 * MS).is_empty());
    assert_eq!(fences(&holder.tick(3 * MS, 5020 * MS)), [3]);
}

#[test]
fn without_its_daemon_a_radiator_neither_asks_for_nor_takes_a_lease() {
    let timing = Timing::default();
    let mut holder = Holder::new(1, timing, 0);
    let late = (timing.daemon_absent_max_ms + 1) * MS;
    assert!(holder.request(late - MS).daemon_alive && !holder.request(late).daemon_alive);
    assert!(holder.granted(late, late, &grant(3)).is_empty());
    holder.daemon_heard(late);
    assert_eq!(holder.granted(late, late, &grant(3)).len(), 1);
}

#[test]
fn a_lease_from_the_page_is_resumed_and_an_ended_one_is_given_back() {
    let mut holder = Holder::new(1, Timing::default(), 0);
    holder.resume(right(), 3, 500 * MS);
    assert!(holder.holds(&right(), 3, MS));
    assert_eq!(holder.granted(100 * MS, 101 * MS, &grant(3)).len(), 1);
    let mut late = Holder::new(1, Timing::default(), 0);
    late.resume(right(), 3, 500 * MS);
    assert!(late.granted(600 * MS, 601 * MS, &grant(3)).is_empty(), "what ran out is not revived");
    assert_eq!(fences(&late.tick(602 * MS, 0)), [3]);
    let mut fenced = Holder::new(1, Timing::default(), 0);
    fenced.resume(right(), 3, 0);
    assert!(fenced.has_ended(&right(), 3) && fenced.request(0).returned.contains_key(&mail()));
}

#[test]
fn a_grant_is_what_the_state_says_and_nothing_more() {
    let timing = Timing::default();
    let led = || Ledger::begin(timing, 0, Beginning::Elected);
    let granted = |state: &State, request: &LeaseRequest| led().grant(state, request, 0, 0).services;
    let state = home(3, Some(1));
    assert_eq!(granted(&state, &ask(1)), BTreeMap::from([(mail(), 3)]));
    assert!(granted(&state, &ask(2)).is_empty(), "not the active");
    assert!(granted(&state, &ask(9)).is_empty(), "no member");
    assert!(granted(&home(3, None), &ask(1)).is_empty(), "nobody is active");
    assert!(granted(&state, &LeaseRequest { daemon_alive: false, ..ask(1) }).is_empty());
    let returned = LeaseRequest { returned: BTreeMap::from([(mail(), 3)]), ..ask(1) };
    assert!(granted(&state, &returned).is_empty(), "given back");
    let mut stopping = state.clone();
    stopping.services.get_mut("mail").unwrap().phase = Phase::Stop { next: Some(2) };
    assert_eq!(granted(&stopping, &ask(1)).len(), 1, "what stops needs its lease till the end");
    let mut holder = state.clone();
    holder.address = crate::state::Address { epoch: 7, holder: Some(1) };
    assert_eq!(led().grant(&holder, &ask(1), 0, 0).address, Some(7));
    assert_eq!(led().grant(&holder, &ask(2), 0, 0).address, None);
    let mut witness = state.clone();
    witness.members.get_mut(&1).unwrap().role = Role::Witness;
    assert!(granted(&witness, &ask(1)).is_empty());
}

#[test]
fn only_what_this_leader_has_granted_in_the_same_epoch_is_a_renewal() {
    let state = home(3, Some(1));
    let mut ledger = Ledger::begin(Timing::default(), 0, Beginning::Elected);
    assert!(!ledger.only_renews(&state, 1), "granted by an earlier leader, if at all");
    assert!(ledger.only_renews(&state, 2), "there is nothing to grant");
    ledger.grant(&state, &ask(1), 1000 * MS, 0);
    assert!(ledger.only_renews(&state, 1));
    assert!(!ledger.only_renews(&home(4, Some(1)), 1), "a newer epoch begins with its first answer");
}

#[test]
fn a_lease_ends_after_lease_and_margin_or_when_given_back_by_its_holder() {
    let state = home(3, Some(1));
    let mut ledger = Ledger::begin(Timing::default(), 0, Beginning::Elected);
    assert_eq!(ledger.lease_of(&state, &mail(), 649 * MS), Lease::MayBeHeld, "a fresh leader knows nothing");
    assert_eq!(ledger.lease_of(&state, &mail(), 650 * MS), Lease::Ended);
    let handed = Ledger::begin(Timing::default(), 0, Beginning::Handed);
    assert_eq!(handed.lease_of(&state, &mail(), 949 * MS), Lease::MayBeHeld);
    assert_eq!(handed.lease_of(&state, &mail(), 950 * MS), Lease::Ended);
    ledger.grant(&state, &ask(1), 1000 * MS, 0);
    assert_eq!(ledger.lease_of(&state, &mail(), 1949 * MS), Lease::MayBeHeld);
    assert_eq!(ledger.lease_of(&state, &mail(), 1950 * MS), Lease::Ended);
    ledger.grant(&state, &ask(1), 2000 * MS, 0);
    let back = |node, epoch| LeaseRequest { returned: BTreeMap::from([(mail(), epoch)]), ..ask(node) };
    assert!(!ledger.take_back(&state, &back(2, 3)));
    assert!(!ledger.take_back(&state, &back(1, 2)));
    assert_eq!(
        ledger.lease_of(&state, &mail(), 2001 * MS),
        Lease::MayBeHeld,
        "not its holder, not its epoch"
    );
    assert!(ledger.take_back(&state, &back(1, 3)));
    assert!(!ledger.take_back(&state, &back(1, 3)), "said again with every request: no news");
    assert_eq!(ledger.lease_of(&state, &mail(), 2001 * MS), Lease::Ended);
    assert!(ledger.grant(&state, &ask(1), 2002 * MS, 0).services.is_empty(), "and it stays ended");
    assert_eq!(ledger.lease_of(&home(4, Some(2)), &mail(), 2003 * MS), Lease::MayBeHeld, "a newer epoch");
    assert_eq!(ledger.lease_of(&home(0, None), &mail(), 0), Lease::Ended, "before the first epoch");
}

#[test]
fn a_leader_that_knows_how_long_earlier_ones_are_silent_waits_no_longer_than_for_the_rest() {
    let state = home(3, Some(1));
    let mut ledger = Ledger::begin(Timing::default(), 1000 * MS, Beginning::Elected);
    ledger.quiet_since(900 * MS);
    assert_eq!(ledger.fresh_until_ns(), 1650 * MS, "what it knew already is not forgotten");
    ledger.quiet_since(500 * MS);
    assert_eq!(ledger.lease_of(&state, &mail(), 1449 * MS), Lease::MayBeHeld);
    assert_eq!(ledger.lease_of(&state, &mail(), 1450 * MS), Lease::Ended);
    ledger.grant(&state, &ask(1), 1440 * MS, 0);
    ledger.quiet_since(0);
    assert_eq!(ledger.lease_of(&state, &mail(), 2389 * MS), Lease::MayBeHeld, "it granted one itself");
    assert_eq!(moment_ago(1000 * MS, 400 * MS), 620 * MS, "another's clock may run 5 % faster");
    assert_eq!(moment_ago(5, 400), 0);
}

#[test]
fn an_address_that_was_taken_away_is_free_as_soon_as_it_is_given_back() {
    let mut state = home(3, Some(1));
    state.address = crate::state::Address { epoch: 7, holder: Some(1) };
    let mut ledger = Ledger::begin(Timing::default(), 0, Beginning::Elected);
    assert_eq!(ledger.grant(&state, &ask(1), 2000 * MS, 0).address, Some(7));
    state.address = crate::state::Address { epoch: 8, holder: None };
    assert_eq!(ledger.lease_of_address(&state, 2001 * MS), Lease::MayBeHeld, "not given back yet");
    let back = |epoch| LeaseRequest { returned_address: Some(epoch), ..ask(1) };
    ledger.take_back(&state, &back(6));
    assert_eq!(ledger.lease_of_address(&state, 2002 * MS), Lease::MayBeHeld, "an older one came back");
    ledger.take_back(&state, &back(7));
    assert_eq!(ledger.lease_of_address(&state, 2003 * MS), Lease::Ended);
    state.address = crate::state::Address { epoch: 9, holder: Some(2) };
    assert_eq!(ledger.grant(&state, &ask(2), 2004 * MS, 0).address, Some(9));
    assert_eq!(ledger.lease_of_address(&state, 2005 * MS), Lease::MayBeHeld);
}

#[test]
fn an_epoch_about_to_be_raised_is_granted_no_more() {
    let state = home(3, Some(1));
    let mut ledger = Ledger::begin(Timing::default(), 0, Beginning::Elected);
    assert!(!ledger.bar(right(), 3, 600 * MS), "it may be held");
    assert!(ledger.bar(right(), 3, 700 * MS));
    assert!(ledger.grant(&state, &ask(1), 701 * MS, 0).services.is_empty());
    assert_eq!(ledger.grant(&home(4, Some(1)), &ask(1), 702 * MS, 0).services.len(), 1);
    ledger.unbar(&right());
    assert_eq!(ledger.grant(&home(4, Some(1)), &ask(1), 703 * MS, 0).services.len(), 1);
}

/// A machine's clock: its own rate and offset over true time, both fixed.
#[derive(Clone, Copy)]
struct Clock {
    rate_permille: u64,
    offset_ns: u64,
}

impl Clock {
    fn at(self, true_ns: u64) -> u64 {
        self.offset_ns + true_ns / 1000 * self.rate_permille
    }
}

/// Where a request is on its way.
enum Stage {
    ToLeader,
    /// At the leader, waiting for its quorum round.
    Confirming {
        term: u64,
        received_ns: u64,
    },
    ToGuard(LeaseGrant),
}

struct Message {
    arrives_ns: u64,
    node: NodeId,
    sent_ns: u64,
    request: LeaseRequest,
    stage: Stage,
}

/// Plays one home for 20 s of true time in steps of 1 ms and asserts after every step that at
/// most one radiator may serve, by a naive account that looks at all guards at once.
struct World {
    rng: StdRng,
    timing: Timing,
    true_ns: u64,
    clocks: BTreeMap<NodeId, Clock>,
    holders: BTreeMap<NodeId, Holder>,
    frozen_until_ns: BTreeMap<NodeId, u64>,
    cut_until_ns: u64,
    cut: NodeId,
    wire: Vec<Message>,
    state: State,
    leader: NodeId,
    term: u64,
    ledger: Ledger,
    /// When a majority last confirmed the present leader, for the voters' refusal.
    confirmed_ns: u64,
    served: u64,
    activations: u64,
    /// A leader that counts leases shorter than it grants them: the account must catch it.
    hasty: bool,
}

impl World {
    fn new(seed: u64, hasty: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let timing = Timing::default();
        let clocks: BTreeMap<NodeId, Clock> = (1..=3)
            .map(|node| {
                let rate_permille = rng.random_range(1000..=1050);
                (node, Clock { rate_permille, offset_ns: rng.random_range(0..1 << 40) })
            })
            .collect();
        let holders = clocks.iter().map(|(n, c)| (*n, Holder::new(*n, timing, c.at(0)))).collect();
        let ledger = Ledger::begin(Self::counted(timing, hasty), clocks[&1].at(0), Beginning::Handed);
        Self {
            rng,
            timing,
            true_ns: 0,
            clocks,
            holders,
            frozen_until_ns: BTreeMap::new(),
            cut_until_ns: 0,
            cut: 1,
            wire: Vec::new(),
            state: home(0, None),
            leader: 1,
            term: 1,
            ledger,
            confirmed_ns: 0,
            served: 0,
            activations: 0,
            hasty,
        }
    }

    fn counted(timing: Timing, hasty: bool) -> Timing {
        if hasty { Timing { lease_ms: timing.lease_ms - 150, ..timing } } else { timing }
    }

    fn frozen(&self, node: NodeId) -> bool {
        self.frozen_until_ns.get(&node).is_some_and(|until| *until > self.true_ns)
    }

    fn apart(&self, a: NodeId, b: NodeId) -> bool {
        self.cut_until_ns > self.true_ns && a != b && (a == self.cut || b == self.cut)
    }

    fn faults(&mut self) {
        if self.rng.random_bool(0.001) {
            let node = self.rng.random_range(1..=3);
            let ms = self.rng.random_range(1..3000);
            self.frozen_until_ns.insert(node, self.true_ns + ms * MS);
        }
        if self.rng.random_bool(0.0008) {
            self.cut = self.rng.random_range(1..=3);
            self.cut_until_ns = self.true_ns + self.rng.random_range(1..4000) * MS;
        }
        if self.rng.random_bool(0.0005) {
            // The guard is killed and comes back with what the page says.
            let node = self.rng.random_range(1..=3);
            let now = self.clocks[&node].at(self.true_ns);
            let old = &self.holders[&node];
            let mut new = Holder::new(node, self.timing, now);
            match old.standing(&right(), now) {
                Standing::Held { epoch, until_ns } => new.resume(right(), epoch, until_ns),
                Standing::Fencing { epoch } => new.resume(right(), epoch, 0),
                Standing::None => {}
            }
            for (name, epoch) in old.request(now).returned {
                new.fenced(&Right::Service(name), epoch);
            }
            self.holders.insert(node, new);
        }
    }

    /// A leader that is cut off or frozen is followed by another, no sooner than the voters allow:
    /// the quickest clock among them has counted election_max_ms since it confirmed the old one.
    fn elect(&mut self) {
        let reachable =
            |w: &Self, n: NodeId| (1..=3).filter(|o| !w.apart(n, *o) && !w.frozen(*o)).count() >= 2;
        if reachable(self, self.leader) && !self.frozen(self.leader) {
            return;
        }
        let refuse_ns = self.timing.election_max_ms * MS * 1000 / 1050;
        let next = (1..=3).find(|n| *n != self.leader && !self.frozen(*n) && reachable(self, *n));
        if let Some(next) = next.filter(|_| self.true_ns >= self.confirmed_ns + refuse_ns) {
            self.leader = next;
            self.term += 1;
            let now = self.clocks[&next].at(self.true_ns);
            self.ledger = Ledger::begin(Self::counted(self.timing, self.hasty), now, Beginning::Elected);
            if self.rng.random_bool(0.7) {
                // A voter that took part in the last round tells how long ago that was, by its own clock.
                let voter = self.clocks[&self.rng.random_range(1..=3)];
                let ago_ns = voter.at(self.true_ns) - voter.at(self.confirmed_ns);
                self.ledger.quiet_since(moment_ago(now, ago_ns));
            }
        }
    }

    fn send(&mut self) {
        for node in 1..=3 {
            if self.frozen(node) || !self.rng.random_bool(0.01) {
                continue;
            }
            let now = self.clocks[&node].at(self.true_ns);
            let request = {
                let holder = self.holders.get_mut(&node).unwrap();
                holder.daemon_heard(now);
                holder.request(now)
            };
            let delay_ms = if self.rng.random_bool(0.1) { 600 } else { 5 };
            let arrives_ns = self.true_ns + self.rng.random_range(0..=delay_ms) * MS;
            self.wire.push(Message { arrives_ns, node, sent_ns: now, request, stage: Stage::ToLeader });
        }
    }

    fn deliver(&mut self) {
        let due = |m: &Message| m.arrives_ns <= self.true_ns;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wire).into_iter().partition(due);
        self.wire = later;
        for mut message in due {
            let node = message.node;
            let receiver = if matches!(message.stage, Stage::ToGuard(_)) { node } else { self.leader };
            if self.apart(node, self.leader) || self.rng.random_bool(0.05) {
                continue;
            }
            if self.frozen(receiver) {
                message.arrives_ns = self.frozen_until_ns[&receiver];
                self.wire.push(message);
                continue;
            }
            let now = self.clocks[&receiver].at(self.true_ns);
            match message.stage {
                Stage::ToLeader => {
                    self.ledger.take_back(&self.state, &message.request);
                    if self.quorum() {
                        // Voters hear the round at this moment at the earliest.
                        self.confirmed_ns = self.true_ns;
                        message.arrives_ns = self.true_ns + self.rng.random_range(0..60) * MS;
                        message.stage = Stage::Confirming { term: self.term, received_ns: now };
                        self.wire.push(message);
                    }
                }
                Stage::Confirming { term, received_ns } if term == self.term => {
                    let mut grant = self.ledger.grant(&self.state, &message.request, received_ns, 0);
                    grant.lease_ms = self.timing.lease_ms;
                    message.arrives_ns = self.true_ns + self.rng.random_range(0..60) * MS;
                    message.stage = Stage::ToGuard(grant);
                    self.wire.push(message);
                }
                Stage::Confirming { .. } => {}
                Stage::ToGuard(grant) => {
                    let changes = self.holders.get_mut(&node).unwrap().granted(message.sent_ns, now, &grant);
                    self.obey(node, &changes);
                }
            }
        }
    }

    fn quorum(&self) -> bool {
        (1..=3).filter(|o| !self.apart(self.leader, *o) && !self.frozen(*o)).count() >= 2
    }

    fn obey(&mut self, node: NodeId, changes: &[Change]) {
        for change in changes {
            if let Change::Fence { right, epoch, .. } = change {
                self.holders.get_mut(&node).unwrap().fenced(right, *epoch);
            }
        }
    }

    fn plan(&mut self) {
        if self.frozen(self.leader) || !self.quorum() || !self.rng.random_bool(0.02) {
            return;
        }
        let now = self.clocks[&self.leader].at(self.true_ns);
        let epoch = self.state.services["mail"].epoch;
        if self.ledger.bar(right(), epoch, now) {
            let to = self.rng.random_range(1..=3);
            let service = self.state.services.get_mut("mail").unwrap();
            service.epoch += 1;
            service.active = Some(to);
            self.activations += 1;
        }
    }

    /// `Err`: two at once, or one that is not the active.
    fn step(&mut self) -> Result<(), String> {
        self.true_ns += MS;
        self.faults();
        self.elect();
        for node in 1..=3 {
            if !self.frozen(node) {
                let now = self.clocks[&node].at(self.true_ns);
                let changes = self.holders.get_mut(&node).unwrap().tick(now, 0);
                self.obey(node, &changes);
            }
        }
        self.send();
        self.deliver();
        self.plan();
        // The page is read by others, so a frozen guard's lease counts until its end.
        let serving: Vec<NodeId> = (1..=3)
            .filter(|node| {
                let now = self.clocks[node].at(self.true_ns);
                matches!(self.holders[node].standing(&right(), now), Standing::Held { .. })
            })
            .collect();
        let active = self.state.services["mail"].active;
        if serving.len() > 1 || serving.first().is_some_and(|one| Some(*one) != active) {
            return Err(format!("at {} ms {serving:?} serve, active is {active:?}", self.true_ns / MS));
        }
        self.served += serving.len() as u64;
        Ok(())
    }
}

#[test]
fn no_two_radiators_hold_a_right_at_once_whatever_happens() {
    let (mut served, mut activations) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, false);
        for _ in 0..20_000 {
            world.step().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        served += world.served;
        activations += world.activations;
    }
    assert!(activations > 300, "only {activations} take-overs were tried");
    assert!(served > 60 * 10_000, "served only {served} ms of {}", 60 * 20_000);
}

#[test]
fn a_leader_that_counts_leases_too_short_is_caught() {
    let caught = |seed| {
        let mut world = World::new(seed, true);
        (0..20_000).any(|_| world.step().is_err())
    };
    assert!((0..60).any(caught), "the account above would let two serve at once");
}
