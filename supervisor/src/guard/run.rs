//! The guard's owner loop: asks, writes the page, fences.

use super::daemon::{Call, Reply, StatusLease, StatusReply};
use super::registry::{Registered, Registry};
use super::socket::{self, Asked};
use super::{GuardOptions, SOCKET_FILE};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::ServiceName;
use thermidor_model::lease::{Change, Holder, Right, Standing};
use thermidor_model::observe::{LeaseGrant, LeaseRequest};
use thermidor_services::address::{Floating, Keeper, Kept};
use thermidor_services::fence::{FenceError, Place};
use thermidor_services::lease_page::{ADDRESS, Held, LeasePage, boottime_ns};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A radiator that holds nothing asks so many times more seldom: its daemon says when there is a lease to be had,
/// and when another leads.
const CALM_EVERY: u32 = 4;
/// Requests on their way at once.
const ASKS_MAX: usize = 8;
/// Calls waiting for the owner loop.
const CALLS_MAX: usize = 32;
/// How long one attempt to empty a cgroup lasts; it is repeated until it succeeds.
const KILL_MAX: Duration = Duration::from_secs(1);
/// Beyond the time between two renewals, so much without a turn is said: it explains a lease that was lost.
const HELD_UP: Duration = Duration::from_millis(200);
const MS: u64 = 1_000_000;

/// Why a guard cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The page cannot be written: nothing may be served here.
    #[error("cannot open the lease page {path}")]
    Page {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The floating address would be nobody's.
    #[error("cannot start the keeper of the floating address")]
    Keeper(#[source] io::Error),
    /// No daemon could ever speak to this guard.
    #[error("cannot listen on {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// Runs the guard until `ending`. `ask` puts a request to the home's leader, wherever that is.
/// When it ends, the page and what it knows stay for the next guard: one that begins
/// before the leases end takes them up, and no connection notices.
pub async fn run<A, F, E>(options: GuardOptions, ask: A, ending: CancellationToken) -> Result<(), GuardError>
where
    A: Fn(LeaseRequest) -> F,
    F: Future<Output = Result<LeaseGrant, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    if options.raise {
        super::raise();
    }
    let mut guard = Guard::begin(options)?;
    let path = guard.options.run_dir.join(SOCKET_FILE);
    let listener = socket::listen(&path).map_err(|source| GuardError::Socket { path, source })?;
    let (send, mut calls) = mpsc::channel::<Asked>(CALLS_MAX);
    // In a set, so that it ends with this future, however that ends.
    let mut accepting = JoinSet::new();
    accepting.spawn(socket::accept(listener, send));
    let mut asks = JoinSet::new();
    let mut renew = tokio::time::interval(Duration::from_millis(guard.options.timing.renew_ms));
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turned_ns = boottime_ns();
    loop {
        // Before anything else, also after a freeze: what has no lease any more is fenced.
        guard.tick();
        turned_ns = guard.say_if_held_up(turned_ns);
        let mut due = guard.until_due();
        if guard.ask_now {
            due = Duration::ZERO;
        }
        tokio::select! {
            biased;
            () = ending.cancelled() => break,
            Some(done) = guard.kills.join_next() => match done {
                Ok(killed) => guard.killed(killed),
                Err(e) => tracing::error!(error = %e, "a killing thread failed; the next sweep begins anew"),
            },
            Some(done) = asks.join_next() => match done {
                Ok((sent_ns, answer)) => guard.answered(sent_ns, answer),
                Err(e) => tracing::error!(error = %e, "a request failed"),
            },
            Some(kept) = guard.keeper.changed() => guard.kept(kept),
            _ = renew.tick() => {
                guard.renew();
                guard.sweep();
            }
            Some((call, reply)) = calls.recv() => {
                // Whoever asked may have gone; what was done is done.
                let _ = reply.send(guard.call(call));
            }
            () = tokio::time::sleep(due) => {}
        }
        if guard.ask_now && asks.len() < ASKS_MAX {
            guard.ask_now = false;
            guard.skipped = 0;
            let sent_ns = boottime_ns();
            let answer = ask(guard.holder.request(sent_ns));
            let ask_max = guard.options.ask_max();
            asks.spawn(async move {
                match tokio::time::timeout(ask_max, answer).await {
                    Ok(answer) => (sent_ns, answer.map_err(|e| e.to_string())),
                    Err(_) => (sent_ns, Err("the leader did not answer in time".to_string())),
                }
            });
        }
    }
    Ok(())
}

/// The outcome of emptying a cgroup.
struct Killed {
    service: ServiceName,
    epoch: u64,
    result: Result<(), FenceError>,
}

struct Guard {
    options: GuardOptions,
    holder: Holder,
    page: LeasePage,
    registry: Registry,
    kills: JoinSet<Killed>,
    /// Services a thread is busy killing.
    killing: std::collections::BTreeSet<ServiceName>,
    keeper: Keeper,
    ask_now: bool,
    /// Renewals let pass since the last request, with nothing to renew.
    skipped: u32,
    answered_ns: Option<u64>,
    unanswered: Option<String>,
    kill_trouble: Option<String>,
    address_trouble: Option<String>,
}

/// BOOTTIME - MONOTONIC: how long the machine has slept. MONOTONIC is read last, so that being
/// preempted in between makes it less, never more.
fn asleep_ns() -> u64 {
    let boot = boottime_ns();
    let mono = clock_gettime(ClockId::Monotonic);
    boot.saturating_sub(mono.tv_sec as u64 * 1_000_000_000 + mono.tv_nsec as u64)
}

fn page_name(right: &Right) -> &str {
    match right {
        Right::Service(name) => name.as_str(),
        Right::Address => ADDRESS,
    }
}

impl Guard {
    fn begin(options: GuardOptions) -> Result<Self, GuardError> {
        let path = GuardOptions::page(&options.run_dir);
        let resumed = LeasePage::resume(&path);
        let (page, left) = resumed.map_err(|source| GuardError::Page { path, source })?;
        let registry = Registry::load(&options.run_dir);
        let now = boottime_ns();
        let mut holder = Holder::new(options.node, options.timing, now);
        for (name, held) in left {
            let right = match ServiceName::new(name.clone()) {
                Ok(service) => Right::Service(service),
                Err(_) if name == ADDRESS => Right::Address,
                Err(e) => {
                    tracing::warn!(error = %e, "a lease of the page is dropped");
                    continue;
                }
            };
            // What an earlier guard ended but perhaps did not live to kill is fenced once more: a lease
            // in the past is due at once.
            let maybe_alive = match &right {
                Right::Service(service) => {
                    registry.services.get(service).is_some_and(|r| r.epoch <= held.epoch)
                }
                Right::Address => true,
            };
            let until_ns = if maybe_alive { held.until_ns.max(1) } else { held.until_ns };
            holder.resume(right, held.epoch, until_ns);
        }
        let resumed = match holder.standing(&Right::Address, now) {
            Standing::Held { epoch, .. } => Some(epoch),
            _ => None,
        };
        let keeper = Keeper::start(registry.address.clone(), resumed).map_err(GuardError::Keeper)?;
        let mut guard = Self {
            options,
            holder,
            page,
            registry,
            kills: JoinSet::new(),
            killing: Default::default(),
            keeper,
            ask_now: true,
            skipped: 0,
            answered_ns: None,
            unanswered: None,
            kill_trouble: None,
            address_trouble: None,
        };
        guard.tick();
        guard.sweep();
        Ok(guard)
    }

    fn tick(&mut self) {
        let changes = self.holder.tick(boottime_ns(), asleep_ns());
        self.obey(changes);
    }

    /// Says so where its last turn is long ago: frozen, or kept waiting for a core. Returns this moment.
    fn say_if_held_up(&self, turned_ns: u64) -> u64 {
        let now = boottime_ns();
        let ms = now.saturating_sub(turned_ns) / MS;
        if ms > self.options.timing.renew_ms + HELD_UP.as_millis() as u64 {
            tracing::warn!("this guard stood still for {ms} ms");
        }
        now
    }

    /// It is time to renew. What is held, and a leader that does not answer, are asked for every time.
    fn renew(&mut self) {
        let calm = self.unanswered.is_none() && self.holder.rights().next().is_none();
        self.skipped = if calm { self.skipped + 1 } else { CALM_EVERY };
        self.ask_now |= self.skipped >= CALM_EVERY;
    }

    fn until_due(&self) -> Duration {
        let due_ns = self.holder.due_ns().unwrap_or(u64::MAX);
        Duration::from_nanos(due_ns.saturating_sub(boottime_ns())).min(Duration::from_secs(1))
    }

    fn answered(&mut self, sent_ns: u64, answer: Result<LeaseGrant, String>) {
        match answer {
            Ok(grant) => {
                if self.unanswered.take().is_some() {
                    tracing::info!("the leader answers again");
                }
                self.answered_ns = Some(self.answered_ns.unwrap_or(0).max(sent_ns));
                let ms = boottime_ns().saturating_sub(sent_ns) / MS;
                if ms > self.options.timing.renew_ms * 2 {
                    tracing::debug!(ms, "an answer took long");
                }
                let changes = self.holder.granted(sent_ns, boottime_ns(), &grant);
                self.obey(changes);
            }
            Err(why) => {
                if self.unanswered.is_none() {
                    tracing::warn!(%why, "no leader answers");
                }
                self.unanswered = Some(why);
            }
        }
    }

    /// Everything lost is ended on the page before the first kill begins.
    fn obey(&mut self, changes: Vec<Change>) {
        for change in &changes {
            let (right, held) = match change {
                Change::Serve { right, epoch, until_ns } => {
                    (right, Held { epoch: *epoch, until_ns: *until_ns })
                }
                Change::Fence { right, epoch, why } => {
                    tracing::warn!(%right, epoch, why, "fencing");
                    (right, Held { epoch: *epoch, until_ns: 0 })
                }
            };
            self.write_page(right, held);
        }
        for change in changes {
            match change {
                Change::Serve { right: Right::Address, epoch, .. } => self.keeper.hold(Some(epoch)),
                Change::Serve { .. } => {}
                Change::Fence { right: Right::Address, .. } => self.keeper.hold(None),
                Change::Fence { right: Right::Service(service), epoch, .. } => self.fence(service, epoch),
            }
        }
    }

    fn write_page(&self, right: &Right, held: Held) {
        if let Err(e) = self.page.set(page_name(right), held) {
            // What cannot be written is not served: an old deadline passes by itself.
            tracing::error!(%right, error = %e, "the lease page cannot be written");
        }
    }

    fn fence(&mut self, service: ServiceName, epoch: u64) {
        match self.registry.services.get(&service) {
            Some(registered) => {
                let place = registered.place.clone();
                self.kill(service, epoch, place);
            }
            None => self.holder.fenced(&Right::Service(service), epoch),
        }
        self.ask_now = true;
    }

    fn kill(&mut self, service: ServiceName, epoch: u64, place: Place) {
        self.killing.insert(service.clone());
        self.kills.spawn_blocking(move || {
            let result = place.kill(KILL_MAX);
            Killed { service, epoch, result }
        });
    }

    fn killed(&mut self, killed: Killed) {
        let Killed { service, epoch, result } = killed;
        self.killing.remove(&service);
        match result {
            Ok(()) => {
                tracing::info!(%service, epoch, "nothing of it runs any more");
                self.kill_trouble = None;
                self.holder.fenced(&Right::Service(service), epoch);
                self.ask_now = true;
            }
            Err(e) => {
                // Not given back: the leader waits for the lease's end. The next sweep tries again.
                let why = chain(&e);
                tracing::error!(%service, epoch, %why, "cannot fence");
                self.kill_trouble = Some(format!("{service}: {why}"));
            }
        }
    }

    /// Keeps the cgroup of everything empty that is registered for an epoch not held: a container
    /// that Docker started too late, one that could not be killed at once, one from before this guard.
    /// Once a newer epoch is held here it is let be: a container keeps its cgroup from start to start, and
    /// the newer one is starting there before it can be registered.
    fn sweep(&mut self) {
        let now = boottime_ns();
        let mut lost = Vec::new();
        for (service, registered) in &self.registry.services {
            let right = Right::Service(service.clone());
            let standing = self.holder.standing(&right, now);
            let served = matches!(standing, Standing::Held { epoch, .. } if epoch >= registered.epoch);
            if self.killing.contains(service) || served {
                continue;
            }
            let fencing = matches!(standing, Standing::Fencing { .. });
            if fencing || !registered.place.is_empty().unwrap_or(false) {
                let epoch = over_when_empty(standing, registered.epoch);
                lost.push((service.clone(), epoch, registered.place.clone()));
            }
        }
        for (service, epoch, place) in lost {
            self.kill(service, epoch, place);
        }
    }

    fn kept(&mut self, kept: Kept) {
        match kept {
            Kept::There => self.address_trouble = None,
            Kept::Gone => {
                self.address_trouble = None;
                if let Standing::Fencing { epoch } = self.holder.standing(&Right::Address, boottime_ns()) {
                    self.holder.fenced(&Right::Address, epoch);
                    self.ask_now = true;
                }
            }
            Kept::Trouble(why) => {
                if self.address_trouble.as_ref() != Some(&why) {
                    tracing::warn!(%why, "the floating address");
                }
                self.address_trouble = Some(why);
            }
        }
    }

    fn call(&mut self, call: Call) -> Reply {
        let now = boottime_ns();
        if call != Call::Status {
            self.holder.daemon_heard(now);
        }
        let done = match call {
            Call::Hello => Ok(()),
            Call::Ask => {
                self.ask_now = true;
                Ok(())
            }
            Call::Starting { service, epoch, container } => self.register(
                service,
                Registered { epoch, place: Place::Container(container), pid: None },
                now,
            ),
            Call::Register { service, epoch, cgroup, pid } => {
                self.register(service, Registered { epoch, place: Place::Cgroup(cgroup), pid }, now)
            }
            Call::Release { service, epoch } => self.release(service, epoch),
            Call::ReleaseAddress { epoch } => {
                let changes = self.holder.give_up(&Right::Address, epoch);
                self.obey(changes);
                Ok(())
            }
            Call::Address { ip, prefix, interface } => {
                let floating = ip.map(|ip| Floating { ip, prefix, interface });
                if self.registry.address != floating {
                    self.registry.address = floating.clone();
                    self.keeper.is(floating);
                }
                self.keep()
            }
            Call::Status => return Reply::Status(self.status(now)),
        };
        done.map_or_else(|why| Reply::Refused { why }, |()| Reply::Done)
    }

    fn register(&mut self, service: ServiceName, new: Registered, now: u64) -> Result<(), String> {
        new.place.check().map_err(|e| e.to_string())?;
        let right = Right::Service(service.clone());
        let refused = Err(format!("{service}: the lease of epoch {} is not held here", new.epoch));
        let held = self.holder.holds(&right, new.epoch, now);
        let old = self.registry.services.get(&service).cloned();
        if let Some(old) = old.filter(|old| *old != new) {
            if !held && (old.epoch > new.epoch || self.holder.holds(&right, old.epoch, now)) {
                return refused; // what rightly runs is not to be forgotten for a stale word
            }
            if !old.place.is_same(&new.place) && !old.place.is_empty().unwrap_or(false) {
                return Err(format!("{service}: something still runs in {}", old.place));
            }
        }
        self.registry.services.insert(service, new);
        self.keep()?;
        if held {
            return Ok(());
        }
        self.sweep();
        refused
    }

    fn release(&mut self, service: ServiceName, epoch: u64) -> Result<(), String> {
        let right = Right::Service(service.clone());
        if let Some(registered) = self.registry.services.get(&service) {
            if registered.epoch > epoch {
                return Err(format!("{service}: epoch {} is registered by now", registered.epoch));
            }
            if !registered.place.is_empty().unwrap_or(false) {
                return Err(format!("{service}: something still runs in {}", registered.place));
            }
        }
        if !self.holder.release(&right, epoch) {
            return Err(format!("{service}: epoch {epoch} is being fenced"));
        }
        if !matches!(self.holder.standing(&right, 0), Standing::Held { .. }) {
            self.write_page(&right, Held { epoch, until_ns: 0 });
        }
        self.registry.services.remove(&service);
        self.ask_now = true;
        self.keep()
    }

    fn keep(&self) -> Result<(), String> {
        self.registry.save(&self.options.run_dir).map_err(|e| format!("cannot note it: {e}"))
    }

    fn status(&self, now: u64) -> StatusReply {
        let lease = |right: &Right| {
            let (epoch, left_ms) = match self.holder.standing(right, now) {
                Standing::Held { epoch, until_ns } => (epoch, until_ns.saturating_sub(now) / MS),
                Standing::Fencing { epoch } => (epoch, 0),
                Standing::None => return None,
            };
            let registered = match right {
                Right::Service(service) => self.registry.services.get(service),
                Right::Address => None,
            };
            Some(StatusLease {
                name: page_name(right).to_string(),
                epoch,
                left_ms,
                cgroup: registered.and_then(|r| r.place.cgroup().map(Path::to_owned)),
                pid: registered.and_then(|r| r.pid),
            })
        };
        let troubles = [&self.kill_trouble, &self.address_trouble];
        let unanswered = self.unanswered.as_ref().map(|why| format!("no leader answers: {why}"));
        StatusReply {
            leases: self.holder.rights().filter_map(lease).collect(),
            daemon_alive: self.holder.daemon_alive(now),
            answered_ago_ms: self.answered_ns.map(|at| now.saturating_sub(at) / MS),
            troubles: troubles.into_iter().flatten().cloned().chain(unanswered).collect(),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The epoch that is over once nothing runs any more in a place registered for `registered`: also the one that is
/// being fenced, in which perhaps nothing was ever started.
fn over_when_empty(standing: Standing, registered: u64) -> u64 {
    match standing {
        Standing::Fencing { epoch } => epoch.max(registered),
        Standing::Held { .. } | Standing::None => registered,
    }
}

#[cfg(test)]
mod sweeping {
    use super::*;

    #[test]
    fn what_is_fenced_is_over_also_where_an_older_epoch_is_registered() {
        assert_eq!(over_when_empty(Standing::Fencing { epoch: 8 }, 2), 8);
        assert_eq!(over_when_empty(Standing::Fencing { epoch: 4 }, 5), 5);
        assert_eq!(over_when_empty(Standing::None, 2), 2);
    }
}
