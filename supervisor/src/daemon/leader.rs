//! The leader's loop: observe -> plan -> propose. Telemetry and grants stay in memory; a leader
//! that is new knows nothing, and the planner knows that it knows nothing.

use super::within;
use crate::api::view::LeaderView;
use crate::clock::unix_ms;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermidor_model::lease::{Beginning, Ledger, Right};
use thermidor_model::observe::{Lease, LeaseGrant, LeaseRequest, Observed, Report};
use thermidor_model::placement::{Action, Now, Reason, plan};
use thermidor_model::{Command, NodeId, Outcome, Proposal, ServiceName, State};
use thermidor_raft::{Leadership, Node};
use thermidor_services::lease_page::boottime_ns;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// How often the leader looks, at least, while something is under way.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The same while the home is at rest: nothing to be done, every service in its place, everybody heard.
const LOOK_AT_REST: Duration = Duration::from_millis(200);

/// At rest nobody has been silent for longer, ms: together with [`LOOK_AT_REST`] that is less than any silence
/// that the planner acts upon.
const REST_SILENT_MAX_MS: u64 = 250;

/// A leadership is at rest no sooner, ms: what it finds out about earlier ones comes within that time.
const REST_AFTER_MS: u64 = 5_000;

/// The same while another leads: its becoming leader wakes it.
const FOLLOWING: Duration = Duration::from_secs(5);

/// How long an action that was not done is left alone.
const AGAIN: Duration = Duration::from_millis(100);

/// How long one proposal may take before the leader looks again.
const PROPOSE_MAX: Duration = Duration::from_secs(2);

/// How long a change of the voters may take: a newcomer catches up first.
const VOTERS_MAX: Duration = Duration::from_secs(10);

/// A leader that no majority has answered for so long is none to people, ms.
const QUORUM_SILENT_MAX_MS: u64 = 2_000;

/// A proof that took longer is worth a line to whoever looks for a lost lease, ms.
const SLOW_PROOF_MS: u64 = 150;

/// A report older than this is none.
const REPORT_MAX_NS: u64 = 2_000_000_000;

/// What a leader keeps in memory while it leads.
struct Book {
    /// The leadership it belongs to, by its beginning.
    since_ns: u64,
    ledger: Ledger,
    reports: BTreeMap<NodeId, (Report, u64)>,
    reasons: BTreeMap<ServiceName, Reason>,
    /// Actions that were not done, and when.
    failed: Vec<(Action, Instant)>,
    /// The last look found nothing to do and nothing that may become so by mere waiting.
    at_rest: bool,
}

impl Book {
    fn of(node: &Node, since_ns: u64, beginning: Beginning) -> Self {
        let ledger = Ledger::begin(node.state().borrow().timing, since_ns, beginning);
        Self {
            since_ns,
            ledger,
            reports: BTreeMap::new(),
            reasons: BTreeMap::new(),
            failed: Vec::new(),
            at_rest: false,
        }
    }
}

/// The leader's side of a daemon; idle while another leads.
#[derive(Clone)]
pub struct Leader {
    node: Node,
    book: Arc<Mutex<Book>>,
    wake: Arc<Notify>,
    /// Held while the voters change or the leadership is handed on: that may take seconds, in which a
    /// failover must not wait.
    membership: Arc<tokio::sync::Mutex<()>>,
}

impl Leader {
    /// A leader's desk on this member.
    pub fn new(node: Node) -> Self {
        let book = Book::of(&node, 0, Beginning::Handed);
        Self { node, book: Arc::new(Mutex::new(book)), wake: Arc::default(), membership: Arc::default() }
    }

    /// The book of the present leadership; a new leadership begins with an empty one.
    fn book(&self, leadership: &Leadership) -> MutexGuard<'_, Book> {
        // A panic while it was held can only have come from a plan; the book itself is whole.
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.since_ns != leadership.since_boottime_ns {
            let beginning = if leadership.by_election { Beginning::Elected } else { Beginning::Handed };
            *book = Book::of(&self.node, leadership.since_boottime_ns, beginning);
        }
        if let Some(quiet_ns) = self.node.quiet_since_ns(leadership) {
            book.ledger.quiet_since(quiet_ns);
        }
        book
    }

    fn leadership(&self) -> Result<Leadership, String> {
        let leadership = self.node.leadership().borrow().clone();
        if leadership.is_me { Ok(leadership) } else { Err("not the leader".into()) }
    }

    /// Answers a guard: grants what the applied state says, after a quorum round begun after the request came.
    pub async fn grant(&self, request: LeaseRequest) -> Result<LeaseGrant, String> {
        let before = self.leadership()?;
        let received_ns = boottime_ns();
        let only_renews = {
            let state = self.node.state().borrow().clone();
            let mut book = self.book(&before);
            if book.ledger.take_back(&state, &request) {
                self.wake.notify_one();
            }
            book.ledger.only_renews(&state, request.node)
        };
        // What is granted first begins with the answer; a renewal is one of several under way.
        let proven = match only_renews {
            true => self.node.unhurried_barrier().await,
            false => self.node.barrier().await,
        };
        let ms = boottime_ns().saturating_sub(received_ns) / 1_000_000;
        if ms > SLOW_PROOF_MS || proven.is_err() {
            debug!(guard = request.node, ms, only_renews, ?proven, "a proof of leadership took long");
        }
        proven.map_err(|e| e.to_string())?;
        let leadership = self.leadership()?;
        if leadership.since_boottime_ns != before.since_boottime_ns {
            return Err("leadership changed meanwhile".into());
        }
        let state = self.node.state().borrow().clone();
        // Counted from when it was received, which is later than when its guard sent it: never too short.
        Ok(self.book(&leadership).ledger.grant(&state, &request, received_ns, unix_ms()))
    }

    /// Takes a radiator's report.
    pub fn report(&self, report: Report) -> Result<(), String> {
        let leadership = self.leadership()?;
        let mut book = self.book(&leadership);
        let news = book.reports.get(&report.node).is_none_or(|(old, _)| differs(old, &report));
        book.reports.insert(report.node, (report, boottime_ns()));
        drop(book);
        if news {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a member out for good: its vote first, then the member.
    pub async fn leave(&self, node: NodeId) -> Result<(), String> {
        let leadership = self.leadership()?;
        let mut after = self.node.state().borrow().as_ref().clone();
        let leave = Proposal { at_ms: unix_ms(), command: Command::Leave { node } };
        if let Outcome::Refused(refusal) = after.apply(&leave) {
            return Err(refusal.to_string());
        }
        let voters = thermidor_model::membership::voters(&after, &self.observe(&leadership), &after.timing);
        self.node.leave(node, voters, within(VOTERS_MAX)).await.map_err(|e| e.to_string())
    }

    /// What the leader knows, for people.
    pub fn view(&self) -> Result<LeaderView, String> {
        let leadership = self.leadership()?;
        // A leader that is cut off from the others goes on calling itself one.
        let silent_ms = self.node.quorum_silent_ms().filter(|_| leadership.voters.len() > 1);
        if silent_ms.is_some_and(|ms| ms > QUORUM_SILENT_MAX_MS) {
            return Err("no majority answers".into());
        }
        let observed = self.observe(&leadership);
        if !thermidor_model::membership::has_quorum(&observed) {
            return Err("a majority of the voters is silent".into());
        }
        let reasons = self.book(&leadership).reasons.clone();
        let warning = thermidor_model::membership::words(&self.node.state().borrow(), &observed);
        Ok(LeaderView {
            warning,
            leader: observed.leader,
            reports: observed.reports,
            silent_ms: observed.silent_ms,
            leading_ms: observed.leading_ms,
            voters: observed.voters,
            reasons,
        })
    }

    fn observe(&self, leadership: &Leadership) -> Observed {
        let now = boottime_ns();
        let state = self.node.state().borrow().clone();
        let mut silent_ms = self.node.silent_ms();
        let book = self.book(leadership);
        for (node, (_, at)) in &book.reports {
            let ms = now.saturating_sub(*at) / 1_000_000;
            silent_ms.entry(*node).and_modify(|s| *s = (*s).min(ms)).or_insert(ms);
        }
        silent_ms.insert(self.node.id(), 0);
        let fresh = book.reports.iter().filter(|(_, (_, at))| now.saturating_sub(*at) < REPORT_MAX_NS);
        Observed {
            leader: self.node.id(),
            reports: fresh.map(|(n, (r, _))| (*n, r.clone())).collect(),
            silent_ms,
            leases: state
                .services
                .keys()
                .map(|s| (s.clone(), book.ledger.lease_of(&state, s, now)))
                .collect(),
            address_lease: book.ledger.lease_of_address(&state, now),
            address_given_back: book.ledger.address_given_back(&state),
            voters: leadership.voters.clone(),
            leading_ms: now.saturating_sub(leadership.since_boottime_ns) / 1_000_000,
        }
    }

    /// Looks, plans and proposes, for as long as the daemon lives.
    pub async fn run(self) {
        let mut state = self.node.state();
        let mut leadership = self.node.leadership();
        loop {
            tokio::select! {
                _ = tokio::time::sleep(self.look_in()) => {}
                _ = self.wake.notified() => {}
                changed = state.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
            }
            if let Ok(leading) = self.leadership() {
                self.look(&leading).await;
            }
        }
    }

    /// When to look again: at the end of the next lease, if that comes first.
    fn look_in(&self) -> Duration {
        let Ok(leading) = self.leadership() else { return FOLLOWING };
        let now = boottime_ns();
        let book = self.book(&leading);
        let pause = if book.at_rest { LOOK_AT_REST } else { LOOK_EVERY };
        let end = book.ledger.next_end_ns(now);
        end.map_or(pause, |end| Duration::from_nanos(end - now).min(pause))
    }

    async fn look(&self, leadership: &Leadership) {
        let state: Arc<State> = self.node.state().borrow().clone();
        let observed = self.observe(leadership);
        let plan = plan(&state, &observed, now());
        let failed = {
            let mut book = self.book(leadership);
            for (service, reason) in &plan.reasons {
                if book.reasons.get(service).is_none_or(|old| old.sentence != reason.sentence) {
                    info!(%service, "{}", reason.sentence);
                }
            }
            book.reasons = plan.reasons;
            book.failed.retain(|(_, at)| at.elapsed() < AGAIN);
            book.at_rest = plan.actions.is_empty() && book.failed.is_empty() && is_at_rest(&state, &observed);
            book.failed.clone()
        };
        let due = plan.actions.into_iter().filter(|action| failed.iter().all(|(known, _)| known != action));
        let (commands, membership): (Vec<_>, Vec<_>) = due.partition(|a| matches!(a, Action::Propose(_)));
        if let (false, Ok(turn)) = (membership.is_empty(), self.membership.clone().try_lock_owned()) {
            let (this, leadership) = (self.clone(), leadership.clone());
            tokio::spawn(async move {
                for action in membership {
                    this.execute(&leadership, action).await;
                }
                drop(turn);
            });
        }
        join_all(commands.into_iter().map(|action| self.execute(leadership, action))).await;
    }

    /// Keeps an epoch from being granted while a command is under way that rests on its lease having ended.
    fn bar(&self, leadership: &Leadership, action: &Action) -> Option<(Right, bool)> {
        let state = self.node.state().borrow().clone();
        let (right, epoch) = match action {
            Action::Propose(Command::Activate { service, epoch_was, .. }) => {
                state.services.get(service)?.active?;
                (Right::Service(service.clone()), *epoch_was)
            }
            // Taking it from someone gives it to nobody: that rests on no lease having ended.
            Action::Propose(Command::HoldAddress { epoch_was, to: Some(_) }) => (Right::Address, *epoch_was),
            _ => return None,
        };
        let ended = self.book(leadership).ledger.bar(right.clone(), epoch, boottime_ns());
        Some((right, ended))
    }

    async fn execute(&self, leadership: &Leadership, action: Action) {
        let barred = self.bar(leadership, &action);
        if let Some((right, false)) = &barred {
            info!("{right} may be held after all: looking again");
            return;
        }
        let failed = match &action {
            Action::Propose(command) => {
                match self.node.propose_as_leader(command.clone(), within(PROPOSE_MAX)).await {
                    Ok(Outcome::Refused(refusal)) => {
                        if let Some((right, _)) = &barred {
                            self.book(leadership).ledger.unbar(right);
                        }
                        Some(refusal.to_string())
                    }
                    Ok(_) => None,
                    Err(e) => Some(e.to_string()),
                }
            }
            Action::SetVoters(voters) => {
                self.node.set_voters(voters.clone(), within(VOTERS_MAX)).await.err().map(|e| e.to_string())
            }
            Action::TransferLeader(to) => {
                self.node.transfer_leader(*to, within(PROPOSE_MAX)).await.err().map(|e| e.to_string())
            }
        };
        if let Some(why) = failed {
            // A later look computes it anew from what is true then.
            warn!(?action, "not done: {why}");
            self.book(leadership).failed.push((action, Instant::now()));
        }
    }
}

/// Whether every service and the address are held where they are to be and every member was heard just now.
fn is_at_rest(state: &State, observed: &Observed) -> bool {
    let heard = |node: &NodeId| observed.silent_ms.get(node).is_some_and(|ms| *ms <= REST_SILENT_MAX_MS);
    let held = |lease: &Lease| *lease == Lease::MayBeHeld;
    // A home that was recovered elsewhere is at rest once nothing is active.
    let stands_down = state.stands_down().is_some();
    observed.leading_ms > REST_AFTER_MS
        && state.members.keys().all(heard)
        && state.services.values().all(|service| service.active.is_some() != stands_down)
        && (stands_down || observed.leases.values().all(held))
        && (state.address.holder.is_none() || held(&observed.address_lease))
}

/// Whether a report says something that the planner should look at now rather than soon.
fn differs(old: &Report, new: &Report) -> bool {
    let replicas =
        |r: &Report| r.replicas.iter().map(|(n, v)| (n.clone(), v.state.clone())).collect::<Vec<_>>();
    old.images != new.images || old.instances != new.instances || replicas(old) != replicas(new)
}

/// The wall clock as the planner wants it.
pub fn now() -> Now {
    let zoned = jiff::Zoned::now();
    let minute_of_day = zoned.hour() as u16 * 60 + zoned.minute() as u16;
    Now { unix_ms: zoned.timestamp().as_millisecond().max(0) as u64, minute_of_day }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::serving_home;

    #[test]
    fn a_home_is_at_rest_only_while_everything_is_in_its_place_and_everybody_was_just_heard() {
        let state = serving_home(3, 1);
        let rest = Observed {
            leader: 1,
            silent_ms: [(1, 0), (2, 40), (3, 90)].into(),
            leases: state.services.keys().map(|s| (s.clone(), Lease::MayBeHeld)).collect(),
            leading_ms: 60_000,
            ..Observed::default()
        };
        assert!(is_at_rest(&state, &rest));
        let but = |change: fn(&mut State, &mut Observed)| {
            let (mut state, mut observed) = (state.clone(), rest.clone());
            change(&mut state, &mut observed);
            is_at_rest(&state, &observed)
        };
        assert!(!but(|_, o| o.silent_ms.extend([(3, 300)])), "one is silent");
        assert!(!but(|_, o| o.silent_ms.retain(|node, _| *node != 2)), "one was never heard");
        assert!(!but(|_, o| o.leading_ms = 3_000), "it has just begun to lead");
        assert!(
            !but(|_, o| o.leases.values_mut().for_each(|lease| *lease = Lease::Ended)),
            "a lease has ended"
        );
        assert!(
            !but(|s, _| s.services.values_mut().for_each(|service| service.active = None)),
            "nobody serves"
        );
        let holder = |s: &mut State, o: &mut Observed| {
            s.address.holder = Some(1);
            o.address_lease = Lease::Ended;
        };
        assert!(!but(holder), "the address's lease has ended");
        let outlived = |s: &mut State, o: &mut Observed| {
            let from = thermidor_model::name::HomeName::new("alpes").unwrap();
            let command = Command::StandDown { generation: 2, since_ms: 0, from };
            s.apply(&Proposal { at_ms: 0, command });
            o.leases.values_mut().for_each(|lease| *lease = Lease::Ended);
        };
        assert!(!but(outlived), "its services are stopping");
        let stopped = |s: &mut State, o: &mut Observed| {
            let from = thermidor_model::name::HomeName::new("alpes").unwrap();
            let command = Command::StandDown { generation: 2, since_ms: 0, from };
            s.apply(&Proposal { at_ms: 0, command });
            s.services.values_mut().for_each(|service| service.active = None);
            o.leases.values_mut().for_each(|lease| *lease = Lease::Ended);
        };
        assert!(but(stopped), "a home that stands down has nothing left to do");
    }
}
