//! The daemon's end of the guard's socket: tells it that the daemon lives and what to kill,
//! gives leases back, and learns what it fenced.

use super::found::Shared;
use crate::guard::{Call, GuardClient, Reply, StatusReply};
use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::{NodeId, ServiceName, State};
use thermidor_raft::Leadership;
use thermidor_services::lease_page::ADDRESS;
use tokio::sync::{Mutex, watch};
use tracing::warn;

/// How often the daemon says that it lives, and asks how things stand, when nothing has happened.
const HELLO_EVERY: Duration = Duration::from_millis(500);

/// How soon a guard that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// The guard, as the daemon speaks to it. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    run_dir: PathBuf,
    line: Arc<Mutex<Option<GuardClient>>>,
    expected: Arc<Mutex<BTreeMap<ServiceName, Call>>>,
    address: Arc<Mutex<Option<Call>>>,
}

impl Guard {
    /// Connects when it is first spoken to.
    pub fn new(run_dir: PathBuf) -> Self {
        Self { run_dir, line: Arc::default(), expected: Arc::default(), address: Arc::default() }
    }

    /// One call; after an error the next one connects anew and tells everything again.
    async fn call(&self, call: &Call) -> anyhow::Result<Reply> {
        let mut line = self.line.lock().await;
        if line.is_none() {
            let mut fresh = GuardClient::connect(&self.run_dir).await.context("the guard does not answer")?;
            let known = self.expected.lock().await.values().cloned().collect::<Vec<_>>();
            let address = self.address.lock().await.clone();
            for again in known.iter().chain(&address) {
                if let Reply::Refused { why } =
                    fresh.call(again).await.context("the guard does not answer")?
                {
                    warn!(?again, "the guard no longer expects this: {why}");
                }
            }
            *line = Some(fresh);
        }
        let Some(open) = line.as_mut() else { bail!("the guard does not answer") };
        let replied = open.call(call).await;
        if replied.is_err() {
            *line = None;
        }
        replied.context("the guard does not answer")
    }

    async fn done(&self, call: &Call) -> anyhow::Result<()> {
        match self.call(call).await? {
            Reply::Refused { why } => bail!("the guard refuses: {why}"),
            Reply::Done | Reply::Status(_) => Ok(()),
        }
    }

    /// Says which container is about to start in this epoch; where that is refused it must not.
    pub async fn starting(&self, service: &ServiceName, epoch: u64, container: String) -> anyhow::Result<()> {
        self.watch_over(service, Call::Starting { service: service.clone(), epoch, container }).await
    }

    /// Says what to kill when the lease of this epoch ends, once the container runs.
    pub async fn expect(
        &self,
        service: &ServiceName,
        epoch: u64,
        cgroup: PathBuf,
        pid: Option<u32>,
    ) -> anyhow::Result<()> {
        self.watch_over(service, Call::Register { service: service.clone(), epoch, cgroup, pid }).await
    }

    async fn watch_over(&self, service: &ServiceName, call: Call) -> anyhow::Result<()> {
        self.done(&call).await?;
        self.expected.lock().await.insert(service.clone(), call);
        Ok(())
    }

    /// Gives a lease back: nothing of that epoch runs or is attached.
    pub async fn release(&self, service: &ServiceName, epoch: u64) -> anyhow::Result<()> {
        self.done(&Call::Release { service: service.clone(), epoch }).await?;
        self.expected.lock().await.remove(service);
        Ok(())
    }

    /// Says which address floats.
    pub async fn float(&self, ip: Option<std::net::IpAddr>, prefix: u8) -> anyhow::Result<()> {
        let call = Call::Address { ip, prefix, interface: None };
        if self.address.lock().await.as_ref() == Some(&call) {
            return Ok(());
        }
        self.done(&call).await?;
        *self.address.lock().await = Some(call);
        Ok(())
    }

    async fn status(&self) -> anyhow::Result<StatusReply> {
        match self.call(&Call::Status).await? {
            Reply::Status(status) => Ok(status),
            other => bail!("the guard is of another version: {other:?}"),
        }
    }

    /// Says hello and looks what was fenced, for as long as the daemon lives: now and then, and when the rights of
    /// this radiator, its leases or the leader have changed. A new leader is asked at once: a guard that holds
    /// nothing asks seldom, and would go to the old one when it must be quick. Gives the floating address
    /// back at once when the home has taken it from this radiator.
    pub async fn run(
        self,
        node: NodeId,
        mut state: watch::Receiver<Arc<State>>,
        mut leadership: watch::Receiver<Leadership>,
        shared: Shared,
    ) {
        let mut asked = Rights::default();
        let mut known = None;
        loop {
            let rights = Rights::of(&state.borrow_and_update(), node);
            let leader = leadership.borrow_and_update().leader;
            let anew = leader.is_some() && leader != known;
            let hello = if anew || rights.has_more_than(&asked) { Call::Ask } else { Call::Hello };
            let looked = async {
                self.done(&hello).await?;
                asked = rights;
                known = leader.or(known);
                let status = self.status().await?;
                let held = status.leases.iter().find(|l| l.name == ADDRESS && l.left_ms > 0);
                let mine = state.borrow().address.holder == Some(node);
                if let Some(held) = held.filter(|_| !mine) {
                    self.done(&Call::ReleaseAddress { epoch: held.epoch }).await?;
                }
                anyhow::Ok(status)
            };
            match looked.await {
                Ok(status) => note(&shared, status),
                Err(e) => {
                    shared.lock().guard_trouble = Some(format!("{e:#}: is `thermidor guard` running?"));
                    // What it is to be told is still to be told: nothing else is waited for.
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            let others = |s: &Arc<State>| Rights::of(s, node) != asked;
            let another = |l: &Leadership| l.leader.is_some() && l.leader != known;
            // Asked for, and given back, at once: a client waits for it.
            tokio::select! {
                _ = tokio::time::sleep(HELLO_EVERY) => {}
                _ = shared.leases_changed.notified() => {}
                changed = state.wait_for(others) => if changed.is_err() { return },
                changed = leadership.wait_for(another) => if changed.is_err() { return },
            }
        }
    }
}

/// What the applied state gives a radiator the right to: epochs of services and of the address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rights(BTreeMap<String, u64>);

impl Rights {
    fn of(state: &State, node: NodeId) -> Self {
        let active = state.services.iter().filter(|(_, s)| s.active == Some(node));
        let mut rights: BTreeMap<_, _> = active.map(|(name, s)| (name.to_string(), s.epoch)).collect();
        if state.address.holder == Some(node) {
            rights.insert(ADDRESS.to_string(), state.address.epoch);
        }
        Self(rights)
    }

    fn has_more_than(&self, known: &Self) -> bool {
        self.0.iter().any(|(name, epoch)| known.0.get(name).is_none_or(|before| before < epoch))
    }
}

fn note(shared: &Shared, status: StatusReply) {
    let fenced: BTreeMap<ServiceName, u64> = status
        .leases
        .iter()
        .filter(|l| l.left_ms == 0)
        .filter_map(|l| Some((l.name.parse().ok()?, l.epoch)))
        .collect();
    let mut found = shared.lock();
    let news = found.fenced != fenced;
    found.fenced = fenced;
    found.guard_trouble = status.troubles.first().cloned();
    drop(found);
    if news {
        shared.wake.notify_one();
    }
}
