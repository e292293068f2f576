//! A way into the home for processes that must do without the local daemon: guard and volumes.
//! Reads identity and members once, then waits for no disk: a thread of its own looks whether the daemon
//! has written down other ones.

use crate::identity::{Identity, IdentityError};
use crate::line::{Lane, LineError};
use crate::line_pool::{Addresses, LinePool};
use crate::members_file;
use crate::proposing::{Attempt, LOOK_AGAIN, ProposeError, attempt_from, prepared};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thermidor_model::{Command, NodeId, Outcome};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The last known leader has this long before everybody else is asked too.
const LEADER_FIRST: Duration = Duration::from_millis(100);
/// Who has just done something as leader is not asked again whether it leads.
const LEADER_FRESH: Duration = Duration::from_millis(300);
/// A member has this long to say whether it leads.
const WHO_LEADS_MAX: Duration = Duration::from_millis(600);

/// Why a client can't be opened or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// members.json can't be read.
    #[error("members.json can't be read")]
    Members(#[source] std::io::Error),
    /// Nobody answered as leader before the deadline.
    #[error("no leader answered: {0}")]
    NoLeader(String),
    /// The leader answered that it failed.
    #[error("{0}")]
    Failed(String),
}

/// A way into the home.
pub struct HomeClient {
    identity: Arc<Identity>,
    pool: Arc<LinePool>,
    /// The last member that answered as leader; 0: none yet.
    leader: AtomicU64,
    /// When that member last applied a proposal of ours.
    led: Mutex<Option<Instant>>,
}

impl HomeClient {
    /// Reads identity and members of a data directory. Needs a tokio runtime; waits for no disk afterwards.
    pub fn open(data: &Path) -> Result<Self, ClientError> {
        let identity = Identity::load(data)?;
        identity.follow_files(data)?;
        Self::of(Arc::new(identity), data)
    }

    /// The same as somebody whose identity is loaded, and follows its files, already.
    pub fn of(identity: Arc<Identity>, data: &Path) -> Result<Self, ClientError> {
        let addresses = Addresses::default();
        addresses.set(members_file::read(data).map_err(ClientError::Members)?);
        let pool = LinePool::new(&identity, addresses)?;
        Ok(Self { identity, pool, leader: AtomicU64::new(0), led: Mutex::default() })
    }

    /// This radiator's identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Members and their listeners, as known now; none before this radiator's daemon has ever run.
    pub fn members(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.pool.addresses.all()
    }

    /// Members and their listeners, as told by the leader since.
    pub fn set_members(&self, members: BTreeMap<NodeId, SocketAddr>) {
        if !members.is_empty() && self.pool.addresses.all() != members {
            self.pool.addresses.set(members);
        }
    }

    /// The highest generation heard: higher than the identity's means stop and rejoin.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.pool.generation()
    }

    /// The member that last answered as leader.
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    fn others(&self, first: Option<NodeId>) -> Vec<NodeId> {
        self.pool.addresses.all().into_keys().filter(|id| Some(*id) != first).collect()
    }

    /// Asks the leader's handler. The last known leader first, everybody at once when that has not
    /// answered after 100 ms: so the handler may run more than once, and must not mind.
    pub async fn call_leader(
        &self,
        kind: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ClientError> {
        let verb = format!("lead/{kind}");
        let mut last = LineError::NotSent("no member is known".into());
        while Instant::now() < deadline {
            match self.ask_round(&verb, &body, deadline).await {
                Ok((from, answer)) => {
                    self.leader.store(from, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(e) => last = e,
            }
            sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
        }
        Err(match last {
            LineError::Failed(why) => ClientError::Failed(why),
            e => ClientError::NoLeader(e.to_string()),
        })
    }

    /// One round over the members; the first answer counts. A failure is kept as the reason where no
    /// other member answers: a deposed leader may fail while the new one is asked.
    async fn ask_round(
        &self,
        verb: &str,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<(NodeId, Bytes), LineError> {
        let ask = |id: NodeId| async move {
            (id, self.pool.call_hedged(id, Lane::App, verb, body.clone(), deadline).await)
        };
        let first = self.leader();
        let mut asked: FuturesUnordered<_> = first.into_iter().map(ask).collect();
        let mut others = Some(self.others(first)).filter(|others| !others.is_empty());
        if first.is_none() {
            asked.extend(others.take().into_iter().flatten().map(ask));
        }
        let widen = Instant::now() + LEADER_FIRST;
        let mut why = LineError::NotSent("no member is known".into());
        loop {
            tokio::select! {
                answer = asked.next(), if !asked.is_empty() => {
                    let Some((id, answer)) = answer else { continue };
                    match answer {
                        Ok(bytes) => return Ok((id, bytes)),
                        Err(e @ LineError::Failed(_)) => why = e,
                        Err(e) if !matches!(why, LineError::Failed(_)) => why = e,
                        Err(_) => {}
                    }
                    asked.extend(others.take().into_iter().flatten().map(ask));
                }
                () = sleep_until(widen), if others.is_some() => {
                    asked.extend(others.take().into_iter().flatten().map(ask));
                }
                else => return Err(why),
            }
        }
    }

    /// Whether the last known leader applied a proposal so lately that it need not be asked.
    fn leads_surely(&self) -> bool {
        let led = *self.led.lock().unwrap_or_else(PoisonError::into_inner);
        led.is_some_and(|at| at.elapsed() < LEADER_FRESH)
    }

    fn note_led(&self, at: Option<Instant>) {
        *self.led.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Proposes a command. The leader is found by a question without effect, unless it has just applied
    /// another; the command is then sent once, and again only where it surely was not applied.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Outcome, ProposeError> {
        let (_, bytes) = prepared(command)?;
        let mut last = String::from("no member is known");
        let mut sure = self.leads_surely();
        while Instant::now() < deadline {
            let leader = match self.leader().filter(|_| sure) {
                Some(leader) => leader,
                None => {
                    let until = deadline.min(Instant::now() + WHO_LEADS_MAX);
                    match self.ask_round("home/leader", &Bytes::new(), until).await {
                        Ok((leader, _)) => leader,
                        Err(e) => {
                            last = e.to_string();
                            sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                            continue;
                        }
                    }
                }
            };
            self.leader.store(leader, Ordering::Relaxed);
            let answer = self.pool.call(leader, Lane::App, "home/propose", bytes.clone(), deadline).await;
            let attempt = attempt_from(answer);
            self.note_led(matches!(attempt, Attempt::Over(Ok(_))).then(Instant::now));
            match attempt {
                Attempt::Over(result) => return result,
                Attempt::Elsewhere(next, why) => {
                    last = why;
                    sure = next.is_some();
                    if let Some(next) = next {
                        self.leader.store(next, Ordering::Relaxed);
                    }
                    sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                }
            }
        }
        Err(ProposeError::NoLeader(last))
    }
}
