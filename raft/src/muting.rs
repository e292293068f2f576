//! A leader whom no majority answers falls silent for a while, so that the others may elect another: where its
//! messages arrive and the answers do not (a one-way cut) they would follow it for ever. openraft can do so by itself
//! (`quorum_loss_probe_interval`), but no later than a leader's lease after the last answer: sooner than a leader
//! that was frozen for 400 ms has asked again.

use crate::clock::elapsed;
use crate::types::Raft;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use thermidor_model::timing::Timing;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often a silent leader looks whether it has been answered or deposed.
const SILENT_LOOK: Duration = Duration::from_millis(50);

/// Whether this member, as leader, is silent now.
#[derive(Clone, Default)]
pub(crate) struct Muted(Arc<AtomicBool>);

impl Muted {
    pub(crate) fn is_silent(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// When to be silent.
#[derive(Clone, Copy)]
struct Rhythm {
    /// So long without a majority's answer are borne.
    patience: Duration,
    /// Then it is silent for so long, asks for so long, and so on. Long enough for an election.
    period: Duration,
}

impl Rhythm {
    fn of(timing: &Timing) -> Self {
        Self {
            patience: Duration::from_millis(timing.election_max_ms * 2),
            period: Duration::from_millis(timing.election_max_ms * 2 + timing.election_min_ms),
        }
    }

    /// Whether it is silent that long after the last answer, and for how long that does not change.
    fn at(&self, unanswered: Duration) -> (bool, Duration) {
        let Some(beyond) = unanswered.checked_sub(self.patience) else {
            return (false, self.patience - unanswered);
        };
        let period = self.period.as_nanos().max(1);
        let left = period - beyond.as_nanos() % period;
        let left = Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX));
        ((beyond.as_nanos() / period).is_multiple_of(2), left)
    }
}

/// Watches for as long as the member runs.
pub(crate) fn start(raft: Raft, timing: &Timing, stop: CancellationToken) -> Muted {
    let muted = Muted::default();
    let watching = watch(raft, Rhythm::of(timing), muted.clone());
    tokio::spawn(stop.run_until_cancelled_owned(watching));
    muted
}

async fn watch(raft: Raft, rhythm: Rhythm, muted: Muted) {
    let metrics = raft.metrics();
    let mut server = raft.server_metrics();
    // Since when it leads, in which term.
    let mut reign: Option<(u64, Instant)> = None;
    loop {
        let unanswered = {
            let now = metrics.borrow_watched();
            let others = now.membership_config.voter_ids().any(|id| id != now.id);
            match now.state == ServerState::Leader && others {
                false => None,
                true => {
                    let began = match reign {
                        Some((term, began)) if term == now.current_term => began,
                        _ => Instant::now(),
                    };
                    reign = Some((now.current_term, began));
                    let answered = now.last_quorum_acked.map(|at| elapsed(&at));
                    Some(answered.map_or(began.elapsed(), |ago| ago.min(began.elapsed())))
                }
            }
        };
        let Some(unanswered) = unanswered else {
            reign = None;
            set(&raft, &muted, false);
            if server.changed().await.is_err() {
                return;
            }
            continue;
        };
        let (silent, left) = rhythm.at(unanswered);
        set(&raft, &muted, silent);
        // While it is silent an answer that was on its way may still come, and another may be elected.
        let look = if silent { left.min(SILENT_LOOK) } else { left };
        sleep(look).await;
    }
}

fn set(raft: &Raft, muted: &Muted, silent: bool) {
    if muted.0.swap(silent, Relaxed) != silent {
        raft.runtime_config().heartbeat(!silent);
        let said = if silent {
            "no majority answers this leader: it is silent for a while"
        } else {
            "it asks again"
        };
        tracing::info!("{said}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_leader_bears_a_freeze_and_then_leaves_room_for_an_election() {
        let rhythm = Rhythm::of(&Timing::default());
        assert_eq!(rhythm.at(ms(0)), (false, ms(600)));
        assert_eq!(rhythm.at(ms(450)), (false, ms(150)), "frozen for 400 ms, and a heartbeat");
        assert_eq!(rhythm.at(ms(600)), (true, ms(750)));
        assert_eq!(rhythm.at(ms(1349)), (true, ms(1)));
        assert_eq!(rhythm.at(ms(1350)), (false, ms(750)), "perhaps it is answered again");
        assert_eq!(rhythm.at(ms(2100)), (true, ms(750)));
    }

    #[test]
    fn a_silence_is_longer_than_an_election_takes() {
        let timing = Timing::default();
        // A follower waits for a lease and a random time, which ends at election_max_ms.
        assert!(Rhythm::of(&timing).period >= ms(timing.election_max_ms * 2));
    }
}
