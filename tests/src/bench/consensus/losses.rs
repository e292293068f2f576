//! The leader is killed amid puts: each put that was answered is read back afterwards, from every
//! member.

use super::home::{Home, HomeDoor, MEMBERS};
use super::load::{Last, value};
use crate::bench::Ground;
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::Outcome;
use thermidor_raft::ProposeError;

/// Callers.
const CALLERS: usize = 32;
/// Connections that they share.
const CONNECTIONS: usize = 8;
/// Between two puts of a caller: the keys, each used once, stay few enough to be read back whole.
const PAUSE: Duration = Duration::from_millis(40);
/// How long they put before the leader is killed.
const BEFORE: Duration = Duration::from_secs(2);
/// How long they put in all.
const TIME: Duration = Duration::from_secs(6);

/// What callers had answered.
#[derive(Default)]
struct Account {
    acknowledged: Last,
    /// Sent, and nobody knows: may be there or not.
    unknown: usize,
    longest_gap: Duration,
}

/// Kills the leader amid puts and starts it again; returns what was acknowledged and is not there.
pub async fn kill_the_leader(ground: &Ground, home: &mut Home) -> Result<Vec<String>> {
    let doors = home.doors(CONNECTIONS)?;
    let end = Instant::now() + TIME;
    let tasks: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(call(doors[caller % doors.len()].clone(), caller, end)))
        .collect();
    tokio::time::sleep(BEFORE).await;
    let leader = home.leader()?;
    home.kill9(leader)?;
    let mut account = Account::default();
    for task in tasks {
        let of_one = task.await??;
        account.acknowledged.extend(of_one.acknowledged);
        account.unknown += of_one.unknown;
        account.longest_gap = account.longest_gap.max(of_one.longest_gap);
    }
    let next = home.leader()?;
    ensure!(next != leader, "{} was killed and leads", MEMBERS[leader]);
    home.start(leader)?;
    ensure!(account.acknowledged.len() > CALLERS, "hardly anything was acknowledged");
    ground.say(format!(
        "leader killed amid {} puts: {} unknown, longest gap {} ms",
        account.acknowledged.len(),
        account.unknown,
        account.longest_gap.as_millis()
    ));
    let mut lost = Vec::new();
    for (index, name) in MEMBERS.iter().enumerate() {
        let differing = home.differing(index, &account.acknowledged).context("read back")?;
        lost.extend(differing.into_iter().map(|key| format!("{key} on {name}")));
    }
    Ok(lost)
}

async fn call(door: Arc<HomeDoor>, caller: usize, end: Instant) -> Result<Account> {
    let mut account = Account::default();
    let mut last = Instant::now();
    let mut number = (caller as u64) << 32;
    while Instant::now() < end {
        number += 1;
        let (key, value) = (format!("lost/{number}"), value(number));
        match door.propose(key.clone(), &value).await {
            Ok(Outcome::Done) => {
                account.longest_gap = account.longest_gap.max(last.elapsed());
                last = Instant::now();
                account.acknowledged.insert(key, vec![value]);
            }
            Ok(outcome) => bail!("a put was refused: {outcome:?}"),
            Err(ProposeError::Unknown(_)) => account.unknown += 1,
            // Surely not done.
            Err(ProposeError::NoLeader(_)) => {}
            Err(e) => return Err(e).context("a put while the leader is killed"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(account)
}
